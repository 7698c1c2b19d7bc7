//! What metadata and assets must satisfy to be translated, each with its line of a message.

use crate::error::one_line;
use crate::gguf::Value;

/// Why GGUF metadata could not be turned into Hugging Face assets, or assets into metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslationRule {
    /// A key that the model cannot be without.
    #[error("metadata \"{0}\" is missing")]
    Missing(String),
    /// A value of another type.
    #[error("metadata \"{key}\" is of type {found}, not {wanted}")]
    Type {
        /// The key.
        key: String,
        /// The type it has.
        found: String,
        /// What it must be.
        wanted: &'static str,
    },
    /// A value of the right type that makes no sense.
    #[error("metadata \"{key}\": {rule}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        rule: String,
    },
    /// A tensor that contradicts the metadata or the assets.
    #[error("tensor \"{tensor}\": {rule}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        rule: String,
    },
    /// An asset that does not parse, lacks something or contradicts itself.
    #[error("{asset}: {rule}")]
    Asset {
        /// The asset.
        asset: &'static str,
        /// What is wrong.
        rule: String,
    },
    /// Sound as far as it is known, but nothing that can be said in the other form.
    #[error("{0}")]
    Unsupported(String),
}

impl TranslationRule {
    pub(super) fn value(key: &str, rule: impl std::fmt::Display) -> TranslationRule {
        TranslationRule::Value { key: one_line(key), rule: one_line(&rule.to_string()) }
    }

    pub(super) fn wrong_type(key: &str, found: &Value, wanted: &'static str) -> TranslationRule {
        let found = match found {
            Value::Array(array) => format!("array of {:?}", array.element_type()),
            _ => format!("{:?}", found.value_type()),
        };
        TranslationRule::Type { key: one_line(key), found, wanted }
    }

    pub(super) fn asset(asset: &'static str, rule: impl std::fmt::Display) -> TranslationRule {
        TranslationRule::Asset { asset, rule: one_line(&rule.to_string()) }
    }

    pub(super) fn tensor(tensor: &str, rule: impl std::fmt::Display) -> TranslationRule {
        TranslationRule::Tensor { tensor: one_line(tensor), rule: one_line(&rule.to_string()) }
    }

    pub(super) fn unsupported(what: impl std::fmt::Display) -> TranslationRule {
        TranslationRule::Unsupported(one_line(&what.to_string()))
    }
}
