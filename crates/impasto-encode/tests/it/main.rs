//! Integration tests, in one binary.

mod statistics;
