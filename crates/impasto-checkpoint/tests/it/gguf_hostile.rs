//! Invalid GGUF files: each error is one clear line that names the file and the tensor or key.

use crate::common::gguf::{array, entry, file_of, pair, pair_u32, sample, string};
use impasto_checkpoint::{Checkpoint, gguf};
use proptest::prelude::*;

/// Returns the sample with `bytes` at an offset.
fn patched(at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut file = sample();
    file[at..at + bytes.len()].copy_from_slice(bytes);
    file
}

/// The cases: a file, and the start of the message after the file name.
fn cases() -> Vec<(Vec<u8>, String)> {
    const HEADER: usize = 24;
    let of_pair = |pair: Vec<u8>| file_of(&[pair], &[], &[]);
    let of_entry = |entry: Vec<u8>, data: usize| file_of(&[], &[entry], &vec![0; data]);
    let of_two = |a: Vec<u8>, b: Vec<u8>, data: usize| file_of(&[], &[a, b], &vec![0; data]);
    let cut = |len: usize| sample()[..len].to_vec();
    let huge = u64::MAX.to_le_bytes();
    let nested = (0..9).fold(array(0, 0, &[]), |inner, _| array(9, 1, &inner));
    let alignment = "general.alignment must be of type u32 and a power of two, at most 65536";
    let overflow = "tensor \"w\": the byte count of its shape overflows 64 bits";
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (vec![], "the file is empty"),
        (cut(3), "it does not begin with \"GGUF\""),
        (patched(0, b"GGML"), "it does not begin with \"GGUF\""),
        (cut(7), "cut short: the version needs 4 bytes, 3 follow"),
        (patched(4, &1u32.to_le_bytes()), "version 1 of GGUF; supported are 2 and 3"),
        (patched(4, &4u32.to_le_bytes()), "version 4 of GGUF; supported are 2 and 3"),
        (patched(4, &0u32.to_le_bytes()), "version 0 of GGUF; supported are 2 and 3"),
        (patched(4, &3u32.to_be_bytes()), "big-endian GGUF, which is not supported"),
        (cut(15), "cut short: the count of tensors needs 8 bytes, 7 follow"),
        (cut(23), "cut short: a count needs 8 bytes, 7 follow"),
        (patched(16, &huge), "cut short: 18446744073709551615 pairs of metadata declared, 296 bytes follow"),
        (patched(8, &huge), "cut short: 18446744073709551615 tensors declared, 219 bytes follow"),
        (patched(8, &10u64.to_le_bytes()), "cut short: 10 tensors declared, 219 bytes follow"),
        // Keys and values.
        (patched(HEADER, &huge), "cut short: key needs 18446744073709551615 bytes, 288 follow"),
        (of_pair(pair("", 0, &[1])), "key of 0 bytes, allowed are 1 to 65535"),
        (of_pair(pair(&"k".repeat(65536), 0, &[1])), "key of 65536 bytes, allowed are 1 to 65535"),
        (patched(HEADER + 8, b"\xff"), "key is not UTF-8"),
        (of_pair(pair("k", 13, &[1])), "key \"k\": values of type 13, which GGUF does not have"),
        (of_pair(pair("k", u32::MAX, &[1])), "key \"k\": values of type 4294967295, which GGUF does not have"),
        (of_pair(pair("k", 7, &[2])), "key \"k\": a boolean of 2; allowed are 0 and 1"),
        (of_pair(pair("k", 9, &array(7, 2, &[1, 3]))), "key \"k\": a boolean of 3; allowed are 0 and 1"),
        (of_pair(pair("k\n", 8, &huge)), "key \"k\\n\": cut short: a string needs 18446744073709551615 bytes, "),
        (
            of_pair(pair("k", 9, &array(12, u64::MAX / 8, &[]))),
            "key \"k\": cut short: 2305843009213693951 values declared, ",
        ),
        (of_pair(pair("k", 9, &array(8, 1 << 61, &[]))), "key \"k\": cut short: 2305843009213693952 values declared, "),
        (of_pair(pair("k", 9, &array(8, 1000, &[]))), "key \"k\": cut short: 1000 values declared, "),
        (of_pair(pair("k", 9, &array(9, 1000, &[]))), "key \"k\": cut short: 1000 values declared, "),
        (of_pair(pair("k", 9, &array(13, 0, &[]))), "key \"k\": values of type 13, which GGUF does not have"),
        (of_pair(pair("k", 9, &nested)), "key \"k\": arrays nested more than 8 deep"),
        (file_of(&[pair_u32("k", 1), pair_u32("l", 1), pair_u32("k", 1)], &[], &[]), "key \"k\" occurs twice"),
        (of_pair(pair("general.alignment", 10, &32u64.to_le_bytes())), alignment),
        (of_pair(pair_u32("general.alignment", 0)), alignment),
        (of_pair(pair_u32("general.alignment", 48)), alignment),
        (of_pair(pair_u32("general.alignment", 1 << 17)), alignment),
        // Tensors.
        (of_entry(entry("", &[1], 0, 0), 4), "tensor 0: name of 0 bytes, allowed are 1 to 4096"),
        (of_entry(entry(&"n".repeat(4097), &[1], 0, 0), 4), "tensor 0: name of 4097 bytes, allowed are 1 to 4096"),
        (
            file_of(&[], &[entry("a", &[1], 0, 0), string(b"\xc3\x28....................")], &[0; 4]),
            "tensor 1: name is not UTF-8",
        ),
        (of_entry(entry("w", &[1; 17], 0, 0), 4), "tensor \"w\": 17 dimensions, at most 16 are allowed"),
        (cut(215), "tensor \"none\": cut short: the offset of a tensor needs 8 bytes, "),
        (of_entry(entry("w", &[1 << 32, 1 << 32], 0, 0), 4), overflow),
        (of_entry(entry("w", &[0, 1 << 32, 1 << 32, 1 << 32], 0, 0), 4), overflow),
        (of_entry(entry("w", &[1 << 61], 28, 0), 4), overflow),
        (of_entry(entry("w", &[1 << 32, 1 << 32], 99, 0), 4), overflow),
        (of_entry(entry("w", &[33], 8, 0), 64), "tensor \"w\": rows of 33 weights are not whole blocks of 32"),
        (of_entry(entry("w", &[16, 2], 8, 0), 64), "tensor \"w\": rows of 16 weights are not whole blocks of 32"),
        (of_entry(entry("w", &[], 8, 0), 64), "tensor \"w\": rows of 1 weights are not whole blocks of 32"),
        (of_entry(entry("w", &[128], 16, 0), 64), "tensor \"w\": rows of 128 weights are not whole blocks of 256"),
        (of_entry(entry("w", &[9], 24, 0), 8), "tensor \"w\": ends at 9, past the end of the data at 8"),
        (
            of_entry(entry("w", &[1 << 40], 24, 0), 8),
            "tensor \"w\": ends at 1099511627776, past the end of the data at 8",
        ),
        (of_entry(entry("w", &[0], 0, 32), 8), "tensor \"w\": ends at 32, past the end of the data at 8"),
        (of_entry(entry("w", &[8], 24, u64::MAX), 8), overflow),
        (
            of_entry(entry("w", &[8], 99, u64::MAX), 8),
            "tensor \"w\": ends at 18446744073709551615, past the end of the data at 8",
        ),
        (of_two(entry("w", &[8], 24, 0), entry("w", &[8], 24, 32), 64), "tensor \"w\": named twice"),
        (
            of_two(entry("a", &[8], 24, 0), entry("b", &[8], 24, 8), 64),
            "tensor \"b\": begins at 8, not a multiple of 32",
        ),
        (
            of_two(entry("a", &[33], 24, 0), entry("b", &[8], 24, 32), 64),
            "tensor \"b\": overlap: begins at 32, the tensor before it ends at 33",
        ),
        (
            of_two(entry("a", &[8], 24, 0), entry("b", &[8], 24, 0), 64),
            "tensor \"b\": overlap: begins at 0, the tensor before it ends at 8",
        ),
        (
            of_two(entry("a", &[8], 99, 0), entry("b", &[8], 99, 0), 64),
            "tensor \"b\": overlap: begins at 0, the tensor before it ends at 64",
        ),
        (
            of_two(entry("a", &[8], 24, 0), entry("b", &[8], 24, 64), 96),
            "tensor \"b\": hole: begins at 64, the tensor before it ends at 8",
        ),
        (of_entry(entry("w", &[8], 24, 32), 64), "tensor \"w\": hole: begins at 32, the tensor before it ends at 0"),
        (of_entry(entry("w", &[8], 24, 0), 33), "the tensors cover 8 bytes of data, the file holds 33"),
        (file_of(&[], &[], &[0; 32]), "the tensors cover 0 bytes of data, the file holds 32"),
    ];
    cases.into_iter().map(|(file, rule)| (file, rule.to_owned())).collect()
}

#[test]
fn each_broken_rule_has_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.gguf");
    for (file, expected) in cases() {
        std::fs::write(&path, &file).unwrap();
        let message = Checkpoint::open(&path).expect_err(&expected).to_string();
        let shown = path.to_string_lossy();
        let rule = message.strip_prefix(&format!("{shown}: ")).unwrap_or_else(|| panic!("no file in {message}"));
        assert!(rule.starts_with(&expected), "said {rule:?}, expected {expected:?}");
        assert_eq!(message.lines().count(), 1, "{message:?}");
        let pure = gguf::parse_header(&file, file.len() as u64, &shown).unwrap_err();
        assert_eq!(pure.to_string(), message);
    }
}

#[test]
fn a_message_stays_short() {
    let name = "n".repeat(4096);
    let file = file_of(&[], &[entry(&name, &[1; 17], 0, 0)], &[]);
    let message = gguf::parse_header(&file, file.len() as u64, &name).unwrap_err().to_string();
    assert!(message.contains("17 dimensions") && message.len() < 1000, "{} bytes", message.len());
}

/// A header is limited to the length of a safetensors header; a file may be longer.
#[test]
fn a_header_over_the_limit_is_refused() {
    const MANY: u64 = 100_000_100;
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("long.gguf");
    std::fs::write(&path, file_of(&[pair("k", 9, &array(0, MANY, &[]))], &[], &[])).unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    file.set_len(MANY + 1000).unwrap();
    let message = Checkpoint::open(&path).unwrap_err().to_string();
    assert!(message.ends_with("long.gguf: header of more than 100000000 bytes"), "{message}");
}

/// Bytes after the last tensor are padding and may be missing; bytes before its end may not.
#[test]
fn every_truncation_of_what_counts_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.gguf");
    let file = file_of(&[pair_u32("k", 1)], &[entry("a", &[3], 24, 0), entry("b", &[32], 2, 32)], &[5; 32 + 18 + 14]);
    for len in 0..file.len() - 14 {
        std::fs::write(&path, &file[..len]).unwrap();
        Checkpoint::open(&path).expect_err("cut");
    }
    for len in file.len() - 14..=file.len() {
        std::fs::write(&path, &file[..len]).unwrap();
        let checkpoint = Checkpoint::open(&path).unwrap();
        assert_eq!(checkpoint.bytes(checkpoint.tensor("b").unwrap()), [5; 18]);
    }
}

/// A prefix that contains the header is sufficient.
#[test]
fn the_header_is_parsed_from_a_prefix() {
    let file = sample();
    let whole = gguf::parse_header(&file, file.len() as u64, "f").unwrap();
    let start = whole.data_start as usize;
    assert_eq!(gguf::parse_header(&file[..start], file.len() as u64, "f").unwrap(), whole);
    assert_eq!(gguf::parse_detached_header(&file[..start], "f").unwrap(), whole);
    let short = gguf::parse_detached_header(&file[..start - 1], "f").unwrap_err();
    assert_eq!(short.to_string(), "f: cut short: the header needs 224 bytes, 223 follow");
    let long = gguf::parse_detached_header(&file[..start + 1], "f").unwrap_err();
    assert_eq!(long.to_string(), "f: the tensors cover 96 bytes of data, the file holds 1");
    gguf::parse_header(&file, start as u64 - 40, "f").expect_err("a file shorter than its header");
}

/// Checks that the tensors of a valid header are inside the file and do not overlap.
fn holds_together(file: &[u8]) {
    let Ok(header) = gguf::parse_header(file, file.len() as u64, "f") else { return };
    let mut end = 0;
    for tensor in &header.tensors {
        let range = tensor.offsets();
        assert!(range.start >= end && range.start - end < header.alignment && range.end >= range.start);
        end = range.end;
        let _ = (tensor.elements(), tensor.weights());
    }
    assert!(header.data_start + end <= file.len() as u64);
}

#[test]
fn every_single_bit_flip_is_harmless() {
    let file = sample();
    assert_eq!(gguf::parse_header(&file, file.len() as u64, "f").unwrap().tensors.len(), 3);
    for bit in 0..file.len() * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        holds_together(&damaged);
    }
}

proptest! {
    #[test]
    fn many_bit_flips_are_harmless(flips in prop::collection::vec(0usize..8 * 219, 1..6)) {
        let mut file = sample();
        for bit in flips {
            file[bit / 8] ^= 1 << (bit % 8);
        }
        holds_together(&file);
    }

    #[test]
    fn replaced_numbers_are_harmless(place in 0usize..211, number in prop_oneof![0u64..300, any::<u64>()], wide: bool) {
        let bytes = number.to_le_bytes();
        holds_together(&patched(place, &bytes[..if wide { 8 } else { 4 }]));
    }

    #[test]
    fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200), tensors in 0u64..3, pairs in 0u64..3) {
        holds_together(&bytes);
        holds_together(&[&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &pairs.to_le_bytes(), &bytes].concat());
    }
}
