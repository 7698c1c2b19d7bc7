//! Bit strings, packed from the least significant bit (SPEC 1.4).

/// Appends fields to a bit string.
#[derive(Default)]
pub struct BitWriter {
    bytes: Vec<u8>,
    /// Bits not yet written, fewer than 32.
    hold: u64,
    held: u32,
}

/// A position in a bit string to roll back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BitMark {
    bytes: usize,
    hold: u64,
    held: u32,
}

impl BitWriter {
    /// Returns the current end of the string.
    pub(crate) fn mark(&self) -> BitMark {
        BitMark { bytes: self.bytes.len(), hold: self.hold, held: self.held }
    }

    /// Removes the fields after a mark.
    pub(crate) fn roll_back(&mut self, to: BitMark) {
        self.bytes.truncate(to.bytes);
        (self.hold, self.held) = (to.hold, to.held);
    }

    /// Appends the low `bits` bits of `value`; `bits` is at most 32.
    pub fn put(&mut self, value: u32, bits: u32) {
        debug_assert!(bits <= 32);
        let value = u64::from(value) & ((1u64 << bits) - 1);
        self.hold |= value << self.held;
        self.held += bits;
        if self.held >= 32 {
            self.bytes.extend((self.hold as u32).to_le_bytes());
            self.hold >>= 32;
            self.held -= 32;
        }
    }

    /// Appends the low `bits` bits of each value; `bits` is at most 32.
    pub fn put_all(&mut self, values: &[i32], bits: u32) {
        if self.held == 0 && bits == 8 {
            self.bytes.extend(values.iter().map(|&value| value as u8));
            return;
        }
        // Eight fields are as many bytes as a field has bits. They are joined at once if two halves of them fit into
        // 64 bits each: in pairs, which do not wait for one another.
        let (groups, rest) = if self.held == 0 && bits <= 16 { values.as_chunks::<8>() } else { (&[][..], values) };
        let mask = ((1u64 << bits) - 1) as u32;
        let pair = |low: i32, high: i32| (low as u32 & mask) | (high as u32 & mask) << bits;
        let four = |low: u32, high: u32| u64::from(low) | u64::from(high) << (2 * bits);
        let mut end = self.bytes.len();
        self.bytes.resize(end + groups.len() * bits as usize + 16, 0);
        let out = &mut self.bytes[..];
        for &[a, b, c, d, e, f, g, h] in groups {
            let (first, second) = (four(pair(a, b), pair(c, d)), four(pair(e, f), pair(g, h)));
            if bits <= 8 {
                out[end..end + 8].copy_from_slice(&(first | second << (4 * bits)).to_le_bytes());
            } else {
                let word = u128::from(first) | u128::from(second) << (4 * bits);
                out[end..end + 16].copy_from_slice(&word.to_le_bytes());
            }
            end += bits as usize;
        }
        self.bytes.truncate(end);
        rest.iter().for_each(|&value| self.put(value as u32, bits));
    }

    /// Pads the string with 0 bits to a byte.
    pub fn align(&mut self) {
        let bytes = self.hold.to_le_bytes();
        self.bytes.extend(&bytes[..self.held.div_ceil(8) as usize]);
        self.hold = 0;
        self.held = 0;
    }

    /// Returns the bytes, padded with 0 bits.
    pub fn finish(mut self) -> Vec<u8> {
        self.align();
        self.bytes
    }
}

/// Reads fields from a bit string.
pub struct BitReader<'a> {
    bytes: &'a [u8],
    at: u64,
}

impl<'a> BitReader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        BitReader { bytes, at: 0 }
    }

    /// Reads the next field, of `bits` bits (at most 32). Returns `None` if the bytes end inside it.
    pub fn take(&mut self, bits: u32) -> Option<u32> {
        if self.at + u64::from(bits) > self.bytes.len() as u64 * 8 {
            return None;
        }
        let field = field(self.bytes, self.at, bits);
        self.at += u64::from(bits);
        Some(field)
    }

    /// Reads ones up to the next zero, and that, and returns their number; of 32 ones or more, it reads 32. Returns `None` if the
    /// bytes end before the zero.
    pub fn take_ones(&mut self) -> Option<u32> {
        // Bits past the end are zeros.
        let ones = field(self.bytes, self.at, 32).trailing_ones();
        self.take((ones + 1).min(32)).map(|_| ones)
    }

    /// Returns the number of bytes read so far, including a partly read one.
    pub fn bytes_read(&self) -> usize {
        self.at.div_ceil(8) as usize
    }
}

/// Returns the field of `bits` bits (at most 32) at bit offset `at`. Bits past the end read as 0.
pub fn field(bytes: &[u8], at: u64, bits: u32) -> u32 {
    let first = (at / 8) as usize;
    let mut word = [0u8; 8];
    if let Some(rest) = bytes.get(first..) {
        let n = rest.len().min(8);
        word[..n].copy_from_slice(&rest[..n]);
    }
    ((u64::from_le_bytes(word) >> (at % 8)) & ((1u64 << bits) - 1)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(fields in prop::collection::vec((any::<u32>(), 0u32..=32), 0..200)) {
            let mut writer = BitWriter::default();
            for &(value, bits) in &fields {
                writer.put(value, bits);
            }
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            for &(value, bits) in &fields {
                let mask = ((1u64 << bits) - 1) as u32;
                prop_assert_eq!(reader.take(bits), Some(value & mask));
            }
            prop_assert_eq!(reader.bytes_read(), bytes.len());
            prop_assert_eq!(reader.take(8), None);
        }

        #[test]
        fn ones(counts in prop::collection::vec(0u32..32, 0..50)) {
            let mut writer = BitWriter::default();
            for &count in &counts {
                writer.put(((1u64 << count) - 1) as u32, count + 1);
            }
            writer.put(u32::MAX, 32);
            let bytes = writer.finish();
            let mut reader = BitReader::new(&bytes);
            for &count in &counts {
                prop_assert_eq!(reader.take_ones(), Some(count));
            }
            prop_assert_eq!(reader.take_ones(), Some(32));
            // No zero is left, or only those that pad the last byte.
            while let Some(ones) = reader.take_ones() {
                prop_assert_eq!(ones, 0);
            }
            prop_assert_eq!(BitReader::new(&[0xFF]).take_ones(), None);
        }

        #[test]
        fn many_fields_at_once(
            lists in prop::collection::vec((0u32..=32, prop::collection::vec(any::<i32>(), 0..40)), 0..5),
        ) {
            let (mut one_by_one, mut at_once) = (BitWriter::default(), BitWriter::default());
            for (bits, values) in &lists {
                values.iter().for_each(|&value| one_by_one.put(value as u32, *bits));
                at_once.put_all(values, *bits);
                if bits % 2 == 0 {
                    one_by_one.align();
                    at_once.align();
                }
            }
            prop_assert_eq!(at_once.finish(), one_by_one.finish());
        }
    }
}
