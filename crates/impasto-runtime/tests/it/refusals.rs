//! Errors in a source are reported by name, before anything runs.

use crate::support::{Folder, Table};
use impasto_model::{CausalLm, ModelError};
use impasto_runtime::{Model, RunOptions, RuntimeError};
use impasto_text::TextError;

fn refusal(table: &Table) -> String {
    let error = Model::load(table, &RunOptions::float()).err().expect("must be refused").to_string();
    assert!(!error.contains('\n'), "{error}");
    error
}

#[test]
fn assets() {
    let good = Folder::golden("random-untied").table();
    let mut bad = good.clone();
    bad.assets.remove("config.json");
    assert!(refusal(&bad).contains("config.json: not found"));
    let mut bad = good;
    bad.assets.insert("tokenizer.json".into(), b"{}".to_vec());
    assert!(refusal(&bad).contains("tokenizer.json"));
}

#[test]
fn a_model_without_text() {
    let options = RunOptions { threads: 1, max_context: Some(4), ..RunOptions::float() };
    let short = Model::load(&Folder::golden("random-tied"), &options).unwrap();
    assert_eq!(short.decoder().unwrap().max_context(), 4);
    let bytes: usize = Folder::golden("random-tied").table().tensors.values().map(|t| t.1.len() * 4).sum();
    assert_eq!((short.memory_bytes(), short.config().weight_bytes()), (bytes, Some(bytes)));
    assert!(matches!(short.tokenizer(), Err(TextError::MissingAsset { .. })));
    assert!(matches!(short.chat_template(), Err(TextError::MissingAsset { .. })));
}

/// A small configuration can describe a model of terabytes. It is rejected before anything is allocated.
#[test]
fn a_model_above_the_memory_limit_is_refused() {
    let options = RunOptions { memory_limit: Some(10_000), ..RunOptions::float() };
    let error = Model::load(&Folder::golden("random-tied"), &options).err().expect("above the limit");
    assert!(matches!(error, RuntimeError::Model(ModelError::MemoryLimit { limit: 10_000, .. })), "{error}");
    let options = RunOptions { memory_limit: Some(1 << 30), ..RunOptions::float() };
    assert!(Model::load(&Folder::golden("random-tied"), &options).is_ok());
}
