//! Integration tests, all in one program.

mod hostile;
mod streams;
#[path = "../../../impasto-model/tests/it/support/tamper.rs"]
mod tamper;
