//! Integration tests, all in one program but for those that watch the memory of theirs.

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
