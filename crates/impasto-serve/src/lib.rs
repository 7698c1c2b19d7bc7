//! A server for models in `.impasto` files: the interface of OpenAI over HTTP.
//!
//! ```text
//! http     connections, keys, hosts, origins, records of requests
//! api      requests -> prompts -> jobs; events -> text -> answers, whole or in pieces
//! engine   jobs of all requests share passes, on a thread of its own
//! models   files and their layers, loaded when they are asked for
//! guard    answers are compared with those of a finer layer when nothing else runs
//! ```
//!
//! The page at `/` is in `web`. Nothing here reads a path from a request.

pub mod api;
pub mod engine;
pub mod guard;
pub mod http;
pub mod metrics;
pub mod models;
mod options;
pub mod record;
pub mod web;

pub use options::{GuardOptions, Pooling, ServeOptions};
