//! Errors that do not concern the data.

/// Error: kernels cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KernelError {
    /// The thread pool could not be built.
    #[error("cannot start threads: {0}")]
    Threads(String),
}
