use super::*;
use proptest::prelude::*;
use serde_json::Value;

fn ids(candidates: &[Candidate]) -> Vec<u32> {
    let mut ids: Vec<u32> = candidates.iter().map(|c| c.id).collect();
    ids.sort_unstable();
    ids
}

fn softmax(logits: &[f32]) -> Vec<f64> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let exp: Vec<f64> = logits.iter().map(|x| (f64::from(*x) - f64::from(max)).exp()).collect();
    let sum: f64 = exp.iter().sum();
    exp.iter().map(|x| x / sum).collect()
}

const ALL: SamplingParams =
    SamplingParams { temperature: 1.0, top_k: 0, top_p: 1.0, min_p: 0.0, repetition_penalty: 1.0, seed: 0 };

/// Logits of all tokens after the whole chain, `None` if filtered out.
fn chain(logits: &[f32], history: &[u32], p: &SamplingParams) -> Vec<Option<f32>> {
    let mut logits = logits.to_vec();
    penalize(&mut logits, history, p.repetition_penalty);
    let mut left = vec![None; logits.len()];
    for c in filter(&logits, p) {
        left[c.id as usize] = Some(c.logit);
    }
    left
}

#[test]
fn filters_leave_what_transformers_leaves() {
    let golden: Value = serde_json::from_str(include_str!("../../tests/golden/sampling.json")).unwrap();
    let list = |v: &Value| -> Vec<Option<f32>> {
        v.as_array().unwrap().iter().map(|x| x.as_f64().map(|x| x as f32)).collect()
    };
    let logits: Vec<f32> = list(&golden["logits"]).into_iter().flatten().collect();
    let history: Vec<u32> = golden["history"].as_array().unwrap().iter().map(|x| x.as_u64().unwrap() as u32).collect();
    for case in golden["cases"].as_array().unwrap() {
        let value = case["value"].as_f64().unwrap() as f32;
        let name = case["filter"].as_str().unwrap();
        let p = match name {
            "repetition_penalty" => SamplingParams { repetition_penalty: value, ..ALL },
            "temperature" => SamplingParams { temperature: value, ..ALL },
            "top_k" => SamplingParams { top_k: value as usize, ..ALL },
            "top_p" => SamplingParams { top_p: value, ..ALL },
            "min_p" => SamplingParams { min_p: value, ..ALL },
            _ => SamplingParams {
                temperature: 0.7,
                top_k: 20,
                top_p: 0.95,
                min_p: 0.02,
                repetition_penalty: 1.2,
                seed: 0,
            },
        };
        let got = chain(&logits, &history, &p);
        let expected = list(&case["left"]);
        assert_eq!(got.len(), expected.len());
        for (id, (g, e)) in got.iter().zip(&expected).enumerate() {
            assert_eq!(g.is_some(), e.is_some(), "{name} {value}: token {id}");
            if let (Some(g), Some(e)) = (g, e) {
                assert!((g - e).abs() <= 1e-6 * e.abs().max(1.0), "{name} {value}: token {id}: {g} {e}");
            }
        }
    }
}

/// Logits on a coarse grid, so that ties occur.
fn logits() -> impl Strategy<Value = Vec<f32>> {
    prop::collection::vec((-40i32..40).prop_map(|x| x as f32 / 4.0), 1..60)
}

proptest! {
    #[test]
    fn top_k_is_naive(logits in logits(), k in 1usize..70) {
        let got = ids(&filter(&logits, &SamplingParams { top_k: k, ..ALL }));
        // A token stays if fewer than k are strictly more likely.
        let stays = |x: &f32| logits.iter().filter(|y| *y > x).count() < k;
        let expected: Vec<u32> = (0u32..).zip(&logits).filter(|(_, x)| stays(x)).map(|(id, _)| id).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn top_p_is_naive(logits in logits(), p in 0.01f32..0.99) {
        let got = ids(&filter(&logits, &SamplingParams { top_p: p, ..ALL }));
        let prob = softmax(&logits);
        // A token stays if the tokens before it do not reach p. Cases that rounding decides are skipped.
        let before = |id: usize| -> f64 {
            let ahead = |j: usize| logits[j] > logits[id] || (logits[j] == logits[id] && j < id);
            (0..logits.len()).filter(|&j| ahead(j)).map(|j| prob[j]).sum()
        };
        prop_assume!((0..logits.len()).all(|id| (before(id) - f64::from(p)).abs() > 1e-9));
        let expected: Vec<u32> =
            (0..logits.len()).filter(|&id| before(id) < f64::from(p)).map(|id| id as u32).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn min_p_is_naive(logits in logits(), p in 0.001f32..1.0) {
        let got = ids(&filter(&logits, &SamplingParams { min_p: p, ..ALL }));
        let prob = softmax(&logits);
        let top = prob.iter().copied().fold(0.0, f64::max);
        prop_assume!(prob.iter().all(|x| (x / top - f64::from(p)).abs() > 1e-9));
        let expected: Vec<u32> =
            (0..logits.len()).filter(|&id| prob[id] >= f64::from(p) * top).map(|id| id as u32).collect();
        prop_assert_eq!(got, expected);
    }

    #[test]
    fn penalty_is_naive(logits in logits(), history in prop::collection::vec(0u32..80, 0..20), penalty in 0.5f32..2.0) {
        let mut got = logits.clone();
        penalize(&mut got, &history, penalty);
        for (id, (g, x)) in got.iter().zip(&logits).enumerate() {
            let e = match history.contains(&(id as u32)) {
                true if *x > 0.0 => x / penalty,
                true => x * penalty,
                false => *x,
            };
            prop_assert_eq!(*g, e);
        }
    }

    #[test]
    fn temperature_scales(logits in logits(), temperature in 0.1f32..4.0) {
        for c in filter(&logits, &SamplingParams { temperature, ..ALL }) {
            prop_assert_eq!(c.logit, logits[c.id as usize] / temperature);
        }
    }

    #[test]
    fn some_token_is_always_drawn(
        logits in logits(), temperature in 0.0f32..4.0, top_k in 0usize..5, top_p in 0.001f32..1.0, min_p in 0.0f32..1.0,
        seed in any::<u64>()
    ) {
        let params = SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty: 1.1, seed };
        let id = Sampler::new(params).unwrap().sample(&logits, &[0]).unwrap();
        prop_assert!((id as usize) < logits.len());
    }
}

#[test]
fn draws_follow_the_distribution() {
    let logits: Vec<f32> = [0.5f32, 0.25, 0.125, 0.125].iter().map(|p| p.ln()).collect();
    let mut sampler = Sampler::new(SamplingParams { seed: 11, ..ALL }).unwrap();
    let mut counts = [0u32; 4];
    for _ in 0..8000 {
        counts[sampler.sample(&logits, &[]).unwrap() as usize] += 1;
    }
    // Chi-squared with 3 degrees of freedom; 16.3 is its 99.9% quantile.
    let chi: f64 = counts
        .iter()
        .zip([4000.0, 2000.0, 1000.0, 1000.0])
        .map(|(&n, e): (_, f64)| (f64::from(n) - e).powi(2) / e)
        .sum();
    assert!(chi < 16.3, "{counts:?}");
}

#[test]
fn the_seed_decides() {
    let logits: Vec<f32> = (0..50).map(|i| (i * 37 % 50) as f32 / 16.0).collect();
    let run = |seed| -> Vec<u32> {
        let mut sampler = Sampler::new(SamplingParams { seed, ..ALL }).unwrap();
        (0..20).map(|_| sampler.sample(&logits, &[]).unwrap()).collect()
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
    // The stream is part of the contract: these values must never change.
    assert_eq!(run(42)[..6], FROZEN);
}

// Computed by a separate program: SplitMix64 and the inverse of the cumulative distribution.
const FROZEN: [u32; 6] = [40, 31, 35, 39, 27, 33];

#[test]
fn greedy_takes_the_first_of_the_largest() {
    let mut sampler = Sampler::new(SamplingParams::default()).unwrap();
    assert_eq!(sampler.sample(&[0.0, 3.0, 3.0, -1.0], &[]).unwrap(), 1);
    let mut sampler = Sampler::new(SamplingParams { repetition_penalty: 2.0, ..Default::default() }).unwrap();
    assert_eq!(sampler.sample(&[2.0, 3.0, 2.5, -1.0], &[1]).unwrap(), 2);
    let mut tiny = Sampler::new(SamplingParams { temperature: f32::MIN_POSITIVE, ..ALL }).unwrap();
    assert_eq!(tiny.sample(&[2.0, 3.0, 2.5], &[]).unwrap(), 1);
}

#[test]
fn unusable_logits_and_options_are_errors() {
    let mut sampler = Sampler::new(ALL).unwrap();
    for bad in [&[1.0, f32::NAN][..], &[f32::INFINITY, 0.0], &[f32::NEG_INFINITY; 2], &[]] {
        assert!(matches!(sampler.sample(bad, &[]), Err(ModelError::NonFinite(_))));
    }
    assert_eq!(sampler.sample(&[f32::NEG_INFINITY, 0.0], &[]).unwrap(), 1);
    for bad in [
        SamplingParams { temperature: -1.0, ..ALL },
        SamplingParams { temperature: f32::NAN, ..ALL },
        SamplingParams { top_p: 0.0, ..ALL },
        SamplingParams { top_p: f32::NAN, ..ALL },
        SamplingParams { min_p: 1.5, ..ALL },
        SamplingParams { repetition_penalty: 0.0, ..ALL },
    ] {
        assert!(matches!(Sampler::new(bad), Err(ModelError::BadOption { .. })), "{bad:?}");
    }
}

#[test]
fn probabilities_are_those_of_the_draws() {
    let logits = [1.0, 3.0, 2.0, 2.5, -4.0];
    let params = SamplingParams { temperature: 0.8, top_k: 4, top_p: 0.95, repetition_penalty: 1.3, ..ALL };
    let mut sampler = Sampler::new(params).unwrap();
    let probabilities = sampler.probabilities(&logits, &[1]).unwrap();
    assert!(probabilities.is_sorted_by(|a, b| a.1 >= b.1));
    assert!((probabilities.iter().map(|p| p.1).sum::<f64>() - 1.0).abs() < 1e-12);
    let mut counts = [0u32; 5];
    const DRAWS: u32 = 20_000;
    for _ in 0..DRAWS {
        counts[sampler.sample(&logits, &[1]).unwrap() as usize] += 1;
    }
    for (id, count) in (0..).zip(counts) {
        let expected = probabilities.iter().find(|p| p.0 == id).map_or(0.0, |p| p.1);
        assert!((f64::from(count) / f64::from(DRAWS) - expected).abs() < 0.015, "token {id}: {count}, {expected}");
    }
    let greedy = Sampler::new(SamplingParams::default()).unwrap();
    assert_eq!(greedy.probabilities(&logits, &[]).unwrap(), [(1, 1.0)]);
}

#[test]
fn the_likeliest_tokens_come_first() {
    let logits = [1.0, 3.0, f32::NEG_INFINITY, 3.0, 2.0];
    assert_eq!(top(&logits, 3), [(1, 3.0), (3, 3.0), (4, 2.0)]);
    assert_eq!(top(&logits, 9).len(), 5);
    assert!(top(&logits, 0).is_empty());
    let sum = log_sum_exp(&logits);
    let all: f64 = logits.iter().map(|&x| (f64::from(x) - sum).exp()).sum();
    assert!((all - 1.0).abs() < 1e-12);
}
