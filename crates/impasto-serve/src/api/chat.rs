//! `/v1/chat/completions`: the next message of a conversation.

use std::sync::Arc;

use axum::Extension;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use impasto_text::Message;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::answer::Answer;
use super::completions::tokenizer;
use super::error::{ApiError, ErrorBody};
use super::generation::{Finish, Generation, Order, Timings, Update, Usage};
use super::logprobs::ChatLogprobs;
use super::prompt::{self, Prompted};
use super::request::{TextOptions, count, stops, top_logprobs};
use super::write::{self, Ended, Write};
use super::{App, Client, body, constraint, plain, sse};
use crate::record::Record;

/// A request for the next message of a conversation. Fields that are not listed are ignored.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ChatRequest {
    /// The conversation: messages with `role` and `content` (text, or a list of text parts), calls of functions and their results.
    #[schema(value_type = Vec<Object>)]
    pub messages: Vec<Message>,
    /// The most tokens to write. By default, as many as the context allows.
    pub max_completion_tokens: Option<usize>,
    /// The same, by its older name.
    pub max_tokens: Option<usize>,
    /// Whether log probabilities of the tokens are reported.
    pub logprobs: Option<bool>,
    /// With so many of the most likely tokens.
    pub top_logprobs: Option<usize>,
    /// Functions that the model may call.
    pub tools: Option<Vec<Value>>,
    /// `auto` (the default), `none`, `required`, or `{"type": "function", "function": {"name": ...}}`.
    pub tool_choice: Option<ToolChoice>,
    /// Whether the model may call several functions at once.
    pub parallel_tool_calls: Option<bool>,
    /// What the answer must match.
    pub response_format: Option<ResponseFormat>,
    /// More variables for the chat template, such as `{"enable_thinking": false}`.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// What requests for text have in common.
    #[serde(flatten)]
    pub options: TextOptions,
}

impl ChatRequest {
    /// The most tokens to write, if it is said.
    fn most(&self) -> Option<usize> {
        self.max_completion_tokens.or(self.max_tokens)
    }
}

/// Whether functions are called.
#[derive(Clone, Debug, PartialEq, Deserialize, ToSchema)]
#[serde(untagged)]
pub enum ToolChoice {
    /// `auto`, `none` or `required`.
    Mode(ToolMode),
    /// A function, which must be called.
    Function {
        /// The function.
        function: FunctionName,
    },
}

/// Whether functions are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolMode {
    /// The model decides.
    Auto,
    /// None is.
    None,
    /// At least one is.
    Required,
}

/// A function, by name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, ToSchema)]
pub struct FunctionName {
    /// The name.
    pub name: String,
}

/// What an answer must match.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Anything.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON that a schema describes.
    JsonSchema {
        /// The schema.
        json_schema: NamedSchema,
    },
    /// A regular expression.
    Regex {
        /// The expression.
        pattern: String,
    },
}

/// A JSON schema.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NamedSchema {
    /// The schema.
    #[schema(value_type = Object)]
    pub schema: Value,
}

/// The answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatCompletion {
    /// The number of the request.
    pub id: String,
    /// Always `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that was asked for.
    pub model: String,
    /// The answers.
    pub choices: Vec<ChatChoice>,
    /// Numbers of tokens.
    pub usage: Usage,
    /// What gave the answers, and how fast.
    pub impasto: Timings,
}

/// An answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Its number.
    pub index: usize,
    /// The message.
    pub message: AnswerMessage,
    /// Log probabilities, if requested.
    pub logprobs: Option<ChatLogprobs>,
    /// Why it ended.
    pub finish_reason: Finish,
}

/// The message of an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// Always `assistant`.
    pub role: &'static str,
    /// The text; null if there are only calls.
    pub content: Option<String>,
    /// What the model thought before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions that are called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<AnswerCall>,
}

/// A function that is called.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AnswerCall {
    /// Identifies the call in the message with its result.
    pub id: String,
    /// Always `function`.
    pub r#type: &'static str,
    /// The function.
    pub function: AnswerFunction,
}

/// The function of a call.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct AnswerFunction {
    /// Its name.
    pub name: String,
    /// Its arguments, as the text of a JSON object.
    pub arguments: String,
}

/// A piece of answers.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// The number of the request.
    pub id: String,
    /// Always `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// The model that was asked for.
    pub model: String,
    /// The pieces; none in the last chunk, which has the usage.
    pub choices: Vec<ChunkChoice>,
    /// Numbers of tokens, at the end if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// What gave the answers, and how fast, at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub impasto: Option<Timings>,
}

/// A piece of an answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// The number of the answer.
    pub index: usize,
    /// What is new.
    pub delta: Delta,
    /// Log probabilities of its tokens, if requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprobs: Option<ChatLogprobs>,
    /// Why the answer ended; null before.
    pub finish_reason: Option<Finish>,
}

/// What is new in an answer.
#[derive(Clone, Debug, Default, PartialEq, Serialize, ToSchema)]
pub struct Delta {
    /// `assistant`, in the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More of what the model thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// Functions that are called, or more of their arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<DeltaCall>,
}

/// More of a call.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeltaCall {
    /// The number of the call.
    pub index: usize,
    /// Its id, in its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `function`, in its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    /// The function.
    pub function: DeltaFunction,
}

/// More of the function of a call.
#[derive(Clone, Debug, PartialEq, Serialize, ToSchema)]
pub struct DeltaFunction {
    /// Its name, in its first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More of its arguments.
    pub arguments: String,
}

/// Writes the next message of a conversation.
#[utoipa::path(
    post, path = "/v1/chat/completions", tag = "text", request_body = ChatRequest,
    responses(
        (status = 200, description = "The answers, or events of pieces of them (ChatChunk).", body = ChatCompletion),
        (status = "4XX", description = "The request is wrong, or the server is busy.", body = ErrorBody),
        (status = "5XX", description = "The server failed.", body = ErrorBody),
    )
)]
pub async fn chat_completions(
    State(app): State<Arc<App>>,
    Extension(record): Extension<Arc<Record>>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let request: ChatRequest = body::json(&app, &headers, body).await?;
    let n = count(request.options.n, app.options.parallel)?;
    let model = app.catalog.get(request.options.model.as_deref()).await?;
    let tokenizer = tokenizer(&model)?;
    if request.messages.is_empty() {
        return Err(ApiError::invalid("messages", "messages: there are none"));
    }
    let top = request.top_logprobs.map(|count| top_logprobs("top_logprobs", count)).transpose()?;
    let logprobs = match (request.logprobs.unwrap_or(false), top) {
        (false, Some(count)) if count > 0 => {
            return Err(ApiError::invalid("top_logprobs", "top_logprobs needs logprobs = true"));
        }
        (wanted, top) => wanted.then_some(top.unwrap_or(0)),
    };
    let (options, streamed, max_tokens) = (request.options.clone(), request.options.streamed(), request.most());
    let (choices, stops) = (options.sampling.choices(n)?, stops(options.stop)?);
    let logit_bias = options.sampling.biases(model.model().network().vocab_size())?;
    let of_prompt = model.clone();
    let (prompted, constraints) = plain::blocking(move || {
        let prompted = prompt::of(&of_prompt, &request)?;
        let constraints = constraint::of(&of_prompt, &request, &prompted, n)?;
        Ok((prompted, constraints))
    })
    .await?;
    let template =
        model.template().map_err(|reason| ApiError::new(StatusCode::BAD_REQUEST, "not_supported", reason))?;
    let order = Order {
        model: model.clone(),
        prompts: vec![prompted.tokens.clone()],
        choices,
        max_tokens,
        eos: if options.ignore_eos.unwrap_or(false) { vec![] } else { model.model().chat_options(template).eos },
        stops,
        with_special: prompted.with_special,
        logprobs,
        echo_logprobs: false,
        logit_bias,
        constraints,
    };
    let generation = Generation::begin(&app, record.clone(), client.0, order)?;
    let id = format!("chatcmpl-{}", record.id());
    let name = options.model.unwrap_or_else(|| model.id.clone());
    let writer = Writer { id, created: plain::now(), model: name, tokenizer, prompted, logprobs: logprobs.is_some() };
    write::answer(&app, record, generation, writer, streamed).await
}

/// Writes the answers.
struct Writer {
    id: String,
    created: u64,
    model: String,
    tokenizer: Arc<impasto_text::Tokenizer>,
    prompted: Prompted,
    logprobs: bool,
}

impl Writer {
    fn chunk(&self, choices: Vec<ChunkChoice>) -> ChatChunk {
        let (id, model) = (self.id.clone(), self.model.clone());
        ChatChunk {
            id,
            object: "chat.completion.chunk",
            created: self.created,
            model,
            choices,
            usage: None,
            impasto: None,
        }
    }
}

impl Write for Writer {
    type Whole = ChatCompletion;

    async fn whole(&self, mut generation: Generation) -> Result<ChatCompletion, ApiError> {
        let count = generation.choices();
        let mut answers: Vec<Answer> = (0..count).map(|_| Answer::new(&self.prompted)).collect();
        let mut messages = vec![AnswerMessage { role: "assistant", ..AnswerMessage::default() }; count];
        let mut logprobs = vec![ChatLogprobs::default(); count];
        let mut finishes = vec![Finish::Stop; count];
        while let Some(update) = generation.next().await? {
            match update {
                Update::Prompt { .. } => {}
                Update::Piece { choice, piece } => {
                    logprobs[choice].extend(&piece.tokens, &self.tokenizer);
                    for delta in answers[choice].push(&piece.text) {
                        messages[choice].append(delta);
                    }
                    if answers[choice].is_over() {
                        generation.stop(choice);
                    }
                }
                Update::End { choice, finish } => {
                    for delta in answers[choice].finish() {
                        messages[choice].append(delta);
                    }
                    finishes[choice] = answers[choice].reason(finish);
                }
            }
        }
        let choices = messages.into_iter().zip(logprobs).zip(finishes).enumerate();
        let choices = choices.map(|(index, ((mut message, logprobs), finish_reason))| {
            if message.content.is_none() && message.tool_calls.is_empty() {
                message.content = Some(String::new());
            }
            ChatChoice { index, message, logprobs: self.logprobs.then_some(logprobs), finish_reason }
        });
        Ok(ChatCompletion {
            id: self.id.clone(),
            object: "chat.completion",
            created: self.created,
            model: self.model.clone(),
            choices: choices.collect(),
            usage: generation.usage(),
            impasto: generation.timings(),
        })
    }

    async fn stream(&self, mut generation: Generation, usage: bool, events: &sse::Events) -> Result<(), Ended> {
        let count = generation.choices();
        let mut answers: Vec<Answer> = (0..count).map(|_| Answer::new(&self.prompted)).collect();
        let piece = |index: usize, delta: Delta| ChunkChoice { index, delta, logprobs: None, finish_reason: None };
        for index in 0..count {
            let delta = Delta { role: Some("assistant"), content: Some(String::new()), ..Delta::default() };
            events.send(&self.chunk(vec![piece(index, delta)])).await?;
        }
        while let Some(update) = events.alive(generation.next()).await?? {
            match update {
                Update::Prompt { .. } => {}
                Update::Piece { choice, piece: more } => {
                    let mut logprobs = self.logprobs.then(ChatLogprobs::default);
                    if let Some(logprobs) = &mut logprobs {
                        logprobs.extend(&more.tokens, &self.tokenizer);
                    }
                    let mut deltas = answers[choice].push(&more.text);
                    if deltas.is_empty() && logprobs.is_some() {
                        deltas.push(Delta { content: Some(String::new()), ..Delta::default() });
                    }
                    for delta in deltas {
                        let piece = ChunkChoice { logprobs: logprobs.take(), ..piece(choice, delta) };
                        events.send(&self.chunk(vec![piece])).await?;
                    }
                    if answers[choice].is_over() {
                        generation.stop(choice);
                    }
                }
                Update::End { choice, finish } => {
                    for delta in answers[choice].finish() {
                        events.send(&self.chunk(vec![piece(choice, delta)])).await?;
                    }
                    let finish_reason = Some(answers[choice].reason(finish));
                    let last = ChunkChoice { finish_reason, ..piece(choice, Delta::default()) };
                    let impasto = Some(generation.timings());
                    events.send(&ChatChunk { impasto, ..self.chunk(vec![last]) }).await?;
                }
            }
        }
        if usage {
            events.send(&ChatChunk { usage: Some(generation.usage()), ..self.chunk(vec![]) }).await?;
        }
        events.done().await?;
        Ok(())
    }
}

impl AnswerMessage {
    /// Appends a piece.
    fn append(&mut self, delta: Delta) {
        if let Some(text) = delta.content {
            self.content.get_or_insert_default().push_str(&text);
        }
        if let Some(text) = delta.reasoning_content {
            self.reasoning_content.get_or_insert_default().push_str(&text);
        }
        for call in delta.tool_calls {
            match (call.id, call.function.name, self.tool_calls.get_mut(call.index)) {
                (Some(id), Some(name), _) => {
                    let function = AnswerFunction { name, arguments: call.function.arguments };
                    self.tool_calls.push(AnswerCall { id, r#type: "function", function });
                }
                (_, _, Some(known)) => known.function.arguments.push_str(&call.function.arguments),
                _ => {}
            }
        }
    }
}
