//! Shared parts of the translation tests: a table of tensors, tokenizers, comparison of JSON.

use std::collections::BTreeMap;

use impasto_checkpoint::gguf::hf::Tensors;
use serde_json::Value;
use tokenizers::Tokenizer;

/// Tensors by name: their shapes, and values where they matter.
#[derive(Default)]
pub struct Table(BTreeMap<String, (Vec<u64>, Option<Vec<f32>>)>);

impl Table {
    pub fn add(&mut self, name: &str, shape: &[u64]) {
        self.0.insert(name.into(), (shape.to_vec(), None));
    }

    pub fn add_values(&mut self, name: &str, values: &[f32]) {
        self.0.insert(name.into(), (vec![values.len() as u64], Some(values.to_vec())));
    }
}

impl Tensors for Table {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.0.get(name).map(|tensor| tensor.0.clone())
    }

    fn values(&self, name: &str) -> Option<Vec<f32>> {
        self.0.get(name)?.1.clone()
    }
}

/// Asserts that `made` has each field of `expected`; numbers may differ by binary32 rounding.
pub fn assert_fields(what: &str, made: &Value, expected: &Value) {
    for (key, value) in expected.as_object().unwrap() {
        assert!(same(&made[key], value), "{what}: {key}: {} and not {value}", made[key]);
    }
}

fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => {
            // An integer must be written as one: readers of config.json require it.
            let integers = a.is_u64() || !b.is_u64();
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            integers && (a == b || (a / b - 1.0).abs() < 1e-7)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().all(|(key, value)| b.get(key).is_some_and(|other| same(value, other)))
        }
        _ => a == b,
    }
}

pub fn tokenizer(json: &[u8]) -> Tokenizer {
    Tokenizer::from_bytes(json).unwrap()
}

pub fn ids(tokenizer: &Tokenizer, text: &str, special: bool) -> Vec<u32> {
    tokenizer.encode_fast(text, special).unwrap().get_ids().to_vec()
}

/// Returns the text of ids, without special tokens.
pub fn decoded(tokenizer: &Tokenizer, ids: &[u32]) -> String {
    tokenizer.decode(ids, true).unwrap()
}
