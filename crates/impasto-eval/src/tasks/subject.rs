//! A model under test.

use impasto_model::{CausalLm, KvCache, ModelError, Want};
use impasto_text::{TextError, Tokenizer};

use super::Item;
use crate::logsoftmax::{log_sum_exp, nll};
use crate::{Result, chunk, prefix};

/// A model under test, with its tokenizer.
pub struct Subject<'a> {
    network: &'a dyn CausalLm,
    tokenizer: &'a Tokenizer,
    /// Tokens before every text.
    prefix: Vec<u32>,
    /// The token before a continuation whose context has no tokens.
    eos: Option<u32>,
}

/// Tokens of a question and of its choices. None of the lists is empty.
#[derive(Debug, PartialEq, Eq)]
struct Tokens {
    context: Vec<u32>,
    choices: Vec<Vec<u32>>,
}

impl<'a> Subject<'a> {
    /// Creates a subject from `network` and its `tokenizer`; `eos` is its end-of-sequence tokens.
    ///
    /// # Errors
    /// Those of [`Tokenizer::encode`].
    pub fn new(network: &'a dyn CausalLm, tokenizer: &'a Tokenizer, eos: &[u32]) -> Result<Self, TextError> {
        Ok(Self { network, tokenizer, prefix: prefix(tokenizer)?, eos: eos.first().copied() })
    }

    /// Returns ln p of each choice after the question, in nats, summed over the choice's tokens.
    ///
    /// The question is the item's query, a line break and `Answer:`; a space precedes each choice. The question runs
    /// once, with the first choice; the other choices reuse its keys and values.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] for a choice that adds no token, [`ModelError::ContextOverflow`] for an item longer
    /// than the model's context, and other errors of the model.
    pub fn log_likelihoods(&self, item: &Item) -> Result<Vec<f64>> {
        let choices: Vec<String> = item.choices.iter().map(|choice| format!(" {choice}")).collect();
        let tokens = self.tokens(&format!("{}\nAnswer:", item.query), &choices)?;
        let longest = tokens.choices.iter().map(Vec::len).max().unwrap_or(0);
        let mut cache = self.network.new_cache(tokens.context.len() + longest)?;
        tokens.choices.iter().map(|choice| self.log_likelihood(&mut cache, &tokens.context, choice)).collect()
    }

    /// Tokenizes a context and its continuations, as `_encode_pair` of lm-evaluation-harness does: trailing whitespace
    /// of the context belongs to the continuation, and the tokens of the continuation are those of the whole text,
    /// without as many as the context alone has. So they are what the model would read, even if a token spans the
    /// boundary.
    fn tokens(&self, context: &str, continuations: &[String]) -> Result<Tokens> {
        let kept = self.tokenizer.encode(context.trim_end(), false)?;
        let own = |(index, continuation): (usize, &String)| {
            let whole = self.tokenizer.encode(&format!("{context}{continuation}"), false)?;
            match whole.get(kept.len()..) {
                Some(own) if !own.is_empty() => Ok(own.to_vec()),
                _ => Err(TextError::Tokenizer(format!("choice {index} adds no token to its question")).into()),
            }
        };
        let choices = continuations.iter().enumerate().map(own).collect::<Result<_>>()?;
        let mut context = [self.prefix.as_slice(), &kept].concat();
        if context.is_empty() {
            context.push(self.eos.ok_or(ModelError::EmptyPrompt)?);
        }
        Ok(Tokens { context, choices })
    }

    /// Returns ln p of `continuation` after `context`. The cache may already have all tokens of the context but the
    /// last.
    fn log_likelihood(&self, cache: &mut KvCache, context: &[u32], continuation: &[u32]) -> Result<f64> {
        // The last token of the context runs with every continuation, as its logits predict the first token. The last
        // token of the continuation is only a target.
        let seam = context.len() - 1;
        cache.truncate(seam);
        let inputs = [&context[cache.len()..], &continuation[..continuation.len() - 1]].concat();
        let hidden = self.network.hidden(cache, &inputs, Want::From(inputs.len() - continuation.len()))?;
        let vocab = self.network.vocab_size();
        let (mut sum, mut row) = (0.0, 0);
        for targets in continuation.chunks(chunk(vocab)) {
            let logits = self.network.logits(&hidden, row..row + targets.len())?;
            row += targets.len();
            for (logits, &target) in logits.chunks_exact(vocab).zip(targets) {
                sum -= nll(logits, target, log_sum_exp(logits)?)?;
            }
        }
        Ok(sum)
    }
}

#[cfg(test)]
mod tests {
    use impasto_model::{Hidden, Result as ModelResult};

    use super::*;
    use crate::EvalError;

    /// A BPE vocabulary of `ab`, ` b`, and the letters used here.
    const PAIRS: &str = r#"{
        "version": "1.0", "truncation": null, "padding": null, "added_tokens": [], "normalizer": null,
        "pre_tokenizer": null, "post_processor": null, "decoder": null,
        "model": {
            "type": "BPE", "dropout": null, "unk_token": null, "continuing_subword_prefix": null,
            "end_of_word_suffix": null, "fuse_unk": false, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, " ": 2, "ab": 3, " b": 4}, "merges": [["a", "b"], [" ", "b"]]
        }
    }"#;

    struct NoModel;

    impl CausalLm for NoModel {
        fn vocab_size(&self) -> usize {
            5
        }

        fn max_context(&self) -> usize {
            0
        }

        fn new_cache(&self, tokens: usize) -> ModelResult<KvCache> {
            KvCache::new(0, 0, tokens)
        }

        fn hidden(&self, _: &mut KvCache, tokens: &[u32], _: Want) -> ModelResult<Hidden> {
            Err(ModelError::ContextOverflow { tokens: tokens.len(), context: 0 })
        }

        fn logits(&self, _: &Hidden, _: std::ops::Range<usize>) -> ModelResult<Vec<f32>> {
            Ok(Vec::new())
        }
    }

    fn with<T>(eos: &[u32], json: &str, work: impl FnOnce(&Subject<'_>) -> T) -> T {
        let tokenizer = Tokenizer::from_json(json.as_bytes()).unwrap();
        work(&Subject::new(&NoModel, &tokenizer, eos).unwrap())
    }

    fn tokens(subject: &Subject<'_>, context: &str, continuation: &str) -> Result<(Vec<u32>, Vec<u32>)> {
        let found = subject.tokens(context, &[continuation.to_owned()])?;
        Ok((found.context, found.choices.concat()))
    }

    #[test]
    fn the_seam_between_context_and_continuation() {
        with(&[9], PAIRS, |subject| {
            let pair = |context, continuation| tokens(subject, context, continuation).unwrap();
            assert_eq!(pair("a", " b"), (vec![0], vec![4]));
            // A space at the end of the context belongs to the continuation.
            assert_eq!(pair("a ", "b"), (vec![0], vec![4]));
            assert_eq!(pair("a ", "a"), (vec![0], vec![2, 0]));
            // `ab` spans the boundary: of the whole text [ab, b], the tokens after the first count.
            assert_eq!(pair("a", "bb"), (vec![0], vec![1]));
            // If it covers all of the continuation, there is nothing to score.
            let error = tokens(subject, "a", "b").unwrap_err().to_string();
            assert_eq!(error, "tokenizer: choice 0 adds no token to its question");
            // With an empty context, the end-of-sequence token comes first.
            assert_eq!(pair("", "ab"), (vec![9], vec![3]));
            assert_eq!(pair(" ", "b"), (vec![9], vec![4]));
        });
        with(&[], PAIRS, |subject| {
            assert!(matches!(tokens(subject, "", "b"), Err(EvalError::Model(ModelError::EmptyPrompt))));
        });
    }

    #[test]
    fn a_token_before_the_text_goes_before_the_context_alone() {
        let processor = r#""post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "b", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
            "special_tokens": {"b": {"id": "b", "ids": [1], "tokens": ["b"]}}
        }"#;
        with(&[9], &PAIRS.replace(r#""post_processor": null"#, processor), |subject| {
            assert_eq!(tokens(subject, "a", " b").unwrap(), (vec![1, 0], vec![4]));
            assert_eq!(tokens(subject, "", "ab").unwrap(), (vec![1], vec![3]), "it replaces the end-of-sequence token");
        });
    }
}
