//! Lossless floats: the top bits of the magnitude are entropy coded, the other bits are a raw field (SPEC 9).

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use impasto_core::{FloatLayout, Isa};

use crate::bits::field;

/// Joins the values of a tile with their raw fields to floats.
#[derive(Clone)]
pub struct Joiner {
    layout: FloatLayout,
    kernel: Kernel,
}

/// A kernel with its constants.
#[derive(Clone)]
enum Kernel {
    Scalar,
    #[cfg(target_arch = "x86_64")]
    Avx2(avx2::Fields),
    #[cfg(target_arch = "x86_64")]
    Avx512(avx512::Fields),
}

impl Joiner {
    /// Creates a joiner for floats of `layout`.
    pub fn new(isa: Isa, layout: FloatLayout) -> Joiner {
        #[cfg(target_arch = "x86_64")]
        let avx2 = || Kernel::Avx2(avx2::Fields::new(layout));
        let kernel = match isa.or_scalar() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => avx512::Fields::new(layout).map_or_else(avx2, Kernel::Avx512),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => avx2(),
            _ => Kernel::Scalar,
        };
        Joiner { layout, kernel }
    }

    /// Joins the values `v` of a row with the raw fields in `plane`, the row's part of the plane. `out` holds `v.len()`
    /// floats.
    ///
    /// # Panics
    /// If `out` has another length, or `plane` is shorter than the fields.
    pub fn row(&self, v: &[i32], plane: &[u8], out: &mut [u8]) {
        assert_eq!(out.len(), v.len() * self.layout.size());
        assert!(plane.len() * 8 >= v.len() * self.layout.raw_bits() as usize);
        let done = match &self.kernel {
            Kernel::Scalar => 0,
            #[cfg(target_arch = "x86_64")]
            // SAFETY: `new` checked that the processor supports these instructions; the lengths are checked above.
            Kernel::Avx2(fields) => unsafe { avx2::join_row(fields, self.layout, v, plane, out) },
            #[cfg(target_arch = "x86_64")]
            // SAFETY: as above.
            Kernel::Avx512(fields) => unsafe { avx512::join_row(fields, self.layout, v, plane, out) },
        };
        join_from(self.layout, done, v, plane, out);
    }
}

/// The scalar kernel, from element `first` on.
fn join_from(layout: FloatLayout, first: usize, v: &[i32], plane: &[u8], out: &mut [u8]) {
    let (size, q) = (layout.size(), layout.raw_bits());
    for i in first..v.len() {
        let bits = layout.join(v[i] as u32, field(plane, i as u64 * u64::from(q), q));
        out[i * size..(i + 1) * size].copy_from_slice(&bits.to_le_bytes()[..size]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::dtype::DType;
    use proptest::prelude::*;

    #[test]
    fn every_bit_pattern_of_the_short_floats_survives() {
        for dtype in [DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2] {
            let layout = dtype.float_layout().expect("float");
            assert_eq!(layout.size(), dtype.size());
            for bits in 0..1u32 << (8 * dtype.size()) {
                let (v, raw) = layout.split(bits);
                assert!(v < 1 << layout.value_bits() && raw < 1 << layout.raw_bits());
                assert_eq!(layout.join(v, raw), bits);
            }
        }
    }

    proptest! {
        #[test]
        fn every_bit_pattern_of_f32_survives(bits: u32) {
            let layout = DType::F32.float_layout().expect("float");
            let (v, raw) = layout.split(bits);
            prop_assert_eq!(layout.join(v, raw), bits);
        }
    }

    proptest! {
        #[test]
        fn instruction_sets_agree(
            dtype in prop::sample::select(vec![DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2]),
            v in prop::collection::vec(any::<i32>(), 0..300),
            noise in prop::collection::vec(any::<u8>(), 900),
        ) {
            let layout = dtype.float_layout().expect("float");
            let plane = &noise[..(v.len() * layout.raw_bits() as usize).div_ceil(8)];
            let mut expected = vec![0; v.len() * layout.size()];
            join_from(layout, 0, &v, plane, &mut expected);
            for isa in Isa::available() {
                let mut out = vec![0; expected.len()];
                Joiner::new(isa, layout).row(&v, plane, &mut out);
                prop_assert_eq!(&out, &expected);
            }
        }
    }
}
