//! The text that `encode` calibrates on by default.

/// 250 KB of English prose, facts, questions with answers, and code, all in the public domain. The sources are in
/// `assets/calibration/README.md`. Pieces of about 3 KB are mixed, so any prefix is a mixture like the whole.
pub const TEXT: &str = include_str!("../assets/text.txt");
