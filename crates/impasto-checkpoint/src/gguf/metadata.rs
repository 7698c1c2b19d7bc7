//! The metadata of a GGUF file: keys and typed values.

use super::value::{Array, Value};

/// The key-value pairs of a GGUF file in file order. Keys are unique.
///
/// The typed getters return `None` both for an absent key and for a value of another type; [`get`](Metadata::get)
/// distinguishes these.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Metadata {
    pairs: Vec<(String, Value)>,
}

impl Metadata {
    /// Creates empty metadata.
    pub fn new() -> Metadata {
        Metadata::default()
    }

    /// Wraps pairs whose keys the caller has checked to be unique.
    pub(crate) fn from_unique(pairs: Vec<(String, Value)>) -> Metadata {
        Metadata { pairs }
    }

    /// Returns the number of pairs.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Returns whether there are no pairs.
    pub fn is_empty(&self) -> bool {
        self.pairs.is_empty()
    }

    /// Returns the pairs in order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = (&str, &Value)> {
        self.pairs.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// Sets the value of a key, in its place if the key is present, or else at the end.
    pub fn insert(&mut self, key: impl Into<String>, value: impl Into<Value>) {
        let (key, value) = (key.into(), value.into());
        match self.pairs.iter_mut().find(|(k, _)| *k == key) {
            Some(pair) => pair.1 = value,
            None => self.pairs.push((key, value)),
        }
    }

    /// Removes a key; the others stay in order.
    pub fn remove(&mut self, key: &str) -> Option<Value> {
        let place = self.pairs.iter().position(|(k, _)| k == key)?;
        Some(self.pairs.remove(place).1)
    }

    /// Returns the value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.pairs.iter().find(|(k, _)| k == key).map(|(_, value)| value)
    }

    fn array(&self, key: &str) -> Option<&Array> {
        match self.get(key)? {
            Value::Array(array) => Some(array),
            _ => None,
        }
    }

    /// Returns a string that is valid UTF-8.
    pub fn str(&self, key: &str) -> Option<&str> {
        self.get(key)?.as_str()
    }

    /// Returns an integer of any type that is not negative.
    pub fn u64(&self, key: &str) -> Option<u64> {
        self.get(key)?.as_u64()
    }

    /// Returns a float of either type.
    pub fn f64(&self, key: &str) -> Option<f64> {
        self.get(key)?.as_f64()
    }

    /// Returns a boolean.
    pub fn bool(&self, key: &str) -> Option<bool> {
        self.get(key)?.as_bool()
    }

    /// Returns an array of strings as bytes.
    pub fn byte_strings(&self, key: &str) -> Option<&[Vec<u8>]> {
        match self.array(key)? {
            Array::String(list) => Some(list),
            _ => None,
        }
    }

    /// Returns an array of strings that are all valid UTF-8.
    pub fn strings(&self, key: &str) -> Option<Vec<&str>> {
        self.byte_strings(key)?.iter().map(|bytes| std::str::from_utf8(bytes).ok()).collect()
    }

    /// Returns an array of 32-bit floats.
    pub fn f32s(&self, key: &str) -> Option<&[f32]> {
        match self.array(key)? {
            Array::F32(list) => Some(list),
            _ => None,
        }
    }

    /// Returns an array of integers of any type that all fit `u32`.
    pub fn u32s(&self, key: &str) -> Option<Vec<u32>> {
        self.array(key)?.integers()
    }

    /// Returns an array of integers of any type that all fit `i32`.
    pub fn i32s(&self, key: &str) -> Option<Vec<i32>> {
        self.array(key)?.integers()
    }

    /// Returns an array of booleans.
    pub fn bools(&self, key: &str) -> Option<&[bool]> {
        match self.array(key)? {
            Array::Bool(list) => Some(list),
            _ => None,
        }
    }
}

impl<K: Into<String>, V: Into<Value>> FromIterator<(K, V)> for Metadata {
    /// If a key occurs twice, its last value is used.
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
