//! Texts that a coarser layer drafts: they are those of the model alone.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Mutex;

use impasto_model::cache::KvStorage;
use impasto_model::sampling::{Sampler, SamplingParams};
use impasto_model::speculation::{DraftLength, DraftModel, Speculator};
use impasto_model::{CausalLm, Hidden, KvCache, ModelError, Result, Session, Want};
use impasto_runtime::{Drafting, GenerateOptions, Generation, Model, RunOptions, StopReason, Stream};

use crate::nested::{nested, nested_with, options};

const PROMPT: &str = "Once upon a time, there was a little girl named";
const LENGTHS: [DraftLength; 3] = [DraftLength::Fixed(1), DraftLength::Fixed(5), DraftLength::Adaptive(8)];

fn stream<'m>(
    model: &'m Model,
    options: &GenerateOptions,
    how: Option<(Drafting, DraftLength)>,
) -> Stream<'m, &'m dyn CausalLm> {
    let prompt = model.tokenizer().expect("a tokenizer").encode(PROMPT, true).expect("tokens");
    let stream = model.stream(&prompt, options).expect("a stream");
    let Some((drafting, length)) = how else { return stream };
    let speculator = model.speculator(drafting, length, 3).expect("layers").expect("drafts");
    stream.with_speculator(speculator)
}

fn text(model: &Model, options: &GenerateOptions, how: Option<(Drafting, DraftLength)>) -> Generation {
    let mut stream = stream(model, options, how);
    for piece in &mut stream {
        piece.expect("text");
    }
    assert!(stream.session().remaining() > 0 || stream.stop().is_some());
    stream.finish()
}

fn tokens(max_tokens: usize) -> GenerateOptions {
    GenerateOptions { max_tokens, ..GenerateOptions::default() }
}

/// Ways to draft with this many coarser layers.
fn ways(coarser: usize) -> Vec<(Drafting, DraftLength)> {
    let layers = (0..coarser).map(Drafting::Layer);
    let all = layers.chain([Drafting::Auto, Drafting::Lookup]);
    all.flat_map(|drafting| LENGTHS.map(|length| (drafting, length))).collect()
}

fn same(found: &Generation, expected: &Generation, what: &str) {
    assert_eq!((&found.text, &found.tokens, &found.stop), (&expected.text, &expected.tokens, &expected.stop), "{what}");
}

#[test]
fn greedy_texts_are_those_of_the_model_alone() {
    // The finest layer is packed, or floats.
    for layers in [&[1, 2, 3][..], &[1, 2, 4]] {
        let model = nested(layers);
        let alone = text(&model, &tokens(90), None);
        assert!(alone.speculation.is_none());
        for (drafting, length) in ways(2) {
            let what = format!("{layers:?} {drafting:?} {length:?}");
            let found = text(&model, &tokens(90), Some((drafting, length)));
            same(&found, &alone, &what);
            let counts = found.speculation.expect("counts");
            assert_eq!(counts.tokens, 90, "{what}");
            if matches!((drafting, length), (Drafting::Layer(1), DraftLength::Fixed(5))) {
                assert!(counts.acceptance() > 0.5 && counts.tokens_per_pass() > 2.0, "{what}: {counts:?}");
            }
        }
    }
}

#[test]
fn texts_end_where_they_would_alone() {
    let model = nested(&[2, 3]);
    let long = text(&model, &tokens(60), None);
    let drafts = (Drafting::Layer(0), DraftLength::Fixed(6));
    // At tokens that drafts run past, and in the middle of them.
    for at in [7, 20, 33] {
        let eos = GenerateOptions { eos: vec![long.tokens[at]], ..tokens(60) };
        let alone = text(&model, &eos, None);
        assert!(matches!(alone.stop, StopReason::Eos(_)));
        same(&text(&model, &eos, Some(drafts)), &alone, "eos");
    }
    let (middle, _) = long.text.char_indices().nth(long.text.chars().count() / 2).expect("text");
    let stop: String = long.text[middle..].chars().take(5).collect();
    let stop = GenerateOptions { stop: vec![stop], ..tokens(60) };
    let alone = text(&model, &stop, None);
    assert!(matches!(alone.stop, StopReason::StopString(_)));
    same(&text(&model, &stop, Some(drafts)), &alone, "a stop string");
    for most in [1, 2, 13] {
        same(&text(&model, &tokens(most), Some(drafts)), &text(&model, &tokens(most), None), "a limit");
    }
    let short = nested_with(&[2, 3], &RunOptions { max_context: Some(40), ..options() });
    let alone = text(&short, &tokens(60), None);
    assert_eq!(alone.stop, StopReason::ContextFull);
    for how in ways(1) {
        same(&text(&short, &tokens(60), Some(how)), &alone, "a full context");
    }
}

#[test]
fn a_text_that_is_cancelled_leaves_what_was_read() {
    let model = nested(&[2, 3]);
    let alone = text(&model, &tokens(60), None);
    let prompt = model.tokenizer().expect("a tokenizer").encode(PROMPT, true).expect("tokens");
    let mut session = Session::new(model.network(), SamplingParams::default()).expect("a session");
    session.extend(&prompt).expect("a prompt");
    let mut speculator =
        model.speculator(Drafting::Layer(0), DraftLength::Fixed(7), 0).expect("layers").expect("drafts");
    let mut stream = Stream::new(&mut session, model.tokenizer().expect("a tokenizer"), &tokens(60))
        .expect("a stream")
        .with_speculator(&mut speculator);
    for _ in 0..9 {
        stream.next().expect("text").expect("text");
    }
    stream.cancel();
    assert!(stream.next().is_none());
    let generation = stream.finish();
    assert_eq!(generation.stop, StopReason::Cancelled);
    assert!(alone.text.starts_with(&generation.text) && alone.tokens.starts_with(&generation.tokens));
    assert_eq!(session.tokens(), [&prompt[..], &generation.tokens].concat());
    // The session goes on where the text was left.
    let rest = 60 - generation.tokens.len();
    (0..rest).for_each(|_| drop(session.step().expect("a token")));
    assert_eq!(session.tokens()[prompt.len()..], alone.tokens);
}

#[test]
fn sequences_are_drafted_together() {
    let model = nested(&[2, 3]);
    let network = model.network();
    let prompts: [&[u32]; 3] = [&[1, 5, 9], &[7, 300, 2, 44, 800, 1], &[11]];
    let alone = prompts.map(|prompt| {
        let mut session = Session::new(network, SamplingParams::default()).expect("a session");
        session.extend(prompt).expect("a prompt");
        (0..24).for_each(|_| drop(session.step().expect("a token")));
        session.tokens().to_vec()
    });
    let mut speculator =
        model.speculator(Drafting::Layer(0), DraftLength::Fixed(3), 0).expect("layers").expect("drafts");
    let mut sessions = prompts.map(|prompt| {
        let mut session = Session::new(network, SamplingParams::default()).expect("a session");
        session.extend(prompt).expect("a prompt");
        session
    });
    loop {
        let left = |index: usize, session: &Session<_>| prompts[index].len() + 24 - session.tokens().len();
        let most: Vec<usize> = (0..3).map(|index| left(index, &sessions[index])).collect();
        let mut open: Vec<&mut Session<_>> =
            sessions.iter_mut().zip(&most).filter(|(_, most)| **most > 0).map(|(session, _)| session).collect();
        if open.is_empty() {
            break;
        }
        let most: Vec<usize> = most.into_iter().filter(|most| *most > 0).collect();
        speculator.step_many(&mut open, &most).expect("tokens");
    }
    for (session, alone) in sessions.iter().zip(&alone) {
        assert_eq!(session.tokens(), alone);
    }
    assert!(speculator.counts().kept > 0);
}

#[test]
fn a_layer_that_is_not_there_is_refused() {
    let model = nested(&[1, 3]);
    for layer in [1, 2] {
        let refused = model.speculator(Drafting::Layer(layer), DraftLength::Fixed(3), 0).err();
        assert!(matches!(refused, Some(ModelError::NoLayer { layers: 1, .. })), "{refused:?}");
    }
    assert!(model.speculator(Drafting::None, DraftLength::Fixed(3), 0).expect("nothing").is_none());
}

/// A model that remembers the logits after each sequence of tokens.
struct Memo<'m> {
    model: &'m dyn CausalLm,
    known: Mutex<HashMap<Vec<u32>, Vec<f32>>>,
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

impl<'m> Memo<'m> {
    fn new(model: &'m dyn CausalLm) -> Self {
        Memo { model, known: Mutex::default() }
    }

    fn after(&self, tokens: &[u32]) -> Result<Vec<f32>> {
        let mut known = self.known.lock().expect("no panic");
        if let Some(logits) = known.get(tokens) {
            return Ok(logits.clone());
        }
        let logits = self.model.forward(&mut self.model.new_cache(0)?, tokens, Want::LastOnly)?;
        known.insert(tokens.to_vec(), logits.clone());
        Ok(logits)
    }
}

impl CausalLm for Memo<'_> {
    fn vocab_size(&self) -> usize {
        self.model.vocab_size()
    }

    fn max_context(&self) -> usize {
        self.model.max_context()
    }

    fn new_cache(&self, _: usize) -> Result<KvCache> {
        Ok(KvCache::of(Box::new(Nothing)))
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        let past = cache.len();
        cache.advance(tokens, past + tokens.len());
        let rows = (want.first(tokens.len())..tokens.len()).map(|i| self.after(&cache.tokens()[..past + i + 1]));
        Ok(Hidden::new(rows.collect::<Result<Vec<_>>>()?.concat(), self.vocab_size()))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        Ok(hidden.slice(rows)?.to_vec())
    }
}

/// Two tokens after a prompt, drawn 100 000 times with drafts of the coarsest layer, have the probabilities of the finest.
#[test]
fn sampled_texts_have_the_distribution_of_the_model() {
    const DRAWS: usize = 100_000;
    const PROMPT: [u32; 4] = [5, 17, 300, 2];
    let model = nested(&[1, 3]);
    let base = model.runtime().expect("a runtime").at(0).expect("a layer");
    let (target, draft) = (Memo::new(model.network()), Memo::new(&base));
    let params = SamplingParams { temperature: 1.3, top_k: 6, seed: 1, ..SamplingParams::default() };
    let sampler = Sampler::new(params).expect("parameters");
    let next = |tokens: &[u32]| sampler.probabilities(&target.after(tokens).expect("logits"), tokens).expect("numbers");
    let mut expected = HashMap::new();
    for (a, of_a) in next(&PROMPT) {
        for (b, of_b) in next(&[&PROMPT[..], &[a]].concat()) {
            expected.insert((a, b), of_a * of_b * DRAWS as f64);
        }
    }
    let mut speculator = Speculator::new(vec![Box::new(DraftModel::new(&draft))], DraftLength::Fixed(1), 7);
    let mut session = Session::new(&target, params).expect("a session");
    session.extend(&PROMPT).expect("a prompt");
    session.evaluate(PROMPT.len() - 1).expect("a pass");
    let mut found: HashMap<(u32, u32), f64> = HashMap::new();
    for _ in 0..DRAWS {
        session.truncate(PROMPT.len());
        while session.tokens().len() < PROMPT.len() + 2 {
            let left = PROMPT.len() + 2 - session.tokens().len();
            speculator.step(&mut session, left).expect("tokens");
        }
        let &[a, b] = &session.tokens()[PROMPT.len()..] else { panic!("two tokens") };
        *found.entry((a, b)).or_default() += 1.0;
    }
    let counts = speculator.counts();
    assert!(counts.judged > DRAWS / 2 && counts.acceptance() < 0.95, "{counts:?}");
    assert!(found.keys().all(|outcome| expected.contains_key(outcome)), "nothing impossible is drawn");
    let (mut chi, mut outcomes) = (0.0, 0.0f64);
    for (outcome, &expected) in expected.iter().filter(|(_, expected)| **expected >= 5.0) {
        chi += (found.get(outcome).copied().unwrap_or(0.0) - expected).powi(2) / expected;
        outcomes += 1.0;
    }
    // Exceeded with a probability of about 10^-4 (Wilson and Hilferty, 1931). Few outcomes are rarer than 5.
    let spread = 2.0 / (9.0 * (outcomes - 1.0));
    let bound = (outcomes - 1.0) * (1.0 - spread + 3.72 * spread.sqrt()).powi(3);
    assert!(outcomes > 20.0 && chi < bound, "{chi}, bound {bound} of {outcomes} outcomes");
}
