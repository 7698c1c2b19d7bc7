//! Cut and damaged files: intact tensors decode, other tensors are named, and no weight is ever silently wrong.

use std::fs;

use crate::support::{Model, Random, Tensor, decode};
use impasto::encode::Target;
use impasto::verify::verify;
use impasto::{File, FileError};
use impasto_container::{ContainerError, Header, Limits, Reader, UnitHealth};
use impasto_core::DType;

fn tensors() -> Vec<Tensor> {
    vec![
        Tensor::weights("a", DType::Bf16, &[64, 70], 1),
        Tensor::weights("b", DType::F16, &[1, 5000], 2),
        Tensor::weights("c", DType::F32, &[5, 9], 3),
        Tensor::noise("d", DType::I16, &[30, 3], 4),
        Tensor::new("e", DType::F32, &[100, 50], vec![0; 20_000]),
        Tensor::new("f", DType::U8, &[4, 0], vec![]),
        Tensor::weights("g", DType::Bf16, &[64, 70], 1),
    ]
}

/// Returns the bytes of a file with these tensors.
fn encoded(model: &Model, target: Target) -> Vec<u8> {
    model.encode("a.impasto", target).expect("encodes");
    fs::read(model.file("a.impasto")).expect("reads")
}

fn try_open(bytes: &[u8]) -> Result<File<&[u8]>, ContainerError> {
    Ok(File::new(Reader::open(bytes, "cut.impasto", &Limits::default())?))
}

/// Returns the names and contents of everything in a valid file.
fn content(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    let file = try_open(bytes).expect("a good file");
    let tensors =
        file.tensor_names().map(|n| (n.to_owned(), file.tensor(n).expect("tensor header").bytes().expect("units")));
    let assets = file.asset_names().map(|n| (n.to_owned(), file.asset(n).expect("units").expect("there")));
    tensors.chain(assets).collect()
}

fn read(file: &File<&[u8]>, name: &str) -> Result<Vec<u8>, FileError> {
    if file.reader().find_tensor(name).is_some() {
        file.tensor(name)?.bytes()
    } else {
        Ok(file.asset(name)?.unwrap_or_default())
    }
}

#[test]
fn a_cut_file_gives_what_is_there() {
    let model = Model::single(tensors());
    let bytes = encoded(&model, Target::Lossless);
    let good = content(&bytes);
    let manifest_end = Header::read(&bytes).expect("a header").manifest_end() as usize;
    for length in 0..manifest_end {
        assert!(matches!(try_open(&bytes[..length]), Err(ContainerError::Format { .. })), "{length}");
    }
    let mut random = Random(1);
    let lengths = (0..60).map(|_| manifest_end + random.below((bytes.len() - manifest_end) as u64) as usize);
    for length in lengths.chain([manifest_end, bytes.len() - 1, bytes.len()]) {
        let file = try_open(&bytes[..length]).expect("opens");
        let reader = file.reader();
        assert_eq!(reader.is_cut(), length < bytes.len());
        let is_there = |unit: u32| reader.unit_range(unit).expect("a unit").end <= length as u64;
        let absent: Vec<String> =
            (0..reader.units().len() as u32).filter(|&u| !is_there(u)).map(|u| reader.unit_place(u)).collect();
        let verdict = verify(&file).expect("reads");
        assert_eq!((&verdict.absent, verdict.damaged.len(), verdict.broken.len()), (&absent, 0, 0));
        for (name, whole) in &good {
            let object = reader.find_tensor(name).or(reader.find_asset(name)).expect("there");
            let units = reader.units_of(object).expect("known");
            let complete = units.header.iter().chain(units.tiles).all(|&u| is_there(u));
            match read(&file, name) {
                Ok(bytes) => assert!(complete && bytes == *whole, "{name} at {length}"),
                Err(FileError::Container(ContainerError::Absent { place, .. })) => {
                    assert!(!complete && absent.contains(&place), "{name} at {length}: {place}");
                }
                Err(other) => panic!("{name} at {length}: {other}"),
            }
        }
        let out = tempfile::tempdir().expect("a folder");
        let exported = decode(&file, out.path(), false);
        assert_eq!(exported.is_ok(), absent.is_empty());
    }
}

#[test]
fn absent_and_damaged_are_told_apart() {
    let model = Model::single(tensors());
    let mut bytes = encoded(&model, Target::Lossless);
    let (hit, gone) = {
        let file = try_open(&bytes).expect("opens");
        let reader = file.reader();
        let tile = |name| reader.units_of(reader.find_tensor(name).expect("there")).expect("known").tiles[0];
        let (hit, gone) = (tile("a"), tile("d"));
        ((reader.unit_place(hit), reader.unit_range(hit)), (reader.unit_place(gone), reader.unit_range(gone)))
    };
    bytes[hit.1.expect("a unit").start as usize + 40] ^= 4;
    bytes.truncate(gone.1.expect("a unit").end as usize - 1);
    let file = try_open(&bytes).expect("opens");
    let verdict = verify(&file).expect("reads");
    assert_eq!(verdict.damaged, [hit.0]);
    assert_eq!(verdict.absent[0], gone.0);
    assert!(verdict.broken.is_empty() && !verdict.is_good());
    let error = read(&file, "g").expect_err("tied to the damaged one");
    assert!(matches!(error, FileError::Container(ContainerError::Damaged { .. })), "{error}");
    assert!(error.to_string().starts_with("cut.impasto: unit "), "{error}");
}

#[test]
fn no_flipped_bit_makes_a_wrong_weight() {
    let model = Model::single(tensors());
    for (target, seed) in [(Target::Lossless, 1), (Target::BitsPerWeight(7.0), 2)] {
        let mut bytes = encoded(&model, target);
        let good = content(&bytes);
        let (mut random, mut refused, mut harmless) = (Random(seed), 0, 0);
        for i in 0..1000 {
            // Every bit of the header, which is short, then random bits.
            let bit = if i < 512 { i } else { random.below(bytes.len() as u64 * 8) as usize };
            bytes[bit / 8] ^= 1 << (bit % 8);
            match try_open(&bytes) {
                Err(_) => refused += 1,
                Ok(file) => {
                    let mut wrong = 0;
                    for (name, whole) in &good {
                        match read(&file, name) {
                            Ok(bytes) => assert!(bytes == *whole, "bit {bit}: {name} is wrong"),
                            Err(_) => wrong += 1,
                        }
                    }
                    let verdict = verify(&file).expect("reads");
                    assert_eq!(verdict.is_good(), wrong == 0, "bit {bit}");
                    harmless += usize::from(wrong == 0);
                }
            }
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        // Only the minor version and bytes between units can change undetected.
        assert!(refused > 450 && harmless < 40, "{refused} refused, {harmless} harmless");
    }
}

/// Flips 10,000 bits of a trained model's file. Each flip makes the file invalid, or damages one unit, whose tensor is
/// then an error, or is in padding. All other units keep their hashes and so their bytes.
#[test]
fn ten_thousand_flipped_bits_of_a_real_model_are_found() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    crate::support::encode_to(&crate::support::tiny(), &path, Target::Lossless, 0).expect("encodes");
    let mut bytes = std::fs::read(&path).expect("reads");
    let (mut random, mut refused, mut harmless) = (Random(5), 0, 0);
    for i in 0..10_000 {
        let bit = random.below(bytes.len() as u64 * 8) as usize;
        bytes[bit / 8] ^= 1 << (bit % 8);
        match try_open(&bytes) {
            Err(_) => refused += 1,
            Ok(file) => {
                let reader = file.reader();
                let is_good = |unit: &u32| reader.verify_unit(*unit).expect("reads") == UnitHealth::Good;
                let holds = |unit: &u32| reader.unit_range(*unit).expect("a unit").contains(&(bit as u64 / 8));
                let units = 0..reader.units().len() as u32;
                // Only a unit that holds the bit can be damaged; that no other is, is checked now and then.
                let bad: Vec<u32> = if i % 20 == 0 {
                    units.filter(|unit| !is_good(unit)).collect()
                } else {
                    units.filter(holds).filter(|unit| !is_good(unit)).collect()
                };
                match bad[..] {
                    [] => harmless += 1,
                    [unit] => {
                        let object = reader.units()[unit as usize].object;
                        let name = &reader.objects()[object as usize].name;
                        assert!(read(&file, name).is_err(), "bit {bit}: {name}");
                    }
                    _ => panic!("bit {bit}: {bad:?}"),
                }
            }
        }
        bytes[bit / 8] ^= 1 << (bit % 8);
    }
    // The manifest is 0.14% of the file, and padding is less.
    assert!((2..60).contains(&refused) && harmless < 20, "{refused} refused, {harmless} harmless");
}
