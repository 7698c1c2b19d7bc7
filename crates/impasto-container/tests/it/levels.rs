//! The level of a tile row follows SPEC 12.3, wherever the file is cut and whichever units are excluded.

use std::collections::HashMap;
use std::ops::Range;

use crate::common::random::content;
use crate::common::{Content, Unit, open};
use impasto_container::{ContainerError, Reader, UnitHealth, UnitState};
use impasto_core::Mode;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

/// Object, layer, tile; `None` for a tensor header.
type Place = (u32, u8, Option<u32>);

/// Returns the units of a file by place.
fn places(content: &Content) -> HashMap<Place, usize> {
    let place = |unit: &Unit| (unit.object, unit.layer, (unit.mode != Mode::TENSOR_HEADER).then_some(unit.tile));
    content.units.iter().enumerate().map(|(i, unit)| (place(unit), i)).collect()
}

/// Computes the level literally as in SPEC 12.3. `mode` returns the mode of the unit in a place, if it is present.
fn level(
    object: u32,
    tiles: Range<u32>,
    listed: &dyn Fn(Place) -> Option<Mode>,
    mode: &dyn Fn(Place) -> Option<Mode>,
) -> u8 {
    let lattice: Vec<u32> = tiles.filter(|&tile| listed((object, 0, Some(tile))) == Some(Mode::LATTICE)).collect();
    let is_there = |place| mode(place).is_some_and(Mode::is_known);
    let reached =
        |layer| is_there((object, layer, None)) && lattice.iter().all(|&tile| is_there((object, layer, Some(tile))));
    if lattice.is_empty() { 0 } else { (1..=u8::MAX).take_while(|&layer| reached(layer)).count() as u8 }
}

fn check(content: &Content, reader: &Reader<&[u8]>, there: &dyn Fn(usize) -> bool) {
    let places = places(content);
    let listed = |place| places.get(&place).map(|&unit| content.units[unit].mode);
    let mode = |place| places.get(&place).filter(|&&unit| there(unit)).map(|&unit| content.units[unit].mode);
    for number in 0..content.objects.len() as u32 {
        let Some(matrix) = reader.matrix(number) else { continue };
        let across = matrix.tiles_across();
        let rows = matrix.tile_count().checked_div(across).unwrap_or(0);
        for row in 0..rows {
            let expected = level(reader.resolve(number), row * across..(row + 1) * across, &listed, &mode);
            assert_eq!(reader.level(number, row.into()), expected, "object {number}, row {row}");
            // The units of a band are present, if they are above layer 0.
            let first = u64::from(row) * matrix.tile_rows();
            let needed = reader.units_of_band(number, first..first + 1, 0..u64::MAX).unwrap();
            let layers = needed.iter().map(|&unit| content.units[unit as usize].layer);
            assert_eq!(layers.max().unwrap_or(0), expected);
            assert!(needed.iter().all(|&unit| content.units[unit as usize].layer == 0 || there(unit as usize)));
        }
        assert_eq!(reader.level(number, rows.into()), 0);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn levels_are_those_of_the_units_that_are_there(
        content in content(), cuts in vec(any::<Index>(), 1..6), keep in vec(any::<bool>(), 1..50),
    ) {
        let file = content.to_file();
        let manifest_end = 64 + content.manifest().to_bytes().len();
        let whole = open(&file).unwrap();
        let ends: Vec<u64> =
            (0..content.units.len() as u32).map(|unit| whole.unit_range(unit).unwrap().end).collect();
        for cut in cuts {
            let length = manifest_end + cut.index(file.len() - manifest_end + 1);
            let mut reader = open(&file[..length]).unwrap();
            let present = |unit: usize| ends[unit] <= length as u64;
            check(&content, &reader, &present);

            reader.keep(keep.clone());
            // Units past the end of the list are not excluded, nor are those of layer 0.
            let wanted = |unit: usize| keep.get(unit).is_none_or(|&keep| keep) || content.units[unit].layer == 0;
            let kept = |unit: usize| present(unit) && wanted(unit);
            check(&content, &reader, &kept);
            for (i, unit) in content.units.iter().enumerate() {
                let (state, health) = match kept(i) {
                    true => (UnitState::Present, UnitHealth::Good),
                    false => (UnitState::Absent, UnitHealth::Absent),
                };
                let number = i as u32;
                prop_assert_eq!((reader.unit_state(number).unwrap(), reader.verify_unit(number).unwrap()), (state, health));
                match reader.read_unit(number) {
                    Ok(bytes) => prop_assert!(kept(i) && bytes[..] == unit.bytes),
                    Err(ContainerError::Absent { unit, .. }) => prop_assert!(!kept(i) && unit == number),
                    Err(error) => prop_assert!(false, "{}", error),
                }
            }
            reader.keep(vec![]);
            check(&content, &reader, &present);
        }
    }
}
