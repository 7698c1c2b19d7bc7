//! Integration tests, all in one program.

mod statistics;
