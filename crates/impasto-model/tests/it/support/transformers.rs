//! Logits of the tiny models of every family against those of transformers (tests/golden/families).
//!
//! The error of a position is its largest absolute difference divided by its largest absolute logit.

use super::Family;
use impasto_model::config::DecoderConfig;
use impasto_model::{CausalLm, Want};

/// Measured: at most 5e-6. An error in the math (a window off by one, a missing norm) gives 1e-3 or more.
pub const TOLERANCE: f32 = 2e-5;

/// Largest error over the positions.
fn error(got: &[f32], expected: &[f32], vocab: usize) -> f32 {
    assert_eq!(got.len(), expected.len());
    let rows = got.chunks_exact(vocab).zip(expected.chunks_exact(vocab));
    let row = |(got, expected): (&[f32], &[f32])| {
        let worst = got.iter().zip(expected).map(|(g, e)| (g - e).abs()).fold(0.0, f32::max);
        worst / expected.iter().fold(0.0, |m: f32, x| m.max(x.abs()))
    };
    rows.map(row).fold(0.0, f32::max)
}

/// Largest error over the runs of `family`.
pub fn error_of(family: &Family, net: &dyn CausalLm) -> f32 {
    let vocab = net.vocab_size();
    let run = |(n, expected): &(usize, Vec<f32>)| {
        let logits = net.forward(&mut net.new_cache(*n).unwrap(), &family.tokens[..*n], Want::All).unwrap();
        error(&logits, expected, vocab)
    };
    family.runs.iter().map(run).fold(0.0, f32::max)
}

/// However the tokens are grouped, every row equals that of transformers for all tokens so far.
pub fn one_token_at_a_time(family: &Family, net: &dyn CausalLm, config: &DecoderConfig) {
    let vocab = net.vocab_size();
    let mut checked = 0;
    for cuts in [vec![1; 48], vec![13, 1, 1, 9, 1, 23]] {
        let mut cache = net.new_cache(0).unwrap();
        for n in cuts {
            let at = cache.len();
            let got = net.forward(&mut cache, &family.tokens[at..at + n], Want::LastOnly).unwrap();
            let long = |tokens: usize| config.ropes.iter().any(|rope| rope.is_long(tokens));
            let run = family.runs.iter().find(|(tokens, _)| *tokens >= at + n && long(*tokens) == long(at + n));
            let Some((_, expected)) = run else { panic!("{}: no run for {} tokens", family.name, at + n) };
            let row = &expected[(at + n - 1) * vocab..][..vocab];
            assert!(error(&got, row, vocab) < TOLERANCE, "{}: token {}", family.name, at + n - 1);
            checked += 1;
        }
    }
    assert_eq!(checked, 54);
    // Going back, also across the length where LongRoPE changes.
    let mut cache = net.new_cache(0).unwrap();
    net.forward(&mut cache, &family.tokens, Want::LastOnly).unwrap();
    cache.truncate(10);
    let (tokens, expected) = &family.runs[0];
    let got = net.forward(&mut cache, &family.tokens[10..*tokens], Want::All).unwrap();
    assert!(error(&got, &expected[10 * vocab..], vocab) < TOLERANCE, "{}", family.name);
}
