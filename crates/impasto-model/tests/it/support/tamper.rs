//! JSON with single values replaced.

use serde_json::{Value, json};

/// Calls `with` on copies of `root` in which one value (or container) is replaced by an odd one.
pub fn tamper(root: &Value, with: &mut dyn FnMut(&Value)) {
    let mut pointers = Vec::new();
    collect(root, String::new(), &mut pointers);
    let odd = [
        json!(null),
        json!([]),
        json!({}),
        json!(-1),
        json!(u64::MAX),
        json!(1e308),
        json!(""),
        json!("é{%"),
        json!(true),
    ];
    for pointer in pointers {
        for value in &odd {
            let mut copy = root.clone();
            *copy.pointer_mut(&pointer).unwrap() = value.clone();
            with(&copy);
        }
    }
}

fn collect(value: &Value, at: String, out: &mut Vec<String>) {
    out.push(at.clone());
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| collect(v, format!("{at}/{}", escape(k)), out)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| collect(v, format!("{at}/{i}"), out)),
        _ => (),
    }
}
