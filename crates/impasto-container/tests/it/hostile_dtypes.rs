//! Manifests with block and opaque dtypes that a reader must refuse, each with the rule that it violates, and valid
//! ones at the limits.

use crate::common::raw::{check, object, opaque, tensor, units, varints};
use crate::common::{open, with_header};
use impasto_container::FormatError as F;

#[test]
fn manifests() {
    let none = || units(&[]);
    let t = |name: &str| format!("\"{name}\"");
    // Two rows of 64 weights in blocks of 32, and 64 bytes of dtype F4.
    let blocks = || tensor("a", 66, &[2, 2, 64, 1, 1, 32, 0]);
    let f4 = |name: &str| opaque(name, b"F4", 64, &[1, 128, 0, 1, 64, 0]);
    let units_of_a = |tile: u32| units(&[(0, tile, 0, 0)]);
    check(vec![
        ("dtype 65, a hole", vec![tensor("a", 65, &[0, 0, 1, 1, 0]), none()], F::Dtype { name: t("a"), code: 65 }),
        ("dtype 126", vec![tensor("a", 126, &[0, 0, 1, 1, 0]), none()], F::Dtype { name: t("a"), code: 126 }),
        ("dtype 128", vec![tensor("a", 128, &[0, 0, 1, 1, 0]), none()], F::Dtype { name: t("a"), code: 128 }),
        (
            "blocks without dims",
            vec![tensor("a", 66, &[0, 0, 1, 1, 0]), none()],
            F::BlockSplit { name: t("a"), split: 0, ndim: 0 },
        ),
        (
            "blocks split off",
            vec![tensor("a", 66, &[2, 2, 64, 2, 1, 32, 0]), none()],
            F::BlockSplit { name: t("a"), split: 2, ndim: 2 },
        ),
        (
            "blocks with a split of 3 in 2",
            vec![tensor("a", 66, &[2, 2, 64, 3, 1, 32, 0]), none()],
            F::Split { name: t("a"), split: 3, ndim: 2 },
        ),
        (
            "half a block",
            vec![tensor("a", 66, &[2, 2, 48, 1, 1, 32, 0]), none()],
            F::BlockDim { name: t("a"), last: 48, weights: 32 },
        ),
        (
            "blocks that lie along another dim",
            vec![tensor("a", 78, &[2, 256, 32, 0, 1, 32, 0]), none()],
            F::BlockDim { name: t("a"), last: 32, weights: 256 },
        ),
        (
            "half a block of nothing",
            vec![tensor("a", 66, &[2, 0, 48, 1, 1, 32, 0]), none()],
            F::BlockDim { name: t("a"), last: 48, weights: 32 },
        ),
        (
            "blocks of 2^48 + 2^25 weights",
            vec![tensor("a", 66, &[2, (1 << 23) + 1, 1 << 25, 1, 1, 1 << 20, 0]), none()],
            F::Elements { name: t("a") },
        ),
        (
            "blocks of 2^128 weights",
            vec![tensor("a", 66, &[2, 1 << 63, 1 << 63, 1, 1, 32, 0]), none()],
            F::Elements { name: t("a") },
        ),
        (
            "a tile of 2^27 + 58 bytes",
            vec![tensor("a", 66, &[1, 7456541 * 32, 0, 1, u64::MAX, 0]), none()],
            F::TileBytes { name: t("a") },
        ),
        (
            "a tile of 2^24 + 32 blocks",
            vec![tensor("a", 66, &[1, ((1 << 24) + 32) * 32, 0, 1, (1 << 24) + 32, 0]), none()],
            F::TileElements { name: t("a") },
        ),
        (
            "tiles of 33 blocks",
            vec![tensor("a", 66, &[1, 34 * 32, 0, 1, 33, 0]), none()],
            F::TileCols { name: t("a"), tile_cols: 33, cols: 34 },
        ),
        (
            "blocks of terabytes",
            vec![tensor("a", 78, &[1, 1 << 48, 0, 1, 1 << 19, 0]), none()],
            F::MissingTiles { name: t("a"), have: 0, tiles: 1 << 21 },
        ),
        (
            "a tile of each 32 weights",
            vec![blocks(), units(&[(0, 0, 0, 0), (0, 1, 0, 0), (0, 2, 0, 0), (0, 3, 0, 0)])],
            F::UnitTile { unit: 2, tile: 2, name: t("a"), tiles: 2 },
        ),
        (
            "blocks tied to others of their size",
            vec![blocks(), tensor("b", 84, &[2, 2, 64, 1, 1, 32, 1]), units_of_a(0)],
            F::Tied { name: t("b"), to: 0, what: "of another dtype" },
        ),
        (
            "an opaque dtype without a name",
            vec![opaque("a", b"", 64, &[1, 128, 0, 1, 64, 0]), none()],
            F::TypeNameLength { name: t("a"), length: 0 },
        ),
        (
            "the name of a dtype of 65 bytes",
            vec![opaque("a", &[b'F'; 65], 64, &[1, 128, 0, 1, 64, 0]), none()],
            F::TypeNameLength { name: t("a"), length: 65 },
        ),
        (
            "the name of a dtype of 2^64 - 1 bytes",
            vec![object(1, 0, b"a", &[vec![127], varints(&[u64::MAX])].concat()), none()],
            F::TypeNameLength { name: t("a"), length: u64::MAX },
        ),
        ("the name of a dtype past its record", vec![object(1, 0, b"a", &[127, 9, b'F']), none()], F::Cut { at: 8 }),
        (
            "the name of a dtype that is not UTF-8",
            vec![opaque("a", b"F\xff", 64, &[1, 128, 0, 1, 64, 0]), none()],
            F::TypeNameUtf8 { name: t("a") },
        ),
        (
            "a plain dtype that is opaque",
            vec![opaque("a", b"BF16", 64, &[1, 32, 0, 1, 64, 0]), none()],
            F::TypeNamePlain { name: t("a"), dtype: t("BF16") },
        ),
        (
            "opaque rows",
            vec![opaque("a", b"F4", 64, &[2, 2, 64, 1, 1, 32, 0]), none()],
            F::OpaqueSplit { name: t("a"), split: 1 },
        ),
        (
            "2^48 + 1 opaque bytes",
            vec![opaque("a", b"F4", (1 << 48) + 1, &[1, 128, 0, 1, 1 << 20, 0]), none()],
            F::Elements { name: t("a") },
        ),
        (
            "2^64 - 1 opaque bytes",
            vec![opaque("a", b"F4", u64::MAX, &[0, 0, 1, u64::MAX, 0]), none()],
            F::Elements { name: t("a") },
        ),
        (
            "opaque bytes of 2^80 weights",
            vec![opaque("a", b"F4", 64, &[2, 1 << 40, 1 << 40, 0, 1, 64, 0]), none()],
            F::Elements { name: t("a") },
        ),
        ("17 opaque dims", vec![opaque("a", b"F4", 64, &[17]), none()], F::Dims { name: t("a"), ndim: 17 }),
        (
            "opaque terabytes",
            vec![opaque("a", b"F4", 1 << 48, &[0, 0, 1, 1 << 24, 0]), none()],
            F::MissingTiles { name: t("a"), have: 0, tiles: 1 << 24 },
        ),
        (
            "tiles of 33 opaque bytes",
            vec![opaque("a", b"F4", 64, &[1, 128, 0, 1, 33, 0]), none()],
            F::TileCols { name: t("a"), tile_cols: 33, cols: 64 },
        ),
        ("an opaque tile missing", vec![f4("a"), none()], F::MissingTiles { name: t("a"), have: 0, tiles: 1 }),
        (
            "tied to another opaque dtype",
            vec![f4("a"), opaque("b", b"F6", 64, &[1, 128, 0, 1, 64, 1]), units_of_a(0)],
            F::Tied { name: t("b"), to: 0, what: "of another opaque dtype or length" },
        ),
        (
            "tied to fewer opaque bytes",
            vec![f4("a"), opaque("b", b"F4", 65, &[1, 128, 0, 1, 65, 1]), units_of_a(0)],
            F::Tied { name: t("b"), to: 0, what: "of another opaque dtype or length" },
        ),
        (
            "tied to other opaque dims",
            vec![f4("a"), opaque("b", b"F4", 64, &[1, 64, 0, 1, 64, 1]), units_of_a(0)],
            F::Tied { name: t("b"), to: 0, what: "of other dims" },
        ),
        (
            "bytes tied to an opaque tensor",
            vec![f4("a"), tensor("b", 7, &[1, 128, 0, 1, 128, 1]), units_of_a(0)],
            F::Tied { name: t("b"), to: 0, what: "of another dtype" },
        ),
    ]);
}

#[test]
fn manifests_at_the_bounds_are_read() {
    let long = "é".repeat(32);
    let records = [
        tensor("blocks", 84, &[3, 5, 2, 96, 1, 3, 32, 0]),
        // The largest number of weights, and tiles of the largest number of bytes.
        tensor("many blocks", 72, &[4, 0, 1 << 24, 1 << 24, 32, 1, u64::MAX, u64::MAX, 0]),
        tensor("one block", 78, &[1, 256, 0, 1, 1, 0]),
        tensor("void", 66, &[2, 5, 0, 1, 1, 32, 0]),
        opaque("x", b"Q4_0", 7, &[2, 0, u64::MAX, 0, 5, 32, 0]),
        opaque("y", long.as_bytes(), 0, &[0, 0, 1, 1, 0]),
        opaque("z", long.as_bytes(), 0, &[0, 0, 9, 9, 6]),
        units(&[(2, 0, 1, 0), (0, 1, 0, 0), (0, 0, 99, 0), (4, 0, 0, 0)]),
    ];
    let manifest = records.concat();
    let bytes = with_header(&manifest, (64 + manifest.len() as u64).next_multiple_of(16));
    let reader = open(&bytes).unwrap();
    let sides = |object| reader.matrix(object).map(|m| (m.rows(), m.cols(), m.tile_count())).unwrap();
    assert_eq!(
        [0, 1, 2, 3, 4, 5, 6].map(sides),
        [(5, 6, 2), (0, 1 << 48, 0), (1, 1, 1), (5, 0, 0), (1, 7, 1), (1, 0, 0), (1, 0, 0)]
    );
    let meta = |object: usize| reader.objects()[object].tensor().unwrap();
    assert_eq!((meta(0).dtype_name(), meta(4).dtype_name(), meta(5).dtype_name()), ("IQ4_NL", "Q4_0", &long[..]));
    assert_eq!((meta(0).weights(), meta(1).weights(), meta(4).weights()), (960, 0, 0));
    let largest = tensor("a", 66, &[1, 7456540 * 32, 0, 1, u64::MAX, 0]);
    let manifest = [largest, units(&[(0, 0, 0, 0)])].concat();
    assert!(open(&with_header(&manifest, (64 + manifest.len() as u64).next_multiple_of(16))).is_ok());
}
