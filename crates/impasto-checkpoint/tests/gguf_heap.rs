//! Memory for a GGUF header is bounded by a small multiple of its bytes, whatever lengths it declares. This test has
//! its own process, so that nothing else allocates.

#[allow(dead_code)] // Other tests use the rest.
#[path = "it/common/mod.rs"]
mod common;
#[path = "../../impasto-core/tests/support/heap.rs"]
mod heap;

use common::gguf::{array, entry, file_of, pair, string};
use impasto_checkpoint::gguf::parse_header;

/// Returns the peak of allocated bytes while a file is parsed, and whether it is valid.
fn peak(file: &[u8]) -> (usize, bool) {
    let (is_valid, peak) = heap::peak(|| parse_header(file, file.len() as u64, "f").is_ok());
    (peak, is_valid)
}

#[test]
fn memory_is_bounded_by_the_bytes_that_are_there() {
    const MANY: usize = 100_000;
    // Nothing is allocated for bytes that are declared but absent.
    let lies = [
        file_of(&[pair("k", 9, &array(12, u64::MAX, &[0; 64]))], &[], &[]),
        file_of(&[pair("k", 9, &array(8, 1 << 40, &[0; 64]))], &[], &[]),
        file_of(&[pair("k", 9, &array(9, 1 << 40, &[0; 64]))], &[], &[]),
        file_of(&[pair("k", 8, &(u64::MAX - 8).to_le_bytes())], &[], &[]),
        [&b"GGUF\x03\0\0\0"[..], &[0xFF; 16], &[0; 64]].concat(),
        [&b"GGUF\x03\0\0\0"[..], &(1u64 << 40).to_le_bytes(), &[0; 72]].concat(),
    ];
    for file in lies {
        let (bytes, parsed) = peak(&file);
        assert!(!parsed && bytes < 4096, "{bytes} bytes for a file of {}", file.len());
    }
    // The most expensive contents for their length: empty and tiny strings, empty arrays, short pairs, tensors without
    // data.
    let pairs: Vec<_> = (0..MANY).map(|i| pair(&format!("{i:x}"), 0, &[1])).collect();
    let tensors: Vec<_> = (0..MANY).map(|i| entry(&format!("{i:x}"), &[0], 24, 0)).collect();
    let costly = [
        file_of(&[pair("k", 9, &array(8, MANY as u64, &string("").repeat(MANY)))], &[], &[]),
        file_of(&[pair("k", 9, &array(8, MANY as u64, &string("x").repeat(MANY)))], &[], &[]),
        file_of(&[pair("k", 9, &array(9, MANY as u64, &array(9, 0, &[]).repeat(MANY)))], &[], &[]),
        file_of(&pairs, &[], &[]),
        file_of(&[], &tensors, &[]),
    ];
    for file in costly {
        let (bytes, parsed) = peak(&file);
        assert!(parsed && bytes < 12 * file.len(), "{bytes} bytes for a file of {}", file.len());
    }
}
