//! Matrices of floats as bytes.

use std::io;

use impasto_core::DType;

use super::{DenseMatrix, Values, Words};
use crate::stored::{ALIGNMENT, Reader, Writer};

impl DenseMatrix {
    /// Writes the matrix as bytes, for [`Self::read`].
    ///
    /// # Errors
    /// Those of the output.
    pub fn write(&self, to: &mut Writer) -> io::Result<()> {
        to.numbers(&[self.dtype() as usize, self.outputs, self.inputs])?;
        match &self.values {
            Values::F32(weights) => to.array(weights),
            Values::Bf16(bits) | Values::F16(bits) => to.array(bits),
        }
    }

    /// Reads a matrix whose weights stay in the mapped file; `None` if the bytes are not one. Any bits are floats.
    pub fn read(from: &mut Reader) -> Option<DenseMatrix> {
        let [code, outputs, inputs] = from.numbers()?;
        let dtype = DType::from_code(u8::try_from(code).ok()?)?;
        let count = outputs.checked_mul(inputs)?;
        let lines = |size: usize, from: &mut Reader| from.lines(count.checked_mul(size)?.div_ceil(ALIGNMENT));
        let values = match dtype {
            DType::F32 => Values::F32(Words::Kept(lines(size_of::<f32>(), from)?, count)),
            DType::Bf16 => Values::Bf16(Words::Kept(lines(size_of::<u16>(), from)?, count)),
            DType::F16 => Values::F16(Words::Kept(lines(size_of::<u16>(), from)?, count)),
            _ => return None,
        };
        Some(DenseMatrix { values, outputs, inputs })
    }

    fn dtype(&self) -> DType {
        match &self.values {
            Values::F32(_) => DType::F32,
            Values::Bf16(_) => DType::Bf16,
            Values::F16(_) => DType::F16,
        }
    }
}
