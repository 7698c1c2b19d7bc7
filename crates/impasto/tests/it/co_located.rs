//! Tensors that are predicted from another one of the file: when that is done, what it saves, and every way to read them.

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use impasto::calibrate::WeightSource;
use impasto::encode::{Options, Report, Target, Tools, TransformTool, encode};
use impasto::run::LatticeRows;
use impasto::verify::verify;
use impasto::{Checkpoint, Cut, File, FileWeights, truncate};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::{DType, Mode, values};

use crate::support::Random;

const ROWS: usize = 96;
const COLUMNS: usize = 72;

/// Four matrices of noise: `b` is a copy of `a` with a little noise, `d` half of its negative; `c` is like none.
fn checkpoint(folder: &Path) -> Checkpoint {
    let mut random = Random(5);
    let mut noise = || (0..ROWS * COLUMNS).map(|_| random.gaussian()).collect::<Vec<f32>>();
    let (a, c) = (noise(), noise());
    let mut like = |factor: f32| a.iter().zip(noise()).map(|(a, n)| factor * a + 0.05 * n).collect::<Vec<f32>>();
    let (b, d) = (like(1.0), like(-0.5));
    let bytes =
        |values: &[f32]| values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect::<Vec<u8>>();
    let tensors = [("a", bytes(&a)), ("b", bytes(&b)), ("c", bytes(&c)), ("d", bytes(&d))];
    let shape = vec![ROWS as u64, COLUMNS as u64];
    let spec = |name: &str| TensorSpec::new(format!("{name}.weight"), DType::Bf16, shape.clone());
    let tensors: Vec<_> = tensors.iter().map(|(name, bytes)| (spec(name), &bytes[..])).collect();
    write_safetensors(&folder.join("model.safetensors"), None, &tensors).expect("written");
    Checkpoint::open(folder).expect("a checkpoint")
}

fn encoded(checkpoint: &Checkpoint, path: &Path, tools: Tools, threads: usize) -> Report {
    let options = Options { tools, threads, ..Options::new(Target::BitsPerWeight(4.0)) };
    encode(checkpoint, path, &options, &|_| ControlFlow::Continue(())).expect("encodes")
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    let mut out = Vec::new();
    values::to_f32(DType::Bf16, bytes, &mut out);
    out
}

#[test]
fn copies_are_predicted_and_read_in_every_way() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path());
    let [with, without, cut] = ["with", "without", "cut"].map(|name| folder.path().join(name));
    let report = encoded(&checkpoint, &with, Tools::ALL, 1);
    let plain = encoded(&checkpoint, &without, Tools::ALL.with(TransformTool::CoLocated, false), 1);
    // At the same size, what two of four tensors save makes the steps of all of them finer.
    let [fine, coarse] = [&report, &plain].map(|report| report.relative_step.expect("a step"));
    assert!(fine < 0.6 * coarse, "{fine} {coarse}");
    let modes: Vec<_> = report.tensors.iter().map(|tensor| tensor.mode).collect();
    let (lattice, transform) = (Some(Mode::LATTICE), Some(Mode::TRANSFORM));
    assert_eq!(modes, [lattice, transform, lattice, transform]);
    assert!(plain.tensors.iter().all(|tensor| tensor.mode == lattice));
    encoded(&checkpoint, &without, Tools::ALL, 2);
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    assert!(bytes(&with) == bytes(&without), "the number of threads matters");

    let file = File::open(&with).expect("opens");
    let references = ["a", "b", "c", "d"].map(|name| file.meta(&format!("{name}.weight")).expect("a tensor").reference);
    let number = file.reader().find_tensor("a.weight");
    assert_eq!(references, [None, number, None, number]);
    assert!(verify(&file).expect("reads").is_good());
    let all: Vec<Vec<u8>> = ["a", "b", "c", "d"]
        .map(|n| file.tensor(&format!("{n}.weight")).expect("it").bytes().expect("decodes"))
        .to_vec();
    for (name, decoded) in ["a", "b", "c", "d"].iter().zip(&all) {
        let original = floats(checkpoint.bytes(checkpoint.tensor(&format!("{name}.weight")).expect("a tensor")));
        let pairs = || original.iter().zip(floats(decoded));
        let error = pairs().map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let power = pairs().map(|(a, _)| f64::from(*a).powi(2)).sum::<f64>();
        assert!((error / power).sqrt() < 0.8 * fine, "{name}: {} {fine}", (error / power).sqrt());
    }
    // A part, a tensor alone, and a tensor that stays coded or is read as halves: each by itself.
    let part = File::open(&with).expect("opens").tensor("d.weight").expect("it").band(40..43, 5..50).expect("decodes");
    let rows = (40..43).flat_map(|r| all[3][(r * COLUMNS + 5) * 2..(r * COLUMNS + 50) * 2].to_vec());
    assert_eq!(part, rows.collect::<Vec<u8>>());
    let weights = FileWeights::new(Arc::new(File::open(&with).expect("opens"))).expect("no assets");
    let coded = weights.coded("b.weight").expect("opens").expect("coded");
    let mut out = Vec::new();
    coded.read(0, &mut out).expect("decodes");
    assert_eq!(out, floats(&all[1])[..out.len()]);
    assert_eq!(coded.tile_rows()[0].len() * COLUMNS, out.len());
    let halves = weights.halves("d.weight").expect("opens").expect("halves");
    let mut out = vec![0u16; halves.tile_rows()[0].len() * COLUMNS];
    halves.read(0, &mut out).expect("decodes");
    assert_eq!(bytemuck::cast_slice::<u16, u8>(&out), &all[3][..out.len() * 2]);
    assert!(weights.lattice("b.weight").expect("opens").is_none());
    let reference = weights.lattice("a.weight").expect("opens").expect("on the lattice");
    reference.read(0, &mut LatticeRows::default()).expect("decodes");

    // A truncated file and an exported one.
    truncate(&file, &Cut::Bytes(u64::MAX), &cut).expect("written");
    assert!(bytes(&cut) == bytes(&with));
}

/// Without a unit of the reference, what is predicted from it cannot be read; the error names that unit.
#[test]
fn a_damaged_reference_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path());
    let path = folder.path().join("file");
    encoded(&checkpoint, &path, Tools::ALL, 1);
    let file = File::open(&path).expect("opens");
    let reader = file.reader();
    let tile = reader.units_of(reader.find_tensor("a.weight").expect("it")).expect("known").tiles[0];
    let range = reader.unit_range(tile).expect("a unit");
    let mut bytes = std::fs::read(&path).expect("a file");
    bytes[range.start as usize + 9] ^= 1;
    std::fs::write(&path, &bytes).expect("written");
    let damaged = File::open(&path).expect("opens");
    let error = damaged.tensor("b.weight").expect("its own header").bytes().expect_err("damaged");
    assert!(error.to_string().contains("tile 0 of \"a.weight\") is damaged"), "{error}");
    damaged.tensor("c.weight").expect("it").bytes().expect("it has no reference");
    let verdict = verify(&damaged).expect("reads");
    assert_eq!((verdict.damaged.len(), verdict.broken.len()), (1, 0), "{verdict:?}");
}
