//! GGUF files: written files are read back, and a file is restored from its header and its tensors.

use std::fs;
use std::path::Path;

use crate::common::entries;
use crate::common::gguf::{entry, file_of, pair, pair_u32, sample, string};
use impasto_checkpoint::gguf::{Array, Metadata, Value, parse_header};
use impasto_checkpoint::{Checkpoint, CheckpointError, Format, Opaque, TensorSpec, TensorWriter, write_gguf};
use impasto_core::DType;
use proptest::prelude::*;

/// The plain dtypes that ggml has.
const PLAIN: [DType; 8] =
    [DType::F32, DType::F16, DType::Bf16, DType::F64, DType::I8, DType::I16, DType::I32, DType::I64];

/// Opaque types: name, weights per block and bytes per block.
const OPAQUE: [(&str, u64, u64); 3] = [("Q8_K", 256, 292), ("NVFP4", 64, 36), ("Q1_0", 128, 18)];

fn any_array(depth: u32) -> BoxedStrategy<Array> {
    use prop::collection::vec;
    let leaf = prop_oneof![
        vec(any::<u8>(), 0..4).prop_map(Array::U8),
        vec(any::<i8>(), 0..4).prop_map(Array::I8),
        vec(any::<u16>(), 0..4).prop_map(Array::U16),
        vec(any::<i16>(), 0..4).prop_map(Array::I16),
        vec(any::<u32>(), 0..4).prop_map(Array::U32),
        vec(any::<i32>(), 0..4).prop_map(Array::I32),
        vec(any::<f32>(), 0..4).prop_map(Array::F32),
        vec(any::<bool>(), 0..4).prop_map(Array::Bool),
        vec(vec(any::<u8>(), 0..6), 0..4).prop_map(Array::String),
        vec(any::<u64>(), 0..4).prop_map(Array::U64),
        vec(any::<i64>(), 0..4).prop_map(Array::I64),
        vec(any::<f64>(), 0..4).prop_map(Array::F64),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![4 => leaf, 1 => vec(any_array(depth - 1), 0..3).prop_map(Array::Array)].boxed()
}

fn any_value() -> impl Strategy<Value = Value> {
    prop_oneof![
        any::<u8>().prop_map(Value::U8),
        any::<i8>().prop_map(Value::I8),
        any::<u16>().prop_map(Value::U16),
        any::<i16>().prop_map(Value::I16),
        any::<u32>().prop_map(Value::U32),
        any::<i32>().prop_map(Value::I32),
        any::<f32>().prop_map(Value::F32),
        any::<bool>().prop_map(Value::Bool),
        prop::collection::vec(any::<u8>(), 0..9).prop_map(Value::String),
        any::<u64>().prop_map(Value::U64),
        any::<i64>().prop_map(Value::I64),
        any::<f64>().prop_map(Value::F64),
        any_array(3).prop_map(Value::Array),
    ]
}

/// A tensor of any ggml type: rows of whole blocks, at most 4 dimensions, some of them 0.
fn any_tensor() -> impl Strategy<Value = TensorSpec> {
    let rows = || prop::collection::vec(0u64..4, 0..4);
    let plain = (prop::sample::select(&PLAIN[..]), rows()).prop_map(|(dtype, shape)| TensorSpec::new("", dtype, shape));
    let blocks = (prop::sample::select(&DType::BLOCKS[..]), rows(), 0u64..3).prop_map(|(dtype, mut shape, blocks)| {
        shape.truncate(3);
        shape.push(blocks * dtype.weights() as u64);
        TensorSpec::new("", dtype, shape)
    });
    let opaque =
        (prop::sample::select(&OPAQUE[..]), 0u64..3, 0u64..3).prop_map(|((name, weights, size), rows, blocks)| {
            let bytes = rows * blocks * size;
            TensorSpec::opaque("", [rows, blocks * weights], Opaque { name: name.into(), bytes })
        });
    // An unknown type: its data extends to the next tensor.
    let unknown = (0u32..100, 1u64..4).prop_map(|(number, lines)| {
        TensorSpec::opaque("", [7, 5], Opaque { name: format!("GGML_{}", 1000 + number), bytes: 64 * lines })
    });
    prop_oneof![3 => plain, 3 => blocks, 1 => opaque, 1 => unknown]
}

/// Returns pseudo-random data for a tensor.
fn data_of(spec: &TensorSpec, seed: u64) -> Vec<u8> {
    let mut state = seed ^ spec.name.len() as u64;
    let mut byte = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 56) as u8
    };
    (0..spec.byte_len().unwrap()).map(|_| byte()).collect()
}

/// Restores a file from its header and its tensors.
fn copy_of(checkpoint: &Checkpoint, chunk: usize) -> Result<Vec<u8>, CheckpointError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("copy.gguf");
    let specs: Vec<_> = checkpoint.tensors().iter().map(TensorSpec::from).collect();
    let mut writer = TensorWriter::with_header(&path, checkpoint.shards()[0].header(), &specs)?;
    let order: Vec<_> = writer.tensors().to_vec();
    let data: Vec<u8> =
        order.iter().flat_map(|t| checkpoint.bytes(checkpoint.tensor(&t.name).unwrap()).to_vec()).collect();
    for piece in data.chunks(chunk) {
        writer.write(piece)?;
    }
    writer.finish()?;
    assert_eq!(entries(dir.path()), 1);
    Ok(fs::read(&path).unwrap())
}

fn open(bytes: &[u8]) -> (tempfile::TempDir, Checkpoint) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    fs::write(&path, bytes).unwrap();
    let checkpoint = Checkpoint::open(&path).unwrap();
    (dir, checkpoint)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]
    #[test]
    fn what_is_written_is_read(
        named in prop::collection::btree_map("[a-z.0-9é]{1,20}", any_tensor(), 0..8).prop_map(|m| m.into_iter().collect::<Vec<_>>()).prop_shuffle(),
        pairs in prop::collection::btree_map("[a-z.\"\n]{1,20}", any_value(), 0..8).prop_map(|m| m.into_iter().collect::<Vec<_>>()).prop_shuffle(),
        alignment in prop::option::of(prop::sample::select(&[8u32, 32, 64][..])),
        seed: u64,
        chunk in 1usize..40,
    ) {
        let mut metadata: Metadata = pairs.into_iter().collect();
        alignment.into_iter().for_each(|a| metadata.insert("general.alignment", a));
        let tensors: Vec<(TensorSpec, Vec<u8>)> = named
            .into_iter()
            .map(|(name, spec)| TensorSpec { name, ..spec })
            .map(|spec| { let data = data_of(&spec, seed); (spec, data) })
            .collect();
        let slices: Vec<_> = tensors.iter().map(|(s, b)| (s.clone(), b.as_slice())).collect();
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("no extension");
        write_gguf(&path, &metadata, &slices).unwrap();

        let file = fs::read(&path).unwrap();
        let header = parse_header(&file, file.len() as u64, "f").unwrap();
        prop_assert_eq!((header.version, header.alignment), (3, alignment.unwrap_or(32).into()));
        prop_assert_eq!(header.data_start % header.alignment, 0);
        let checkpoint = Checkpoint::open(&path).unwrap();
        prop_assert_eq!(checkpoint.metadata().unwrap(), &metadata);
        prop_assert_eq!(checkpoint.tensors().len(), tensors.len());
        for (spec, bytes) in &tensors {
            let info = checkpoint.tensor(&spec.name).unwrap();
            prop_assert_eq!(&TensorSpec::from(info), spec);
            prop_assert_eq!(checkpoint.bytes(info), bytes.as_slice());
            prop_assert_eq!(info.weights(), spec.shape.iter().product::<u64>());
            prop_assert_eq!(info.elements() * info.dtype.size() as u64, info.byte_len());
            prop_assert_eq!(info.offsets().start % header.alignment, 0);
        }
        let shard = &checkpoint.shards()[0];
        prop_assert_eq!((shard.format(), shard.header()), (Format::Gguf, &file[..header.data_start as usize]));
        prop_assert!(shard.is_canonical());
        prop_assert_eq!(copy_of(&checkpoint, chunk).unwrap(), file);
    }
}

/// Entries not in the order of the data, version 2, a NaN with a payload in the metadata, nonzero padding of the
/// header.
#[test]
fn a_foreign_header_is_rebuilt_byte_for_byte() {
    let nan = 0x7FA0_1234u32;
    let entries = [entry("b", &[3], 24, 32), entry("a", &[32], 6, 0), entry("void", &[0], 24, 64)];
    let mut data = vec![1; 22];
    data.resize(32, 0);
    data.extend([2; 3]);
    data.resize(64, 0);
    let mut file = file_of(&[pair("nan", 6, &nan.to_le_bytes())], &entries, &data);
    file[4] = 2;
    let start = file.len() - 64;
    file[start - 1] = 0xEE;
    let (_dir, checkpoint) = open(&file);
    assert_eq!(parse_header(&file, file.len() as u64, "f").unwrap().version, 2);
    assert!(checkpoint.shards()[0].is_canonical());
    assert!(matches!(checkpoint.metadata().unwrap().get("nan"), Some(Value::F32(x)) if x.to_bits() == nan));
    assert_eq!(copy_of(&checkpoint, 7).unwrap(), file);
}

/// A file that is not canonical restores its tensors, but not every byte.
#[test]
fn padding_tells_whether_the_file_comes_back() {
    let file = sample();
    let (start, canonical) = (file.len() - 96, |file: &[u8]| open(file).1.shards()[0].is_canonical());
    assert!(canonical(&file));
    for at in [start + 8, start + 31, start + 68, file.len() - 1] {
        let mut odd = file.clone();
        odd[at] = 1;
        assert!(!canonical(&odd), "{at}");
        let (_dir, checkpoint) = open(&odd);
        assert_eq!(copy_of(&checkpoint, 1000).unwrap(), file);
    }
    // A byte of a tensor, not of the padding.
    let mut other = file.clone();
    other[start + 7] = 1;
    assert!(canonical(&other));

    let unpadded = file_of(&[], &[entry("a", &[3], 24, 0)], b"abc");
    assert!(!canonical(&unpadded));
    let (_dir, checkpoint) = open(&unpadded);
    assert_eq!(copy_of(&checkpoint, 1).unwrap(), [&unpadded[..], &[0; 29]].concat());

    // Metadata without tensors: the padding of the header may be missing.
    let lone = file_of(&[pair_u32("k", 1)], &[], &[]);
    for len in [24 + 17, lone.len() - 1, lone.len()] {
        let (_dir, checkpoint) = open(&lone[..len]);
        assert!(checkpoint.shards()[0].is_canonical());
        assert_eq!(checkpoint.shards()[0].header(), &lone[..len]);
        assert_eq!(copy_of(&checkpoint, 1).unwrap(), &lone[..len]);
    }
}

/// Data of an unknown type extends to the next tensor or, for the last one, to the end of the file.
#[test]
fn unknown_types_are_kept() {
    let entries = [entry("a", &[100, 3], 1234, 0), entry("b", &[4], 0, 64), entry("c", &[9], 77, 96)];
    let data: Vec<u8> = (0..96).chain([1, 2, 3]).collect();
    let mut padded = file_of(&[], &entries, &data);
    let begin = padded.len() - data.len();
    padded[begin + 80..begin + 96].fill(0);
    let (_dir, checkpoint) = open(&padded);
    let row = |name: &str| {
        let t = checkpoint.tensor(name).unwrap();
        (t.dtype, t.type_name.as_deref(), t.shape.clone(), t.byte_len())
    };
    assert_eq!(row("a"), (DType::Opaque, Some("GGML_1234"), vec![3, 100], 64));
    assert_eq!(row("b"), (DType::F32, None, vec![4], 16));
    assert_eq!(row("c"), (DType::Opaque, Some("GGML_77"), vec![9], 3));
    assert_eq!(checkpoint.bytes(checkpoint.tensor("c").unwrap()), [1, 2, 3]);
    assert_eq!(copy_of(&checkpoint, 5).unwrap(), [&padded[..], &[0; 29]].concat());
    let shard = &checkpoint.shards()[0];
    let detached = impasto_checkpoint::gguf::parse_detached_header(shard.header(), "f").unwrap();
    assert_eq!(detached.tensors.iter().map(|t| t.byte_len()).collect::<Vec<_>>(), [64, 16, 0]);
}

#[test]
fn a_raw_header_must_fit_the_tensors() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let raw = file_of(&[], &[entry("a", &[32, 2], 2, 0), entry("b", &[3], 1, 64)], &[]);
    let (a, b) = (TensorSpec::new("a", DType::Q4_0, [2, 32]), TensorSpec::new("b", DType::F16, [3]));
    let refused = |raw: &[u8], specs: &[TensorSpec]| {
        let error = TensorWriter::with_header(&path, raw, specs).unwrap_err().to_string();
        assert_eq!(entries(dir.path()), 0);
        error.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&error).to_owned()
    };
    TensorWriter::with_header(&path, &raw, &[b.clone(), a.clone()]).unwrap();
    let only = std::slice::from_ref;
    assert_eq!(
        refused(&raw, only(&a)),
        "tensor \"b\": the raw header contains it, but it is not among the tensors to write"
    );
    let c = TensorSpec::new("c", DType::F16, [3]);
    assert_eq!(refused(&raw, &[a.clone(), b.clone(), c]), "tensor \"c\": the raw header does not contain it");
    let wide = TensorSpec::new("a", DType::Q4_0, [64]);
    assert_eq!(
        refused(&raw, &[wide, b.clone()]),
        "tensor \"a\": the raw header has Q4_0 [2, 32], the tensor to write is Q4_0 [64]"
    );
    assert_eq!(refused(&raw[..raw.len() - 1], &[a, b]), "cut short: the header needs 128 bytes, 127 follow");
    let unknown = file_of(&[], &[entry("u", &[1], 99, 0)], &[]);
    let u = |bytes| TensorSpec::opaque("u", [1], Opaque { name: "GGML_99".into(), bytes });
    TensorWriter::with_header(&path, &unknown, &[u(1 << 40)]).unwrap();
    assert_eq!(refused(&unknown, &[u(u64::MAX)]), "tensor \"u\": the byte count of its shape overflows 64 bits");
}

#[test]
fn tensors_that_make_no_file_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let refused_with = |metadata: &Metadata, specs: &[TensorSpec]| {
        let error = TensorWriter::gguf(&path, metadata, specs).unwrap_err().to_string();
        assert_eq!(entries(dir.path()), 0);
        error.strip_prefix(&format!("{}: ", path.display())).unwrap_or(&error).to_owned()
    };
    let refused = |spec: TensorSpec| refused_with(&Metadata::new(), &[spec]);
    let bytes = |name: &str, shape: &[u64]| TensorSpec::new(name, DType::I8, shape);
    assert_eq!(refused_with(&Metadata::new(), &[bytes("a", &[1]), bytes("a", &[1])]), "tensor \"a\": named twice");
    assert_eq!(refused(TensorSpec::new("a", DType::U8, [1])), "tensor \"a\": GGUF has no type U8");
    assert_eq!(
        refused(TensorSpec::opaque("a", [1], Opaque { name: "F4".into(), bytes: 1 })),
        "tensor \"a\": GGUF has no type F4"
    );
    assert_eq!(
        refused(bytes(&"n".repeat(64), &[1])),
        format!("tensor \"{}\": name of 64 bytes, allowed are 1 to 63", "n".repeat(64))
    );
    assert_eq!(refused(bytes("a", &[1; 5])), "tensor \"a\": 5 dimensions, at most 4 are allowed");
    assert_eq!(refused(bytes("a", &[u64::MAX])), "tensor \"a\": the byte count of its shape overflows 64 bits");
    assert_eq!(
        refused(TensorSpec::new("a", DType::Q6K, [128])),
        "tensor \"a\": rows of 128 weights are not whole blocks of 256"
    );
    assert_eq!(
        refused(TensorSpec::opaque("a", [64], Opaque { name: "NVFP4".into(), bytes: 35 })),
        "tensor \"a\": the raw header has NVFP4 [64] of 36 bytes, the tensor to write is NVFP4 [64] of 35 bytes"
    );
    let odd: Metadata = [("general.alignment", 33u32)].into_iter().collect();
    assert_eq!(refused_with(&odd, &[]), "general.alignment must be of type u32 and a power of two, at most 65536");
    let empty: Metadata = [("", 33u32)].into_iter().collect();
    assert_eq!(refused_with(&empty, &[]), "key of 0 bytes, allowed are 1 to 65535");
}

#[test]
fn a_file_that_is_not_finished_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("x.gguf");
    let specs = [TensorSpec::new("a", DType::I8, [4]), TensorSpec::new("b", DType::I8, [4])];
    let begin = || TensorWriter::gguf(&path, &Metadata::new(), &specs).unwrap();
    let mut writer = begin();
    writer.write(b"12345").unwrap();
    let error = writer.finish().unwrap_err().to_string();
    assert!(error.ends_with("tensor \"b\": the data stops after 5 of 8 bytes of the file"), "{error}");
    let mut writer = begin();
    let error = writer.write(b"123456789").unwrap_err().to_string();
    assert!(error.ends_with("more than the 8 bytes of data that the header declares were written"), "{error}");
    drop(writer);
    assert_eq!(entries(dir.path()), 0);
}

/// Safetensors files are also canonical.
#[test]
fn formats_are_told_apart_by_content() {
    let dir = tempfile::tempdir().unwrap();
    let put = |name: &str, bytes: &[u8]| {
        let path = dir.path().join(name);
        fs::write(&path, bytes).unwrap();
        Checkpoint::open(&path)
    };
    let safetensors = crate::common::shard_of(&[("w", b"1")]);
    let plain = put("weights", &safetensors).unwrap();
    assert_eq!((plain.shards()[0].format(), plain.shards()[0].is_canonical()), (Format::Safetensors, true));
    assert!(plain.metadata().is_none());
    let ours = put("blob", &sample()).unwrap();
    assert_eq!((ours.shards()[0].format(), ours.shards()[0].name()), (Format::Gguf, "blob"));
    assert_eq!(ours.metadata().unwrap().str("general.architecture"), Some("none"));
    let error = put("x.gguf", &safetensors).unwrap_err().to_string();
    assert!(error.ends_with("x.gguf: it is a safetensors file, not a GGUF file"), "{error}");
    let error = put("cut", b"GGU").unwrap_err().to_string();
    assert!(error.contains("a safetensors file begins with"), "{error}");
    assert_eq!(Format::of(&string("x")), Format::Safetensors);
    assert!(Checkpoint::open(Path::new("/nowhere.gguf")).unwrap_err().to_string().contains("nowhere.gguf: "));
}
