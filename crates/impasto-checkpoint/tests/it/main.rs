//! Integration tests, in one binary except those that measure the memory of their process.

mod common;
mod folders;
mod gguf_hf;
mod gguf_hf_hostile;
mod gguf_hf_real;
mod gguf_hostile;
mod gguf_python;
mod gguf_round_trip;
mod gguf_split;
mod hostile_files;
mod round_trip;
