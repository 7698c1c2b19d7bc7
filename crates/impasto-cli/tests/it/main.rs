//! Integration tests, all in one program.

mod analyze;
mod chat;
#[cfg(all(unix, feature = "serve"))]
mod clients;
#[cfg(unix)]
mod cluster;
mod commands;
mod deltas;
mod failures;
#[cfg(feature = "fetch")]
mod fetch;
mod gguf;
mod kill;
mod layers;
mod limits;
mod live;
mod packs;
mod quantize;
mod recover;
mod sensitivity;
#[cfg(all(unix, feature = "serve"))]
mod serve;
#[cfg(feature = "fetch")]
#[allow(dead_code, reason = "shared with the tests of impasto-fetch")]
#[path = "../../../impasto-fetch/tests/it/server.rs"]
mod server;
mod shards;
mod speculation;
mod support;
mod tasks;
mod templates;
