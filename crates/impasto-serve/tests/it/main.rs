//! Integration tests of the server, in one program.

mod batching;
mod chat;
mod completions;
mod engine;
mod support;
