//! Grammars: constraints on what a model may write, as masks of the tokens that may come next.
//!
//! ```text
//! Tokenizer --Grammars::new--> trie of token bytes --+
//!                       Constraint --compile--> grammar --> Matcher: mask, commit, mask, commit, ...
//! ```
//!
//! The masks are computed by llguidance: a regular expression engine by derivatives for words, an Earley parser over them,
//! and a walk over the trie of all tokens. A constraint is untrusted: its size and nesting are checked, it is compiled in a
//! thread with a sufficient stack, and compiling and each mask have limits of work and memory. Nothing is fetched: a `$ref`
//! may only point into its own schema.

mod calls;
mod limits;
mod matcher;

use std::collections::HashMap;
use std::time::{Duration, Instant};

use llguidance::ParserFactory;
use llguidance::api::TopLevelGrammar;
use llguidance::earley::SlicedBiasComputer;
use llguidance::toktrie::{ApproximateTokEnv, InferenceCapabilities, TokEnv, TokRxInfo, TokTrie};
use serde_json::{Value, json};

pub use matcher::Matcher;

use crate::{Result, TextError, Tokenizer, ToolFormat};

/// Longest token in bytes. Longer ones are never allowed. The library does not take more than 1024.
const MAX_TOKEN: usize = 1000;
/// Most bytes of all tokens, with one more for each. The library does not take more than 2^22 nodes of a trie.
const MAX_TRIE: usize = 4_000_000;
/// Longest time to read a vocabulary. Usual ones take a second.
const MAX_TIME: Duration = Duration::from_secs(60);
/// The white space between the words of JSON: a line break and an indentation at most.
const SPACE: &str = r"[ \n\r\t]{1,20}";

/// What a text must be.
#[derive(Clone, Debug, PartialEq)]
pub enum Constraint {
    /// Any JSON object.
    JsonObject,
    /// JSON that is valid by a JSON schema (draft 2020-12 and before). A keyword that cannot be enforced is an error.
    JsonSchema(Value),
    /// A text that a regular expression matches as a whole, in the syntax of the crate `regex`.
    Regex(String),
    /// One of these texts.
    Choice(Vec<String>),
    /// Calls of functions, in the form of a model; see [`ToolFormat::grammar`].
    ToolCalls {
        /// How the model writes calls.
        format: ToolFormat,
        /// Descriptions of the functions, as in the OpenAI API. At least one.
        tools: Vec<Value>,
        /// Whether there may be more than one call.
        parallel: bool,
    },
}

/// Compiles constraints for a tokenizer. It takes a moment to create, so do it once for a model.
///
/// ```no_run
/// # use impasto_text::{Tokenizer, TextError, grammar::{Constraint, Grammars}};
/// fn first_mask(tokenizer: &Tokenizer, eos: u32) -> Result<Vec<u32>, TextError> {
///     let grammars = Grammars::new(tokenizer, &[eos])?;
///     let mut matcher = grammars.compile(&Constraint::JsonObject)?;
///     Ok(matcher.mask()?.to_vec()) // one bit per token, to sample within
/// }
/// ```
pub struct Grammars {
    factory: ParserFactory,
    /// Texts and ids of special tokens.
    special: HashMap<String, u32>,
}

impl Grammars {
    /// Reads the bytes of all tokens. `eos` are the tokens that end a text; they are allowed where the text is complete.
    ///
    /// # Errors
    /// [`TextError::BadOption`] if `eos` is empty or has a token that the tokenizer does not have; [`TextError::Grammar`] if
    /// the vocabulary cannot be indexed.
    pub fn new(tokenizer: &Tokenizer, eos: &[u32]) -> Result<Self> {
        let (mut words, mut special, mut total) = (Vec::new(), HashMap::new(), 0);
        let begun = Instant::now();
        for id in tokenizer.ids() {
            let bytes = tokenizer.token_bytes(id).filter(|bytes| bytes.len() <= MAX_TOKEN).unwrap_or_default();
            let word = match tokenizer.is_special(id) || eos.contains(&id) {
                true if !bytes.is_empty() => {
                    special.insert(String::from_utf8_lossy(&bytes).into_owned(), id);
                    [&[TokTrie::SPECIAL_TOKEN_MARKER], &bytes[..]].concat()
                }
                // The marker is not UTF-8, so such a token cannot be part of a text.
                _ if bytes.contains(&TokTrie::SPECIAL_TOKEN_MARKER) => Vec::new(),
                _ => bytes,
            };
            total += 1 + word.len();
            words.push(word);
            if total > MAX_TRIE || begun.elapsed() > MAX_TIME {
                let (bytes, time) = (MAX_TRIE, MAX_TIME.as_secs());
                let rule =
                    format!("the tokens of a vocabulary must have at most {bytes} bytes and be read in {time} s");
                return Err(TextError::grammar(&rule));
            }
        }
        let count = words.len();
        if eos.is_empty() || eos.iter().any(|&id| id as usize >= count) {
            let rule = "must be tokens of the tokenizer, at least one";
            return Err(TextError::BadOption { name: "eos", value: format!("{eos:?}"), rule });
        }
        let info = TokRxInfo::new(count as u32, eos[0]);
        let trie = TokTrie::from(&info, &words).with_eos_tokens(eos);
        let env: TokEnv = std::sync::Arc::new(ApproximateTokEnv::new(trie));
        let slices = SlicedBiasComputer::general_slices();
        let mut factory = ParserFactory::new(&env, InferenceCapabilities::default(), &slices)
            .map_err(|error| TextError::grammar(&error.to_string()))?;
        factory.quiet();
        *factory.limits_mut() = limits::of_parser();
        Ok(Self { factory, special })
    }

    /// Compiles a constraint. The result is at the start of a text.
    ///
    /// # Errors
    /// [`TextError::Grammar`] if the constraint is invalid, not supported or cannot be fulfilled, or exceeds a limit.
    pub fn compile(&self, constraint: &Constraint) -> Result<Matcher> {
        let grammar = match constraint {
            Constraint::JsonObject => TopLevelGrammar::from_json_schema(spaced(json!({"type": "object"}))),
            Constraint::JsonSchema(schema) => {
                limits::check_schema(schema)?;
                TopLevelGrammar::from_json_schema(spaced(schema.clone()))
            }
            Constraint::Regex(regex) => {
                limits::check_regex(regex)?;
                TopLevelGrammar::from_regex(regex)
            }
            Constraint::Choice(texts) => TopLevelGrammar::from_regex(&choice(texts)?),
            Constraint::ToolCalls { format, tools, parallel } => {
                TopLevelGrammar::from_lark(calls::lark(*format, tools, *parallel, &self.special)?)
            }
        };
        let parser = limits::with_stack(|| self.factory.create_parser(grammar).map_err(|error| error.to_string()))?;
        let parser = parser.map_err(|error| TextError::grammar(&error))?;
        Matcher::new(parser, self.factory.tok_env().tok_trie().vocab_size())
    }
}

/// Limits the white space of a schema's texts: it may be anywhere, and a small model would write nothing else for ever.
fn spaced(mut schema: Value) -> Value {
    if let Value::Object(keywords) = &mut schema {
        keywords.insert("x-guidance".to_owned(), json!({ "whitespace_pattern": SPACE }));
    }
    schema
}

/// A regular expression for one of several texts.
fn choice(texts: &[String]) -> Result<String> {
    if texts.iter().all(String::is_empty) {
        return Err(TextError::grammar("a choice needs a text that is not empty"));
    }
    let all: Vec<String> = texts.iter().map(|text| regex_syntax::escape(text)).collect();
    let regex = all.join("|");
    limits::check_length(regex.len())?;
    Ok(regex)
}

#[cfg(test)]
mod tests;
