//! Log probabilities, in the forms of both interfaces.

use std::collections::BTreeMap;

use impasto_text::Tokenizer;
use serde::Serialize;
use utoipa::ToSchema;

use crate::engine::Scored;

/// Log probabilities of the tokens of a completion.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// The texts of the tokens.
    pub tokens: Vec<String>,
    /// Their log probabilities; null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f64>>,
    /// The most likely tokens in the place of each, and their log probabilities.
    pub top_logprobs: Vec<Option<BTreeMap<String, f64>>>,
    /// Where each token begins, in characters of the text.
    pub text_offset: Vec<usize>,
}

impl CompletionLogprobs {
    /// Appends the first token of a prompt, which nothing predicts.
    pub fn push_first(&mut self, token: u32, tokenizer: &Tokenizer, offset: &mut usize) {
        self.push(None, token, &[], tokenizer, offset);
    }

    /// Appends a token that begins at `offset`, which is moved to its end.
    pub fn push_scored(&mut self, scored: &Scored, tokenizer: &Tokenizer, offset: &mut usize) {
        self.push(scored.logprob, scored.token, &scored.top, tokenizer, offset);
    }

    fn push(&mut self, logprob: Option<f64>, token: u32, top: &[(u32, f64)], tokenizer: &Tokenizer, offset: &mut usize) {
        let text = tokenizer.token_text(token).unwrap_or_default();
        self.text_offset.push(*offset);
        *offset += text.chars().count();
        self.tokens.push(text);
        self.token_logprobs.push(logprob.map(finite));
        let text_of = |&(token, logprob): &(u32, f64)| (tokenizer.token_text(token).unwrap_or_default(), finite(logprob));
        // Tokens with the same text, such as parts of characters, are one entry here; the most likely comes first.
        let mut entries = BTreeMap::new();
        top.iter().map(text_of).for_each(|(text, logprob)| _ = entries.entry(text).or_insert(logprob));
        self.top_logprobs.push(logprob.map(|_| entries));
    }
}

/// Log probabilities of the tokens of a message.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// The tokens.
    pub content: Vec<TokenLogprob>,
}

/// A token of a message, with its log probability.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// The text of the token.
    pub token: String,
    /// Its log probability.
    pub logprob: f64,
    /// Its bytes, which may be a part of a character.
    pub bytes: Vec<u8>,
    /// The most likely tokens in its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the most likely tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TopLogprob {
    /// The text of the token.
    pub token: String,
    /// Its log probability.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl ChatLogprobs {
    /// Appends tokens.
    pub fn extend(&mut self, tokens: &[Scored], tokenizer: &Tokenizer) {
        let name = |token: u32| {
            let bytes = tokenizer.token_bytes(token).unwrap_or_default();
            (String::from_utf8_lossy(&bytes).into_owned(), bytes)
        };
        self.content.extend(tokens.iter().map(|scored| {
            let (token, bytes) = name(scored.token);
            let top = scored.top.iter().map(|&(token, logprob)| {
                let (token, bytes) = name(token);
                TopLogprob { token, logprob: finite(logprob), bytes }
            });
            TokenLogprob { token, logprob: finite(scored.logprob.unwrap_or(f64::NEG_INFINITY)), bytes, top_logprobs: top.collect() }
        }));
    }
}

/// JSON has no infinity; OpenAI says -9999 for tokens that are not possible.
fn finite(logprob: f64) -> f64 {
    if logprob.is_finite() { logprob } else { -9999.0 }
}
