//! Typed access to metadata, which distinguishes absent keys from keys with another type.

use crate::gguf::{Metadata, Value};

use super::rules::TranslationRule;
use super::{ARCHITECTURE, Architecture};

type Result<T> = std::result::Result<T, TranslationRule>;

/// The metadata of a file, and the name of its architecture.
pub(super) struct Keys<'a> {
    metadata: &'a Metadata,
    /// `general.architecture`, or empty if it is absent.
    name: &'a str,
}

impl<'a> Keys<'a> {
    pub fn new(metadata: &'a Metadata) -> Keys<'a> {
        Keys { metadata, name: metadata.str(ARCHITECTURE).unwrap_or_default() }
    }

    /// Returns the architecture; `Unsupported` if it is not known.
    pub fn architecture(&self) -> Result<Architecture> {
        let name = self.required(ARCHITECTURE, self.str(ARCHITECTURE)?)?;
        let unknown = || TranslationRule::unsupported(format!("architecture \"{name}\" is not known"));
        Architecture::from_gguf(name).ok_or_else(unknown)
    }

    /// Returns the full name of a key of the architecture, such as `llama.block_count` for `block_count`.
    pub fn own(&self, key: &str) -> String {
        format!("{}.{key}", self.name)
    }

    /// Returns the value, or an error that the key is missing.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T> {
        value.ok_or_else(|| TranslationRule::Missing(key.to_owned()))
    }

    pub fn str(&self, key: &str) -> Result<Option<&'a str>> {
        if let Some(Value::String(bytes)) = self.metadata.get(key) {
            let text = std::str::from_utf8(bytes);
            return text.map(Some).map_err(|_| TranslationRule::value(key, "it is not UTF-8"));
        }
        self.read(key, "a string", Value::as_str)
    }

    pub fn u64(&self, key: &str) -> Result<Option<u64>> {
        self.read(key, "an unsigned integer", Value::as_u64)
    }

    pub fn bool(&self, key: &str) -> Result<Option<bool>> {
        self.read(key, "a boolean", Value::as_bool)
    }

    /// Returns a finite float.
    pub fn f64(&self, key: &str) -> Result<Option<f64>> {
        match self.read(key, "a float", Value::as_f64)? {
            Some(x) if !x.is_finite() => Err(TranslationRule::value(key, format!("{x} is not finite"))),
            other => Ok(other.map(shortest)),
        }
    }

    pub fn f32s(&self, key: &str) -> Result<Option<&'a [f32]>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => match self.metadata.f32s(key) {
                Some(list) => Ok(Some(list)),
                None => Err(TranslationRule::wrong_type(key, value, "an array of floats")),
            },
        }
    }

    pub fn i32s(&self, key: &str) -> Result<Option<Vec<i32>>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => match self.metadata.i32s(key) {
                Some(list) => Ok(Some(list)),
                None => Err(TranslationRule::wrong_type(key, value, "an array of integers of 32 bits")),
            },
        }
    }

    /// Returns an array of booleans, or `None` if the key is absent or has another type.
    pub fn bools(&self, key: &str) -> Option<&'a [bool]> {
        self.metadata.bools(key)
    }

    /// Returns an array of strings, which must all be UTF-8.
    pub fn strings(&self, key: &str) -> Result<Option<Vec<&'a str>>> {
        let Some(value) = self.metadata.get(key) else { return Ok(None) };
        let Some(list) = self.metadata.byte_strings(key) else {
            return Err(TranslationRule::wrong_type(key, value, "an array of strings"));
        };
        let text = |(place, bytes): (usize, &'a Vec<u8>)| {
            std::str::from_utf8(bytes).map_err(|_| TranslationRule::value(key, format!("string {place} is not UTF-8")))
        };
        list.iter().enumerate().map(text).collect::<Result<Vec<_>>>().map(Some)
    }

    /// Returns a count of the architecture, which must be in `1..=max`. An array must have equal entries, one per
    /// block.
    pub fn count(&self, key: &str, max: u64) -> Result<Option<u64>> {
        let key = self.own(key);
        let count = match self.metadata.get(&key) {
            Some(Value::Array(_)) => {
                let list = self.i32s(&key)?.unwrap_or_default();
                let Some((&first, rest)) = list.split_first() else {
                    return Err(TranslationRule::value(&key, "the array is empty"));
                };
                if rest.iter().any(|&n| n != first) {
                    return Err(TranslationRule::unsupported(format!("\"{key}\" differs between blocks")));
                }
                u64::try_from(first).map_err(|_| TranslationRule::value(&key, format!("{first} is negative")))?
            }
            _ => match self.u64(&key)? {
                Some(n) => n,
                None => return Ok(None),
            },
        };
        if count == 0 || count > max {
            return Err(TranslationRule::value(&key, format!("{count} is outside 1..={max}")));
        }
        Ok(Some(count))
    }

    /// Returns a [`Keys::count`] that is required.
    pub fn needed_count(&self, key: &str, max: u64) -> Result<u64> {
        let count = self.count(key, max)?;
        self.required(&self.own(key), count)
    }

    /// Returns the names and values of keys with a prefix.
    pub fn beginning_with(&self, prefix: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
        let prefix = prefix.to_owned();
        self.metadata.iter().filter(move |(key, _)| key.starts_with(&prefix))
    }

    fn read<T>(&self, key: &str, wanted: &'static str, get: impl Fn(&'a Value) -> Option<T>) -> Result<Option<T>> {
        match self.metadata.get(key) {
            None => Ok(None),
            Some(value) => match get(value) {
                Some(read) => Ok(Some(read)),
                None => Err(TranslationRule::wrong_type(key, value, wanted)),
            },
        }
    }
}

/// Returns the shortest decimal number that rounds to the same binary32: 1e-5 instead of 9.99999974737875e-6.
pub(super) fn shortest(x: f64) -> f64 {
    let short = x as f32;
    if f64::from(short) == x { short.to_string().parse().unwrap_or(x) } else { x }
}

#[cfg(test)]
mod tests {
    use super::shortest;

    #[test]
    fn a_float_gets_back_the_digits_that_were_written() {
        assert_eq!(shortest(f64::from(1e-5f32)), 1e-5);
        assert_eq!(shortest(f64::from(500000f32)), 5e5);
        assert_eq!(shortest(1.0 / 3.0), 1.0 / 3.0);
    }
}
