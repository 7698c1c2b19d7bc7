//! The backward pass, against transformers (tests/golden/families, made by tools/make_goldens.py), finite differences
//! of the loss, and its expected moments.

use std::collections::BTreeMap;

use crate::support::{Family, Folder, Table, decoder, golden};
use impasto_model::decoder::{Decoder, Labels, Predictions};
use impasto_model::{CausalLm, GradientProbe, ModelError, Probe, Want};
use serde_json::Value;

/// Everything that the probe received. The gradient of the embeddings has the name "", that of the output projection is
/// a root mean square.
#[derive(Default)]
struct Recorder {
    inputs: Vec<(Vec<String>, Vec<f32>, usize)>,
    gradients: Vec<(String, Vec<f32>, usize)>,
}

impl Probe for Recorder {
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize) {
        assert!(self.gradients.is_empty(), "all inputs come first");
        self.inputs.push((names.iter().map(|n| n.to_string()).collect(), x.to_vec(), width));
    }
}

impl GradientProbe for Recorder {
    fn head(&mut self, name: &str, fisher: &[f32], outputs: usize) {
        self.gradients.push((name.into(), fisher.iter().map(|f| f.sqrt()).collect(), outputs));
    }

    fn linear_gradient(&mut self, name: &str, gradient: &[f32], outputs: usize) {
        self.gradients.push((name.into(), gradient.to_vec(), outputs));
    }

    fn embedding_gradient(&mut self, _: &[u32], gradient: &[f32], width: usize) {
        self.gradients.push((String::new(), gradient.to_vec(), width));
    }
}

fn load(table: &Table, threads: usize) -> Decoder {
    decoder(table, threads).unwrap()
}

fn record(net: &Decoder, tokens: &[u32], labels: Labels<'_>) -> Recorder {
    let mut recorder = Recorder::default();
    net.backward(tokens, labels, &mut recorder).unwrap();
    recorder
}

fn numbers(value: &Value) -> Vec<f64> {
    value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect()
}

fn largest(x: impl Iterator<Item = f64>) -> f64 {
    x.fold(0.0, f64::max)
}

/// The labels of a family's golden gradients, and the gradients by name: (sums of squares, moments) as in `digest` of
/// make_goldens.py.
fn goldens(family: &Family) -> (Vec<u32>, BTreeMap<String, [Vec<f64>; 2]>) {
    let json = std::fs::read(golden().join("families").join(&family.name).join("gradients.json")).unwrap();
    let golden: Value = serde_json::from_slice(&json).unwrap();
    let digests = golden["gradients"].as_object().unwrap().iter();
    let digests = digests.map(|(name, d)| (name.clone(), ["squares", "moments"].map(|sum| numbers(&d[sum])))).collect();
    (numbers(&golden["labels"]).into_iter().map(|x| x as u32).collect(), digests)
}

/// Of each output's sum of squares, and of its moment relative to the largest of its layer. Measured: at most 3e-5; an
/// error in the math gives 1e-3 or more.
const TOLERANCE: f64 = 1e-4;

#[test]
fn equal_transformers() {
    for family in Family::all() {
        let (labels, expected) = goldens(&family);
        for threads in [1, 2] {
            let seen = record(&load(&family.table, threads), &family.tokens, Labels::Given(&labels));
            assert_eq!(seen.gradients.len(), expected.len(), "{}", family.name);
            let mut worst = [0.0f64; 2];
            for (name, gradient, outputs) in &seen.gradients {
                let [squares, moments] = &expected[name];
                assert_eq!((gradient.len(), squares.len()), (family.tokens.len() * outputs, *outputs));
                let mut sums = vec![[0.0f64; 2]; *outputs];
                for (token, row) in gradient.chunks_exact(*outputs).enumerate() {
                    for (sums, &g) in sums.iter_mut().zip(row) {
                        *sums = [sums[0] + f64::from(g).powi(2), sums[1] + (token + 1) as f64 * f64::from(g)];
                    }
                }
                let scale = largest(moments.iter().map(|m| m.abs()));
                let errors = sums.iter().zip(squares.iter().zip(moments));
                let errors = errors.map(|(got, (s, m))| [(got[0] - s).abs() / s, (got[1] - m).abs() / scale]);
                for error in errors {
                    worst = [worst[0].max(error[0]), worst[1].max(error[1])];
                    assert!(error.iter().all(|e| *e < TOLERANCE), "{}: {name} {error:?}", family.name);
                }
            }
            println!("{}, {threads} threads: largest errors {:.1e} and {:.1e}", family.name, worst[0], worst[1]);
        }
    }
}

/// Compares sums of squared gradients of whole layers. The label of each position is the next token, that of the last
/// is the first token.
fn real_model(folder: &Folder, file: &str) {
    let golden: Value = serde_json::from_slice(&std::fs::read(golden().join(file)).unwrap()).unwrap();
    let expected = golden["squared_gradients"].as_object().unwrap();
    let tokens: Vec<u32> = numbers(&golden["tokens"]).into_iter().map(|t| t as u32).collect();
    let mut labels = tokens.clone();
    labels.rotate_left(1);
    let model = decoder(folder, 0).unwrap();
    let seen = record(&model, &tokens, Labels::Given(&labels));
    assert_eq!(seen.gradients.len(), expected.len());
    let error = |(name, gradient, _): &(String, Vec<f32>, usize)| {
        let expected = expected[name].as_f64().unwrap();
        (gradient.iter().map(|&g| f64::from(g).powi(2)).sum::<f64>() / expected - 1.0).abs()
    };
    let errors: Vec<f64> = seen.gradients.iter().map(error).collect();
    println!("{file}: {} layers, largest error {:.1e}", errors.len(), largest(errors.iter().copied()));
    assert!(errors.iter().all(|error| *error < TOLERANCE));
}

#[test]
fn tiny() {
    real_model(&Folder::tiny(), "tiny.json");
}

#[test]
fn smollm2() {
    let name = "smollm2-135m-continuous";
    match std::env::var_os("IMPASTO_MODELS").map(|dir| std::path::Path::new(&dir).join(name)) {
        Some(path) if path.exists() => real_model(&Folder::open(path), &format!("{name}.json")),
        _ => println!("SKIPPED: set IMPASTO_MODELS to the folder that holds {name}"),
    }
}

#[test]
fn what_is_shown_and_when() {
    for family in Family::all() {
        let model = load(&family.table, 2);
        let net = &model;
        let (labels, tokens) = (goldens(&family).0, &family.tokens);
        let seen = record(net, tokens, Labels::Given(&labels));
        // The inputs are those of a plain run.
        let mut plain = Recorder::default();
        net.hidden_probed(&mut net.new_cache(0).unwrap(), tokens, Want::All, &mut plain).unwrap();
        assert!(seen.inputs == plain.inputs, "{}", family.name);
        // Gradients come grouped by input, from the last input to the first; then the embedding.
        let mut listed = net.linears();
        listed.sort_by_key(|layer| std::cmp::Reverse(layer.input));
        let listed: Vec<_> =
            listed.iter().map(|l| (l.name, l.outputs)).chain([("", net.config().hidden_size)]).collect();
        let shown: Vec<_> = seen.gradients.iter().map(|(name, _, outputs)| (name.as_str(), *outputs)).collect();
        assert_eq!(shown, listed, "{}", family.name);
        assert!(record(net, tokens, Labels::Given(&labels)).gradients == seen.gradients, "{}", family.name);
    }
}

/// Computes the loss from the logits of a plain run.
fn loss(net: &Decoder, tokens: &[u32], labels: &[u32]) -> f64 {
    let logits = net.forward(&mut net.new_cache(0).unwrap(), tokens, Want::All).unwrap();
    let rows = logits.chunks_exact(net.vocab_size()).zip(labels);
    rows.map(|(row, &label)| {
        let max = largest(row.iter().map(|&x| f64::from(x).abs()));
        let sum: f64 = row.iter().map(|&x| (f64::from(x) - max).exp()).sum();
        sum.ln() + max - f64::from(row[label as usize])
    })
    .sum()
}

/// The gradient of a weight matrix, outputs x inputs: the outer product of output gradient and input, summed over
/// tokens.
fn weight_gradient(gradient: &[f32], x: &[f32], outputs: usize, inputs: usize) -> Vec<f64> {
    let mut sum = vec![0.0; outputs * inputs];
    for (g, x) in gradient.chunks_exact(outputs).zip(x.chunks_exact(inputs)) {
        for (sum, g) in sum.chunks_exact_mut(inputs).zip(g) {
            sum.iter_mut().zip(x).for_each(|(sum, x)| *sum += f64::from(*g) * f64::from(*x));
        }
    }
    sum
}

/// Moves the weights of `name` along their gradient and compares the change of the loss with the predicted change.
fn check_slope(model: &mut Decoder, tokens: &[u32], labels: &[u32], name: &str, slope: &[f64]) {
    let norm = slope.iter().map(|s| s * s).sum::<f64>().sqrt();
    let old = model.weights(name).unwrap().to_vec();
    let size = old.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
    // Large enough that the change exceeds the rounding of the forward pass, small enough to be linear.
    let step = (0.03 / norm).min(1e-3 * size);
    let mut moved = |by: f64| {
        let weights: Vec<f32> = old.iter().zip(slope).map(|(w, s)| (f64::from(*w) + by * s / norm) as f32).collect();
        model.set_weights(name, &weights).unwrap();
        loss(model, tokens, labels)
    };
    let found = (moved(step) - moved(-step)) / (2.0 * step);
    model.set_weights(name, &old).unwrap();
    assert!((found / norm - 1.0).abs() < 5e-3, "{name}: {found} by differences, {norm} by the backward pass");
}

#[test]
fn differences_of_the_loss() {
    for family in Family::all() {
        let mut model = load(&family.table, 1);
        let (labels, tokens) = (goldens(&family).0, &family.tokens);
        let seen = record(&model, tokens, Labels::Given(&labels));
        let gradients: BTreeMap<_, _> = seen.gradients.iter().map(|(name, g, outputs)| (name, (g, *outputs))).collect();
        let (_, blocks) = seen.inputs.split_last().unwrap();
        for (names, x, inputs) in blocks {
            for name in names {
                let (gradient, outputs) = gradients[name];
                let slope = weight_gradient(gradient, x, outputs, *inputs);
                check_slope(&mut model, tokens, &labels, name, &slope);
            }
        }
        if !model.config().tie_word_embeddings {
            let (gradient, width) = gradients[&String::new()];
            let mut slope = vec![0.0; model.vocab_size() * width];
            for (&token, g) in tokens.iter().zip(gradient.chunks_exact(width)) {
                let slope = &mut slope[token as usize * width..][..width];
                slope.iter_mut().zip(g).for_each(|(slope, g)| *slope += f64::from(*g));
            }
            check_slope(&mut model, tokens, &labels, "model.embed_tokens.weight", &slope);
        }
    }
}

/// A window longer than any block of queries and any prefill piece.
#[test]
fn a_long_window() {
    let mut model = load(&Folder::tiny().table(), 2);
    let tokens: Vec<u32> = (0..700u32).map(|i| i * i % 4093).collect();
    let labels: Vec<u32> = tokens.iter().map(|t| t / 2 + 7).collect();
    let seen = record(&model, &tokens, Labels::Given(&labels));
    assert_eq!(seen.inputs[0].1.len(), 700 * seen.inputs[0].2);
    for name in ["model.layers.0.self_attn.k_proj.weight", "model.layers.0.self_attn.v_proj.weight"] {
        let (_, gradient, outputs) = seen.gradients.iter().find(|(n, _, _)| n == name).unwrap();
        let (_, x, inputs) = &seen.inputs[0];
        let slope = weight_gradient(gradient, x, *outputs, *inputs);
        check_slope(&mut model, &tokens, &labels, name, &slope);
    }
}

/// At one position, all labels can be enumerated: over many seeds, gradients and their squares approach the means under
/// the model's own distribution. The mean gradient is 0 for any model.
#[test]
fn sampled_gradients_have_the_moments_of_the_distribution() {
    const SEEDS: usize = 4000;
    for name in ["gemma2", "qwen2"] {
        let model = load(&Family::open(name).table, 1);
        let net = &model;
        let logits = net.forward(&mut net.new_cache(0).unwrap(), &[5], Want::All).unwrap();
        let sum: f64 = logits.iter().map(|&x| f64::from(x).exp()).sum();
        let layer = "model.layers.0.mlp.down_proj.weight";
        let gradient = |labels: Labels<'_>| {
            let seen = record(net, &[5], labels);
            seen.gradients.into_iter().find(|(name, _, _)| name == layer).unwrap().1
        };
        let mut mean = vec![0.0; net.config().hidden_size];
        let [mut squares, mut fourth] = [mean.clone(), mean.clone()];
        for (label, &logit) in (0..).zip(&logits) {
            let p = f64::from(logit).exp() / sum;
            for (at, g) in gradient(Labels::Given(&[label])).into_iter().enumerate() {
                let g = f64::from(g);
                mean[at] += p * g;
                squares[at] += p * g * g;
                fourth[at] += p * g.powi(4);
            }
        }
        let mut drawn = vec![0.0; mean.len()];
        for seed in 0..SEEDS as u64 {
            let gradient = gradient(Labels::Sampled { seed });
            drawn.iter_mut().zip(gradient).for_each(|(sum, g)| *sum += f64::from(g).powi(2) / SEEDS as f64);
        }
        for at in 0..mean.len() {
            assert!(mean[at].abs() < 1e-5 * squares[at].sqrt(), "{name}: {} {}", mean[at], squares[at]);
            let error = ((fourth[at] - squares[at].powi(2)) / SEEDS as f64).sqrt();
            assert!((drawn[at] - squares[at]).abs() < 4.0 * error, "{name}: {} {} {error}", drawn[at], squares[at]);
        }
        let many = |seed| record(net, &Family::open(name).tokens, Labels::Sampled { seed }).gradients;
        assert!(many(3) == many(3) && many(3) != many(4), "{name}");
    }
}

#[test]
fn refusals() {
    let family = Family::open("qwen2");
    let model = load(&family.table, 1);
    let error = |tokens: &[u32], labels: Labels<'_>| {
        let mut recorder = Recorder::default();
        let error = model.backward(tokens, labels, &mut recorder).unwrap_err();
        assert!(recorder.inputs.is_empty() && recorder.gradients.is_empty());
        error
    };
    let drawn = Labels::Sampled { seed: 1 };
    assert!(matches!(error(&[], drawn), ModelError::EmptyPrompt));
    assert!(matches!(error(&[1, 96], drawn), ModelError::TokenId { id: 96, position: 1, vocab: 96 }));
    assert!(matches!(error(&[1; 129], drawn), ModelError::ContextOverflow { tokens: 129, context: 128 }));
    assert!(matches!(error(&[1, 2], Labels::Given(&[3, 96])), ModelError::TokenId { id: 96, position: 1, vocab: 96 }));
    let text = error(&[1, 2], Labels::Given(&[3])).to_string();
    assert_eq!(text, "labels = 1 for 2 tokens: must be one per token");

    let mut table = family.table.clone();
    table.tensors.get_mut("model.norm.weight").unwrap().1[3] = f32::NAN;
    let error = load(&table, 1).backward(&[1, 2], drawn, &mut Recorder::default()).unwrap_err();
    assert!(matches!(error, ModelError::NonFinite(_)), "{error}");
}

/// Row gradients by name, and those of norms by number.
#[derive(Default)]
struct OfFactors {
    rows: BTreeMap<String, Vec<f64>>,
    norms: BTreeMap<usize, Vec<f64>>,
}

impl Probe for OfFactors {
    fn linear(&mut self, _: &[&str], _: &[f32], _: usize) {}
}

impl GradientProbe for OfFactors {
    fn head(&mut self, _: &str, _: &[f32], _: usize) {}

    fn linear_gradient(&mut self, _: &str, _: &[f32], _: usize) {}

    fn embedding_gradient(&mut self, _: &[u32], _: &[f32], _: usize) {}

    fn row_gradient(&mut self, name: &str, gradient: &[f64]) {
        assert!(self.rows.insert(name.to_owned(), gradient.to_vec()).is_none());
    }

    fn norm_gradient(&mut self, number: usize, gradient: &[f64]) {
        assert!(self.norms.insert(number, gradient.to_vec()).is_none());
    }
}

/// The inputs of the output projection.
struct OfHead(Vec<f32>);

impl Probe for OfHead {
    fn linear(&mut self, _: &[&str], x: &[f32], _: usize) {
        self.0 = x.to_vec();
    }
}

/// The divergence is that of the logits, and gradients are its slopes along factors on rows and on norms.
#[test]
fn distillation() {
    for family in Family::all() {
        let teacher = load(&family.table, 1);
        let mut model = load(&family.table, 2);
        let tokens = &family.tokens;
        let names: Vec<(String, usize)> = model.linears().iter().map(|l| (l.name.to_owned(), l.outputs)).collect();
        let [blocks @ .., _] = &names[..] else { panic!("no layers") };
        for (n, (name, rows)) in blocks.iter().enumerate() {
            let factors: Vec<f32> = (0..*rows).map(|r| 1.0 + 0.1 * ((r * 7 + n) as f32).sin()).collect();
            model.scale_rows(name, &factors).unwrap();
        }
        let mut inputs = OfHead(Vec::new());
        teacher.hidden_probed(&mut teacher.new_cache(0).unwrap(), tokens, Want::All, &mut inputs).unwrap();
        let predictions = Predictions { frame: teacher.frame(), inputs: &inputs.0 };

        let logits = |net: &Decoder| net.forward(&mut net.new_cache(0).unwrap(), tokens, Want::All).unwrap();
        let vocab = model.vocab_size();
        let softmax = |row: &[f32]| {
            let sum: f64 = row.iter().map(|&x| f64::from(x).exp()).sum();
            row.iter().map(|&x| f64::from(x).exp() / sum).collect::<Vec<f64>>()
        };
        let (p, q) = (logits(&teacher), logits(&model));
        let rows = p.chunks_exact(vocab).zip(q.chunks_exact(vocab));
        let nats: f64 =
            rows.map(|(p, q)| softmax(p).iter().zip(softmax(q)).map(|(p, q)| p * (p / q).ln()).sum::<f64>()).sum();
        let mut seen = OfFactors::default();
        let loss = model.distill(tokens, &predictions, &mut seen).unwrap();
        assert!((loss / nats - 1.0).abs() < 1e-3, "{}: {loss} {nats}", family.name);
        assert_eq!(model.divergence(tokens, &predictions).unwrap(), loss);
        assert!(teacher.divergence(tokens, &predictions).unwrap().abs() < 1e-6);

        assert_eq!(seen.rows.len(), blocks.len());
        for (name, rows) in blocks {
            let slope = &seen.rows[name];
            assert_eq!(slope.len(), *rows);
            let norm = slope.iter().map(|s| s * s).sum::<f64>().sqrt();
            let mut moved = |by: f64| {
                let factors: Vec<f32> = slope.iter().map(|s| (by * s / norm).exp() as f32).collect();
                model.scale_rows(name, &factors).unwrap();
                let loss = model.divergence(tokens, &predictions).unwrap();
                model.scale_rows(name, &factors.iter().map(|f| 1.0 / f).collect::<Vec<f32>>()).unwrap();
                loss
            };
            let step = (0.01 * loss / norm).min(0.02);
            let found = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((found / norm - 1.0).abs() < 2e-2, "{} {name}: {found} by differences, {norm}", family.name);
        }
        for (&number, slope) in &seen.norms {
            let weights = model.norm(number).unwrap().to_vec();
            let norm = slope.iter().map(|s| s * s).sum::<f64>().sqrt();
            let mut moved = |by: f64| {
                let moved = weights.iter().zip(slope).map(|(w, s)| w * (by * s / norm).exp() as f32);
                model.set_norm(number, &moved.collect::<Vec<f32>>()).unwrap();
                model.divergence(tokens, &predictions).unwrap()
            };
            let step = (0.01 * loss / norm).min(0.02);
            let found = (moved(step) - moved(-step)) / (2.0 * step);
            assert!((found / norm - 1.0).abs() < 2e-2, "{} norm {number}: {found} by differences, {norm}", family.name);
            moved(0.0);
        }
        let norms = seen.norms.len();
        assert!(norms > 2 && seen.norms.keys().copied().eq(0..norms) && model.norm(norms).is_err());
        assert!(model.set_norm(0, &[1.0]).is_err());
    }
}

#[test]
fn distillation_refuses_what_does_not_fit() {
    let model = load(&Family::open("qwen2").table, 1);
    let width = model.config().hidden_size;
    let of = |tokens: &[u32], inputs: &[f32]| {
        let predictions = Predictions { frame: model.frame(), inputs };
        model.divergence(tokens, &predictions).unwrap_err()
    };
    assert!(matches!(of(&[], &[]), ModelError::EmptyPrompt));
    assert!(matches!(of(&[1, 2], &vec![0.0; width]), ModelError::BadOption { name: "predictions", .. }));
    assert!(matches!(of(&[1], &vec![f32::NAN; width]), ModelError::NonFinite(_)));
    let mut model = load(&Family::open("qwen2").table, 1);
    assert!(matches!(model.scale_rows("none", &[]), Err(ModelError::NoLinear { .. })));
    let name = model.linears()[0].name.to_owned();
    assert!(matches!(model.scale_rows(&name, &[1.0]), Err(ModelError::Tensor { .. })));
}
