//! The continuations of the prompts of one request, as they come.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use impasto_model::sampling::SamplingParams;
use serde::Serialize;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};
use utoipa::ToSchema;

use super::App;
use super::error::ApiError;
use super::text::{Piece, Text};
use crate::engine::{Constraint, EndReason, Event, Job, Scored};
use crate::models::Loaded;
use crate::record::Record;

/// What is to be written.
pub struct Order {
    /// The model.
    pub model: Arc<Loaded>,
    /// The prompts, each of which is continued as often as there are choices.
    pub prompts: Vec<Vec<u32>>,
    /// How the tokens of each continuation are sampled.
    pub choices: Vec<SamplingParams>,
    /// The most tokens of a continuation; `None` for as many as the context allows.
    pub max_tokens: Option<usize>,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// Strings that end a text.
    pub stops: Vec<String>,
    /// Whether special tokens are part of the text.
    pub with_special: bool,
    /// How many of the most likely tokens are reported, if log probabilities are.
    pub logprobs: Option<usize>,
    /// Whether log probabilities of the prompt are reported as well.
    pub echo_logprobs: bool,
    /// What is added to the logits of tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// What each continuation must match; as many as continuations of all prompts, or none.
    pub constraints: Vec<Box<dyn Constraint>>,
}

/// Numbers of tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Usage {
    /// Tokens of all prompts.
    pub prompt_tokens: usize,
    /// Tokens that were written.
    pub completion_tokens: usize,
    /// The sum.
    pub total_tokens: usize,
    /// More about the prompt.
    pub prompt_tokens_details: PromptDetails,
}

/// More about the tokens of a prompt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct PromptDetails {
    /// Tokens whose keys and values were there from earlier requests.
    pub cached_tokens: usize,
}

/// What gave an answer, and how fast.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Timings {
    /// The layer of the model's file, from 1.
    pub layer: usize,
    /// Its bits per weight; 0 if they are not known.
    pub bits_per_weight: f64,
    /// Seconds from the request to the first token.
    pub time_to_first_token: f64,
    /// Seconds of these in which it waited for its turn.
    pub queue_seconds: f64,
    /// Tokens of the prompt that were evaluated per second.
    pub prompt_tokens_per_second: f64,
    /// Tokens that were written per second, after the first.
    pub tokens_per_second: f64,
    /// Tokens of the prompt whose keys and values were there.
    pub cached_tokens: usize,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Finish {
    /// The model, a stop string or what the text must match ended it.
    Stop,
    /// It has as many tokens as it may have, or the context is full.
    Length,
    /// The model calls functions.
    ToolCalls,
}

/// What has come.
#[derive(Debug)]
pub enum Update {
    /// The log probabilities of a prompt, of which `first` is the first continuation.
    Prompt {
        /// The number of the continuation.
        first: usize,
        /// The tokens from the second on.
        tokens: Vec<Scored>,
    },
    /// More of a continuation.
    Piece {
        /// The number of the continuation.
        choice: usize,
        /// The text.
        piece: Piece,
    },
    /// The end of a continuation.
    End {
        /// The number of the continuation.
        choice: usize,
        /// Why it ended.
        finish: Finish,
    },
}

/// The continuations of a request. They are given up when this is dropped.
pub struct Generation {
    events: UnboundedReceiver<Event>,
    stopped: Arc<[AtomicBool]>,
    texts: Vec<Option<Text>>,
    /// Updates that follow from an event that was read.
    ready: Vec<Update>,
    model: Arc<Loaded>,
    usage: Usage,
    times: Times,
    record: Arc<Record>,
    /// The prompts and what was written, if that is logged.
    said: Option<[String; 2]>,
}

struct Times {
    begun: Instant,
    started: Option<Instant>,
    evaluated: Option<Instant>,
    first: Option<Instant>,
    last: Option<Instant>,
}

impl Generation {
    /// Begins to continue the prompts.
    ///
    /// # Errors
    /// A prompt that is empty or too long, an option out of range, or a server that is busy.
    pub fn begin(app: &App, record: Arc<Record>, client: u64, order: Order) -> Result<Generation, ApiError> {
        let Order { model, prompts, choices, max_tokens, eos, stops, with_special, .. } = order;
        let Order { logprobs, echo_logprobs, logit_bias, constraints, .. } = order;
        let tokenizer =
            model.tokenizer().map_err(|reason| ApiError::new(StatusCode::BAD_REQUEST, "not_supported", reason))?;
        let (begun, n, context) = (Instant::now(), choices.len(), model.model().network().max_context());
        let deadline = begun + app.options.timeout.min(Duration::from_secs(1 << 30));
        let stopped: Arc<[AtomicBool]> = (0..n * prompts.len()).map(|_| AtomicBool::new(false)).collect();
        // Clients with keys must not learn what others asked, by what is there already.
        let owner = if app.options.api_keys.is_empty() { 0 } else { client };
        let (sender, events) = unbounded_channel();
        let mut constraints = constraints.into_iter();
        let (mut jobs, mut texts, mut usage) = (Vec::new(), Vec::new(), Usage::default());
        let mut said = app.options.log_text.then(<[String; 2]>::default);
        for (index, prompt) in prompts.into_iter().enumerate() {
            impasto_model::check_tokens(&prompt, model.model().network().vocab_size(), 0, context)?;
            let room = context + 1 - prompt.len();
            let max_tokens = max_tokens.unwrap_or(room).min(app.options.max_tokens).min(room);
            for _ in 0..n {
                texts.push(Some(Text::new(tokenizer, &prompt, &stops, with_special)?));
            }
            usage.prompt_tokens += prompt.len();
            if let Some([prompts, _]) = &mut said {
                prompts.push_str(&tokenizer.decode(&prompt, false)?);
            }
            jobs.push(Job {
                client,
                owner,
                model: model.clone(),
                prompt,
                first: index * n,
                stopped: stopped.clone(),
                choices: choices.clone(),
                max_tokens,
                eos: eos.clone(),
                logprobs,
                prompt_logprobs: logprobs.filter(|_| echo_logprobs),
                logit_bias: logit_bias.clone(),
                constraints: constraints.by_ref().take(n).collect(),
                deadline,
                events: sender.clone(),
            });
        }
        record.begins(&model, usage.prompt_tokens);
        app.engine.submit(jobs)?;
        let times = Times { begun, started: None, evaluated: None, first: None, last: None };
        Ok(Generation { events, stopped, texts, ready: Vec::new(), model, usage, times, record, said })
    }

    /// The number of continuations of all prompts.
    pub fn choices(&self) -> usize {
        self.texts.len()
    }

    /// The numbers of tokens so far.
    pub fn usage(&self) -> Usage {
        let total_tokens = self.usage.prompt_tokens + self.usage.completion_tokens;
        Usage { total_tokens, ..self.usage }
    }

    /// What gave the text so far, and how fast.
    pub fn timings(&self) -> Timings {
        let seconds = |from: Option<Instant>, to: Option<Instant>| match (from, to) {
            (Some(from), Some(to)) => to.saturating_duration_since(from).as_secs_f64(),
            _ => 0.0,
        };
        let rate = |count: usize, seconds: f64| if seconds > 0.0 { count as f64 / seconds } else { 0.0 };
        let (quality, times) = (self.model.quality(), &self.times);
        let cached = self.usage.prompt_tokens_details.cached_tokens;
        Timings {
            layer: quality.layer,
            bits_per_weight: quality.bits_per_weight,
            time_to_first_token: seconds(Some(times.begun), times.first),
            queue_seconds: seconds(Some(times.begun), times.started),
            prompt_tokens_per_second: rate(
                self.usage.prompt_tokens.saturating_sub(cached),
                seconds(times.started, times.evaluated),
            ),
            tokens_per_second: rate(self.usage.completion_tokens.saturating_sub(1), seconds(times.first, times.last)),
            cached_tokens: cached,
        }
    }

    /// Returns what comes next; `None` when all continuations have ended.
    ///
    /// # Errors
    /// Why the request failed.
    pub async fn next(&mut self) -> Result<Option<Update>, ApiError> {
        loop {
            if !self.ready.is_empty() {
                return Ok(Some(self.ready.remove(0)));
            }
            if self.texts.iter().all(Option::is_none) {
                self.record.ends(&self.usage(), &self.timings());
                return Ok(None);
            }
            let Some(event) = self.events.recv().await else {
                return Err(crate::engine::EngineError::Ending.into());
            };
            self.take(event)?;
        }
    }

    /// Takes an event; what follows from it is then ready.
    fn take(&mut self, event: Event) -> Result<(), ApiError> {
        match event {
            Event::Started { cached } => {
                self.usage.prompt_tokens_details.cached_tokens += cached;
                self.times.started.get_or_insert_with(Instant::now);
            }
            Event::Evaluated => _ = self.times.evaluated.get_or_insert_with(Instant::now),
            Event::Prompt { first, tokens } => {
                self.times.started.get_or_insert(self.times.begun);
                self.ready.push(Update::Prompt { first, tokens });
            }
            Event::Token { choice, token } => {
                let now = Instant::now();
                let Some(text) = self.texts.get_mut(choice).and_then(Option::as_mut) else { return Ok(()) };
                self.usage.completion_tokens += 1;
                self.times.first.get_or_insert(now);
                self.times.last = Some(now);
                let piece = text.push(token)?;
                let is_stopped = piece.is_stopped;
                if let Some([_, written]) = &mut self.said {
                    written.push_str(&piece.text);
                }
                if !piece.text.is_empty() || !piece.tokens.is_empty() {
                    self.ready.push(Update::Piece { choice, piece });
                }
                if is_stopped {
                    self.end(choice, Finish::Stop);
                }
            }
            Event::Eos { choice, token } => {
                if let Some(text) = self.texts.get_mut(choice).and_then(Option::as_mut) {
                    text.push_end(token);
                }
            }
            Event::End { choice, reason } => {
                let Some(text) = self.texts.get_mut(choice).and_then(Option::as_mut) else { return Ok(()) };
                let piece = text.finish()?;
                let finish = match reason {
                    _ if piece.is_stopped => Finish::Stop,
                    EndReason::Eos(_) | EndReason::Complete => Finish::Stop,
                    EndReason::MaxTokens | EndReason::ContextFull => Finish::Length,
                };
                if let Some([_, written]) = &mut self.said {
                    written.push_str(&piece.text);
                }
                if !piece.text.is_empty() || !piece.tokens.is_empty() {
                    self.ready.push(Update::Piece { choice, piece });
                }
                self.end(choice, finish);
            }
            Event::Failed(error) => return Err(error.into()),
        }
        Ok(())
    }

    /// Ends a continuation of which nothing more is wanted.
    pub fn stop(&mut self, choice: usize) {
        if self.texts.get(choice).is_some_and(Option::is_some) {
            self.end(choice, Finish::Stop);
        }
    }

    fn end(&mut self, choice: usize, finish: Finish) {
        self.texts[choice] = None;
        if let Some(stopped) = self.stopped.get(choice) {
            stopped.store(true, Ordering::Relaxed);
        }
        self.ready.push(Update::End { choice, finish });
    }
}

impl Drop for Generation {
    fn drop(&mut self) {
        if let Some([prompts, written]) = &self.said {
            self.record.says(prompts, written);
        }
    }
}
