//! What levels cost under given probabilities: tables for an encoder that weighs many of them.

use super::arithmetic::{Price, Probability};
use super::levels::{self, CONTEXTS, Context, UNARY, escape};

/// Bits of an escape at most.
const ESCAPES: usize = 23;
/// Logarithms of the number of coefficients of a block, from 4 on.
const AREAS: usize = 7;

/// The costs of levels, in bits.
pub struct Prices {
    /// By context, parity of the points, and high part of the magnitude.
    high: Vec<[f32; UNARY as usize + 1]>,
    /// By the number of bits of an escape.
    escapes: [f32; ESCAPES],
    /// By the logarithm of the area, and the two top bits of the end.
    ends: [[[f32; 2]; 11]; AREAS],
}

/// Returns what `code` adds to a price, in bits.
fn price(probabilities: &[Probability], code: impl FnOnce(&mut Price)) -> f32 {
    let mut price = Price::new(probabilities);
    code(&mut price);
    price.bits as f32 / 65536.0
}

impl Prices {
    /// Computes the costs under the probabilities of a tile.
    pub fn new(probabilities: &[Probability]) -> Prices {
        let magnitude = |context: usize, high: usize| {
            let (context, odd) = (Context { number: context / 2, low: 0 }, context % 2 == 1);
            // An escape of 0 is counted below.
            let escape = if high == UNARY as usize { price(probabilities, |p| drop(escape(p, 0))) } else { 0.0 };
            price(probabilities, |p| drop(levels::magnitude(p, context, odd, high as u32))) - escape
        };
        let high = (0..2 * CONTEXTS).map(|context| std::array::from_fn(|high| magnitude(context, high))).collect();
        let escapes = std::array::from_fn(|bits| price(probabilities, |p| drop(escape(p, (1 << bits) - 1))));
        let end = |area: usize, bits: usize, top: usize| {
            // The smallest end with these bits.
            let last = match bits {
                0 => 0,
                1 => 1,
                _ => (2 | top) << (bits - 2),
            };
            let fits = last < 1 << (area + 4);
            // Sides of such an area.
            let height = (area as u32 + 4).div_ceil(2);
            let logs = [height, area as u32 + 4 - height];
            if fits { price(probabilities, |p| drop(levels::end(p, logs, last + 1))) } else { f32::INFINITY }
        };
        let ends =
            std::array::from_fn(|area| std::array::from_fn(|bits| std::array::from_fn(|top| end(area, bits, top))));
        Prices { high, escapes, ends }
    }

    /// Returns the cost of a level, with its sign.
    #[inline(always)]
    pub fn level(&self, context: Context, odd: bool, magnitude: u32) -> f32 {
        let sign = if magnitude > 0 { 1.0 } else { 0.0 };
        sign + self.magnitude(context, odd, magnitude)
    }

    /// Returns the cost of the magnitude of a level.
    #[inline(always)]
    pub fn magnitude(&self, context: Context, odd: bool, magnitude: u32) -> f32 {
        let high = magnitude >> context.low;
        let by_high = &self.high[context.number * 2 + usize::from(odd)];
        let known = by_high[high.min(UNARY) as usize] + context.low as f32;
        if high < UNARY { known } else { known + self.escapes[(high - UNARY + 1).ilog2().min(22) as usize] }
    }

    /// Returns the cost of the end of the levels of a block with `2^area` coefficients.
    #[inline(always)]
    pub fn end(&self, area: u32, end: usize) -> f32 {
        let last = end as u32 - 1;
        let bits = u32::BITS - last.leading_zeros();
        let top = if bits < 2 { 0 } else { last >> (bits - 2) & 1 };
        self.ends[area as usize - 4][bits as usize][top as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::arithmetic::Coder;
    use crate::transform::arithmetic::Encoder;
    use crate::transform::levels::{AFTER, Expectation, Means};
    use crate::transform::{basis::Kind, scan::Form};

    /// Tables agree with what the coder is priced at.
    #[test]
    fn tables_agree_with_the_coder() {
        let mut encoder = Encoder::new(AFTER);
        for i in 0..20_000usize {
            encoder.bit(i * 7 % AFTER, i % 3 == 0).expect("codes");
        }
        let probabilities = encoder.probabilities();
        let prices = Prices::new(probabilities);
        let means = Means::new();
        let mut expectation = Expectation::new(Form::new([3, 3], [Kind::Dct; 2]), &means);
        for (neighbour, magnitude) in [(0, 0), (0, 1), (1, 5), (9, 13), (300, 14), (9000, 40), (80_000, 100_000)] {
            expectation.set(1, neighbour);
            let context = expectation.context(0);
            for odd in [false, true] {
                let exact = price(probabilities, |p| drop(levels::magnitude(p, context, odd, magnitude)));
                assert!((exact - prices.magnitude(context, odd, magnitude)).abs() < 0.01, "{neighbour} {magnitude}");
            }
        }
        for logs in [[2, 2], [2, 5], [5, 5]] {
            for end in (1..=1 << (logs[0] + logs[1])).step_by(3) {
                let exact = price(probabilities, |p| drop(levels::end(p, logs, end)));
                assert!((exact - prices.end(logs[0] + logs[1], end)).abs() < 0.01, "{logs:?} {end}");
            }
        }
    }
}
