//! Blocks put together from integers and scales: the reverse of [`Parts::read`].

use super::apart::{Form, Parts};
use super::fields::put_integers;
use crate::dtype::DType;

/// The types whose blocks [`Parts::write`] writes.
pub const WRITTEN: [DType; 12] = [
    DType::Q4_0,
    DType::Q4_1,
    DType::Q5_0,
    DType::Q5_1,
    DType::Q8_0,
    DType::Q2K,
    DType::Q3K,
    DType::Q4K,
    DType::Q5K,
    DType::Q6K,
    DType::Iq4Nl,
    DType::Iq4Xs,
];

/// The number of the largest scale of a group, and of the largest minimum: those that [`Parts::write`] takes. Scales of types
/// without minimums are signed, and may also be as far below 0.
pub const fn largest_scale(dtype: DType) -> Option<u8> {
    match dtype {
        DType::Q2K => Some(15),
        DType::Q3K | DType::Iq4Xs => Some(31),
        DType::Q4K | DType::Q5K => Some(63),
        DType::Q6K => Some(127),
        _ => None,
    }
}

impl Parts {
    /// Writes the block that these are the parts of. Returns `false` and changes nothing if `dtype` is not one of
    /// [`WRITTEN`], or `block` has another size than its blocks. Of integers, scales and minimums the bits are taken that the type has
    /// room for.
    ///
    /// ```
    /// use impasto_core::blocks::apart::Parts;
    /// use impasto_core::{DType, blocks};
    ///
    /// // 32 weights: the scale 0.5 times -8 to 7.
    /// let mut parts = Parts { scale: 0x3800, ..Parts::default() };
    /// parts.integers.iter_mut().zip((0..16).cycle()).for_each(|(integer, i)| *integer = i);
    /// let (mut block, mut weights) = ([0; 18], [0.0; 32]);
    /// assert!(parts.write(DType::Q4_0, &mut block));
    /// assert!(blocks::dequantize(DType::Q4_0, &block, &mut weights));
    /// assert_eq!(weights[..3], [-4.0, -3.5, -3.0]);
    /// ```
    pub fn write(&self, dtype: DType, block: &mut [u8]) -> bool {
        if block.len() != dtype.size() || !WRITTEN.contains(&dtype) {
            return false;
        }
        block.fill(0);
        let (scale, minimum) = (self.scale.to_le_bytes(), self.minimum.to_le_bytes());
        let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
        match dtype {
            DType::Q2K => {
                put(0, &std::array::from_fn::<_, 16, _>(|i| self.scales[i] as u8 & 15 | self.minimums[i] << 4));
                put(80, &scale);
                put(82, &minimum);
            }
            DType::Q3K => {
                put(96, &self.q3_k_scales());
                put(108, &scale);
            }
            DType::Q4K | DType::Q5K => {
                put(0, &scale);
                put(2, &minimum);
                put(4, &self.six_bits());
            }
            DType::Q6K => {
                put(192, &self.scales.map(|scale| scale as u8));
                put(208, &scale);
            }
            DType::Iq4Xs => {
                let stored = |i: usize| (self.scales[i].wrapping_add(32) as u8) & 63;
                let top = (0..8).fold(0u16, |top, i| top | u16::from(stored(i) >> 4) << (2 * i));
                put(0, &scale);
                put(2, &top.to_le_bytes());
                put(4, &std::array::from_fn::<_, 4, _>(|i| stored(2 * i) & 15 | stored(2 * i + 1) << 4));
            }
            _ => {
                put(0, &scale);
                if Form::of(dtype).is_some_and(|form| form.has_minimums()) {
                    put(2, &minimum);
                }
            }
        }
        if matches!(dtype, DType::Iq4Nl | DType::Iq4Xs) {
            let from = if dtype == DType::Iq4Nl { 2 } else { 8 };
            let halves = self.integers.chunks_exact(32).zip(block[from..].chunks_exact_mut(16));
            for (integers, bytes) in halves {
                let (low, high) = integers.split_at(16);
                bytes.iter_mut().zip(low).zip(high).for_each(|((byte, low), high)| *byte = low & 15 | high << 4);
            }
        } else {
            put_integers(dtype, &self.integers, block);
        }
        true
    }

    /// The scales of Q3_K: 16 of 6 bits.
    fn q3_k_scales(&self) -> [u8; 12] {
        let stored = |i: usize| (self.scales[i].wrapping_add(32) as u8) & 63;
        std::array::from_fn(|byte| match byte {
            0..8 => stored(byte) & 15 | stored(byte + 8) << 4,
            _ => (0..4).fold(0, |bits, part| bits | stored(byte - 8 + 4 * part) >> 4 << (2 * part)),
        })
    }

    /// The scales and minimums of Q4_K and Q5_K: 8 of 6 bits each.
    fn six_bits(&self) -> [u8; 12] {
        let (scale, minimum) = (|i: usize| self.scales[i] as u8 & 63, |i: usize| self.minimums[i] & 63);
        std::array::from_fn(|byte| match byte {
            0..4 => scale(byte) | scale(byte + 4) >> 4 << 6,
            4..8 => minimum(byte - 4) | minimum(byte) >> 4 << 6,
            _ => scale(byte - 4) & 15 | minimum(byte - 4) << 4,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::SplitMix64;

    #[test]
    fn parts_make_the_block_that_they_were_read_from() {
        let mut rng = SplitMix64::new(11);
        for dtype in WRITTEN {
            for _ in 0..50 {
                let block: Vec<u8> = (0..dtype.size()).map(|_| rng.next_u64() as u8).collect();
                let (mut parts, mut made) = (Parts::default(), vec![9; dtype.size()]);
                assert!(parts.read(dtype, &block) && parts.write(dtype, &mut made));
                assert_eq!(made, block, "{}", dtype.name());
            }
        }
    }

    #[test]
    fn other_types_and_sizes_are_refused() {
        let mut block = [9; 34];
        for dtype in DType::BLOCKS.into_iter().filter(|dtype| !WRITTEN.contains(dtype)) {
            assert!(!Parts::default().write(dtype, &mut vec![0; dtype.size()]), "{}", dtype.name());
        }
        assert!(!Parts::default().write(DType::Q4_0, &mut block) && !Parts::default().write(DType::F16, &mut block));
        assert_eq!(block, [9; 34]);
    }

    #[test]
    fn the_largest_scales_are_kept() {
        for dtype in WRITTEN {
            let Some(most) = largest_scale(dtype) else { continue };
            let form = Form::of(dtype).expect("a form");
            let groups = form.block / form.group;
            let mut parts = Parts::default();
            for group in 0..groups {
                parts.scales[group] = if form.has_minimums() || group % 2 == 0 { most as i8 } else { -(most as i8) };
                parts.minimums[group] = if form.has_minimums() { most } else { 0 };
            }
            let (mut block, mut read) = (vec![0; dtype.size()], Parts::default());
            assert!(parts.write(dtype, &mut block) && read.read(dtype, &block));
            assert_eq!(read, parts, "{}", dtype.name());
        }
    }
}
