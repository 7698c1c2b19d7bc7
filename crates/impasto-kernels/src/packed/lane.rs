//! Puts the integers of a row in a lane of a strip, in the order of cells.

use impasto_core::{Isa, at_each_isa};

use super::ColumnOrder;
use super::cell::{QUAD, STRIP};

/// The largest magnitude of an integer in a cell, and of the difference in an outlier.
pub(super) const LARGEST: i32 = i16::MAX as i32;

/// Integers of a vector of a cell.
const VECTOR: usize = STRIP * QUAD;

/// Writes the integers `z` of a row, clamped to 16 bits, to lane `lane` of all vectors of a strip: four columns to each
/// vector, in the order of `columns`. Padding is left as it is. Returns their largest magnitude. `row` is working memory.
pub(super) fn fill(
    isa: Isa,
    z: &[i32],
    columns: &ColumnOrder,
    vectors: &mut [[i16; VECTOR]],
    lane: usize,
    row: &mut Vec<i16>,
) -> u32 {
    assert!(z.len() == columns.inputs() && vectors.len() * QUAD >= z.len() && lane < STRIP, "a row of the strip");
    let order = columns.order();
    let (done, largest) = match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions. `columns` sorts the
        // indices of `z`, and there is a vector for each four of them.
        Isa::Avx512 => unsafe { fill_avx512(z, order, vectors, lane) },
        _ => (0, 0),
    };
    if done == order.len() {
        return largest;
    }
    row.resize(z.len(), 0);
    let largest = largest.max(narrow(isa, z, row));
    let at = |column: u16| row[column as usize];
    let (quads, rest) = order[done..].as_chunks::<QUAD>();
    let mut lanes = vectors[done / QUAD..].iter_mut().map(|vector| &mut vector[lane * QUAD..][..QUAD]);
    for (&[a, b, c, d], values) in quads.iter().zip(&mut lanes) {
        values.copy_from_slice(&[at(a), at(b), at(c), at(d)]);
    }
    if let Some(values) = lanes.next() {
        values.iter_mut().zip(rest).for_each(|(value, &column)| *value = at(column));
    }
    largest
}

at_each_isa! {
    /// Clamps the integers of a row to 16 bits, and returns their largest magnitude.
    fn narrow(z: &[i32], row: &mut [i16]) -> u32 {
        row.iter_mut().zip(z).fold(0, |most, (value, &z)| {
            *value = z.clamp(-LARGEST, LARGEST) as i16;
            most.max(z.unsigned_abs())
        })
    }
}

/// [`fill`] for as many columns as fill registers. Returns their number, and their largest magnitude.
///
/// # Safety
/// The processor supports the target features below; every entry of `order` is an index of `z`; there is a vector for
/// each four entries.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
unsafe fn fill_avx512(z: &[i32], order: &[u16], vectors: &mut [[i16; VECTOR]], lane: usize) -> (usize, u32) {
    use std::arch::x86_64::*;
    /// Columns of a register, and the vectors that they go to.
    const COLUMNS: usize = 16;
    const EACH: usize = COLUMNS / QUAD;

    let (groups, _) = order.as_chunks::<COLUMNS>();
    let (least, most) = (_mm512_set1_epi32(-LARGEST), _mm512_set1_epi32(LARGEST));
    let mut largest = _mm512_setzero_si512();
    for (group, vectors) in groups.iter().zip(vectors.as_chunks_mut::<EACH>().0) {
        // SAFETY: a group has 16 entries, each of which is an index of `z`.
        let values = unsafe {
            let columns = _mm512_cvtepu16_epi32(_mm256_loadu_si256(group.as_ptr().cast()));
            _mm512_i32gather_epi32::<4>(columns, z.as_ptr())
        };
        largest = _mm512_max_epu32(largest, _mm512_abs_epi32(values));
        let narrow = _mm512_cvtepi32_epi16(_mm512_max_epi32(_mm512_min_epi32(values, most), least));
        let [low, high] = [_mm256_castsi256_si128(narrow), _mm256_extracti128_si256::<1>(narrow)];
        let quads = [
            _mm_cvtsi128_si64(low),
            _mm_extract_epi64::<1>(low),
            _mm_cvtsi128_si64(high),
            _mm_extract_epi64::<1>(high),
        ];
        for (vector, quad) in vectors.iter_mut().zip(quads) {
            let values: [i16; QUAD] = bytemuck::cast(quad);
            vector[lane * QUAD..][..QUAD].copy_from_slice(&values);
        }
    }
    (groups.len() * COLUMNS, _mm512_reduce_max_epu32(largest))
}

#[cfg(test)]
mod tests {
    use impasto_core::rng::SplitMix64;

    use super::*;

    #[test]
    fn every_instruction_set_fills_alike() {
        let mut rng = SplitMix64::new(3);
        for inputs in [1, 3, 4, 15, 16, 17, 31, 32, 33, 100, 576, 1000] {
            let widths: Vec<i32> = (0..inputs).map(|_| (rng.next_f64() * 9.0) as i32).collect();
            let columns = ColumnOrder::new(&vec![1.0; inputs], &widths).expect("columns");
            for most in [3.0, 40_000.0, 4e9] {
                let z: Vec<i32> = (0..inputs).map(|_| ((rng.next_f64() - 0.5) * most) as i32).collect();
                for lane in [0, 7, 15] {
                    let mut expected = vec![[5i16; VECTOR]; inputs.div_ceil(QUAD)];
                    for (place, &column) in columns.order().iter().enumerate() {
                        let clamped = z[column as usize].clamp(-LARGEST, LARGEST) as i16;
                        expected[place / QUAD][lane * QUAD + place % QUAD] = clamped;
                    }
                    let largest = z.iter().map(|z| z.unsigned_abs()).max();
                    for isa in Isa::available() {
                        let mut found = vec![[5i16; VECTOR]; inputs.div_ceil(QUAD)];
                        let most = fill(isa, &z, &columns, &mut found, lane, &mut Vec::new());
                        assert_eq!(Some(most), largest, "{inputs} {isa}");
                        assert!(found == expected, "{inputs} {isa}");
                    }
                }
            }
        }
    }
}
