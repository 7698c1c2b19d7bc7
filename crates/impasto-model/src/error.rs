//! What can go wrong between a weight source and logits.

/// The crate's result.
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Why a model could not be loaded or run. Each message is one line and names its object.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// The source lacks a file that the job needs.
    #[error("{name}: not found; {why}")]
    MissingAsset {
        /// File name of the asset.
        name: &'static str,
        /// What it is needed for.
        why: &'static str,
    },
    /// The weights would take more memory than allowed.
    #[error("the model's weights take {bytes} bytes of memory or more, more than the limit of {limit}")]
    MemoryLimit {
        /// Bytes of the weights.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// An asset is there but is not what it should be.
    #[error("{name}: {reason}")]
    BadAsset {
        /// File name of the asset.
        name: &'static str,
        /// The rule it breaks.
        reason: String,
    },
    /// The model is of a kind this runtime does not run.
    #[error("cannot run architecture {name}, only {known}; encode, decode and verify work")]
    Architecture {
        /// The architecture, as config.json names it.
        name: String,
        /// The values of model_type that run.
        known: String,
    },
    /// The architecture is known, one of its options is not.
    #[error("config.json: cannot run {0} yet; encode, decode and verify work")]
    Unsupported(String),
    /// A tensor that the configuration calls for is absent.
    #[error("tensor {name}: missing; expected shape {expected:?}")]
    MissingTensor {
        /// Tensor name.
        name: String,
        /// Shape by the configuration.
        expected: Vec<u64>,
    },
    /// A tensor's shape is not the one the configuration calls for.
    #[error("tensor {name}: shape {found:?}, expected {expected:?} by config.json")]
    Shape {
        /// Tensor name.
        name: String,
        /// Shape in the source.
        found: Vec<u64>,
        /// Shape by the configuration.
        expected: Vec<u64>,
    },
    /// The source failed to give a tensor, or gave another number of values than its shape says.
    #[error("tensor {name}: {source}")]
    Tensor {
        /// Tensor name.
        name: String,
        /// The source's own words.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// No linear layer of that name.
    #[error("the model has no linear layer {name}")]
    NoLinear {
        /// Name asked for.
        name: String,
    },
    /// Memory for `what` was refused.
    #[error("out of memory: {what} needs {bytes} bytes")]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// How much was asked for.
        bytes: u64,
    },
    /// A token id outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Its index in the given tokens.
        position: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// Nothing to run on.
    #[error("the prompt holds no tokens")]
    EmptyPrompt,
    /// More tokens than the context takes.
    #[error("{tokens} tokens do not fit a context of {context}")]
    ContextOverflow {
        /// Tokens in all, those in the cache included.
        tokens: usize,
        /// Largest number of tokens.
        context: usize,
    },
    /// A cache made by another model.
    #[error("the cache was made for another model")]
    ForeignCache,
    /// Rows asked for that are not there.
    #[error("rows {start}..{end} asked of {rows}")]
    Rows {
        /// First row asked for.
        start: usize,
        /// One past the last.
        end: usize,
        /// Rows there are.
        rows: usize,
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
    /// Logits that cannot be sampled from or scored.
    #[error("the model's logits are not finite{0}")]
    NonFinite(String),
    /// A network's own cache of keys and values: it is full, memory was refused, or it cannot be what was asked for.
    #[error(transparent)]
    Cache(Box<dyn std::error::Error + Send + Sync>),
    /// The thread pool could not be built.
    #[error("threads: {0}")]
    Threads(String),
}

impl ModelError {
    /// An asset that is not what it should be.
    pub fn asset(name: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::BadAsset { name, reason: reason.to_string() }
    }

    /// A tensor that has another number of values than its shape says.
    pub(crate) fn count(name: &str, values: usize, shape: &[usize]) -> Self {
        Self::Tensor { name: name.into(), source: format!("{values} values for shape {shape:?}").into() }
    }
}
