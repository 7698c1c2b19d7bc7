//! Statistics that are computed block by block equal those of one window at a time, for any number of threads.

use std::collections::BTreeMap;
use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use crate::support::{Random, Tensor, tiny};
use impasto::calibrate::{CalibrateOptions, Calibrating, Statistics, calibrate};
use impasto::encode::EncodeError;
use impasto::{Checkpoint, CheckpointWeights};
use impasto_core::DType;
use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Decoder, Labels};
use impasto_model::{GradientProbe, Probe, WeightSource};
use tempfile::TempDir;

/// Sums in binary64.
#[derive(Default)]
struct Sums {
    /// By the name of the first layer with the input: the width, and `width * width` sums.
    covariances: BTreeMap<String, (usize, Vec<f64>)>,
    outputs: BTreeMap<String, Vec<f64>>,
    embedding: BTreeMap<u32, f64>,
}

impl Sums {
    fn add(&mut self, name: &str, rows: &[f32], outputs: usize, term: impl Fn(f64) -> f64) {
        let sums = self.outputs.entry(name.into()).or_insert_with(|| vec![0.0; outputs]);
        for row in rows.chunks_exact(outputs) {
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += term(f64::from(x)));
        }
    }
}

impl Probe for Sums {
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize) {
        let (_, sum) = self.covariances.entry(names[0].into()).or_insert_with(|| (width, vec![0.0; width * width]));
        for x in x.chunks_exact(width) {
            for (sum, &a) in sum.chunks_exact_mut(width).zip(x) {
                sum.iter_mut().zip(x).for_each(|(sum, &b)| *sum += f64::from(a) * f64::from(b));
            }
        }
    }
}

impl GradientProbe for Sums {
    fn head(&mut self, name: &str, fisher: &[f32], outputs: usize) {
        self.add(name, fisher, outputs, |f| f);
    }

    fn linear_gradient(&mut self, name: &str, gradient: &[f32], outputs: usize) {
        self.add(name, gradient, outputs, |g| g * g);
    }

    fn embedding_gradient(&mut self, tokens: &[u32], gradient: &[f32], width: usize) {
        for (&token, row) in tokens.iter().zip(gradient.chunks_exact(width)) {
            let square = row.iter().map(|&g| f64::from(g) * f64::from(g)).sum::<f64>();
            *self.embedding.entry(token).or_default() += square / width as f64;
        }
    }
}

/// A folder with a model.
struct Folder(TempDir);

impl Folder {
    /// Writes a family of the runtime's tests: its configuration, with random weights.
    fn family(name: &str) -> Folder {
        let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join("../impasto-model/tests/golden/families").join(name);
        let read = |file| fs::read_to_string(golden.join(file)).expect("a file");
        let (config, golden) = (read("config.json"), read("golden.json"));
        let golden: serde_json::Value = serde_json::from_str(&golden).expect("JSON");
        let mut random = Random(3);
        let tensors = golden["tensors"].as_object().expect("tensors").iter().map(|(name, shape)| {
            let shape: Vec<u64> = shape.as_array().expect("a shape").iter().filter_map(|d| d.as_u64()).collect();
            let scale = if name.contains("norm") { 0.3 } else { 1.5 / (shape[shape.len() - 1] as f32).sqrt() };
            let mean = if name.contains("norm") { 1.0 } else { 0.0 };
            let values: Vec<f32> = (0..shape.iter().product()).map(|_| mean + scale * random.gaussian()).collect();
            Tensor::floats(name, DType::F32, &shape, values)
        });
        let tensors: Vec<Tensor> = tensors.collect();
        let folder = TempDir::new().expect("a folder");
        fs::write(folder.path().join("config.json"), config).expect("room");
        let tensors: Vec<_> = tensors
            .iter()
            .map(|t| (impasto_checkpoint::TensorSpec::new(&t.name, t.dtype, t.shape.clone()), t.bytes.as_slice()))
            .collect();
        let path = folder.path().join("model.safetensors");
        impasto_checkpoint::write_safetensors(&path, None, &tensors).expect("room");
        Folder(folder)
    }
}

/// Calibrates the model of a folder. Returns the path of the statistics and the progress that was reported.
fn measure(
    model: &Path,
    tokens: &[u32],
    options: &CalibrateOptions,
    folder: &TempDir,
) -> Result<(PathBuf, Vec<Calibrating>), EncodeError> {
    let checkpoint = Checkpoint::open(model).expect("a checkpoint");
    let path = folder.path().join("statistics.safetensors");
    let mut heard = Vec::new();
    let (weights, hash) = (CheckpointWeights::new(&checkpoint), blake3::hash(b"text"));
    let mut watch = |step| {
        heard.push(step);
        ControlFlow::Continue(())
    };
    let info = calibrate(&checkpoint, &weights, tokens, options, &hash, &path, &mut watch)?;
    let statistics = Statistics::open(&path).expect("what was written");
    let names =
        |info: &impasto::calibrate::Info| info.groups.keys().chain(info.linears.keys()).cloned().collect::<Vec<_>>();
    assert!(names(statistics.info()) == names(&info) && statistics.info().tokens == info.tokens);
    Ok((path, heard))
}

fn close(got: f64, expected: f64, scale: f64) -> bool {
    (got - expected).abs() <= 1e-4 * scale
}

/// Compares the statistics of a model, with gradients from `backwards` windows, with sums of one window at a time.
fn compare(model: &Path, tokens: &[u32], window: usize, backwards: usize) {
    let folder = TempDir::new().expect("a folder");
    let options = CalibrateOptions { window, gradient_tokens: backwards * window, threads: 3, ..Default::default() };
    let (path, heard) = measure(model, tokens, &options, &folder).expect("statistics");
    let statistics = Statistics::open(&path).expect("statistics");
    let info = statistics.info();

    let checkpoint = Checkpoint::open(model).expect("a checkpoint");
    let weights = CheckpointWeights::new(&checkpoint);
    let config = DecoderConfig::from_json(&weights.asset("config.json").expect("it")).expect("a configuration");
    let tied = config.tie_word_embeddings;
    let decoder = Decoder::load(&weights, config, 1).expect("a model");
    let blocks = decoder.blocks().len();
    assert_eq!(heard.len(), 2 * blocks + 2, "{heard:?}");
    assert_eq!(heard[0], Calibrating::Forward(0, blocks));
    let windows = tokens.len() / window;
    let (mut seen, mut all) = (Sums::default(), Sums::default());
    for (i, tokens) in tokens.chunks_exact(window).enumerate() {
        if i < backwards {
            decoder.backward(tokens, Labels::Sampled { seed: 1 + i as u64 }, &mut seen).expect("runs");
        }
        // Inputs of all windows, gradients of the first ones.
        decoder.backward(tokens, Labels::Sampled { seed: 0 }, &mut all).expect("runs");
    }
    let (covered, backwards) = ((windows * window) as f64, (backwards * window) as f64);
    assert_eq!((info.tokens as f64, info.gradient_tokens as f64, info.window), (covered, backwards, window as u64));
    assert_eq!(info.held_back_tokens, ((windows / 8).max(1) * window) as u64);

    assert_eq!(info.groups.len(), all.covariances.len());
    for (name, (n, sum)) in &all.covariances {
        let (inputs, covariance) = statistics.covariance(name).expect("a covariance");
        assert_eq!((inputs, info.groups[name].tokens as f64), (*n, covered));
        let mean = |i: usize, j: usize| sum[i * n + j] / covered;
        let scale = (0..*n).map(|i| mean(i, i)).fold(0.0, f64::max);
        for i in 0..*n {
            for j in 0..=i {
                let got = f64::from(covariance[i * n + j]);
                assert!(close(got, mean(i, j), scale), "{name}: {got} {}", mean(i, j));
            }
        }
        let mean_square = (0..*n).map(|i| mean(i, i)).sum::<f64>() / *n as f64;
        assert!(close(statistics.mean_square(name).expect("it"), mean_square, mean_square));
    }

    let mean_of = |sums: &[f64]| sums.iter().sum::<f64>() / sums.len() as f64;
    let vocab = decoder.config().vocab_size;
    let embedded: Vec<f64> = (0..vocab as u32).map(|t| seen.embedding.get(&t).copied().unwrap_or(0.0)).collect();
    let embedding = decoder.frame().embedding();
    for linear in decoder.linears() {
        let (found, sums) = (&info.linears[linear.name], &seen.outputs[linear.name]);
        let mean = mean_of(sums) / backwards;
        assert!(close(found.sensitivity, mean / 2.0, mean), "{}: {}", linear.name, found.sensitivity);
        let group = found.input.as_ref().expect("a group");
        let damping = info.groups[group].damping;
        let rows = statistics.rows(linear.name).expect("rows");
        if tied && linear.name == embedding {
            // Both uses of a tied matrix: row weights are the mean of both, and the damping includes what the embedding
            // adds.
            let ratio = mean_of(&embedded) / mean_of(sums);
            let added = ratio / statistics.mean_square(group).expect("it");
            assert!(close(found.damping, damping + added, added));
            for ((row, sum), own) in rows.iter().zip(sums).zip(&embedded) {
                let expected = (sum / mean_of(sums) + own / mean_of(&embedded)) / 2.0;
                assert!(close(f64::from(*row), expected, 1.0 + expected), "{row} {expected}");
            }
        } else {
            assert!(close(found.damping, damping, damping));
            for (row, sum) in rows.iter().zip(sums) {
                let expected = sum / mean_of(sums);
                assert!(close(f64::from(*row), expected, 1.0 + expected), "{}: {row} {expected}", linear.name);
            }
        }
    }
    if !tied {
        let (found, mean) = (&info.linears[embedding], mean_of(&embedded) / backwards);
        assert!(found.input.is_none() && close(found.sensitivity, mean / 2.0, mean));
        for (row, own) in statistics.rows(embedding).expect("rows").iter().zip(&embedded) {
            let expected = own / mean_of(&embedded);
            assert!(close(f64::from(*row), expected, 1.0 + expected), "{row} {expected}");
        }
    }

    let bytes = fs::read(&path).expect("a file");
    let one = measure(model, tokens, &CalibrateOptions { threads: 1, ..options }, &folder).expect("statistics");
    assert!(fs::read(one.0).expect("a file") == bytes, "threads change the bytes");
    assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing else is left");
}

fn tokens(count: u32, vocabulary: u32) -> Vec<u32> {
    (0..count).map(|i| (i * i * 7 + i / 3) % vocabulary).collect()
}

#[test]
fn tiny_in_pieces() {
    compare(&tiny(), &tokens(19 * 24 + 20, 4093), 24, 5);
}

#[test]
fn families() {
    // Norms before, after and inside; capped scores and logits, local attention; biases; fused layers; an untied head.
    for name in ["gemma2", "qwen2", "phi3"] {
        let model = Folder::family(name);
        compare(model.0.path(), &tokens(16 * 12 + 5, 96), 12, 16);
    }
}

#[test]
fn one_window_has_nothing_to_hold_back() {
    let folder = TempDir::new().expect("a folder");
    let options = CalibrateOptions { window: 64, ..Default::default() };
    let (path, _) = measure(&tiny(), &tokens(127, 4093), &options, &folder).expect("statistics");
    let statistics = Statistics::open(&path).expect("statistics");
    let info = statistics.info();
    assert_eq!((info.tokens, info.gradient_tokens, info.held_back_tokens), (64, 64, 0));
    assert!(info.groups.values().all(|group| group.held_back.is_none() && group.damping == 0.01));
}

#[test]
fn refusals() {
    let folder = TempDir::new().expect("a folder");
    let usual = CalibrateOptions { window: 64, ..Default::default() };
    let refused = |options: &CalibrateOptions, tokens: &[u32]| {
        let error = measure(&tiny(), tokens, options, &folder).expect_err("refused");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0, "nothing is left");
        error
    };
    let text = tokens(200, 4093);
    assert!(matches!(refused(&usual, &text[..63]), EncodeError::ShortText { tokens: 63, window: 64 }));
    let none = CalibrateOptions { window: 0, ..usual };
    assert!(matches!(refused(&none, &text), EncodeError::ShortText { window: 0, .. }));
    let few = CalibrateOptions { tokens: 60, ..usual };
    assert!(matches!(refused(&few, &text), EncodeError::ShortText { tokens: 60, window: 64 }));
    let small = CalibrateOptions { memory_limit: Some(1 << 20), ..usual };
    let error = refused(&small, &text).to_string();
    assert!(error.contains("more than the limit of 1048576"), "{error}");
    let mut foreign = text.clone();
    foreign[70] = 1 << 20;
    assert!(refused(&usual, &foreign).to_string().contains("token id 1048576 at position 70"));
}

#[test]
fn a_model_that_overflows() {
    let model = Folder::family("qwen2");
    let path = model.0.path().join("model.safetensors");
    let checkpoint = Checkpoint::open(&path).expect("a checkpoint");
    let mut tensors: Vec<_> = checkpoint
        .tensors()
        .iter()
        .map(|t| (impasto_checkpoint::TensorSpec::new(&t.name, t.dtype, t.shape.clone()), checkpoint.bytes(t).to_vec()))
        .collect();
    drop(checkpoint);
    for (spec, bytes) in &mut tensors {
        if spec.name.contains("layers.1.mlp.up_proj.weight") {
            bytes.as_chunks_mut::<4>().0.iter_mut().for_each(|b| *b = 1e30f32.to_le_bytes());
        }
    }
    let tensors: Vec<_> = tensors.iter().map(|(spec, bytes)| (spec.clone(), bytes.as_slice())).collect();
    impasto_checkpoint::write_safetensors(&path, None, &tensors).expect("room");
    let folder = TempDir::new().expect("a folder");
    let options = CalibrateOptions { window: 12, ..Default::default() };
    let error = measure(model.0.path(), &tokens(48, 96), &options, &folder).expect_err("refused").to_string();
    assert!(error.contains("down_proj.weight") && error.contains("not finite"), "{error}");
}
