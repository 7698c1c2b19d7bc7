//! What can be wrong with a task.

use crate::EvalError;

/// Why a task could not be read or scored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// A line is not an item.
    #[error("{file}, line {line}: {rule}")]
    Line {
        /// File name.
        file: String,
        /// Line of the item, from 1.
        line: usize,
        /// The rule it breaks.
        rule: LineRule,
    },
    /// A file without a single item.
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
        /// The system's own words.
        #[source]
        source: std::io::Error,
    },
    /// A model cannot score an item.
    #[error("{file}, line {line}: {source}")]
    Model {
        /// File name.
        file: String,
        /// Line of the item, from 1.
        line: usize,
        /// What the model says.
        #[source]
        source: EvalError,
    },
}

/// What a line of a task must be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LineRule {
    /// Lines are bounded.
    #[error("longer than {limit} bytes")]
    TooLong {
        /// Most bytes of a line.
        limit: usize,
    },
    /// JSON with the three fields.
    #[error("not an item with `query`, `choices` and `gold`: {0}")]
    Json(String),
    /// The question says something.
    #[error("the query is empty")]
    EmptyQuery,
    /// There is something to choose.
    #[error("{0} choices, where at least 2 are needed")]
    FewChoices(usize),
    /// Each choice says something.
    #[error("choice {0} is empty")]
    EmptyChoice(usize),
    /// The right answer is one of the choices.
    #[error("gold = {gold} names none of {choices} choices, which count from 0")]
    Gold {
        /// Index given.
        gold: u64,
        /// Choices there are.
        choices: usize,
    },
}
