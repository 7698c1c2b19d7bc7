//! Integration tests, all in one program.

mod analyze;
mod chat;
mod commands;
mod deltas;
mod failures;
mod gguf;
mod kill;
mod layers;
mod limits;
mod live;
mod packs;
mod support;
mod tasks;
mod templates;
