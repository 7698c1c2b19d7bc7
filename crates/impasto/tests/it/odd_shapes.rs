//! Tensors of every dtype and odd shape, and of unknown dtypes, survive encoding bit for bit: in lossless files, and as
//! exact tensors in lossy files.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::support::{Random, Tensor, decode, encode_to, open, to_values};
use impasto::encode::Target;
use impasto::verify::verify;
use impasto::{Checkpoint, File};
use impasto_checkpoint::{Opaque, TensorSpec, write_safetensors};
use impasto_core::DType;
use tempfile::TempDir;

/// Scalars, vectors, single rows and columns, empty dims at every position, experts, a convolution, many dims.
const SHAPES: [&[u64]; 12] = [
    &[],
    &[0],
    &[1],
    &[7],
    &[1, 300],
    &[300, 1],
    &[0, 5],
    &[5, 0],
    &[3, 0, 4],
    &[8, 64, 32],
    &[16, 3, 3, 3],
    &[2, 3, 4, 5, 6],
];

/// A tensor of the checkpoint and its bytes.
type Entry = (TensorSpec, Vec<u8>);

/// Every plain dtype in every shape. Some have realistic weights, which could be coded with loss; others are noise.
fn plain() -> Vec<Entry> {
    let of = |dtype: DType| {
        SHAPES.iter().enumerate().map(move |(i, shape)| {
            let (name, seed) = (format!("{}.{shape:?}", dtype.name()), 100 * dtype as u64 + i as u64);
            let tensor = match dtype {
                DType::F32 | DType::F16 | DType::Bf16 if shape.len() > 1 => Tensor::weights(&name, dtype, shape, seed),
                _ => Tensor::noise(&name, dtype, shape, seed),
            };
            (TensorSpec::new(name, dtype, *shape), tensor.bytes)
        })
    };
    DType::PLAIN.into_iter().flat_map(of).collect()
}

/// Dtypes without a code: sub-byte elements, odd lengths, empty; the same bytes with the same dtype (tied) and with
/// another one; one with many tiles; a ggml name, which has no meaning here; the longest name.
fn unknown() -> Vec<Entry> {
    let long = "é".repeat(32);
    let dtypes: [(&str, &[u64], usize); 12] = [
        ("F4", &[64, 64], 2048),
        ("F4", &[0, 5], 0),
        ("F6_E2M3", &[4, 8], 24),
        ("F6_E3M2", &[1], 1),
        ("F8_E4M3FNUZ", &[8, 16, 32], 4096),
        ("C128", &[2, 3], 96),
        ("Q4_0", &[32], 18),
        ("opaque", &[], 1),
        ("I4", &[5], 3),
        (" \n\"é", &[3, 0, 4], 0),
        (&long, &[1, 300], 300),
        ("F4", &[700, 1000], 350_000),
    ];
    let mut tensors = Vec::new();
    for (i, (dtype, shape, length)) in dtypes.into_iter().enumerate() {
        let mut random = Random(i as u64);
        let bytes: Vec<u8> = (0..length).map(|_| random.bits() as u8).collect();
        tensors.push(entry(&format!("unknown.{i}"), dtype, shape, bytes));
    }
    let first = tensors[0].1.clone();
    tensors.push(entry("unknown.again", "F4", &[64, 64], first.clone()));
    tensors.push(entry("unknown.other", "E2M1", &[64, 64], first.clone()));
    tensors.push(entry("unknown.flat", "F4", &[4096], first));
    tensors.push(entry("unknown.zero", "F4", &[1000, 1000], vec![0; 500_000]));
    tensors
}

fn entry(name: &str, dtype: &str, shape: &[u64], bytes: Vec<u8>) -> Entry {
    let opaque = Opaque { name: dtype.to_owned(), bytes: bytes.len() as u64 };
    (TensorSpec::opaque(name, shape, opaque), bytes)
}

/// A safetensors file, in a folder with room for other files.
struct Case {
    folder: TempDir,
    path: PathBuf,
    tensors: Vec<Entry>,
}

impl Case {
    fn new(tensors: Vec<Entry>) -> Case {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("model.safetensors");
        let given: Vec<(TensorSpec, &[u8])> = tensors.iter().map(|(spec, bytes)| (spec.clone(), &bytes[..])).collect();
        write_safetensors(&path, None, &given).expect("a safetensors file");
        Case { folder, path, tensors }
    }

    fn encode(&self, target: Target) -> File {
        let file = self.folder.path().join("a.impasto");
        encode_to(&self.path, &file, target, 0).expect("encodes");
        let file = open(&file);
        let verdict = verify(&file).expect("reads");
        assert!(verdict.is_good(), "{verdict:?}");
        assert_eq!(file.tensor_names().count(), self.tensors.len());
        file
    }

    fn export(&self, file: &File) -> PathBuf {
        let out = self.folder.path().join("out");
        decode(file, &out, true).expect("decodes");
        out.join("model.safetensors")
    }
}

/// Checks that the file has the metadata of the checkpoint's tensor, and gives its bytes whole and in bands.
fn assert_exact(file: &File, (spec, bytes): &Entry) {
    let name = &spec.name;
    assert_described(file, spec);
    assert!(file.is_exact(name), "{name}");
    let tensor = file.tensor(name).expect(name);
    assert!(tensor.bytes().expect(name) == *bytes, "{name} differs");
    for size in [1, 1000] {
        let bands = tensor.bands(size).map(|(rows, columns)| tensor.band(rows, columns).expect(name));
        assert!(bands.collect::<Vec<_>>().concat() == *bytes, "{name} differs in bands of {size}");
    }
}

fn assert_described(file: &File, spec: &TensorSpec) {
    let meta = file.meta(&spec.name).expect("a tensor");
    assert_eq!((meta.dtype, &meta.dims), (spec.dtype, &spec.shape), "{}", spec.name);
    let opaque = meta.opaque.as_ref().map(|opaque| (&opaque.name[..], opaque.bytes));
    assert_eq!(opaque, spec.opaque.as_ref().map(|opaque| (&opaque.name[..], opaque.bytes)), "{}", spec.name);
}

/// Checks that the safetensors file at `path` has the same tensors, and the same bytes for those in `exact`.
fn assert_given_back(path: &Path, tensors: &[Entry], exact: &HashSet<&str>) {
    let checkpoint = Checkpoint::open(path).expect("a safetensors file");
    assert_eq!(checkpoint.tensors().len(), tensors.len());
    for (spec, bytes) in tensors {
        let info = checkpoint.tensor(&spec.name).expect("a tensor");
        assert_eq!(TensorSpec::from(info), *spec);
        assert!(!exact.contains(&spec.name[..]) || checkpoint.bytes(info) == bytes, "{} differs", spec.name);
    }
}

#[test]
fn odd_tensors_survive_losslessly() {
    let case = Case::new([plain(), unknown()].concat());
    let file = case.encode(Target::Lossless);
    case.tensors.iter().for_each(|entry| assert_exact(&file, entry));
    assert!(fs::read(case.export(&file)).expect("reads") == fs::read(&case.path).expect("reads"));

    // Equal bytes are stored once if dtype and shape are equal.
    let tied = |name: &str| file.meta(name).expect("a tensor").tied.is_some();
    let (first, again) = (tied("unknown.0"), tied("unknown.again"));
    assert!(first != again && !tied("unknown.other") && !tied("unknown.flat"));
}

fn weights(spec: &TensorSpec) -> u64 {
    spec.shape.iter().product()
}

/// Returns whether a lossy file rounds the tensor: whether it is a matrix with enough floats.
fn is_large((spec, _): &Entry) -> bool {
    matches!(spec.dtype, DType::F32 | DType::F16 | DType::Bf16) && spec.shape.len() > 1 && weights(spec) >= 4096
}

#[test]
fn odd_tensors_survive_beside_lossy_ones() {
    let linear = Tensor::weights("linear", DType::F32, &[600, 1000], 1);
    let linear = (TensorSpec::new("linear", linear.dtype, linear.shape), linear.bytes);
    let case = Case::new([plain(), unknown(), vec![linear]].concat());
    // Exact tensors keep their size at any rate (except for zeros), and about 4 bits remain for every other weight.
    let kept: u64 = case.tensors.iter().filter(|entry| !is_large(entry)).map(|(_, bytes)| bytes.len() as u64).sum();
    let lossy: u64 = case.tensors.iter().filter(|entry| is_large(entry)).map(|(spec, _)| weights(spec)).sum();
    let file = case.encode(Target::Size(kept - 500_000 + lossy / 2));
    let mut exact = HashSet::new();
    for entry @ (spec, bytes) in &case.tensors {
        if !is_large(entry) {
            assert_exact(&file, entry);
            exact.insert(&spec.name[..]);
            continue;
        }
        assert!(!file.is_exact(&spec.name), "{} is exact, so nothing is tested beside it", spec.name);
        assert_described(&file, spec);
        let decoded = file.tensor(&spec.name).and_then(|tensor| tensor.bytes()).expect("decodes");
        let (decoded, original) = (to_values(spec.dtype, &decoded), to_values(spec.dtype, bytes));
        let error: f32 = decoded.iter().zip(&original).map(|(a, b)| (a - b) * (a - b)).sum();
        let power: f32 = original.iter().map(|w| w * w).sum();
        assert!(error < 0.05 * power, "{}: {error} of {power}", spec.name);
    }
    assert_given_back(&case.export(&file), &case.tensors, &exact);
}

#[test]
fn a_file_of_nothing_survives() {
    for tensors in [vec![], vec![(TensorSpec::new("void", DType::F32, [0, 5]), vec![])]] {
        let case = Case::new(tensors);
        let file = case.encode(Target::Lossless);
        case.tensors.iter().for_each(|entry| assert_exact(&file, entry));
        assert!(fs::read(case.export(&file)).expect("reads") == fs::read(&case.path).expect("reads"));
    }
}
