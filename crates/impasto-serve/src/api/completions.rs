//! `/v1/completions`: text that goes on.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use impasto_text::Tokenizer;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::error::{ApiError, ErrorBody};
use super::generation::{Finish, Generation, Order, Timings, Update, Usage};
use super::logprobs::CompletionLogprobs;
use super::request::{TextOptions, count, stops, top_logprobs};
use super::write::{self, Ended, Write};
use super::{App, Client, body, sse};
use crate::engine::Scored;
use crate::models::Loaded;
use crate::record::Record;

/// The most tokens that are written if a request does not say it.
const TOKENS: usize = 16;
/// The most prompts of a request.
const MOST_PROMPTS: usize = 256;

/// The most continuations of all prompts of a request.
const MOST_TEXTS: usize = 256;
/// The most log probabilities of prompts in an answer; each takes about 100 bytes.
const MOST_SCORES: usize = 1 << 20;

/// A request to continue prompts. Fields that are not listed are ignored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct CompletionRequest {
    /// The text to continue, or its tokens; or several.
    pub prompt: Prompt,
    /// The most tokens to write.
    #[schema(default = 16)]
    pub max_tokens: Option<usize>,
    /// How many continuations to choose the best of. Only the same as `n` is supported.
    pub best_of: Option<usize>,
    /// Whether the text begins with the prompt.
    pub echo: Option<bool>,
    /// Reports log probabilities of the tokens, with so many of the most likely ones.
    pub logprobs: Option<usize>,
    /// Text after the continuation. Not supported.
    pub suffix: Option<String>,
    /// What requests for text have in common.
    #[serde(flatten)]
    pub options: TextOptions,
}

/// A prompt, or several.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Tokens.
    Tokens(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// The tokens of several texts.
    ManyTokens(Vec<Vec<u32>>),
}

/// The continuations.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Completion {
    /// The number of the request.
    pub id: String,
    /// Always `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that was asked for.
    pub model: String,
    /// The continuations: those of the first prompt first.
    pub choices: Vec<CompletionChoice>,
    /// Numbers of tokens; in a stream only at its end, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What gave the text, and how fast; in a stream at its end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impasto: Option<Timings>,
}

/// A continuation, or a piece of one.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// Its number.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Log probabilities, if requested.
    pub logprobs: Option<CompletionLogprobs>,
    /// Why it ended; null in pieces before the last.
    pub finish_reason: Option<Finish>,
}

/// Continues prompts.
#[utoipa::path(
    post, path = "/v1/completions", tag = "text", request_body = CompletionRequest,
    responses(
        (status = 200, description = "The continuations, or events of pieces of them.", body = Completion),
        (status = "4XX", description = "The request is wrong, or the server is busy.", body = ErrorBody),
        (status = "5XX", description = "The server failed.", body = ErrorBody),
    )
)]
pub async fn completions(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request: CompletionRequest = body::json(&app, &headers, body).await?;
    if request.suffix.as_ref().is_some_and(|suffix| !suffix.is_empty()) {
        return Err(ApiError::invalid("suffix", "suffix: not supported"));
    }
    let n = count(request.options.n, app.options.parallel)?;
    if request.best_of.is_some_and(|best_of| best_of != n) {
        return Err(ApiError::invalid("best_of", "best_of: only the same as n is supported"));
    }
    let logprobs = request.logprobs.map(|count| top_logprobs("logprobs", count)).transpose()?;
    let model = app.catalog.get(request.options.model.as_deref()).await?;
    let tokenizer = tokenizer(&model)?;
    let prompts = prompts(tokenizer.clone(), request.prompt).await?;
    let echo = request.echo.unwrap_or(false);
    let (options, streamed) = (request.options.clone(), request.options.streamed());
    if prompts.len().saturating_mul(n) > MOST_TEXTS {
        return Err(ApiError::invalid("n", format!("n: at most {MOST_TEXTS} continuations of all prompts")));
    }
    let scores = prompts.iter().map(Vec::len).sum::<usize>().saturating_mul(n);
    let scores = logprobs.filter(|_| echo).map_or(0, |count| scores.saturating_mul(count + 1));
    if scores > MOST_SCORES {
        let message = format!("logprobs: at most {MOST_SCORES} log probabilities of prompts, but these are {scores}");
        return Err(ApiError::invalid("logprobs", message));
    }
    let order = Order {
        choices: options.sampling.choices(n)?,
        max_tokens: Some(request.max_tokens.unwrap_or(TOKENS)),
        eos: if options.ignore_eos.unwrap_or(false) { vec![] } else { model.model().eos().to_vec() },
        stops: stops(options.stop)?,
        with_special: false,
        logprobs,
        echo_logprobs: echo,
        logit_bias: options.sampling.biases(model.model().network().vocab_size())?,
        constraints: vec![],
        prompts: prompts.clone(),
        model: model.clone(),
    };
    let generation = Generation::begin(&app, record.clone(), client.0, order)?;
    let prompts = if echo { prompts } else { vec![] };
    let name = options.model.unwrap_or_else(|| model.id.clone());
    let writer = Writer {
        id: format!("cmpl-{}", record.id()),
        created: super::plain::now(),
        model: name,
        tokenizer,
        prompts,
        n,
        logprobs: logprobs.is_some(),
    };
    write::answer(&app, record, generation, writer, streamed).await
}

/// Returns the tokenizer of a model.
///
/// # Errors
/// If it has none.
pub(super) fn tokenizer(model: &Loaded) -> Result<Arc<Tokenizer>, ApiError> {
    let missing = |reason: &str| ApiError::new(StatusCode::BAD_REQUEST, "not_supported", reason);
    model.tokenizer().cloned().map_err(missing)
}

/// Returns the tokens of the prompts.
pub(super) async fn prompts(tokenizer: Arc<Tokenizer>, prompt: Prompt) -> Result<Vec<Vec<u32>>, ApiError> {
    let texts = match prompt {
        Prompt::Tokens(tokens) => return Ok(vec![tokens]),
        Prompt::ManyTokens(prompts) if prompts.len() <= MOST_PROMPTS => return Ok(prompts),
        Prompt::Text(text) => vec![text],
        Prompt::Texts(texts) if texts.len() <= MOST_PROMPTS => texts,
        Prompt::Texts(_) | Prompt::ManyTokens(_) => {
            return Err(ApiError::invalid("prompt", format!("prompt: at most {MOST_PROMPTS} prompts")));
        }
    };
    if texts.is_empty() {
        return Err(ApiError::invalid("prompt", "prompt: there is none"));
    }
    super::plain::blocking(move || texts.iter().map(|text| Ok(tokenizer.encode(text, true)?)).collect()).await
}

/// Writes the answer.
struct Writer {
    id: String,
    created: u64,
    model: String,
    tokenizer: Arc<Tokenizer>,
    /// The prompts, if they are repeated.
    prompts: Vec<Vec<u32>>,
    n: usize,
    logprobs: bool,
}

impl Writer {
    fn completion(&self, choices: Vec<CompletionChoice>) -> Completion {
        let (id, model) = (self.id.clone(), self.model.clone());
        Completion { id, object: "text_completion", created: self.created, model, choices, usage: None, impasto: None }
    }

    /// The beginning of a continuation: its prompt, if that is repeated and its log probabilities are not awaited.
    fn begin(&self, index: usize, offset: &mut usize) -> Result<CompletionChoice, ApiError> {
        let mut choice = CompletionChoice { index, ..CompletionChoice::default() };
        if self.logprobs {
            choice.logprobs = Some(CompletionLogprobs::default());
        }
        if let Some(prompt) = self.prompts.get(index / self.n) {
            choice.text = self.tokenizer.decode(prompt, false)?;
            if let (Some(logprobs), Some(&first)) = (&mut choice.logprobs, prompt.first()) {
                logprobs.push_first(first, &self.tokenizer, offset);
            }
        }
        Ok(choice)
    }

    /// Appends tokens to the log probabilities of a continuation.
    fn score(&self, choice: &mut CompletionChoice, tokens: &[Scored], offset: &mut usize) {
        if let Some(logprobs) = &mut choice.logprobs {
            tokens.iter().for_each(|token| logprobs.push_scored(token, &self.tokenizer, offset));
        }
    }
}

impl Write for Writer {
    type Whole = Completion;

    async fn whole(&self, mut generation: Generation) -> Result<Completion, ApiError> {
        let count = generation.choices();
        let mut offsets = vec![0; count];
        let choices = offsets.iter_mut().enumerate().map(|(index, offset)| self.begin(index, offset));
        let mut choices = choices.collect::<Result<Vec<_>, _>>()?;
        while let Some(update) = generation.next().await? {
            match update {
                Update::Prompt { first, tokens } => {
                    for (choice, offset) in choices.iter_mut().zip(&mut offsets).skip(first).take(self.n) {
                        self.score(choice, &tokens, offset);
                    }
                }
                Update::Piece { choice, piece } => {
                    choices[choice].text.push_str(&piece.text);
                    self.score(&mut choices[choice], &piece.tokens, &mut offsets[choice]);
                }
                Update::End { choice, finish } => choices[choice].finish_reason = Some(finish),
            }
        }
        let (usage, impasto) = (Some(generation.usage()), Some(generation.timings()));
        Ok(Completion { usage, impasto, ..self.completion(choices) })
    }

    async fn stream(&self, mut generation: Generation, usage: bool, events: &sse::Events) -> Result<(), Ended> {
        let count = generation.choices();
        let mut offsets = vec![0; count];
        for (index, offset) in offsets.iter_mut().enumerate() {
            let choice = self.begin(index, offset)?;
            if !choice.text.is_empty() {
                events.send(&self.completion(vec![choice])).await?;
            }
        }
        while let Some(update) = events.alive(generation.next()).await?? {
            let mut piece = CompletionChoice::default();
            if self.logprobs {
                piece.logprobs = Some(CompletionLogprobs::default());
            }
            match update {
                Update::Prompt { first, tokens } => {
                    for (index, offset) in offsets.iter_mut().enumerate().skip(first).take(self.n) {
                        let mut piece = CompletionChoice { index, ..piece.clone() };
                        self.score(&mut piece, &tokens, offset);
                        events.send(&self.completion(vec![piece])).await?;
                    }
                    continue;
                }
                Update::Piece { choice, piece: more } => {
                    (piece.index, piece.text) = (choice, more.text);
                    self.score(&mut piece, &more.tokens, &mut offsets[choice]);
                }
                Update::End { choice, finish } => {
                    (piece.index, piece.finish_reason, piece.logprobs) = (choice, Some(finish), None);
                }
            }
            let is_end = piece.finish_reason.is_some();
            let completion = self.completion(vec![piece]);
            let impasto = is_end.then(|| generation.timings());
            events.send(&Completion { impasto, ..completion }).await?;
        }
        if usage {
            events.send(&Completion { usage: Some(generation.usage()), ..self.completion(vec![]) }).await?;
        }
        events.done().await?;
        Ok(())
    }
}
