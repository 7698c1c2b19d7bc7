//! What can be wrong with a checkpoint: each message is one line that names file, tensor and rule.

use std::io;
use std::path::Path;

use crate::rules::{HeaderRule, IndexRule, TensorRule};

/// Why a checkpoint could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The operating system refused.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder, made printable.
        path: String,
        /// What the operating system said.
        error: io::Error,
    },
    /// A folder, pipe or device stands where a file must be.
    #[error("{path}: not a regular file")]
    NotAFile {
        /// What stands there.
        path: String,
    },
    /// A folder holds none of the files that weights begin with.
    #[error("{folder}: no weights: looked for model.safetensors, model.safetensors.index.json and a GGUF file")]
    NoWeights {
        /// The folder.
        folder: String,
    },
    /// A folder holds several models.
    #[error("{folder}: several GGUF files, \"{first}\" and \"{second}\" among them; name one of them")]
    SeveralGguf {
        /// The folder.
        folder: String,
        /// A file in it.
        first: String,
        /// Another that is no part of the same model.
        second: String,
    },
    /// A GGUF, and the feature `gguf` is off.
    #[error("{file}: a GGUF, which this program was built without (feature `gguf`)")]
    NoGguf {
        /// The file.
        file: String,
    },
    /// A header breaks a rule of its format.
    #[error("{file}: {rule}")]
    Header {
        /// The file.
        file: String,
        /// The rule.
        rule: HeaderRule,
    },
    /// A tensor breaks a rule of the format or of the shard index.
    #[error("{file}: tensor \"{tensor}\": {rule}")]
    Tensor {
        /// The file or the index.
        file: String,
        /// The tensor, made printable.
        tensor: String,
        /// The rule.
        rule: TensorRule,
    },
    /// The shard index breaks a rule.
    #[error("{file}: {rule}")]
    Index {
        /// The index.
        file: String,
        /// The rule.
        rule: IndexRule,
    },
    /// A file that rides along is too large to be held in memory.
    #[error("{path}: {len} bytes; a file that rides along may have at most {max}")]
    AssetTooLarge {
        /// The file.
        path: String,
        /// Its bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A file name that comes from input could leave the folder it belongs to.
    #[error("\"{name}\": not a plain relative path inside the folder")]
    UnsafePath {
        /// The name, made printable.
        name: String,
    },
    /// A writer was given more bytes than its header declares.
    #[error("{file}: more than the {declared} bytes of data that the header declares were written")]
    TooMuchData {
        /// The file being written.
        file: String,
        /// Bytes of data that the header declares.
        declared: u64,
    },
    /// A writer was finished before all bytes were there.
    #[error("{file}: tensor \"{tensor}\": the data stops after {written} of {declared} bytes of the file")]
    TooLittleData {
        /// The file being written.
        file: String,
        /// The first tensor that is not complete.
        tensor: String,
        /// Bytes of data written.
        written: u64,
        /// Bytes of data that the header declares.
        declared: u64,
    },
}

impl CheckpointError {
    /// What the operating system says of a path.
    pub fn io(path: &Path, error: io::Error) -> CheckpointError {
        CheckpointError::Io { path: shown(path), error }
    }

    pub(crate) fn header(file: &str, rule: HeaderRule) -> CheckpointError {
        CheckpointError::Header { file: one_line(file), rule }
    }

    pub(crate) fn tensor(file: &str, tensor: &str, rule: TensorRule) -> CheckpointError {
        CheckpointError::Tensor { file: one_line(file), tensor: one_line(tensor), rule }
    }

    pub(crate) fn index(file: &str, rule: IndexRule) -> CheckpointError {
        CheckpointError::Index { file: one_line(file), rule }
    }
}

/// A path for a message.
pub(crate) fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// Text from input for a message: control and line-breaking characters escaped, at most 300 characters.
pub(crate) fn one_line(text: &str) -> String {
    const MAX: usize = 300;
    let mut line = String::new();
    for (count, c) in text.chars().enumerate() {
        if count == MAX {
            line.push('…');
            break;
        }
        if c.is_control() || matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}') {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::one_line;

    #[test]
    fn text_from_input_stays_on_one_short_line() {
        assert_eq!(one_line("model.layers.0 é"), "model.layers.0 é");
        assert_eq!(one_line("a\nb\u{1b}[31m\u{2028}c"), "a\\nb\\u{1b}[31m\\u{2028}c");
        assert_eq!(one_line(&"x".repeat(100_000)).chars().count(), 301);
    }
}
