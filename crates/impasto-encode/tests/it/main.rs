//! Integration tests, in one binary.

mod statistics;
mod transform;
