//! The filter `tojson`: Python's `json.dumps`, as transformers calls it.

use std::io::{Result as Written, Write};

use minijinja::value::{Kwargs, Value};
use minijinja::{Error, ErrorKind};
use serde::Serialize;

/// Deepest indentation of a level, in spaces.
const MAX_INDENT: usize = 16;

/// Python's `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(value: &Value, kwargs: Kwargs) -> Result<String, Error> {
    let failed = |e: serde_json::Error| Error::new(ErrorKind::BadSerialization, e.to_string());
    let sorted = kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false);
    let dumps = Dumps::new(&kwargs)?;
    kwargs.assert_all_used()?;
    let mut json = serde_json::to_value(value).map_err(failed)?;
    if sorted {
        json.sort_all_objects();
    }
    let mut out = Vec::new();
    json.serialize(&mut serde_json::Serializer::with_formatter(&mut out, dumps)).map_err(failed)?;
    String::from_utf8(out).map_err(|e| Error::new(ErrorKind::BadSerialization, e.to_string()))
}

/// Writes JSON with Python's spaces.
struct Dumps {
    /// The indentation of one level; `None` for JSON on one line.
    indent: Option<String>,
    between_items: String,
    after_key: String,
    ascii: bool,
    depth: usize,
    /// Whether the innermost array or object has items.
    filled: bool,
}

impl Dumps {
    fn new(kwargs: &Kwargs) -> Result<Self, Error> {
        let indent = match kwargs.get::<Option<Value>>("indent")? {
            None => None,
            Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
            Some(count) => Some(" ".repeat(i64::try_from(count)?.clamp(0, MAX_INDENT as i64) as usize)),
        };
        let comma = if indent.is_some() { "," } else { ", " };
        let (between_items, after_key) = match kwargs.get::<Option<Vec<String>>>("separators")?.as_deref() {
            None => (comma.to_owned(), ": ".to_owned()),
            Some([item, key]) => (item.clone(), key.clone()),
            Some(_) => return Err(Error::new(ErrorKind::InvalidOperation, "separators must be a pair of strings")),
        };
        let ascii = kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false);
        Ok(Self { indent, between_items, after_key, ascii, depth: 0, filled: false })
    }

    fn open(&mut self, w: &mut (impl Write + ?Sized), bracket: &str) -> Written<()> {
        self.depth += 1;
        self.filled = false;
        w.write_all(bracket.as_bytes())
    }

    fn close(&mut self, w: &mut (impl Write + ?Sized), bracket: &str) -> Written<()> {
        self.depth -= 1;
        if self.filled {
            self.new_line(w)?;
        }
        self.filled = true;
        w.write_all(bracket.as_bytes())
    }

    fn item(&mut self, w: &mut (impl Write + ?Sized), first: bool) -> Written<()> {
        if !first {
            w.write_all(self.between_items.as_bytes())?;
        }
        self.filled = true;
        self.new_line(w)
    }

    fn new_line(&self, w: &mut (impl Write + ?Sized)) -> Written<()> {
        let Some(indent) = &self.indent else { return Ok(()) };
        w.write_all(b"\n")?;
        (0..self.depth).try_for_each(|_| w.write_all(indent.as_bytes()))
    }
}

impl serde_json::ser::Formatter for Dumps {
    fn begin_array<W: ?Sized + Write>(&mut self, w: &mut W) -> Written<()> {
        self.open(w, "[")
    }

    fn end_array<W: ?Sized + Write>(&mut self, w: &mut W) -> Written<()> {
        self.close(w, "]")
    }

    fn begin_array_value<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> Written<()> {
        self.item(w, first)
    }

    fn begin_object<W: ?Sized + Write>(&mut self, w: &mut W) -> Written<()> {
        self.open(w, "{")
    }

    fn end_object<W: ?Sized + Write>(&mut self, w: &mut W) -> Written<()> {
        self.close(w, "}")
    }

    fn begin_object_key<W: ?Sized + Write>(&mut self, w: &mut W, first: bool) -> Written<()> {
        self.item(w, first)
    }

    fn begin_object_value<W: ?Sized + Write>(&mut self, w: &mut W) -> Written<()> {
        w.write_all(self.after_key.as_bytes())
    }

    /// An exponent has a sign and two digits.
    fn write_f64<W: ?Sized + Write>(&mut self, w: &mut W, value: f64) -> Written<()> {
        let text = serde_json::Number::from_f64(value).map_or_else(String::new, |n| n.to_string());
        match text.split_once('e') {
            None => w.write_all(text.as_bytes()),
            Some((digits, exponent)) => {
                let (sign, exponent) = match exponent.strip_prefix('-') {
                    Some(rest) => ('-', rest),
                    None => ('+', exponent.trim_start_matches('+')),
                };
                write!(w, "{digits}e{sign}{exponent:0>2}")
            }
        }
    }

    fn write_string_fragment<W: ?Sized + Write>(&mut self, w: &mut W, fragment: &str) -> Written<()> {
        if !self.ascii {
            return w.write_all(fragment.as_bytes());
        }
        fragment.chars().try_for_each(|c| match c {
            ' '..='~' => write!(w, "{c}"),
            _ => c.encode_utf16(&mut [0; 2]).iter().try_for_each(|unit| write!(w, "\\u{unit:04x}")),
        })
    }
}
