//! `/openapi.json` says what the server does.

use serde_json::{Value, json};

use crate::support::shared;

/// Returns why a value does not match a schema of the description, if so: the part of JSON Schema that is used there.
fn mismatch(page: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let (Value::Object(fields), Some(known)) = (value, properties(page, schema))
        && let Some(name) = fields.keys().find(|name| !known.contains(name))
    {
        return Some(format!("{at}: {name} is not described"));
    }
    mismatch_of_known(page, schema, value, at)
}

/// The fields of objects of a schema, if it names any.
fn properties<'p>(page: &'p Value, schema: &'p Value) -> Option<Vec<&'p String>> {
    let own = schema["properties"].as_object().map(|properties| properties.keys().collect());
    let referred = schema["$ref"].as_str().and_then(|name| properties(page, page.pointer(&name[1..])?));
    let parts = schema["allOf"].as_array().into_iter().flatten().filter_map(|part| properties(page, part));
    own.into_iter().chain(referred).chain(parts).reduce(|mut a: Vec<&String>, b| {
        a.extend(b);
        a
    })
}

/// [`mismatch`] but for fields that are not described.
fn mismatch_of_known(page: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    if let Some(name) = schema["$ref"].as_str() {
        let known = page.pointer(name.strip_prefix('#').expect("in this page"));
        return mismatch_of_known(page, known.unwrap_or_else(|| panic!("{name} is not described")), value, at);
    }
    for all in schema["allOf"].as_array().into_iter().flatten() {
        if let Some(why) = mismatch_of_known(page, all, value, at) {
            return Some(why);
        }
    }
    if let Some(any) = schema["oneOf"].as_array().or(schema["anyOf"].as_array()) {
        let whys: Vec<String> = any.iter().filter_map(|one| mismatch(page, one, value, at)).collect();
        return (whys.len() == any.len()).then(|| format!("{at}: none of {whys:?}"));
    }
    let is_of = |kind: &str| match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        other => panic!("{other} is not a type"),
    };
    let is_typed = match &schema["type"] {
        Value::String(kind) => is_of(kind),
        Value::Array(kinds) => kinds.iter().any(|kind| is_of(kind.as_str().expect("a type"))),
        _ => true,
    };
    if !is_typed {
        return Some(format!("{at}: {value} is not {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|values| !values.contains(value)) {
        return Some(format!("{at}: {value} is not one of {}", schema["enum"]));
    }
    if let Value::Object(fields) = value
        && let Some(properties) = schema["properties"].as_object()
    {
        for name in schema["required"].as_array().into_iter().flatten() {
            if !fields.contains_key(name.as_str().expect("a name")) {
                return Some(format!("{at}: {name} is missing"));
            }
        }
        for (name, field) in fields {
            let Some(schema) = properties.get(name) else { continue };
            if let Some(why) = mismatch(page, schema, field, &format!("{at}.{name}")) {
                return Some(why);
            }
        }
    }
    let items = value.as_array().into_iter().flatten().enumerate();
    items
        .filter(|_| schema["items"].is_object())
        .find_map(|(i, item)| mismatch(page, &schema["items"], item, &format!("{at}[{i}]")))
}

fn schema<'p>(page: &'p Value, path: &str, method: &str, status: &str) -> &'p Value {
    let responses = &page["paths"][path][method]["responses"];
    let content = &responses[status]["content"]["application/json"]["schema"];
    assert!(content.is_object(), "{path} {status}: {responses}");
    content
}

#[test]
fn every_route_is_described() {
    let page = shared().get("/openapi.json").json();
    let source = include_str!("../../src/api/mod.rs");
    let routes = source.split(".route(\"").skip(1).map(|rest| {
        let (path, rest) = rest.split_once('"').expect("a path");
        (path, rest.trim_start_matches(", ").split('(').next().expect("a method"))
    });
    let routes: Vec<(&str, &str)> = routes.collect();
    assert!(routes.len() > 10);
    let described =
        |path: &str| page["paths"][path].as_object().map(|methods| methods.keys().cloned().collect::<Vec<_>>());
    for (path, method) in &routes {
        // The page for people is no part of the interface for programs.
        if !["/", "/favicon.ico", "/web/{file}"].contains(path) {
            assert_eq!(described(path), Some(vec![(*method).to_owned()]), "{path}");
        }
    }
    let paths = page["paths"].as_object().expect("paths");
    assert!(paths.keys().all(|path| routes.iter().any(|(route, _)| route == path)), "{paths:?}");
    // Every reference leads somewhere.
    let text = page.to_string();
    for name in text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().expect("a name")) {
        assert!(page["components"]["schemas"][name].is_object(), "{name}");
    }
}

#[test]
fn answers_are_as_described() {
    let server = shared();
    let page = server.get("/openapi.json").json();
    let check = |schema: &Value, value: &Value| {
        if let Some(why) = mismatch(&page, schema, value, "answer") {
            panic!("{why}\n{value}");
        }
    };
    for path in ["/v1/models", "/health"] {
        check(schema(&page, path, "get", "200"), &server.get(path).json());
    }
    check(schema(&page, "/v1/models/{model}", "get", "200"), &server.get("/v1/models/tiny").json());
    check(schema(&page, "/v1/models/{model}", "get", "404"), &server.get("/v1/models/none").json());
    let messages = json!([{"role": "user", "content": "Hello"}]);
    let tool = json!({"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}}});
    let requests = [
        ("/v1/completions", json!({"prompt": "Once", "logprobs": 2, "echo": true, "n": 2})),
        ("/v1/completions", json!({"prompt": [1, 2, 3], "max_tokens": 1})),
        ("/v1/chat/completions", json!({"messages": messages, "max_tokens": 5, "logprobs": true, "top_logprobs": 2})),
        (
            "/v1/chat/completions",
            json!({"messages": messages, "max_tokens": 200, "tools": [tool], "tool_choice": "required"}),
        ),
        ("/tokenize", json!({"prompt": "Once"})),
        ("/detokenize", json!({"tokens": [1, 2]})),
    ];
    for (path, request) in &requests {
        check(schema(&page, path, "post", "200"), &server.ok(path, request.clone()));
        check(
            schema(&page, path, "post", "4XX"),
            &server.post(path, &json!({"model": "none", "prompt": "a", "messages": messages, "tokens": [1]})).json(),
        );
        check(schema(&page, path, "post", "4XX"), &server.post(path, &json!([])).json());
        // What was sent is described, too.
        let body = &page["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"];
        check(body, request);
    }
    let usage = json!({"include_usage": true});
    for chunk in server.stream("/v1/completions", json!({"prompt": "Once", "logprobs": 1, "stream_options": usage})) {
        check(&json!({"$ref": "#/components/schemas/Completion"}), &chunk);
    }
    for request in [&requests[2].1, &requests[3].1] {
        let mut request = request.clone();
        request["stream_options"] = usage.clone();
        for chunk in server.stream("/v1/chat/completions", request) {
            check(&json!({"$ref": "#/components/schemas/ChatChunk"}), &chunk);
        }
    }
}
