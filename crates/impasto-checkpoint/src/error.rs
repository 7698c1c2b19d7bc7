//! Errors of reading and writing checkpoints. Each message is one line that names file, tensor and rule.

use std::io;
use std::path::Path;

use impasto_core::name;

use impasto_core::FileKind;

use crate::rules::{HeaderRule, IndexRule, TensorRule};

/// An error of reading or writing a checkpoint.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// An I/O error.
    #[error("{path}: {error}")]
    Io {
        /// The file or folder, escaped for display.
        path: String,
        /// The error of the operating system.
        error: io::Error,
    },
    /// A folder, pipe or device where a file is required.
    #[error("{path}: not a regular file")]
    NotAFile {
        /// Its path.
        path: String,
    },
    /// An asset that Git LFS has not fetched.
    #[error("{path}: it is {kind}, not the file{advice}", kind = FileKind::LfsPointer, advice = FileKind::LfsPointer.advice())]
    LfsPointer {
        /// Its path.
        path: String,
    },
    /// A folder without weights.
    #[error(
        "{folder}: no weights: looked for model.safetensors, model.safetensors.index.json, adapter_model.safetensors and a GGUF file"
    )]
    NoWeights {
        /// The folder.
        folder: String,
    },
    /// A folder with several models.
    #[error("{folder}: several GGUF files, such as \"{first}\" and \"{second}\": open one of them")]
    SeveralGguf {
        /// The folder.
        folder: String,
        /// A file in it.
        first: String,
        /// Another one, which is not a part of the same model.
        second: String,
    },
    /// A GGUF file, while the feature `gguf` is off.
    #[error("{file}: this program was built without GGUF support (feature `gguf`)")]
    NoGguf {
        /// The file.
        file: String,
    },
    /// A header violates a rule of its format.
    #[error("{file}: {rule}")]
    Header {
        /// The file.
        file: String,
        /// The rule.
        rule: HeaderRule,
    },
    /// A tensor violates a rule of the format or of the shard index.
    #[error("{file}: tensor \"{tensor}\": {rule}")]
    Tensor {
        /// The file or the index.
        file: String,
        /// Name of the tensor, escaped for display.
        tensor: String,
        /// The rule.
        rule: TensorRule,
    },
    /// The shard index violates a rule.
    #[error("{file}: {rule}")]
    Index {
        /// The index.
        file: String,
        /// The rule.
        rule: IndexRule,
    },
    /// An asset exceeds the limit.
    #[error("{path}: {len} bytes, more than the limit of {max} for an asset")]
    AssetTooLarge {
        /// The file.
        path: String,
        /// Its length in bytes.
        len: u64,
        /// The limit in bytes.
        max: u64,
    },
    /// A file name from untrusted input might escape its folder.
    #[error("\"{name}\": not a plain relative path inside the folder")]
    UnsafePath {
        /// The name, escaped for display.
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
    /// A writer was finished before all bytes were written.
    #[error("{file}: tensor \"{tensor}\": the data stops after {written} of {declared} bytes of the file")]
    TooLittleData {
        /// The file being written.
        file: String,
        /// The first incomplete tensor.
        tensor: String,
        /// Bytes of data written.
        written: u64,
        /// Bytes of data that the header declares.
        declared: u64,
    },
}

impl CheckpointError {
    /// Wraps an I/O error with its path.
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

/// Formats a path for a message.
pub(crate) fn shown(path: &Path) -> String {
    one_line(&path.to_string_lossy())
}

/// Escapes control and line-breaking characters of untrusted text for a message, and truncates it to 300 characters.
pub(crate) fn one_line(text: &str) -> String {
    const MAX: usize = 300;
    match text.char_indices().nth(MAX) {
        Some((end, _)) => format!("{}…", name::shown(&text[..end])),
        None => name::shown(text).to_string(),
    }
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
