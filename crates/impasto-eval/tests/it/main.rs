//! Integration tests, all in one program.

mod measure;
#[allow(dead_code, reason = "shared with the model's own tests")]
#[path = "../../../impasto-model/tests/it/support/mod.rs"]
mod support;
mod tasks;
