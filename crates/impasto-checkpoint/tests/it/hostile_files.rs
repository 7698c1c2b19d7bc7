//! Invalid files: each error is one clear line that names the file and the tensor.

use crate::common::{entry, file_of, shard_of};
use impasto_checkpoint::{Checkpoint, parse_header};
use impasto_core::DType;
use proptest::prelude::*;

/// The cases: a file, and the start of the message after the file name.
fn cases() -> Vec<(Vec<u8>, &'static str)> {
    let one = |json: &str| file_of(json, &[0; 8]);
    let tensor = |body: &str| one(&format!(r#"{{"w":{{{body}}}}}"#));
    let pair = |a: String, b: String| one(&format!("{{{a},{b}}}"));
    let with_len = |len: u64| [&len.to_le_bytes()[..], b"{}"].concat();
    vec![
        (vec![], "the file is empty"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12345\n".to_vec(),
            "it is a Git LFS pointer, not a safetensors file: `git lfs pull` fetches the file",
        ),
        (b"<!DOCTYPE html><html><body>404".to_vec(), "it is a web page, not a safetensors file"),
        (
            b"PK\x03\x04\0\0\x08\x08".to_vec(),
            "it is a zip archive (PyTorch?), not a safetensors file: convert it to safetensors",
        ),
        (b"\x89IMP\r\n\x1a\n\x01\0".to_vec(), "it is an Impasto file, not a safetensors file"),
        (vec![1, 2, 3], "3 bytes; a safetensors file begins with 8 bytes that hold the length of its header"),
        (with_len(0), "the header does not begin with '{'"),
        (with_len(3), "header of 3 bytes declared, 2 bytes follow"),
        (with_len(100_000_000), "header of 100000000 bytes declared, 2 bytes follow"),
        (with_len(100_000_001), "header of 100000001 bytes declared, the limit is 100000000: not a safetensors file?"),
        (
            with_len(u64::MAX),
            "header of 18446744073709551615 bytes declared, the limit is 100000000: not a safetensors file?",
        ),
        (one("[]"), "the header does not begin with '{'"),
        (one(" {}"), "the header does not begin with '{'"),
        (one("{"), "the header is not valid JSON: EOF while parsing an object at line 1 column 1"),
        (one("{}x"), "the header is not valid JSON: trailing characters at line 1 column 3"),
        (
            [&7u64.to_le_bytes()[..], b"{\"\xff\":1}"].concat(),
            "the header is not UTF-8: invalid utf-8 sequence of 1 bytes from index 2",
        ),
        (
            one(r#"{"__metadata__":{"a":1}}"#),
            "__metadata__ is not a map from strings to strings: invalid type: integer `1`, expected a string",
        ),
        (
            one(r#"{"__metadata__":{},"__metadata__":{}}"#),
            "__metadata__ is not a map from strings to strings: duplicate field `__metadata__`",
        ),
        (one(r#"{"__metadata__":{"a":"1","b":"","a":"2"}}"#), "__metadata__ has the key \"a\" twice"),
        (tensor(""), "tensor \"w\": unreadable entry: missing field `dtype`"),
        (one(r#"{"w":["U8",[8],[0,8]]}"#), "tensor \"w\": unreadable entry: invalid type: sequence"),
        (
            tensor(r#""dtype":"U8","dtype":"U8","shape":[8],"data_offsets":[0,8]"#),
            "tensor \"w\": unreadable entry: duplicate field `dtype`",
        ),
        (
            tensor(r#""dtype":"U8","shape":[-8],"data_offsets":[0,8]"#),
            "tensor \"w\": unreadable entry: invalid value: integer `-8`, expected u64",
        ),
        (
            tensor(r#""dtype":"U8","shape":[8.0],"data_offsets":[0,8]"#),
            "tensor \"w\": unreadable entry: invalid type: floating point `8.0`, expected u64",
        ),
        (
            tensor(r#""dtype":"U8","shape":[8],"data_offsets":[0,8,16]"#),
            "tensor \"w\": unreadable entry: trailing characters",
        ),
        (
            tensor(r#""dtype":"U8","shape":[8],"data_offsets":[0,99999999999999999999]"#),
            "tensor \"w\": unreadable entry: invalid type: floating point",
        ),
        (
            tensor(r#""dtype":"","shape":[8],"data_offsets":[0,8]"#),
            "tensor \"w\": the name of its type has 0 bytes, allowed are 1 to 64",
        ),
        (
            tensor(&format!(r#""dtype":"{}","shape":[8],"data_offsets":[0,8]"#, "F".repeat(65))),
            "tensor \"w\": the name of its type has 65 bytes, allowed are 1 to 64",
        ),
        (
            tensor(r#""dtype":"F4","shape":[4294967296,4294967296],"data_offsets":[0,8]"#),
            "tensor \"w\": the byte count of its shape overflows 64 bits",
        ),
        (
            tensor(r#""dtype":"F4","shape":[16],"data_offsets":[0,9]"#),
            "tensor \"w\": ends at 9, past the end of the data at 8",
        ),
        (
            one(r#"{"w":{"dtype":"F4","shape":[14],"data_offsets":[0,7]}}"#),
            "the tensors cover 7 bytes of data, the file holds 8",
        ),
        (tensor(r#""dtype":"U8","shape":[8],"data_offsets":[8,0]"#), "tensor \"w\": data_offsets [8, 0] are reversed"),
        (
            tensor(r#""dtype":"F32","shape":[3],"data_offsets":[0,8]"#),
            "tensor \"w\": shape and dtype need 12 bytes, data_offsets hold 8",
        ),
        (
            tensor(r#""dtype":"F32","shape":[1000000000000],"data_offsets":[0,8]"#),
            "tensor \"w\": shape and dtype need 4000000000000 bytes, data_offsets hold 8",
        ),
        (
            tensor(r#""dtype":"F32","shape":[1000000000000],"data_offsets":[0,4000000000000]"#),
            "tensor \"w\": ends at 4000000000000, past the end of the data at 8",
        ),
        (
            tensor(r#""dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0]"#),
            "tensor \"w\": the byte count of its shape overflows 64 bits",
        ),
        (
            tensor(r#""dtype":"F64","shape":[2305843009213693952],"data_offsets":[0,0]"#),
            "tensor \"w\": the byte count of its shape overflows 64 bits",
        ),
        (pair(entry("w", 0, 4), entry("w", 4, 8)), "tensor \"w\": named twice"),
        (pair(entry("w", 0, 4), entry("\\u0077", 4, 8)), "tensor \"w\": named twice"),
        (
            pair(entry("a", 0, 5), entry("b", 4, 8)),
            "tensor \"b\": overlap: begins at 4, the tensor before it ends at 5",
        ),
        (
            pair(entry("a", 0, 8), entry("b", 0, 8)),
            "tensor \"b\": overlap: begins at 0, the tensor before it ends at 8",
        ),
        (pair(entry("b", 5, 8), entry("a", 0, 4)), "tensor \"b\": hole: begins at 5, the tensor before it ends at 4"),
        (one(&format!("{{{}}}", entry("a", 1, 8))), "tensor \"a\": hole: begins at 1, the tensor before it ends at 0"),
        (one(&format!("{{{}}}", entry("a", 0, 7))), "the tensors cover 7 bytes of data, the file holds 8"),
        (one("{}"), "the tensors cover 0 bytes of data, the file holds 8"),
        (
            one(&format!("{{{}}}", entry("line\\nbreak", 0, 9))),
            "tensor \"line\\nbreak\": ends at 9, past the end of the data at 8",
        ),
    ]
}

#[test]
fn each_broken_rule_has_its_line() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("bad.safetensors");
    for (file, expected) in cases() {
        std::fs::write(&path, &file).unwrap();
        let message = Checkpoint::open(&path).expect_err(expected).to_string();
        let shown = path.to_string_lossy();
        let rule = message.strip_prefix(&format!("{shown}: ")).unwrap_or_else(|| panic!("no file in {message}"));
        assert!(rule.starts_with(expected), "said {rule:?}, expected {expected:?}");
        assert_eq!(message.lines().count(), 1, "{message:?}");
        let pure = parse_header(&file, file.len() as u64, &shown).unwrap_err();
        assert_eq!(pure.to_string(), message);
    }
}

#[test]
fn a_message_stays_short() {
    let name = "n".repeat(1 << 20);
    let file = file_of(&format!(r#"{{"{name}":{{"dtype":"{name}","shape":[],"data_offsets":[0,0]}}}}"#), &[]);
    let message = parse_header(&file, file.len() as u64, "f").unwrap_err().to_string();
    assert!(
        message.contains("the name of its type has 1048576 bytes") && message.len() < 1000,
        "{} bytes",
        message.len()
    );
}

#[test]
fn deep_nesting_does_not_exhaust_the_stack() {
    let deep = "[".repeat(1 << 20);
    for body in [deep.clone(), format!(r#"{{"x":{deep}}}"#)] {
        let file = file_of(&format!(r#"{{"w":{body}}}"#), &[]);
        assert!(parse_header(&file, file.len() as u64, "f").is_err());
    }
}

/// A prefix that contains the header is sufficient.
#[test]
fn the_header_is_parsed_from_a_prefix() {
    let file = shard_of(&[("a", &[1; 100]), ("b", &[2; 50])]);
    let whole = parse_header(&file, file.len() as u64, "f").unwrap();
    let start = whole.data_start as usize;
    assert_eq!(parse_header(&file[..start], file.len() as u64, "f").unwrap(), whole);
    let short = parse_header(&file[..start - 1], file.len() as u64, "f").unwrap_err();
    assert!(short.to_string().contains("bytes declared"), "{short}");
    let shrunk = parse_header(&file, start as u64 - 1, "f").unwrap_err();
    assert!(shrunk.to_string().contains("bytes declared"), "{shrunk}");
}

#[test]
fn every_truncation_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cut.safetensors");
    let file = shard_of(&[("a", b"data"), ("empty", b""), ("b", b"more data")]);
    for len in 0..file.len() {
        std::fs::write(&path, &file[..len]).unwrap();
        Checkpoint::open(&path).expect_err("cut");
    }
    std::fs::write(&path, &file).unwrap();
    Checkpoint::open(&path).unwrap();
}

/// Checks that the reference implementation accepts what we accept, and that both read the same tensors.
fn agrees_with_the_reference(file: &[u8]) {
    let Ok(ours) = parse_header(file, file.len() as u64, "f") else {
        return;
    };
    let theirs = match safetensors::SafeTensors::deserialize(file) {
        // Dtypes unknown to the reference are opaque here.
        Err(_) if ours.tensors.iter().any(|t| t.dtype == DType::Opaque) => return,
        theirs => theirs.expect("the reference refuses what we accept"),
    };
    assert_eq!(ours.tensors.len(), theirs.len());
    for tensor in &ours.tensors {
        let view = theirs.tensor(&tensor.name).unwrap();
        let range = tensor.offsets();
        let start = ours.data_start as usize;
        assert_eq!(view.data(), &file[start + range.start as usize..start + range.end as usize]);
        assert_eq!(view.shape().iter().map(|&n| n as u64).collect::<Vec<_>>(), tensor.shape);
        assert_eq!(view.dtype().to_string(), tensor.type_name.as_deref().unwrap_or(tensor.dtype.name()));
    }
}

fn sample() -> Vec<u8> {
    let json = r#"{"__metadata__":{"format":"pt"},"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"BF16","shape":[],"data_offsets":[24,26]},"c":{"dtype":"I8","shape":[0,7],"data_offsets":[26,26]}}"#;
    file_of(json, &[7; 26])
}

#[test]
fn the_sample_is_valid() {
    let file = sample();
    assert_eq!(parse_header(&file, file.len() as u64, "f").unwrap().tensors.len(), 3);
    agrees_with_the_reference(&file);
}

#[test]
fn every_single_bit_flip_is_harmless() {
    let file = sample();
    for bit in 0..(file.len() - 26) * 8 {
        let mut damaged = file.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        agrees_with_the_reference(&damaged);
    }
}

proptest! {
    #[test]
    fn many_bit_flips_are_harmless(flips in prop::collection::vec(0usize..8 * 200, 1..6)) {
        let mut file = sample();
        for bit in flips {
            file[bit / 8] ^= 1 << (bit % 8);
        }
        agrees_with_the_reference(&file);
    }

    #[test]
    fn replaced_numbers_are_harmless(place in 0usize..40, number in prop_oneof![0u64..64, any::<u64>()]) {
        let json = String::from_utf8(sample()[8..sample().len() - 26].to_vec()).unwrap();
        let digits: Vec<usize> = json.char_indices().filter(|(_, c)| c.is_ascii_digit()).map(|(i, _)| i).collect();
        let at = digits[place % digits.len()];
        let json = format!("{}{number}{}", &json[..at], &json[at + 1..]);
        agrees_with_the_reference(&file_of(&json, &[7; 26]));
    }

    #[test]
    fn any_bytes_are_harmless(bytes in prop::collection::vec(any::<u8>(), 0..200), json in "[{}\\[\\]\":,a0-9 ]{0,60}") {
        let _ = parse_header(&bytes, bytes.len() as u64, "f");
        agrees_with_the_reference(&file_of(&json, &bytes));
    }
}
