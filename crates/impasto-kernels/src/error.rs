//! Errors that do not concern the data.

/// Error: kernels cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The thread pool could not be built.
    #[error("cannot start threads: {0}")]
    Threads(String),
    /// The system refused memory for weights.
    #[error("the system refuses {bytes} bytes of memory for weights")]
    Memory {
        /// Size of the allocation.
        bytes: usize,
    },
    /// The arguments of a call do not fit each other.
    #[error("{0}")]
    Call(&'static str),
}
