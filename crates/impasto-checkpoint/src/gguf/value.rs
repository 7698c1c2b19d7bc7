//! The typed values in the metadata of a GGUF file.

/// The type of a value. The discriminant is its number in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
#[allow(missing_docs)] // The names are self-explanatory.
pub enum ValueType {
    U8 = 0,
    I8 = 1,
    U16 = 2,
    I16 = 3,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    String = 8,
    Array = 9,
    U64 = 10,
    I64 = 11,
    F64 = 12,
}

impl ValueType {
    const ALL: [ValueType; 13] = [
        ValueType::U8,
        ValueType::I8,
        ValueType::U16,
        ValueType::I16,
        ValueType::U32,
        ValueType::I32,
        ValueType::F32,
        ValueType::Bool,
        ValueType::String,
        ValueType::Array,
        ValueType::U64,
        ValueType::I64,
        ValueType::F64,
    ];

    /// Returns the type with a number in the file.
    pub(super) fn from_number(number: u32) -> Option<ValueType> {
        Self::ALL.get(usize::try_from(number).ok()?).copied()
    }
}

/// A value. Strings are bytes: the format requires UTF-8, but some files contain tokens that are not.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The names are self-explanatory.
pub enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(Vec<u8>),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of values of one type, which an empty array has too. Arrays within an array may differ in type.
#[derive(Clone, Debug, PartialEq)]
#[allow(missing_docs)] // The names are self-explanatory.
pub enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<Vec<u8>>),
    Array(Vec<Array>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

/// Evaluates `$body` with `$list` bound to the values of an array of any type.
macro_rules! of_any_type {
    ($array:expr, $list:ident => $body:expr) => {
        match $array {
            Array::U8($list) => $body,
            Array::I8($list) => $body,
            Array::U16($list) => $body,
            Array::I16($list) => $body,
            Array::U32($list) => $body,
            Array::I32($list) => $body,
            Array::F32($list) => $body,
            Array::Bool($list) => $body,
            Array::String($list) => $body,
            Array::Array($list) => $body,
            Array::U64($list) => $body,
            Array::I64($list) => $body,
            Array::F64($list) => $body,
        }
    };
}

impl Array {
    /// Returns the number of values.
    pub fn len(&self) -> usize {
        of_any_type!(self, list => list.len())
    }

    /// Returns whether there are no values.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns the type of the values.
    pub fn element_type(&self) -> ValueType {
        match self {
            Array::U8(_) => ValueType::U8,
            Array::I8(_) => ValueType::I8,
            Array::U16(_) => ValueType::U16,
            Array::I16(_) => ValueType::I16,
            Array::U32(_) => ValueType::U32,
            Array::I32(_) => ValueType::I32,
            Array::F32(_) => ValueType::F32,
            Array::Bool(_) => ValueType::Bool,
            Array::String(_) => ValueType::String,
            Array::Array(_) => ValueType::Array,
            Array::U64(_) => ValueType::U64,
            Array::I64(_) => ValueType::I64,
            Array::F64(_) => ValueType::F64,
        }
    }

    /// Returns the values as integers, if they are integers that all fit `T`.
    pub(super) fn integers<T: TryFrom<i128>>(&self) -> Option<Vec<T>> {
        fn fit<S: Copy + Into<i128>, T: TryFrom<i128>>(list: &[S]) -> Option<Vec<T>> {
            list.iter().map(|&n| T::try_from(n.into()).ok()).collect()
        }
        match self {
            Array::U8(list) => fit(list),
            Array::I8(list) => fit(list),
            Array::U16(list) => fit(list),
            Array::I16(list) => fit(list),
            Array::U32(list) => fit(list),
            Array::I32(list) => fit(list),
            Array::U64(list) => fit(list),
            Array::I64(list) => fit(list),
            _ => None,
        }
    }
}

impl Value {
    /// Returns the type of the value.
    pub fn value_type(&self) -> ValueType {
        match self {
            Value::U8(_) => ValueType::U8,
            Value::I8(_) => ValueType::I8,
            Value::U16(_) => ValueType::U16,
            Value::I16(_) => ValueType::I16,
            Value::U32(_) => ValueType::U32,
            Value::I32(_) => ValueType::I32,
            Value::F32(_) => ValueType::F32,
            Value::Bool(_) => ValueType::Bool,
            Value::String(_) => ValueType::String,
            Value::Array(_) => ValueType::Array,
            Value::U64(_) => ValueType::U64,
            Value::I64(_) => ValueType::I64,
            Value::F64(_) => ValueType::F64,
        }
    }

    /// Returns a string that is valid UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Returns an integer of any type that is not negative.
    pub fn as_u64(&self) -> Option<u64> {
        match *self {
            Value::U8(n) => Some(n.into()),
            Value::U16(n) => Some(n.into()),
            Value::U32(n) => Some(n.into()),
            Value::U64(n) => Some(n),
            Value::I8(n) => n.try_into().ok(),
            Value::I16(n) => n.try_into().ok(),
            Value::I32(n) => n.try_into().ok(),
            Value::I64(n) => n.try_into().ok(),
            _ => None,
        }
    }

    /// Returns a float of either type.
    pub fn as_f64(&self) -> Option<f64> {
        match *self {
            Value::F32(x) => Some(x.into()),
            Value::F64(x) => Some(x),
            _ => None,
        }
    }

    /// Returns a boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Value::Bool(truth) => Some(truth),
            _ => None,
        }
    }
}

macro_rules! from {
    ($($variant:ident $type:ty),*) => {$(
        impl From<$type> for Value {
            fn from(value: $type) -> Value {
                Value::$variant(value)
            }
        }
        impl From<Vec<$type>> for Value {
            fn from(list: Vec<$type>) -> Value {
                Value::Array(Array::$variant(list))
            }
        }
    )*};
}

// There is none for u8, because a list of u8 could be mistaken for a string.
from!(I8 i8, U16 u16, I16 i16, U32 u32, I32 i32, F32 f32, Bool bool, U64 u64, I64 i64, F64 f64);

impl From<&str> for Value {
    fn from(text: &str) -> Value {
        Value::String(text.as_bytes().to_vec())
    }
}

impl From<String> for Value {
    fn from(text: String) -> Value {
        Value::String(text.into_bytes())
    }
}

impl From<Vec<String>> for Value {
    fn from(list: Vec<String>) -> Value {
        Value::Array(Array::String(list.into_iter().map(String::into_bytes).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::{Array, Value, ValueType};

    #[test]
    fn an_empty_array_has_a_type() {
        assert_eq!(Value::from(Vec::<f32>::new()).value_type(), ValueType::Array);
        assert_eq!(Array::F32(vec![]).element_type(), ValueType::F32);
        assert!(Array::Array(vec![]).is_empty());
        for number in 0..13 {
            assert_eq!(ValueType::from_number(number).map(|t| t as u32), Some(number));
        }
        assert_eq!(ValueType::from_number(13), None);
    }
}
