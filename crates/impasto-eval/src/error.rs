//! The crate's errors.

use impasto_model::ModelError;
use impasto_text::TextError;

/// A result with [`EvalError`].
pub type Result<T, E = EvalError> = std::result::Result<T, E>;

/// Why a model could not be measured. Each message is one line.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvalError {
    /// The text is shorter than one window.
    #[error("the text has {tokens} tokens, but one window needs {window}")]
    TextTooShort {
        /// Number of tokens in the text.
        tokens: usize,
        /// Number of tokens of text in one window.
        window: usize,
    },
    /// The two models cannot be compared.
    #[error("the models cannot be compared: their vocabularies have {reference} and {ours} tokens")]
    Vocabularies {
        /// Vocabulary size of the reference.
        reference: usize,
        /// Vocabulary size of the model under test.
        ours: usize,
    },
    /// The model failed, or an option is out of range for it.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer failed.
    #[error(transparent)]
    Text(#[from] TextError),
}
