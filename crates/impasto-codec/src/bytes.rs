//! The modes without entropy-coded values: stored, and Zstandard over byte planes (SPEC 5.1, 5.2).

use crate::error::CodecError;

/// Splits elements into byte planes: byte 0 of every element, then byte 1, ...
fn to_planes(elements: &[u8], size: usize) -> Vec<u8> {
    (0..size).flat_map(|b| elements.iter().skip(b).step_by(size).copied()).collect()
}

fn from_planes(planes: &[u8], size: usize, out: &mut [u8]) {
    let n = out.len() / size;
    for (b, plane) in planes.chunks_exact(n).enumerate() {
        for (element, &byte) in out.chunks_exact_mut(size).zip(plane) {
            element[b] = byte;
        }
    }
}

/// Compresses elements of `size` bytes each at a Zstandard level.
///
/// # Errors
/// If the library fails.
pub fn compress(elements: &[u8], size: usize, compression: i32) -> Result<Vec<u8>, CodecError> {
    let mut compressor = zstd::bulk::Compressor::new(compression).map_err(failed)?;
    let planes;
    let content = if size == 1 {
        elements
    } else {
        planes = to_planes(elements, size);
        &planes
    };
    compressor.compress(content).map_err(failed)
}

fn failed(error: std::io::Error) -> CodecError {
    // The negated number of `ZSTD_error_memory_allocation`, which the bindings do not name.
    let memory = zstd::zstd_safe::get_error_name(64usize.wrapping_neg());
    let reason = error.to_string();
    if reason == memory { CodecError::Memory } else { CodecError::Zstd(reason) }
}

/// Decodes a unit in mode zstd into `out`, which holds elements of `size` bytes.
///
/// # Errors
/// If the frame is damaged or its content is not exactly `out.len()` bytes.
pub fn decompress(unit: &[u8], size: usize, out: &mut [u8]) -> Result<(), CodecError> {
    let frame =
        zstd::zstd_safe::find_frame_compressed_size(unit).map_err(|_| CodecError::Zstd("no whole frame".into()))?;
    if frame != unit.len() {
        return Err(CodecError::TrailingBytes(unit.len() - frame, "5.1"));
    }
    let mut decompressor = zstd::bulk::Decompressor::new().map_err(failed)?;
    let mut planes = vec![0; out.len()];
    let n = decompressor.decompress_to_buffer(unit, &mut planes).map_err(failed)?;
    if n != out.len() {
        return Err(CodecError::Zstd(format!("the content is {n} bytes, but the tile has {}", out.len())));
    }
    from_planes(&planes, size, out);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn round_trip(n in 1usize..500, size in prop::sample::select(vec![1usize, 2, 4, 8]), seed: u8) {
            let elements: Vec<u8> = (0..n * size).map(|i| (i * i % 251) as u8 ^ seed).collect();
            let unit = compress(&elements, size, 3)?;
            let mut out = vec![0; elements.len()];
            decompress(&unit, size, &mut out)?;
            prop_assert_eq!(out, elements);
        }

        #[test]
        fn never_panics(unit: Vec<u8>) {
            let _ = decompress(&unit, 2, &mut [0; 64]);
        }
    }

    #[test]
    fn a_lack_of_memory_is_no_damage() {
        let name = zstd::zstd_safe::get_error_name(64usize.wrapping_neg());
        assert_eq!(name, "Allocation error : not enough memory");
        assert_eq!(failed(std::io::Error::other(name)), CodecError::Memory);
        assert!(matches!(failed(std::io::Error::other("Unknown frame")), CodecError::Zstd(_)));
    }

    #[test]
    fn refuses_wrong_sizes() {
        let mut unit = compress(&[7; 100], 1, 3).expect("compress");
        assert!(decompress(&unit, 1, &mut [0; 99]).is_err());
        assert!(decompress(&unit, 1, &mut [0; 101]).is_err());
        unit.push(0);
        assert_eq!(decompress(&unit, 1, &mut [0; 100]), Err(CodecError::TrailingBytes(1, "5.1")));
        unit.truncate(unit.len() - 2);
        assert!(decompress(&unit, 1, &mut [0; 100]).is_err());
    }
}
