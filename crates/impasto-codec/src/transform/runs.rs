//! Levels coded as in JPEG (SPEC 17.8): along the scan, the number of zeros before each level that is not 0, then the level;
//! after the last one, the end of the block.

use super::arithmetic::{Coder, Probability};
use super::levels::{self, AREAS, Context, Means};
use super::scan::Form;
use crate::error::CodecError;

/// Classes of places in the scan: by binary digits, and the last three.
const PLACES: usize = 14;
/// Magnitudes of the level before that differ: 0 for none, 1, more.
const BEFORE: usize = 3;
/// Binary digits of a run at most, after the first of its successor.
const DIGITS: usize = 10;

/// Where their probabilities begin among all of a tile.
const ENDS: usize = super::tree::AFTER;
const LONGER: usize = ENDS + AREAS * PLACES * BEFORE;
const TOP: usize = LONGER + PLACES * BEFORE * DIGITS;
/// Where they end.
pub const AFTER: usize = TOP + DIGITS + 1;

/// What the next run depends on: the place where it begins, and the levels before.
#[derive(Clone, Copy, Debug)]
pub struct Position {
    /// Place in the scan.
    pub at: usize,
    /// Places in the scan.
    pub count: usize,
    /// The magnitudes of the last two levels that are not 0, the last one first; 0 if there are none.
    pub before: [u32; 2],
}

impl Position {
    fn context(self) -> usize {
        let left = self.count - self.at;
        let place = if left <= 3 { 10 + left } else { (usize::BITS - self.at.leading_zeros()) as usize };
        place * BEFORE + self.before[0].min(2) as usize
    }

    /// Returns how many digits a run may have.
    fn most(self) -> usize {
        (self.count - self.at).ilog2() as usize
    }

    /// Returns the context of the magnitude of a level, of which earlier patches have a mean magnitude in 256ths.
    pub fn of_level(self, mean: Option<u32>) -> Context {
        let [last, other] = self.before.map(|level| 16 * level);
        let near = match (last, other) {
            (0, _) => mean.map_or(16, |mean| mean >> 4),
            (last, 0) => last,
            (last, other) => (2 * last + other) / 3,
        };
        Context::of(near, mean)
    }
}

fn end_slot(area: usize, context: usize) -> usize {
    ENDS + (area - 4) * PLACES * BEFORE + context
}

/// Codes the number of zeros before the next level; a decoder may find more than there are places.
fn run<C: Coder>(coder: &mut C, position: Position, wanted: usize) -> Result<usize, CodecError> {
    let digits_wanted = (wanted + 1).ilog2() as usize;
    let (first, mut digits) = (LONGER + position.context() * DIGITS, 0);
    while digits < position.most() && coder.bit(first + digits, digits_wanted > digits)? {
        digits += 1;
    }
    if digits == 0 {
        return Ok(0);
    }
    let low = digits as u32 - 1;
    let top = coder.bit(TOP + digits, (wanted + 1) >> low & 1 == 1)?;
    let below = coder.raw((wanted + 1) as u32 & ((1 << low) - 1), low)?;
    Ok(((2 + usize::from(top)) << low) + below as usize - 1)
}

/// Codes the levels of a block, of which at least one is not 0; a decoder finds them all 0. Levels are row-major.
///
/// # Errors
/// Those of the coder, a run past the end, or a level that is too large.
pub fn levels<C: Coder>(coder: &mut C, form: Form, means: &Means, levels: &mut [i32]) -> Result<(), CodecError> {
    let (scan, means) = (form.scan(), means.of(form));
    let area = (form.logs[0] + form.logs[1]) as usize;
    let mut position = Position { at: 0, count: scan.len(), before: [0; 2] };
    let known: Vec<usize> = (0..scan.len()).filter(|&at| levels[usize::from(scan[at])] != 0).collect();
    let mut known = known.into_iter().peekable();
    loop {
        let left = position.count - position.at;
        let is_end = known.peek().is_none();
        if position.at > 0 && (left == 0 || coder.bit(end_slot(area, position.context()), is_end)?) {
            return Ok(());
        }
        let wanted = known.next().map_or(0, |at| at - position.at);
        let zeros = run(coder, position, wanted)?;
        if zeros >= left {
            let rule = "it must end before the last place of the block";
            return Err(CodecError::Field { field: "run", value: zeros as u64, rule, clause: "17.8" });
        }
        position.at += zeros;
        let place = usize::from(scan[position.at]);
        let context = position.of_level(means.map(|means| means[place]));
        let size = levels::magnitude(coder, context, false, levels[place].unsigned_abs().wrapping_sub(1))?;
        let size = size.saturating_add(1);
        levels[place] = levels::signed(coder, size, levels[place] < 0)?;
        position = Position { at: position.at + 1, count: position.count, before: [size, position.before[0]] };
    }
}

/// What runs and ends cost, in bits: tables for an encoder.
pub struct Prices {
    /// By area and context: whether this is the end.
    ends: Vec<[f32; 2]>,
    /// By context and number of digits: as many decisions that are 1, then one that is 0.
    longer: Vec<[[f32; 2]; DIGITS + 1]>,
    /// By number of digits: the digits.
    digits: [f32; DIGITS + 1],
}

impl Prices {
    /// Computes the costs under the probabilities of a tile.
    pub fn new(probabilities: &[Probability]) -> Prices {
        let cost = |slot: usize| [false, true].map(|bit| probabilities[slot].cost(bit) as f32 / 65536.0);
        let longer = |context: usize| {
            let mut ones = 0.0;
            std::array::from_fn(|digits| {
                let before = ones;
                let [zero, one] = if digits < DIGITS { cost(LONGER + context * DIGITS + digits) } else { [0.0; 2] };
                ones += one;
                [before, zero]
            })
        };
        let digits = |digits: usize| if digits == 0 { 0.0 } else { digits as f32 };
        Prices {
            ends: (ENDS..LONGER).map(cost).collect(),
            longer: (0..PLACES * BEFORE).map(longer).collect(),
            digits: std::array::from_fn(digits),
        }
    }

    /// Returns the cost of whether the block of `2^area` levels ends at a position.
    pub fn end(&self, area: u32, position: Position, is_end: bool) -> f32 {
        if position.at == position.count || position.at == 0 {
            return 0.0;
        }
        self.ends[end_slot(area as usize, position.context()) - ENDS][usize::from(is_end)]
    }

    /// Returns the cost of a run of zeros from a position.
    pub fn run(&self, position: Position, zeros: usize) -> f32 {
        let digits = (zeros + 1).ilog2() as usize;
        let [ones, zero] = self.longer[position.context()][digits];
        ones + if digits < position.most() { zero } else { 0.0 } + self.digits[digits]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::arithmetic::{Encoder, Price};
    use crate::transform::basis::Kind;
    use crate::transform::tree::SLOTS;
    use proptest::prelude::*;

    proptest! {
        /// Tables agree with what the coder is priced at.
        #[test]
        fn tables_agree_with_the_coder(places in prop::collection::btree_set(0usize..64, 1..30), seed: u32) {
            let mut encoder = Encoder::new(SLOTS);
            for i in 0..SLOTS * 4 {
                encoder.bit(i % SLOTS, (i as u32).wrapping_mul(seed | 1) >> 30 == 0)?;
            }
            // That of the top digit of a run is not in the tables.
            let mut probabilities = encoder.probabilities().to_vec();
            probabilities[TOP..AFTER].fill(Probability::HALF);
            let (prices, magnitudes) = (Prices::new(&probabilities), crate::transform::prices::Prices::new(&probabilities));
            let (form, means) = (Form::new([3, 3], [Kind::Dct; 2]), Means::new());
            let mut block = vec![0; 64];
            let (mut position, mut sum) = (Position { at: 0, count: 64, before: [0; 2] }, 0.0);
            for &at in &places {
                let level = 1 + (at as u32 * 7 + seed) % 5;
                block[usize::from(form.scan()[at])] = level as i32;
                sum += prices.end(6, position, false) + prices.run(position, at - position.at);
                sum += 1.0 + magnitudes.magnitude(position.of_level(None), false, level - 1);
                position = Position { at: at + 1, before: [level, position.before[0]], ..position };
            }
            sum += prices.end(6, position, true);
            let mut exact = Price::new(&probabilities);
            levels(&mut exact, form, &means, &mut block)?;
            let exact = exact.bits as f32 / 65536.0;
            prop_assert!((exact - sum).abs() < 0.02 * (1.0 + places.len() as f32), "{} {}", exact, sum);
        }
    }
}
