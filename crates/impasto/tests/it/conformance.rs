//! The conformance set: this reader fulfils `conformance/README.md`, and the second decoder agrees.
//!
//! `IMPASTO_PYTHON` is the Python interpreter (default `python3`). Without it, or without its Zstandard library, the
//! tests that need them are skipped with a message, or fail if `IMPASTO_REQUIRE_PYTHON=1`.

#[path = "../../examples/make_conformance/main.rs"]
mod make_conformance;

use std::env;
use std::ffi::OsString;
use std::fmt::Write;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use impasto::encode::{Options, Target, encode};
use impasto::verify::verify;
use impasto::{Bases, Checkpoint, File, FileError, Tensor};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_container::{ObjectKind, TensorMeta};
use impasto_core::Isa;
use rayon::prelude::*;
use sha2::{Digest, Sha256};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

/// Returns the files of a folder of the set, sorted by name.
fn files_in(folder: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(root().join("conformance").join(folder)).expect("the conformance set");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("entry").path()).collect();
    paths.sort();
    paths
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(|stem| stem.to_str()).expect("a name")
}

/// Formats a name as in the listing of the naive decoder.
fn percent(name: &str) -> String {
    name.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || b"_.-~/".contains(&byte) {
            out.push(byte.into());
        } else {
            write!(out, "%{byte:02X}").expect("a string");
        }
        out
    })
}

/// Returns the dtype of a tensor as in that listing, and its bytes: its blocks if they are restored.
fn shown(tensor: &Tensor<'_>, meta: &TensorMeta) -> Result<(String, Vec<u8>), FileError> {
    match (&meta.opaque, tensor.block_dtype()?) {
        (Some(opaque), _) => Ok((format!("opaque:{}", percent(&opaque.name)), tensor.bytes()?)),
        (None, Some(dtype)) => Ok((dtype.name().to_owned(), tensor.blocks(0..tensor.tile_rows())?)),
        (None, None) => Ok((meta.dtype.name().to_owned(), tensor.bytes()?)),
    }
}

/// Where the bases of deltas of the set are: in one folder, by their roots. A small one has the same objects as the base of
/// some deltas that name another root.
fn bases() -> Vec<PathBuf> {
    let folder = root().join("conformance/files");
    vec![folder.join("21-small-base.impasto"), folder]
}

fn open(path: &Path) -> Result<File, FileError> {
    Bases::new(bases()).open(path)
}

/// Returns what the naive decoder should print for a file, and the errors of objects that cannot be decoded.
fn listing(path: &Path, isa: Isa) -> (String, Vec<FileError>) {
    let mut file = open(path).unwrap_or_else(|error| panic!("{error}"));
    file.set_isa(isa).expect("available");
    let (mut lines, mut errors) = (String::new(), vec![]);
    for object in file.reader().objects() {
        let line = match &object.kind {
            ObjectKind::Unknown(_) => continue,
            ObjectKind::Asset { length, .. } => file.asset(&object.name).map(|bytes| {
                let bytes = bytes.expect("an asset that is in the manifest");
                format!("asset {} {length} {:x}", percent(&object.name), Sha256::digest(bytes))
            }),
            ObjectKind::Tensor(meta) => {
                file.tensor(&object.name).and_then(|t| shown(&t, meta)).map(|(dtype, bytes)| {
                    let dims: Vec<String> = meta.dims.iter().map(u64::to_string).collect();
                    let dims = if dims.is_empty() { "scalar".to_owned() } else { dims.join("x") };
                    format!("{} {dtype} {dims} {:x}", percent(&object.name), Sha256::digest(bytes))
                })
            }
        };
        match line {
            Ok(line) => writeln!(lines, "{line}").expect("a string"),
            Err(error) => errors.push(error),
        }
    }
    (lines, errors)
}

/// Returns the clauses that a message cites.
fn clauses(message: &str) -> Vec<String> {
    let cited = message.split("(SPEC ").skip(1).filter_map(|rest| rest.split(')').next());
    cited.flat_map(|list| list.split(", ").map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[test]
fn committed_files_are_those_that_the_codec_makes() {
    let folder = tempfile::tempdir().expect("a folder");
    make_conformance::make(folder.path()).expect("make");
    let mut made = 0;
    for entry in fs::read_dir(folder.path()).expect("read") {
        let entry = entry.expect("entry");
        let committed = fs::read(root().join("conformance/files").join(entry.file_name())).expect("a committed file");
        assert!(fs::read(entry.path()).expect("read") == committed, "{:?} has different bytes", entry.file_name());
        made += 1;
    }
    assert_eq!(made, 72);
}

#[test]
fn every_file_decodes_to_what_is_expected_at_every_level() {
    let (files, expected) = (files_in("files"), files_in("expected"));
    assert!(files.iter().map(|p| stem(p)).eq(expected.iter().map(|p| stem(p))), "files and expectations differ");
    for (path, expected) in files.iter().zip(expected) {
        let expected = fs::read_to_string(expected).expect("read");
        for isa in Isa::available() {
            let (lines, errors) = listing(path, isa);
            assert_eq!(lines, expected, "{} at {isa:?}", stem(path));
            let clause = if stem(path).starts_with("2.5-cut") { "2.5" } else { "3.6.1" };
            for error in &errors {
                assert_eq!(clauses(&error.to_string()), [clause], "{error}");
            }
            let partial = ["2.5-cut", "2.5-cut-after-the-head", "3.6.1-unknown-mode"].contains(&stem(path));
            assert_eq!(errors.is_empty(), !partial, "{} at {isa:?}: {errors:?}", stem(path));
        }
        let mut verdict = verify(&open(path).expect("open")).expect("verify");
        if stem(path).starts_with("12.3-cut") {
            // Everything decodes, at lower levels.
            assert!(!verdict.absent.is_empty(), "{}", stem(path));
            verdict.absent.clear();
        }
        assert_eq!(verdict.is_good(), listing(path, Isa::Scalar).1.is_empty(), "{}: {verdict:?}", stem(path));
    }
}

#[test]
fn every_broken_file_is_refused_under_its_clause() {
    let mut wrong = String::new();
    let broken = files_in("broken");
    assert!(broken.len() > 155, "only {} files", broken.len());
    for path in &broken {
        let clause = stem(path).split_once('-').expect("a clause").0;
        for isa in Isa::available() {
            let errors: Vec<String> = match open(path) {
                Err(error) => vec![error.to_string()],
                Ok(file) => {
                    let verdict = verify(&file).expect("verify");
                    assert!(!verdict.is_good(), "{} passes", stem(path));
                    listing(path, isa).1.iter().map(|error| error.to_string()).collect()
                }
            };
            if errors.is_empty() || !errors.iter().all(|error| clauses(error).iter().any(|cited| cited == clause)) {
                writeln!(wrong, "{} at {isa:?}: {errors:?}", stem(path)).expect("a string");
            }
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A Python interpreter for the naive decoder.
struct Python {
    program: OsString,
    has_zstd: bool,
}

impl Python {
    /// Returns the interpreter, if there is one.
    fn find() -> Option<Python> {
        let program = env::var_os("IMPASTO_PYTHON").unwrap_or_else(|| "python3".into());
        let required = env::var("IMPASTO_REQUIRE_PYTHON").is_ok_and(|value| value == "1");
        let code = "import sys; assert sys.version_info >= (3, 10)
try: from compression import zstd
except ImportError:
    try: import zstandard
    except ImportError: print('no zstd')";
        match Command::new(&program).args(["-c", code]).output() {
            Ok(output) if output.status.success() => {
                let has_zstd = output.stdout.is_empty();
                assert!(has_zstd || !required, "{program:?} has no Zstandard library");
                if !has_zstd {
                    eprintln!("SKIPPED in part: {program:?} has no Zstandard library (package zstandard)");
                }
                Some(Python { program, has_zstd })
            }
            _ => {
                assert!(!required, "{program:?} is not Python 3.10 or later");
                eprintln!("SKIPPED: {program:?} is not Python 3.10 or later; the naive decoder is not compared");
                None
            }
        }
    }

    fn run(&self, arguments: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.arg("-B").args(arguments).current_dir(root().join("conformance"));
        command.output().expect("run the interpreter")
    }

    /// Runs the naive decoder on a file and compares its output with what this reader decodes. Returns the number of
    /// objects that it skipped because there is no Zstandard library.
    fn compare(&self, path: &Path) -> usize {
        let (lines, errors) = listing(path, Isa::best());
        let bases: Vec<String> = bases().iter().map(|base| format!("--base={}", base.display())).collect();
        let arguments = ["naive_decoder.py", path.to_str().expect("a path")];
        let output = self.run(&arguments.into_iter().chain(bases.iter().map(String::as_str)).collect::<Vec<_>>());
        let (printed, complaint) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let left_out = complaint.lines().filter(|line| line.ends_with("no Zstandard library")).count();
        assert!(left_out == 0 || !self.has_zstd, "{complaint}");
        let mut rest = printed.lines().peekable();
        let missing = lines.lines().filter(|line| rest.next_if_eq(line).is_none()).count();
        assert_eq!((missing, rest.next()), (left_out, None), "{}: {complaint}\n{lines}---\n{printed}", stem(path));
        let absent = stem(path).starts_with("2.5-cut");
        let status = if left_out > 0 {
            2
        } else if errors.is_empty() {
            0
        } else if absent {
            3
        } else {
            4
        };
        assert_eq!(output.status.code(), Some(status), "{}: {complaint}", stem(path));
        left_out
    }
}

#[test]
fn the_naive_decoder_agrees_on_the_set() {
    let Some(python) = Python::find() else { return };
    let left_out: usize = files_in("files").par_iter().map(|path| python.compare(path)).sum();
    if left_out > 0 {
        eprintln!("SKIPPED: {left_out} objects that need Zstandard");
    }
    // Also checks which files are refused and why, and that the odd and broken files are those of their generator.
    let output = python.run(&["-m", "unittest", "test_conformance_set"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_naive_decoder_agrees_on_a_model() {
    let Some(python) = Python::find() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = Checkpoint::open(&root().join("assets/tiny")).expect("the tiny model");
    let chosen = tiny.tensors().iter().filter(|t| t.name.contains(".layers.3.") || t.name == "model.norm.weight");
    let tensors: Vec<_> = chosen.map(|info| (TensorSpec::from(info), tiny.bytes(info))).collect();
    let part = folder.path().join("part.safetensors");
    write_safetensors(&part, None, &tensors).expect("write");
    let part = Checkpoint::open(&part).expect("open");
    for target in [Target::Lossless, Target::BitsPerWeight(4.0)] {
        let path = folder.path().join("model.impasto");
        encode(&part, &path, &Options { segments: 4, ..Options::new(target) }, &|_| ControlFlow::Continue(()))
            .expect("encode");
        let left_out = python.compare(&path);
        if left_out > 0 {
            eprintln!("SKIPPED: {left_out} objects that need Zstandard");
        }
        if target == Target::Lossless {
            let file = File::open(&path).expect("open");
            for (spec, bytes) in &tensors {
                assert!(file.tensor(&spec.name).and_then(|t| t.bytes()).expect("decode") == *bytes, "{}", spec.name);
            }
        }
    }
}
