//! Whatever can be written is read back unchanged.

use crate::common::random::content;
use impasto_container::{Limits, Manifest, Reader, manifest_length, measure};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_manifest_comes_back(content in content()) {
        let manifest = content.manifest();
        let bytes = manifest.to_bytes();
        prop_assert_eq!(manifest_length(&manifest.objects, manifest.units.len(), &manifest.layers, None), bytes.len() as u64);
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
        prop_assert_eq!(measure(&content.objects, &lengths, &content.layers, None), Ok(file.len() as u64));
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
        let file = crate::common::with_header(&bytes, 0);
        prop_assert!(crate::common::open(&file).is_err());
        drop(impasto_container::fuzz_manifest(&bytes));
    }
}
