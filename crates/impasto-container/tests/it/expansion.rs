//! The bound on what a file expands to (SPEC 11.3).

use impasto_container::expansion::{ALWAYS, HEADER, RATIO};
use impasto_container::{Limits, Object, ObjectKind, Reader, TensorMeta};
use impasto_core::{DType, Mode};

use crate::common::{Content, Unit, open};

/// Elements of a tile, the most that SPEC 4.2 allows.
const TILE: u64 = 1 << 24;

fn tensor(name: &str, dtype: DType, tiles: u64, tied: Option<u32>) -> Object {
    let dims = vec![tiles, TILE];
    let meta = TensorMeta {
        dtype,
        opaque: None,
        dims,
        split: 1,
        tile_rows: 1,
        tile_cols: TILE,
        tied,
        reference: None,
        base: None,
    };
    Object { name: name.into(), kind: ObjectKind::Tensor(meta) }
}

fn unit(object: u32, tile: u32, layer: u8, mode: Mode, length: usize) -> Unit {
    Unit { object, tile, layer, mode, bytes: vec![0; length] }
}

/// A tensor of `tiles` tiles with units of `length` bytes.
fn tiles(dtype: DType, tiles: u32, length: usize) -> Content {
    let units = (0..tiles).map(|tile| unit(0, tile, 0, Mode::ZSTD, length)).collect();
    Content { objects: vec![tensor("wide", dtype, tiles.into(), None)], units, layers: vec![] }
}

/// Returns what the file expands to, after checking that it is refused exactly if it is not within the bound.
fn expanded(content: &Content) -> u64 {
    let file = content.to_file();
    let lifted = Limits { allow_expansion: true, ..Limits::default() };
    let expansion = Reader::open(&file[..], "t.impasto", &lifted).unwrap().expansion();
    let opened = open(&file);
    assert_eq!(opened.is_ok(), expansion.is_within(), "{expansion:?}");
    if let Err(error) = opened {
        let error = error.to_string();
        let named =
            ["t.impasto", "for \"wide", "(SPEC 11.3)", "--allow-expansion"].iter().all(|part| error.contains(part));
        assert!(named && error.contains(&expansion.expanded.to_string()), "{error}");
    }
    expansion.expanded
}

#[test]
fn a_small_file_may_expand_to_256_mebibytes() {
    assert_eq!(expanded(&tiles(DType::U8, 16, 1)), ALWAYS);
    let file = tiles(DType::U8, 16, 1).to_file();
    assert!(open(&file).is_ok());
    assert_eq!(expanded(&tiles(DType::U8, 17, 1)), ALWAYS + TILE);
    assert_eq!(expanded(&tiles(DType::F64, 2, 1)), ALWAYS);
    assert!(open(&tiles(DType::U8, 17, 1).to_file()).is_err() && open(&tiles(DType::F64, 3, 1).to_file()).is_err());
}

#[test]
fn a_larger_one_to_512_times_its_size() {
    let content = |length| tiles(DType::U8, 32, length);
    // The header, the manifest and the units are counted, the padding is not.
    let manifest = content(0).manifest().to_bytes().len();
    let enough = ((32 * TILE / RATIO) as usize - 64 - manifest).div_ceil(32);
    assert!(open(&content(enough).to_file()).is_ok());
    assert!(open(&content(enough - 1).to_file()).is_err());
    assert_eq!(expanded(&content(enough - 1)), 32 * TILE);
}

#[test]
fn layers_headers_and_ties_count() {
    let mut layered = tiles(DType::F32, 1, 1);
    layered.units[0].mode = Mode::LATTICE;
    layered.units.insert(0, unit(0, 0, 0, Mode::TENSOR_HEADER, 1));
    assert_eq!(expanded(&layered), 4 * TILE + HEADER);
    for layer in 1..=3 {
        layered.units.push(unit(0, 0, layer, Mode::TENSOR_HEADER, 1));
        layered.units.push(unit(0, 0, layer, Mode::REFINEMENT, 1));
    }
    assert_eq!(expanded(&layered), 4 * (4 * TILE + HEADER));
    assert!(open(&layered.to_file()).is_err(), "each layer is work");

    let mut tied = tiles(DType::U8, 4, 1);
    tied.objects.extend((0..3).map(|n| tensor(&format!("wide.{n}"), DType::U8, 4, Some(0))));
    assert_eq!(expanded(&tied), ALWAYS);
    tied.objects.push(tensor("wide.3", DType::U8, 4, Some(0)));
    assert_eq!(expanded(&tied), ALWAYS + 4 * TILE);
    assert!(open(&tied.to_file()).is_err());
}

/// Narrow rows take as much time as rows that fill the lanes.
#[test]
fn rows_count_whole_lanes_if_they_are_coded() {
    let dims = |columns| TensorMeta {
        dtype: DType::Bf16,
        opaque: None,
        dims: vec![1000, columns],
        split: 1,
        tile_rows: 1000,
        tile_cols: 32,
        tied: None,
        reference: None,
        base: None,
    };
    let content = |columns, mode| Content {
        objects: vec![Object { name: "wide".into(), kind: ObjectKind::Tensor(dims(columns)) }],
        units: vec![unit(0, 0, 0, Mode::TENSOR_HEADER, 1), unit(0, 0, 0, mode, 1)],
        layers: vec![],
    };
    for (columns, mode, lanes) in
        [(1, Mode::FLOAT, 32), (32, Mode::FLOAT, 32), (1, Mode::ZSTD, 1), (31, Mode::STORED, 31)]
    {
        assert_eq!(expanded(&content(columns, mode)), HEADER + 1000 * lanes * 2);
    }
}

/// What is absent takes no time, and gives no right to expand either.
#[test]
fn only_present_units_count() {
    let mut content = tiles(DType::U8, 17, 1);
    content.objects.push(tensor("wide.tied", DType::U8, 17, Some(0)));
    content.units[16].bytes = vec![0; 1 << 21];
    let file = content.to_file();
    assert!(open(&file).is_ok(), "with its last unit it is large enough");
    let cut =
        |units: usize| open(&file[..file.len() - (1 << 21) - 16 * (16 - units) - 1]).map(|reader| reader.expansion());
    assert_eq!(cut(8).unwrap().expanded, 2 * 8 * TILE);
    assert!(cut(9).is_err() && cut(16).is_err());
}

#[test]
fn the_writer_says_what_a_file_expands_to() {
    let folder = tempfile::tempdir().unwrap();
    let summary = tiles(DType::U8, 17, 1).write(&folder.path().join("a.impasto"));
    assert_eq!(summary.expansion.expanded, ALWAYS + TILE);
    assert!(!summary.expansion.is_within());
}

#[test]
fn limits_follow_memory() {
    assert_eq!(Limits::within(u64::MAX), Limits::default());
    let small = Limits::within(16 << 20);
    assert_eq!((small.max_manifest, small.max_name_bytes), (4 << 20, 4 << 20));
    assert!(small.max_objects > 6000 && small.max_objects < 7000);
}
