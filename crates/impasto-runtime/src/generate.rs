//! The loop that writes text.

use std::ops::ControlFlow;
use std::time::Instant;

use impasto_model::sampling::{Sampler, SamplingParams};
use impasto_model::{CausalLm, KvCache};
use impasto_text::{StopMatcher, Stopped, Tokenizer};
use serde::Serialize;

use crate::Result;

/// How a text is continued.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Most tokens to write.
    pub max_tokens: usize,
    /// How each token is chosen.
    pub sampling: SamplingParams,
    /// Strings that end the text; they are searched in the decoded text, across tokens, and are not part of the output.
    pub stop: Vec<String>,
    /// Token ids that end the text; empty to go on regardless.
    pub eos: Vec<u32>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 128, sampling: SamplingParams::default(), stop: Vec::new(), eos: Vec::new() }
    }
}

/// Why the text ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model wrote an end-of-text token, this one.
    Eos(u32),
    /// This stop string was written.
    StopString(String),
    /// `max_tokens` were written.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The callback asked for it.
    Cancelled,
}

/// A text and how it came about.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// The text, without special tokens, cut before a stop string.
    pub text: String,
    /// The tokens drawn, an end-of-text token excluded, those of a stop string included.
    pub tokens: Vec<u32>,
    /// Tokens of the prompt.
    pub prompt_tokens: usize,
    /// Why it ended.
    pub stop: StopReason,
    /// Seconds until the first token was known.
    pub prefill_seconds: f64,
    /// Seconds for all further tokens.
    pub decode_seconds: f64,
}

/// Continues `prompt` in a cache of its own, as [`generate_in`].
///
/// # Errors
/// Those of [`generate_in`].
pub fn generate(
    model: &dyn CausalLm,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut cache = model.new_cache(prompt.len().saturating_add(options.max_tokens.min(1024)))?;
    generate_in(model, tokenizer, &mut cache, prompt, options, on_text)
}

/// Continues `prompt`, handing pieces of text to `on_text` as soon as they are certain.
///
/// Of the prompt only what follows the tokens that `cache` begins with is run; what else the cache holds is forgotten.
/// So a talk goes on where it was.
///
/// # Errors
/// An empty prompt, a token outside the vocabulary, a prompt longer than the context
/// ([`impasto_model::ModelError::ContextOverflow`]; a context that fills up later is a [`StopReason`]), options out of range,
/// or logits that are not finite.
pub fn generate_in(
    model: &dyn CausalLm,
    tokenizer: &Tokenizer,
    cache: &mut KvCache,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut sampler = Sampler::new(options.sampling)?;
    let mut writer = Writer::new(StopMatcher::new(&options.stop)?, on_text);
    let mut stream = tokenizer.stream(prompt);
    let mut context = prompt.to_vec();

    let begun = Instant::now();
    let mut logits = Vec::new();
    // The last token is run in any case: its logits are wanted.
    let known =
        cache.tokens().iter().zip(&prompt[..prompt.len().saturating_sub(1)]).take_while(|(a, b)| a == b).count();
    cache.truncate(known);
    model.next_logits(cache, &prompt[known..], &mut logits)?;
    let prefill_seconds = begun.elapsed().as_secs_f64();
    let begun = Instant::now();
    let reason = loop {
        let written = context.len() - prompt.len();
        if written >= options.max_tokens {
            break StopReason::MaxTokens;
        }
        if written > 0 {
            if cache.len() >= model.max_context() {
                break StopReason::ContextFull;
            }
            model.next_logits(cache, &context[context.len() - 1..], &mut logits)?;
        }
        let id = sampler.sample(&logits, &context)?;
        if options.eos.contains(&id) {
            break StopReason::Eos(id);
        }
        context.push(id);
        if let Some(reason) = writer.write(&stream.push(id)?) {
            break reason;
        }
    };
    // What was held back is shown, unless the text was already cut.
    let stop = match reason {
        cut @ (StopReason::StopString(_) | StopReason::Cancelled) => cut,
        reason => writer.write(&stream.finish()?).unwrap_or_else(|| {
            writer.flush();
            reason
        }),
    };
    Ok(Generation {
        text: writer.text,
        tokens: context.split_off(prompt.len()),
        prompt_tokens: prompt.len(),
        stop,
        prefill_seconds,
        decode_seconds: begun.elapsed().as_secs_f64(),
    })
}

/// Collects and shows text up to a stop string.
struct Writer<'a> {
    stops: StopMatcher,
    on_text: &'a mut dyn FnMut(&str) -> ControlFlow<()>,
    text: String,
}

impl<'a> Writer<'a> {
    fn new(stops: StopMatcher, on_text: &'a mut dyn FnMut(&str) -> ControlFlow<()>) -> Self {
        Self { stops, on_text, text: String::new() }
    }

    fn write(&mut self, piece: &str) -> Option<StopReason> {
        match self.stops.push(piece) {
            Stopped::Text(text) => self.show(&text),
            Stopped::Stop(text, stop) => {
                self.show(&text);
                Some(StopReason::StopString(stop))
            }
        }
    }

    fn flush(&mut self) {
        let held = self.stops.finish();
        self.show(&held);
    }

    fn show(&mut self, text: &str) -> Option<StopReason> {
        if text.is_empty() {
            return None;
        }
        self.text.push_str(text);
        (self.on_text)(text).is_break().then_some(StopReason::Cancelled)
    }
}
