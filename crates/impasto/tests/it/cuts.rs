//! Cuts: which units a cut keeps, and the files that it gives.

use std::fs;

use crate::support::layered::{Layered, sample};
use crate::support::{Random, Tensor, open};
use impasto::{Cut, File, FileError, truncate};
use impasto_container::{ContainerError, LayerMark, Limits, Object, ObjectKind, Reader, UnitSlot};
use impasto_core::{DType, Mode};

/// Returns the first `n` units of a file, with the marks among them.
fn prefix(layered: &Layered, units: usize) -> Layered {
    let mut prefix = layered.clone();
    prefix.units.truncate(units);
    prefix.marks.retain(|mark| mark.units as usize <= units);
    prefix
}

fn base(layered: &Layered) -> usize {
    layered.units.iter().filter(|unit| unit.slot.layer == 0).count()
}

fn truncated(file: &File<&[u8]>, cut: &Cut) -> Result<Vec<u8>, FileError> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    let done = truncate(file, cut, &path);
    assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), usize::from(done.is_ok()), "no other file");
    let summary = done?;
    let bytes = fs::read(&path).expect("reads");
    assert_eq!((summary.file_length, &summary.root), (bytes.len() as u64, open(&path).reader().root()));
    Ok(bytes)
}

fn view(bytes: &[u8]) -> File<&[u8]> {
    File::new(Reader::open(bytes, "a.impasto", &Limits::default()).expect("opens"))
}

/// Returns all weights of a file, and whether they are exact.
fn weights(file: &File<&[u8]>) -> Vec<(String, Vec<u8>, bool)> {
    let all = |name: &str| {
        (name.to_owned(), file.tensor(name).expect("tensor header").bytes().expect("units"), file.is_exact(name))
    };
    file.tensor_names().map(all).collect()
}

/// Returns the file with the same cut applied on reading.
fn cut<'a>(bytes: &'a [u8], how: &Cut) -> File<&'a [u8]> {
    let mut file = view(bytes);
    file.cut(how).expect("cuts");
    file
}

#[test]
fn a_budget_takes_the_longest_prefix_that_fits() {
    let layered = sample();
    let bytes = layered.bytes();
    let file = view(&bytes);
    let prefixes: Vec<Vec<u8>> =
        (base(&layered)..=layered.units.len()).map(|units| prefix(&layered, units).bytes()).collect();
    for (n, expected) in prefixes.iter().enumerate() {
        let length = expected.len() as u64;
        let how = Cut::Bytes(length);
        assert!(truncated(&file, &how).expect("fits") == *expected, "{n}");
        let bits = Cut::BitsPerWeight((length as f64 + 0.5) * 8.0 / file.weights() as f64);
        assert!(truncated(&file, &bits).expect("fits") == *expected, "{n} by bits");
        assert_eq!(weights(&cut(&bytes, &how)), weights(&view(expected)), "{n} in place");
        match n.checked_sub(1) {
            Some(before) => assert!(truncated(&file, &Cut::Bytes(length - 1)).expect("fits") == prefixes[before]),
            None => {
                let error = truncated(&file, &Cut::Bytes(length - 1)).expect_err("below the base").to_string();
                let bits = length as f64 * 8.0 / file.weights() as f64;
                let says =
                    format!("{} bytes are too few: the base takes {length} ({bits:.3} bits per weight)", length - 1);
                assert!(error.ends_with(&says), "{error}");
                assert!(view(&bytes).cut(&Cut::Bytes(length - 1)).is_err());
            }
        }
    }
    assert!(truncated(&file, &Cut::Bytes(u64::MAX)).expect("fits") == bytes);
    for nothing in [f64::NAN, -1.0, 0.0] {
        assert!(matches!(truncated(&file, &Cut::BitsPerWeight(nothing)), Err(FileError::Budget { .. })));
    }
}

#[test]
fn layers_are_those_that_the_file_marks() {
    let layered = sample();
    let bytes = layered.bytes();
    let file = view(&bytes);
    let layers = file.layers();
    assert_eq!(layers.len(), layered.marks.len());
    for (n, (layer, mark)) in layers.iter().zip(&layered.marks).enumerate() {
        let expected = prefix(&layered, mark.units as usize).bytes();
        assert_eq!((layer.units, layer.bytes, layer.kld), (mark.units, expected.len() as u64, mark.kld));
        let how = Cut::Layer(n + 1);
        assert!(truncated(&file, &how).expect("is there") == expected, "layer {}", n + 1);
        assert_eq!(weights(&cut(&bytes, &how)), weights(&view(&expected)));
        // A file cut at a mark contains that mark, so it can be truncated there again.
        assert_eq!(view(&expected).layers()[..], layers[..=n]);
    }
    assert_eq!(layers.last().map(|layer| layer.bytes), Some(bytes.len() as u64));
    // A file whose end is cut off lacks units of the upper layers.
    let end = file.reader().unit_range(layers[1].units - 1).expect("a unit").end;
    let whole: Vec<bool> = view(&bytes[..end as usize]).layers().iter().map(|layer| layer.is_whole).collect();
    assert_eq!(whole, [true, true, false, false, false]);
    for layer in [0, 6, usize::MAX] {
        let error = truncated(&file, &Cut::Layer(layer)).expect_err("no such layer").to_string();
        assert_eq!(error, format!("a.impasto: there is no layer {layer}: the file has layers 1 to 5"));
    }
    let mut without = layered.clone();
    without.marks.clear();
    let without = without.bytes();
    let error = truncated(&view(&without), &Cut::Layer(1)).expect_err("no layers").to_string();
    assert_eq!(error, "a.impasto: there is no layer 1: the file has no layers");
    assert!(view(&without).layers().is_empty());
    assert!(truncated(&view(&without), &Cut::Bytes(u64::MAX)).expect("fits") == without);
}

#[test]
fn parts_take_their_units_of_different_layers() {
    let layered = sample();
    let bytes = layered.bytes();
    let file = view(&bytes);
    let parts = |parts: &[(&str, usize)]| Cut::Parts(parts.iter().map(|&(word, n)| (word.to_owned(), n)).collect());
    let expected = |limit: &dyn Fn(&str) -> u32| {
        let mut kept = layered.clone();
        let names = |object: u32| &layered.objects[object as usize].name;
        let mut n = 0;
        kept.units.retain(|unit| {
            n += 1;
            unit.slot.layer == 0 || n <= limit(names(unit.slot.object))
        });
        let pairs = || kept.units.iter().zip(&layered.units);
        let same = pairs().take_while(|(a, b)| (a.slot, &a.bytes) == (b.slot, &b.bytes)).count() as u32;
        kept.marks.retain(|mark| mark.units <= same);
        kept.bytes()
    };
    let units = |layer: usize| layered.marks[layer - 1].units;
    let cases: Vec<(Cut, Vec<u8>)> = vec![
        (
            parts(&[("attn", 3), ("mlp", 2)]),
            expected(&|name| match name {
                "attn.q" => units(3),
                name if name.contains("mlp") => units(2),
                _ => u32::MAX,
            }),
        ),
        // The first matching word applies; other tensors keep everything.
        (
            parts(&[("mlp.up", 4), ("mlp", 1)]),
            expected(&|name| match name {
                "mlp.up" => units(4),
                "mlp.down" => units(1),
                _ => u32::MAX,
            }),
        ),
        (parts(&[("", 2), ("attn", 4)]), expected(&|name| if name == "attn.q" { units(4) } else { units(2) })),
        (parts(&[("", 2)]), expected(&|_| units(2))),
        // The units of a tied tensor are those of the other one.
        (parts(&[("tied", 1)]), expected(&|name| if name == "attn.q" { units(1) } else { u32::MAX })),
        (parts(&[]), bytes.clone()),
    ];
    for (how, expected) in cases {
        assert!(truncated(&file, &how).expect("is there") == expected, "{how:?}");
        assert_eq!(weights(&cut(&bytes, &how)), weights(&view(&expected)), "{how:?}");
    }
    let error = truncated(&file, &parts(&[("attn", 2), ("atn", 2)])).expect_err("a typing error").to_string();
    assert_eq!(error, "a.impasto: there is no tensor whose name contains \"atn\"");
    let error = truncated(&file, &parts(&[("attn", 7)])).expect_err("no such layer").to_string();
    assert!(error.contains("there is no layer 7"), "{error}");
    // An asset has no layers.
    assert!(matches!(truncated(&file, &parts(&[("config", 1)])), Err(FileError::NoPart { .. })));
}

#[test]
fn truncating_twice_is_truncating_once() {
    let layered = sample();
    let bytes = layered.bytes();
    let mut random = Random(11);
    let (least, most) = (prefix(&layered, base(&layered)).bytes().len() as u64, bytes.len() as u64);
    for _ in 0..30 {
        let mut budget = || least + random.below(most - least + 1);
        let (first, second) = (budget(), budget());
        let (first, second) = (first.max(second), first.min(second));
        let once = truncated(&view(&bytes), &Cut::Bytes(second)).expect("fits");
        let larger = truncated(&view(&bytes), &Cut::Bytes(first)).expect("fits");
        assert!(truncated(&view(&larger), &Cut::Bytes(second)).expect("fits") == once);
        // The same holds if the input is cut on reading, or ends too early.
        assert!(truncated(&cut(&bytes, &Cut::Bytes(first)), &Cut::Bytes(second)).expect("fits") == once);
        let file = view(&bytes);
        let units = view(&larger).reader().units().len() as u32;
        let end = file.reader().unit_range(units - 1).expect("a unit").end as usize;
        let odd = (end + 5).min(bytes.len() - 1).max(end);
        let early = truncated(&view(&bytes[..odd]), &Cut::Bytes(u64::MAX)).expect("the base is there");
        assert_eq!(weights(&view(&early)), weights(&view(&bytes[..odd])));
        assert!(!view(&early).reader().is_cut());
        assert!(truncated(&view(&early), &Cut::Bytes(second)).expect("fits") == once);
        // A cut does not restore what an earlier one removed.
        let mut twice = cut(&bytes, &Cut::Bytes(second));
        twice.cut(&Cut::Bytes(first)).expect("fits");
        assert_eq!(weights(&twice), weights(&view(&once)));
    }
    // Successive cuts keep what both keep.
    let mut both = cut(&bytes, &Cut::Parts(vec![("attn".into(), 2)]));
    both.cut(&Cut::Layer(3)).expect("cuts");
    let whole = truncated(&both, &Cut::Bytes(u64::MAX)).expect("fits");
    assert_eq!(weights(&view(&whole)), weights(&both));
    let other = truncated(&view(&bytes), &Cut::Parts(vec![("attn".into(), 2), (String::new(), 3)])).expect("fits");
    assert!(whole == other);
}

#[test]
fn what_cannot_be_copied_leaves_the_old_file() {
    let layered = sample();
    let bytes = layered.bytes();
    let file = view(&bytes);
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    fs::write(&path, b"the old file").expect("writes");
    let refused = |bytes: &[u8], how: &Cut| {
        let error = truncate(&view(bytes), how, &path).expect_err("refused");
        assert_eq!(fs::read(&path).expect("reads"), b"the old file");
        assert_eq!(fs::read_dir(folder.path()).expect("reads").count(), 1);
        error
    };
    // A damaged unit, if it is kept.
    let last = layered.units.len() as u32 - 1;
    let mut damaged = bytes.clone();
    damaged[file.reader().unit_range(last).expect("a unit").start as usize] ^= 1;
    let error = refused(&damaged, &Cut::Layer(5));
    assert!(matches!(error, FileError::Container(ContainerError::Damaged { unit, .. }) if unit == last), "{error}");
    assert!(truncated(&view(&damaged), &Cut::Layer(4)).is_ok());
    // An absent unit of the base, for any cut.
    let in_base = file.reader().unit_range(base(&layered) as u32 - 1).expect("a unit").start;
    let error = refused(&bytes[..in_base as usize], &Cut::Layer(1));
    assert!(matches!(error, FileError::Container(ContainerError::Absent { .. })), "{error}");
    refused(&bytes, &Cut::Layer(9));
    refused(&bytes, &Cut::Bytes(100));
    // An object of unknown class.
    let mut later = Layered::default();
    later.stored(&Tensor::weights("norm", DType::F32, &[5], 4));
    later.objects.push(Object { name: "later".into(), kind: ObjectKind::Unknown(9) });
    let error = refused(&later.bytes(), &Cut::Bytes(u64::MAX)).to_string();
    assert_eq!(error, "a.impasto: \"later\" is of class 9, which this version cannot copy (SPEC 3.4)");
    let nowhere = truncate(&file, &Cut::Layer(2), &path.join("inside")).expect_err("a file is no folder");
    assert!(matches!(nowhere, FileError::Container(ContainerError::Io { .. })), "{nowhere}");
}

#[test]
fn a_file_may_take_its_own_place() {
    let layered = sample();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    layered.write(&path);
    let file = open(&path);
    truncate(&file, &Cut::Layer(2), &path).expect("fits");
    assert!(fs::read(&path).expect("reads") == prefix(&layered, layered.marks[1].units as usize).bytes());
    // The old file is still open and complete.
    assert!(file.tensor_names().all(|name| file.tensor(name).and_then(|tensor| tensor.bytes()).is_ok()));
}

/// Units in unknown modes are copied unchanged, and marks may be anywhere.
#[test]
fn odd_files_are_truncated_too() {
    let mut layered = Layered::default();
    layered.lattice(&Tensor::weights("w", DType::Bf16, &[20, 33], 5), 0.02, &[3], false, &[]);
    let slot = |tile, layer| UnitSlot { object: 0, tile, layer, is_header: false };
    let unknown = |slot| crate::support::layered::Unit { slot, mode: Mode(99), bytes: b"later".to_vec() };
    // The base is not first, and a mark is inside it.
    let (above, mut units): (Vec<_>, Vec<_>) = layered.units.iter().cloned().partition(|unit| unit.slot.layer > 0);
    units.splice(1..1, [above[0].clone(), unknown(slot(1, 7))]);
    units.extend(above[1..].iter().cloned());
    units.push(unknown(slot(0, 8)));
    layered.units = units;
    layered.marks = [0, 2, 3, 5, 7, 12].map(|units| LayerMark { units, kld: None }).to_vec();
    let bytes = layered.bytes();
    let file = view(&bytes);
    let kept = |layer: usize| {
        let bytes = truncated(&file, &Cut::Layer(layer)).expect("is there");
        let file = view(&bytes);
        let units: Vec<_> = file.reader().units().iter().map(|unit| (unit.mode.0, unit.tile, unit.layer)).collect();
        (units, file.reader().marks().iter().map(|mark| mark.units).collect::<Vec<_>>())
    };
    let header = (2, 0, 0);
    let base: Vec<_> = [header].into_iter().chain((0..4).map(|tile| (4, tile, 0))).collect();
    assert_eq!(kept(1), (base.clone(), vec![0]));
    let with_header = |rest: &[(u8, u32, u8)]| [&[header, (2, 0, 1)], rest, &base[1..]].concat();
    assert_eq!(kept(2), (with_header(&[]), vec![0, 2]));
    assert_eq!(kept(3), (with_header(&[(99, 1, 7)]), vec![0, 2, 3, 5, 7]));
    assert_eq!(kept(6).0.len(), 12);
    assert!(truncated(&file, &Cut::Bytes(u64::MAX)).expect("fits") == bytes);
}
