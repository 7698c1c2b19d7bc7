//! Jobs of the engine, and what it reports about them.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Instant;

use impasto_model::ModelError;
use impasto_model::sampling::SamplingParams;
use tokio::sync::mpsc::UnboundedSender;

use super::Constraint;
use crate::models::Loaded;

/// A prompt to continue, in one or several ways.
pub struct Job {
    /// Whose job it is: clients take turns.
    pub client: u64,
    /// Whose keys and values it may use: those of jobs with the same owner.
    pub owner: u64,
    /// The model that continues it.
    pub model: Arc<Loaded>,
    /// The tokens to continue; not empty.
    pub prompt: Vec<u32>,
    /// The number of the first continuation; the others follow. Jobs of one request share their receiver.
    pub first: usize,
    /// Continuations, by number, that nobody needs any more.
    pub stopped: Arc<[AtomicBool]>,
    /// How the tokens of each continuation are sampled.
    pub choices: Vec<SamplingParams>,
    /// The most tokens of a continuation. With 0, only the prompt is evaluated.
    pub max_tokens: usize,
    /// Tokens that end a continuation.
    pub eos: Vec<u32>,
    /// How many of the most likely tokens are reported with the log probability of each token, if that is wanted.
    pub logprobs: Option<usize>,
    /// The same for the tokens of the prompt.
    pub prompt_logprobs: Option<usize>,
    /// What is added to the logits of some tokens.
    pub logit_bias: Vec<(u32, f32)>,
    /// What each continuation must match, if anything; as many as choices, or none.
    pub constraints: Vec<Box<dyn Constraint>>,
    /// When the job is given up.
    pub deadline: Instant,
    /// Where events go. A job whose receiver is gone is given up.
    pub events: UnboundedSender<Event>,
}

/// What happened to a job.
#[derive(Debug)]
pub enum Event {
    /// It left the queue. The keys and values of so many tokens of its prompt were there already.
    Started {
        /// Number of these tokens.
        cached: usize,
    },
    /// The log probabilities of the prompt's tokens from the second on, if they are wanted.
    Prompt {
        /// The number of the first continuation of the prompt.
        first: usize,
        /// The tokens.
        tokens: Vec<Scored>,
    },
    /// The prompt is evaluated.
    Evaluated,
    /// A continuation has another token.
    Token {
        /// The number of the continuation.
        choice: usize,
        /// The token.
        token: Scored,
    },
    /// The token that ends a continuation, if its prompt was scored: programs that score expect as many log probabilities as
    /// tokens were drawn. It is no part of the text.
    Eos {
        /// The number of the continuation.
        choice: usize,
        /// The token.
        token: Scored,
    },
    /// A continuation has ended.
    End {
        /// The number of the continuation.
        choice: usize,
        /// Why.
        reason: EndReason,
    },
    /// The job has failed; nothing follows.
    Failed(EngineError),
}

/// A token and how likely it was.
#[derive(Clone, Debug, PartialEq)]
pub struct Scored {
    /// The token.
    pub token: u32,
    /// Its log probability in nats, if that is wanted.
    pub logprob: Option<f64>,
    /// The most likely tokens in its place with their log probabilities, most likely first.
    pub top: Vec<(u32, f64)>,
}

/// Why a continuation has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndReason {
    /// The model wrote this token, which ends a text.
    Eos(u32),
    /// What it must match is complete.
    Complete,
    /// It has the most tokens that it may have.
    MaxTokens,
    /// The context is full.
    ContextFull,
}

/// Why a job was refused, or has failed.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// There are as many jobs waiting as are allowed.
    #[error("the server is busy: {0} requests are waiting already")]
    QueueFull(usize),
    /// The request has more prompts than could ever wait.
    #[error("the request has {0} prompts, more than the server lets wait")]
    TooMany(usize),
    /// The server ends.
    #[error("the server is shutting down")]
    Ending,
    /// The job took longer than it may.
    #[error("the request took longer than it may")]
    Deadline,
    /// There is no memory for its keys and values, although nothing else runs.
    #[error("there is not enough memory for the keys and values of this request: {0}")]
    Memory(ModelError),
    /// The model has failed.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A pass over several texts has failed.
    #[error("the model failed: {0}")]
    Pass(String),
    /// What the text must match does not allow any token, or failed.
    #[error("the text cannot be made to match: {0}")]
    Constraint(String),
    /// A panic, which was reported.
    #[error("the model failed in an unexpected way; see the log of the server")]
    Panicked,
}
