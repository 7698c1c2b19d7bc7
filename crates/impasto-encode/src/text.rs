//! The text that `encode` calibrates on when it is given no other.

/// 250 KB of English prose, facts, questions with answers, and code, all of it in the public domain; its sources are named
/// in `assets/calibration/README.md`. It is mixed in pieces of some 3 KB: any beginning is a mixture like the whole.
pub const TEXT: &str = include_str!("../assets/text.txt");
