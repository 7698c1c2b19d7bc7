//! Integration tests, all in one program.

mod compiled;
mod hostile;
mod hostile_tokenizers;
mod streams;
#[path = "../../../impasto-model/tests/it/support/tamper.rs"]
mod tamper;
