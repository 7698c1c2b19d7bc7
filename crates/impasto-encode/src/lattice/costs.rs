//! Costs of integers by class, before the tables of the tensor are known.

use impasto_codec::Kind;
use impasto_codec::class::class;
use impasto_codec::rans::{escape_code, symbol};
use impasto_codec::tables::{COST_ONE, ESCAPE, parametric, symbol_cost};
use impasto_core::varint;

/// Number of classes of kind lattice.
pub const CLASSES: usize = Kind::Lattice.max_class() as usize + 1;
/// Magnitudes with a table entry; costs of larger ones are computed.
const MAGNITUDES: usize = 256;
/// The parametric shape used for all tensors: between the Gaussian and the heavier tails.
pub const TYPICAL: u8 = 1;

/// Costs by class and magnitude, in units of 2^-16 bit, averaged over both signs (those of large ones are not).
pub struct Costs {
    frequencies: Vec<[u64; impasto_codec::tables::SYMBOLS]>,
    table: Vec<[u32; MAGNITUDES]>,
}

/// Classes by which an integer's class may be shifted, up or down.
pub const REACH: usize = 3;
/// Shifts from -[`REACH`] to [`REACH`], and one more that has no meaning and makes a vector of eight.
pub const SHIFTS: usize = 2 * REACH + 2;

/// Costs by magnitude and class, such that those of all shifts of a class are neighbours.
pub struct ByMagnitude<'a> {
    costs: &'a Costs,
    /// The class at index `i` is `i - 2 * REACH`, clamped to the valid ones.
    table: Vec<[u32; CLASSES + 4 * REACH + 1]>,
}

impl ByMagnitude<'_> {
    /// Adds to each sum the cost of `z` in class `t` plus the shift, clamped to the valid classes. Costs of at most 256
    /// integers fit in a sum.
    #[inline(always)]
    pub fn add(&self, sums: &mut [u32; SHIFTS], t: i32, z: i32) {
        // Beyond these classes, all shifts are clamped to the same one.
        let first = (t + REACH as i32).clamp(0, (CLASSES + 2 * REACH) as i32 - 1) as usize;
        match self.table.get(z.unsigned_abs() as usize) {
            Some(costs) => {
                let costs: &[u32; SHIFTS] = costs[first..first + SHIFTS].try_into().expect("that many");
                sums.iter_mut().zip(costs).for_each(|(sum, cost)| *sum += cost);
            }
            None => self.add_large(sums, t, z),
        }
    }

    #[cold]
    fn add_large(&self, sums: &mut [u32; SHIFTS], t: i32, z: i32) {
        for (sum, shift) in sums.iter_mut().zip(-(REACH as i32)..) {
            *sum += self.costs.exact((t + shift).clamp(0, CLASSES as i32 - 1) as usize, z) as u32;
        }
    }
}

impl Costs {
    /// Returns the costs under the parametric shape that fits most tensors best.
    pub fn typical() -> Costs {
        let dearest = 64 * COST_ONE;
        let tables = parametric(Kind::Lattice, TYPICAL).unwrap_or_default();
        let frequencies = tables.iter().map(|f| f.0.map(|f| symbol_cost(f).unwrap_or(dearest))).collect();
        let mut costs = Costs { frequencies, table: vec![] };
        let both = |t: usize, a: usize| (costs.exact(t, a as i32) + costs.exact(t, -(a as i32))) / 2;
        let table = (0..CLASSES).map(|t| std::array::from_fn(|a| both(t, a) as u32)).collect();
        costs.table = table;
        costs
    }

    fn exact(&self, t: usize, z: i32) -> u64 {
        let class = class(Kind::Lattice, t as i32, 0);
        let (s, _) = symbol(class, z);
        let escaped = if s == ESCAPE { 8 * varint::len(escape_code(Kind::Lattice, z)) as u64 } else { 0 };
        self.frequencies[class.table][s] + (u64::from(class.low_bits) + escaped) * COST_ONE
    }

    /// Returns the costs in a layout for sums over [`SHIFTS`] neighbouring classes.
    pub fn by_magnitude(&self) -> ByMagnitude<'_> {
        let class = |at: usize| at.saturating_sub(2 * REACH).min(CLASSES - 1);
        let row = |size: usize| std::array::from_fn(|at| self.table[class(at)][size]);
        ByMagnitude { costs: self, table: (0..MAGNITUDES).map(row).collect() }
    }

    /// For each class and magnitude `a`, returns how many bits `a - 1` is cheaper than `a`; 0 if it is not, or if `a`
    /// is 0.
    pub fn savings(&self) -> Vec<[f32; MAGNITUDES]> {
        let step = |costs: &[u32; MAGNITUDES], a: usize| match a {
            0 => 0.0,
            _ => (f64::from(costs[a]) - f64::from(costs[a - 1])) as f32 / COST_ONE as f32,
        };
        self.table.iter().map(|costs| std::array::from_fn(|a| step(costs, a).max(0.0))).collect()
    }

    /// Returns the mean square of the integers of each class.
    pub fn mean_squares(&self) -> Vec<f64> {
        let mean = |t: usize| {
            let class = class(Kind::Lattice, t as i32, 0);
            // The relative frequency of a symbol is 2^-cost.
            let weights = self.frequencies[class.table].map(|c| crate::arithmetic::exp2(-(c as f64) / 65536.0));
            let width = f64::from(1u32 << class.low_bits);
            let square = |s: usize| ((s as f64 - 31.0) * width).powi(2);
            let inside: f64 = (0..ESCAPE).map(|s| weights[s] * square(s)).sum();
            inside / weights[..ESCAPE].iter().sum::<f64>() + (width * width - 1.0) / 12.0
        };
        (0..CLASSES).map(mean).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_over_shifts_are_those_of_the_costs() {
        let costs = Costs::typical();
        let by_magnitude = costs.by_magnitude();
        let z = [0, 1, -1, 7, -80, 255, -256, 300, i32::MAX, i32::MIN + 1];
        for t in [-1000, -4, -3, -2, 0, 5, CLASSES as i32 - 2, CLASSES as i32 + 2, CLASSES as i32 + 3, 1000] {
            let mut sums = [0; SHIFTS];
            z.iter().for_each(|&z| by_magnitude.add(&mut sums, t, z));
            for (shift, sum) in (-(REACH as i32)..=REACH as i32).zip(sums) {
                let class = (t + shift).clamp(0, CLASSES as i32 - 1) as usize;
                let cost = |&z: &i32| match costs.table[class].get(z.unsigned_abs() as usize) {
                    Some(&cost) => u64::from(cost),
                    None => costs.exact(class, z),
                };
                assert_eq!(u64::from(sum), z.iter().map(cost).sum::<u64>(), "class {t}, shift {shift}");
            }
        }
    }
}
