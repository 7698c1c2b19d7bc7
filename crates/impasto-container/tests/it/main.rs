//! Integration tests in one program, except those that watch the memory of their own program.

mod bands;
mod common;
mod damage;
mod expansion;
mod hostile;
mod hostile_dtypes;
mod hostile_layers;
mod hostile_manifests;
mod levels;
mod round_trip;
mod sources;
mod writer;
