//! Options of the server.

use std::time::Duration;

/// Limits, and who may use the server.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// The most texts that are written at the same time.
    pub parallel: usize,
    /// The most requests that wait for their turn.
    pub queue: usize,
    /// The most tokens that a request may have written.
    pub max_tokens: usize,
    /// The most bytes of the body of a request.
    pub max_body: usize,
    /// The longest time that a request may take.
    pub timeout: Duration,
    /// The most connections at the same time.
    pub connections: usize,
    /// Keys of which a request must have one; none are needed if there are none.
    pub api_keys: Vec<String>,
    /// Origins whose pages may use the server; `*` for all.
    pub allow_origins: Vec<String>,
    /// Names by which the server may be addressed, besides localhost and addresses of numbers; `*` for all.
    pub allow_hosts: Vec<String>,
    /// How long running requests may go on when the server ends.
    pub grace: Duration,
    /// How the embedding of a text is made of its tokens, if models do not say.
    pub pooling: Option<Pooling>,
    /// Whether prompts and answers are logged.
    pub log_text: bool,
    /// The guardrails.
    pub guard: GuardOptions,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self {
            parallel: 16,
            queue: 256,
            max_tokens: 1 << 16,
            max_body: 8 << 20,
            timeout: Duration::from_secs(600),
            connections: 4096,
            api_keys: Vec::new(),
            allow_origins: Vec::new(),
            allow_hosts: Vec::new(),
            grace: Duration::from_secs(30),
            pooling: None,
            log_text: false,
            guard: GuardOptions::default(),
        }
    }
}

/// How an embedding is made of the outputs for the tokens of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the last token.
    Last,
    /// That of the first token.
    First,
}

/// When and how answers are compared with those of a finer layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct GuardOptions {
    /// The share of texts that are compared, from 0 to 1.
    pub share: f64,
    /// The KL divergence from the finer layer, in nats per token, above which weights are promoted.
    pub threshold: f64,
    /// The number of texts whose mean is taken.
    pub window: usize,
}

impl Default for GuardOptions {
    fn default() -> Self {
        Self { share: 0.0, threshold: 1.0, window: 8 }
    }
}
