//! Files for SPEC 3 to 5: objects, tiles, byte modes.

use std::error::Error;

use impasto_codec::Shape;
use impasto_codec::tile::encode_bytes;
use impasto_container::ObjectKind;
use impasto_container::unit::unit_hash;
use impasto_core::{DType, Mode};
use impasto_text::tokenizer::{COMPILED, FILE, compile};

use super::numbers::{Random, bell_floats, float_header, pack};
use super::set::{Matrix, Set};

/// Assets with several pieces, an empty one, and one that does not compress.
pub fn assets() -> Result<Set, Box<dyn Error>> {
    let mut set = Set::default();
    let (text, noise) = (b"{\"words\": \"again and again and again\"}\n".repeat(9), Random(1).bytes(100));
    for (name, bytes, piece) in [("a/b.json", &text[..], 128), ("empty", &[], 7), ("noise", &noise, 1 << 22)] {
        asset(&mut set, name, bytes, piece)?;
    }
    Ok(set)
}

/// Adds an asset in pieces. Returns the hashes of its units.
fn asset(set: &mut Set, name: &str, bytes: &[u8], piece: u64) -> Result<Vec<u8>, Box<dyn Error>> {
    set.object(name, ObjectKind::Asset { length: bytes.len() as u64, piece, base: None });
    let mut hashes = Vec::new();
    for (i, part) in bytes.chunks(piece as usize).enumerate() {
        let (mode, unit) = encode_bytes(part, DType::U8, 19)?;
        hashes.extend(unit_hash(&unit));
        set.unit(i, mode, unit);
    }
    Ok(hashes)
}

/// A tokenizer in several pieces and its compiled form, which is that of another tokenizer unless `belongs`.
pub fn compiled_tokenizer(belongs: bool) -> Result<Set, Box<dyn Error>> {
    let json = r#"{"added_tokens":[{"id":9,"content":"<s>","single_word":false,"lstrip":false,"rstrip":false,
        "normalized":false,"special":true}],"normalizer":{"type":"Replace","pattern":{"String":" "},"content":"▁"},
        "truncation":null,"model":{"type":"BPE","unk_token":"?","byte_fallback":true,"vocab":{"?":0,"e":1,"é":2,"▁":3,
        "▁é":7,"<0xC3>":5,"ee":6,"ée":4,"▁ée":8},"merges":[["▁","é"],["e","e"],["é","e"],["▁é","e"]]}}"#;
    // Smaller ones are not compiled.
    let json = json.to_owned() + &" ".repeat(4 << 20);
    let mut set = Set::default();
    let mut form = asset(&mut set, FILE, json.as_bytes(), 1 << 20)?;
    if !belongs {
        form[17] ^= 1;
    }
    form.extend(compile(json.as_bytes(), &["éeé ée"]).map_err(|error| format!("{error:?}"))?);
    asset(&mut set, COMPILED, &form, 150)?;
    Ok(set)
}

/// A tensor and two that are tied to it.
pub fn tied() -> Result<Set, Box<dyn Error>> {
    let mut set = Set::default();
    let matrix = Matrix { dtype: DType::Bf16, sides: (24, 40), tile: (9, 32) };
    let patterns = bell_floats(DType::Bf16, -5, 24 * 40, &mut Random(2));
    let header = float_header(DType::Bf16, Shape::Parametric(0), -5, matrix.sides);
    set.floats("embed", &matrix, &header, 2, &pack(DType::Bf16, &patterns))?;
    set.tensor_of("head", &matrix, vec![24, 40], 1, Some(0));
    // Its tiles differ, which does not matter: the units are those of the original.
    set.tensor_of("other", &Matrix { tile: (1, 64), ..matrix }, vec![24, 40], 0, Some(0));
    Ok(set)
}

/// Noise in every dtype.
pub fn dtypes() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(3));
    let mut names: Vec<_> = DType::PLAIN.iter().map(|&dtype| (dtype.name(), dtype)).collect();
    names.sort_unstable();
    for (name, dtype) in names {
        let matrix = Matrix { dtype, sides: (3, 5), tile: (2, 5) };
        set.tensor(name, &matrix);
        set.bytes(&matrix, &random.bytes(15 * dtype.size()))?;
    }
    Ok(set)
}

/// Noise in every block dtype: ragged tiles along both sides; a single block; blocks of experts; no blocks.
pub fn blocks() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(16));
    let mut names: Vec<_> = DType::BLOCKS.iter().map(|&dtype| (dtype.name(), dtype)).collect();
    names.sort_unstable();
    for (name, dtype) in names {
        let matrix = Matrix { dtype, sides: (2, 33), tile: (1, 32) };
        set.tensor(name, &matrix);
        set.bytes(&matrix, &random.bytes(66 * dtype.size()))?;
    }
    for (name, dtype, dims, split, sides, tile) in [
        ("experts", DType::Q4_0, vec![2, 3, 128], 2, (6, 4), (4, 4)),
        ("one", DType::Q6K, vec![256], 0, (1, 1), (1, 1)),
        ("planes", DType::Q8_0, vec![2, 3, 64], 1, (2, 6), (1, 32)),
        ("void", DType::Q4K, vec![3, 0], 1, (3, 0), (1, 32)),
    ] {
        let matrix = Matrix { dtype, sides, tile };
        set.tensor_of(name, &matrix, dims, split, None);
        set.bytes(&matrix, &random.bytes(sides.0 * sides.1 * dtype.size()))?;
    }
    Ok(set)
}

/// Dtypes without a code: with as many bytes as their dims suggest, or with others; empty; in tiles, one of them
/// ragged.
pub fn opaque() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(17));
    set.opaque("F4", "F4", vec![6, 32], 32, &random.bytes(96))?;
    set.opaque("F6_E2M3", "F6_E2M3", vec![4, 10], 64, &random.bytes(30))?;
    set.opaque("NVFP4", "NVFP4", vec![2, 2, 64], 96, &random.bytes(144))?;
    set.opaque("scalar", "F8_E4M3FNUZ", vec![], 1, &random.bytes(1))?;
    set.opaque("text", "GGML_41", vec![1000], 1024, &b"much the same, ".repeat(99))?;
    set.opaque("void", "C128", vec![3, 0, 5], 32, &[])?;
    Ok(set)
}

/// No dims, one dim, four dims, no elements.
pub fn scalar_and_empty() -> Result<Set, Box<dyn Error>> {
    let mut set = Set::default();
    let one = Matrix { dtype: DType::F64, sides: (1, 1), tile: (1, 1) };
    set.tensor_of("empty", &one, vec![3, 0, 5], 1, None);
    set.tensor_of("scalar", &one, vec![], 0, None);
    set.bytes(&one, &1.5f64.to_le_bytes())?;
    set.tensor_of("vector", &Matrix { sides: (1, 3), tile: (1, 3), ..one }, vec![3], 0, None);
    set.bytes(&Matrix { sides: (1, 3), tile: (1, 3), ..one }, &Random(4).bytes(24))?;
    set.tensor_of("volume", &Matrix { sides: (6, 4), tile: (4, 32), ..one }, vec![2, 3, 1, 4], 2, None);
    set.bytes(&Matrix { sides: (6, 4), tile: (4, 32), ..one }, &Random(5).bytes(24 * 8))?;
    Ok(set)
}

/// Tiles that are truncated at the lower and right edges.
pub fn ragged_tiles() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(6));
    let dtype = DType::Bf16;
    for (name, sides, tile) in [
        ("a", (37, 101), (16, 64)),
        ("b", (5, 33), (2, 32)),
        ("c", (1, 200), (1, 96)),
        ("d", (9, 1), (4, 1)),
        ("e", (10, 31), (100, 31)),
    ] {
        let matrix = Matrix { dtype, sides, tile };
        let patterns = bell_floats(dtype, 0, sides.0 * sides.1, &mut random);
        let header = float_header(dtype, Shape::Parametric(1), 0, sides);
        set.floats(name, &matrix, &header, 4, &pack(dtype, &patterns))?;
    }
    Ok(set)
}

/// Byte planes of elements of 1, 4 and 8 bytes.
pub fn zstd() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(7));
    for (name, dtype, tile) in
        [("bytes", DType::I8, (20, 64)), ("doubles", DType::F64, (9, 32)), ("words", DType::I32, (40, 50))]
    {
        let matrix = Matrix { dtype, sides: (40, 50), tile };
        set.tensor(name, &matrix);
        let numbers: Vec<u8> =
            (0..2000).flat_map(|i| (i * i % 97 + random.below(3)).to_le_bytes()[..dtype.size()].to_vec()).collect();
        set.bytes(&matrix, &numbers)?;
    }
    all_zstd(set)
}

/// Byte planes of blocks: many planes with few bytes.
pub fn zstd_of_blocks() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(18));
    for (name, dtype) in [("a", DType::Q4_0), ("b", DType::Q8_0), ("c", DType::Q6K)] {
        let matrix = Matrix { dtype, sides: (5, 40), tile: (4, 32) };
        set.tensor(name, &matrix);
        // The first two bytes are like a scale, which hardly changes; the others are like small numbers.
        let byte = |i: usize| if i % dtype.size() < 2 { 60 } else { 7 * (i % 3) as u8 + random.below(3) as u8 };
        set.bytes(&matrix, &(0..200 * dtype.size()).map(byte).collect::<Vec<u8>>())?;
    }
    all_zstd(set)
}

/// Returns the set, or an error if a unit is not in mode zstd.
fn all_zstd(set: Set) -> Result<Set, Box<dyn Error>> {
    match set.units.iter().all(|(_, mode, _)| *mode == Mode::ZSTD) {
        true => Ok(set),
        false => Err("a tile is not in mode zstd".into()),
    }
}
