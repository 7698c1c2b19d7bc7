//! `/v1/chat/completions`: messages, functions, and answers that match something.

use serde_json::{Value, json};

use crate::support::{Setup, files, shared};

const PATH: &str = "/v1/chat/completions";

fn user(text: &str) -> Value {
    json!([{"role": "user", "content": text}])
}

fn ask(extra: Value) -> Value {
    let mut request = json!({"messages": user("Tell me of a dog"), "max_tokens": 40, "seed": 1});
    extra.as_object().expect("fields").iter().for_each(|(name, value)| request[name] = value.clone());
    request
}

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().expect("a text")
}

/// Puts the pieces of a stream together, as clients do. Returns the choices.
fn joined(chunks: &[Value], count: usize) -> Vec<Value> {
    let mut choices: Vec<Value> =
        (0..count).map(|index| json!({"index": index, "message": {}, "finish_reason": null})).collect();
    for chunk in chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        for piece in chunk["choices"].as_array().expect("choices") {
            let choice = &mut choices[piece["index"].as_u64().expect("a number") as usize];
            assert!(choice["finish_reason"].is_null(), "nothing follows the end");
            choice["finish_reason"] = piece["finish_reason"].clone();
            let (message, delta) = (&mut choice["message"], &piece["delta"]);
            if let Some(role) = delta.get("role") {
                message["role"] = role.clone();
            }
            if let Some(text) = delta.get("content") {
                let before = message["content"].as_str().unwrap_or_default();
                message["content"] = json!(format!("{before}{}", text.as_str().expect("a text")));
            }
            for call in delta["tool_calls"].as_array().into_iter().flatten() {
                let index = call["index"].as_u64().expect("a number") as usize;
                if message.get("tool_calls").is_none() {
                    message["tool_calls"] = json!([]);
                }
                let calls = message["tool_calls"].as_array_mut().expect("a list");
                if calls.len() == index {
                    assert!(call["id"].is_string() && call["function"]["name"].is_string(), "{call}");
                    calls.push(
                        json!({"type": call["type"], "function": {"name": call["function"]["name"], "arguments": ""}}),
                    );
                }
                let arguments = &mut calls[index]["function"]["arguments"];
                let before = arguments.as_str().expect("a text");
                *arguments = json!(format!("{before}{}", call["function"]["arguments"].as_str().unwrap_or_default()));
            }
            let logprobs = piece["logprobs"]["content"].as_array().into_iter().flatten().cloned();
            let logprobs: Vec<Value> = logprobs.collect();
            if choice.get("logprobs").is_none() {
                choice["logprobs"] = json!({"content": []});
            }
            choice["logprobs"]["content"].as_array_mut().expect("a list").extend(logprobs);
        }
    }
    choices
}

/// The choices of a whole answer, in the form of those of a stream.
fn whole(answer: &Value) -> Vec<Value> {
    let mut choices = answer["choices"].as_array().expect("choices").clone();
    for choice in &mut choices {
        if choice["logprobs"].is_null() {
            choice["logprobs"] = json!({"content": []});
        }
        let calls = choice["message"].get_mut("tool_calls").and_then(Value::as_array_mut);
        for call in calls.into_iter().flatten() {
            call.as_object_mut().expect("a call").remove("id").expect("an id");
        }
        let message = choice["message"].as_object_mut().expect("a message");
        if message["content"].is_null() {
            message["content"] = json!("");
        }
    }
    choices
}

#[test]
fn an_answer_has_the_form_that_clients_expect() {
    let server = shared();
    let answer = server.ok(PATH, ask(json!({"model": "tiny:3"})));
    assert!(answer["id"].as_str().expect("an id").starts_with("chatcmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!("tiny:3")));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["message"]["role"], &choice["logprobs"]), (&json!("assistant"), &Value::Null));
    assert!(!content(&answer).is_empty() && choice["message"].get("tool_calls").is_none());
    // The prompt is what the template makes of the conversation.
    let text = "<|im_start|>user\nTell me of a dog<|im_end|>\n<|im_start|>assistant\n";
    let prompt = server.ok("/tokenize", json!({"prompt": text, "add_special_tokens": false}));
    assert_eq!(answer["usage"]["prompt_tokens"], prompt["count"]);
    let raw = json!({"prompt": prompt["tokens"], "max_tokens": 40, "seed": 1});
    assert_eq!(server.ok("/v1/completions", raw)["choices"][0]["text"], content(&answer));
    // Fields that clients send, and other ways to say the same.
    for same in [
        json!({"max_completion_tokens": 40, "max_tokens": null}),
        json!({"max_completion_tokens": 40, "max_tokens": 50}),
        json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "Tell me of a dog"}]}]}),
        json!({"tools": null, "tool_choice": null, "response_format": null, "stop": null, "n": null, "logprobs": null,
               "top_logprobs": null, "stream": null, "stream_options": null, "parallel_tool_calls": null, "logit_bias": null,
               "user": "me", "store": false, "metadata": {}, "service_tier": "auto", "reasoning_effort": "low"}),
        json!({"tools": [], "tool_choice": "auto"}),
        json!({"response_format": {"type": "text"}, "n": 1, "stream": false}),
    ] {
        let again = server.ok(PATH, ask(same.clone()));
        assert_eq!(again["choices"], answer["choices"], "{same}");
    }
}

#[test]
fn pieces_of_a_stream_are_the_whole() {
    let server = shared();
    for extra in [
        json!({}),
        json!({"n": 3, "temperature": 1.3}),
        json!({"logprobs": true, "top_logprobs": 3, "n": 2}),
        json!({"stop": ["the", ". "], "max_tokens": 100}),
        json!({"tools": [weather()], "tool_choice": "required", "max_tokens": 300}),
        json!({"response_format": {"type": "json_object"}, "max_tokens": 50}),
    ] {
        let whole_answer = server.ok(PATH, ask(extra.clone()));
        let mut request = ask(extra.clone());
        request["stream_options"] = json!({"include_usage": true});
        let mut chunks = server.stream(PATH, request);
        let usage = chunks.pop().expect("the usage");
        assert_eq!(
            (&usage["choices"], &usage["usage"]["completion_tokens"]),
            (&json!([]), &whole_answer["usage"]["completion_tokens"])
        );
        assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": ""}));
        assert_eq!(chunks.last().expect("a chunk")["impasto"]["layer"], 3);
        let choices = whole(&whole_answer);
        assert_eq!(joined(&chunks, choices.len()), choices, "{extra}");
    }
}

#[test]
fn log_probabilities_come_with_bytes() {
    let server = shared();
    let answer = server.ok(PATH, ask(json!({"logprobs": true, "top_logprobs": 2, "temperature": 0, "max_tokens": 60})));
    let tokens = answer["choices"][0]["logprobs"]["content"].as_array().expect("tokens");
    assert_eq!(answer["usage"]["completion_tokens"], tokens.len());
    let mut bytes = Vec::new();
    for token in tokens {
        bytes.extend(token["bytes"].as_array().expect("bytes").iter().map(|byte| byte.as_u64().expect("a byte") as u8));
        let top = token["top_logprobs"].as_array().expect("tokens");
        assert_eq!(
            (top.len(), &top[0]["logprob"]),
            (2, &token["logprob"]),
            "the most likely is drawn at temperature 0"
        );
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
    }
    assert_eq!(String::from_utf8(bytes).expect("UTF-8"), content(&answer));
    assert_eq!(
        server.ok(PATH, ask(json!({"logprobs": true})))["choices"][0]["logprobs"]["content"][0]["top_logprobs"],
        json!([])
    );
    for wrong in [json!({"top_logprobs": 2}), json!({"logprobs": true, "top_logprobs": 21})] {
        assert_eq!(server.fails(PATH, &ask(wrong), 400, "invalid_value")["param"], "top_logprobs");
    }
}

#[test]
fn answers_match_what_they_must() {
    let server = shared();
    let schema = json!({
        "type": "object", "additionalProperties": false, "required": ["name", "age", "tags", "mood"],
        "properties": {
            "name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
            "tags": {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 1, "maxItems": 3}, "mood": {"type": ["null", "boolean"]}
        }
    });
    for seed in 0..2 {
        let format = json!({"type": "json_schema", "json_schema": {"name": "pet", "strict": true, "schema": schema}});
        let request =
            ask(json!({"response_format": format, "temperature": 2, "seed": seed, "max_tokens": 900, "n": 2}));
        let answer = server.ok(PATH, request);
        for choice in answer["choices"].as_array().expect("choices") {
            assert_eq!(choice["finish_reason"], "stop", "{choice}");
            let text = choice["message"]["content"].as_str().expect("a text");
            let pet: Value = serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"));
            assert!(pet["name"].as_str().is_some_and(|name| name.chars().count() <= 12), "{pet}");
            assert!(pet["age"].as_u64().is_some_and(|age| age <= 99), "{pet}");
            let tags = pet["tags"].as_array().expect("a list");
            assert!((1..=3).contains(&tags.len()) && tags.iter().all(|tag| tag == "a" || tag == "b"), "{pet}");
            assert!(pet["mood"].is_null() || pet["mood"].is_boolean(), "{pet}");
            assert_eq!(pet.as_object().expect("an object").len(), 4);
        }
        let format = json!({"type": "regex", "pattern": "[a-c]{2,4}-(dog|cat)[0-9]+!"});
        let answer =
            server.ok(PATH, ask(json!({"response_format": format, "temperature": 2, "seed": seed, "max_tokens": 900})));
        let text = content(&answer);
        let (letters, rest) = text.split_once('-').expect("a dash");
        assert!((2..=4).contains(&letters.len()) && letters.bytes().all(|b| (b'a'..=b'c').contains(&b)), "{text}");
        let number = rest.strip_prefix("dog").or(rest.strip_prefix("cat")).and_then(|rest| rest.strip_suffix('!'));
        assert!(number.is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit())), "{text}");
        let request =
            ask(json!({"response_format": {"type": "json_object"}, "temperature": 2, "seed": seed, "max_tokens": 200}));
        let answer = server.ok(PATH, request);
        let parsed = serde_json::from_str::<Value>(content(&answer));
        match answer["choices"][0]["finish_reason"].as_str() {
            Some("stop") => assert!(parsed.expect("JSON").is_object(), "{answer}"),
            // A text that is cut off is the beginning of an object.
            _ => assert!(
                content(&answer).trim_start().starts_with('{') && parsed.is_err_and(|error| error.is_eof()),
                "{answer}"
            ),
        }
    }
    for wrong in [
        json!({"type": "regex", "pattern": "("}),
        json!({"type": "json_schema", "json_schema": {"schema": {"type": "no such type"}}}),
        json!({"type": "json_schema", "json_schema": {"schema": {"$ref": "http://127.0.0.1:1/schema.json"}}}),
    ] {
        assert_eq!(
            server.fails(PATH, &ask(json!({"response_format": wrong})), 400, "invalid_value")["param"],
            "response_format"
        );
    }
    server.fails(PATH, &ask(json!({"response_format": {"type": "poem"}})), 400, "invalid_json");
}

fn weather() -> Value {
    json!({"type": "function", "function": {
        "name": "get_weather", "description": "The weather in a city.",
        "parameters": {"type": "object", "required": ["city"], "additionalProperties": false, "properties": {
            "city": {"type": "string", "maxLength": 10}, "unit": {"enum": ["C", "F"]}}}
    }})
}

fn nothing() -> Value {
    json!({"type": "function", "function": {"name": "rest", "parameters": {"type": "object", "properties": {}, "additionalProperties": false}}})
}

#[test]
fn functions_are_called() {
    let server = shared();
    let tools = json!([weather(), nothing()]);
    let named = json!({"type": "function", "function": {"name": "get_weather"}});
    for seed in 0..2 {
        for choice in [json!("required"), named.clone()] {
            let extra = json!({"tools": tools, "tool_choice": choice, "temperature": 1.5, "seed": seed, "max_tokens": 900, "parallel_tool_calls": false});
            let answer = server.ok(PATH, ask(extra));
            let first = &answer["choices"][0];
            assert_eq!(first["finish_reason"], "tool_calls", "{answer}");
            let calls = first["message"]["tool_calls"].as_array().expect("calls");
            assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("function")));
            assert!(calls[0]["id"].as_str().is_some_and(|id| id.len() == 9));
            let arguments: Value =
                serde_json::from_str(calls[0]["function"]["arguments"].as_str().expect("a text")).expect("JSON");
            match calls[0]["function"]["name"].as_str() {
                Some("get_weather") => {
                    assert!(arguments["city"].as_str().is_some_and(|city| city.chars().count() <= 10), "{arguments}");
                    assert!(arguments.get("unit").is_none_or(|unit| unit == "C" || unit == "F"), "{arguments}");
                }
                Some("rest") => assert!(choice == "required" && arguments == json!({}), "{arguments}"),
                other => panic!("{other:?}"),
            }
        }
    }
    // The template sees the functions, the calls and their results.
    let tokens = |request: Value| server.ok(PATH, request)["usage"]["prompt_tokens"].as_u64().expect("a number");
    let plain = tokens(ask(json!({"max_tokens": 1})));
    let with_tools = tokens(ask(json!({"tools": tools, "max_tokens": 1})));
    assert!(with_tools > plain + 50);
    assert_eq!(tokens(ask(json!({"tools": tools, "tool_choice": "none", "max_tokens": 1}))), plain);
    let talk = json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "call00001", "type": "function", "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "call00001", "content": "sunny"}
    ]);
    let answer = server.ok(PATH, ask(json!({"messages": talk, "tools": tools, "max_tokens": 5})));
    assert!(answer["usage"]["prompt_tokens"].as_u64().expect("a number") > with_tools);
    // A model that may call functions, and does not, answers.
    let free = server.ok(PATH, ask(json!({"tools": tools, "tool_choice": "auto", "temperature": 0})));
    assert!(free["choices"][0]["message"].get("tool_calls").is_none() && !content(&free).is_empty(), "{free}");
    assert_eq!(free["choices"][0]["finish_reason"], "length");
    for (extra, param) in [
        (json!({"tools": tools, "tool_choice": {"type": "function", "function": {"name": "none"}}}), "tool_choice"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [{"type": "function"}]}), "tools"),
        (json!({"tools": [{"type": "other", "function": {"name": "a"}}]}), "tools"),
        (json!({"tools": vec![nothing(); 129]}), "tools"),
        (
            json!({"tools": tools, "tool_choice": "required", "response_format": {"type": "json_object"}}),
            "response_format",
        ),
    ] {
        assert_eq!(server.fails(PATH, &ask(extra.clone()), 400, "invalid_value")["param"], param, "{extra}");
    }
}

#[test]
fn templates_without_tools_get_them_as_text() {
    let folder = files::temporary();
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    files::with_template(folder.path(), template);
    let server = Setup::of(&[("plain", folder.path().to_owned())]).start();
    let extra = json!({"tools": [weather()], "tool_choice": "required", "max_tokens": 500, "temperature": 1});
    let answer = server.ok(PATH, ask(extra));
    assert_eq!(answer["choices"][0]["message"]["tool_calls"][0]["function"]["name"], "get_weather", "{answer}");
}

#[test]
fn conversations_that_are_refused() {
    let server = shared();
    let fails = |messages: Value, code: &str| server.fails(PATH, &json!({"messages": messages}), 400, code);
    assert_eq!(fails(json!([]), "invalid_value")["param"], "messages");
    let angry = fails(json!([{"role": "angry", "content": "no"}]), "invalid_value");
    assert!(angry["message"].as_str().expect("a message").contains("nobody is angry here"), "{angry}");
    let picture =
        json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://a.example/b.png"}}]}]);
    fails(picture, "invalid_json");
    fails(json!([{"content": "no role"}]), "invalid_json");
    fails(json!("Hello"), "invalid_json");
    let server = Setup::of(&[("bare", files::tiny())]).start();
    let error = server.fails(PATH, &json!({"messages": user("Hello")}), 400, "not_supported");
    assert!(error["message"].as_str().expect("a message").contains("chat template"), "{error}");
}

/// The command runs templates in a process of their own, with limits of memory; its tests have worse ones.
#[test]
fn a_template_without_end_ends_nothing() {
    let folder = files::temporary();
    files::with_template(folder.path(), "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}");
    let server = Setup::of(&[("tiny", folder.path().to_owned())]).start();
    let request = json!({"messages": user("Hello"), "max_tokens": 2});
    assert_eq!(server.fails(PATH, &request, 400, "invalid_value")["param"], "messages");
    server.ok("/v1/completions", json!({"prompt": "Hello", "max_tokens": 2}));
}
