//! Manifests that a reader must refuse, each with the rule that it violates; all have the right root.

use crate::common::raw::{asset, check, entry, object, record, tensor, units, varints, void, void_fields};
use crate::common::{open, with_header};
use impasto_container::FormatError as F;

#[test]
fn manifests() {
    let none = || units(&[]);
    let t = |name: &str| format!("\"{name}\"");
    // Two rows of two tiles.
    let grid = || tensor("w", 3, &[2, 4, 64, 1, 2, 32, 0]);
    let long = "n".repeat(4097);
    let cases: Vec<(&str, Vec<Vec<u8>>, F)> = vec![
        ("no record", vec![], F::NoUnits),
        ("objects only", vec![void("a")], F::NoUnits),
        ("two units records", vec![none(), none()], F::UnitsTwice { at: 6 }),
        ("an object after the units", vec![none(), void("a")], F::ObjectAfterUnits { at: 16 }),
        ("an unknown record that is needed", vec![record(0x84, b"xy"), none()], F::UnknownRecord { kind: 0x84, at: 4 }),
        ("the last kind of record", vec![record(0xff, b""), none()], F::UnknownRecord { kind: 0xff, at: 2 }),
        ("a byte after the last record", vec![none(), vec![0x00]], F::Cut { at: 4 }),
        ("a record past the end", vec![none(), vec![0x01, 5, 0, 0]], F::Cut { at: 5 }),
        ("a record of 2^64 - 1 bytes", vec![vec![0x01], varints(&[u64::MAX]), none()], F::Cut { at: 11 }),
        ("a length in two bytes that fits one", vec![vec![0x01, 0x80, 0x00], none()], F::Varint { at: 1 }),
        ("an object of no bytes", vec![record(0x81, b""), none()], F::Cut { at: 2 }),
        ("a name past its record", vec![record(0x81, &[0, 0, 9, b'a']), none()], F::Cut { at: 5 }),
        ("a tensor that ends early", vec![tensor("a", 1, &[1, 0, 0, 1, 32]), none()], F::Cut { at: 12 }),
        (
            "a prefix of the first name",
            vec![object(0, 1, b"a", &[0, 1])],
            F::Prefix { object: 0, prefix: 1, before: 0 },
        ),
        (
            "a prefix longer than the name before",
            vec![asset("ab", 0, 1), object(0, 3, b"c", &[0, 1])],
            F::Prefix { object: 1, prefix: 3, before: 2 },
        ),
        (
            "a prefix of 2^64 - 1",
            vec![asset("ab", 0, 1), object(0, u64::MAX, b"c", &[0, 1])],
            F::Prefix { object: 1, prefix: u64::MAX, before: 2 },
        ),
        ("no name", vec![asset("", 0, 1)], F::NameLength { object: 0, length: 0 }),
        ("a name of 4097 bytes", vec![asset(&long, 0, 1)], F::NameLength { object: 0, length: 4097 }),
        (
            "a name of 2^64 - 1 bytes",
            vec![record(0x81, &[vec![0], varints(&[0, u64::MAX])].concat())],
            F::NameLength { object: 0, length: u64::MAX },
        ),
        ("a name that is not UTF-8", vec![object(0, 0, b"a\xff", &[0, 1])], F::NameUtf8 { object: 0 }),
        ("names out of order", vec![asset("b", 0, 1), asset("a", 0, 1), none()], F::Order { name: t("a") }),
        ("a name twice", vec![asset("a", 0, 1), asset("a", 0, 1), none()], F::Order { name: t("a") }),
        (
            "a name that is a prefix",
            vec![void("ab"), object(1, 1, b"", &void_fields()), none()],
            F::Order { name: t("a") },
        ),
        ("classes out of order", vec![void("a"), asset("b", 0, 1), none()], F::Order { name: t("b") }),
        ("an unknown class too early", vec![object(2, 0, b"a", &[]), void("b"), none()], F::Order { name: t("b") }),
        ("tied to itself", vec![tensor("a", 1, &[0, 0, 1, 1, 1]), none()], F::TiedForward { name: t("a"), to: 0 }),
        (
            "tied forward",
            vec![tensor("a", 1, &[0, 0, 1, 1, 2]), tensor("b", 1, &[0, 0, 1, 1, 0]), none()],
            F::TiedForward { name: t("a"), to: 1 },
        ),
        (
            "tied in a circle",
            vec![tensor("a", 1, &[0, 0, 1, 1, 2]), tensor("b", 1, &[0, 0, 1, 1, 1]), none()],
            F::TiedForward { name: t("a"), to: 1 },
        ),
        (
            "tied to an object of 2^64 - 2",
            vec![tensor("a", 1, &[0, 0, 1, 1, u64::MAX]), none()],
            F::TiedForward { name: t("a"), to: u64::MAX - 1 },
        ),
        (
            "tied in a chain",
            vec![void("a"), tensor("b", 1, &[1, 0, 0, 1, 32, 1]), tensor("c", 1, &[1, 0, 0, 1, 32, 2]), none()],
            F::Tied { name: t("c"), to: 1, what: "tied itself" },
        ),
        (
            "tied to an asset",
            vec![asset("a", 0, 1), tensor("b", 7, &[1, 0, 0, 1, 32, 1]), none()],
            F::Tied { name: t("b"), to: 0, what: "not a tensor" },
        ),
        (
            "tied to another dtype",
            vec![void("a"), tensor("b", 2, &[1, 0, 0, 1, 32, 1]), none()],
            F::Tied { name: t("b"), to: 0, what: "of another dtype" },
        ),
        (
            "tied to other dims",
            vec![void("a"), tensor("b", 1, &[2, 0, 1, 0, 1, 32, 1]), none()],
            F::Tied { name: t("b"), to: 0, what: "of other dims" },
        ),
        ("dtype 0", vec![tensor("a", 0, &[0, 0, 1, 1, 0]), none()], F::Dtype { name: t("a"), code: 0 }),
        ("dtype 18", vec![tensor("a", 18, &[0, 0, 1, 1, 0]), none()], F::Dtype { name: t("a"), code: 18 }),
        ("17 dims", vec![tensor("a", 1, &[17]), none()], F::Dims { name: t("a"), ndim: 17 }),
        ("2^64 - 1 dims", vec![tensor("a", 1, &[u64::MAX]), none()], F::Dims { name: t("a"), ndim: u64::MAX }),
        (
            "a split of 2 in 1",
            vec![tensor("a", 1, &[1, 5, 2, 1, 5, 0]), none()],
            F::Split { name: t("a"), split: 2, ndim: 1 },
        ),
        (
            "a product of 2^48 + 2^24",
            vec![tensor("a", 1, &[2, 1 << 24, (1 << 24) + 1, 1, 1, 1 << 24, 0]), none()],
            F::Elements { name: t("a") },
        ),
        (
            "a product of 2^128",
            vec![tensor("a", 1, &[4, 1 << 32, 1 << 32, 1 << 32, 1 << 32, 2, 1, 32, 0]), none()],
            F::Elements { name: t("a") },
        ),
        (
            "a product of 2^80 before a 0",
            vec![tensor("a", 1, &[3, 1 << 40, 1 << 40, 0, 2, 1, 32, 0]), none()],
            F::Elements { name: t("a") },
        ),
        (
            "a product of 2^80 behind a 0",
            vec![tensor("a", 1, &[3, 0, 1 << 40, 1 << 40, 1, 1, 32, 0]), none()],
            F::Elements { name: t("a") },
        ),
        ("an asset of 2^48 + 1 bytes", vec![asset("a", (1 << 48) + 1, 1 << 24), none()], F::Elements { name: t("a") }),
        (
            "an asset of terabytes",
            vec![asset("a", 1 << 48, 1 << 24), none()],
            F::MissingTiles { name: t("a"), have: 0, tiles: 1 << 24 },
        ),
        (
            "a tensor of petabytes",
            vec![tensor("a", 4, &[1, 1 << 48, 0, 1, 1 << 24, 0]), none()],
            F::MissingTiles { name: t("a"), have: 0, tiles: 1 << 24 },
        ),
        (
            "no rows in a tile",
            vec![tensor("a", 1, &[0, 0, 0, 1, 0]), none()],
            F::Zero { name: t("a"), field: "tile_rows" },
        ),
        (
            "no columns in a tile",
            vec![tensor("a", 1, &[0, 0, 1, 0, 0]), none()],
            F::Zero { name: t("a"), field: "tile_cols" },
        ),
        ("pieces of no bytes", vec![asset("a", 5, 0), none()], F::Zero { name: t("a"), field: "piece" }),
        (
            "tiles of 33 columns",
            vec![tensor("a", 1, &[1, 34, 0, 1, 33, 0]), none()],
            F::TileCols { name: t("a"), tile_cols: 33, cols: 34 },
        ),
        (
            "a tile of 2^24 + 32 elements",
            vec![tensor("a", 1, &[2, 1 << 20, 64, 1, (1 << 19) + 1, 32, 0]), none()],
            F::TileElements { name: t("a") },
        ),
        (
            "a piece of 2^24 + 1 bytes",
            vec![asset("a", 1 << 25, (1 << 24) + 1), none()],
            F::TileElements { name: t("a") },
        ),
        ("2^32 tiles", vec![tensor("a", 1, &[2, 1 << 32, 1, 1, 1, 32, 0]), none()], F::TileCount { name: t("a") }),
        ("2^48 pieces", vec![asset("a", 1 << 48, 1), none()], F::TileCount { name: t("a") }),
        ("more units than entries", vec![record(0x82, &varints(&[1]))], F::UnitsLength { count: 1, length: 0 }),
        ("2^63 units", vec![record(0x82, &varints(&[1 << 63]))], F::UnitsLength { count: 1 << 63, length: 0 }),
        (
            "2^59 units, whose bytes are 0 modulo 2^64",
            vec![record(0x82, &varints(&[1 << 59]))],
            F::UnitsLength { count: 1 << 59, length: 0 },
        ),
        ("a byte after the last entry", vec![record(0x82, &[0, 0])], F::UnitsLength { count: 0, length: 1 }),
        (
            "a reserved field of 1",
            vec![asset("a", 1, 1), record(0x82, &[vec![1], entry(0, 0, 0, 0, 1, 0)].concat())],
            F::Reserved { unit: 0 },
        ),
        (
            "a unit of 2^28 + 1 bytes",
            vec![asset("a", 1, 1), record(0x82, &[vec![1], entry(0, 0, 0, 0, 0, (1 << 28) + 1)].concat())],
            F::UnitLength { unit: 0, length: (1 << 28) + 1 },
        ),
        ("a unit without objects", vec![units(&[(0, 0, 0, 0)])], F::UnitObject { unit: 0, object: 0 }),
        (
            "a unit of the object after the last",
            vec![void("a"), units(&[(1, 0, 0, 0)])],
            F::UnitObject { unit: 0, object: 1 },
        ),
        (
            "a unit of object 2^32 - 1, in a mode and layer to be skipped",
            vec![void("a"), units(&[(u32::MAX, 0, 99, 7)])],
            F::UnitObject { unit: 0, object: u32::MAX },
        ),
        (
            "a unit of a tied object",
            vec![void("a"), tensor("b", 1, &[1, 0, 0, 1, 32, 1]), units(&[(1, 0, 0, 0)])],
            F::UnitOfTied { unit: 0, name: t("b") },
        ),
        (
            "a tile after the last",
            vec![asset("a", 4, 4), units(&[(0, 0, 0, 0), (0, 1, 0, 0)])],
            F::UnitTile { unit: 1, tile: 1, name: t("a"), tiles: 1 },
        ),
        (
            "a tile after the last in a layer above",
            vec![asset("a", 4, 4), units(&[(0, 0, 0, 0), (0, 1, 0, 3)])],
            F::UnitTile { unit: 1, tile: 1, name: t("a"), tiles: 1 },
        ),
        (
            "a tensor header of nothing",
            vec![void("a"), units(&[(0, 0, 2, 0)])],
            F::UnitTile { unit: 0, tile: 0, name: t("a"), tiles: 0 },
        ),
        ("a tensor header with a tile", vec![grid(), units(&[(0, 1, 2, 0)])], F::HeaderTile { unit: 0, tile: 1 }),
        (
            "a tile twice, none missing",
            vec![asset("a", 4, 4), units(&[(0, 0, 0, 0), (0, 0, 1, 0)])],
            F::DuplicateUnit { first: 0, second: 1, name: t("a") },
        ),
        (
            "a tile twice, one missing",
            vec![grid(), units(&[(0, 0, 0, 0), (0, 1, 0, 0), (0, 3, 0, 0), (0, 1, 0, 0)])],
            F::DuplicateUnit { first: 1, second: 3, name: t("w") },
        ),
        (
            "a tile twice, once in an unknown mode",
            vec![asset("a", 4, 4), units(&[(0, 0, 50, 0), (0, 0, 0, 0)])],
            F::DuplicateUnit { first: 0, second: 1, name: t("a") },
        ),
        (
            "two tensor headers",
            vec![asset("a", 4, 4), units(&[(0, 0, 2, 0), (0, 0, 0, 0), (0, 0, 2, 0)])],
            F::DuplicateUnit { first: 0, second: 2, name: t("a") },
        ),
        (
            "a tile twice in a layer above",
            vec![asset("a", 4, 4), units(&[(0, 0, 77, 1), (0, 0, 77, 2), (0, 0, 0, 0), (0, 0, 78, 1)])],
            F::DuplicateUnit { first: 0, second: 3, name: t("a") },
        ),
        (
            "a tile twice in an unknown class",
            vec![object(5, 0, b"a", &[]), units(&[(0, 8, 0, 0), (0, 9, 0, 0), (0, 8, 1, 0)])],
            F::DuplicateUnit { first: 0, second: 2, name: t("a") },
        ),
        ("no unit", vec![grid(), none()], F::MissingTiles { name: t("w"), have: 0, tiles: 4 }),
        (
            "a tile missing",
            vec![grid(), units(&[(0, 0, 0, 0), (0, 3, 0, 0), (0, 2, 0, 0)])],
            F::MissingTiles { name: t("w"), have: 3, tiles: 4 },
        ),
        (
            "a tile in a layer above only",
            vec![asset("a", 4, 4), units(&[(0, 0, 77, 1)])],
            F::MissingTiles { name: t("a"), have: 0, tiles: 1 },
        ),
        (
            "a tensor header in place of a tile",
            vec![asset("a", 4, 4), units(&[(0, 0, 2, 0)])],
            F::MissingTiles { name: t("a"), have: 0, tiles: 1 },
        ),
        (
            "no tensor header",
            vec![grid(), units(&[(0, 0, 0, 0), (0, 1, 4, 0), (0, 2, 0, 0), (0, 3, 0, 0)])],
            F::MissingHeader { name: t("w"), unit: 1 },
        ),
        (
            "a tensor header too late",
            vec![grid(), units(&[(0, 0, 0, 0), (0, 1, 1, 0), (0, 2, 3, 0), (0, 0, 2, 0), (0, 3, 3, 0)])],
            F::MissingHeader { name: t("w"), unit: 2 },
        ),
        (
            "a tensor header in a layer above",
            vec![asset("a", 4, 4), units(&[(0, 0, 2, 1), (0, 0, 3, 0)])],
            F::MissingHeader { name: t("a"), unit: 1 },
        ),
    ];
    check(cases);
}

#[test]
fn manifests_at_the_bounds_are_read() {
    let name = "é".repeat(2048);
    let second = [&name.as_bytes()[..4095], b"\xaa"].concat();
    let records = [
        record(0x00, b"skipped"),
        object(0, 0, name.as_bytes(), &[&varints(&[0, u64::MAX])[..], b"\0left over"].concat()),
        record(0x7f, b""),
        // Shares the first byte of a character with the previous name.
        object(0, 4095, b"\xaa", &varints(&[7, 4])),
        tensor("sixteen", 17, &[vec![16], vec![1; 16], vec![16, 1, 1, 0]].concat()),
        tensor("void", 1, &[3, 1 << 24, 0, 1 << 24, 1, u64::MAX, u64::MAX, 0]),
        // Without elements, whatever the dims before the 0.
        tensor("zero", 1, &[3, 1 << 40, 1 << 40, 0, 3, 1, 1, 0]),
        object(255, 0, b"a", b"whatever"),
        units(&[(5, 7, 200, 9), (1, 1, 0, 0), (2, 0, 77, 200), (1, 0, 1, 0), (2, 0, 2, 0), (2, 0, 4, 0)]),
        record(0x10, b"after the units"),
    ];
    let manifest = records.concat();
    let bytes = with_header(&manifest, (64 + manifest.len() as u64).next_multiple_of(16));
    let reader = open(&bytes).unwrap();
    assert_eq!(reader.objects().len(), 6);
    assert_eq!(reader.objects()[1].name, String::from_utf8(second).unwrap());
    assert_eq!(reader.units_of(1).unwrap().tiles, [3, 1]);
    assert_eq!(reader.units_of(2).unwrap().header, Some(4));
    assert_eq!(reader.units_of(2).unwrap().tiles, [5]);
    assert_eq!(reader.units_of(3).unwrap().tiles, [0; 0]);
    let zero = reader.matrix(4).unwrap();
    assert_eq!((zero.rows(), zero.cols(), zero.tile_count()), (0, 1, 0));
    assert!(reader.units_of(5).is_none());
}
