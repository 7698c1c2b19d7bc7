//! Index arrays: small integers for all rows or columns, Rice coded relative to a base (SPEC 6.1).

use std::ops::Range;

use impasto_core::{
    Isa, at_each_isa,
    varint::{unzigzag, zigzag},
};

use crate::bits::{BitReader, BitWriter};
use crate::error::CodecError;

const ALL_EQUAL: u8 = 255;
const MAX_RICE: u32 = 15;
const MAX_QUOTIENT: u32 = 31;

/// One `i16` for each row, or each column, of a matrix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IndexArray {
    /// One value for all entries. Takes no memory, however many entries a file declares.
    Constant(i16),
    /// One value per entry.
    Values(Vec<i16>),
}

impl IndexArray {
    /// Creates an array of `values`, constant if they are all equal.
    pub fn new(values: Vec<i16>) -> Self {
        match values.split_first() {
            None => IndexArray::Constant(0),
            Some((&first, rest)) if rest.iter().all(|&v| v == first) => IndexArray::Constant(first),
            _ => IndexArray::Values(values),
        }
    }

    /// Returns the entries in `range`, which must lie inside the matrix that the array was read for.
    pub fn slice(&self, range: Range<usize>) -> Vec<i32> {
        match self {
            IndexArray::Constant(v) => vec![i32::from(*v); range.len()],
            IndexArray::Values(values) => values[range].iter().map(|&v| i32::from(v)).collect(),
        }
    }

    /// Returns the bytes of heap memory that the entries take.
    pub fn memory_bytes(&self) -> usize {
        match self {
            IndexArray::Constant(_) => 0,
            IndexArray::Values(values) => size_of_val(&values[..]),
        }
    }

    /// Returns whether there are entries for all indices below `end`.
    pub fn covers(&self, end: usize) -> bool {
        match self {
            IndexArray::Constant(_) => true,
            IndexArray::Values(values) => end <= values.len(),
        }
    }

    /// Returns entry `i`, which must lie inside the matrix that the array was read for.
    pub fn get(&self, i: usize) -> i32 {
        match self {
            IndexArray::Constant(v) => i32::from(*v),
            IndexArray::Values(values) => i32::from(values[i]),
        }
    }

    /// Writes `first` plus each entry in `range` to `out`, which has the length of the range. `range` must lie inside
    /// the matrix that the array was read for.
    pub fn sums(&self, isa: Isa, first: i32, range: Range<usize>, out: &mut [i32]) {
        match self {
            IndexArray::Constant(v) => out.fill(first + i32::from(*v)),
            IndexArray::Values(values) => add(isa, first, &values[range], out),
        }
    }

    /// Returns the smallest and the largest entry.
    pub fn bounds(&self) -> (i16, i16) {
        match self {
            IndexArray::Constant(v) => (*v, *v),
            IndexArray::Values(v) => v.iter().fold((i16::MAX, i16::MIN), |(low, high), &v| (low.min(v), high.max(v))),
        }
    }

    /// Appends the coded array to `out`.
    pub fn write(&self, out: &mut Vec<u8>) {
        let values = match self {
            IndexArray::Constant(v) => {
                out.extend(v.to_le_bytes());
                out.push(ALL_EQUAL);
                return;
            }
            IndexArray::Values(values) => values,
        };
        let mut sorted = values.clone();
        let base = *sorted.select_nth_unstable(values.len() / 2).1;
        let codes: Vec<u32> = values.iter().map(|&v| zigzag(i32::from(v) - i32::from(base))).collect();
        let bits = |k: u32| codes.iter().map(|&u| u64::from((u >> k) + 1 + k)).sum::<u64>();
        let largest = codes.iter().copied().max().unwrap_or(0);
        let k = (0..=MAX_RICE).filter(|&k| largest >> k <= MAX_QUOTIENT).min_by_key(|&k| bits(k)).unwrap_or(MAX_RICE);
        out.extend(base.to_le_bytes());
        out.push(k as u8);
        let mut writer = BitWriter::default();
        for u in codes {
            writer.put(((1u64 << (u >> k)) - 1) as u32, u >> k);
            writer.put(0, 1);
            writer.put(u, k);
        }
        out.extend(writer.finish());
    }

    /// Reads an array of `entries` entries and removes it from the front of `bytes`. Memory use is at most 16 times the
    /// bytes read.
    ///
    /// # Errors
    /// If the array violates SPEC 6.1.
    pub fn read(bytes: &mut &[u8], entries: u64) -> Result<Self, CodecError> {
        let (&[low, high, k], rest) = bytes.split_first_chunk::<3>().ok_or(CodecError::Truncated("index array"))?;
        *bytes = rest;
        let base = i16::from_le_bytes([low, high]);
        if k == ALL_EQUAL {
            return Ok(IndexArray::Constant(base));
        }
        let k = u32::from(k);
        if k > MAX_RICE {
            return Err(CodecError::IndexArray("k is neither 255 nor at most 15"));
        }
        if entries > bytes.len() as u64 * 8 {
            return Err(CodecError::Truncated("index array"));
        }
        let mut reader = BitReader::new(bytes);
        let mut values = Vec::with_capacity(entries as usize);
        for _ in 0..entries {
            let quotient = reader.take_ones().ok_or(CodecError::Truncated("index array"))?;
            if quotient > MAX_QUOTIENT {
                return Err(CodecError::IndexArray("a quotient is above 31"));
            }
            let low = reader.take(k).ok_or(CodecError::Truncated("index array"))?;
            let value = i32::from(base) + unzigzag(quotient << k | low);
            values.push(i16::try_from(value).map_err(|_| CodecError::IndexArray("an entry does not fit i16"))?);
        }
        let read = reader.bytes_read();
        *bytes = &bytes[read..];
        Ok(IndexArray::Values(values))
    }
}

at_each_isa! {
    fn add(first: i32, values: &[i16], out: &mut [i32]) {
        out.iter_mut().zip(values).for_each(|(sum, &v)| *sum = first + i32::from(v));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(values in prop::collection::vec(any::<i16>(), 0..300), narrow in prop::collection::vec(-20i16..20, 1..300)) {
            for values in [values, narrow] {
                let array = IndexArray::new(values.clone());
                let mut bytes = Vec::new();
                array.write(&mut bytes);
                bytes.push(0xAA);
                let mut rest = &bytes[..];
                let read = IndexArray::read(&mut rest, values.len() as u64)?;
                prop_assert_eq!(rest, &[0xAA][..]);
                let wide: Vec<i32> = values.iter().map(|&v| i32::from(v)).collect();
                prop_assert_eq!(&read.slice(0..values.len()), &wide);
                let mut sums = vec![0; values.len()];
                read.sums(Isa::best(), -7, 0..values.len(), &mut sums);
                for (i, v) in wide.into_iter().enumerate() {
                    prop_assert_eq!((read.get(i), sums[i]), (v, v - 7));
                }
            }
        }

        #[test]
        fn never_panics(bytes: Vec<u8>, entries: u64) {
            let _ = IndexArray::read(&mut &bytes[..], entries);
        }
    }

    #[test]
    fn declared_terabytes_take_no_memory() {
        let mut bytes = Vec::new();
        IndexArray::Constant(3).write(&mut bytes);
        assert_eq!(IndexArray::read(&mut &bytes[..], 1 << 40), Ok(IndexArray::Constant(3)));
        bytes[2] = 0;
        assert_eq!(IndexArray::read(&mut &bytes[..], 1 << 40), Err(CodecError::Truncated("index array")));
    }
}
