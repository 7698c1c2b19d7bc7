//! Mode transform in files: where it is taken, what it saves, and that it changes nothing elsewhere.

use std::ops::ControlFlow;
use std::path::Path;

use impasto::encode::{Effort, Extent, Layers, Options, Preset, Report, Residual, Target, Tools, encode};
use impasto::verify::verify;
use impasto::{Checkpoint, Cut, File, truncate};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::{DType, Mode};

/// A number from -1 to 1.
fn noise(i: usize) -> f32 {
    let mut x = i as u64;
    for _ in 0..4 {
        x = (x ^ x >> 29).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
    }
    (x >> 40) as f32 / (1u64 << 23) as f32 - 1.0
}

const ROWS: usize = 150;
const COLUMNS: usize = 98;

/// Positions that are smooth along the rows, and a matrix of noise.
fn checkpoint(folder: &Path) -> Checkpoint {
    let wave = |i: usize| (i / COLUMNS) as f32 / (9.0 + (i % COLUMNS) as f32 / 9.0);
    let smooth = (0..ROWS * COLUMNS).map(|i| (wave(i) + 3.0 * noise(i % COLUMNS)).sin() + 0.05 * noise(i));
    let positions: Vec<u8> = smooth.flat_map(f32::to_le_bytes).collect();
    let noisy: Vec<u8> = (0..ROWS * COLUMNS).map(noise).flat_map(f32::to_le_bytes).collect();
    let shape = vec![ROWS as u64, COLUMNS as u64];
    let spec = |name: &str| TensorSpec::new(name.to_owned(), DType::F32, shape.clone());
    let tensors = [(spec("noise.weight"), &noisy[..]), (spec("positions.weight"), &positions[..])];
    write_safetensors(&folder.join("model.safetensors"), None, &tensors).expect("written");
    Checkpoint::open(folder).expect("a checkpoint")
}

fn encoded(checkpoint: &Checkpoint, path: &Path, tools: Tools, threads: usize) -> Report {
    let options = Options { tools, threads, residual: Residual::None, ..Options::new(Target::BitsPerWeight(5.0)) };
    encode(checkpoint, path, &options, &|_| ControlFlow::Continue(())).expect("encodes")
}

#[test]
fn smooth_tensors_are_transformed_and_others_are_not() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path());
    let [with, without, again] = ["with", "without", "again"].map(|name| folder.path().join(name));
    let report = encoded(&checkpoint, &with, Tools::ALL, 1);
    let modes: Vec<_> = report.tensors.iter().map(|tensor| tensor.mode).collect();
    assert_eq!(modes, [Some(Mode::LATTICE), Some(Mode::TRANSFORM)]);
    // What the smooth tensor saves makes the step of both finer, at the same size.
    let plain = encoded(&checkpoint, &without, Tools::NONE, 1);
    assert!(plain.tensors.iter().all(|tensor| tensor.mode == Some(Mode::LATTICE)));
    let (fine, coarse) = (report.relative_step.expect("a step"), plain.relative_step.expect("a step"));
    assert!(fine < 0.6 * coarse, "{fine} {coarse}");
    encoded(&checkpoint, &again, Tools::ALL, 2);
    let bytes = |path: &Path| std::fs::read(path).expect("a file");
    assert!(bytes(&with) == bytes(&again), "the number of threads matters");

    // Weights are within the error of their step, and any rows of them are the same as all.
    let file = File::open(&with).expect("opens");
    let original = checkpoint.tensor("positions.weight").map(|info| checkpoint.bytes(info).to_vec()).expect("a tensor");
    let tensor = file.tensor("positions.weight").expect("a tensor");
    assert!(!file.is_exact("positions.weight"));
    let decoded = tensor.bytes().expect("decodes");
    let floats = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect::<Vec<f32>>();
    let (original, weights) = (floats(&original), floats(&decoded));
    let error = original.iter().zip(&weights).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
    let power = original.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
    assert!((error / power).sqrt() < 0.35 * fine, "{} {fine}", (error / power).sqrt());
    let band = tensor.band(70..73, 5..50).expect("decodes");
    let part: Vec<u8> =
        (70..73).flat_map(|r| decoded[(r * COLUMNS + 5) * 4..(r * COLUMNS + 50) * 4].to_vec()).collect();
    assert_eq!(band, part);
}

/// The effort reaches the search: what it saves on a smooth tensor makes the step of the file finer.
#[test]
fn effort_makes_the_step_finer() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path());
    let step = |effort| {
        let options = Options { effort, ..Options::new(Target::BitsPerWeight(5.0)) };
        let path = folder.path().join("file");
        let report = encode(&checkpoint, &path, &options, &|_| ControlFlow::Continue(())).expect("encodes");
        assert_eq!(report.tensors[1].mode, Some(Mode::TRANSFORM));
        report.relative_step.expect("a step")
    };
    let (fast, normal, best) = (step(Effort::Fast), step(Effort::Normal), step(Effort::Best));
    assert!(normal < fast && best < fast && best != normal, "{fast} {normal} {best}");
}

/// A file on which transforms earn nothing is the same as without them.
#[test]
fn nothing_changes_where_nothing_is_smooth() {
    let folder = tempfile::tempdir().expect("a folder");
    let noisy: Vec<u8> = (0..96 * 128).map(noise).flat_map(f32::to_le_bytes).collect();
    let spec = TensorSpec::new("noise.weight".to_owned(), DType::F32, vec![96, 128]);
    write_safetensors(&folder.path().join("model.safetensors"), None, &[(spec, &noisy[..])]).expect("written");
    let checkpoint = Checkpoint::open(folder.path()).expect("a checkpoint");
    let files = [Tools::ALL, Tools::NONE].map(|tools| {
        let path = folder.path().join("file");
        encoded(&checkpoint, &path, tools, 1);
        std::fs::read(path).expect("a file")
    });
    assert!(files[0] == files[1]);
}

/// The preset of JPEG codes every matrix in blocks, noise too, at the requested size.
#[test]
fn the_preset_of_jpeg_codes_everything() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path());
    let path = folder.path().join("jpeg");
    let jpeg = |bits: f64, threads| {
        let options = Options { preset: Preset::Jpeg, threads, ..Options::new(Target::BitsPerWeight(bits)) };
        let report = encode(&checkpoint, &path, &options, &|_| ControlFlow::Continue(())).expect("encodes");
        (report, std::fs::read(&path).expect("a file"))
    };
    for bits in [2.0, 5.0] {
        let (report, bytes) = jpeg(bits, 1);
        assert!(report.tensors.iter().all(|tensor| tensor.mode == Some(Mode::TRANSFORM)));
        let target = bits * (2 * ROWS * COLUMNS) as f64 / 8.0;
        assert!(bytes.len() as f64 <= target && bytes.len() as f64 >= 0.995 * target, "{} {target}", bytes.len());
        assert!(bytes == jpeg(bits, 2).1, "the number of threads matters");
    }
    let file = File::open(&path).expect("opens");
    for name in ["noise.weight", "positions.weight"] {
        let floats = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect::<Vec<f32>>();
        let weights = floats(&file.tensor(name).expect("a tensor").bytes().expect("decodes"));
        let original = floats(checkpoint.tensor(name).map(|info| checkpoint.bytes(info)).expect("a tensor"));
        let error = original.iter().zip(&weights).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>();
        let power = original.iter().map(|a| f64::from(*a).powi(2)).sum::<f64>();
        assert!(error < 0.003 * power, "{name}: {}", error / power);
    }
    let layers = Layers { below: vec![Extent::BitsPerWeight(2.0)], ..Layers::default() };
    for options in [Options::new(Target::Lossless), Options { layers, ..Options::new(Target::BitsPerWeight(5.0)) }] {
        let options = Options { preset: Preset::Jpeg, ..options };
        let error = encode(&checkpoint, &path, &options, &|_| ControlFlow::Continue(())).expect_err("refused");
        assert!(error.to_string().contains("the preset jpeg is for lossy files without layers"), "{error}");
    }
}

/// In a layered file, layers of a smooth tensor are planes: each makes it finer, and a truncated file is as fine as its
/// layer. An exact layer needs the lattice.
#[test]
fn layers_of_smooth_tensors_are_planes() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path());
    let path = folder.path().join("layers");
    let layers = |exact| Layers { below: vec![Extent::BitsPerWeight(3.0)], exact, ..Layers::default() };
    let options =
        |tools, exact| Options { tools, threads: 1, layers: layers(exact), ..Options::new(Target::BitsPerWeight(5.0)) };
    let written = |options: &Options| {
        let report = encode(&checkpoint, &path, options, &|_| ControlFlow::Continue(())).expect("encodes");
        report.tensors.iter().map(|tensor| tensor.mode).collect::<Vec<_>>()
    };
    assert_eq!(written(&options(Tools::ALL, true)), [Some(Mode::LATTICE); 2]);
    let transforms_alone = Tools::ALL.without(Tools::PLANES);
    assert_eq!(written(&options(transforms_alone, false)), [Some(Mode::LATTICE); 2]);
    assert_eq!(written(&options(Tools::ALL, false)), [Some(Mode::LATTICE), Some(Mode::TRANSFORM)]);

    let original = checkpoint.tensor("positions.weight").map(|info| checkpoint.bytes(info).to_vec()).expect("a tensor");
    let floats = |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect::<Vec<f32>>();
    let error = |file: &File| {
        let weights = file.tensor("positions.weight").and_then(|tensor| tensor.bytes()).expect("decodes");
        let pairs = floats(&original).into_iter().zip(floats(&weights));
        pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
    };
    let whole = File::open(&path).expect("opens");
    assert!(verify(&whole).expect("reads").is_good());
    let level = |file: &File| file.tensor("positions.weight").expect("a tensor").level(0);
    // The shortest file has the base alone.
    let cut = folder.path().join("cut");
    let least = (1..).map(|n| n * 64).find(|&bytes| truncate(&whole, &Cut::Bytes(bytes), &cut).is_ok());
    let lower = File::open(&cut).expect("opens");
    assert_eq!((level(&lower), level(&whole)), (0, 1), "{least:?}");
    let (coarse, fine) = (error(&lower), error(&whole));
    assert!(coarse > 3.0 * fine && fine < 1e-3 * original.len() as f64, "{coarse} {fine}");
}
