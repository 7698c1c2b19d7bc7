//! Blocks taken apart into integers and scales.
//!
//! A weight is `s * (integer - bias) + m`, or `s * table[integer]`, where `s` and `m` belong to a group of weights; see
//! [`Scales`]. They are rounded to binary32, as the product and the sum are.

use half::f16;

use super::{iq, iq4, kquants, simple, ternary};
use crate::dtype::DType;

/// The scales of the weights of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scales {
    /// `s` is the scale of the block; `m` is 0.
    Block,
    /// `s` is the scale of the block, `m` its minimum.
    BlockMinimum,
    /// `s` is a power of two, whose exponent plus 128 is the scale of the block; `m` is 0.
    Exponent,
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
    /// The number of weights in a block.
    pub block: usize,
    /// The number of weights in a group, 16 or 32.
    pub group: usize,
    /// The scales.
    pub scales: Scales,
    /// `s` is divided by two so many times.
    pub halvings: u8,
}

/// The parts of a block, of up to 256 weights and 16 groups. [`Parts::read`] leaves those that a dtype does not have as
/// they were; by default they are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parts {
    /// The integer of each weight.
    pub integers: [u8; 256],
    /// Scale of the block: the bits of a binary16, or an exponent.
    pub scale: u16,
    /// Minimum of the block: the bits of a binary16.
    pub minimum: u16,
    /// Scale of each group.
    pub scales: [i8; 16],
    /// Minimum of each group.
    pub minimums: [u8; 16],
}

impl Form {
    /// Returns the form of a dtype; `None` if it is not a block dtype.
    pub const fn of(dtype: DType) -> Option<Form> {
        const fn form(bits: u8, bias: u8, block: usize, group: usize, scales: Scales) -> Option<Form> {
            Some(Form { bits, bias, table: None, block, group, scales, halvings: 0 })
        }
        const fn table(table: [i8; 16], block: usize, scales: Scales) -> Option<Form> {
            Some(Form { bits: 4, bias: 0, table: Some(table), block, group: 32, scales, halvings: 0 })
        }
        const fn grid(group: usize, halvings: u8) -> Option<Form> {
            let scales = Scales::Group;
            Some(Form { bits: 8, bias: 128, table: None, block: 256, group, scales, halvings })
        }
        match dtype {
            DType::Q4_0 => form(4, 8, 32, 32, Scales::Block),
            DType::Q4_1 => form(4, 0, 32, 32, Scales::BlockMinimum),
            DType::Q5_0 => form(5, 16, 32, 32, Scales::Block),
            DType::Q5_1 => form(5, 0, 32, 32, Scales::BlockMinimum),
            DType::Q8_0 => form(8, 128, 32, 32, Scales::Block),
            DType::Q2K => form(2, 0, 256, 16, Scales::GroupMinimum),
            DType::Q3K => form(3, 4, 256, 16, Scales::Group),
            DType::Q4K => form(4, 0, 256, 32, Scales::GroupMinimum),
            DType::Q5K => form(5, 0, 256, 32, Scales::GroupMinimum),
            DType::Q6K => form(6, 32, 256, 16, Scales::Group),
            DType::Iq4Nl => table(iq4::VALUES, 32, Scales::Block),
            DType::Iq4Xs => table(iq4::VALUES, 256, Scales::Group),
            DType::Mxfp4 => table(iq4::E2M1, 32, Scales::Exponent),
            DType::Tq1_0 => form(8, 128, 256, 32, Scales::Block),
            DType::Tq2_0 => form(2, 1, 256, 32, Scales::Block),
            DType::Iq1S | DType::Iq2Xxs => grid(32, 3),
            DType::Iq1M | DType::Iq2Xs | DType::Iq2S => grid(16, 3),
            DType::Iq3Xxs => grid(32, 2),
            DType::Iq3S => grid(32, 0),
            _ => None,
        }
    }

    /// Returns whether groups have minimums.
    pub const fn has_minimums(&self) -> bool {
        matches!(self.scales, Scales::BlockMinimum | Scales::GroupMinimum)
    }

    /// Returns `s` and `m` of each group.
    #[inline(always)]
    pub fn scales(self, parts: &Parts) -> impl Iterator<Item = (f32, f32)> {
        let (d, m) = match self.scales {
            Scales::Exponent => (power(parts.scale as u8), 0.0),
            _ => (f16::from_bits(parts.scale).to_f32(), f16::from_bits(parts.minimum).to_f32()),
        };
        let of_groups = parts.scales.iter().zip(&parts.minimums).take(self.block / self.group);
        of_groups.map(move |(&scale, &minimum)| match self.scales {
            Scales::Block | Scales::Exponent => (d, 0.0),
            Scales::BlockMinimum => (d, m),
            // Halving is exact.
            Scales::Group => (d * f32::from(scale) / f32::from(1u8 << self.halvings), 0.0),
            Scales::GroupMinimum => (d * f32::from(scale), -(m * f32::from(minimum))),
        })
    }

    /// Writes the weights of a block.
    pub(super) fn weights(&self, parts: &Parts, out: &mut [f32]) {
        let groups = parts.integers.chunks_exact(self.group).zip(out.chunks_exact_mut(self.group));
        for ((integers, out), (s, m)) in groups.zip(self.scales(parts)) {
            let weights = out.iter_mut().zip(integers);
            match &self.table {
                Some(table) => weights.for_each(|(w, &i)| *w = s * f32::from(table[usize::from(i & 15)])),
                None if self.has_minimums() => weights.for_each(|(w, &i)| *w = s * f32::from(i) + m),
                None => weights.for_each(|(w, &i)| *w = s * (f32::from(i) - f32::from(self.bias))),
            }
        }
    }
}

/// Returns 2^(exponent - 128), which is subnormal for the two smallest exponents.
#[inline]
pub fn power(exponent: u8) -> f32 {
    let exponent = u32::from(exponent);
    f32::from_bits(if exponent < 2 { 0x0020_0000 << exponent } else { (exponent - 1) << 23 })
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
        #[inline(always)]
        fn read<const B: usize>(parts: &mut Parts, block: &[u8], read: impl Fn(&mut Parts, &[u8; B])) -> bool {
            block.try_into().map(|block| read(parts, block)).is_ok()
        }
        match dtype {
            DType::Q4_0 | DType::Iq4Nl => read(self, block, simple::q4_0),
            DType::Q4_1 => read(self, block, simple::q4_1),
            DType::Q5_0 => read(self, block, simple::q5_0),
            DType::Q5_1 => read(self, block, simple::q5_1),
            DType::Q8_0 => read(self, block, simple::q8_0),
            DType::Q2K => read(self, block, kquants::q2_k),
            DType::Q3K => read(self, block, kquants::q3_k),
            DType::Q4K => read(self, block, kquants::q4_k),
            DType::Q5K => read(self, block, kquants::q5_k),
            DType::Q6K => read(self, block, kquants::q6_k),
            DType::Iq2Xxs => read(self, block, iq::iq2_xxs),
            DType::Iq2Xs => read(self, block, iq::iq2_xs),
            DType::Iq3Xxs => read(self, block, iq::iq3_xxs),
            DType::Iq1S => read(self, block, iq::iq1_s),
            DType::Iq3S => read(self, block, iq::iq3_s),
            DType::Iq2S => read(self, block, iq::iq2_s),
            DType::Iq4Xs => read(self, block, iq4::iq4_xs),
            DType::Iq1M => read(self, block, iq::iq1_m),
            DType::Tq1_0 => read(self, block, ternary::tq1_0),
            DType::Tq2_0 => read(self, block, ternary::tq2_0),
            DType::Mxfp4 => read(self, block, iq4::mxfp4),
            _ => false,
        }
    }
}

/// Writes 4-bit fields of 32 weights: the low half of byte `i` is that of weight `i`, the high half that of weight
/// `i + 16`.
#[inline(always)]
pub(super) fn halves(bytes: &[u8], out: &mut [u8]) {
    let (low, high) = out.split_at_mut(16);
    for ((&byte, low), high) in bytes.iter().zip(low).zip(high) {
        (*low, *high) = (byte & 15, byte >> 4);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    #[test]
    fn every_block_dtype_has_a_form_whose_integers_fit() {
        let mut rng = SplitMix64::new(5);
        for dtype in DType::BLOCKS {
            let form = Form::of(dtype).expect("a form");
            assert_eq!(form.block, dtype.weights());
            for _ in 0..50 {
                let block: Vec<u8> = (0..dtype.size()).map(|_| rng.next_u64() as u8).collect();
                let mut parts = Parts::default();
                assert!(parts.read(dtype, &block));
                assert!(parts.integers.iter().all(|&integer| u32::from(integer) < 1 << form.bits));
                assert!(parts.integers[form.block..].iter().all(|&integer| integer == 0));
            }
            let mut parts = Parts::default();
            assert!(!parts.read(dtype, &[9; 19]) && parts == Parts::default());
        }
        assert!(Form::of(DType::F16).is_none() && !Parts::default().read(DType::F16, &[0; 2]));
    }

    #[test]
    fn exponents_are_powers_of_two() {
        for exponent in 0..=255 {
            assert_eq!(f64::from(power(exponent)), 2f64.powi(i32::from(exponent) - 128));
        }
    }
}
