//! Errors of translation, each with a one-line message.

use crate::error::one_line;
use crate::gguf::Value;

/// A reason why metadata cannot be translated to assets, or assets to metadata.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TranslationRule {
    /// A required key is missing.
    #[error("metadata \"{0}\" is missing")]
    Missing(String),
    /// A value has the wrong type.
    #[error("metadata \"{key}\" is of type {found}, not {wanted}")]
    Type {
        /// The key.
        key: String,
        /// Its type.
        found: String,
        /// The required type.
        wanted: &'static str,
    },
    /// A value has the right type but is invalid.
    #[error("metadata \"{key}\": {rule}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong.
        rule: String,
    },
    /// A tensor contradicts the metadata or the assets.
    #[error("tensor \"{tensor}\": {rule}")]
    Tensor {
        /// The tensor.
        tensor: String,
        /// What is wrong.
        rule: String,
    },
    /// An asset does not parse, is incomplete, or contradicts itself.
    #[error("{asset}: {rule}")]
    Asset {
        /// The asset.
        asset: &'static str,
        /// What is wrong.
        rule: String,
    },
    /// The input is valid as far as known, but has no equivalent in the other format.
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
