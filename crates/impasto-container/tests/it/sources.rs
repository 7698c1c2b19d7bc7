//! Several units per call, units that arrive in any order, and units that are hashed once.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::sync::Mutex;

use crate::common::small;
use impasto_container::{CountingSource, Limits, Reader, Source, UnitHealth, UnitState};

/// A file of which some ranges have not arrived yet.
#[derive(Debug)]
struct Partial {
    bytes: Mutex<Vec<u8>>,
    missing: Mutex<Vec<Range<u64>>>,
}

impl Source for Partial {
    fn len(&self) -> u64 {
        self.bytes.lock().unwrap().len() as u64
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        let bytes = self.bytes.lock().unwrap();
        Ok(Cow::Owned(bytes.read_at(offset, len)?.into_owned()))
    }

    fn has(&self, range: &Range<u64>) -> bool {
        !self.missing.lock().unwrap().iter().any(|hole| hole.start < range.end && range.start < hole.end)
    }
}

#[test]
fn many_units_are_one_call() {
    let source = CountingSource::new(small().to_file());
    let reader = Reader::open(&source, "t", &Limits::default()).unwrap();
    let all: Vec<u32> = (0..reader.units().len() as u32).rev().collect();
    source.clear();
    let fetched = reader.fetch(&[&all[..], &all[..2]].concat()).unwrap();
    assert_eq!(source.calls(), 1);
    for &unit in &all {
        assert_eq!(fetched.unit(unit).unwrap(), &reader.read_unit(unit).unwrap()[..]);
    }
    assert!(reader.fetch(&[u32::MAX]).is_err());
    assert!(reader.fetch(&[]).unwrap().unit(0).is_err(), "not asked for");
}

#[test]
fn units_come_in_any_order() {
    let bytes = small().to_file();
    let whole = Reader::open(&bytes, "t", &Limits::default()).unwrap();
    let (first, last) = (0, whole.units().len() as u32 - 1);
    let hole = whole.unit_range(first).unwrap();
    let source = Partial { bytes: Mutex::new(bytes.clone()), missing: Mutex::new(vec![hole]) };
    let mut reader = Reader::open(&source, "t", &Limits::default()).unwrap();
    assert_eq!(reader.unit_state(first).unwrap(), UnitState::Absent);
    assert_eq!(reader.verify_unit(first).unwrap(), UnitHealth::Absent);
    assert_eq!(reader.unit_state(last).unwrap(), UnitState::Present);
    let error = reader.fetch(&[last, first]).unwrap_err().to_string();
    assert!(error.contains("unit 0"), "{error}");
    source.missing.lock().unwrap().clear();
    assert_eq!(reader.unit_state(first).unwrap(), UnitState::Absent, "until the source is asked again");
    reader.refresh().unwrap();
    assert_eq!(reader.read_unit(first).unwrap(), whole.read_unit(first).unwrap());
}

/// Copies are hashed at every read, and `verify_unit` always computes the hash again.
#[test]
fn copies_are_new_each_time() {
    let bytes = small().to_file();
    let source = Partial { bytes: Mutex::new(bytes), missing: Mutex::default() };
    let reader = Reader::open(&source, "t", &Limits::default()).unwrap();
    let unit = (0..reader.units().len() as u32).find(|&unit| reader.units()[unit as usize].length > 0).unwrap();
    reader.read_unit(unit).unwrap();
    let fetched = reader.fetch(&[unit]).unwrap();
    source.bytes.lock().unwrap()[reader.unit_range(unit).unwrap().start as usize] ^= 1;
    assert!(fetched.unit(unit).is_ok(), "read before");
    assert!(reader.read_unit(unit).is_err());
    assert!(reader.fetch(&[unit]).unwrap().unit(unit).is_err());
    assert_eq!(reader.verify_unit(unit).unwrap(), UnitHealth::Damaged);
}
