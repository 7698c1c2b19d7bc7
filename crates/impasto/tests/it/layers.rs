//! Layered files: at any cut they give the weights of the units that are present, and an invalid unit is named.

use crate::support::layered::{Layered, Unit, sample};
use crate::support::{Random, Tensor};
use impasto::verify::verify;
use impasto::{File, FileError};
use impasto_container::{ContainerError, CountingSource, Header, Limits, Reader, Source};
use impasto_core::{DType, Mode};

fn try_open<S: Source>(source: S) -> Result<File<S>, ContainerError> {
    Ok(File::new(Reader::open(source, "cut.impasto", &Limits::default())?))
}

fn open(bytes: &[u8]) -> File<&[u8]> {
    try_open(bytes).expect("opens")
}

/// Checks that every object has the value that follows from the present units, for which `there` is true.
fn check<S: Source>(layered: &Layered, file: &File<S>, there: &dyn Fn(usize) -> bool) {
    for (number, object) in (0..).zip(&layered.objects) {
        let name = &object.name;
        let read = match object.tensor() {
            Some(_) => file.tensor(name).and_then(|tensor| tensor.bytes()),
            None => file.asset(name).map(|bytes| bytes.expect("there")),
        };
        let Some(rows) = layered.rows_at(number, there) else {
            let absent = matches!(read, Err(FileError::Container(ContainerError::Absent { .. })));
            assert!(absent, "{name}: {:?}", read.map(|_| "reads"));
            continue;
        };
        let expected = layered.elements(number, &rows);
        assert!(read.expect("reads") == expected, "{name} at {rows:?}");
        if object.tensor().is_some() {
            let tensor = file.tensor(name).expect("tensor header");
            let levels: Vec<usize> = (0..rows.len()).map(|row| tensor.level(16 * row as u64).into()).collect();
            assert_eq!(levels, rows, "{name}");
            let top = layered.levels[number as usize].len() - 1;
            let exact = match name.as_str() {
                "norm" => true,
                "attn.q" | "tied" => rows.iter().all(|&level| level == top),
                "mlp.up" => rows[1..].iter().all(|&level| level == top), // The first row is stored.
                _ => false,
            };
            assert_eq!((file.is_exact(name), tensor.is_exact()), (exact, exact), "{name} at {rows:?}");
        }
    }
}

#[test]
fn every_prefix_decodes_to_its_whole_units() {
    let layered = sample();
    let bytes = layered.bytes();
    let file = open(&bytes);
    let ends: Vec<u64> =
        (0..layered.units.len() as u32).map(|unit| file.reader().unit_range(unit).expect("a unit").end).collect();
    check(&layered, &file, &|_| true);
    let manifest_end = Header::read(&bytes).expect("a header").manifest_end();
    let mut lengths: Vec<u64> = ends.iter().flat_map(|&end| [end - 1, end]).collect();
    let mut random = Random(3);
    lengths.extend((0..40).map(|_| manifest_end + random.below(bytes.len() as u64 - manifest_end)));
    let base = layered.units.iter().filter(|unit| unit.slot.layer == 0).count();
    for length in lengths.into_iter().chain([manifest_end]) {
        let cut = open(&bytes[..length as usize]);
        let there = |unit: usize| ends[unit] <= length;
        check(&layered, &cut, &there);
        // Beyond the base, every cut file opens and runs, and its units are valid.
        let verdict = verify(&cut).expect("reads");
        assert!(verdict.damaged.is_empty() && verdict.broken.is_empty(), "{verdict:?}");
        assert_eq!(verdict.absent.len(), (0..ends.len()).filter(|&unit| !there(unit)).count());
        if length >= ends[base - 1] {
            assert!(cut.tensor_names().all(|name| cut.tensor(name).and_then(|tensor| tensor.bytes()).is_ok()));
        }
    }
}

#[test]
fn bands_are_those_of_the_whole_and_touch_their_units_only() {
    let layered = sample();
    let bytes = layered.bytes();
    let ends: Vec<u64> = {
        let file = open(&bytes);
        (0..layered.units.len() as u32).map(|unit| file.reader().unit_range(unit).expect("a unit").end).collect()
    };
    let mut random = Random(9);
    let base = layered.units.iter().filter(|unit| unit.slot.layer == 0).count();
    for _ in 0..60 {
        let length = ends[base - 1 + random.below((ends.len() - base + 1) as u64) as usize];
        let source = CountingSource::new(&bytes[..length as usize]);
        let file = try_open(&source).expect("opens");
        for name in ["attn.q", "mlp.down", "mlp.up", "tied"] {
            let number = file.reader().find_tensor(name).expect("there");
            let rows = layered.rows_at(number, &|unit| ends[unit] <= length).expect("the base is there");
            let whole = layered.elements(number, &rows);
            let matrix = *file.reader().matrix(number).expect("known");
            let mut range = |n: u64| {
                let from = random.below(n);
                from..from + 1 + random.below(n - from)
            };
            let (rows, columns) = (range(matrix.rows()), range(matrix.cols()));
            source.clear();
            let band = file.tensor(name).and_then(|tensor| tensor.band(rows.clone(), columns.clone())).expect("reads");
            let touched = source.touched();
            let size = file.meta(name).expect("there").dtype.size();
            let part = |r: u64| {
                let at = |c: u64| (r * matrix.cols() + c) as usize * size;
                &whole[at(columns.start)..at(columns.end)]
            };
            assert!(band == rows.clone().flat_map(part).copied().collect::<Vec<u8>>(), "{name} {rows:?} {columns:?}");
            let needed = file.reader().units_of_band(number, rows, columns).expect("known");
            let bytes: u64 =
                needed.iter().map(|&unit| u64::from(layered.units[unit as usize].bytes.len() as u32)).sum();
            assert_eq!(touched.iter().map(|range| range.end - range.start).sum::<u64>(), bytes, "{name}");
        }
    }
}

/// Returns the file with one bit of a unit flipped, and its hash unchanged.
fn damaged(bytes: &[u8], file: &File<&[u8]>, unit: u32) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    bytes[file.reader().unit_range(unit).expect("a unit").start as usize] ^= 16;
    bytes
}

#[test]
fn a_damaged_unit_of_a_layer_is_an_error_that_names_it_and_an_absent_one_is_none() {
    let layered = sample();
    let bytes = layered.bytes();
    let whole = open(&bytes);
    for (number, unit) in (0u32..).zip(&layered.units).filter(|(_, unit)| unit.slot.layer > 0) {
        let damaged = damaged(&bytes, &whole, number);
        let file = open(&damaged);
        let name = layered.objects[unit.slot.object as usize].name.clone();
        let part = if unit.slot.is_header { "tensor header".to_owned() } else { format!("tile {}", unit.slot.tile) };
        let place = format!("unit {number} ({part}, layer {} of {name:?})", unit.slot.layer);
        let error = file.tensor(&name).and_then(|tensor| tensor.bytes()).expect_err("damaged").to_string();
        assert!(error.starts_with(&format!("cut.impasto: {place} is damaged")), "{error}");
        assert_eq!(verify(&file).expect("reads").damaged, [place.as_str()]);
        // Other tensors, and tile rows that do not need the unit, are not affected.
        for other in file.tensor_names().filter(|other| *other != name && (*other != "tied" || name != "attn.q")) {
            assert!(file.tensor(other).and_then(|tensor| tensor.bytes()).is_ok());
        }
        let tensor = file.tensor(&name).expect("the base is whole");
        let columns = tensor.matrix().cols();
        let across = tensor.matrix().tiles_across();
        for row in 0..tensor.matrix().rows().div_ceil(16) {
            // All tile rows are read at their highest level.
            let stored = name == "mlp.up" && row == 0;
            let concerned = !stored && (unit.slot.is_header || u64::from(unit.slot.tile / across) == row);
            assert_eq!(tensor.band(16 * row..16 * row + 1, 0..columns).is_err(), concerned, "{place}, row {row}");
        }
        // If the file is cut before the unit, it is absent rather than damaged.
        let end = whole.reader().unit_range(number).expect("a unit").start as usize;
        let cut = open(&damaged[..end]);
        assert!(cut.tensor(&name).and_then(|tensor| tensor.bytes()).is_ok());
    }
}

/// Returns the sample with units changed before they are hashed.
fn changed(change: impl Fn(&mut Unit)) -> Vec<u8> {
    let mut layered = sample();
    layered.units.iter_mut().for_each(change);
    layered.bytes()
}

#[test]
fn units_that_break_the_format_are_named() {
    let at = |unit: &Unit, object: u32, layer: u8| (unit.slot.object, unit.slot.layer) == (object, layer);
    let is_tile = |unit: &Unit, tile: u32| !unit.slot.is_header && unit.slot.tile == tile;
    let cases = vec![
        (
            "tile 4, layer 1 of \"attn.q\"",
            changed(|unit| {
                if at(unit, 1, 1) && is_tile(unit, 4) {
                    unit.bytes.push(0);
                }
            }),
        ),
        (
            "tile 4, layer 3 of \"attn.q\"",
            changed(|unit| {
                if at(unit, 1, 3) && is_tile(unit, 4) {
                    unit.bytes.truncate(20);
                }
            }),
        ),
        (
            "tensor header, layer 2 of \"attn.q\"",
            changed(|unit| {
                if at(unit, 1, 2) && unit.slot.is_header {
                    unit.bytes[0] = 9;
                }
            }),
        ),
    ];
    for (place, bytes) in cases {
        let file = open(&bytes);
        let error = file.tensor("attn.q").and_then(|tensor| tensor.bytes()).expect_err("broken").to_string();
        assert!(error.contains(&format!("({place})")) && error.contains("(SPEC "), "{error}");
        assert!(error.starts_with("cut.impasto: unit "), "{error}");
        let verdict = verify(&file).expect("reads");
        assert_eq!(verdict.broken, [error]);
        assert!(file.tensor("mlp.down").and_then(|tensor| tensor.bytes()).is_ok());
    }

    // Swapped tensor headers of two layers: each is valid on its own.
    let layered = sample();
    let header =
        |layer| layered.units.iter().find(|unit| at(unit, 1, layer) && unit.slot.is_header).expect("a tensor header");
    let (second, third) = (header(2).bytes.clone(), header(3).bytes.clone());
    let swapped = changed(|unit| match unit.slot.layer {
        2 if at(unit, 1, 2) && unit.slot.is_header => unit.bytes = third.clone(),
        3 if at(unit, 1, 3) && unit.slot.is_header => unit.bytes = second.clone(),
        _ => {}
    });
    let file = open(&swapped);
    let error = file.tensor("attn.q").and_then(|tensor| tensor.bytes()).expect_err("broken").to_string();
    assert!(error.contains("(tensor header, layer 3 of \"attn.q\")") && error.contains("(SPEC 6, 12.2)"), "{error}");
}

/// A unit must be valid even if its tile row is read at a lower level because another tile is absent.
#[test]
fn verify_decodes_units_above_the_level() {
    let mut layered = sample();
    // The last unit is a tile of some layer; without it, its tile row is one level lower.
    let broken = layered.units.len() - 2;
    assert!(layered.units[broken..].iter().all(|unit| unit.mode == Mode::EXACT && unit.slot.object == 1));
    layered.units[broken].bytes.push(0);
    let bytes = layered.bytes();
    let file = open(&bytes[..bytes.len() - 1]);
    assert!(file.tensor("attn.q").and_then(|tensor| tensor.bytes()).is_ok());
    let verdict = verify(&file).expect("reads");
    assert_eq!((verdict.absent.len(), verdict.broken.len()), (1, 1));
    let tile = layered.units[broken].slot.tile;
    assert!(verdict.broken[0].contains(&format!("tile {tile}, layer 3 of \"attn.q\"")), "{:?}", verdict.broken);
}

#[test]
fn heads_that_no_tile_needs_are_not_read_but_verified() {
    let mut layered = Layered::default();
    layered.lattice(&Tensor::weights("w", DType::Bf16, &[20, 33], 5), 0.02, &[3, 3], false, &[]);
    layered.units.retain(|unit| unit.slot.layer < 2 || unit.slot.is_header);
    let is_last = |unit: &Unit| unit.slot.layer == 2;
    let good = layered.bytes();
    check(&layered, &open(&good), &|_| true);
    assert!(verify(&open(&good)).expect("reads").is_good());
    for kind in [3, 4, 9] {
        let mut broken = layered.clone();
        broken.units.iter_mut().filter(|unit| is_last(unit)).for_each(|unit| unit.bytes[0] = kind);
        let bytes = broken.bytes();
        let file = open(&bytes);
        assert!(file.tensor("w").and_then(|tensor| tensor.bytes()).is_ok());
        let verdict = verify(&file).expect("reads");
        assert!(
            verdict.broken.len() == 1 && verdict.broken[0].contains("tensor header, layer 2 of \"w\""),
            "{verdict:?}"
        );
    }
}
