//! Time of drawing a token, beside a sort of the whole vocabulary.
//!
//! ```sh
//! cargo run --release -p impasto-model --example sampling_speed
//! ```

use std::hint::black_box;
use std::time::Instant;

use impasto_core::rng::SplitMix64;
use impasto_model::sampling::{Sampler, SamplingParams};

/// Logits with the spread of a language model's: normal with a standard deviation of 3, and a few likely tokens.
fn logits(vocab: usize) -> Vec<f32> {
    let mut rng = SplitMix64::new(1);
    let mut normal = || (0..12).map(|_| rng.next_f64()).sum::<f64>() - 6.0;
    let mut logits: Vec<f32> = (0..vocab).map(|_| 3.0 * normal() as f32).collect();
    logits.iter_mut().step_by(vocab / 20).enumerate().for_each(|(i, x)| *x = 18.0 - i as f32 / 2.0);
    logits
}

/// Returns microseconds per call.
fn time(mut call: impl FnMut()) -> f64 {
    let begun = Instant::now();
    let mut calls = 0;
    while calls < 10 || begun.elapsed().as_millis() < 500 {
        call();
        calls += 1;
    }
    begun.elapsed().as_secs_f64() * 1e6 / f64::from(calls)
}

fn main() -> Result<(), impasto_model::ModelError> {
    println!("| vocabulary | options | µs per token | µs of a sort |\n|---:|---|---:|---:|");
    let with = SamplingParams { temperature: 1.0, ..SamplingParams::default() };
    let options = [
        ("greedy", SamplingParams::default()),
        ("temperature 1", with),
        ("top-p 0.95", SamplingParams { top_p: 0.95, ..with }),
        ("top-k 40", SamplingParams { top_k: 40, ..with }),
        ("min-p 0.05", SamplingParams { min_p: 0.05, ..with }),
        ("temperature 2, top-p 0.99", SamplingParams { temperature: 2.0, top_p: 0.99, ..with }),
        ("top-k 40, repetition penalty 1.1", SamplingParams { top_k: 40, repetition_penalty: 1.1, ..with }),
    ];
    for vocab in [49_152, 151_936] {
        let logits = logits(vocab);
        let sort = time(|| {
            let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
            all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            black_box(all);
        });
        for (name, params) in options {
            let mut sampler = Sampler::new(params)?;
            sampler.sample(&logits, &[1, 2, 3])?;
            let drawn = time(|| drop(black_box(sampler.sample(black_box(&logits), &[1, 2, 3]))));
            println!("| {vocab} | {name} | {drawn:.0} | {sort:.0} |");
        }
    }
    Ok(())
}
