//! The levels of a block (SPEC 17.6): quantized coefficients, coded under the magnitudes that are expected of them.

use super::arithmetic::Coder;
use super::scan::{FORMS, Form};
use crate::error::CodecError;

/// The largest magnitude of a level.
pub const MOST: u32 = (1 << 22) - 1;
/// Magnitudes that are coded one decision at a time; larger ones have an escape.
pub(super) const UNARY: u32 = 14;
/// Decisions of a magnitude that have probabilities of their own.
const DECISIONS: usize = 10;
/// Contexts of a magnitude: 13 expected sizes, of 3 degrees of agreement.
const SIZES: usize = 13;
pub(super) const CONTEXTS: usize = SIZES * 3;
/// Logarithms of the number of coefficients: 4 to 10.
pub(super) const AREAS: usize = 7;

/// Where the probabilities of levels begin among all of a tile.
pub const FIRST: usize = 0;
const ZERO: usize = FIRST;
const ABOVE: usize = ZERO + 2 * CONTEXTS;
const ESCAPE: usize = ABOVE + CONTEXTS * DECISIONS;
const CODED: usize = ESCAPE + 32;
const END: usize = CODED + AREAS;
const END_TOP: usize = END + AREAS * 16;
/// Where they end.
pub const AFTER: usize = END_TOP + AREAS * 16;

/// The mean magnitudes of the coefficients of earlier blocks of the same form.
pub struct Means {
    forms: Vec<Mean>,
}

/// The mean magnitudes of one form.
#[derive(Clone, Default)]
struct Mean {
    /// In 256ths, row-major; empty before the first block.
    of_place: Vec<u32>,
    blocks: u32,
}

impl Means {
    /// The means before any block.
    pub fn new() -> Means {
        Means { forms: vec![Mean::default(); FORMS] }
    }

    /// Takes the levels of a block into account.
    pub fn update(&mut self, form: Form, levels: &[i32]) {
        let mean = &mut self.forms[form.number()];
        mean.of_place.resize(levels.len(), 0);
        mean.blocks += 1;
        let shift = (u32::BITS - mean.blocks.leading_zeros() - 1).min(4);
        for (mean, level) in mean.of_place.iter_mut().zip(levels) {
            let now = i64::from(level.unsigned_abs()) << 8;
            *mean = (i64::from(*mean) + ((now - i64::from(*mean)) >> shift)) as u32;
        }
    }

    /// Returns the means of a form, in 256ths; `None` before its first block.
    pub fn of(&self, form: Form) -> Option<&[u32]> {
        Some(&self.forms[form.number()].of_place[..]).filter(|means| !means.is_empty())
    }
}

impl Default for Means {
    fn default() -> Self {
        Means::new()
    }
}

/// The context of a level.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Context {
    /// Below `CONTEXTS`.
    pub(super) number: usize,
    /// Low bits that are coded without a model.
    pub(super) low: u32,
}

impl Context {
    /// Returns the context of a level by the magnitude of those near it, in 16ths, and its mean in earlier blocks of the same
    /// form, in 256ths.
    pub(super) fn of(near: u32, mean: Option<u32>) -> Context {
        let (expected, agreement) = match mean {
            None => (near, 1),
            Some(mean) => {
                let mean = mean >> 4;
                let agreement = if 2 * near < mean {
                    0
                } else if near > 2 * mean {
                    2
                } else {
                    1
                };
                ((near + mean) / 2, agreement)
            }
        };
        let low = (expected.max(1).ilog2()).saturating_sub(5);
        let scaled = expected >> low;
        let size = match scaled {
            0..2 => 0,
            _ => {
                let log = scaled.ilog2();
                (2 * log - 1 + (scaled >> (log - 1) & 1)) as usize
            }
        };
        let size = size + if low > 0 { 2 } else { 0 };
        Context { number: size * 3 + agreement, low }
    }
}

/// Magnitudes of the levels of a block that are known so far, and what is expected of the others.
pub struct Expectation<'a> {
    means: Option<&'a [u32]>,
    logs: [u32; 2],
    /// Of two rows and two columns more than the block has.
    magnitudes: Vec<u32>,
}

impl<'a> Expectation<'a> {
    /// Creates the expectation for a block of a form, of which nothing is known.
    pub fn new(form: Form, means: &'a Means) -> Self {
        let [height, width] = form.logs.map(|log| (1usize << log) + 2);
        Expectation { means: means.of(form), logs: form.logs, magnitudes: vec![0; height * width] }
    }

    /// Records a level.
    pub fn set(&mut self, place: usize, level: i32) {
        let at = self.at(place);
        self.magnitudes[at] = level.unsigned_abs();
    }

    fn at(&self, place: usize) -> usize {
        let log = self.logs[1];
        place + 2 * (place >> log)
    }

    /// Returns the context of the level at a place, from the magnitudes of up to five neighbours and of the same
    /// coefficient in earlier blocks.
    pub fn context(&self, place: usize) -> Context {
        let [height, width] = self.logs.map(|log| 1usize << log);
        let (r, c, at) = (place >> self.logs[1], place & (width - 1), self.at(place));
        let (stride, m) = (width + 2, &self.magnitudes);
        let sum = 2 * (m[at + 1] + m[at + stride]) + m[at + stride + 1] + m[at + 2] + m[at + 2 * stride];
        let [down, right] = [height - 1 - r, width - 1 - c];
        let weight = [0, 2, 3][down.min(2)] + [0, 2, 3][right.min(2)] + u32::from(down > 0 && right > 0);
        // In 16ths.
        let near = (16 * sum).checked_div(weight).unwrap_or(0);
        Context::of(near, self.means.map(|means| means[place]))
    }
}

/// Codes the magnitude of a level; a decoder may find one above [`MOST`]. `odd` says that dependent quantization is in an
/// odd state.
///
/// # Errors
/// Those of the coder.
#[inline(always)]
pub fn magnitude<C: Coder>(coder: &mut C, context: Context, odd: bool, magnitude: u32) -> Result<u32, CodecError> {
    let Context { number, low } = context;
    let wanted = magnitude >> low;
    let mut high = 0;
    while high < UNARY {
        let slot = match high {
            0 => ZERO + number * 2 + usize::from(odd),
            _ => ABOVE + number * DECISIONS + (high as usize).min(DECISIONS) - 1,
        };
        if !coder.bit(slot, wanted > high)? {
            break;
        }
        high += 1;
    }
    if high == UNARY {
        high += escape(coder, wanted.wrapping_sub(UNARY))?;
    }
    let found = high.checked_shl(low).filter(|found| found >> low == high).unwrap_or(u32::MAX);
    Ok(found | coder.raw(magnitude & ((1 << low) - 1), low)?)
}

/// Codes the sign of a level with a magnitude, and returns the level.
///
/// # Errors
/// Those of the coder, or a magnitude that is too large.
#[inline(always)]
pub(super) fn signed<C: Coder>(coder: &mut C, size: u32, negative: bool) -> Result<i32, CodecError> {
    if size > MOST {
        let rule = "its magnitude must be below 2^22";
        return Err(CodecError::Field { field: "level", value: size.into(), rule, clause: "17.6" });
    }
    let negative = size > 0 && coder.raw(u32::from(negative), 1)? == 1;
    Ok(if negative { -(size as i32) } else { size as i32 })
}

/// Codes a number of any size: its bits, after their number.
pub(super) fn escape<C: Coder>(coder: &mut C, number: u32) -> Result<u32, CodecError> {
    let wanted = (number.wrapping_add(1)).max(1).ilog2();
    let mut bits = 0;
    while bits < 22 && coder.bit(ESCAPE + bits as usize, wanted > bits)? {
        bits += 1;
    }
    let below = coder.raw(number.wrapping_add(1) & ((1 << bits) - 1), bits)?;
    Ok((1 << bits) + below - 1)
}

/// Codes whether a block has a level other than 0.
///
/// # Errors
/// Those of the coder.
pub fn coded<C: Coder>(coder: &mut C, logs: [u32; 2], coded: bool) -> Result<bool, CodecError> {
    coder.bit(CODED + (logs[0] + logs[1] - 4) as usize, coded)
}

/// Codes the number of levels up to the last one that is not 0, in the order of the scan.
///
/// # Errors
/// Those of the coder.
pub fn end<C: Coder>(coder: &mut C, logs: [u32; 2], end: usize) -> Result<usize, CodecError> {
    let area = (logs[0] + logs[1]) as usize;
    let last = (end as u32).wrapping_sub(1);
    let wanted = u32::BITS - last.leading_zeros();
    // Numbers of bits from that of the largest end down.
    let mut bits = area as u32;
    while bits > 0 && !coder.bit(END + (area - 4) * 16 + bits as usize, wanted >= bits)? {
        bits -= 1;
    }
    if bits < 2 {
        return Ok(bits as usize + 1);
    }
    let top = coder.bit(END_TOP + (area - 4) * 16 + bits as usize, last >> (bits - 2) & 1 == 1)?;
    let below = coder.raw(last & ((1 << (bits - 2)) - 1), bits - 2)?;
    Ok((1usize << (bits - 1)) + (usize::from(top) << (bits - 2)) + below as usize + 1)
}

/// The states of dependent quantization: the next state, by state and parity of the level (SPEC 17.6).
pub const NEXT: [[u8; 2]; 4] = [[0, 2], [2, 0], [1, 3], [3, 1]];

/// Codes the levels of a block, of which at least one is not 0; a decoder finds them all 0. Levels are row-major.
///
/// # Errors
/// Those of the coder, or a level that is too large.
pub fn levels<C: Coder>(
    coder: &mut C,
    form: Form,
    means: &Means,
    dependent: bool,
    levels: &mut [i32],
) -> Result<(), CodecError> {
    let scan = form.scan();
    let known = scan.iter().rposition(|&place| levels[usize::from(place)] != 0).map_or(1, |last| last + 1);
    let count = end(coder, form.logs, known)?;
    let mut expectation = Expectation::new(form, means);
    let mut state = 0;
    for (i, &place) in scan[..count].iter().enumerate().rev() {
        let place = usize::from(place);
        let (context, level) = (expectation.context(place), levels[place]);
        // The last level is not 0.
        let least = u32::from(i + 1 == count);
        let wanted = level.unsigned_abs().wrapping_sub(least);
        let size = magnitude(coder, context, dependent && state >= 2, wanted)?.saturating_add(least);
        levels[place] = signed(coder, size, level < 0)?;
        expectation.set(place, levels[place]);
        if dependent {
            state = usize::from(NEXT[state][(size & 1) as usize]);
        }
    }
    Ok(())
}

/// Returns the coefficients of levels, in 256ths of a step, row-major (SPEC 17.6).
pub fn coefficients(form: Form, dependent: bool, levels: &[i32], out: &mut Vec<i64>) {
    out.clear();
    out.extend(levels.iter().map(|&level| i64::from(level) << 8));
    if !dependent {
        return;
    }
    let scan = form.scan();
    let Some(last) = scan.iter().rposition(|&place| levels[usize::from(place)] != 0) else { return };
    let mut state = 0;
    for &place in scan[..=last].iter().rev() {
        let level = levels[usize::from(place)];
        if state >= 2 {
            out[usize::from(place)] -= i64::from(level.signum()) << 7;
        }
        state = usize::from(NEXT[state][(level & 1) as usize]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transform::arithmetic::{Decoder, Encoder};
    use crate::transform::basis::Kind;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ends_survive(logs in prop::array::uniform2(2u32..=5), ends in prop::collection::vec(any::<prop::sample::Index>(), 1..50)) {
            let ends: Vec<usize> = ends.iter().map(|i| i.index(1 << (logs[0] + logs[1])) + 1).collect();
            let mut encoder = Encoder::new(AFTER);
            ends.iter().try_for_each(|&count| end(&mut encoder, logs, count).map(|_| ()))?;
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(AFTER, &bytes)?;
            for &count in &ends {
                prop_assert_eq!(end(&mut decoder, logs, 1)?, count);
            }
        }
    }

    #[test]
    fn odd_states_have_points_in_between() {
        let form = Form::new([2, 2], [Kind::Dct; 2]);
        let scan = form.scan();
        let mut levels = vec![0; 16];
        for (at, level) in [(3, 1), (2, -2), (1, 3), (0, 1)] {
            levels[usize::from(scan[at])] = level;
        }
        let mut out = Vec::new();
        coefficients(form, true, &levels, &mut out);
        // States 0, 2, 1, 0.
        let found = [3, 2, 1, 0].map(|at| out[usize::from(scan[at])]);
        assert_eq!(found, [256, -512 + 128, 768, 256]);
        coefficients(form, false, &levels, &mut out);
        assert_eq!([3, 2, 1, 0].map(|at| out[usize::from(scan[at])]), [256, -512, 768, 256]);
    }
}
