//! Blocks taken apart, for products that use the integers and the scales as they are.
//!
//! A weight is `s * (integer - bias) + m`, or `s * table[integer]`. See [`Scales`] for `s` and `m`, which are rounded to
//! binary32, as the product and the sum are. This is what [`dequantize`](super::dequantize) computes.

use super::kquants::{six_bits, two_bits};
use super::{iq4, simple};
use crate::dtype::DType;

/// The scales of the weights of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// `s` is the scale of the block; `m` is 0.
    Block,
    /// `s` is the scale of the block, `m` its minimum.
    BlockMinimum,
    /// `s` is the scale of the block times that of the group; `m` is 0.
    Group,
    /// `s` is the scale of the block times that of the group. `-m` is the minimum of the block times that of the group.
    GroupMinimum,
}

/// How the weights of a block dtype are made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Bits of an integer.
    pub bits: u8,
    /// What is subtracted from an integer; 0 if there is a table.
    pub bias: u8,
    /// The values of the integers, if they are indices.
    pub table: Option<[i8; 16]>,
    /// The number of weights in a group.
    pub group: usize,
    /// The scales.
    pub scales: Scales,
}

/// The parts of a block, of up to 256 weights and 16 groups. [`Parts::read`] leaves those that a dtype does not have as
/// they were; by default they are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The integer of each weight.
    pub integers: [u8; 256],
    /// Scale of the block: the bits of a binary16.
    pub scale: u16,
    /// Minimum of the block: the bits of a binary16.
    pub minimum: u16,
    /// Scale of each group.
    pub scales: [i8; 16],
    /// Minimum of each group.
    pub minimums: [u8; 16],
}

impl Form {
    /// Returns whether groups have minimums.
    pub const fn has_minimums(&self) -> bool {
        matches!(self.scales, Scales::BlockMinimum | Scales::GroupMinimum)
    }

    /// Returns the form of a dtype; `None` for plain dtypes, and for blocks that cannot be taken apart.
    pub const fn of(dtype: DType) -> Option<Form> {
        const fn form(bits: u8, bias: u8, group: usize, scales: Scales) -> Option<Form> {
            Some(Form { bits, bias, table: None, group, scales })
        }
        match dtype {
            DType::Q4_0 => form(4, 8, 32, Scales::Block),
            DType::Q4_1 => form(4, 0, 32, Scales::BlockMinimum),
            DType::Q5_0 => form(5, 16, 32, Scales::Block),
            DType::Q5_1 => form(5, 0, 32, Scales::BlockMinimum),
            DType::Q8_0 => form(8, 128, 32, Scales::Block),
            DType::Q2K => form(2, 0, 16, Scales::GroupMinimum),
            DType::Q3K => form(3, 4, 16, Scales::Group),
            DType::Q4K => form(4, 0, 32, Scales::GroupMinimum),
            DType::Q5K => form(5, 0, 32, Scales::GroupMinimum),
            DType::Q6K => form(6, 32, 16, Scales::Group),
            DType::Iq4Nl => Some(Form { bits: 4, bias: 0, table: Some(iq4::VALUES), group: 32, scales: Scales::Block }),
            _ => None,
        }
    }
}

impl Default for Parts {
    fn default() -> Self {
        Parts { integers: [0; 256], scale: 0, minimum: 0, scales: [0; 16], minimums: [0; 16] }
    }
}

impl Parts {
    /// Takes a block apart. Returns `false` and changes nothing if the dtype has no [`Form`], or `block` is not one of
    /// its blocks.
    #[inline]
    pub fn read(&mut self, dtype: DType, block: &[u8]) -> bool {
        if Form::of(dtype).is_none() || block.len() != dtype.size() {
            return false;
        }
        let half = |at: usize| u16::from_le_bytes([block[at], block[at + 1]]);
        match dtype {
            DType::Q4_0 | DType::Iq4Nl => {
                self.scale = half(0);
                self.nibbles(&block[2..], 0);
            }
            DType::Q4_1 => {
                (self.scale, self.minimum) = (half(0), half(2));
                self.nibbles(&block[4..], 0);
            }
            DType::Q5_0 => {
                self.scale = half(0);
                self.nibbles(&block[6..], simple::top_bits(&block[2..6]));
            }
            DType::Q5_1 => {
                (self.scale, self.minimum) = (half(0), half(2));
                self.nibbles(&block[8..], simple::top_bits(&block[4..8]));
            }
            DType::Q8_0 => {
                self.scale = half(0);
                self.integers.iter_mut().zip(&block[2..]).for_each(|(integer, byte)| *integer = byte ^ 128);
            }
            DType::Q2K => self.q2_k(block),
            DType::Q3K => self.q3_k(block),
            DType::Q4K | DType::Q5K => self.q4_k_or_q5_k(dtype, block),
            _ => self.q6_k(block),
        }
        true
    }

    /// 4-bit fields of 32 weights, with fifth bits from `top`.
    fn nibbles(&mut self, bytes: &[u8], top: u32) {
        let fifth = |i: usize| (top >> i & 1) as u8 * 16;
        for (i, byte) in bytes.iter().enumerate() {
            self.integers[i] = byte & 15 | fifth(i);
            self.integers[i + 16] = byte >> 4 | fifth(i + 16);
        }
    }

    fn q2_k(&mut self, block: &[u8]) {
        for (i, (out, &scale)) in self.integers.as_chunks_mut::<16>().0.iter_mut().zip(&block[..16]).enumerate() {
            (self.scales[i], self.minimums[i]) = ((scale & 15) as i8, scale >> 4);
            let (from, shift) = two_bits(i);
            out.iter_mut().zip(&block[16 + from..]).for_each(|(integer, q)| *integer = q >> shift & 3);
        }
        self.scale = u16::from_le_bytes([block[80], block[81]]);
        self.minimum = u16::from_le_bytes([block[82], block[83]]);
    }

    fn q3_k(&mut self, block: &[u8]) {
        let (top, qs, scales) = (&block[..32], &block[32..96], &block[96..108]);
        for (i, out) in self.integers.as_chunks_mut::<16>().0.iter_mut().enumerate() {
            let scale = scales[i % 8] >> (4 * (i / 8)) & 15 | (scales[8 + i % 4] >> (2 * (i / 4)) & 3) << 4;
            self.scales[i] = scale as i8 - 32;
            let (from, shift) = two_bits(i);
            for ((integer, q), top) in out.iter_mut().zip(&qs[from..]).zip(&top[i % 2 * 16..]) {
                *integer = q >> shift & 3 | (top >> (i / 2) & 1) << 2;
            }
        }
        self.scale = u16::from_le_bytes([block[108], block[109]]);
    }

    fn q4_k_or_q5_k(&mut self, dtype: DType, block: &[u8]) {
        let (scales, rest) = block[4..].split_at(12);
        let (top, qs) = if dtype == DType::Q5K { rest.split_at(32) } else { (&[0; 32][..], rest) };
        for (i, out) in self.integers.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            let (scale, least) = six_bits(scales, i);
            (self.scales[i], self.minimums[i]) = (scale as i8, least);
            let (qs, shift) = (&qs[i / 2 * 32..], i % 2 * 4);
            for ((integer, q), top) in out.iter_mut().zip(qs).zip(top) {
                *integer = q >> shift & 15 | (top >> i & 1) << 4;
            }
        }
        self.scale = u16::from_le_bytes([block[0], block[1]]);
        self.minimum = u16::from_le_bytes([block[2], block[3]]);
    }

    fn q6_k(&mut self, block: &[u8]) {
        let (low, high, scales) = (&block[..128], &block[128..192], &block[192..208]);
        for (i, (out, &scale)) in self.integers.as_chunks_mut::<16>().0.iter_mut().zip(scales).enumerate() {
            self.scales[i] = scale as i8;
            let (low, low_shift) = (&low[i / 8 * 64 + i % 4 * 16..], i % 8 / 4 * 4);
            let (from, high_shift) = two_bits(i);
            for ((integer, low), high) in out.iter_mut().zip(low).zip(&high[from..]) {
                *integer = low >> low_shift & 15 | (high >> high_shift & 3) << 4;
            }
        }
        self.scale = u16::from_le_bytes([block[208], block[209]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocks::dequantize;
    use crate::rng::SplitMix64;
    use half::f16;

    #[test]
    fn parts_make_the_weights() {
        let mut rng = SplitMix64::new(5);
        for dtype in DType::BLOCKS {
            let Some(form) = Form::of(dtype) else { continue };
            for _ in 0..50 {
                let block: Vec<u8> = (0..dtype.size()).map(|_| rng.next_u64() as u8).collect();
                let mut weights = vec![0.0; dtype.weights()];
                assert!(dequantize(dtype, &block, &mut weights));
                let mut parts = Parts::default();
                assert!(parts.read(dtype, &block));
                let (d, m) = (f16::from_bits(parts.scale).to_f32(), f16::from_bits(parts.minimum).to_f32());
                for (i, weight) in weights.into_iter().enumerate() {
                    let (integer, group) = (parts.integers[i], i / form.group);
                    assert!(u32::from(integer) < 1 << form.bits);
                    let value = form.table.map_or(i32::from(integer) - i32::from(form.bias), |table| {
                        i32::from(table[usize::from(integer)])
                    });
                    let (s, least) = (f32::from(parts.scales[group]), f32::from(parts.minimums[group]));
                    let made = match form.scales {
                        Scales::Block => d * value as f32,
                        Scales::BlockMinimum => d * value as f32 + m,
                        Scales::Group => d * s * value as f32,
                        Scales::GroupMinimum => d * s * value as f32 - m * least,
                    };
                    let same = made.to_bits() == weight.to_bits() || made.is_nan() && weight.is_nan();
                    assert!(same, "{} weight {i}: {made} {weight}", dtype.name());
                }
            }
            assert!(!Parts::default().read(dtype, &[0; 17]));
        }
        assert!(!Parts::default().read(DType::F16, &[0; 2]));
    }
}
