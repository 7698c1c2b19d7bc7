//! The coder: it codes the symbols of a segment in reverse, so that a decoder runs forwards (SPEC 8.3).

use impasto_core::Isa;

use super::LANES;
use crate::tables::TABLE_BITS;

/// Bit positions in a [`Coded`].
const START_AT: u32 = 12;
const LOW_BITS_AT: u32 = 23;
const LOW_AT: u32 = 26;

/// A symbol in the form for coding: its frequency and its start in its table, and its low bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Coded(u32);

impl Coded {
    /// A symbol that cannot be coded, since it has no frequency.
    pub const NONE: Coded = Coded(0);

    /// Creates a symbol without low bits from its frequency (at most 2048) and its start (at most 2047).
    pub fn new(frequency: u16, start: u16) -> Coded {
        if frequency == 0 { Self::NONE } else { Coded(u32::from(frequency) | u32::from(start) << START_AT) }
    }

    /// Returns the symbol with low bits: `bits` of them (at most 5), whose value is `low`.
    #[inline(always)]
    pub fn with_low(self, bits: u32, low: u32) -> Coded {
        Coded(self.0 | bits << LOW_BITS_AT | low << LOW_AT)
    }

    /// Returns whether the symbol has no frequency.
    #[inline(always)]
    pub fn is_none(self) -> bool {
        self.frequency() == 0
    }

    #[inline(always)]
    fn frequency(self) -> u32 {
        self.0 & ((1 << START_AT) - 1)
    }

    /// Returns the state of a lane after this symbol, and whether the lane first emits a word: the low 16 bits of `x`.
    #[inline(always)]
    fn push(self, x: u32) -> (u32, bool) {
        let frequency = self.frequency();
        let start = self.0 >> START_AT & ((1 << TABLE_BITS) - 1);
        let (low_bits, low) = (self.0 >> LOW_BITS_AT & 7, self.0 >> LOW_AT);
        let emits = x >> (32 - TABLE_BITS - low_bits) >= frequency;
        let x = if emits { x >> 16 } else { x };
        let quotient = quotient(x, frequency);
        let remainder = x.wrapping_sub(quotient.wrapping_mul(frequency));
        let y = (quotient << TABLE_BITS).wrapping_add(start).wrapping_add(remainder);
        (y << low_bits | low, emits)
    }
}

/// Returns `x / frequency` for `x < frequency * 2^21`.
///
/// Vectors have no integer division, so the quotient is first rounded to nearest by binary32 arithmetic. Two roundings
/// change it by at most 2^-23 of its value, that is by at most 1/4. So it is rounded to the quotient wanted or to the
/// next integer.
#[inline(always)]
fn quotient(x: u32, frequency: u32) -> u32 {
    /// Adding it leaves the integer in the bits of the mantissa.
    const INTEGER: f32 = (1 << 23) as f32;
    let rounded = (x as f32 / frequency as f32 + INTEGER).to_bits() & ((1 << 23) - 1);
    let remainder = x.wrapping_sub(rounded.wrapping_mul(frequency)) as i32;
    rounded.wrapping_sub(u32::from(remainder < 0))
}

/// Codes rows of `width` symbols, each of which has a frequency, in reverse. Changes the lane states from those at the
/// end of the rows to those at their start, and returns the words in decoding order. `room` is working memory.
pub fn code<'w>(
    isa: Isa,
    width: usize,
    symbols: &[Coded],
    states: &mut [u32; LANES],
    room: &'w mut Vec<u16>,
) -> &'w [u16] {
    // A symbol emits at most one word. A step has room for a word of each lane, even if it is the last one.
    let most = symbols.len() + LANES;
    if room.len() < most {
        room.resize(most, 0);
    }
    let words = &mut room[..most];
    let first = match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions.
        Isa::Avx512 => unsafe { code_avx512(width, symbols, states, words) },
        #[cfg(target_arch = "x86_64")]
        // SAFETY: as above.
        Isa::Avx2 => unsafe { code_avx2(width, symbols, states, words) },
        _ => code_with(width, symbols, states, words, emit),
    };
    &words[first..]
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn code_avx2(width: usize, symbols: &[Coded], states: &mut [u32; LANES], words: &mut [u16]) -> usize {
    code_with(width, symbols, states, words, emit)
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn code_avx512(width: usize, symbols: &[Coded], states: &mut [u32; LANES], words: &mut [u16]) -> usize {
    code_with(width, symbols, states, words, |states, emits, room| {
        // SAFETY: this function has the target features.
        unsafe { super::avx512::emit(states, emits, room) }
    })
}

/// The same at each instruction set: vectors of lanes, but for `emit`, which is [`emit`] or its equal. Writes the words to
/// the end of `words`, and returns where they begin.
#[inline(always)]
fn code_with(
    width: usize,
    symbols: &[Coded],
    states: &mut [u32; LANES],
    words: &mut [u16],
    emit: impl Fn(&[u32; LANES], &[u32; LANES], &mut [u16; LANES]) -> usize,
) -> usize {
    let mut first = words.len();
    for row in symbols.chunks_exact(width.max(1)).rev() {
        let (steps, rest) = row.as_chunks::<LANES>();
        for (x, symbol) in states.iter_mut().zip(rest).rev() {
            words[first - 1] = *x as u16;
            let emits;
            (*x, emits) = symbol.push(*x);
            first -= usize::from(emits);
        }
        for step in steps.iter().rev() {
            let (before, mut emits) = (*states, [0u32; LANES]);
            for ((x, emits), symbol) in states.iter_mut().zip(&mut emits).zip(step) {
                let (after, emits_word) = symbol.push(*x);
                (*x, *emits) = (after, emits_word.into());
            }
            let Some(room) = words[..first].last_chunk_mut() else { continue };
            first -= emit(&before, &emits, room);
        }
    }
    first
}

/// Writes the low words of the states that emit one to the end of `room`, in order. Returns how many. The rest of `room`
/// is unspecified.
#[inline(always)]
fn emit(states: &[u32; LANES], emits: &[u32; LANES], room: &mut [u16; LANES]) -> usize {
    let mut start = LANES;
    for (&x, &emits) in states.iter().zip(emits).rev() {
        // Written, and then kept or not. The index needs no check: it is below the number of lanes.
        room[start.wrapping_sub(1) % LANES] = x as u16;
        start -= emits as usize;
    }
    LANES - start
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rans::LOW;

    /// The definition of a step, without vectors.
    fn push(x: &mut u32, frequency: u32, start: u32, low_bits: u32, low: u32, words: &mut Vec<u16>) {
        if u64::from(*x) >= u64::from(frequency) << (32 - TABLE_BITS - low_bits) {
            words.push(*x as u16);
            *x >>= 16;
        }
        let y = (*x / frequency) << TABLE_BITS | (start + *x % frequency);
        *x = y << low_bits | low;
    }

    #[test]
    fn quotients_next_to_multiples() {
        for frequency in 1..=2048u32 {
            let most = (1u64 << 21) * u64::from(frequency) - 1;
            for multiple in [0, 1, 2, 3, (1 << 20) - 1, 1 << 20, (1 << 21) - 2, (1 << 21) - 1u64] {
                for x in [0, 1, u64::from(frequency) - 1].map(|more| multiple * u64::from(frequency) + more) {
                    let x = x.min(most) as u32;
                    assert_eq!(quotient(x, frequency), x / frequency, "{x} / {frequency}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn quotients(frequency in 1u32..=2048, x: u32) {
            let x = (u64::from(x) % (u64::from(frequency) << 21)) as u32;
            prop_assert_eq!(quotient(x, frequency), x / frequency);
        }

        #[test]
        fn every_instruction_set_codes_as_the_definition_says(
            width in 1usize..100,
            rows in 0usize..5,
            symbols in prop::collection::vec((1u32..=2048, any::<u32>(), 0u32..=5, any::<u32>()), 500),
        ) {
            let symbols: Vec<_> = symbols[..width * rows].iter().map(|&(frequency, start, low_bits, low)| {
                (frequency, start % (2049 - frequency), low_bits, low & ((1 << low_bits) - 1))
            }).collect();
            let (mut states, mut words) = ([LOW; LANES], Vec::new());
            for row in symbols.chunks(width).rev() {
                for (c, &(frequency, start, low_bits, low)) in row.iter().enumerate().rev() {
                    push(&mut states[c % LANES], frequency, start, low_bits, low, &mut words);
                }
            }
            words.reverse();
            let coded: Vec<Coded> = symbols
                .iter()
                .map(|&(frequency, start, bits, low)| Coded::new(frequency as u16, start as u16).with_low(bits, low))
                .collect();
            for isa in Isa::available() {
                let (mut found, mut room) = ([LOW; LANES], vec![7; 300]);
                let emitted = code(isa, width, &coded, &mut found, &mut room);
                prop_assert_eq!(emitted, &words);
                prop_assert_eq!(found, states);
            }
        }
    }
}
