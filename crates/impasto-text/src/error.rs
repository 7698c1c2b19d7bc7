//! The crate's errors.

use impasto_core::name::shown;

/// A result with [`TextError`].
pub type Result<T, E = TextError> = std::result::Result<T, E>;

/// Why text could not be turned into tokens, or tokens into text. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// A required asset is missing.
    #[error("{name}: not found; {why}")]
    MissingAsset {
        /// File name of the asset.
        name: &'static str,
        /// Why it is needed.
        why: &'static str,
    },
    /// An asset is invalid.
    #[error("{name}: {}", shown(.reason))]
    BadAsset {
        /// File name of the asset.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// An option is out of range.
    #[error("{name} = {}: {rule}", shown(.value))]
    BadOption {
        /// Name of the option.
        name: &'static str,
        /// Value given.
        value: String,
        /// The rule that it violates.
        rule: &'static str,
    },
    /// The tokenizer failed on a text or a token.
    #[error("tokenizer: {}", shown(.0))]
    Tokenizer(String),
    /// The chat template failed, or rejected the conversation.
    #[error("chat template: {}", shown(.0))]
    Chat(String),
    /// The chat template exceeds a limit of its text, or of the memory, stack or time for it.
    #[error("chat template: {}", shown(.0))]
    ChatLimit(String),
    /// A constraint on a text is invalid, not supported or exceeds a limit, or a token is not allowed by it.
    #[error("grammar: {}", shown(.0))]
    Grammar(String),
    /// The system refused what was needed to run a chat template.
    #[error("{what}: {error}")]
    System {
        /// What failed.
        what: &'static str,
        /// The reason that the system gave.
        error: std::io::Error,
    },
}

impl TextError {
    pub(crate) fn asset(name: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::BadAsset { name, reason: reason.to_string() }
    }

    /// The first line of a message of the grammar library, of bounded length; others quote the grammar.
    #[cfg(feature = "grammar")]
    pub(crate) fn grammar(message: &str) -> Self {
        let line = message.lines().next().unwrap_or_default();
        let line = if line.starts_with("panic: ") { "the grammar library failed on this constraint" } else { line };
        Self::Grammar(line.chars().take(300).collect())
    }

    pub(crate) fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |error| Self::System { what, error }
    }
}
