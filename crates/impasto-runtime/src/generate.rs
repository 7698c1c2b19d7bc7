//! Text generation: a stream of pieces of text, and a function that runs it to the end.

use std::borrow::BorrowMut;
use std::collections::VecDeque;
use std::marker::PhantomData;
use std::ops::{ControlFlow, Deref};
use std::time::Instant;

use impasto_model::sampling::SamplingParams;
use impasto_model::speculation::{Speculated, Speculator};
use impasto_model::{CausalLm, ModelError, Prefill, Session};
use impasto_text::{StopMatcher, Stopped, TextStream, Tokenizer};
use serde::Serialize;

use crate::Result;

/// Options of text generation.
#[derive(Clone, Debug)]
pub struct GenerateOptions {
    /// Largest number of tokens to generate.
    pub max_tokens: usize,
    /// How each token is sampled.
    pub sampling: SamplingParams,
    /// Strings that end the text. They are searched for in the decoded text, across tokens, and are not part of the
    /// output.
    pub stop: Vec<String>,
    /// Token ids that end the text; if empty, none does.
    pub eos: Vec<u32>,
}

impl Default for GenerateOptions {
    fn default() -> Self {
        Self { max_tokens: 128, sampling: SamplingParams::default(), stop: Vec::new(), eos: Vec::new() }
    }
}

/// Why a text ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The model generated this end-of-sequence token.
    Eos(u32),
    /// The text reached this stop string.
    StopString(String),
    /// `max_tokens` tokens were generated.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// The caller cancelled the generation.
    Cancelled,
}

/// A generated text, with statistics.
#[derive(Clone, Debug, Serialize)]
pub struct Generation {
    /// The text, without special tokens, and without the stop string that ended it.
    pub text: String,
    /// The generated tokens, including those of a stop string but not an end-of-sequence token.
    pub tokens: Vec<u32>,
    /// Number of prompt tokens.
    pub prompt_tokens: usize,
    /// Why the text ended.
    pub stop: StopReason,
    /// Seconds to evaluate the prompt.
    pub prefill_seconds: f64,
    /// Seconds from then to the end of the text.
    pub decode_seconds: f64,
    /// Counts of drafts, if tokens were drafted.
    pub speculation: Option<Speculated>,
}

/// The continuation of a prompt, as an iterator over pieces of text. A piece is returned as soon as it is final: its
/// characters are complete, and it cannot be part of a stop string.
///
/// `S` is a [`Session`] or a mutable reference to one. The session then has all tokens and can be continued. The
/// iterator ends after an error.
///
/// ```
/// # use impasto_runtime::{Model, RuntimeError, Stream};
/// fn tell(model: &Model) -> Result<String, RuntimeError> {
///     let prompt = model.tokenizer()?.encode("Once upon a time", true)?;
///     let mut stream = model.stream(&prompt, &model.generate_options())?;
///     for piece in &mut stream {
///         print!("{}", piece?);
///     }
///     Ok(stream.finish().text)
/// }
/// ```
pub struct Stream<'t, M, S = Session<M>> {
    session: S,
    decoder: TextStream<'t>,
    stops: StopMatcher,
    eos: Vec<u32>,
    max_tokens: usize,
    prompt_tokens: usize,
    /// When evaluation of the prompt started.
    begun: Option<Instant>,
    /// When evaluation of the prompt ended.
    prefilled: Option<Instant>,
    prefill_seconds: f64,
    decode_seconds: f64,
    text: String,
    /// The text ended, or an error was returned.
    over: bool,
    stop: Option<StopReason>,
    /// Number of last tokens of `session` that are not part of the text: 1 after an end-of-sequence token, else 0.
    unwritten: usize,
    before: Option<Before<'t, M>>,
    speculator: Option<Box<dyn BorrowMut<Speculator<'static>> + 't>>,
    /// The last tokens of `session`, which are drawn but not read yet. They are not part of the text.
    ahead: VecDeque<u32>,
    model: PhantomData<fn() -> M>,
}

/// What is called before each token.
type Before<'t, M> = Box<dyn FnMut(&mut Session<M>) -> Result<()> + 't>;

impl<'t, M: Deref<Target: CausalLm>, S: BorrowMut<Session<M>>> Stream<'t, M, S> {
    /// Creates a stream that continues the tokens of `session`, the prompt.
    ///
    /// # Errors
    /// Options out of range.
    pub fn new(mut session: S, tokenizer: &'t Tokenizer, options: &GenerateOptions) -> Result<Self> {
        session.borrow_mut().set_sampling(options.sampling)?;
        let prompt = session.borrow().tokens();
        Ok(Self {
            decoder: tokenizer.stream(prompt),
            stops: StopMatcher::new(&options.stop)?,
            eos: options.eos.clone(),
            max_tokens: options.max_tokens,
            prompt_tokens: prompt.len(),
            begun: None,
            prefilled: None,
            prefill_seconds: 0.0,
            decode_seconds: 0.0,
            text: String::new(),
            over: false,
            stop: None,
            unwritten: 0,
            before: None,
            speculator: None,
            ahead: VecDeque::new(),
            model: PhantomData,
            session,
        })
    }

    /// Has tokens drawn with the help of drafts. The session may then be some tokens ahead of the text, until the text ends.
    pub fn with_speculator(self, speculator: impl BorrowMut<Speculator<'static>> + 't) -> Self {
        Stream { speculator: Some(Box::new(speculator)), ..self }
    }

    /// Has `before` called with the session before each pass that computes tokens. An error ends the text.
    pub fn before_each(self, before: impl FnMut(&mut Session<M>) -> Result<()> + 't) -> Self {
        Stream { before: Some(Box::new(before)), ..self }
    }

    /// Evaluates the prompt. Without this call, the first piece evaluates it. `watch` is called with the progress and
    /// may cancel.
    ///
    /// # Errors
    /// Those of [`Session::prefill`].
    pub fn prefill(&mut self, watch: &mut dyn FnMut(Prefill) -> ControlFlow<()>) -> Result<()> {
        self.begun.get_or_insert_with(Instant::now);
        if self.session.borrow_mut().prefill(watch)?.is_break() {
            self.cancel();
        }
        Ok(())
    }

    /// Ends the text here. If a stop string already ended it, that stays the reason.
    pub fn cancel(&mut self) {
        self.over = true;
        self.drop_ahead();
        if !matches!(self.stop, Some(StopReason::StopString(_))) {
            self.stop = Some(StopReason::Cancelled);
        }
    }

    /// The session.
    pub fn session(&self) -> &Session<M> {
        self.session.borrow()
    }

    /// Why the text ended; `None` if it has not.
    pub fn stop(&self) -> Option<&StopReason> {
        self.stop.as_ref()
    }

    /// Returns the text so far, with statistics. A text that was not read to its end counts as cancelled.
    pub fn finish(mut self) -> Generation {
        self.drop_ahead();
        let tokens = self.session.borrow().tokens();
        Generation {
            text: self.text,
            tokens: tokens[self.prompt_tokens..tokens.len() - self.unwritten].to_vec(),
            prompt_tokens: self.prompt_tokens,
            stop: self.stop.unwrap_or(StopReason::Cancelled),
            prefill_seconds: self.prefill_seconds,
            decode_seconds: self.decode_seconds,
            speculation: self.speculator.map(|mut speculator| (*speculator).borrow_mut().take_counts()),
        }
    }

    /// Removes the tokens that were drawn but not read.
    fn drop_ahead(&mut self) {
        let session = self.session.borrow_mut();
        session.truncate(session.tokens().len() - self.ahead.len());
        self.ahead.clear();
    }

    /// Returns the next token of the session, drawing it if it is not there.
    fn next_token(&mut self) -> Result<u32> {
        if let Some(token) = self.ahead.pop_front() {
            return Ok(token);
        }
        let session = self.session.borrow_mut();
        let left = self.max_tokens - (session.tokens().len() - self.prompt_tokens);
        if let Some(before) = &mut self.before {
            before(session)?;
        }
        let Some(speculator) = &mut self.speculator else { return Ok(session.step()?.token) };
        let mut drawn = (**speculator).borrow_mut().step(session, left)?.into_iter().map(|step| step.token);
        let token = drawn.next().ok_or(ModelError::NoLogits)?;
        self.ahead.extend(drawn);
        Ok(token)
    }

    /// Generates one token and returns the text that this completes, which may be empty.
    fn advance(&mut self) -> Result<String> {
        let session = self.session.borrow_mut();
        if self.prefilled.is_none() {
            let begun = *self.begun.get_or_insert_with(Instant::now);
            session.logits()?;
            self.prefill_seconds = begun.elapsed().as_secs_f64();
            self.prefilled = Some(Instant::now());
        }
        let written = session.tokens().len() - self.prompt_tokens - self.ahead.len();
        let reason = if written >= self.max_tokens {
            StopReason::MaxTokens
        } else if session.remaining() == 0 && self.ahead.is_empty() {
            StopReason::ContextFull
        } else {
            let token = self.next_token()?;
            if !self.eos.contains(&token) {
                let piece = self.decoder.push(token)?;
                return Ok(self.filter(&piece));
            }
            self.unwritten = 1;
            StopReason::Eos(token)
        };
        self.stop = Some(reason);
        self.drop_ahead();
        // Release the text that was held back, unless it contains a stop string.
        let rest = self.decoder.finish()?;
        let mut piece = self.filter(&rest);
        piece.push_str(&self.stops.finish());
        Ok(piece)
    }

    /// Returns the part of `piece` that cannot belong to a stop string.
    fn filter(&mut self, piece: &str) -> String {
        match self.stops.push(piece) {
            Stopped::Text(text) => text,
            Stopped::Stop(text, stop) => {
                self.stop = Some(StopReason::StopString(stop));
                self.drop_ahead();
                text
            }
        }
    }
}

impl<M: Deref<Target: CausalLm>, S: BorrowMut<Session<M>>> Iterator for Stream<'_, M, S> {
    type Item = Result<String>;

    fn next(&mut self) -> Option<Result<String>> {
        while !self.over {
            let piece = self.advance();
            self.over = self.stop.is_some() || piece.is_err();
            self.decode_seconds = self.prefilled.map_or(0.0, |begun| begun.elapsed().as_secs_f64());
            match piece {
                Ok(piece) if piece.is_empty() => (),
                Ok(piece) => {
                    self.text.push_str(&piece);
                    return Some(Ok(piece));
                }
                error => return Some(error),
            }
        }
        None
    }
}

/// Continues `prompt` in its own session, and passes pieces of text to `on_text` as soon as they are final.
///
/// # Errors
/// An empty prompt, a token outside the vocabulary, a prompt longer than the context
/// ([`impasto_model::ModelError::ContextOverflow`]; a context that becomes full later is a [`StopReason`]), options out
/// of range, or logits that are not finite.
pub fn generate(
    model: &dyn CausalLm,
    tokenizer: &Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
    on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
) -> Result<Generation> {
    let mut stream = stream(model, tokenizer, prompt, options)?;
    while let Some(piece) = stream.next() {
        if on_text(&piece?).is_break() {
            stream.cancel();
        }
    }
    Ok(stream.finish())
}

/// Continues `prompt` in its own session, as a stream of pieces of text.
///
/// # Errors
/// Those of [`generate`].
pub fn stream<'t, M: Deref<Target: CausalLm>>(
    model: M,
    tokenizer: &'t Tokenizer,
    prompt: &[u32],
    options: &GenerateOptions,
) -> Result<Stream<'t, M>> {
    let room = prompt.len().saturating_add(options.max_tokens.min(1024));
    let mut session = Session::with_capacity(model, options.sampling, room)?;
    session.extend(prompt)?;
    Stream::new(session, tokenizer, options)
}
