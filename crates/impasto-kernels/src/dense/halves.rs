//! A matrix of 16-bit floats that is being read.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};

use impasto_core::DType;

use super::{DenseMatrix, Values, Words};
use crate::KernelError;
use crate::packed::Arena;
use crate::packed::arena::{Kept, Lines};

/// Memory of a [`DenseMatrix`] of 16-bit floats. Threads write it part by part.
pub struct HalfRows {
    kept: Kept,
    dtype: DType,
    outputs: usize,
    inputs: usize,
    parts: Vec<Part>,
}

struct Part {
    rows: Range<usize>,
    taken: AtomicBool,
}

impl HalfRows {
    /// Allocates memory for `outputs` x `inputs` floats of a 16-bit dtype. `parts` are ranges of rows, in order, that
    /// cover all rows.
    ///
    /// # Errors
    /// [`KernelError::Call`] for another dtype or other parts; [`KernelError::Memory`] if the system refuses memory.
    pub fn new(
        arena: &Arena,
        dtype: DType,
        [outputs, inputs]: [usize; 2],
        parts: &[Range<usize>],
    ) -> Result<HalfRows, KernelError> {
        if !matches!(dtype, DType::Bf16 | DType::F16) {
            return Err(KernelError::Call("the elements are not 16-bit floats"));
        }
        let begins = [0].into_iter().chain(parts.iter().map(|rows| rows.end));
        let ends = parts.iter().map(|rows| rows.start).chain([outputs]);
        if !begins.eq(ends) || parts.iter().any(|rows| rows.end < rows.start) {
            return Err(KernelError::Call("the parts are not all rows in order"));
        }
        let bytes = outputs.checked_mul(inputs).and_then(|count| count.checked_mul(size_of::<u16>()));
        let refused = KernelError::Memory { bytes: bytes.unwrap_or(usize::MAX) };
        let kept = bytes.and_then(|bytes| arena.zeros(bytes)).ok_or(refused)?;
        let parts = parts.iter().map(|rows| Part { rows: rows.clone(), taken: AtomicBool::new(false) }).collect();
        Ok(HalfRows { kept, dtype, outputs, inputs, parts })
    }

    /// Returns the bits of part number `index`, row-major, to be written; `None` if there is no such part or it was taken
    /// before. They are 0 at first.
    #[allow(clippy::mut_from_ref, reason = "a part is given only once")]
    pub fn take(&self, index: usize) -> Option<&mut [u16]> {
        let Part { rows, taken } = self.parts.get(index)?;
        if taken.swap(true, Ordering::Relaxed) {
            return None;
        }
        let row = self.inputs * size_of::<u16>();
        // SAFETY: parts do not overlap, as their rows are in order, and each is given once. `finish` takes `self`, so all
        // slices are gone by then.
        let bytes = unsafe { self.kept.range(rows.start * row..rows.end * row) };
        // Lines are aligned to 64 bytes, and the range begins at a multiple of 2.
        Some(bytemuck::cast_slice_mut(bytes))
    }

    /// Returns the matrix. Rows of parts that were not taken are 0.
    pub fn finish(self) -> DenseMatrix {
        let HalfRows { kept, dtype, outputs, inputs, .. } = self;
        let words = Words::Kept(Lines::Kept(kept), outputs * inputs);
        let values = if dtype == DType::F16 { Values::F16(words) } else { Values::Bf16(words) };
        DenseMatrix { values, outputs, inputs }
    }
}

#[cfg(test)]
#[allow(clippy::reversed_empty_ranges, clippy::single_range_in_vec_init, reason = "lists of parts, good and bad")]
mod tests {
    use half::{bf16, f16};

    use super::*;

    #[test]
    fn parts_become_the_matrix() {
        let arena = Arena::new();
        for (dtype, one) in [(DType::Bf16, bf16::ONE.to_bits()), (DType::F16, f16::ONE.to_bits())] {
            let rows = HalfRows::new(&arena, dtype, [5, 3], &[0..2, 2..2, 2..4, 4..5]).expect("memory");
            std::thread::scope(|scope| {
                for part in [3, 0] {
                    let rows = &rows;
                    scope.spawn(move || rows.take(part).expect("the first time").fill(one));
                }
            });
            assert!(rows.take(0).is_none() && rows.take(4).is_none());
            assert_eq!(rows.take(1).map(|part| part.len()), Some(0));
            let matrix = rows.finish();
            for (row, expected) in [1.0, 1.0, 0.0, 0.0, 1.0].into_iter().enumerate() {
                let mut weights = [7.0; 3];
                matrix.row(row, &mut weights);
                assert_eq!(weights, [expected; 3], "row {row}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let arena = Arena::new();
        let refused = |dtype, shape, parts: &[Range<usize>]| HalfRows::new(&arena, dtype, shape, parts).err();
        assert!(matches!(refused(DType::F32, [1, 1], &[0..1]), Some(KernelError::Call(_))));
        for parts in [&[][..], &[0..1], &[0..3], &[1..2], &[0..1, 0..2], &[0..2, 2..1, 1..2]] {
            assert!(matches!(refused(DType::F16, [2, 1], parts), Some(KernelError::Call(_))), "{parts:?}");
        }
        let all = [0..usize::MAX];
        assert!(matches!(refused(DType::F16, [usize::MAX, 2], &all), Some(KernelError::Memory { .. })));
    }
}
