//! Tests of hostile files; those of encodings are with the command.

use impasto_container::{Object, ObjectKind, TensorMeta, UnitSlot, Writer};
use impasto_core::{DType, Mode};

use super::facts::{Coded, Fact, Number, Rated};
use super::file::{Card, VERSION, name, open, parsed};
use super::{Portion, fuzz_portion};
use crate::code::PIECE;
use crate::rate::{Measured, Rate};

fn card(tensors: Vec<usize>) -> Card<Coded> {
    let facts = Coded { parts: 1, count: 2, target: None, octaves: String::new(), raw: 64, planned: 64 };
    let facts = facts.with_octaves(0.125);
    Card { version: VERSION, fingerprint: "f".into(), portion: 1, of: 1, stage: "units0-0".into(), tensors, facts }
}

/// A file of two tensors, the second of which is tied to the first.
fn file(card: &Card<Coded>) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("1-of-1.units0-0");
    let card = card.to_asset();
    let meta = |tied| TensorMeta {
        dtype: DType::F32,
        opaque: None,
        dims: vec![1, 8],
        split: 1,
        tile_rows: 1,
        tile_cols: 8,
        tied,
        reference: None,
        base: None,
    };
    let tensor = |name: &str, tied| Object { name: name.into(), kind: ObjectKind::Tensor(meta(tied)) };
    let kind = ObjectKind::Asset { length: card.length, piece: PIECE, base: None };
    let objects = vec![Object { name: card.name, kind }, tensor("a", None), tensor("b", Some(1))];
    let slot = |object| UnitSlot { object, tile: 0, layer: 0, is_header: false };
    let mut writer = Writer::create(&path, objects, vec![slot(1), slot(0)], vec![]).expect("a file");
    writer.push(Mode::STORED, &[7; 32]).expect("a unit");
    writer.push(Mode::STORED, &card.pieces[0].1).expect("a unit");
    writer.finish().expect("a file");
    std::fs::read(path).expect("reads")
}

#[test]
fn damage_is_an_error() {
    let whole = file(&card(vec![0, 1]));
    assert!(fuzz_portion(&whole).is_ok());
    for length in 0..whole.len() {
        assert!(fuzz_portion(&whole[..length]).is_err(), "{length}");
    }
    let mut damaged = whole;
    for at in 0..damaged.len() {
        damaged[at] ^= 0x41;
        // Padding may be anything.
        let _ = fuzz_portion(&damaged);
        damaged[at] ^= 0x41;
    }
}

/// Hashes are right, and what the file says is wrong.
#[test]
fn contradictions_are_errors() {
    let says = |card: &Card<Coded>| fuzz_portion(&file(card)).expect_err("an error").to_string();
    assert_eq!(says(&card(vec![0, 2])), "portion: it has tensor 2 of 2");
    assert_eq!(says(&card(vec![0])), "portion: it has other tensors than it says");
    assert_eq!(says(&card(vec![1, 0])), "portion: its tensors are not in order");
    let of = |facts| Card { facts, ..card(vec![0, 1]) };
    let facts = card(vec![]).facts;
    assert_eq!(says(&of(Coded { count: usize::MAX, ..facts.clone() })), "portion: tensor 2 is in no file");
    assert!(
        says(&of(Coded { raw: u64::MAX, ..facts })).contains("--shard is not for a file of nearly nothing but zeros")
    );
    let other = Card { of: 2, ..card(vec![0, 1]) };
    assert_eq!(says(&other), "portion: its name is not that of its contents");
    let other = Card { version: 9, ..card(vec![0, 1]) };
    assert!(says(&other).starts_with("portion: it has version 9"));
}

#[test]
fn names_say_what_a_file_is() {
    let portion = Portion::new(2, 8).expect("a portion");
    assert_eq!(name(portion, "rates-7"), "2-of-8.rates-7");
    assert_eq!(parsed("2-of-8.rates-7"), Some((portion, "rates-7")));
    for other in ["2-of-8", "9-of-8.x", "02-of-8.x", "+2-of-8.x", ".2-of-8.x", "a-of-b.x", ""] {
        assert_eq!(parsed(other), None, "{other}");
    }
}

/// What is published is what is read, to the last bit; what would overflow is not believed.
#[test]
fn numbers_are_exact() {
    let folder = tempfile::tempdir().expect("a folder");
    let rate = Rate { bits: 0.1 + 0.2, header_bytes: 1.0 / 3.0 };
    let rated = Rated::from(Measured { lattice: rate, transform: None });
    let Card { version, fingerprint, .. } = card(vec![]);
    let path = folder.path().join("1-of-1.rates+3");
    let card =
        Card { version, fingerprint, portion: 1, of: 1, stage: "rates+3".into(), tensors: vec![4], facts: vec![rated] };
    card.write(&path).expect("writes");
    let read = open::<Vec<Rated>>(&path).expect("reads").card.facts;
    assert_eq!(Measured::from(read[0]).lattice, rate);
    assert!(rated.is_sane());
    for bits in [-1.0, 1e30] {
        let lattice = Rate { bits, ..rate };
        assert!(!Rated::from(Measured { lattice, transform: None }).is_sane());
    }
    assert!(Number::try_from(f64::NAN.to_bits()).is_err());
}
