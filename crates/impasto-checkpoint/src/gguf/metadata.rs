//! The metadata of a GGUF file: keys and typed values.

use super::value::{Array, Value};

/// The pairs of a GGUF file in file order, keys unique.
///
/// The typed getters give `None` both for a key that is not there and for a value of another type; [`get`](Metadata::get)
/// tells them apart.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
}

impl Metadata {
    /// No pairs.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// The pairs as they are: the caller has seen to it that no key comes twice.
    pub(crate) fn from_unique(pairs: Vec<(String, Value)>) -> Metadata {
        Metadata { pairs }
    }

    /// How many pairs there are.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Are there no pairs?
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Sets the value of a key: in its old place if it is there, else at the end.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.pairs.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((key, value)),
        }
    }

    /// Takes a key out, the others stay in order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.pairs.iter().position(|(k, _)| k == key)?;
        Some(self.pairs.remove(place).1)
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    fn array(&self, key: &str) -> Option<&Array> {
        match self.get(key)? {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// A string that is UTF-8.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// An integer of any type, if it is not negative.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// A float of either type.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// A truth value.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// An array of strings, as the bytes they are.
    pub fn byte_strings(&self, key: &str) -> Option<&[Vec<u8>]> {
        match self.array(key)? {
            Array::String(list) => Some(list),
            _ => None,
        }
    }

    /// An array of strings that are all UTF-8.
    pub fn strings(&self, key: &str) -> Option<Vec<&str>> {
        self.byte_strings(key)?.iter().map(|bytes| std::str::from_utf8(bytes).ok()).collect()
    }

    /// An array of floats of 32 bits.
    pub fn f32s(&self, key: &str) -> Option<&[f32]> {
        match self.array(key)? {
            Array::F32(list) => Some(list),
            _ => None,
        }
    }

    /// An array of integers of any type, if all fit.
    pub fn u32s(&self, key: &str) -> Option<Vec<u32>> {
        self.array(key)?.integers()
    }

    /// An array of integers of any type, if all fit.
    pub fn i32s(&self, key: &str) -> Option<Vec<i32>> {
        self.array(key)?.integers()
    }

    /// An array of truth values.
    pub fn bools(&self, key: &str) -> Option<&[bool]> {
        match self.array(key)? {
            Array::Bool(list) => Some(list),
            _ => None,
        }
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    /// Of a key that comes twice the last value counts.
    fn from_iter<I: IntoIterator<Item = (K, V)>>(pairs: I) -> Metadata {
        let mut metadata = Metadata::new();
        pairs.into_iter().for_each(|(key, value)| metadata.insert(key, value));
        metadata
    }
}

#[cfg(test)]
mod tests {
    use super::Metadata;
    use crate::gguf::Value;

    #[test]
    fn typed_getters_take_what_fits_and_nothing_else() {
        let mut metadata: Metadata =
            [("n", Value::from(7u32)), ("minus", (-1i32).into()), ("x", 0.5f32.into())].into_iter().collect();
        metadata.insert("s", "text");
        metadata.insert("bytes", Value::String(vec![0xFF]));
        metadata.insert("list", vec![1i32, -1]);
        metadata.insert("names", vec!["a".to_owned()]);
        metadata.insert("n", 8u8 as u64);
        assert_eq!(
            metadata.iter().map(|(k, _)| k).collect::<Vec<_>>(),
            ["n", "minus", "x", "s", "bytes", "list", "names"]
        );
        assert_eq!(
            (metadata.u64("n"), metadata.u64("minus"), metadata.u64("x"), metadata.u64("none")),
            (Some(8), None, None, None)
        );
        assert_eq!((metadata.f64("x"), metadata.f64("n"), metadata.bool("n")), (Some(0.5), None, None));
        assert_eq!((metadata.str("s"), metadata.str("bytes"), metadata.str("n")), (Some("text"), None, None));
        assert_eq!((metadata.i32s("list"), metadata.u32s("list")), (Some(vec![1, -1]), None));
        assert_eq!((metadata.strings("names"), metadata.strings("list")), (Some(vec!["a"]), None));
        assert_eq!(metadata.remove("minus"), Some(Value::I32(-1)));
        assert_eq!((metadata.get("minus"), metadata.len()), (None, 6));
    }
}
