//! The text that `encode` calibrates on when it is given no other.

/// About 240 KB of English prose, facts, questions with answers, and code, all of it in the public domain; sources in
/// `assets/calibration/README.md`. It is mixed in pieces of 2 to 4 KB: any beginning is a mixture like the whole.
pub const TEXT: &str = include_str!("../../../assets/calibration/text.txt");
