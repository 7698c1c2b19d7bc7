//! What keeps a model from being measured.

use impasto_model::ModelError;
use impasto_text::TextError;

/// The crate's result.
pub type Result<T, E = EvalError> = std::result::Result<T, E>;

/// Why a model could not be measured. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The text is too short to be scored.
    #[error("the text has {tokens} tokens, one window needs {window}")]
    TextTooShort {
        /// Tokens of the text.
        tokens: usize,
        /// Tokens of the text in one window.
        window: usize,
    },
    /// Two models that cannot be compared.
    #[error("the models cannot be compared: vocabularies of {reference} and {ours}")]
    Vocabularies {
        /// Vocabulary of the reference.
        reference: usize,
        /// Vocabulary of the model under test.
        ours: usize,
    },
    /// The model, or options that it cannot meet.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer.
    #[error(transparent)]
    Text(#[from] TextError),
}
