//! Layers that a reader must refuse, each with the rule that it violates, and unusual ones that are allowed.

use crate::common::raw::{asset, check, object, record, tensor, units, varints};
use crate::common::{open, with_header};
use impasto_container::{FormatError as F, Limits, Manifest};

/// Object, tile, mode, layer.
type Entry = (u32, u32, u8, u8);

/// Two rows of two tiles.
fn grid() -> Vec<u8> {
    tensor("w", 3, &[2, 4, 64, 1, 2, 32, 0])
}

/// Returns the tensor header and the four lattice tiles of a grid, then `more`.
fn on_lattice(more: &[Entry]) -> Vec<u8> {
    let base = [(0, 0, 2, 0), (0, 0, 4, 0), (0, 1, 4, 0), (0, 2, 4, 0), (0, 3, 4, 0)];
    units(&[&base[..], more].concat())
}

/// Returns a layers record.
fn marks(units: &[u64]) -> Vec<u8> {
    let each = units.iter().flat_map(|&units| [varints(&[units]), 0.5f32.to_le_bytes().to_vec()].concat());
    record(0x01, &[varints(&[units.len() as u64]), each.collect()].concat())
}

#[test]
fn tables_of_layers() {
    let w = || "\"w\"".to_owned();
    let mode = |unit, mode, layer| F::LayerMode { unit, name: w(), mode, layer };
    let nothing = |unit, tile, layer| F::NothingBelow { unit, tile, name: w(), layer };
    let header = |unit| F::MissingHeader { name: w(), unit };
    let twice = |first, second| F::DuplicateUnit { first, second, name: w() };
    let cases: Vec<(&str, Vec<Entry>, F)> = vec![
        ("a stored tile in layer 1", vec![(0, 0, 2, 1), (0, 0, 0, 1)], mode(6, 0, 1)),
        ("a zstd tile in layer 1", vec![(0, 0, 2, 1), (0, 0, 1, 1)], mode(6, 1, 1)),
        ("a float tile in layer 1", vec![(0, 0, 2, 1), (0, 0, 3, 1)], mode(6, 3, 1)),
        ("a lattice tile in layer 255", vec![(0, 0, 2, 255), (0, 0, 4, 255)], mode(6, 4, 255)),
        ("a refinement in layer 2 without one in layer 1", vec![(0, 0, 2, 2), (0, 0, 5, 2)], nothing(6, 0, 2)),
        (
            "a gap in the layers",
            vec![(0, 0, 2, 1), (0, 0, 5, 1), (0, 0, 2, 2), (0, 0, 2, 3), (0, 0, 5, 3)],
            nothing(9, 0, 3),
        ),
        ("a refinement in layer 255 alone", vec![(0, 0, 2, 255), (0, 3, 5, 255)], nothing(6, 3, 255)),
        ("an exact tile in layer 2 alone", vec![(0, 0, 2, 2), (0, 1, 6, 2)], nothing(6, 1, 2)),
        (
            "a refinement of another tile below",
            vec![(0, 0, 2, 1), (0, 1, 5, 1), (0, 0, 2, 2), (0, 1, 5, 2), (0, 2, 5, 2)],
            nothing(9, 2, 2),
        ),
        (
            "a refinement above an exact tile",
            vec![(0, 0, 2, 1), (0, 0, 6, 1), (0, 0, 2, 2), (0, 0, 5, 2)],
            nothing(8, 0, 2),
        ),
        (
            "an exact tile above an exact tile",
            vec![(0, 0, 2, 1), (0, 0, 6, 1), (0, 0, 2, 2), (0, 0, 6, 2)],
            nothing(8, 0, 2),
        ),
        (
            "a refinement above a tile in an unknown mode",
            vec![(0, 0, 77, 1), (0, 0, 2, 2), (0, 0, 5, 2)],
            nothing(7, 0, 2),
        ),
        (
            "refinements and exact tiles in one layer",
            vec![(0, 0, 2, 1), (0, 0, 5, 1), (0, 1, 6, 1)],
            F::LayerModes { name: w(), layer: 1 },
        ),
        (
            "a refinement before the one below",
            vec![(0, 0, 2, 1), (0, 0, 2, 2), (0, 0, 5, 2), (0, 0, 5, 1)],
            nothing(7, 0, 2),
        ),
        ("no tensor header in layer 1", vec![(0, 0, 5, 1)], header(5)),
        ("a tensor header in layer 2 only", vec![(0, 0, 2, 2), (0, 0, 5, 1)], header(6)),
        ("a tensor header behind a tile of its layer", vec![(0, 2, 5, 1), (0, 0, 2, 1), (0, 0, 5, 1)], header(5)),
        ("no tensor header in layer 2", vec![(0, 0, 2, 1), (0, 0, 5, 1), (0, 0, 5, 2)], header(7)),
        ("two tensor headers in layer 1", vec![(0, 0, 2, 1), (0, 0, 5, 1), (0, 0, 2, 1)], twice(5, 7)),
        ("a tile twice", vec![(0, 0, 2, 1), (0, 0, 5, 1), (0, 1, 5, 1), (0, 0, 6, 1)], twice(6, 8)),
        ("a tile twice, once to be skipped", vec![(0, 0, 2, 1), (0, 0, 5, 1), (0, 0, 99, 1)], twice(6, 7)),
        ("a tensor header with a tile", vec![(0, 3, 2, 1)], F::HeaderTile { unit: 5, tile: 3 }),
        ("a tile after the last", vec![(0, 4, 5, 1)], F::UnitTile { unit: 5, tile: 4, name: w(), tiles: 4 }),
    ];
    check(cases.into_iter().map(|(what, more, rule)| (what, vec![grid(), on_lattice(&more)], rule)).collect());

    let (a, x) = (|| "\"a\"".to_owned(), tensor("x", 3, &[1, 32, 0, 1, 32, 0]));
    let finer = |name, unit| F::NothingBelow { unit, tile: 0, name, layer: 1 };
    check(vec![
        (
            "a refinement in layer 0",
            vec![asset("a", 4, 4), units(&[(0, 0, 2, 0), (0, 0, 5, 0)])],
            F::LayerMode { unit: 1, name: a(), mode: 5, layer: 0 },
        ),
        (
            "an exact tile in layer 0",
            vec![asset("a", 4, 4), units(&[(0, 0, 2, 0), (0, 0, 6, 0)])],
            F::LayerMode { unit: 1, name: a(), mode: 6, layer: 0 },
        ),
        (
            "a refinement of an asset",
            vec![asset("a", 4, 4), units(&[(0, 0, 0, 0), (0, 0, 2, 1), (0, 0, 5, 1)])],
            finer(a(), 2),
        ),
        (
            "an exact tile above a float one",
            vec![asset("a", 4, 4), units(&[(0, 0, 2, 0), (0, 0, 3, 0), (0, 0, 2, 1), (0, 0, 6, 1)])],
            finer(a(), 3),
        ),
        (
            "a refinement above a tile that is to be skipped",
            vec![asset("a", 4, 4), units(&[(0, 0, 99, 0), (0, 0, 2, 1), (0, 0, 5, 1)])],
            finer(a(), 2),
        ),
        (
            "a refinement above the lattice of another tensor",
            vec![grid(), x, on_lattice(&[(1, 0, 0, 0), (1, 0, 2, 1), (1, 0, 5, 1)])],
            finer("\"x\"".to_owned(), 7),
        ),
        (
            "a refinement before the base",
            vec![
                tensor("w", 3, &[1, 32, 0, 1, 32, 0]),
                units(&[(0, 0, 2, 0), (0, 0, 2, 1), (0, 0, 5, 1), (0, 0, 4, 0)]),
            ],
            finer("\"w\"".to_owned(), 2),
        ),
    ]);
}

#[test]
fn layers_records() {
    let none = || units(&[]);
    let with = |payload: &[u8]| vec![record(0x01, payload), none()];
    check(vec![
        ("two layers records", vec![marks(&[]), none(), marks(&[])], F::LayersTwice { at: 9 }),
        ("256 layers", with(&varints(&[256])), F::LayerCount { count: 256 }),
        ("2^64 - 1 layers", with(&varints(&[u64::MAX])), F::LayerCount { count: u64::MAX }),
        ("no layer where one is announced", with(&[1]), F::Cut { at: 3 }),
        ("a layer that ends early", with(&[1, 0, 0, 0, 0]), F::Cut { at: 4 }),
        ("more units than there are", vec![marks(&[1]), none()], F::LayerUnits { layer: 1, units: 1 }),
        (
            "more units than there are, before they are",
            vec![none(), marks(&[0, 7])],
            F::LayerUnits { layer: 2, units: 7 },
        ),
        ("2^32 units", vec![marks(&[1 << 32]), none()], F::LayerUnits { layer: 1, units: 1 << 32 }),
        (
            "fewer units than before",
            vec![grid(), on_lattice(&[]), marks(&[4, 3])],
            F::LayerUnits { layer: 2, units: 3 },
        ),
    ]);
}

#[test]
fn odd_layers_that_are_read() {
    let records = [
        grid(),
        object(9, 0, b"later", &[]),
        // Tensor headers that no tile needs, layers to be skipped, finer tiles before the bases of other tiles. For the
        // object of unknown class, only duplicates are forbidden.
        units(&[
            (0, 0, 2, 255),
            (0, 0, 2, 2),
            (0, 0, 2, 9),
            (0, 0, 2, 0),
            (0, 0, 2, 1),
            (0, 1, 4, 0),
            (0, 1, 5, 1),
            (0, 1, 6, 2),
            (0, 3, 4, 0),
            (0, 3, 5, 1),
            (0, 0, 200, 1),
            (0, 0, 200, 2),
            (0, 2, 77, 200),
            (1, 3, 0, 7),
            (1, 3, 5, 0),
            (0, 2, 1, 0),
            (0, 0, 4, 0),
        ]),
        record(
            0x01,
            &[&[3, 0, 0, 0, 0xC0, 0x7F, 17, 0, 0, 0, 0x3F, 17, 0xFF, 0xFF, 0xFF, 0xFF][..], b"left over"].concat(),
        ),
    ];
    let manifest = records.concat();
    // The units are empty, so the last one ends where it begins.
    let end = (64 + manifest.len()).next_multiple_of(16);
    let mut bytes = with_header(&manifest, end as u64);
    bytes.resize(end, 0);
    let reader = open(&bytes).unwrap();
    assert_eq!(reader.layers_of(0), 2);
    let first = reader.layer_of(0, 1).unwrap();
    assert_eq!((first.mode.0, first.header, first.units), (5, 4, &[6, 9][..]));
    assert_eq!([0, 1, 2, 3].map(|tile| first.tile(tile)), [None, Some(6), None, Some(9)]);
    let second = reader.layer_of(0, 2).unwrap();
    assert_eq!((second.mode.0, second.header, second.units), (6, 1, &[7][..]));
    assert!(reader.layer_of(0, 0).is_none() && reader.layer_of(0, 3).is_none() && reader.layer_of(7, 1).is_none());
    assert_eq!([0, 1, 2, u32::MAX].map(|object| reader.layers_of(object)), [2, 0, 0, 0]);
    // Tile 0 has no refinement, so the upper row is at level 0. In the lower row, tile 2 is not in mode lattice, and
    // tile 3 has one layer.
    assert_eq!([0, 1, 2, u64::MAX].map(|row| reader.level(0, row)), [0, 1, 0, 0]);
    assert_eq!(reader.units_of_band(0, 0..4, 32..64), Some(vec![3, 5, 8, 4, 9]));
    let marks: Vec<_> = reader.marks().iter().map(|mark| (mark.units, mark.kld)).collect();
    assert_eq!(marks, [(0, None), (17, Some(0.5)), (17, None)]);
    assert_eq!(Manifest::parse(&manifest, &Limits::default()).unwrap().layers, reader.marks());
}
