//! Integration tests, all in one program but for those that watch the memory of theirs.

mod bands;
mod calibration;
mod cancel;
mod conformance;
mod cuts;
mod damage;
mod encode_layers;
mod gguf;
mod layers;
mod lossless;
mod odd_shapes;
mod overhead;
mod rates;
mod regressions;
mod runtime;
mod safety;
mod statistics;
mod support;
