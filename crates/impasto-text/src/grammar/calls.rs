//! Grammars of calls of functions.

use std::collections::HashMap;
use std::fmt::Write;

use serde_json::{Map, Value};

use super::{limits, spaced};
use crate::tools::function;
use crate::{Result, TextError, ToolFormat};

/// Ends the value of a parameter in tags.
const END_VALUE: &str = "\n</parameter>\n";

/// Returns the grammar of calls. Markers that are special tokens are in `special`.
pub(super) fn lark(
    format: ToolFormat,
    tools: &[Value],
    parallel: bool,
    special: &HashMap<String, u32>,
) -> Result<String> {
    if tools.is_empty() {
        return Err(TextError::grammar("there is no function to call"));
    }
    let marker = |text: &str| special.get(text).map_or_else(|| literal(text), |id| format!("<[{id}]>"));
    let between = |gap: &str| if parallel { format!("({} call)*", literal(gap)) } else { String::new() };
    let (open, close) = (marker("<tool_call>"), marker("</tool_call>"));
    let (start, call) = match format {
        ToolFormat::Hermes => (format!("call {}", between("\n")), format!(r#"{open} "\n" function "\n" {close}"#)),
        ToolFormat::Xml => (format!("call {}", between("\n")), format!(r#"{open} "\n" function "\n" {close}"#)),
        ToolFormat::Llama => (format!("call {}", between("; ")), "function".to_owned()),
        ToolFormat::Mistral => {
            (format!(r#"{} "[" call {} "]""#, marker("[TOOL_CALLS]"), between(", ")), "function".to_owned())
        }
    };
    let names: Vec<String> = (0..tools.len()).map(|i| format!("f{i}")).collect();
    let mut rules = format!("start: {start}\ncall: {call}\nfunction: {}\n", names.join(" | "));
    for (i, tool) in tools.iter().enumerate() {
        let (name, parameters) = function(tool)?;
        limits::check_schema(&parameters)?;
        let rule = match format {
            ToolFormat::Xml => tags(i, name, &parameters),
            _ => {
                let key = if format == ToolFormat::Llama { "parameters" } else { "arguments" };
                let head = literal(&format!("{{\"name\": \"{name}\", \"{key}\": "));
                format!("f{i}: {head} a{i} \"}}\"\na{i}: %json {}\n", spaced(parameters))
            }
        };
        rules.push_str(&rule);
    }
    limits::check_length(rules.len())?;
    Ok(rules)
}

/// A text in the syntax of Lark, which is that of JSON.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// The rules of a function whose parameters are in tags, in the order of the schema.
fn tags(i: usize, name: &str, parameters: &Value) -> String {
    let none = Map::new();
    let properties = parameters["properties"].as_object().unwrap_or(&none);
    let is_required = |key: &str| parameters["required"].as_array().is_some_and(|list| list.iter().any(|k| k == key));
    let (mut head, mut rules) = (format!("f{i}: {}", literal(&format!("<function={name}>\n"))), String::new());
    for (j, (key, schema)) in properties.iter().enumerate() {
        let optional = if is_required(key) { "" } else { "?" };
        // Writing to a string cannot fail.
        let _ = write!(head, " p{i}x{j}{optional}");
        let open = literal(&format!("<parameter={key}>\n"));
        let texts = schema["enum"].as_array().filter(|texts| texts.iter().all(Value::is_string));
        let (value, rule) = match (schema["type"].as_str(), texts) {
            (_, Some(texts)) => {
                let texts: Vec<String> = texts.iter().map(Value::to_string).collect();
                (format!("({}) {}", texts.join(" | "), literal(END_VALUE)), String::new())
            }
            (Some("string"), None) => {
                (format!("v{i}x{j}"), format!("v{i}x{j}[suffix={}]: /(?s:.*)/\n", literal(END_VALUE)))
            }
            _ => {
                // References are to the whole schema.
                let mut schema = schema.clone();
                for defs in ["$defs", "definitions"] {
                    if let (Some(schema), Some(defs_of_all)) = (schema.as_object_mut(), parameters.get(defs)) {
                        schema.insert(defs.to_owned(), defs_of_all.clone());
                    }
                }
                (format!("v{i}x{j} {}", literal(END_VALUE)), format!("v{i}x{j}: %json {}\n", spaced(schema)))
            }
        };
        let _ = write!(rules, "p{i}x{j}: {open} {value}\n{rule}");
    }
    format!("{head} \"</function>\"\n{rules}")
}
