//! What templates expect of Python's values and minijinja's do not have: methods, and the answers of some tests.

use minijinja::value::{Kwargs, Tuple, Value, ValueKind, from_args};
use minijinja::{Environment, Error, ErrorKind, State};
use minijinja_contrib::pycompat::unknown_method_callback;

use super::percent::{PERCENT, percent};

/// Widest padding, in characters.
const MAX_WIDTH: usize = 1 << 16;

/// Adds Python's methods, tests, and the filter for its operator `%`.
pub(super) fn extend(env: &mut Environment) {
    env.set_unknown_method_callback(method);
    env.add_filter(PERCENT, percent);
    env.add_test("callable", is_callable);
    env.add_test("iterable", |value: &Value| !value.is_none() && value.try_iter().is_ok());
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String | ValueKind::Undefined)
    });
}

/// Functions, macros and, as in jinja2, values that are not defined. The type of macros is private to minijinja.
fn is_callable(value: &Value) -> bool {
    let is_macro = || value.as_object().is_some_and(|object| object.type_name().ends_with("::Macro"));
    matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined) || is_macro()
}

fn method(state: &mut State, value: &Value, name: &str, args: &[Value]) -> Result<Value, Error> {
    let own = match value.kind() {
        ValueKind::String => string_method(value.as_str().unwrap_or_default(), name, args)?,
        ValueKind::Seq => list_method(value, name, args)?,
        ValueKind::Map if name == "copy" => from_args::<()>(args).map(|()| Some(value.clone()))?,
        _ => None,
    };
    own.map_or_else(|| unknown_method_callback(state, value, name, args), Ok)
}

fn list_method(list: &Value, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    match name {
        "copy" => from_args::<()>(args).map(|()| Some(list.clone())),
        "index" => {
            let (item,): (&Value,) = from_args(args)?;
            let place = list.try_iter()?.position(|other| other == *item);
            place.map(|place| Some(place.into())).ok_or_else(|| failed("the list has no such item"))
        }
        _ => Ok(None),
    }
}

fn string_method(s: &str, name: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match name {
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            s.strip_prefix(prefix).unwrap_or(s).into()
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            s.strip_suffix(suffix).unwrap_or(s).into()
        }
        "find" | "rfind" => find(s, args, name == "rfind")?.map_or(Value::from(-1), Value::from),
        "index" | "rindex" => {
            find(s, args, name == "rindex")?.ok_or_else(|| failed("the string has no such substring"))?.into()
        }
        "split" | "rsplit" => split(s, args, name == "rsplit")?,
        "partition" | "rpartition" => partition(s, args, name == "rpartition")?,
        "ljust" | "rjust" | "center" | "zfill" => pad(s, args, name)?.into(),
        "casefold" => from_args::<()>(args).map(|()| s.to_lowercase())?.into(),
        "swapcase" => from_args::<()>(args).map(|()| swap_case(s))?.into(),
        "isdecimal" => from_args::<()>(args).map(|()| !s.is_empty() && s.chars().all(char::is_numeric))?.into(),
        _ => return Ok(None),
    }))
}

fn failed(message: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message)
}

/// The position of the first or last occurrence of a string between two positions, in characters.
fn find(s: &str, args: &[Value], last: bool) -> Result<Option<usize>, Error> {
    let (what, start, end): (&str, Option<i64>, Option<i64>) = from_args(args)?;
    let length = s.chars().count() as i64;
    let bound = |at: i64| if at < 0 { at.saturating_add(length).max(0) } else { at.min(length) } as usize;
    let (start, end) = (bound(start.unwrap_or(0)), bound(end.unwrap_or(length)));
    let byte = |at| s.char_indices().nth(at).map_or(s.len(), |(byte, _)| byte);
    let part = s.get(byte(start)..byte(end)).unwrap_or_default();
    let found = if last { part.rfind(what) } else { part.find(what) };
    Ok(found.map(|at| start + part[..at].chars().count()))
}

/// Splits at a separator, or at white space without one; at most `maxsplit` times, counted from the start or the end.
fn split(s: &str, args: &[Value], from_end: bool) -> Result<Value, Error> {
    let (separator, most, kwargs): (Option<&str>, Option<i64>, Kwargs) = from_args(args)?;
    let separator = separator.or(kwargs.get("sep")?);
    let most = most.or(kwargs.get("maxsplit")?).and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX);
    kwargs.assert_all_used()?;
    let mut parts: Vec<&str> = match separator {
        Some("") => return Err(failed("the separator is empty")),
        Some(separator) if from_end => s.rsplitn(most.saturating_add(1), separator).collect(),
        Some(separator) => s.splitn(most.saturating_add(1), separator).collect(),
        None => words(s, most, from_end),
    };
    if from_end {
        parts.reverse();
    }
    Ok(parts.into_iter().map(Value::from).collect())
}

/// The words of a string, from the start or the end; after `most` of them, the rest is one.
fn words(s: &str, most: usize, from_end: bool) -> Vec<&str> {
    let (mut parts, mut rest) = (Vec::new(), s);
    loop {
        rest = if from_end { rest.trim_end() } else { rest.trim_start() };
        if rest.is_empty() {
            return parts;
        }
        let cut = if from_end { rest.rfind(char::is_whitespace) } else { rest.find(char::is_whitespace) };
        let (word, left) = match cut.filter(|_| parts.len() < most).map(|cut| rest.split_at(cut)) {
            None => (rest, ""),
            Some((left, word)) if from_end => (word.trim_start(), left),
            Some(pair) => pair,
        };
        parts.push(word);
        rest = left;
    }
}

/// What is before the first or last separator, the separator, and what is after it.
fn partition(s: &str, args: &[Value], last: bool) -> Result<Value, Error> {
    let (separator,): (&str,) = from_args(args)?;
    if separator.is_empty() {
        return Err(failed("the separator is empty"));
    }
    let pair = if last { s.rsplit_once(separator) } else { s.split_once(separator) };
    let parts = match pair {
        Some((before, after)) => [before, separator, after],
        None if last => ["", "", s],
        None => [s, "", ""],
    };
    Ok(Tuple::from(parts.map(Value::from)).into())
}

/// Pads a string to a width in characters.
fn pad(s: &str, args: &[Value], name: &str) -> Result<String, Error> {
    let (width, fill): (i64, Option<&str>) = from_args(args)?;
    let width = usize::try_from(width).unwrap_or(0);
    if width > MAX_WIDTH {
        return Err(failed(format!("{name}: a width of {width} is above the limit of {MAX_WIDTH} characters")));
    }
    let fill = fill.unwrap_or(if name == "zfill" { "0" } else { " " });
    if fill.chars().count() != 1 {
        return Err(failed(format!("{name}: the padding must be one character")));
    }
    let missing = width.saturating_sub(s.chars().count());
    let (sign, rest) = if name == "zfill" { s.split_at(usize::from(s.starts_with(['+', '-']))) } else { ("", s) };
    let before = match name {
        "ljust" => 0,
        // As in CPython, the odd space is on the left if the width is odd.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    Ok(format!("{sign}{}{rest}{}", fill.repeat(before), fill.repeat(missing - before)))
}

/// Exchanges upper and lower case.
fn swap_case(s: &str) -> String {
    let swap = |c: char| match c.is_uppercase() {
        true => c.to_lowercase().collect::<String>(),
        false => c.to_uppercase().collect(),
    };
    s.chars().map(swap).collect()
}
