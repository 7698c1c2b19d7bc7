//! The arguments of `impasto serve`.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::ValueEnum;

use super::{Streaming, parse_items, parse_size};
use crate::drafts::DraftArgs;
use crate::running::Running;

/// Serve models over HTTP, with the interface of OpenAI's API and a page to chat with them.
///
/// A model is named by its file, without the extension, or as in NAME=FILE. A request may name a layer of it, too: NAME:2, or
/// NAME:3.5bpw for the finest layer of at most 3.5 bits per weight. Each is loaded when it is asked for, and unloaded when the
/// memory is needed for others. A delta shares the weights of its base if that is served as well.
///
/// Keys: one per line in --api-key-file, or in IMPASTO_API_KEY. Without keys, everybody who reaches the port may use the server.
#[derive(clap::Args)]
pub struct Serve {
    /// .impasto files, checkpoints, or addresses; each may be NAME=FILE.
    #[arg(required = true, value_name = "[NAME=]FILE|URL")]
    pub models: Vec<String>,
    /// The address to listen at.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub host: IpAddr,
    /// The port to listen at; 0 for any that is free.
    #[arg(short, long, value_name = "PORT", default_value_t = 8080)]
    pub port: u16,
    /// A file with API keys, one per line. Empty lines and lines that begin with # are ignored.
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Let web pages of this origin use the server, such as https://app.example.org; * for all. May be repeated.
    #[arg(long, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// Answer requests that address the server by this name, besides localhost and numbers; * for all. May be repeated.
    #[arg(long, value_name = "NAME")]
    pub allow_host: Vec<String>,
    /// The most texts that are written at the same time.
    #[arg(long, value_name = "N", default_value_t = 16, value_parser = parse_items)]
    pub parallel: usize,
    /// The most requests that wait for their turn; more get status 429.
    #[arg(long, value_name = "N", default_value_t = 256)]
    pub queue: usize,
    /// The most tokens of an answer [default: as many as the context allows].
    #[arg(long, value_name = "TOKENS", value_parser = parse_items)]
    pub max_tokens: Option<usize>,
    /// The largest request.
    #[arg(long, value_name = "SIZE", default_value = "8MiB", value_parser = parse_size)]
    pub max_body: u64,
    /// The longest time that a request may take, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600, value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub request_timeout: u64,
    /// The most connections at the same time.
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = parse_items)]
    pub max_connections: usize,
    /// How long running requests may go on after SIGTERM or Ctrl-C, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 30)]
    pub grace: u64,
    /// The memory for keys and values of all texts [default: a quarter of --memory-limit].
    #[arg(long, value_name = "SIZE", value_parser = parse_size)]
    pub kv_memory: Option<u64>,
    /// Load this model before the first request. It is named as in a request. May be repeated.
    #[arg(long, value_name = "NAME[:LAYER]")]
    pub preload: Vec<String>,
    /// Offer embeddings, pooled in this way. Only models that were trained for it give useful ones.
    #[arg(long, value_enum, value_name = "POOLING")]
    pub embeddings: Option<PoolingArg>,
    /// Compare this share of the answers, from 0 to 1, with the finest layer of their file when nothing else runs [default: 0].
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub guard: Option<f64>,
    /// The KL divergence from the finest layer, in nats per token, above which the blocks that err most get finer weights, and then
    /// all [default: four times what the file says of the layer, at least 0.1; 1 if it says nothing].
    #[arg(long, value_name = "NATS", value_parser = super::parse_bits, requires = "guard")]
    pub guard_threshold: Option<f64>,
    /// The number of comparisons whose mean is taken.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_items, requires = "guard")]
    pub guard_window: usize,
    /// The form of the log, on stderr.
    #[arg(long, value_enum, value_name = "FORM", default_value_t = LogForm::Text)]
    pub log: LogForm,
    /// Log prompts and answers, too.
    #[arg(long)]
    pub log_text: bool,
    /// What guesses tokens ahead, in answers with temperature 0.
    #[command(flatten)]
    pub drafts: DraftArgs,
    /// How to run the models.
    #[command(flatten)]
    pub running: Running,
    /// Models whose files arrive.
    #[command(flatten)]
    pub streaming: Streaming,
}

/// How an embedding is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PoolingArg {
    /// The mean over all tokens.
    Mean,
    /// The output for the last token.
    Last,
    /// The output for the first token.
    First,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// Lines for people.
    Text,
    /// Lines of JSON.
    Json,
}

/// Parses a share.
fn parse_share(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(share) if (0.0..=1.0).contains(&share) => Ok(share),
        _ => Err("not a number from 0 to 1".to_owned()),
    }
}
