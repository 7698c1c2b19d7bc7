//! Files that are cut or altered.

use crate::common::{open, small};
use impasto_container::{ContainerError, UnitHealth, UnitState};

#[test]
fn a_file_cut_anywhere_is_refused_or_misses_exactly_the_cut_units() {
    let (content, file) = (small(), small().to_file());
    let manifest_end = 64 + content.manifest().to_bytes().len();
    let whole = open(&file).unwrap();
    let mut opened = 0;
    for cut in 0..=file.len() {
        let reader = match open(&file[..cut]) {
            Ok(reader) => reader,
            Err(error) => {
                assert!(cut < manifest_end, "{cut}: {error}");
                continue;
            }
        };
        assert!(cut >= manifest_end);
        opened += 1;
        assert_eq!(reader.is_cut(), cut < file.len());
        for (i, unit) in content.units.iter().enumerate() {
            let i = i as u32;
            if whole.unit_range(i).unwrap().end <= cut as u64 {
                assert_eq!(reader.unit_state(i).unwrap(), UnitState::Present);
                assert_eq!(reader.verify_unit(i).unwrap(), UnitHealth::Good);
                assert_eq!(reader.read_unit(i).unwrap(), &unit.bytes[..]);
            } else {
                assert_eq!(reader.unit_state(i).unwrap(), UnitState::Absent);
                assert_eq!(reader.verify_unit(i).unwrap(), UnitHealth::Absent);
                let error = reader.read_unit(i).unwrap_err();
                assert!(matches!(error, ContainerError::Absent { unit, .. } if unit == i), "{error}");
            }
        }
    }
    assert_eq!(opened, file.len() - manifest_end + 1);
}

#[test]
fn a_changed_byte_is_an_error_a_damaged_unit_or_no_change() {
    let (content, file) = (small(), small().to_file());
    let manifest_end = 64 + content.manifest().to_bytes().len();
    let whole = open(&file).unwrap();
    for at in 0..file.len() {
        let hit = (0..content.units.len() as u32).find(|&i| whole.unit_range(i).unwrap().contains(&(at as u64)));
        for flip in 1..=255 {
            let mut changed = file.clone();
            changed[at] ^= flip;
            let reader = match open(&changed) {
                Ok(reader) => reader,
                Err(error) => {
                    assert!(at < manifest_end, "{at}: {error}");
                    continue;
                }
            };
            // Only the minor version may differ before the units.
            assert!(at == 10 || at == 11 || at >= manifest_end, "{at}");
            assert_eq!((reader.objects(), reader.units()), (whole.objects(), whole.units()));
            for (i, unit) in content.units.iter().enumerate() {
                if hit == Some(i as u32) {
                    let error = reader.read_unit(i as u32).unwrap_err();
                    assert!(matches!(error, ContainerError::Damaged { unit, .. } if unit == i as u32), "{error}");
                } else {
                    assert_eq!(reader.read_unit(i as u32).unwrap(), &unit.bytes[..]);
                }
            }
        }
    }
}

#[test]
fn messages_name_the_file_and_the_unit() {
    let mut file = small().to_file();
    let [third, tenth] = [3, 10].map(|unit| open(&file).unwrap().unit_range(unit).unwrap());
    file[third.start as usize] ^= 1;
    let reader = open(&file[..tenth.end as usize - 1]).unwrap();
    let message = |unit| reader.read_unit(unit).unwrap_err().to_string();
    let damaged = "t.impasto: unit 3 (tile 2 of \"embed.weight\") is damaged: \
                   it does not have the hash in the manifest (SPEC 11.2)";
    assert_eq!(message(3), damaged);
    let absent = "t.impasto: unit 10 (tile 41 of \"later\") is absent: the file is incomplete, \
                  or the unit is excluded (SPEC 2.5)";
    assert_eq!(message(10), absent);
    assert_eq!(message(12), "t.impasto: there is no unit 12, the manifest has 12 (SPEC 3.6)");
    assert!(reader.unit_state(u32::MAX).is_err() && reader.verify_unit(12).is_err());
    assert_eq!(reader.unit_place(2), "unit 2 (tensor header of \"embed.weight\")");
    assert_eq!(reader.unit_place(7), "unit 7 (tile 1, layer 1 of \"embed.weight\")");
}
