//! Calls as JSON.

use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::Step;
use crate::FunctionCall;

/// What the JSON is.
enum Kind {
    /// A call. Its arguments may be absent if a marker says that it is a call.
    Call { marked: bool },
    /// A list of calls.
    List,
    /// The arguments of a call of this function.
    Arguments(String),
}

/// A JSON text, of which the end is found by counting brackets.
pub(super) struct JsonBody {
    kind: Kind,
    text: String,
    depth: usize,
    in_string: bool,
    escaped: bool,
}

/// A call as models write it.
#[derive(Deserialize)]
struct Call<'a> {
    name: Option<String>,
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    /// Some models repeat the form in which the tool was described.
    #[serde(borrow)]
    function: Option<&'a RawValue>,
}

impl JsonBody {
    /// Reads an object with a name and arguments.
    pub(super) fn call(marked: bool) -> Self {
        Self::new(Kind::Call { marked })
    }

    /// Reads a list of such objects.
    pub(super) fn list() -> Self {
        Self::new(Kind::List)
    }

    /// Reads the arguments of a call.
    pub(super) fn arguments(name: String) -> Self {
        Self::new(Kind::Arguments(name))
    }

    fn new(kind: Kind) -> Self {
        Self { kind, text: String::new(), depth: 0, in_string: false, escaped: false }
    }

    pub(super) fn push(&mut self, c: char) -> Step {
        // What cannot become a call is refused at once, so that ordinary text in brackets is not held back.
        match self.text.as_str() {
            "" | "{" | "[" if c.is_ascii_whitespace() => return Step::More,
            "" if c != if matches!(self.kind, Kind::List) { '[' } else { '{' } => return Step::Not,
            "{" if c != '"' && !(c == '}' && matches!(self.kind, Kind::Arguments(_))) => return Step::Not,
            "[" if c != '{' => return Step::Not,
            _ => self.text.push(c),
        }
        match c {
            _ if self.escaped => self.escaped = false,
            '\\' if self.in_string => self.escaped = true,
            '"' => self.in_string = !self.in_string,
            _ if self.in_string => {}
            '{' | '[' => self.depth += 1,
            '}' | ']' => self.depth -= 1,
            _ => {}
        }
        if self.depth > 0 {
            return Step::More;
        }
        self.calls().map_or(Step::Not, Step::Done)
    }

    /// The calls in the whole text.
    fn calls(&self) -> Option<Vec<FunctionCall>> {
        match &self.kind {
            Kind::Call { marked } => Some(vec![call(&self.text, *marked)?]),
            Kind::List => {
                let list: Vec<&RawValue> = serde_json::from_str(&self.text).ok()?;
                list.into_iter().map(|json| call(json.get(), true)).collect()
            }
            Kind::Arguments(name) => {
                let json: &RawValue = serde_json::from_str(&self.text).ok()?;
                Some(vec![FunctionCall { name: name.clone(), arguments: object(json)? }])
            }
        }
    }
}

fn call(json: &str, marked: bool) -> Option<FunctionCall> {
    let mut call: Call = serde_json::from_str(json).ok()?;
    if let (None, Some(function)) = (&call.name, call.function) {
        call = serde_json::from_str(function.get()).ok()?;
    }
    let arguments = match call.arguments.or(call.parameters) {
        Some(json) => object(json)?,
        None if marked => "{}".to_owned(),
        None => return None,
    };
    let name = call.name.filter(|name| !name.is_empty())?;
    Some(FunctionCall { name, arguments })
}

/// The text of an object, which may be in a string.
fn object(json: &RawValue) -> Option<String> {
    let text = json.get();
    match text.as_bytes().first()? {
        b'{' => Some(text.to_owned()),
        b'n' => Some("{}".to_owned()),
        b'"' => {
            let text: String = serde_json::from_str(text).ok()?;
            let inner: &RawValue = serde_json::from_str(&text).ok()?;
            inner.get().starts_with('{').then(|| inner.get().to_owned())
        }
        _ => None,
    }
}
