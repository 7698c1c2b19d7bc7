use super::ranked::Candidate;
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

const ALL: SamplingParams = SamplingParams {
    temperature: 1.0,
    top_k: 0,
    top_p: 1.0,
    min_p: 0.0,
    repetition_penalty: 1.0,
    presence_penalty: 0.0,
    frequency_penalty: 0.0,
    seed: 0,
};

fn filter(logits: &[f32], p: &SamplingParams) -> Vec<Candidate> {
    Kept::new(logits, greatest(logits).unwrap().1, p).candidates()
}

/// Logits of all tokens after the whole chain, `None` if filtered out.
fn chain(logits: &[f32], history: &[u32], p: &SamplingParams) -> Vec<Option<f32>> {
    let mut logits = logits.to_vec();
    adjust::repetition(&mut logits, history, p.repetition_penalty);
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
            _ => {
                SamplingParams { temperature: 0.7, top_k: 20, top_p: 0.95, min_p: 0.02, repetition_penalty: 1.2, ..ALL }
            }
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
        adjust::repetition(&mut got, &history, penalty);
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
        let params = SamplingParams { temperature, top_k, top_p, min_p, repetition_penalty: 1.1, seed, ..ALL };
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
fn a_distribution_knows_each_probability() {
    let ties = [1.0, 3.0, 2.0, 3.0, f32::NEG_INFINITY, 3.0, -0.0, 0.0, 2.0, 0.0];
    let filters = [ALL, SamplingParams { top_k: 2, ..ALL }, SamplingParams { top_p: 0.6, ..ALL }];
    let others = [SamplingParams { min_p: 0.3, ..ALL }, SamplingParams { temperature: 0.0, ..ALL }];
    for params in filters.into_iter().chain(others) {
        let sampler = Sampler::new(params).unwrap();
        let mut distribution = sampler.distribution(&ties, &[]).unwrap();
        let found: Vec<f64> = (0..12).map(|token| distribution.probability(token)).collect();
        let listed = sampler.probabilities(&ties, &[]).unwrap();
        for (token, found) in (0..).zip(found) {
            let expected = listed.iter().find(|(id, _)| *id == token).map_or(0.0, |(_, p)| *p);
            assert!((found - expected).abs() < 1e-15, "{params:?}, token {token}: {found}, {expected}");
        }
        assert_eq!(distribution.all(), listed);
        let (first, last) = (distribution.draw(|| 0.0), distribution.draw(|| 1.0 - f64::EPSILON));
        assert_eq!((first, last), (listed[0].0, listed[listed.len() - 1].0), "{params:?}");
    }
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

/// The distribution by its definition: the whole vocabulary is sorted.
fn naive(logits: &[f32], p: &SamplingParams) -> Vec<(u32, f64)> {
    let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().map(|x| x / p.temperature)).collect();
    all.retain(|c| c.1.is_finite());
    all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
    if let Some(&(_, kth)) = p.top_k.checked_sub(1).and_then(|last| all.get(last)) {
        all.retain(|c| c.1 >= kth);
    }
    let weight = |logit: f32| (f64::from(logit) - f64::from(all[0].1)).exp();
    let sum: f64 = all.iter().map(|c| weight(c.1)).sum();
    let (mut left, mut before) = (Vec::new(), 0.0);
    for &(id, logit) in &all {
        let weight = weight(logit);
        let in_top_p = p.top_p == 1.0 || before < f64::from(p.top_p) * sum;
        if in_top_p && weight >= f64::from(p.min_p) {
            left.push((id, weight));
        }
        before += weight;
    }
    let sum: f64 = left.iter().map(|c| c.1).sum();
    left.into_iter().map(|(id, weight)| (id, weight / sum)).collect()
}

/// Logits of a vocabulary that is larger than what is sorted at first, some of them equal: peaked, or nearly flat.
fn many_logits() -> impl Strategy<Value = Vec<f32>> {
    let spread = prop::sample::select(vec![0.0f32, 0.01, 1.0, 5.0]);
    (spread, any::<u64>(), 1usize..6000, any::<bool>()).prop_map(|(spread, seed, count, ascending)| {
        let mut rng = SplitMix64::new(seed);
        let mut logits: Vec<f32> =
            (0..count).map(|_| (rng.next_f64() * 1000.0).round() as f32 / 100.0 * spread).collect();
        if ascending {
            logits.sort_by(f32::total_cmp);
        }
        logits
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn lazy_sorting_changes_nothing(
        logits in many_logits(), temperature in 0.2f32..3.0, top_k in prop::sample::select(vec![0usize, 1, 40, 256, 257, 1000]),
        top_p in prop::sample::select(vec![0.1f32, 0.9, 0.999, 1.0]), min_p in prop::sample::select(vec![0.0f32, 1e-6, 0.05, 1.0]),
        seed in any::<u64>(),
    ) {
        let params = SamplingParams { temperature, top_k, top_p, min_p, seed, ..ALL };
        let mut sampler = Sampler::new(params).unwrap();
        let (got, expected) = (sampler.probabilities(&logits, &[]).unwrap(), naive(&logits, &params));
        // The order of a sum may decide whether the last token belongs to top-p.
        prop_assert!(got.len().abs_diff(expected.len()) <= usize::from(top_p < 1.0));
        for (g, e) in got.iter().zip(&expected) {
            prop_assert_eq!(g.0, e.0);
            prop_assert!((g.1 - e.1).abs() <= 1e-9 + e.1 * 1e-3);
        }
        let uniform = SplitMix64::new(seed).next_f64();
        let mut sum = 0.0;
        let drawn = got.iter().find(|c| { sum += c.1; sum > uniform }).unwrap_or(got.last().unwrap());
        let is_near = (sum - uniform).abs() < 1e-12 || (sum - drawn.1 - uniform).abs() < 1e-12;
        prop_assert!(is_near || sampler.sample(&logits, &[]).unwrap() == drawn.0);
    }

    #[test]
    fn the_largest_are_those_of_a_sort(values in prop::collection::vec(-20i8..20, 0..300), count in 0usize..320) {
        let logits: Vec<f32> = values.iter().map(|&x| f32::from(x)).collect();
        let mut all: Vec<(u32, f32)> = (0u32..).zip(logits.iter().copied()).collect();
        all.sort_by(|a, b| b.1.partial_cmp(&a.1).unwrap().then(a.0.cmp(&b.0)));
        all.truncate(count);
        prop_assert_eq!(top(&logits, count), all);
    }

    #[test]
    fn masks_and_biases_are_naive(
        logits in logits(), mask in prop::collection::vec(any::<u32>(), 0..3), banned in 0u32..60, temperature in 0.5f32..2.0
    ) {
        let mut sampler = Sampler::new(SamplingParams { temperature, ..ALL }).unwrap();
        let outside = banned as usize >= logits.len();
        sampler.set_logit_bias(vec![(banned, -100.0), (0, 3.5)]).unwrap();
        let got = sampler.probabilities_within(&logits, &[], Some(&mask));
        if outside {
            let refused = matches!(got, Err(ModelError::BadOption { name: "logit-bias", .. }));
            prop_assert!(refused);
            return Ok(());
        }
        let allowed = |id: usize| mask.get(id / 32).is_some_and(|word| word >> (id % 32) & 1 == 1) && id != banned as usize;
        let changed = |(id, &x): (usize, &f32)| if allowed(id) { x + if id == 0 { 3.5 } else { 0.0 } } else { f32::NEG_INFINITY };
        let changed: Vec<f32> = logits.iter().enumerate().map(changed).collect();
        match got {
            Err(error) => {
                prop_assert!(matches!(error, ModelError::NoneAllowed));
                prop_assert!(changed.iter().all(|x| *x == f32::NEG_INFINITY));
                prop_assert!(sampler.sample_within(&logits, &[], Some(&mask)).is_err());
            }
            Ok(got) => {
                let plain = Sampler::new(SamplingParams { temperature, ..ALL }).unwrap();
                prop_assert_eq!(got, plain.probabilities(&changed, &[]).unwrap());
                prop_assert!(allowed(sampler.sample_within(&logits, &[], Some(&mask)).unwrap() as usize));
            }
        }
    }
}

#[test]
fn occurrences_are_counted_after_the_prompt() {
    let logits = [1.0, 0.0, 0.0, 0.0];
    let (presence_penalty, frequency_penalty) = (0.5, 0.25);
    let mut sampler = Sampler::new(SamplingParams { presence_penalty, frequency_penalty, ..ALL }).unwrap();
    let ratio = |sampler: &Sampler, context: &[u32]| {
        let all = sampler.probabilities(&logits, context).unwrap();
        let of = |id| all.iter().find(|c| c.0 == id).unwrap().1;
        (of(0) / of(3)).ln()
    };
    assert!((ratio(&sampler, &[0, 0]) - 1.0).abs() < 1e-6, "nothing is generated yet");
    sampler.sample(&logits, &[0, 0]).unwrap();
    assert!((ratio(&sampler, &[0, 0]) - 1.0).abs() < 1e-6);
    assert!((ratio(&sampler, &[0, 0, 0, 1, 0]) - 0.0).abs() < 1e-6, "1 - 0.5 - 2 x 0.25");
    sampler.set_prompt_length(4);
    assert!((ratio(&sampler, &[0, 0, 0, 1, 0]) - 0.25).abs() < 1e-6);
    sampler.set_prompt_length(9);
    assert!((ratio(&sampler, &[0, 0, 0, 1, 0]) - 1.0).abs() < 1e-6);
    let bad = SamplingParams { presence_penalty: 2.5, ..ALL };
    assert!(matches!(Sampler::new(bad), Err(ModelError::BadOption { name: "presence-penalty", .. })));
    for bias in [100.5, f32::NAN] {
        assert!(matches!(sampler.set_logit_bias(vec![(0, bias)]), Err(ModelError::BadOption { .. })));
    }
}

#[test]
fn a_bias_forces_a_token() {
    let mut sampler = Sampler::new(SamplingParams { temperature: 2.0, ..ALL }).unwrap();
    sampler.set_logit_bias(vec![(2, 100.0)]).unwrap();
    assert!((0..100).all(|_| sampler.sample(&[5.0, -3.0, -9.0], &[]).unwrap() == 2));
    sampler.set_logit_bias(vec![(0, -100.0)]).unwrap();
    assert!(matches!(sampler.sample(&[5.0], &[]), Err(ModelError::NoneAllowed)));
    let mut masked = Sampler::new(SamplingParams::default()).unwrap();
    assert_eq!(masked.sample_within(&[5.0, 3.0, 4.0], &[], Some(&[0b110])).unwrap(), 2);
}
