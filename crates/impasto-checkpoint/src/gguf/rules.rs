//! The rules that a GGUF file must keep, each with its line of a message.

/// What the bytes before the data must satisfy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufRule {
    /// Something else.
    #[error("it does not begin with \"GGUF\"")]
    NoMagic,
    /// The bytes of its numbers run the other way.
    #[error("big-endian GGUF, which is not supported")]
    BigEndian,
    /// A version of another layout.
    #[error("version {0} of GGUF; supported are 2 and 3")]
    Version(u32),
    /// A part reaches past the bytes there are.
    #[error("cut short: {part} needs {needed} bytes, {left} follow")]
    CutShort {
        /// What was to be read.
        part: &'static str,
        /// Its length in bytes.
        needed: u64,
        /// Bytes from its begin.
        left: u64,
    },
    /// More things than the bytes could hold.
    #[error("cut short: {count} {things} declared, {left} bytes follow")]
    Count {
        /// What is counted.
        things: &'static str,
        /// The declared number.
        count: u64,
        /// Bytes from the first of them.
        left: u64,
    },
    /// The header is not finished within the limit.
    #[error("header of more than {max} bytes")]
    TooLong {
        /// The limit in bytes.
        max: u64,
    },
    /// A key or name of no bytes or too many.
    #[error("{part} of {len} bytes, allowed are 1 to {max}")]
    Length {
        /// What it is.
        part: &'static str,
        /// Its bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// Keys and names are UTF-8.
    #[error("{0} is not UTF-8")]
    Utf8(&'static str),
    /// A number that stands for no type of values.
    #[error("values of type {0}, which GGUF does not have")]
    ValueType(u32),
    /// Neither true nor false.
    #[error("a truth value of {0}, allowed are 0 and 1")]
    Truth(u8),
    /// Arrays in arrays without end.
    #[error("arrays nested more than {max} deep")]
    Deep {
        /// The limit.
        max: usize,
    },
    /// Two pairs of one key.
    #[error("key \"{0}\" comes twice")]
    DuplicateKey(String),
    /// The data cannot be aligned like that.
    #[error("general.alignment must be of type u32 and a power of two, at most {max}")]
    Alignment {
        /// The limit in bytes.
        max: u64,
    },
    /// A tensor of too many dimensions.
    #[error("{dims} dimensions, at most {max} are allowed")]
    Dims {
        /// Its dimensions.
        dims: u64,
        /// The limit.
        max: u64,
    },
    /// A rule broken in the value of a key.
    #[error("key \"{key}\": {rule}")]
    Key {
        /// The key, made printable.
        key: String,
        /// What is wrong.
        rule: Box<GgufRule>,
    },
    /// A rule broken in the entry of a tensor whose name is not known.
    #[error("tensor {index}: {rule}")]
    Entry {
        /// Its place in the file, from 0.
        index: u64,
        /// What is wrong.
        rule: Box<GgufRule>,
    },
}

impl GgufRule {
    /// Would more bytes mend it?
    pub(super) fn is_cut(&self) -> bool {
        match self {
            GgufRule::CutShort { .. } | GgufRule::Count { .. } => true,
            GgufRule::Key { rule, .. } | GgufRule::Entry { rule, .. } => rule.is_cut(),
            _ => false,
        }
    }
}

/// What the parts of a split file must satisfy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitRule {
    /// The numbers make no sense.
    #[error("split.no {no} and split.count {count} name no part")]
    NoPart {
        /// The place of the part, from 0.
        no: u64,
        /// How many parts there are.
        count: u64,
    },
    /// The metadata place it elsewhere than its name.
    #[error("it is part {part} of {count}, so its name must end in \"{suffix}\"")]
    Name {
        /// The place of the part, from 1.
        part: u64,
        /// How many parts there are.
        count: u64,
        /// What the name must end in.
        suffix: String,
    },
    /// Its name says that it is a part, the metadata do not.
    #[error("by its name it is one part of {count}, by its metadata a whole file")]
    Whole {
        /// How many parts the name says there are.
        count: u64,
    },
    /// A part is not there.
    #[error("it is one part of {count}, and \"{missing}\" is missing")]
    Missing {
        /// How many parts there are.
        count: u64,
        /// The file name of the part.
        missing: String,
    },
    /// The parts hold more or fewer tensors than they should.
    #[error("its {count} parts hold {held} tensors, split.tensors.count says {declared}")]
    Tensors {
        /// How many parts there are.
        count: u64,
        /// Tensors of all parts.
        held: u64,
        /// Tensors that there should be.
        declared: u64,
    },
}
