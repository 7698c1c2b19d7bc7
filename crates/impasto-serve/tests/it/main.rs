//! Integration tests of the server, in one program.

mod batching;
mod chat;
mod completions;
mod engine;
mod logs;
mod models;
mod openapi;
mod regressions;
mod safety;
mod support;
