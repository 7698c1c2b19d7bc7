//! Errors of tasks.

use crate::EvalError;

/// Why a task could not be read or scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A line is not a valid item.
    #[error("{file}, line {line}: {rule}")]
    Line {
        /// File name.
        file: String,
        /// Line number of the item, from 1.
        line: usize,
        /// The rule that it violates.
        rule: LineRule,
    },
    /// A file has no items.
    #[error("{file}: no items")]
    Empty {
        /// File name.
        file: String,
    },
    /// The file cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// File name.
        file: String,
        /// The system's error.
        #[source]
        source: std::io::Error,
    },
    /// A model cannot score an item.
    #[error("{file}, line {line}: {source}")]
    Model {
        /// File name.
        file: String,
        /// Line number of the item, from 1.
        line: usize,
        /// The model's error.
        #[source]
        source: EvalError,
    },
}

/// A rule that a line of a task violates.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineRule {
    /// The length of a line is limited.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// Largest number of bytes in a line.
        limit: usize,
    },
    /// A line is JSON with the three fields.
    #[error("not an item with `query`, `choices` and `gold`: {0}")]
    Json(String),
    /// The query must not be empty.
    #[error("the query is empty")]
    EmptyQuery,
    /// There must be at least two choices.
    #[error("{0} choices, but at least 2 are required")]
    FewChoices(usize),
    /// No choice may be empty.
    #[error("choice {0} is empty")]
    EmptyChoice(usize),
    /// The correct choice must be one of the choices.
    #[error("gold = {gold} is not one of the {choices} choices, which count from 0")]
    Gold {
        /// The index given.
        gold: u64,
        /// Number of choices.
        choices: usize,
    },
}
