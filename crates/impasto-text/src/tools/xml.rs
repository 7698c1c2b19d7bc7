//! Calls in tags: `<function=name><parameter=key>value</parameter></function>`.

use serde_json::{Map, Value};

use super::body::{MAX_NAME, Step};
use crate::FunctionCall;

const FUNCTION: &str = "<function=";
const PARAMETER: &str = "<parameter=";
const END: &str = "</function>";
const END_VALUE: &str = "</parameter>";

/// Where in a call the text is.
#[derive(Default)]
enum Place {
    /// Before or in the tag of the function.
    #[default]
    Head,
    /// Before or in the tag of a parameter, or the end of the function.
    Between,
    /// In the value of a parameter.
    Value(String),
}

/// A call in tags.
#[derive(Default)]
pub(super) struct XmlBody {
    name: String,
    arguments: Map<String, Value>,
    place: Place,
    /// The tag or the value so far.
    text: String,
}

impl XmlBody {
    /// Reads a character. Descriptions of the functions say which values are texts.
    pub(super) fn push(&mut self, c: char, tools: &[Value]) -> Step {
        if self.text.is_empty() && c.is_whitespace() && !matches!(self.place, Place::Value(_)) {
            return Step::More;
        }
        self.text.push(c);
        let text = self.text.as_str();
        match &self.place {
            Place::Value(key) => {
                let Some(value) = text.strip_suffix(END_VALUE).filter(|_| c == '>') else { return Step::More };
                let value = typed(value, kind(tools, &self.name, key));
                self.arguments.insert(key.clone(), value);
                self.place = Place::Between;
            }
            Place::Between if text == END => {
                let (name, arguments) = (std::mem::take(&mut self.name), std::mem::take(&mut self.arguments));
                return Step::Done(vec![FunctionCall { name, arguments: Value::Object(arguments).to_string() }]);
            }
            Place::Between if END.starts_with(text) => return Step::More,
            Place::Head | Place::Between => {
                let start = if matches!(self.place, Place::Head) { FUNCTION } else { PARAMETER };
                match text.strip_prefix(start) {
                    None if start.starts_with(text) => return Step::More,
                    Some(name) if c != '>' && c != '\n' && name.len() < MAX_NAME => return Step::More,
                    Some(name) if c == '>' && name.len() > 1 => {
                        let name = name[..name.len() - 1].to_owned();
                        if start == FUNCTION {
                            (self.name, self.place) = (name, Place::Between);
                        } else {
                            self.place = Place::Value(name);
                        }
                    }
                    _ => return Step::Not,
                }
            }
        }
        self.text.clear();
        Step::More
    }
}

/// The type of a parameter, as its description says.
fn kind<'a>(tools: &'a [Value], function: &str, key: &str) -> Option<&'a str> {
    let function = tools.iter().map(|tool| tool.get("function").unwrap_or(tool)).find(|f| f["name"] == function)?;
    function["parameters"]["properties"][key]["type"].as_str()
}

/// The value of a parameter: what its type says, or else JSON if it is, or else a text. One line end at each end is layout.
fn typed(text: &str, kind: Option<&str>) -> Value {
    let text = text.strip_prefix('\n').unwrap_or(text);
    let text = text.strip_suffix('\n').unwrap_or(text);
    match kind {
        Some("string") => None,
        _ => serde_json::from_str(text).ok(),
    }
    .unwrap_or_else(|| text.into())
}
