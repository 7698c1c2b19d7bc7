//! The fuzz targets. Their code is part of the facade's tests, which run it on the files in `regressions/` without a
//! fuzzer.

#[path = "../../crates/impasto/tests/it/support/fuzz_bodies.rs"]
pub mod bodies;

pub use impasto_serve::api::fuzz_request;
