//! The fuzz targets. What they do lies with the tests of the facade, which run it over the files in `regressions/` without a fuzzer.

#[path = "../../crates/impasto/tests/it/support/fuzz_bodies.rs"]
pub mod bodies;
