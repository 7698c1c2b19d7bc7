//! Adaptive binary arithmetic coding (SPEC 17.3): what codes, decodes and prices the bits of a tile.

use crate::error::CodecError;
use crate::tables::log2_q16;

/// Bits read before the first decision.
const START: usize = 4;
/// Bytes that a short code leaves out at its end.
const IMPLIED: usize = 3;
/// The range is kept at or above this.
const LEAST_RANGE: u32 = 1 << 24;
/// Rates of the two estimates of a probability, as shifts.
const FAST: u32 = 5;
const SLOW: u32 = 7;
/// Decisions after which an estimate has its final rate.
const SEEN: u8 = 63;

/// The estimated probability that a bit is one, in 65536ths: the mean of a fast and a slow estimate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Probability {
    fast: u16,
    slow: u16,
    seen: u8,
}

impl Probability {
    /// The estimate before any bit is seen.
    pub const HALF: Probability = Probability { fast: 1 << 15, slow: 1 << 15, seen: 0 };

    /// Returns the estimate: 1 to 65535.
    #[inline(always)]
    pub fn of_one(self) -> u32 {
        (u32::from(self.fast) + u32::from(self.slow)) >> 1
    }

    /// Takes a bit into account. The first bits weigh more.
    #[inline(always)]
    pub fn update(&mut self, bit: bool) {
        let early = u8::BITS - (self.seen + 1).leading_zeros();
        let moved = |estimate: u16, rate: u32| {
            let shift = early.min(rate);
            if bit {
                estimate + ((65536 - u32::from(estimate)) >> shift) as u16
            } else {
                estimate - (estimate >> shift)
            }
        };
        self.fast = moved(self.fast, FAST);
        self.slow = moved(self.slow, SLOW);
        self.seen = (self.seen + 1).min(SEEN);
    }

    /// Returns the cost of a bit, in units of 2^-16 bit.
    #[inline(always)]
    pub fn cost(self, bit: bool) -> u32 {
        /// By the top ten bits of a probability, at the middle of the interval.
        static COSTS: [u32; 1024] = {
            let mut costs = [0; 1024];
            let mut i = 0;
            while i < 1024 {
                costs[i] = (11 << 16) - log2_q16(2 * i as u64 + 1) as u32;
                i += 1;
            }
            costs
        };
        let of_bit = if bit { self.of_one() } else { 65536 - self.of_one() };
        COSTS[(of_bit >> 6) as usize & 1023]
    }
}

/// Codes bits, decodes them, or adds up their costs. Syntax is written once, against this trait: a decoder ignores the
/// values that it is given and returns those it finds, all others return what they are given.
pub trait Coder {
    /// Codes a bit under the probability number `slot`.
    ///
    /// # Errors
    /// If a decoder has no bytes left.
    fn bit(&mut self, slot: usize, bit: bool) -> Result<bool, CodecError>;

    /// Codes `count` bits that are zero or one with equal probability, the highest first.
    ///
    /// # Errors
    /// If a decoder has no bytes left.
    fn raw(&mut self, bits: u32, count: u32) -> Result<u32, CodecError>;
}

/// Writes bits.
pub struct Encoder {
    probabilities: Vec<Probability>,
    low: u64,
    range: u32,
    /// A byte that a carry may still change, and the number of bytes 255 after it.
    held: u8,
    pending: usize,
    out: Vec<u8>,
}

impl Encoder {
    /// Creates an encoder with `slots` probabilities.
    pub fn new(slots: usize) -> Self {
        let probabilities = vec![Probability::HALF; slots];
        Encoder { probabilities, low: 0, range: u32::MAX, held: 0, pending: 0, out: Vec::new() }
    }

    /// Returns the probabilities as they are now.
    pub fn probabilities(&self) -> &[Probability] {
        &self.probabilities
    }

    /// Creates an encoder with these probabilities.
    pub fn with(probabilities: Vec<Probability>) -> Self {
        Encoder { probabilities, ..Encoder::new(0) }
    }

    /// Returns the bytes.
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        self.out
    }

    /// Returns the bytes without the last `IMPLIED`, which are 0, and the probabilities.
    pub fn finish_short(mut self) -> (Vec<u8>, Vec<Probability>) {
        // The range holds a number of which all but the highest byte is 0.
        self.low = (self.low + u64::from(LEAST_RANGE - 1)) & !u64::from(LEAST_RANGE - 1);
        self.end();
        self.out.truncate(self.out.len() - IMPLIED);
        (self.out, self.probabilities)
    }

    fn end(&mut self) {
        (0..=START).for_each(|_| self.shift());
        // The first byte is always 0: nothing is above the range that coding begins with.
        self.out.remove(0);
    }

    fn narrow(&mut self, bound: u32, bit: bool) {
        if bit {
            self.range = bound;
        } else {
            self.low += u64::from(bound);
            self.range -= bound;
        }
        while self.range < LEAST_RANGE {
            self.range <<= 8;
            self.shift();
        }
    }

    /// Moves the top byte out.
    fn shift(&mut self) {
        let carry = (self.low >> 32) as u8;
        if self.low < 0xFF00_0000 || carry != 0 {
            self.out.push(self.held.wrapping_add(carry));
            self.out.extend(std::iter::repeat_n(carry.wrapping_sub(1), self.pending));
            (self.held, self.pending) = ((self.low >> 24) as u8, 0);
        } else {
            self.pending += 1;
        }
        self.low = (self.low & 0x00FF_FFFF) << 8;
    }
}

impl Coder for Encoder {
    fn bit(&mut self, slot: usize, bit: bool) -> Result<bool, CodecError> {
        let probability = &mut self.probabilities[slot];
        let bound = bound(self.range, *probability);
        probability.update(bit);
        self.narrow(bound, bit);
        Ok(bit)
    }

    fn raw(&mut self, bits: u32, count: u32) -> Result<u32, CodecError> {
        (0..count).rev().for_each(|i| self.narrow(self.range >> 1, bits >> i & 1 == 1));
        Ok(bits)
    }
}

/// The part of the range that belongs to a one.
#[inline(always)]
fn bound(range: u32, probability: Probability) -> u32 {
    ((u64::from(range) * u64::from(probability.of_one())) >> 16) as u32
}

/// Reads bits.
pub struct Decoder<'a> {
    probabilities: Vec<Probability>,
    rest: &'a [u8],
    /// Bytes 0 that follow the rest.
    implied: usize,
    /// The value that is read, relative to the lower end of the range.
    code: u32,
    range: u32,
}

impl<'a> Decoder<'a> {
    /// Creates a decoder with `slots` probabilities.
    ///
    /// # Errors
    /// If there are fewer bytes than every code has.
    pub fn new(slots: usize, bytes: &'a [u8]) -> Result<Self, CodecError> {
        let (start, rest) = bytes.split_first_chunk().ok_or(CodecError::Truncated("arithmetic code"))?;
        let start: &[u8; START] = start;
        let probabilities = vec![Probability::HALF; slots];
        Ok(Decoder { probabilities, rest, implied: 0, code: u32::from_be_bytes(*start), range: u32::MAX })
    }

    /// Creates a decoder of a short code with these probabilities: [`Encoder::finish_short`].
    ///
    /// # Errors
    /// If there are no bytes.
    pub fn short(probabilities: Vec<Probability>, bytes: &'a [u8]) -> Result<Self, CodecError> {
        let mut start = [0; START];
        let taken = bytes.len().min(START);
        let (first, rest) = bytes.split_at(taken);
        start[..taken].copy_from_slice(first);
        let implied = (IMPLIED + taken).checked_sub(START).ok_or(CodecError::Truncated("arithmetic code"))?;
        Ok(Decoder { probabilities, rest, implied, code: u32::from_be_bytes(start), range: u32::MAX })
    }

    /// Checks that a short code ends here. Returns the probabilities.
    ///
    /// # Errors
    /// If bytes are left over.
    pub fn finish_short(self) -> Result<Vec<Probability>, CodecError> {
        match self.rest.len() + self.implied {
            0 => Ok(self.probabilities),
            left => Err(CodecError::TrailingBytes(left, "17.15")),
        }
    }

    /// Checks that the code ends here.
    ///
    /// # Errors
    /// If bytes are left over, or the value that is left is not 0.
    pub fn finish(self) -> Result<(), CodecError> {
        if !self.rest.is_empty() {
            return Err(CodecError::TrailingBytes(self.rest.len(), "17.3"));
        }
        let (field, value, rule) = ("arithmetic code", u64::from(self.code), "it must end at 0");
        if self.code == 0 { Ok(()) } else { Err(CodecError::Field { field, value, rule, clause: "17.3" }) }
    }

    fn narrow(&mut self, bound: u32) -> Result<bool, CodecError> {
        let bit = self.code < bound;
        if bit {
            self.range = bound;
        } else {
            self.code -= bound;
            self.range -= bound;
        }
        while self.range < LEAST_RANGE {
            let byte = match self.rest.split_first() {
                Some((&byte, rest)) => {
                    self.rest = rest;
                    byte
                }
                None => {
                    self.implied = self.implied.checked_sub(1).ok_or(CodecError::Truncated("arithmetic code"))?;
                    0
                }
            };
            self.code = self.code << 8 | u32::from(byte);
            self.range <<= 8;
        }
        Ok(bit)
    }
}

impl Coder for Decoder<'_> {
    fn bit(&mut self, slot: usize, _: bool) -> Result<bool, CodecError> {
        let bit = self.narrow(bound(self.range, self.probabilities[slot]))?;
        self.probabilities[slot].update(bit);
        Ok(bit)
    }

    fn raw(&mut self, _: u32, count: u32) -> Result<u32, CodecError> {
        (0..count).try_fold(0, |bits, _| Ok(bits << 1 | u32::from(self.narrow(self.range >> 1)?)))
    }
}

/// Adds up the costs of bits under probabilities that stay as they are.
pub struct Price<'a> {
    probabilities: &'a [Probability],
    /// In units of 2^-16 bit.
    pub bits: u64,
}

impl<'a> Price<'a> {
    /// Creates a price of 0.
    pub fn new(probabilities: &'a [Probability]) -> Self {
        Price { probabilities, bits: 0 }
    }
}

impl Coder for Price<'_> {
    fn bit(&mut self, slot: usize, bit: bool) -> Result<bool, CodecError> {
        self.bits += u64::from(self.probabilities[slot].cost(bit));
        Ok(bit)
    }

    fn raw(&mut self, bits: u32, count: u32) -> Result<u32, CodecError> {
        self.bits += u64::from(count) << 16;
        Ok(bits)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a coder is asked to code.
    #[derive(Clone, Debug)]
    enum Part {
        Bit(usize, bool),
        Raw(u32, u32),
    }

    fn parts() -> impl Strategy<Value = Vec<Part>> {
        let bit = (0usize..3, 0u32..20).prop_map(|(slot, n)| Part::Bit(slot, n < [1, 10, 19][slot]));
        let raw = (0u32..=20).prop_flat_map(|count| (0..1u32 << count).prop_map(move |bits| Part::Raw(bits, count)));
        prop::collection::vec(prop_oneof![9 => bit, 1 => raw], 0..2000)
    }

    fn code<C: Coder>(coder: &mut C, parts: &[Part]) -> Result<(), CodecError> {
        parts.iter().try_for_each(|part| match *part {
            Part::Bit(slot, bit) => coder.bit(slot, bit).map(|_| ()),
            Part::Raw(bits, count) => coder.raw(bits, count).map(|_| ()),
        })
    }

    proptest! {
        #[test]
        fn bits_survive(parts in parts(), cut: prop::sample::Index) {
            let mut encoder = Encoder::new(3);
            code(&mut encoder, &parts).expect("codes");
            let bytes = encoder.finish();
            let mut decoder = Decoder::new(3, &bytes)?;
            for part in &parts {
                match *part {
                    Part::Bit(slot, bit) => prop_assert_eq!(decoder.bit(slot, !bit)?, bit),
                    Part::Raw(bits, count) => prop_assert_eq!(decoder.raw(!bits, count)?, bits),
                }
            }
            decoder.finish()?;
            let cut = &bytes[..cut.index(bytes.len())];
            let decoded = Decoder::new(3, cut).and_then(|mut decoder| {
                code(&mut decoder, &parts)?;
                decoder.finish()
            });
            prop_assert!(decoded.is_err(), "cut to {} of {}", cut.len(), bytes.len());
        }
    }

    proptest! {
        /// Short codes survive one after the other, with the same probabilities; a byte more does not.
        #[test]
        fn short_codes_survive(all in prop::collection::vec(parts(), 1..4)) {
            let mut probabilities = vec![Probability::HALF; 3];
            let mut of_decoder = probabilities.clone();
            for parts in &all {
                let mut encoder = Encoder::with(probabilities);
                code(&mut encoder, parts).expect("codes");
                let bytes;
                (bytes, probabilities) = encoder.finish_short();
                let decoded = |bytes: &[u8], of: Vec<Probability>| {
                    let mut decoder = Decoder::short(of, bytes)?;
                    let mut found = Vec::new();
                    for part in parts {
                        found.push(match *part {
                            Part::Bit(slot, bit) => u32::from(decoder.bit(slot, !bit)?),
                            Part::Raw(bits, count) => decoder.raw(!bits, count)?,
                        });
                    }
                    Ok::<_, CodecError>((found, decoder.finish_short()?))
                };
                prop_assert!(decoded(&[&bytes[..], &[0]].concat(), of_decoder.clone()).is_err());
                // Fewer bytes are another code, which may end where they end, but not with the same bits.
                let shorter = decoded(&bytes[..bytes.len() - 1], of_decoder.clone()).map(|(found, _)| found);
                let (found, after) = decoded(&bytes, of_decoder)?;
                prop_assert!(shorter.as_ref() != Ok(&found));
                let wanted: Vec<u32> = parts.iter().map(|part| match *part {
                    Part::Bit(_, bit) => bit.into(),
                    Part::Raw(bits, _) => bits,
                }).collect();
                prop_assert_eq!(found, wanted);
                prop_assert_eq!(&after, &probabilities);
                of_decoder = after;
            }
        }
    }

    /// Ones with probability 1/20 take 0.286 bits each.
    #[test]
    fn learns_a_probability() {
        let mut encoder = Encoder::new(1);
        let mut price = 0;
        for i in 0..20_000u32 {
            let bit = i.wrapping_mul(2_654_435_761) >> 16 < 65536 / 20;
            let mut one = Price::new(encoder.probabilities());
            one.bit(0, bit).expect("a price");
            price += one.bits;
            encoder.bit(0, bit).expect("codes");
        }
        let bits = encoder.finish().len() as f64 * 8.0;
        assert!(bits / 20_000.0 > 0.28 && bits / 20_000.0 < 0.31, "{bits}");
        assert!((price as f64 / 65536.0 / bits - 1.0).abs() < 0.01, "{price} {bits}");
    }

    #[test]
    fn certain_bits_stay_possible() {
        for bit in [false, true] {
            let mut probability = Probability::HALF;
            (0..10_000).for_each(|_| probability.update(bit));
            assert!((60..65536 - 60).contains(&probability.of_one()), "{probability:?}");
            assert!(probability.cost(bit) < 200 && probability.cost(!bit) > 9 << 16);
        }
    }
}
