//! Reads numbers, strings and values from untrusted bytes.

use super::rules::GgufRule;
use super::value::{Array, Value, ValueType};

/// Deepest nesting of arrays. (llama.cpp supports none.)
const MAX_DEPTH: usize = 8;

/// A position in the bytes. Declared lengths are compared with the remaining bytes before memory is allocated, so
/// memory is bounded by a small multiple of the bytes.
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
    len: usize,
}

impl<'a> Cursor<'a> {
    pub fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { rest: bytes, len: bytes.len() }
    }

    /// Returns the number of bytes read so far.
    pub fn position(&self) -> u64 {
        (self.len - self.rest.len()) as u64
    }

    fn left(&self) -> u64 {
        self.rest.len() as u64
    }

    fn array_of<const N: usize>(&mut self, part: &'static str) -> Result<[u8; N], GgufRule> {
        let cut = GgufRule::CutShort { part, needed: N as u64, left: self.left() };
        let (taken, rest) = self.rest.split_first_chunk().ok_or(cut)?;
        self.rest = rest;
        Ok(*taken)
    }

    pub fn u32(&mut self, part: &'static str) -> Result<u32, GgufRule> {
        self.array_of(part).map(u32::from_le_bytes)
    }

    pub fn u64(&mut self, part: &'static str) -> Result<u64, GgufRule> {
        self.array_of(part).map(u64::from_le_bytes)
    }

    /// Reads a count of things of at least `least` bytes each.
    pub fn count(&mut self, things: &'static str, least: u64) -> Result<usize, GgufRule> {
        let count = self.u64("a count")?;
        self.fitting(things, count, least)
    }

    /// Returns a count as `usize` if that many things of at least `least` bytes each fit into the remaining bytes.
    pub fn fitting(&self, things: &'static str, count: u64, least: u64) -> Result<usize, GgufRule> {
        let left = self.left();
        match usize::try_from(count) {
            Ok(fits) if count.checked_mul(least).is_some_and(|bytes| bytes <= left) => Ok(fits),
            _ => Err(GgufRule::Count { things, count, left }),
        }
    }

    fn string(&mut self, part: &'static str) -> Result<&'a [u8], GgufRule> {
        let len = self.u64("the length of a string")?;
        let cut = GgufRule::CutShort { part, needed: len, left: self.left() };
        let taken = usize::try_from(len).ok().and_then(|len| self.rest.split_at_checked(len));
        let (taken, rest) = taken.ok_or(cut)?;
        self.rest = rest;
        Ok(taken)
    }

    /// Reads a key or a name.
    pub fn text(&mut self, part: &'static str, max: usize) -> Result<&'a str, GgufRule> {
        let bytes = self.string(part)?;
        if bytes.is_empty() || bytes.len() > max {
            return Err(GgufRule::Length { part, len: bytes.len() as u64, max: max as u64 });
        }
        std::str::from_utf8(bytes).map_err(|_| GgufRule::Utf8(part))
    }

    /// Reads a type, then a value of that type.
    pub fn value(&mut self) -> Result<Value, GgufRule> {
        const PART: &str = "a value";
        Ok(match self.value_type()? {
            ValueType::U8 => Value::U8(u8::from_le_bytes(self.array_of(PART)?)),
            ValueType::I8 => Value::I8(i8::from_le_bytes(self.array_of(PART)?)),
            ValueType::U16 => Value::U16(u16::from_le_bytes(self.array_of(PART)?)),
            ValueType::I16 => Value::I16(i16::from_le_bytes(self.array_of(PART)?)),
            ValueType::U32 => Value::U32(u32::from_le_bytes(self.array_of(PART)?)),
            ValueType::I32 => Value::I32(i32::from_le_bytes(self.array_of(PART)?)),
            ValueType::F32 => Value::F32(f32::from_le_bytes(self.array_of(PART)?)),
            ValueType::U64 => Value::U64(u64::from_le_bytes(self.array_of(PART)?)),
            ValueType::I64 => Value::I64(i64::from_le_bytes(self.array_of(PART)?)),
            ValueType::F64 => Value::F64(f64::from_le_bytes(self.array_of(PART)?)),
            ValueType::Bool => Value::Bool(truth(self.array_of(PART)?)?),
            ValueType::String => Value::String(self.string("a string")?.to_vec()),
            ValueType::Array => Value::Array(self.array(1)?),
        })
    }

    fn value_type(&mut self) -> Result<ValueType, GgufRule> {
        let number = self.u32("the type of a value")?;
        ValueType::from_number(number).ok_or(GgufRule::ValueType(number))
    }

    /// Reads the type of an array's values, their number, then the values.
    fn array(&mut self, depth: usize) -> Result<Array, GgufRule> {
        if depth > MAX_DEPTH {
            return Err(GgufRule::Deep { max: MAX_DEPTH });
        }
        Ok(match self.value_type()? {
            ValueType::U8 => Array::U8(self.numbers(u8::from_le_bytes)?),
            ValueType::I8 => Array::I8(self.numbers(i8::from_le_bytes)?),
            ValueType::U16 => Array::U16(self.numbers(u16::from_le_bytes)?),
            ValueType::I16 => Array::I16(self.numbers(i16::from_le_bytes)?),
            ValueType::U32 => Array::U32(self.numbers(u32::from_le_bytes)?),
            ValueType::I32 => Array::I32(self.numbers(i32::from_le_bytes)?),
            ValueType::F32 => Array::F32(self.numbers(f32::from_le_bytes)?),
            ValueType::U64 => Array::U64(self.numbers(u64::from_le_bytes)?),
            ValueType::I64 => Array::I64(self.numbers(i64::from_le_bytes)?),
            ValueType::F64 => Array::F64(self.numbers(f64::from_le_bytes)?),
            ValueType::Bool => Array::Bool(self.many(1, |cursor| truth(cursor.array_of("a value")?))?),
            ValueType::String => Array::String(self.many(8, |cursor| cursor.string("a string").map(<[u8]>::to_vec))?),
            // An array has at least a type and a count.
            ValueType::Array => Array::Array(self.many(12, |cursor| cursor.array(depth + 1))?),
        })
    }

    fn numbers<T, const N: usize>(&mut self, from: fn([u8; N]) -> T) -> Result<Vec<T>, GgufRule> {
        self.many(N as u64, |cursor| cursor.array_of("a value").map(from))
    }

    /// Reads a count, then that many values of at least `least` bytes.
    fn many<T>(
        &mut self,
        least: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, GgufRule>,
    ) -> Result<Vec<T>, GgufRule> {
        let count = self.count("values", least)?;
        let mut list = Vec::with_capacity(count);
        for _ in 0..count {
            list.push(read(self)?);
        }
        Ok(list)
    }
}

fn truth([byte]: [u8; 1]) -> Result<bool, GgufRule> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(GgufRule::Truth(other)),
    }
}
