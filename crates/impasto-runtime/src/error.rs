//! The crate's errors.

use impasto_kernels::KernelError;
use impasto_kernels::kv::KvError;
use impasto_model::ModelError;
use impasto_text::TextError;

/// A result with [`RuntimeError`].
pub type Result<T, E = RuntimeError> = std::result::Result<T, E>;

/// Why a model could not be loaded or run: the error of the component that failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RuntimeError {
    /// The network, or its input.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer, chat template or stop strings.
    #[error(transparent)]
    Text(#[from] TextError),
    /// The thread pool.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The layout of keys and values.
    #[error(transparent)]
    Kv(#[from] KvError),
    /// The inputs or outputs of the product with one matrix are not whole rows.
    #[error(
        "{found} numbers for the product with {name:?} ({outputs} x {inputs}), which are not the rows that it takes"
    )]
    Lengths {
        /// Name of the tensor.
        name: String,
        /// How many numbers there are.
        found: usize,
        /// Outputs of the matrix.
        outputs: usize,
        /// Inputs of the matrix.
        inputs: usize,
    },
}
