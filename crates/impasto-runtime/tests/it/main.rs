//! Integration tests, all in one program.

mod exchange;
mod families;
mod foreign;
mod generate;
mod refusals;
mod session;
#[allow(dead_code, reason = "shared with the model's own tests")]
#[path = "../../../impasto-model/tests/it/support/mod.rs"]
mod support;
