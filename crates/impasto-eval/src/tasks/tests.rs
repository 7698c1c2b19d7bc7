use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::*;
use crate::EvalError;
use impasto_model::{CausalLm, Hidden, KvCache, ModelError, Result, Want};
use impasto_text::Tokenizer;

/// Words separated by spaces; a word outside the vocabulary is token 0.
const WORDS: &str = r#"{
    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
    "pre_tokenizer": {"type": "WhitespaceSplit"}, "post_processor": null, "decoder": null,
    "model": {"type": "WordLevel", "vocab": {"?": 0, "red": 1, "blue": 2, "sky": 3}, "unk_token": "?"}
}"#;

fn words() -> Tokenizer {
    Tokenizer::from_json(WORDS.as_bytes()).unwrap()
}

/// The same distribution at every position.
struct Unigram([f32; 4]);

impl CausalLm for Unigram {
    fn vocab_size(&self) -> usize {
        4
    }

    fn max_context(&self) -> usize {
        64
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        KvCache::new(0, 0, tokens)
    }

    fn hidden(&self, _: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        Ok(Hidden::new(vec![0.0; tokens.len() - want.first(tokens.len())], 1))
    }

    fn logits(&self, _: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        Ok(rows.flat_map(|_| self.0.map(f32::ln)).collect())
    }
}

/// Logits that depend on every earlier token, so that a wrongly truncated cache is noticed. Counts the tokens it runs.
#[derive(Default)]
struct Memory {
    ran: AtomicUsize,
}

impl Memory {
    fn logit(state: f32, token: usize) -> f32 {
        ((state as usize * (token + 3)) % 11) as f32 / 3.0
    }
}

impl CausalLm for Memory {
    fn vocab_size(&self) -> usize {
        4
    }

    fn max_context(&self) -> usize {
        12
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        KvCache::new(0, 0, tokens)
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        impasto_model::check_tokens(tokens, 4, cache.len(), self.max_context())?;
        self.ran.fetch_add(tokens.len(), Ordering::Relaxed);
        let next = |state: &mut u32, &token: &u32| {
            *state = (*state * 31 + token + 1) % 97;
            Some(*state as f32)
        };
        let all: Vec<f32> = cache.tokens().iter().chain(tokens).scan(0, next).collect();
        let first = cache.len() + want.first(tokens.len());
        cache.advance(tokens, all.len());
        Ok(Hidden::new(all[first..].to_vec(), 1))
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        Ok(hidden.slice(rows)?.iter().flat_map(|&state| (0..4).map(move |token| Self::logit(state, token))).collect())
    }
}

fn item(choices: &[&str], gold: usize) -> Item {
    let choices = choices.iter().map(|&c| c.to_owned()).collect();
    Item { query: "Question: which of these?".into(), choices, gold, line: 7 }
}

fn task(items: Vec<Item>) -> Task {
    Task { name: "toy".into(), file: "toy.jsonl".into(), items }
}

fn estimate(value: f64, error: f64) -> impl Fn(Estimate) -> bool {
    move |e| (e.value - value).abs() < 1e-12 && (e.error - error).abs() < 1e-12
}

#[test]
fn accuracies_and_paired_differences_by_hand() {
    let tokenizer = words();
    let (model, reference) = (Unigram([0.125, 0.5, 0.25, 0.125]), Unigram([0.125, 0.125, 0.5, 0.25]));
    let task = task(vec![
        // The reference prefers blue in both ways.
        item(&["red", "blue"], 0),
        // 1/8 against 1/2, but over 13 letters against 3. They are equal for the reference, so it takes the first.
        item(&["extraordinary", "red"], 0),
        // Of equal choices, the first.
        item(&["red", "red"], 1),
        // ln(1/8) over 4 letters (and not 8 bytes) against ln(1/4) over 4.
        item(&["éééé", "blue"], 1),
    ]);
    let (model, reference) =
        (Subject::new(&model, &tokenizer, &[]).unwrap(), Subject::new(&reference, &tokenizer, &[]).unwrap());
    let mut seen = Vec::new();
    let report = evaluate(&model, Some(&reference), &task, &mut |p| seen.push((p.done, p.items, p.acc))).unwrap();
    assert_eq!(seen, [(1, 4, 1.0), (2, 4, 0.5), (3, 4, 1.0 / 3.0), (4, 4, 0.5)]);
    assert_eq!((report.task.as_str(), report.items), ("toy", 4));

    let half = estimate(0.5, (1.0f64 / 3.0 / 4.0).sqrt());
    let three_quarters = estimate(0.75, 0.25);
    assert!(half(report.model.acc) && three_quarters(report.model.acc_norm), "{report:?}");
    let compared = report.comparison.unwrap();
    assert!(half(compared.reference.acc) && half(compared.reference.acc_norm), "{report:?}");
    // The differences are 1, -1, 0, 0 and 1, 0, 0, 0.
    assert!(estimate(0.0, (2.0f64 / 3.0 / 4.0).sqrt())(compared.difference.acc), "{report:?}");
    assert!(estimate(0.25, 0.25)(compared.difference.acc_norm), "{report:?}");
    assert!(half(compared.same.acc) && three_quarters(compared.same.acc_norm), "{report:?}");

    let alone = evaluate(&model, None, &task, &mut |_| ()).unwrap();
    assert_eq!((alone.model, alone.comparison), (report.model, None));
    let json = serde_json::to_value(&report).unwrap();
    assert_eq!(json["comparison"]["same"]["acc"]["value"], 0.5);
}

#[test]
fn likelihoods_with_a_shared_question_are_the_naive_ones() {
    let tokenizer = words();
    let model = Memory::default();
    let subject = Subject::new(&model, &tokenizer, &[]).unwrap();
    let item = item(&["red blue sky", "blue", "what else red"], 0);
    let found = subject.log_likelihoods(&item).unwrap();
    // Five words of the question. Each choice runs the last of them again, and all of its own words but the last.
    assert_eq!(model.ran.load(Ordering::Relaxed), 4 + 3 + 1 + 3);

    let context = tokenizer.encode("Question: which of these?\nAnswer:", false).unwrap();
    assert_eq!(context.len(), 5);
    for (choice, &found) in item.choices.iter().zip(&found) {
        let own = tokenizer.encode(choice, false).unwrap();
        let mut tokens = context.clone();
        let mut naive = 0.0;
        for token in own {
            let state = tokens.iter().fold(0, |state, t| (state * 31 + t + 1) % 97) as f32;
            let logits: Vec<f64> = (0..4).map(|t| f64::from(Memory::logit(state, t))).collect();
            naive += logits[token as usize] - logits.iter().map(|x| x.exp()).sum::<f64>().ln();
            tokens.push(token);
        }
        assert!((found - naive).abs() < 1e-12, "{choice}: {found} {naive}");
    }
}

#[test]
fn what_cannot_be_scored_names_its_line() {
    let tokenizer = words();
    let fails = |model: &dyn CausalLm, choices: &[&str]| {
        let subject = Subject::new(model, &tokenizer, &[]).unwrap();
        evaluate(&subject, None, &task(vec![item(choices, 0)]), &mut |_| ()).unwrap_err()
    };
    let long = ["red".repeat(9).replace("red", "red "), "blue".into()];
    let error = fails(&Memory::default(), &[&long[0], &long[1]]);
    assert_eq!(error.to_string(), "toy.jsonl, line 7: 13 tokens do not fit in a context of 12");
    let error = fails(&Unigram([f32::NAN; 4]), &["red", "blue"]);
    assert!(matches!(error, TaskError::Model { source: EvalError::Model(ModelError::NonFinite(_)), .. }), "{error}");
    // A word with probability 0 is not an error.
    let sure = Unigram([0.0, 1.0, 0.0, 0.0]);
    let subject = Subject::new(&sure, &tokenizer, &[]).unwrap();
    assert_eq!(subject.log_likelihoods(&item(&["sky", "red"], 0)).unwrap(), [f64::NEG_INFINITY, 0.0]);
}
