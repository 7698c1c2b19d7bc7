//! The rules of GGUF files, each with a one-line message.

/// A rule for the bytes before the data.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufRule {
    /// The file does not start with the magic.
    #[error("it does not begin with \"GGUF\"")]
    NoMagic,
    /// The file is big-endian.
    #[error("big-endian GGUF, which is not supported")]
    BigEndian,
    /// The version is not supported.
    #[error("version {0} of GGUF; supported are 2 and 3")]
    Version(u32),
    /// A part extends past the end of the bytes.
    #[error("cut short: {part} needs {needed} bytes, {left} follow")]
    CutShort {
        /// The part.
        part: &'static str,
        /// Its length in bytes.
        needed: u64,
        /// Remaining bytes, from the start of the part.
        left: u64,
    },
    /// A count is larger than the remaining bytes allow.
    #[error("cut short: {count} {things} declared, {left} bytes follow")]
    Count {
        /// What is counted.
        things: &'static str,
        /// The declared number.
        count: u64,
        /// Remaining bytes, from the first of them.
        left: u64,
    },
    /// The header exceeds the limit.
    #[error("header of more than {max} bytes")]
    TooLong {
        /// The limit in bytes.
        max: u64,
    },
    /// A key or name is empty or too long.
    #[error("{part} of {len} bytes, allowed are 1 to {max}")]
    Length {
        /// Key or name.
        part: &'static str,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A key or name is not UTF-8.
    #[error("{0} is not UTF-8")]
    Utf8(&'static str),
    /// A value has an unknown type.
    #[error("values of type {0}, which GGUF does not have")]
    ValueType(u32),
    /// A boolean is neither 0 nor 1.
    #[error("a boolean of {0}; allowed are 0 and 1")]
    Truth(u8),
    /// Arrays are nested too deeply.
    #[error("arrays nested more than {max} deep")]
    Deep {
        /// The limit.
        max: usize,
    },
    /// A key occurs twice.
    #[error("key \"{0}\" occurs twice")]
    DuplicateKey(String),
    /// The alignment is invalid.
    #[error("general.alignment must be of type u32 and a power of two, at most {max}")]
    Alignment {
        /// The limit in bytes.
        max: u64,
    },
    /// A tensor has too many dimensions.
    #[error("{dims} dimensions, at most {max} are allowed")]
    Dims {
        /// Its number of dimensions.
        dims: u64,
        /// The limit.
        max: u64,
    },
    /// The value of a key violates a rule.
    #[error("key \"{key}\": {rule}")]
    Key {
        /// The key, escaped for display.
        key: String,
        /// What is wrong.
        rule: Box<GgufRule>,
    },
    /// The entry of a tensor violates a rule before its name is known.
    #[error("tensor {index}: {rule}")]
    Entry {
        /// Index of the entry in the file, from 0.
        index: u64,
        /// What is wrong.
        rule: Box<GgufRule>,
    },
}

impl GgufRule {
    /// Returns whether more bytes might fix the error.
    pub(super) fn is_cut(&self) -> bool {
        match self {
            GgufRule::CutShort { .. } | GgufRule::Count { .. } => true,
            GgufRule::Key { rule, .. } | GgufRule::Entry { rule, .. } => rule.is_cut(),
            _ => false,
        }
    }
}

/// A rule for the parts of a split file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SplitRule {
    /// The numbers are invalid.
    #[error("split.no {no} and split.count {count} are not a valid part")]
    NoPart {
        /// The index of the part, from 0.
        no: u64,
        /// The number of parts.
        count: u64,
    },
    /// The name does not match the part in the metadata.
    #[error("it is part {part} of {count}, so its name must end in \"{suffix}\"")]
    Name {
        /// The number of the part, from 1.
        part: u64,
        /// The number of parts.
        count: u64,
        /// The required end of the name.
        suffix: String,
    },
    /// The name is that of a part, but the metadata are those of a whole file.
    #[error("its name is that of one of {count} parts, but its metadata are those of a whole file")]
    Whole {
        /// The number of parts in the name.
        count: u64,
    },
    /// A part is missing.
    #[error("it is one part of {count}, and \"{missing}\" is missing")]
    Missing {
        /// The number of parts.
        count: u64,
        /// The file name of the missing part.
        missing: String,
    },
    /// The number of tensors in all parts differs from the metadata.
    #[error("its {count} parts hold {held} tensors, split.tensors.count says {declared}")]
    Tensors {
        /// The number of parts.
        count: u64,
        /// The number of tensors in all parts.
        held: u64,
        /// The number of tensors in the metadata.
        declared: u64,
    },
}
