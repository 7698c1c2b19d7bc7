//! A tensor as the matrix that it is coded as, and its weights.

use half::{bf16, f16};
use impasto_codec::DType;

/// The bytes of a tensor seen as `rows` x `columns` elements (SPEC 4.1).
#[derive(Clone, Copy)]
pub struct MatrixView<'a> {
    /// Little-endian elements, row by row.
    pub bytes: &'a [u8],
    /// Type of the elements.
    pub dtype: DType,
    /// Rows.
    pub rows: usize,
    /// Columns.
    pub columns: usize,
}

/// After how many dims the columns begin: at the last dim, or after the first where what follows is a small kernel (a
/// convolution) rather than a matrix for each of many experts.
pub fn split(dims: &[u64]) -> usize {
    match dims {
        [] | [_] => 0,
        [_, .., last] if dims.len() > 2 && *last < 32 => 1,
        _ => dims.len() - 1,
    }
}

impl<'a> MatrixView<'a> {
    /// The bytes of row `r`.
    pub fn row(&self, r: usize) -> &'a [u8] {
        let n = self.columns * self.dtype.size();
        &self.bytes[r * n..(r + 1) * n]
    }

    /// The bytes of columns `columns` of row `r`.
    pub fn part(&self, r: usize, columns: std::ops::Range<usize>) -> &'a [u8] {
        let size = self.dtype.size();
        &self.row(r)[columns.start * size..columns.end * size]
    }

    /// Number of elements.
    pub fn elements(&self) -> usize {
        self.rows * self.columns
    }
}

/// The values of little-endian floats (F32, F16 or BF16; other dtypes have none and give nothing).
pub fn weights(dtype: DType, bytes: &[u8], out: &mut Vec<f32>) {
    out.clear();
    let pairs = || bytes.as_chunks::<2>().0.iter();
    match dtype {
        DType::Bf16 => out.extend(pairs().map(|&b| bf16::from_le_bytes(b).to_f32())),
        DType::F16 => out.extend(pairs().map(|&b| f16::from_le_bytes(b).to_f32())),
        DType::F32 => out.extend(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b))),
        DType::F8E4M3 => out.extend(bytes.iter().map(|&b| small_float(b, 4, 3))),
        DType::F8E5M2 => out.extend(bytes.iter().map(|&b| small_float(b, 5, 2))),
        _ => {}
    }
}

/// Does a tensor of floats hold NaN or infinity? Other dtypes cannot.
pub fn has_non_finite(matrix: &MatrixView) -> bool {
    // All ones in the exponent. (F8_E4M3 has no infinity, and its NaN has a mantissa of ones too.)
    let ones = |bits: u32, mask: u32| bits & mask == mask;
    let pairs =
        |mask: u16| matrix.bytes.as_chunks::<2>().0.iter().any(|&b| ones(u16::from_le_bytes(b).into(), mask.into()));
    match matrix.dtype {
        DType::F32 | DType::C64 => {
            matrix.bytes.as_chunks::<4>().0.iter().any(|&b| ones(u32::from_le_bytes(b), 0x7F80_0000))
        }
        DType::F64 => matrix.bytes.as_chunks::<8>().0.iter().any(|&b| !f64::from_le_bytes(b).is_finite()),
        DType::F16 => pairs(0x7C00),
        DType::Bf16 => pairs(0x7F80),
        DType::F8E4M3 => matrix.bytes.iter().any(|&b| ones(b.into(), 0x7F)),
        DType::F8E5M2 => matrix.bytes.iter().any(|&b| ones(b.into(), 0x7C)),
        DType::F8E8M0 => matrix.bytes.contains(&0xFF),
        _ => false,
    }
}

/// The value of an 8-bit float by its fields alone: enough to estimate scales, so NaN and infinity come out as large numbers.
fn small_float(bits: u8, exponent_bits: u32, mantissa_bits: u32) -> f32 {
    let exponent = (u32::from(bits) >> mantissa_bits) & ((1 << exponent_bits) - 1);
    let mantissa = (u32::from(bits) & ((1 << mantissa_bits) - 1)) as f32 / (1 << mantissa_bits) as f32;
    let bias = (1 << (exponent_bits - 1)) - 1;
    let power = |e: i32| f32::from_bits(((e + 127) as u32) << 23);
    let magnitude =
        if exponent == 0 { mantissa * power(1 - bias) } else { (1.0 + mantissa) * power(exponent as i32 - bias) };
    if bits & 0x80 != 0 { -magnitude } else { magnitude }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn splits() {
        assert_eq!(split(&[]), 0);
        assert_eq!(split(&[7]), 0);
        assert_eq!(split(&[7, 9]), 1);
        assert_eq!(split(&[384, 80, 3]), 1, "a convolution");
        assert_eq!(split(&[8, 512, 128]), 2, "experts");
    }

    #[test]
    fn small_floats() {
        assert_eq!(small_float(0x38, 4, 3), 1.0);
        assert_eq!(small_float(0xBC, 5, 2), -1.0);
        assert_eq!(small_float(0x01, 4, 3), 0.001_953_125);
    }

    #[test]
    fn non_finite_bits() {
        let found = |dtype: DType, bytes: &[u8]| {
            has_non_finite(&MatrixView { bytes, dtype, rows: 1, columns: bytes.len() / dtype.size() })
        };
        assert!(found(DType::F32, &f32::NAN.to_le_bytes()) && !found(DType::F32, &f32::MAX.to_le_bytes()));
        assert!(found(DType::F64, &f64::INFINITY.to_le_bytes()) && !found(DType::F64, &f64::MAX.to_le_bytes()));
        assert!(found(DType::Bf16, &bf16::NEG_INFINITY.to_le_bytes()) && !found(DType::Bf16, &bf16::MAX.to_le_bytes()));
        assert!(found(DType::F16, &f16::NAN.to_le_bytes()) && !found(DType::F16, &f16::MAX.to_le_bytes()));
        assert!(found(DType::F8E4M3, &[0xFF]) && !found(DType::F8E4M3, &[0x7E]));
        assert!(!found(DType::I32, &[0xFF; 4]));
    }
}
