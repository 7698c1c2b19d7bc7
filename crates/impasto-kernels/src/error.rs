//! What can go wrong beside the data.

/// Why kernels cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The thread pool could not be built.
    #[error("threads: {0}")]
    Threads(String),
}
