//! Reading a band touches only the units that it needs.

use crate::common::{Content, Unit, small};
use impasto_container::{CountingSource, Limits, Object, ObjectKind, Reader, TensorMeta};
use impasto_core::{DType, Mode};

/// A 100 x 300 matrix in tiles of 16 x 64, with a tensor header, between two other tensors.
fn content() -> Content {
    let dims = vec![10, 10, 300];
    let meta = TensorMeta {
        dtype: DType::F16,
        opaque: None,
        dims,
        split: 2,
        tile_rows: 16,
        tile_cols: 64,
        tied: None,
        reference: None,
        base: None,
    };
    let objects: Vec<Object> =
        ["a", "b", "c"].map(|name| Object { name: name.into(), kind: ObjectKind::Tensor(meta.clone()) }).into();
    let mut units = Vec::new();
    for object in 0..3 {
        let mut unit = |tile, mode, length| {
            units.push(Unit { object, tile, layer: 0, mode, bytes: vec![tile as u8; length] });
        };
        unit(0, Mode::TENSOR_HEADER, 100);
        (0..35).for_each(|tile| unit(tile, Mode::FLOAT, 200 + 3 * tile as usize));
    }
    Content { objects, units, layers: vec![] }
}

#[test]
fn a_band_touches_the_header_the_manifest_and_its_units() {
    let (content, file) = (content(), content().to_file());
    let manifest_end = 64 + content.manifest().to_bytes().len() as u64;
    let source = CountingSource::new(file);
    let reader = Reader::open(&source, "t", &Limits::default()).unwrap();
    assert_eq!((source.touched().len(), source.touched()[0].clone()), (1, 0..manifest_end));

    // Rows 16 to 31 are exactly one tile row, columns 64 to 128 two tile columns.
    for (rows, cols, tiles) in [
        (16..32, 0..300, vec![5, 6, 7, 8, 9]),
        (0..100, 64..129, vec![1, 2, 6, 7, 11, 12, 16, 17, 21, 22, 26, 27, 31, 32]),
        (99..100, 299..300, vec![34]),
        (50..50, 0..300, vec![]),
    ] {
        source.clear();
        let units = reader.units_of_band(1, rows, cols).unwrap();
        assert_eq!(units, [36].into_iter().chain(tiles.iter().map(|tile| 37 + tile)).collect::<Vec<u32>>());
        for &unit in &units {
            reader.read_unit(unit).unwrap();
        }
        let mut bytes = 0;
        for range in source.touched() {
            assert!(units.iter().any(|&unit| reader.unit_range(unit).unwrap().start == range.start));
            bytes += range.end - range.start;
        }
        let wanted = units.iter().map(|&unit| u64::from(reader.units()[unit as usize].length)).sum::<u64>();
        // Units whose length is a multiple of 16 are adjacent, so ranges may merge, but no other byte is read.
        assert_eq!(bytes, wanted);
        assert_eq!(source.touched_bytes(), wanted);
    }
}

#[test]
fn asking_for_states_reads_nothing() {
    let source = CountingSource::new(small().to_file());
    let reader = Reader::open(&source, "t", &Limits::default()).unwrap();
    source.clear();
    (0..12).for_each(|unit| drop(reader.unit_state(unit)));
    assert_eq!(source.touched_bytes(), 0);
}

#[test]
fn a_tied_tensor_has_the_units_of_the_other() {
    let file = small().to_file();
    let reader = crate::common::open(&file).unwrap();
    let (embed, out) = (reader.find_tensor("embed.weight"), reader.find_tensor("embed_out.weight"));
    assert_eq!((embed, out), (Some(1), Some(2)));
    assert_eq!(reader.resolve(2), 1);
    assert_eq!(reader.units_of(2), reader.units_of(1));
    assert_eq!(reader.matrix(2), reader.matrix(1));
    let units = reader.units_of(2).unwrap();
    assert_eq!((units.header, units.tiles, units.readable), (Some(2), &[4, 6, 3, 5][..], true));
    assert_eq!(reader.units_of_band(2, 2..3, 0..1), Some(vec![2, 3]));
}

#[test]
fn objects_are_found_and_what_is_unknown_is_skipped() {
    let file = small().to_file();
    let reader = crate::common::open(&file).unwrap();
    for (number, object) in reader.objects().iter().enumerate() {
        let number = Some(number as u32);
        assert_eq!(reader.find_tensor(&object.name), number.filter(|_| object.tensor().is_some()));
        assert_eq!(reader.find_asset(&object.name), number.filter(|_| object.class() == 0));
    }
    let readable = |object| reader.units_of(object).map(|units| units.readable);
    assert_eq!([0, 1, 3, 4, 5].map(readable), [true, true, true, false, true].map(Some));
    assert_eq!([6, 7, u32::MAX].map(readable), [None; 3]);
    assert_eq!([6, 7, u32::MAX].map(|object| reader.matrix(object)), [None; 3]);
    assert_eq!(reader.units_of_band(7, 0..1, 0..1), None);
}
