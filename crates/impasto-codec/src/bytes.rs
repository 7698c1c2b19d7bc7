//! The modes without entropy-coded values: stored, and Zstandard over byte planes (SPEC 5.1, 5.2).

use zstd::zstd_safe::{CCtx, DCtx, ErrorCode, compress_bound, find_frame_compressed_size, get_error_name};

use crate::error::CodecError;

/// Splits elements into byte planes: byte 0 of every element, then byte 1, ...
fn to_planes(elements: &[u8], size: usize) -> Vec<u8> {
    let mut planes = vec![0; elements.len()];
    match size {
        2 => planes_of::<2>(elements, &mut planes),
        4 => planes_of::<4>(elements, &mut planes),
        8 => planes_of::<8>(elements, &mut planes),
        _ => {
            for (b, plane) in planes.chunks_exact_mut((elements.len() / size).max(1)).enumerate() {
                plane.iter_mut().zip(elements.chunks_exact(size)).for_each(|(byte, element)| *byte = element[b]);
            }
        }
    }
    planes
}

/// Splits elements of `N` bytes, which compilers turn into vectors.
fn planes_of<const N: usize>(elements: &[u8], planes: &mut [u8]) {
    let elements = elements.as_chunks::<N>().0;
    for (b, plane) in planes.chunks_exact_mut(elements.len().max(1)).enumerate() {
        plane.iter_mut().zip(elements).for_each(|(byte, element)| *byte = element[b]);
    }
}

/// Writes row `r` of a tile of elements of `size` bytes, given as byte planes, to `row`.
pub fn from_planes(planes: &[u8], size: usize, r: usize, row: &mut [u8]) {
    let width = row.len() / size;
    for (b, plane) in planes.chunks_exact(planes.len() / size).enumerate() {
        for (element, &byte) in row.chunks_exact_mut(size).zip(&plane[r * width..]) {
            element[b] = byte;
        }
    }
}

/// Compresses elements of `size` bytes each at a Zstandard level.
///
/// # Errors
/// If the library fails, or memory runs out.
pub fn compress(elements: &[u8], size: usize, compression: i32) -> Result<Vec<u8>, CodecError> {
    // `zstd::bulk` panics if there is no memory for a context.
    let mut context = CCtx::try_create().ok_or(CodecError::Memory)?;
    let planes;
    let content = if size == 1 {
        elements
    } else {
        planes = to_planes(elements, size);
        &planes
    };
    let mut unit = Vec::with_capacity(compress_bound(content.len()));
    context.compress(&mut unit, content, compression).map_err(failed)?;
    Ok(unit)
}

/// The negated number of `ZSTD_error_memory_allocation`, which the bindings do not name.
const NO_MEMORY: ErrorCode = 64usize.wrapping_neg();

fn failed(code: ErrorCode) -> CodecError {
    if code == NO_MEMORY { CodecError::Memory } else { CodecError::Zstd(get_error_name(code).into()) }
}

/// Decompresses a unit in mode zstd with `wanted` bytes of elements, and returns them as byte planes.
///
/// # Errors
/// If the frame is damaged, its content is not exactly that many bytes, or memory runs out.
pub fn decompress(unit: &[u8], wanted: usize) -> Result<Vec<u8>, CodecError> {
    let frame = find_frame_compressed_size(unit).map_err(|_| CodecError::Zstd("no whole frame".into()))?;
    if frame != unit.len() {
        return Err(CodecError::TrailingBytes(unit.len() - frame, "5.1"));
    }
    let mut context = DCtx::try_create().ok_or(CodecError::Memory)?;
    let mut planes = vec![0; wanted];
    let n = context.decompress(&mut planes[..], unit).map_err(failed)?;
    if n != wanted {
        return Err(CodecError::Zstd(format!("the content is {n} bytes, but the tile has {wanted}")));
    }
    Ok(planes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(n in 1usize..500, size in prop::sample::select(vec![1usize, 2, 4, 8, 18]), seed: u8) {
            let elements: Vec<u8> = (0..n * size).map(|i| (i * i % 251) as u8 ^ seed).collect();
            let unit = compress(&elements, size, 3)?;
            let planes = decompress(&unit, elements.len())?;
            for rows in [1, n] {
                let mut out = vec![0; elements.len()];
                let rows = out.chunks_exact_mut(n / rows * size).enumerate();
                rows.for_each(|(r, row)| from_planes(&planes, size, r, row));
                prop_assert_eq!(&out, &elements);
            }
        }

        #[test]
        fn never_panics(unit: Vec<u8>) {
            let _ = decompress(&unit, 64);
        }
    }

    #[test]
    fn a_lack_of_memory_is_no_damage() {
        assert_eq!(get_error_name(NO_MEMORY), "Allocation error : not enough memory");
        assert_eq!(failed(NO_MEMORY), CodecError::Memory);
        assert!(matches!(failed(NO_MEMORY + 1), CodecError::Zstd(_)));
    }

    #[test]
    fn refuses_wrong_sizes() {
        let mut unit = compress(&[7; 100], 1, 3).expect("compress");
        assert!(decompress(&unit, 99).is_err());
        assert!(decompress(&unit, 101).is_err());
        unit.push(0);
        assert_eq!(decompress(&unit, 100), Err(CodecError::TrailingBytes(1, "5.1")));
        unit.truncate(unit.len() - 2);
        assert!(decompress(&unit, 100).is_err());
    }
}
