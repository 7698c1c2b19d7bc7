//! What can go wrong between a text and its tokens.

/// The crate's result.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

/// Why a text could not be turned into tokens, or tokens into text. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TextError {
    /// The model came without a file that the job needs.
    #[error("{name}: not found; {why}")]
    MissingAsset {
        /// File name of the asset.
        name: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// An asset is there but is not what it should be.
    #[error("{name}: {reason}")]
    BadAsset {
        /// File name of the asset.
        name: &'static str,
        /// The rule it breaks.
        reason: String,
    },
    /// An option outside its range.
    #[error("{name} = {value}: {rule}")]
    BadOption {
        /// Name of the option.
        name: &'static str,
        /// Value given.
        value: String,
        /// The rule it breaks.
        rule: &'static str,
    },
    /// The tokenizer refused a text or a token.
    #[error("tokenizer: {0}")]
    Tokenizer(String),
    /// The chat template failed, or refused the conversation.
    #[error("chat template: {0}")]
    Chat(String),
}

impl TextError {
    pub(crate) fn asset(name: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::BadAsset { name, reason: reason.to_string() }
    }
}
