//! The crate's errors.

use impasto_core::name::shown;

/// A result with [`ModelError`].
pub type Result<T, E = ModelError> = std::result::Result<T, E>;

/// Why a model could not be loaded or run. Each message is one line and names the object concerned.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ModelError {
    /// A required asset is missing.
    #[error("{name}: not found; {why}")]
    MissingAsset {
        /// File name of the asset.
        name: &'static str,
        /// Why it is needed.
        why: &'static str,
    },
    /// The weights would exceed the memory limit.
    #[error("the model's weights take at least {bytes} bytes of memory, more than the limit of {limit}")]
    MemoryLimit {
        /// Bytes of the weights.
        bytes: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// An asset is invalid.
    #[error("{name}: {}", shown(.reason))]
    BadAsset {
        /// File name of the asset.
        name: &'static str,
        /// What is wrong with it.
        reason: String,
    },
    /// The architecture is not supported.
    #[error("cannot run architecture {}, only {known}; encode, decode and verify work", shown(.name))]
    Architecture {
        /// The architecture, as config.json names it.
        name: String,
        /// The supported values of model_type.
        known: String,
    },
    /// The architecture is supported, but not one of its options.
    #[error("config.json: cannot run {} yet; encode, decode and verify work", shown(.0))]
    Unsupported(String),
    /// Linear layers have tensors that the network does not use, such as the scales of quantized weights.
    #[error(
        "cannot run this model: no layer uses the tensors {}, which may be scales of quantized weights; encode, \
         decode and verify work",
        shown(.names)
    )]
    UnusedTensors {
        /// The names, separated by commas.
        names: String,
    },
    /// A tensor that the configuration requires is missing.
    #[error("tensor {}: missing; expected shape {expected:?}", shown(.name))]
    MissingTensor {
        /// Tensor name.
        name: String,
        /// Shape required by the configuration.
        expected: Vec<u64>,
    },
    /// A tensor's shape is not the one that the configuration requires.
    #[error("tensor {}: shape {found:?}, but config.json requires {expected:?}", shown(.name))]
    Shape {
        /// Tensor name.
        name: String,
        /// Shape in the source.
        found: Vec<u64>,
        /// Shape required by the configuration.
        expected: Vec<u64>,
    },
    /// The source failed to provide a tensor, or provided a number of values that does not match its shape.
    #[error("tensor {}: {}", shown(.name), shown(&.source.to_string()))]
    Tensor {
        /// Tensor name.
        name: String,
        /// The source's error.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// There is no linear layer of that name.
    #[error("the model has no linear layer {}", shown(.name))]
    NoLinear {
        /// The requested name.
        name: String,
    },
    /// A delta cannot share weights with a model that is not its base, or not the whole of it.
    #[error(
        "the model in memory is not the base of this delta, or its weights are not those that the delta is read with"
    )]
    OtherBase,
    /// Layers cannot be in memory together.
    #[error("layers cannot be in memory together: {0}")]
    Layers(&'static str),
    /// A layer is not in memory.
    #[error("layer {layer} is not in memory, which has {layers}")]
    NoLayer {
        /// The layer, counted from 1.
        layer: usize,
        /// Number of layers in memory.
        layers: usize,
    },
    /// A cache has not kept the inputs of blocks.
    #[error("the cache has not kept the inputs of blocks, from which its keys and values could be computed again")]
    NoInputs,
    /// Memory could not be allocated.
    #[error("out of memory: {what} needs {bytes} bytes")]
    Memory {
        /// What the memory is for.
        what: &'static str,
        /// Bytes requested.
        bytes: u64,
    },
    /// A token id is outside the vocabulary.
    #[error("token id {id} at position {position} is outside the vocabulary of {vocab}")]
    TokenId {
        /// The id.
        id: u32,
        /// Its index among the given tokens.
        position: usize,
        /// Size of the vocabulary.
        vocab: usize,
    },
    /// There are no tokens to run.
    #[error("the prompt has no tokens")]
    EmptyPrompt,
    /// There are more tokens than the context allows.
    #[error("{tokens} tokens do not fit in a context of {context}")]
    ContextOverflow {
        /// Tokens in all, those in the cache included.
        tokens: usize,
        /// The largest context, in tokens.
        context: usize,
    },
    /// The cache belongs to another model.
    #[error("the cache belongs to another model")]
    ForeignCache,
    /// The requested rows do not exist.
    #[error("rows {start}..{end} requested of {rows}")]
    Rows {
        /// First row requested.
        start: usize,
        /// One past the last row requested.
        end: usize,
        /// Number of rows that exist.
        rows: usize,
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
    /// The logits are not finite, so they cannot be sampled or scored.
    #[error("the model's logits are not finite{0}")]
    NonFinite(String),
    /// A mask or biases leave no token that could be drawn.
    #[error("no allowed token is possible")]
    NoneAllowed,
    /// A token was to be drawn, but its logits were not computed.
    #[error("there are no logits of the next token yet")]
    NoLogits,
    /// The network's own key/value cache failed: it is full, memory could not be allocated, or it does not support the
    /// request.
    #[error(transparent)]
    Cache(Box<dyn std::error::Error + Send + Sync>),
    /// The file of packed weights became shorter while it was used.
    #[error("the file of packed weights: {0}")]
    Mapped(std::io::Error),
    /// The thread pool could not be built.
    #[error("cannot start threads: {0}")]
    Threads(String),
}

impl ModelError {
    /// Creates the error for an invalid asset.
    pub fn asset(name: &'static str, reason: impl std::fmt::Display) -> Self {
        Self::BadAsset { name, reason: reason.to_string() }
    }

    /// Creates the error for a tensor whose number of values does not match its shape.
    pub(crate) fn count(name: &str, values: usize, shape: &[usize]) -> Self {
        Self::Tensor { name: name.into(), source: format!("{values} values for shape {shape:?}").into() }
    }
}
