//! Anything that can be written comes back.

mod common;

use std::collections::BTreeMap;

use common::{Content, Unit};
use impasto_codec::DType;
use impasto_container::{
    Limits, Manifest, Mode, Object, ObjectKind, Opaque, Reader, TensorMeta, manifest_length, measure,
};
use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// A tensor of any dtype: of blocks, with a last dim of whole blocks; opaque, of any length.
fn tensor() -> impl Strategy<Value = ObjectKind> {
    let dtypes = [&DType::PLAIN[..], &DType::BLOCKS, &[DType::Opaque; 8]].concat();
    let tile_cols = prop_oneof![(1u64..4).prop_map(|n| 32 * n), 200_000u64..u64::MAX];
    let opaque = ("F4|Q4_0|\\PC{1,16}", 0u64..2000);
    (select(dtypes), opaque, vec(0u64..50, 0..4), any::<Index>(), 1u64..40, tile_cols).prop_map(
        |(dtype, (name, bytes), mut dims, split, tile_rows, tile_cols)| {
            let blocks = dtype.weights() > 1;
            if blocks && dims.is_empty() {
                dims.push(3);
            }
            if let Some(last) = dims.last_mut() {
                *last *= dtype.weights() as u64;
            }
            let is_opaque = dtype == DType::Opaque;
            let splits = if is_opaque { 1 } else { dims.len() + usize::from(!blocks) };
            let opaque = is_opaque.then_some(Opaque { name, bytes });
            let split = split.index(splits);
            ObjectKind::Tensor(TensorMeta { dtype, opaque, dims, split, tile_rows, tile_cols, tied: None })
        },
    )
}

fn kind() -> impl Strategy<Value = ObjectKind> {
    prop_oneof![
        2 => (0u64..5000, 500u64..6000).prop_map(|(length, piece)| ObjectKind::Asset { length, piece }),
        6 => tensor(),
        1 => (2u8..).prop_map(ObjectKind::Unknown),
    ]
}

/// Objects in order; some tensors are tied to an earlier one, whose shape they take.
fn objects() -> impl Strategy<Value = Vec<Object>> {
    let name = prop_oneof!["(model\\.layers\\.[0-9]{1,2}\\.)?[a-c]{1,3}", "\\PC{1,20}"];
    let tie = prop_oneof![2 => Just(None), 1 => any::<Index>().prop_map(Some)];
    btree_map(name, (kind(), tie), 0..12).prop_map(|named| {
        let mut sorted = BTreeMap::new();
        for (name, (kind, tie)) in named {
            let object = Object { name, kind };
            sorted.insert((object.class(), object.name.clone()), (object, tie));
        }
        let mut objects: Vec<Object> = Vec::new();
        for (mut object, tie) in sorted.into_values() {
            let free: Vec<usize> =
                (0..objects.len()).filter(|&i| objects[i].tensor().is_some_and(|meta| meta.tied.is_none())).collect();
            if let (ObjectKind::Tensor(meta), Some(tie)) = (&mut object.kind, tie)
                && !free.is_empty()
            {
                let to = *tie.get(&free);
                *meta = objects[to].tensor().expect("a tensor").clone();
                meta.tied = Some(to as u32);
            }
            objects.push(object);
        }
        objects
    })
}

/// A file of any objects: heads first, then the tiles of layer 0, units to be skipped among them, in any order.
fn content() -> impl Strategy<Value = Content> {
    let modes = vec(prop_oneof![0u8..2, 3u8..5, any::<u8>()], 1..20);
    let bytes = vec(vec(any::<u8>(), 0..70), 1..20);
    (objects(), modes, bytes, any::<u64>()).prop_map(|(objects, modes, bytes, order)| {
        let mut places = Vec::new();
        let mut heads = Vec::new();
        for (number, object) in objects.iter().enumerate() {
            let tiles = match object.matrix().expect("a good shape") {
                _ if object.tied().is_some() => 0,
                Some(matrix) => matrix.tile_count(),
                None => 3,
            };
            if tiles > 0 {
                heads.push((number, 0, 0));
            }
            for tile in 0..tiles {
                places.extend([(number, tile, 0), (number, tile, 1)]);
            }
        }
        places.sort_by_key(|&(number, tile, layer)| {
            blake3::hash(format!("{order} {number} {tile} {layer}").as_bytes()).to_string()
        });
        let mode = |i: usize| match Mode(modes[i % modes.len()]) {
            Mode::HEAD => Mode::ZSTD,
            mode => mode,
        };
        let count = heads.len();
        let units = heads.into_iter().chain(places).enumerate().map(|(i, (number, tile, layer))| Unit {
            object: number as u32,
            tile,
            layer,
            mode: if i < count { Mode::HEAD } else { mode(i) },
            bytes: bytes[i % bytes.len()].clone(),
        });
        Content { units: units.collect(), objects }
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_manifest_comes_back(content in content()) {
        let manifest = content.manifest();
        let bytes = manifest.to_bytes();
        prop_assert_eq!(manifest_length(&manifest.objects, manifest.units.len()), bytes.len() as u64);
        prop_assert_eq!(Manifest::parse(&bytes, &Limits::default()), Ok(manifest));
    }

    #[test]
    fn a_file_comes_back(content in content()) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.impasto");
        let summary = content.write(&path);
        let file = std::fs::read(&path).unwrap();
        prop_assert_eq!(&file, &content.to_file());

        let lengths: Vec<u32> = content.units.iter().map(|unit| unit.bytes.len() as u32).collect();
        prop_assert_eq!(summary.file_length, file.len() as u64);
        prop_assert_eq!(measure(&content.objects, &lengths), Ok(file.len() as u64));
        prop_assert_eq!(summary.unit_bytes, lengths.iter().map(|&n| u64::from(n)).sum::<u64>());
        prop_assert_eq!(summary.units, lengths.len());

        let reader = Reader::open_file(&path, &Limits::default()).unwrap();
        prop_assert_eq!(reader.root(), &summary.root);
        prop_assert_eq!(reader.header().manifest_length, summary.manifest_length);
        prop_assert_eq!(reader.objects(), &content.objects[..]);
        for (i, unit) in content.units.iter().enumerate() {
            prop_assert_eq!(reader.unit_range(i as u32).unwrap().start % 16, 0);
            prop_assert_eq!(reader.read_unit(i as u32).unwrap(), &unit.bytes[..]);
        }
        for number in 0..content.objects.len() as u32 {
            let Some(units) = reader.units_of(number) else { continue };
            prop_assert_eq!(units.tiles.len(), reader.matrix(number).unwrap().tile_count() as usize);
            for (tile, &unit) in units.tiles.iter().enumerate() {
                let unit = &content.units[unit as usize];
                prop_assert_eq!((unit.object, unit.tile, unit.layer), (reader.resolve(number), tile as u32, 0));
            }
        }
    }

    #[test]
    fn bytes_at_random_are_no_manifest_or_one_that_obeys(bytes: Vec<u8>) {
        if let Ok((manifest, _)) = impasto_container::fuzz_manifest(&bytes) {
            prop_assert!(Manifest::parse(&manifest.to_bytes(), &Limits::default()).is_ok());
        }
    }

    #[test]
    fn a_changed_manifest_does_no_harm(content in content(), changes in vec((any::<Index>(), any::<u8>()), 1..6)) {
        let mut bytes = content.manifest().to_bytes();
        changes.iter().for_each(|(at, byte)| *at.get_mut(&mut bytes) = *byte);
        let file = common::with_header(&bytes, 0);
        prop_assert!(common::open(&file).is_err());
        drop(impasto_container::fuzz_manifest(&bytes));
    }
}
