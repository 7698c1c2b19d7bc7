//! Integration tests, in one binary.

mod quantize;
mod reorder;
mod statistics;
#[allow(dead_code, reason = "shared with the model's own tests")]
#[path = "../../../impasto-model/tests/it/support/mod.rs"]
mod support;
mod transform;
