//! Headers, limits and other properties for which a reader must refuse a file.

use crate::common::raw::{asset, refusal, tensor, units};
use crate::common::{Content, Unit, open, small, with_header};
use impasto_container::{ContainerError, FormatError as F, Header, Limits, Manifest, Reader};
use impasto_core::Mode;

#[test]
fn headers() {
    let good = small().to_file();
    let at = |at: usize, bytes: &[u8]| {
        let mut file = good.clone();
        file[at..at + bytes.len()].copy_from_slice(bytes);
        refusal(&file)
    };
    let manifest_length = small().manifest().to_bytes().len() as u64;
    let end = good.len() as u64;
    assert_eq!(refusal(b""), F::NoHeader { length: 0 });
    assert_eq!(refusal(&good[..63]), F::NoHeader { length: 63 });
    assert_eq!(refusal(&[0; 200]), F::Magic);
    // Line endings altered by a text transfer.
    assert_eq!(at(4, b"\n\x1a\n"), F::Magic);
    assert_eq!(at(8, &[2]), F::Major { major: 2 });
    assert_eq!(at(8, &[0]), F::Major { major: 0 });
    assert_eq!(at(12, &[0, 0, 0, 0x80]), F::Flags { flags: 0x8000_0000 });
    assert_eq!(at(16, &u64::MAX.to_le_bytes()), F::ManifestLength { length: u64::MAX });
    assert_eq!(at(16, &(1u64 << 40).to_le_bytes()), F::ManifestLength { length: 1 << 40 });
    assert_eq!(at(16, &(1u64 << 32).to_le_bytes()), F::ManifestPastEnd { length: 1 << 32, end });
    assert_eq!(at(16, &(end - 63).to_le_bytes()), F::ManifestPastEnd { length: end - 63, end });
    assert_eq!(at(16, &(manifest_length - 1).to_le_bytes()), F::Root);
    assert_eq!(at(16, &[0; 8]), F::Root);
    for declared in [0, end - 1, end + 1, u64::MAX] {
        assert_eq!(at(24, &declared.to_le_bytes()), F::FileLength { declared, end });
    }
    assert_eq!(at(32, &[!good[32]]), F::Root);
    assert_eq!(at(64, &[!good[64]]), F::Root);
}

#[test]
fn a_higher_minor_version_is_read_and_bytes_after_the_end_are_ignored() {
    let mut file = small().to_file();
    file[10..12].copy_from_slice(&[0xff, 0xff]);
    file.extend(b"anything");
    let reader = open(&file).unwrap();
    assert_eq!(reader.header().minor, 0xffff);
    assert!(!reader.is_cut());
    assert_eq!(reader.units().len(), small().units.len());
}

#[test]
fn what_is_over_the_limits_is_refused() {
    let file = small().to_file();
    let content = small();
    let names: u64 = content.objects.iter().map(|object| object.name.len() as u64).sum();
    let (manifest, objects) = (content.manifest().to_bytes().len() as u64, content.objects.len() as u64);
    let exact = Limits { max_manifest: manifest, max_objects: objects, max_name_bytes: names, ..Limits::default() };
    assert!(Reader::open(&file[..], "t.impasto", &exact).is_ok());
    for (limits, what, value) in [
        (Limits { max_manifest: manifest - 1, ..exact.clone() }, "bytes of manifest", manifest),
        (Limits { max_objects: objects - 1, ..exact.clone() }, "objects", objects),
        (Limits { max_name_bytes: names - 1, ..exact.clone() }, "bytes of names", names),
    ] {
        let error = Reader::open(&file[..], "t.impasto", &limits).unwrap_err();
        let ContainerError::Format { rule, .. } = error else { panic!("{error}") };
        assert_eq!(rule, F::OverLimit { what, value, limit: value - 1 });
    }
}

#[test]
fn names_in_messages_stay_on_one_line() {
    let manifest = [tensor("a\nb", 126, &[]), units(&[])].concat();
    let error = open(&with_header(&manifest, 0)).unwrap_err().to_string();
    assert_eq!(error, "t.impasto: \"a\\nb\": dtype code 126 is unknown (SPEC 3.5)");
}

#[test]
fn names_of_assets_are_paths_in_a_folder() {
    let of = |names: &[&str]| {
        let mut manifest: Vec<u8> = names.iter().flat_map(|name| asset(name, 0, 1)).collect();
        manifest.extend(units(&[]));
        open(&with_header(&manifest, 64 + manifest.len() as u64)).map(drop).map_err(|error| error.to_string())
    };
    for name in [".git/config", "a/../b", "a/", "a\\b", "a:b", "a\u{1b}[31m", "\u{9b}"] {
        let error = of(&[name]).unwrap_err();
        assert!(error.contains("not a name for an asset") && !error.contains(char::is_control), "{error:?}");
    }
    let error = of(&["a", "a-b", "a/b"]).unwrap_err();
    assert!(error.starts_with("t.impasto: \"a\" and \"a/b\" cannot both be assets"), "{error}");
    of(&["a", "a-/b", "a..b", "ab/c", "é/x y"]).unwrap();
}

#[test]
fn every_prefix_of_a_manifest_is_refused_or_whole() {
    let manifest = small().manifest().to_bytes();
    for end in 0..manifest.len() {
        let error = Manifest::parse(&manifest[..end], &Limits::default()).unwrap_err();
        assert!(matches!(error, F::Cut { .. } | F::NoUnits), "{end}: {error}");
    }
    assert_eq!(Manifest::parse(&manifest, &Limits::default()), Ok(small().manifest()));
}

#[test]
fn units_are_told_apart_by_whether_they_are_heads() {
    let mut content: Content = small();
    // A tile in an unknown mode counts as a tile.
    content.units.push(Unit { object: 4, tile: 0, layer: 0, mode: Mode::TENSOR_HEADER, bytes: vec![] });
    let file = content.to_file();
    let reader = open(&file).unwrap();
    let units = reader.units_of(4).unwrap();
    assert_eq!((units.header, units.tiles, units.readable), (Some(12), &[9][..], false));
    assert_eq!(Header::read(&file).unwrap(), *reader.header());
}
