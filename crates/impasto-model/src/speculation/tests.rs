//! Speculation with models whose logits are a function of the tokens.

use std::ops::Range;

use impasto_core::rng::SplitMix64;

use super::*;
use crate::cache::KvStorage;
use crate::sampling::SamplingParams;
use crate::{Hidden, ModelError, Want};

const VOCAB: usize = 5;

/// A model with logits from a hash of all tokens; `noise` is how far they are from those of the model without.
struct Toy {
    noise: f64,
    context: usize,
    /// Fails from this number of tokens on.
    fails: usize,
}

struct Nothing;

impl KvStorage for Nothing {
    fn reserve(&mut self, _: usize) -> Result<()> {
        Ok(())
    }

    fn advance(&mut self, _: usize) {}

    fn truncate(&mut self, _: usize) {}

    fn memory_bytes(&self) -> usize {
        0
    }

    fn fork(&self) -> Result<Box<dyn KvStorage>> {
        Ok(Box::new(Nothing))
    }
}

impl Toy {
    fn new(noise: f64) -> Toy {
        Toy { noise, context: 64, fails: usize::MAX }
    }

    /// The logits after some tokens. Only the last three count.
    fn row(&self, tokens: &[u32]) -> Vec<f32> {
        let last = &tokens[tokens.len().saturating_sub(3)..];
        let seed = last.iter().fold(7, |seed: u64, &token| seed.wrapping_mul(31).wrapping_add(token.into()));
        let (mut own, mut noise) = (SplitMix64::new(seed), SplitMix64::new(seed ^ 0xABCD));
        (0..VOCAB).map(|_| (own.next_f64() * 4.0 + noise.next_f64() * self.noise) as f32).collect()
    }
}

impl CausalLm for Toy {
    fn vocab_size(&self) -> usize {
        VOCAB
    }

    fn max_context(&self) -> usize {
        self.context
    }

    fn new_cache(&self, _: usize) -> Result<KvCache> {
        Ok(KvCache::of(Box::new(Nothing)))
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        crate::check_tokens(tokens, VOCAB, cache.len(), self.context)?;
        if cache.len() + tokens.len() > self.fails {
            return Err(ModelError::NoInputs);
        }
        let past = cache.len();
        cache.advance(tokens, past + tokens.len());
        let rows = (want.first(tokens.len())..tokens.len()).flat_map(|i| self.row(&cache.tokens()[..past + i + 1]));
        Ok(Hidden::new(rows.collect(), VOCAB))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        Ok(hidden.slice(rows)?.to_vec())
    }
}

fn sampling(temperature: f32, seed: u64) -> SamplingParams {
    SamplingParams { temperature, seed, ..SamplingParams::default() }
}

fn session<'m>(model: &'m Toy, tokens: &[u32], sampling: SamplingParams) -> Session<&'m Toy> {
    let mut session = Session::new(model, sampling).unwrap();
    session.extend(tokens).unwrap();
    session
}

/// Proposers of each kind: a model, earlier text, both.
fn speculators(draft: &Toy, length: DraftLength, seed: u64) -> Vec<Speculator<'_>> {
    let lookup = || Box::new(Lookup::default()) as Box<dyn Proposer>;
    let model = || Box::new(DraftModel::new(draft)) as Box<dyn Proposer + '_>;
    [vec![model()], vec![lookup()], vec![lookup(), model()]]
        .into_iter()
        .map(|proposers| Speculator::new(proposers, length, seed))
        .collect()
}

const LENGTHS: [DraftLength; 4] =
    [DraftLength::Fixed(1), DraftLength::Fixed(4), DraftLength::Fixed(9), DraftLength::Adaptive(5)];

#[test]
fn greedy_tokens_are_those_of_the_model() {
    let model = Toy::new(0.0);
    for (penalty, noise) in [(1.0, 0.0), (1.0, 1.0), (1.3, 2.0), (1.0, 100.0)] {
        let params = SamplingParams { repetition_penalty: penalty, ..SamplingParams::default() };
        let mut alone = session(&model, &[1, 2], params);
        // One more token than the context has.
        (0..63).for_each(|_| drop(alone.step().unwrap()));
        let draft = Toy::new(noise);
        for mut speculator in LENGTHS.into_iter().flat_map(|length| speculators(&draft, length, 5)) {
            let mut session = session(&model, &[1, 2], params);
            session.report_logprobs(Some(2));
            let mut steps = Vec::new();
            while session.remaining() > 0 {
                let most = session.remaining();
                let new = speculator.step(&mut session, most).unwrap();
                assert!(!new.is_empty() && new.iter().all(|step| step.top.len() == 2 && step.logprob.is_some()));
                steps.extend(new.into_iter().map(|step| step.token));
                assert_eq!(&session.tokens()[2..], steps);
                assert!(session.pending() <= 1, "everything but the last token is evaluated");
            }
            assert_eq!(session.tokens(), alone.tokens());
            assert!(matches!(speculator.step(&mut session, 3), Err(ModelError::ContextOverflow { .. })));
            let counts = speculator.counts();
            assert!(counts.tokens == 63 && counts.kept <= counts.judged && counts.judged <= counts.proposed);
            assert_eq!(counts.of_passes, counts.kept + counts.passes);
            if noise == 0.0 && counts.passes > 0 && counts.judged > 20 {
                assert!(counts.acceptance() > 0.4 && counts.tokens_per_pass() > 1.0, "{counts:?}");
            }
        }
    }
}

#[test]
fn no_more_tokens_are_drawn_than_asked() {
    let (model, draft) = (Toy::new(0.0), Toy::new(0.0));
    let mut speculator = Speculator::new(vec![Box::new(DraftModel::new(&draft))], DraftLength::Fixed(6), 0);
    let mut session = session(&model, &[1, 2], sampling(0.0, 0));
    session.step().unwrap();
    for most in [1, 2, 3, 7, 9] {
        assert_eq!(speculator.step(&mut session, most).unwrap().len(), most.min(7));
    }
}

#[test]
fn sequences_together_are_the_same_as_alone() {
    let (model, draft) = (Toy::new(0.0), Toy::new(1.0));
    let prompts: [&[u32]; 3] = [&[1], &[2, 3, 4, 0, 1], &[4, 4]];
    let alone = prompts.map(|prompt| {
        let mut session = session(&model, prompt, sampling(0.0, 0));
        (0..30).for_each(|_| drop(session.step().unwrap()));
        session.tokens().to_vec()
    });
    for mut speculator in LENGTHS.into_iter().flat_map(|length| speculators(&draft, length, 1)) {
        let mut sessions = prompts.map(|prompt| session(&model, prompt, sampling(0.0, 0)));
        let lengths = [31, 35, 32];
        loop {
            let mut open: Vec<(&mut Session<&Toy>, usize)> = sessions
                .iter_mut()
                .zip(lengths)
                .filter(|(session, length)| session.tokens().len() < *length)
                .map(|(session, length)| {
                    let left = length - session.tokens().len();
                    (session, left)
                })
                .collect();
            if open.is_empty() {
                break;
            }
            let most: Vec<usize> = open.iter().map(|(_, most)| *most).collect();
            let mut open: Vec<&mut Session<&Toy>> = open.iter_mut().map(|(session, _)| &mut **session).collect();
            let steps = speculator.step_many(&mut open, &most).unwrap();
            assert!(steps.iter().zip(&most).all(|(steps, &most)| (1..=most).contains(&steps.len())));
        }
        assert!(sessions.iter().zip(&alone).all(|(session, alone)| session.tokens() == alone));
    }
}

/// The sum of (found - expected)^2 / expected over all outcomes of which at least 5 are expected, and their number - 1;
/// the others together are one outcome.
fn chi_square(found: &[usize], expected: &[f64]) -> (f64, f64) {
    let (mut sum, mut outcomes, mut rare) = (0.0, 0, (0.0, 0.0));
    for (&found, &expected) in found.iter().zip(expected) {
        if expected >= 5.0 {
            sum += (found as f64 - expected).powi(2) / expected;
            outcomes += 1;
        } else {
            rare = (rare.0 + found as f64, rare.1 + expected);
        }
    }
    if rare.1 >= 5.0 {
        (sum, outcomes) = (sum + (rare.0 - rare.1).powi(2) / rare.1, outcomes + 1);
    }
    (sum, f64::from(outcomes - 1))
}

/// An upper bound of chi square that is exceeded with a probability of about 10^-4 (Wilson and Hilferty, 1931).
fn bound(freedom: f64) -> f64 {
    let spread = 2.0 / (9.0 * freedom);
    freedom * (1.0 - spread + 3.72 * spread.sqrt()).powi(3)
}

#[test]
fn sampled_tokens_have_the_distribution_of_the_model() {
    const DRAWS: usize = 100_000;
    let model = Toy::new(0.0);
    let params = [sampling(0.8, 0), SamplingParams { top_k: 3, repetition_penalty: 1.2, ..sampling(1.5, 0) }];
    for (index, (params, noise)) in params.into_iter().flat_map(|p| [(p, 0.5), (p, 6.0)]).enumerate() {
        // The probability of each three tokens after the prompt.
        let sampler = Sampler::new(params).unwrap();
        let prompt = [0, 3, 1];
        let mut expected = vec![0.0; VOCAB.pow(3)];
        let next = |tokens: &[u32]| sampler.probabilities(&model.row(tokens), tokens).unwrap();
        for (a, of_a) in next(&prompt) {
            for (b, of_b) in next(&[&prompt[..], &[a]].concat()) {
                for (c, of_c) in next(&[&prompt[..], &[a, b]].concat()) {
                    let outcome = (a as usize * VOCAB + b as usize) * VOCAB + c as usize;
                    expected[outcome] = of_a * of_b * of_c * DRAWS as f64;
                }
            }
        }
        let draft = Toy::new(noise);
        for (kind, mut speculator) in speculators(&draft, DraftLength::Fixed(2), 11).into_iter().enumerate() {
            let mut found = vec![0; VOCAB.pow(3)];
            let mut session = session(&model, &prompt, SamplingParams { seed: 1, ..params });
            for _ in 0..DRAWS {
                session.truncate(3);
                while session.tokens().len() < 6 {
                    let left = 6 - session.tokens().len();
                    speculator.step(&mut session, left).unwrap();
                }
                let new = &session.tokens()[3..];
                found[new.iter().fold(0, |outcome, &token| outcome * VOCAB + token as usize)] += 1;
            }
            let (chi, freedom) = chi_square(&found, &expected);
            assert!(chi < bound(freedom), "case {index}, speculator {kind}: {chi} with {freedom} degrees of freedom");
            // The test would notice the distribution of the draft.
            if index == 1 && kind == 0 {
                let counts = speculator.counts();
                assert!(counts.acceptance() < 0.9 && counts.proposed > DRAWS, "{counts:?}");
                let other: Vec<usize> = expected.iter().rev().map(|e| *e as usize).collect();
                assert!(chi_square(&other, &expected).0 > bound(freedom));
            }
        }
    }
}

#[test]
fn errors_leave_the_tokens_as_they_were() {
    let draft = Toy::new(0.0);
    let mut speculator = Speculator::new(vec![Box::new(DraftModel::new(&draft))], DraftLength::Fixed(4), 0);
    let model = Toy { fails: 8, ..Toy::new(0.0) };
    let mut session = session(&model, &[1, 2], sampling(0.0, 0));
    session.step().unwrap();
    speculator.step(&mut session, 9).unwrap();
    let before = session.tokens().to_vec();
    assert!(matches!(speculator.step(&mut session, 9), Err(ModelError::NoInputs)));
    assert_eq!(session.tokens(), before);
    let mut empty = Session::new(&model, sampling(0.0, 0)).unwrap();
    assert!(matches!(speculator.step(&mut empty, 4), Err(ModelError::EmptyPrompt)));
    let other = Toy::new(0.0);
    let (mut a, mut b) = (
        super::tests::session(&model, &[1], sampling(0.0, 0)),
        super::tests::session(&other, &[2, 3], sampling(0.0, 0)),
    );
    let refused = Session::verify_many(&mut [&mut a, &mut b], &[&[1], &[2]]);
    assert!(matches!(refused, Err(ModelError::ForeignCache)));
    assert_eq!((a.tokens(), b.tokens()), (&[1][..], &[2, 3][..]));
}
