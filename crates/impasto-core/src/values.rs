//! Conversion of the elements of any float or block dtype to binary32.

use half::{bf16, f16};

use crate::at_each_isa;
use crate::blocks;
use crate::dtype::DType;
use crate::isa::Isa;

/// Appends the values of little-endian elements of a float or block dtype to `out`.
///
/// Returns `false` and appends nothing if the elements of the dtype are not weights (integers, BOOL, C64, F8_E8M0,
/// opaque). Conversion is exact, except that F64 is rounded to nearest even.
///
/// F8_E4M3 has no infinities and is NaN at 0x7F and 0xFF; F8_E5M2 follows the conventions of IEEE 754 (arXiv
/// 2209.05433). An incomplete element at the end of `bytes` is ignored. The values take at most 21 bytes of memory per
/// input byte (IQ1_S).
pub fn to_f32(dtype: DType, bytes: &[u8], out: &mut Vec<f32>) -> bool {
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        DType::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
        DType::F16 => out.extend(pairs().map(|&b| f16::from_le_bytes(b).to_f32())),
        DType::Bf16 => {
            let start = out.len();
            out.resize(start + bytes.len() / 2, 0.0);
            from_bf16(Isa::best(), bytes.as_chunks().0, &mut out[start..]);
        }
        DType::F64 => out.extend(bytes.as_chunks::<8>().0.iter().map(|&b| f64::from_le_bytes(b) as f32)),
        DType::F8E4M3 => out.extend(bytes.iter().map(|&b| from_e4m3(b))),
        // An F8_E5M2 is the upper byte of a binary16.
        DType::F8E5M2 => out.extend(bytes.iter().map(|&b| f16::from_le_bytes([0, b]).to_f32())),
        _ if dtype.is_block() => {
            let (blocks, start) = (bytes.len() / dtype.size(), out.len());
            out.resize(start + blocks * dtype.weights(), 0.0);
            return blocks::dequantize(dtype, &bytes[..blocks * dtype.size()], &mut out[start..]);
        }
        _ => return false,
    }
    true
}

at_each_isa! {
    fn from_bf16(floats: &[[u8; 2]], out: &mut [f32]) {
        out.iter_mut().zip(floats).for_each(|(out, &b)| *out = bf16::from_le_bytes(b).to_f32());
    }
}

/// Returns the value of an F8_E4M3. Its exponent and mantissa, placed in a binary32, give the value times 2^-120,
/// because the exponent biases differ.
fn from_e4m3(bits: u8) -> f32 {
    const BIAS: f32 = f32::from_bits((127 + 120) << 23);
    let (sign, magnitude) = (u32::from(bits & 0x80) << 24, u32::from(bits & 0x7F));
    if magnitude == 0x7F { f32::NAN } else { f32::from_bits(sign | magnitude << 20) * BIAS }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(dtype: DType, bytes: &[u8]) -> Vec<f32> {
        let mut out = vec![7.0];
        assert!(to_f32(dtype, bytes, &mut out));
        assert_eq!(out.remove(0), 7.0, "appended");
        out
    }

    /// Compares every 8-bit float with the definition of its fields.
    #[test]
    fn small_floats_are_exact() {
        for (dtype, exponent_bits, mantissa_bits) in [(DType::F8E4M3, 4, 3), (DType::F8E5M2, 5, 2)] {
            for bits in 0..=255u8 {
                let field = f64::from(bits & ((1 << mantissa_bits) - 1)) / f64::from(1 << mantissa_bits);
                let exponent = i32::from(bits >> mantissa_bits) & ((1 << exponent_bits) - 1);
                let bias = (1 << (exponent_bits - 1)) - 1;
                let magnitude = match exponent {
                    31 if field == 0.0 => f64::INFINITY,
                    31 => f64::NAN,
                    _ if dtype == DType::F8E4M3 && bits & 0x7F == 0x7F => f64::NAN,
                    0 => field * f64::from(1 - bias).exp2(),
                    e => (1.0 + field) * f64::from(e - bias).exp2(),
                };
                let wanted = if bits & 0x80 == 0 { magnitude } else { -magnitude } as f32;
                let [found] = values(dtype, &[bits])[..] else { panic!("one value") };
                let same = found.to_bits() == wanted.to_bits() || found.is_nan() && wanted.is_nan();
                assert!(same, "{dtype:?} {bits:#x}: {found}, not {wanted}");
            }
        }
        assert_eq!(values(DType::F8E4M3, &[0x7E, 0x01]), [448.0, 0.001_953_125]);
        assert_eq!(values(DType::F8E5M2, &[0x7B, 0xFC]), [57344.0, f32::NEG_INFINITY]);
    }

    #[test]
    fn floats() {
        assert_eq!(values(DType::F32, &[1.5f32.to_le_bytes(), (-0.25f32).to_le_bytes()].concat()), [1.5, -0.25]);
        assert_eq!(values(DType::F16, &[0x00, 0x3C, 0x01, 0x00]), [1.0, 2f32.powi(-24)]);
        assert_eq!(values(DType::Bf16, &[0x80, 0xBF, 0xFF]), [-1.0], "an incomplete element is ignored");
        let doubles = [1.0f64 + 2f64.powi(-24), 1.0 + 3.0 * 2f64.powi(-24), 1e300, 1e-46];
        let bytes = doubles.map(f64::to_le_bytes).concat();
        assert_eq!(values(DType::F64, &bytes), [1.0, 1.0 + 2f32.powi(-22), f32::INFINITY, 0.0], "ties to even");
    }

    #[test]
    fn what_is_no_weight_is_refused() {
        let weights: Vec<_> = DType::PLAIN
            .into_iter()
            .chain(DType::BLOCKS)
            .chain([DType::Opaque])
            .filter(|&dtype| {
                let mut out = Vec::new();
                let bytes = vec![0; dtype.size() + dtype.size() / 2];
                let taken = to_f32(dtype, &bytes, &mut out);
                assert_eq!(out.len(), if taken { bytes.len() / dtype.size() * dtype.weights() } else { 0 });
                taken
            })
            .collect();
        assert_eq!(weights[..6], [DType::F32, DType::F16, DType::Bf16, DType::F64, DType::F8E4M3, DType::F8E5M2]);
        assert_eq!(weights[6..], DType::BLOCKS);
    }
}
