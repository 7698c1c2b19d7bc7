//! Lossless files: every bit of every tensor, and the files of the checkpoint byte for byte.

use std::fs;

use crate::support::{Model, Random, Tensor, decode, encode_to, few_of_tiny, listing, open, tiny, zoo};
use impasto::encode::Target;
use impasto::verify::verify;
use impasto::{Checkpoint, File};
use impasto_container::Source;
use impasto_core::{DType, Mode};

/// Checks that every tensor of a file is bit for bit that of the model.
fn assert_exact(file: &File, tensors: &[Tensor]) {
    assert_eq!(file.tensor_names().count(), tensors.len());
    for tensor in tensors {
        let decoded = file.tensor(&tensor.name).expect("its tensor header");
        assert_eq!((decoded.dtype(), decoded.shape()), (tensor.dtype, &tensor.shape[..]), "{}", tensor.name);
        assert!(decoded.bytes().expect("its units") == tensor.bytes, "{} differs", tensor.name);
    }
}

/// Checks that decoding writes the files of the folder, byte for byte.
fn assert_gives_back(file: &File, original: &std::path::Path) {
    let out = tempfile::tempdir().expect("a folder");
    let exported = decode(file, out.path(), false).expect("a good file");
    assert!(exported.identical);
    let (decoded, original) = (listing(out.path()), listing(original));
    let names = |files: &[(String, Vec<u8>)]| files.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>();
    assert_eq!(names(&decoded), names(&original));
    for ((name, a), (_, b)) in decoded.iter().zip(&original) {
        assert!(a == b, "{name} differs");
    }
}

#[test]
fn every_dtype_shape_and_bit_pattern_survives() {
    let model = Model::single(zoo());
    model.encode("a.impasto", Target::Lossless).expect("encodes");
    let file = open(&model.file("a.impasto"));
    assert_exact(&file, &model.tensors);
    assert_gives_back(&file, &model.path);
    let verdict = verify(&file).expect("reads");
    assert!(verdict.is_good(), "{verdict:?}");
}

/// Packed integers, the scales of their groups, and a matrix pruned 2:4, as quantized checkpoints have them.
fn quantized() -> Vec<Tensor> {
    let mut random = Random(5);
    let mut level = || (random.gaussian() * 2.0 + 8.0).clamp(0.0, 15.0) as u8;
    let packed: Vec<u8> = (0..64 * 192 * 4).map(|_| level() | level() << 4).collect();
    let steps: Vec<u8> = (0..64 * 96).map(|_| 110 + level() / 2).collect();
    let mut pruned = Tensor::weights("pruned.weight", DType::Bf16, &[128, 192], 6);
    for (four, first) in pruned.bytes.chunks_exact_mut(8).zip((0..4).cycle()) {
        // Two zeros in four, next to each other or apart.
        four[2 * first..2 * first + 2].fill(0);
        let second = (first + 1 + usize::from(level()) % 3) % 4;
        four[2 * second..2 * second + 2].fill(0);
    }
    let ones = vec![0x77; 8 * 600 * 4];
    vec![
        Tensor::new("a.qweight", DType::I32, &[64, 192], packed),
        Tensor::new("a.qzeros", DType::I32, &[8, 600], ones),
        Tensor::new("b_scales", DType::U8, &[64, 96], steps),
        pruned,
    ]
}

#[test]
fn what_is_quantized_or_pruned_is_coded_near_its_entropy() {
    let model = Model::single(quantized());
    let report = model.encode("a.impasto", Target::Lossless).expect("encodes");
    let file = open(&model.file("a.impasto"));
    assert_exact(&file, &model.tensors);
    assert!(verify(&file).expect("reads").is_good());
    let bits = |i: usize, unit: usize| report.tensors[i].bytes as f64 * 8.0 / unit as f64;
    for (i, (name, unit, most)) in [
        // A normal distribution of standard deviation 2 has 3.05 bits; an index has one digit.
        ("a.qweight", 64 * 192 * 8, 3.2),
        ("a.qzeros", 8 * 600, 0.1),
        ("b_scales", 64 * 96, 2.6),
        // One of 12 pairs in order per four weights; half of the 10.5 bits of others.
        ("pruned.weight", 128 * 192, 6.6),
    ]
    .into_iter()
    .enumerate()
    {
        let tensor = &report.tensors[i];
        assert_eq!((&tensor.name[..], tensor.mode), (name, Some(Mode::DIGITS)));
        assert!(bits(i, unit) < most, "{name}: {} bits", bits(i, unit));
    }
}

#[test]
fn shards_and_their_index_come_back_as_they_were() {
    let model = Model::sharded(zoo(), 4);
    model.encode("a.impasto", Target::Lossless).expect("encodes");
    let file = open(&model.file("a.impasto"));
    assert_exact(&file, &model.tensors);
    assert_gives_back(&file, &model.path);
}

#[test]
fn the_tiny_model_comes_back_as_it_was() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("tiny.impasto");
    let report = encode_to(&tiny(), &path, Target::Lossless, 0).expect("encodes");
    assert!(report.summary.file_length * 100 < report.raw_bytes * 72, "{:?}", report.summary);
    let file = open(&path);
    assert_gives_back(&file, &tiny());
    let checkpoint = Checkpoint::open(&tiny()).expect("the tiny model");
    for info in checkpoint.tensors() {
        assert!(
            file.tensor(&info.name).expect("its tensor header").bytes().expect("its units") == checkpoint.bytes(info)
        );
    }
}

#[test]
fn a_lone_file_comes_back_under_its_name() {
    let model = Model::single(vec![Tensor::weights("w", DType::Bf16, &[64, 80], 1)]);
    let lone = model.file("a model, v1.safetensors");
    fs::copy(model.path.join("model.safetensors"), &lone).expect("copies");
    let path = model.file("a.impasto");
    encode_to(&lone, &path, Target::Lossless, 0).expect("encodes");
    let out = model.file("out");
    decode(&open(&path), &out, false).expect("decodes");
    assert!(listing(&out) == [("a model, v1.safetensors".to_owned(), fs::read(&lone).expect("reads"))]);
}

/// File names that some systems do not allow are not restored; the tensors are.
#[cfg(unix)]
#[test]
fn a_lone_file_of_an_odd_name_decodes() {
    let model = Model::single(vec![Tensor::weights("w", impasto_core::DType::Bf16, &[64, 80], 1)]);
    for name in ["a:b.safetensors", "a\\b.safetensors"] {
        let lone = model.file(name);
        fs::copy(model.path.join("model.safetensors"), &lone).expect("copies");
        let path = model.file("a.impasto");
        encode_to(&lone, &path, Target::Lossless, 0).expect("encodes");
        let out = model.file("out");
        decode(&open(&path), &out, true).expect(name);
        assert_eq!(listing(&out)[0].1, fs::read(&lone).expect("reads"));
    }
}

#[test]
fn the_number_of_threads_changes_nothing() {
    let model = Model::single(zoo());
    for target in [Target::Lossless, Target::BitsPerWeight(40.0), Target::Size(900_000)] {
        let files: Vec<_> = [1, 2, 7]
            .into_iter()
            .map(|threads| {
                let result = model.encode_with("a.impasto", target, threads);
                result.map(|_| fs::read(model.file("a.impasto")).expect("reads")).map_err(|e| e.to_string())
            })
            .collect();
        assert!(files[0] == files[1] && files[0] == files[2], "{target:?}");
    }
    let model = few_of_tiny();
    for bits in [2.0, 5.0] {
        let encode = |threads| {
            model.encode_with("a.impasto", Target::BitsPerWeight(bits), threads).expect("encodes");
            fs::read(model.file("a.impasto")).expect("reads")
        };
        let one = encode(1);
        assert!(one == encode(2) && one == encode(7), "{bits}");
    }
}

/// Lossy files do not keep shards. Lossless ones keep the headers of the shards, but the units of tensors are the same.
#[test]
fn shards_change_nothing_of_the_tensors() {
    let tensors: Vec<Tensor> = zoo().into_iter().filter(|t| t.dtype.float_layout().is_some()).collect();
    let (single, sharded) = (Model::single(tensors.clone()), Model::sharded(tensors, 3));
    let target = Target::BitsPerWeight(9.0);
    for model in [&single, &sharded] {
        model.encode("lossy.impasto", target).expect("encodes");
        model.encode("exact.impasto", Target::Lossless).expect("encodes");
    }
    let read = |model: &Model| fs::read(model.file("lossy.impasto")).expect("reads");
    assert!(read(&single) == read(&sharded));
    let units = |model: &Model| {
        let file = open(&model.file("exact.impasto"));
        let reader = file.reader();
        let of_tensor = |object: u32| reader.objects()[object as usize].tensor().is_some();
        let units = reader.units().iter().filter(|u| of_tensor(u.object));
        let first = reader.objects().iter().position(|o| o.tensor().is_some()).expect("a tensor") as u32;
        units.map(|u| (u.object - first, u.tile, u.mode, u.length, u.hash)).collect::<Vec<_>>()
    };
    assert!(units(&single) == units(&sharded));
}

#[test]
fn repeated_tensors_are_stored_once() {
    let bf16 = impasto_core::DType::Bf16;
    let w = Tensor::weights("b", bf16, &[256, 256], 1);
    let again = |name: &str| Tensor { name: name.into(), ..w.clone() };
    let reshaped = Tensor { name: "other.shape".into(), shape: vec![128, 512], ..w.clone() };
    let alone = Model::single(vec![w.clone(), reshaped.clone()]);
    let tied = Model::sharded(vec![again("a"), w.clone(), again("c"), again("d"), reshaped], 2);
    for target in [Target::Lossless, Target::BitsPerWeight(4.0)] {
        let once = alone.encode("a.impasto", target).expect("encodes");
        let report = tied.encode("a.impasto", target).expect("encodes");
        assert_eq!((report.weights, report.raw_bytes), (2 * 65536, 4 * 65536));
        let more = report.summary.file_length.abs_diff(once.summary.file_length);
        assert!(more < 2000 || target != Target::Lossless, "{more} bytes more");
        let modes: Vec<_> = report.tensors.iter().map(|t| (&t.name[..], t.mode.is_none())).collect();
        assert_eq!(modes, [("a", false), ("b", true), ("c", true), ("d", true), ("other.shape", false)]);
        let file = open(&tied.file("a.impasto"));
        let first = file.tensor("a").expect("tensor header").bytes().expect("units");
        for name in ["b", "c", "d"] {
            let tensor = file.tensor(name).expect("tensor header");
            assert_eq!(tensor.shape(), [256, 256]);
            assert!(tensor.bytes().expect("units") == first);
        }
        assert!(target != Target::Lossless || first == w.bytes);
    }
}

/// A `Source` in memory gives the same as a mapped file.
#[test]
fn a_file_in_memory_reads_as_one_on_disk() {
    let model = Model::single(zoo());
    model.encode("a.impasto", Target::Lossless).expect("encodes");
    let bytes = fs::read(model.file("a.impasto")).expect("reads");
    assert_eq!(Source::len(&bytes), bytes.len() as u64);
    let reader = impasto_container::fuzz_open(&bytes).expect("opens");
    let file = File::new(reader);
    for tensor in &model.tensors {
        assert!(
            file.tensor(&tensor.name).expect("tensor header").bytes().expect("units") == tensor.bytes,
            "{}",
            tensor.name
        );
    }
}

#[test]
fn many_tensors_come_back() {
    let name = |n: u64| format!("model.layers.{}.mlp.experts.{}.w.weight", n / 1000, n % 1000);
    let model = Model::single((0..4_000).map(|n| Tensor::noise(&name(n), DType::Bf16, &[2, 2], n)).collect());
    model.encode("a.impasto", Target::Lossless).expect("encodes");
    assert_gives_back(&open(&model.file("a.impasto")), &model.path);
}
