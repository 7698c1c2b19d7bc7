//! Reading and writing JSON.

use std::borrow::Cow;

use impasto_core::json::finite;
use serde_json::{Map, Value as Json};

use super::rules::TranslationRule;
use crate::Asset;

/// Writes JSON with indentation, one field per line.
pub(super) fn pretty(json: &Json) -> Result<Vec<u8>, TranslationRule> {
    let text = serde_json::to_vec_pretty(json);
    text.map_err(|error| TranslationRule::unsupported(format!("cannot be written as JSON: {error}")))
}

/// Writes JSON without white space.
pub(super) fn compact(json: &Json) -> Result<Vec<u8>, TranslationRule> {
    let text = serde_json::to_vec(json);
    text.map_err(|error| TranslationRule::unsupported(format!("cannot be written as JSON: {error}")))
}

/// An asset that is a JSON object. Error messages name the asset and the field.
pub(super) struct Object<'a> {
    asset: &'static str,
    fields: Cow<'a, Map<String, Json>>,
}

impl Object<'_> {
    /// Returns `Ok(None)` if there is no such asset.
    pub fn of(assets: &[Asset], asset: &'static str) -> Result<Option<Object<'static>>, TranslationRule> {
        super::find(assets, asset).map(|bytes| Object::parse(asset, bytes)).transpose()
    }

    pub fn parse(asset: &'static str, bytes: &[u8]) -> Result<Object<'static>, TranslationRule> {
        match serde_json::from_slice(&finite(bytes)) {
            Ok(Json::Object(fields)) => Ok(Object { asset, fields: Cow::Owned(fields) }),
            Ok(_) => Err(TranslationRule::asset(asset, "not an object")),
            Err(error) => Err(TranslationRule::asset(asset, error)),
        }
    }

    /// Returns a field that is an object, or `None` if it is absent or null.
    pub fn object(&self, key: &str) -> Result<Option<Object<'_>>, TranslationRule> {
        match self.get(key) {
            None => Ok(None),
            Some(Json::Object(fields)) => Ok(Some(Object { asset: self.asset, fields: Cow::Borrowed(fields) })),
            Some(_) => Err(self.broken(key, "is not an object")),
        }
    }

    /// Borrows the same object.
    pub fn borrowed(&self) -> Object<'_> {
        Object { asset: self.asset, fields: Cow::Borrowed(&self.fields) }
    }

    /// Returns whether a field is present, null or not.
    pub fn says(&self, key: &str) -> bool {
        self.fields.contains_key(key)
    }

    /// Returns a field that is present and not null.
    pub fn get(&self, key: &str) -> Option<&Json> {
        self.fields.get(key).filter(|value| !value.is_null())
    }

    pub fn str(&self, key: &str) -> Result<Option<&str>, TranslationRule> {
        match self.get(key) {
            Some(value) if !value.is_string() => Err(self.broken(key, "is not a string")),
            other => Ok(other.and_then(Json::as_str)),
        }
    }

    /// Returns a count that fits the 32 bits of GGUF.
    pub fn u32(&self, key: &str) -> Result<Option<u32>, TranslationRule> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| u32::try_from(n).ok());
        number.map(Some).ok_or_else(|| self.broken(key, format!("is {value}, not a count of 32 bits")))
    }

    /// Returns a number, which is finite since JSON has no other numbers.
    pub fn f64(&self, key: &str) -> Result<Option<f64>, TranslationRule> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_f64().map(Some).ok_or_else(|| self.broken(key, "is not a number"))
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>, TranslationRule> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_bool().map(Some).ok_or_else(|| self.broken(key, "is not a boolean"))
    }

    /// Returns a list of numbers.
    pub fn f32s(&self, key: &str) -> Result<Option<Vec<f32>>, TranslationRule> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let list = value.as_array().and_then(|list| list.iter().map(|x| x.as_f64().map(|x| x as f32)).collect());
        list.map(Some).ok_or_else(|| self.broken(key, "is not a list of numbers"))
    }

    /// Returns a token id, or the ids in a list; invalid entries are skipped.
    pub fn ids(&self, key: &str) -> Vec<u32> {
        let id = |value: &Json| value.as_u64().and_then(|n| u32::try_from(n).ok());
        match self.get(key) {
            Some(Json::Array(list)) => list.iter().filter_map(id).collect(),
            Some(one) => id(one).into_iter().collect(),
            None => Vec::new(),
        }
    }

    /// Returns the value of a required field.
    pub fn needed<T>(&self, key: &str, value: Option<T>) -> Result<T, TranslationRule> {
        value.ok_or_else(|| self.broken(key, "is missing"))
    }

    pub fn broken(&self, key: &str, rule: impl std::fmt::Display) -> TranslationRule {
        TranslationRule::asset(self.asset, format!("\"{key}\" {rule}"))
    }
}
