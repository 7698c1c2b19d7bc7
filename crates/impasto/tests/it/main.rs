//! Integration tests, in one binary except those that measure the memory of their process.

mod bands;
mod calibration;
mod cancel;
mod co_located;
mod config_matrix;
mod conformance;
mod cuts;
mod damage;
mod encode_layers;
mod formats;
mod gguf;
mod gguf_export;
mod layers;
mod lossless;
mod odd_shapes;
mod overhead;
mod rates;
mod regressions;
mod reorder;
mod runtime;
mod safety;
mod statistics;
mod support;
mod tokenizer;
mod transform;
