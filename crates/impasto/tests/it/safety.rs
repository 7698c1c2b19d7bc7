//! Safety: what must not happen to a user's files, and what a small file must not cost.

use std::fs;
use std::ops::ControlFlow;

use crate::support::{Model, Tensor, decode, encode_to, listing, open};
use impasto::encode::{EncodeError, Options, Target, encode};
use impasto::verify::verify;
use impasto::{Checkpoint, CheckpointWeights, File, FileError};
use impasto_codec::tile::encode_bytes;
use impasto_container::{Limits, Object, ObjectKind, TensorMeta, UnitSlot, Writer};
use impasto_core::DType;
use impasto_model::WeightSource;

#[test]
fn a_checkpoint_is_not_encoded_over_itself() {
    let model = Model::single(vec![Tensor::weights("w", DType::Bf16, &[64, 80], 1)]);
    let weights = model.path.join("model.safetensors");
    let before = fs::read(&weights).expect("reads");
    for input in [&weights, &model.path] {
        let error = encode_to(input, &weights, Target::Lossless, 0).expect_err("over its own input");
        assert!(matches!(error, EncodeError::OverInput(_)), "{error}");
    }
    assert!(fs::read(&weights).expect("reads") == before);
}

#[test]
fn a_checkpoint_is_not_decoded_over() {
    let model = Model::single(vec![Tensor::weights("w", DType::Bf16, &[64, 80], 1)]);
    let path = model.file("a.impasto");
    encode_to(&model.path, &path, Target::BitsPerWeight(9.0), 0).expect("encodes");
    let before = listing(&model.path);
    let error = decode(&open(&path), &model.path, false).expect_err("over the original");
    assert!(matches!(error, FileError::Exists { .. }), "{error}");
    assert!(listing(&model.path) == before);
    decode(&open(&path), &model.path, true).expect("asked for");
    assert!(listing(&model.path) != before);
}

#[test]
fn a_damaged_last_shard_leaves_nothing() {
    let tensor = |name: &str, seed| Tensor::weights(name, DType::Bf16, &[64, 80], seed);
    let model = Model::sharded(vec![tensor("a", 1), tensor("b", 2)], 2);
    let path = model.file("a.impasto");
    encode_to(&model.path, &path, Target::Lossless, 0).expect("encodes");
    let mut bytes = fs::read(&path).expect("reads");
    *bytes.last_mut().expect("not empty") ^= 1;
    fs::write(&path, bytes).expect("writes");
    let out = model.file("out");
    decode(&open(&path), &out, false).expect_err("damaged");
    assert!(!out.exists(), "{:?}", listing(&out).iter().map(|f| &f.0).collect::<Vec<_>>());
    fs::create_dir(&out).expect("creates");
    decode(&open(&path), &out, false).expect_err("damaged");
    assert!(listing(&out).is_empty());
}

/// Writes a file in which one small unit represents many tiles of zeros.
fn bomb(path: &std::path::Path, kind: ObjectKind, tile_bytes: usize, tiles: u32) {
    let objects = vec![Object { name: "config.json".into(), kind }];
    let slots = (0..tiles).map(|tile| UnitSlot { object: 0, tile, layer: 0, is_header: false }).collect();
    let (mode, unit) = encode_bytes(&vec![0; tile_bytes], DType::U8, 3).expect("compresses");
    let mut writer = Writer::create(path, objects, slots, vec![]).expect("a legal file");
    (0..tiles).for_each(|_| writer.push(mode, &unit).expect("writes"));
    writer.finish().expect("writes");
}

#[test]
fn a_declared_asset_of_gigabytes_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bomb.impasto");
    let piece = 1 << 24;
    bomb(&path, ObjectKind::Asset { length: piece * 64, piece, base: None }, piece as usize, 64);
    assert!(fs::metadata(&path).expect("there").len() < 100_000);
    let error = File::open(&path).err().expect("1 GiB").to_string();
    assert!(error.contains("(SPEC 11.3)"), "{error}");
    let file = File::open_within(&path, &Limits { allow_expansion: true, ..Limits::default() }).expect("a legal file");
    let error = file.asset("config.json").expect_err("1 GiB");
    assert!(matches!(error, FileError::MemoryLimit { bytes: 0x4000_0000, .. }), "{error}");
}

#[test]
fn a_tensor_above_the_limit_is_refused_whole_and_read_by_bands() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bomb.impasto");
    let meta = TensorMeta {
        dtype: DType::U8,
        opaque: None,
        dims: vec![1 << 26],
        split: 0,
        tile_rows: 1,
        tile_cols: 1 << 22,
        tied: None,
        reference: None,
        base: None,
    };
    bomb(&path, ObjectKind::Tensor(meta), 1 << 22, 16);
    let mut file = File::open(&path).expect("a legal file");
    file.set_memory_limit(1 << 24);
    let tensor = file.tensor("config.json").expect("its manifest");
    assert!(matches!(tensor.bytes(), Err(FileError::MemoryLimit { bytes: 0x400_0000, limit: 0x100_0000, .. })));
    let bands: Vec<_> = tensor.bands(1 << 23).collect();
    assert_eq!(bands.len(), 8);
    let total: usize = bands.into_iter().map(|(r, c)| tensor.band(r, c).expect("under the limit").len()).sum();
    assert_eq!(total, 1 << 26);
    assert!(verify(&file).expect("reads").is_good(), "tile by tile");
}

#[test]
fn bands_follow_one_another() {
    let shapes: [&[u64]; 5] = [&[], &[700], &[30, 90], &[1, 900], &[0, 4]];
    let tensors = (0..).zip(shapes).map(|(i, shape)| Tensor::noise(&format!("t{i}"), DType::F32, shape, i)).collect();
    let model = Model::single(tensors);
    let path = model.file("a.impasto");
    encode_to(&model.path, &path, Target::Lossless, 0).expect("encodes");
    let file = open(&path);
    for name in file.tensor_names() {
        let tensor = file.tensor(name).expect("its manifest");
        for bytes in [1, 100, 1 << 20] {
            let joined: Vec<u8> =
                tensor.bands(bytes).flat_map(|(rows, columns)| tensor.band(rows, columns).expect("a band")).collect();
            assert!(joined == tensor.bytes().expect("whole"), "{name}");
        }
    }
}

#[test]
fn what_compresses_to_nothing_has_large_tiles() {
    let mask = Tensor::new("mask", DType::Bool, &[4096, 4096], vec![0; 1 << 24]);
    let ids = Tensor::new("ids", DType::I64, &[1 << 19], (0..1u64 << 19).flat_map(|i| (i * 7).to_le_bytes()).collect());
    let model = Model::single(vec![mask, ids]);
    let path = model.file("a.impasto");
    encode_to(&model.path, &path, Target::Lossless, 0).expect("encodes");
    let file = open(&path);
    let units = |name: &str| {
        let number = file.reader().find_tensor(name).expect("there");
        file.reader().units_of(number).expect("units").tiles.len()
    };
    assert!(units("mask") <= 8, "{} units of next to nothing", units("mask"));
    assert!(units("ids") <= 8, "{} units", units("ids"));
}

/// Tensors of equal elements, which a checkpoint may well have, are coded such that readers take the file.
#[test]
fn a_model_of_constants_stays_within_the_bound() {
    let zeros = |name: String, shape: &[u64]| Tensor::new(&name, DType::F32, shape, vec![0; 4 << 21]);
    let tensors = (0..33).map(|n| zeros(format!("w{n}"), if n % 2 == 0 { &[1024, 2048] } else { &[1 << 21] }));
    let model = Model::single(tensors.collect());
    let path = model.file("a.impasto");
    let report = encode_to(&model.path, &path, Target::Lossless, 0).expect("encodes");
    let expansion = &report.summary.expansion;
    assert!(expansion.expanded >= 33 << 23, "more than the bound that always holds");
    assert!(expansion.is_within() && expansion.present < expansion.expanded / 150, "{expansion:?}");
    let file = open(&path);
    assert!(verify(&file).expect("reads").is_good());
    assert!(file.tensor("w7").expect("there").bytes().expect("decodes").iter().all(|&byte| byte == 0));
}

#[test]
fn verification_keeps_to_the_memory_limit() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bomb.impasto");
    let meta = |width| TensorMeta {
        dtype: DType::U8,
        opaque: None,
        dims: vec![16, width],
        split: 1,
        tile_rows: 1,
        tile_cols: width,
        tied: None,
        reference: None,
        base: None,
    };
    bomb(&path, ObjectKind::Tensor(meta(1 << 22)), 1 << 22, 16);
    let mut file = File::open(&path).expect("within the bound");
    // A tile and its byte planes.
    file.set_memory_limit(2 << 22);
    assert!(verify(&file).expect("reads").is_good());
    file.set_memory_limit((2 << 22) - 1);
    let error = verify(&file).expect_err("a tile is too large");
    assert!(matches!(error, FileError::MemoryLimit { bytes: 0x80_0000, .. }), "{error}");
    bomb(&path, ObjectKind::Tensor(meta(1 << 24)), 1 << 24, 16);
    assert!(File::open(&path).is_ok(), "exactly the bound");
}

/// A file that was opened and then became shorter gives an error that names it, whatever was read before.
#[test]
#[cfg(unix)]
fn a_file_that_becomes_shorter_is_an_error() {
    let model = Model::single(vec![Tensor::weights("w", DType::Bf16, &[1024, 320], 1)]);
    let path = model.file("a.impasto");
    encode_to(&model.path, &path, Target::Lossless, 0).expect("encodes");
    let whole = fs::read(&path).expect("reads");
    let shorten = |path: &std::path::Path, length: u64| {
        fs::OpenOptions::new().write(true).open(path).expect("opens").set_len(length).expect("shortens");
    };
    for (length, read_before) in [(whole.len() / 2, false), (whole.len() / 2, true), (whole.len() - 1, true), (0, true)]
    {
        fs::write(&path, &whole).expect("writes");
        let file = open(&path);
        if read_before {
            file.tensor("w").and_then(|tensor| tensor.bytes()).expect("whole");
        }
        shorten(&path, length as u64);
        let out = model.file("out");
        let errors = [
            file.tensor("w").and_then(|tensor| tensor.bytes()).map(|_| ()),
            verify(&file).map(|_| ()),
            decode(&file, &out, false).map(|_| ()),
            impasto::truncate(&file, &impasto::Cut::Bytes(u64::MAX), &model.file("b.impasto")).map(|_| ()),
        ];
        for error in errors {
            let error = error.expect_err("it is shorter").to_string();
            assert!(error.ends_with("a.impasto: it became shorter while it was read"), "{error}");
        }
        assert!(!out.exists() && !model.file("b.impasto").exists());
    }

    let weights = model.path.join("model.safetensors");
    let checkpoint = Checkpoint::open(&model.path).expect("a good checkpoint");
    shorten(&weights, 200_000);
    let before = listing(model.folder.path()).len();
    for target in [Target::Lossless, Target::BitsPerWeight(4.0)] {
        let options = Options { threads: 2, ..Options::new(target) };
        let encoded = encode(&checkpoint, &model.file("c.impasto"), &options, &|_| ControlFlow::Continue(()));
        let error = encoded.expect_err("it is shorter").to_string();
        assert!(error.ends_with("model.safetensors: it became shorter while it was read"), "{error}");
    }
    let loaded = CheckpointWeights::new(&checkpoint).load_f32("w");
    assert!(loaded.expect_err("it is shorter").to_string().ends_with("it became shorter while it was read"));
    assert_eq!(listing(model.folder.path()).len(), before, "nothing is left behind");
}

#[test]
fn small_tensors_that_are_not_finite_are_named() {
    let tensors = vec![
        Tensor::weights("w", DType::Bf16, &[128, 80], 1),
        Tensor::floats("small", DType::F32, &[2, 2], [1.0, f32::NAN, 0.0, 2.0]),
        Tensor::floats("vector", DType::Bf16, &[5000], (0..5000).map(|i| if i == 77 { f32::INFINITY } else { 1.0 })),
        Tensor::new("wide", DType::F64, &[1], f64::NEG_INFINITY.to_le_bytes().to_vec()),
        Tensor::floats("fine", DType::F32, &[2, 2], [1.0, f32::MAX, 0.0, 2.0]),
    ];
    let model = Model::single(tensors);
    let report = encode_to(&model.path, &model.file("a.impasto"), Target::BitsPerWeight(14.0), 0).expect("encodes");
    assert_eq!(report.non_finite, ["small", "vector", "wide"]);
}
