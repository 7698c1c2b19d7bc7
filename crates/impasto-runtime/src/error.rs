//! What can go wrong between a source and a generated text.

use impasto_kernels::KernelError;
use impasto_kernels::kv::KvError;
use impasto_model::ModelError;
use impasto_text::TextError;

/// The crate's result.
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Why a model could not be loaded or run: the words of the part that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The network, or what it was given.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// Tokenizer, chat template or stop strings.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The thread pool.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The layout of keys and values.
    #[error(transparent)]
    Kv(#[from] KvError),
}
