//! What an integer costs under a class, before the tables of its tensor are known.

use impasto_codec::Kind;
use impasto_codec::class::class;
use impasto_codec::rans::{escape_code, symbol};
use impasto_codec::tables::{COST_ONE, ESCAPE, parametric, symbol_cost};
use impasto_core::varint;

/// Classes of kind lattice.
pub const CLASSES: usize = Kind::Lattice.max_class() as usize + 1;
/// Magnitudes that have an entry; larger ones are computed.
const MAGNITUDES: usize = 256;
/// The shape that stands for all: between the Gaussian and the heavier tails.
const TYPICAL: u8 = 1;

/// Costs in 2^-16 bit by class and magnitude, those of both signs averaged.
pub struct Costs {
    frequencies: Vec<[u64; impasto_codec::tables::SYMBOLS]>,
    table: Vec<[u32; MAGNITUDES]>,
}

impl Costs {
    /// Of the parametric shape that fits most tensors best.
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

    /// Cost of `z` in class `t`, in 2^-16 bit.
    pub fn of(&self, t: usize, z: i32) -> u64 {
        match self.table[t].get(z.unsigned_abs() as usize) {
            Some(&cost) => u64::from(cost),
            None => self.exact(t, z),
        }
    }

    /// For each class and magnitude `a`, how much cheaper `a - 1` is than `a`, in bits (0 for `a` of 0).
    pub fn savings(&self) -> Vec<[f32; MAGNITUDES]> {
        let step = |costs: &[u32; MAGNITUDES], a: usize| match a {
            0 => 0.0,
            _ => (f64::from(costs[a]) - f64::from(costs[a - 1])) as f32 / COST_ONE as f32,
        };
        self.table.iter().map(|costs| std::array::from_fn(|a| step(costs, a).max(0.0))).collect()
    }

    /// Mean square of the integers of each class.
    pub fn mean_squares(&self) -> Vec<f64> {
        let mean = |t: usize| {
            let class = class(Kind::Lattice, t as i32, 0);
            // 2048 slots shared out: a frequency is 2^-cost.
            let weights = self.frequencies[class.table].map(|c| crate::arithmetic::exp2(-(c as f64) / 65536.0));
            let width = f64::from(1u32 << class.low_bits);
            let square = |s: usize| ((s as f64 - 31.0) * width).powi(2);
            let inside: f64 = (0..ESCAPE).map(|s| weights[s] * square(s)).sum();
            inside / weights[..ESCAPE].iter().sum::<f64>() + (width * width - 1.0) / 12.0
        };
        (0..CLASSES).map(mean).collect()
    }
}
