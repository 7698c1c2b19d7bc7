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
const TYPICAL: u8 = 1;

/// Costs by class and magnitude, in units of 2^-16 bit, averaged over both signs.
pub struct Costs {
    frequencies: Vec<[u64; impasto_codec::tables::SYMBOLS]>,
    table: Vec<[u32; MAGNITUDES]>,
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

    /// Returns the cost of `z` in class `t`, in units of 2^-16 bit.
    pub fn of(&self, t: usize, z: i32) -> u64 {
        match self.table[t].get(z.unsigned_abs() as usize) {
            Some(&cost) => u64::from(cost),
            None => self.exact(t, z),
        }
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
