//! Evaluation of real models. IMPASTO_TEXT is the path of a text (wikitext-2 valid), IMPASTO_MODELS a folder of models.
//! Tests whose files are missing are skipped with a message.

use std::ops::ControlFlow;
use std::time::Instant;

use crate::support::Folder;
use impasto_eval::{Estimate, EvalOptions, EvalText, Score, kld, perplexity};
use impasto_model::decoder::Labels;
use impasto_model::{GradientProbe, Probe, Want};
use impasto_runtime::{GenerateOptions, Model, RunOptions};
use impasto_text::{ChatOptions, Message};

const TEXT: &str = "Once upon a time there was a girl who lived by the sea. Every morning she went to the shore and \
    looked for shells. One day she found a small green bottle with a letter in it. The letter said that far away, on \
    an island, there was a wizard who had lost his hat, and that whoever found it should send it back with the tide.";

fn tiny() -> Model {
    Model::load(&Folder::tiny(), &RunOptions::float()).unwrap()
}

#[test]
fn perplexity_of_tiny_is_the_naive_one() {
    let model = tiny();
    let text = EvalText::new(model.tokenizer().unwrap(), TEXT).unwrap();
    assert!(text.prefix.is_empty(), "this tokenizer adds nothing");
    let options = EvalOptions { ctx: 24, ..EvalOptions::default() };
    let got = perplexity(model.network(), &text, &options, &mut |_| ()).unwrap();
    let mut nlls = Vec::new();
    for window in text.tokens.chunks_exact(24) {
        for at in 1..24 {
            let mut cache = model.network().new_cache(0).unwrap();
            let logits = model.network().forward(&mut cache, &window[..at], Want::LastOnly).unwrap();
            let sum: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
            nlls.push(sum.ln() - f64::from(logits[window[at] as usize]));
        }
    }
    assert_eq!(got.tokens, nlls.len());
    let mean = nlls.iter().sum::<f64>() / nlls.len() as f64;
    assert!((got.nll.value - mean).abs() < 1e-5, "{} {mean}", got.nll.value);
}

#[test]
fn divergence_of_tiny() {
    let model = tiny();
    let text = EvalText::new(model.tokenizer().unwrap(), TEXT).unwrap();
    let options = EvalOptions { ctx: 40, ..EvalOptions::default() };
    let same = kld(model.network(), model.network(), &text, &options, &mut |_| ()).unwrap();
    assert_eq!(same.mean, Estimate { value: 0.0, error: 0.0 });
    assert_eq!((same.max, same.same_top.value), (0.0, 1.0));

    let mut damaged = Folder::tiny().table();
    let (_, weights) = damaged.tensors.get_mut("model.layers.2.mlp.up_proj.weight").unwrap();
    weights.iter_mut().for_each(|w| *w = (*w * 30.0).round() / 30.0);
    let damaged = Model::load(&damaged, &RunOptions::float()).unwrap();
    let other = kld(model.network(), damaged.network(), &text, &options, &mut |_| ()).unwrap();
    assert!(other.mean.value > 0.0 && other.max < 5.0 && other.same_top.value > 0.3);
    assert!((other.delta_ln_ppl.value - (other.model.nll.value - other.reference.nll.value)).abs() < 1e-12);
    assert_eq!(other.reference, same.reference);
}

fn wikitext() -> Option<String> {
    let text = std::env::var_os("IMPASTO_TEXT").and_then(|path| std::fs::read_to_string(path).ok());
    if text.is_none() {
        println!("SKIPPED: set IMPASTO_TEXT to wikitext-2's valid.txt");
    }
    text
}

#[test]
fn tiny_on_wikitext() {
    let Some(text) = wikitext() else { return };
    let model = tiny();
    let text = EvalText::new(model.tokenizer().unwrap(), &text).unwrap();
    for (score, windows, transformers) in [(Score::All, 100, Some(271.07745)), (Score::SecondHalf, 5, None)] {
        let begun = Instant::now();
        let options = EvalOptions { score, windows: Some(windows), ..EvalOptions::default() };
        let ppl = perplexity(model.network(), &text, &options, &mut |_| ()).unwrap();
        println!("tiny, {score:?}: {ppl:?}, {:.1} s", begun.elapsed().as_secs_f64());
        // The result of transformers for the same windows of valid.txt.
        assert!(transformers.is_none_or(|t: f64| (ppl.perplexity.value - t).abs() < 1e-4 * t));
    }
}

fn smollm2() -> Option<Model> {
    let name = "smollm2-135m-continuous";
    let path = std::env::var_os("IMPASTO_MODELS").map(|dir| std::path::Path::new(&dir).join(name));
    let Some(path) = path.filter(|p| p.exists()) else {
        println!("SKIPPED: set IMPASTO_MODELS to the folder that holds {name}");
        return None;
    };
    let model = Model::load(&Folder::open(path), &RunOptions::float()).unwrap();
    println!("{name}: {} bytes of weights in memory", model.memory_bytes());
    Some(model)
}

#[test]
fn smollm2_answers() {
    let Some(model) = smollm2() else { return };
    let question = [Message::new("user", "What is the capital of France?")];
    let options = ChatOptions { add_generation_prompt: true, ..ChatOptions::default() };
    let prompt = model.chat_template().unwrap().render(&question, &options).unwrap();
    let prompt = model.tokenizer().unwrap().encode(&prompt, false).unwrap();
    let options = GenerateOptions { max_tokens: 32, ..model.generate_options() };
    let made = model.generate(&prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap();
    println!("{made:?}");
    assert!(made.text.contains("Paris"));
}

#[test]
fn smollm2_on_wikitext() {
    let Some(model) = smollm2() else { return };
    let Some(text) = wikitext() else { return };
    let text = EvalText::new(model.tokenizer().unwrap(), &text).unwrap();
    let options = EvalOptions { ctx: 512, windows: Some(1), ..EvalOptions::default() };
    let begun = Instant::now();
    let report = kld(model.network(), model.network(), &text, &options, &mut |_| ()).unwrap();
    println!("{:?}, {:.1} s for two passes", report.model, begun.elapsed().as_secs_f64());
    assert_eq!((report.mean.value, report.max, report.same_top.value), (0.0, 0.0, 1.0));
}

/// Sum of the logits' Fisher information and of all squared gradients.
#[derive(Default)]
struct Fisher(f64);

impl Probe for Fisher {
    fn linear(&mut self, _: &[&str], _: &[f32], _: usize) {}
}

impl GradientProbe for Fisher {
    fn head(&mut self, _: &str, fisher: &[f32], _: usize) {
        self.0 += fisher.iter().map(|&f| f64::from(f)).sum::<f64>();
    }

    fn linear_gradient(&mut self, _: &str, gradient: &[f32], _: usize) {
        self.0 += gradient.iter().map(|&g| f64::from(g * g)).sum::<f64>();
    }

    fn embedding_gradient(&mut self, _: &[u32], _: &[f32], _: usize) {}
}

#[test]
fn smollm2_backward_on_wikitext() {
    let Some(model) = smollm2() else { return };
    let Some(text) = wikitext() else { return };
    let text = EvalText::new(model.tokenizer().unwrap(), &text).unwrap();
    let net = model.decoder().unwrap();
    let mut fisher = Fisher::default();
    for (seed, window) in (0..2).zip(text.tokens.chunks_exact(128)) {
        net.backward(window, Labels::Sampled { seed }, &mut fisher).unwrap();
    }
    assert!(fisher.0.is_finite() && fisher.0 > 0.0);
}
