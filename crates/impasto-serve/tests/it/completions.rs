//! `/v1/completions`, `/tokenize`, `/detokenize` and `/v1/embeddings`.

use impasto_model::Want;
use impasto_model::sampling::log_sum_exp;
use impasto_serve::{Pooling, ServeOptions};
use serde_json::{Value, json};

use crate::support::{Setup, shared};

const PATH: &str = "/v1/completions";

fn text(answer: &Value) -> &str {
    answer["choices"][0]["text"].as_str().expect("a text")
}

/// A number as it is after it was written and read.
fn written(x: f64) -> Value {
    serde_json::from_str(&json!(x).to_string()).expect("a number")
}

#[test]
fn an_answer_has_the_form_that_clients_expect() {
    let server = shared();
    let answer = server.ok(PATH, json!({"model": "tiny", "prompt": "Once upon a time", "temperature": 0}));
    assert!(answer["id"].as_str().expect("an id").starts_with("cmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("text_completion"), &json!("tiny")));
    assert!(answer["created"].as_u64() > Some(1_700_000_000));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["logprobs"]), (&json!(0), &Value::Null));
    assert_eq!((&choice["finish_reason"], &answer["usage"]["completion_tokens"]), (&json!("length"), &json!(16)));
    let usage = &answer["usage"];
    let prompt = server.ok("/tokenize", json!({"prompt": "Once upon a time"}))["count"].clone();
    assert_eq!(usage["prompt_tokens"], prompt);
    assert_eq!(usage["total_tokens"], prompt.as_u64().expect("a number") + 16);
    let impasto = &answer["impasto"];
    assert_eq!(impasto["layer"], 3);
    assert!(impasto["time_to_first_token"].as_f64() > Some(0.0) && impasto["tokens_per_second"].as_f64() > Some(0.0));
    assert!(impasto["bits_per_weight"].as_f64() > Some(6.0));
    // What clients send that wants the defaults.
    let nulls = json!({
        "model": null, "prompt": "Once upon a time", "temperature": 0, "max_tokens": null, "n": null, "echo": null,
        "stream": null, "stop": null, "logprobs": null, "suffix": null, "best_of": null, "logit_bias": null, "top_p": null,
        "seed": null, "presence_penalty": null, "frequency_penalty": null, "stream_options": null, "user": "me", "unknown": 1
    });
    assert_eq!(server.ok(PATH, nulls)["choices"], answer["choices"]);
}

#[test]
fn pieces_of_a_stream_are_the_whole() {
    let server = shared();
    for extra in [
        json!({}),
        json!({"n": 3, "logprobs": 2}),
        json!({"echo": true}),
        json!({"echo": true, "logprobs": 1, "max_tokens": 3}),
        json!({"prompt": ["Tom had a dog.", "Lily was"], "n": 2, "logprobs": 1, "echo": true}),
        json!({"stop": ["the", " dog and"], "max_tokens": 80}),
        json!({"prompt": "The 🎈 was", "temperature": 2, "max_tokens": 60, "logprobs": 0}),
    ] {
        let mut request = json!({"prompt": "Once upon a time", "max_tokens": 24, "temperature": 1, "seed": 3});
        for (name, value) in extra.as_object().expect("fields") {
            request[name] = value.clone();
        }
        let whole = server.ok(PATH, request.clone());
        request["stream_options"] = json!({"include_usage": true});
        let mut chunks = server.stream(PATH, request.clone());
        let usage = chunks.pop().expect("a chunk with the usage");
        assert_eq!(usage["choices"], json!([]));
        assert_eq!(usage["usage"]["completion_tokens"], whole["usage"]["completion_tokens"]);
        let count = whole["choices"].as_array().expect("choices").len();
        let mut joined = vec![
            (
                String::new(),
                json!({"tokens": [], "token_logprobs": [], "top_logprobs": [], "text_offset": []}),
                Value::Null
            );
            count
        ];
        for chunk in &chunks {
            assert!(
                chunk["id"] == chunks[0]["id"] && chunk["object"] == "text_completion" && chunk.get("usage").is_none()
            );
            for choice in chunk["choices"].as_array().expect("choices") {
                let (text, logprobs, finish) = &mut joined[choice["index"].as_u64().expect("a number") as usize];
                assert!(finish.is_null(), "nothing follows the end");
                text.push_str(choice["text"].as_str().expect("a text"));
                for (name, values) in choice["logprobs"].as_object().into_iter().flatten() {
                    let all = logprobs[name].as_array_mut().expect("a list");
                    all.extend(values.as_array().expect("a list").iter().cloned());
                }
                *finish = choice["finish_reason"].clone();
            }
        }
        for (choice, (text, logprobs, finish)) in whole["choices"].as_array().expect("choices").iter().zip(joined) {
            assert_eq!((&choice["text"], &choice["finish_reason"]), (&json!(text), &finish), "{request}");
            if !request["logprobs"].is_null() {
                assert_eq!(choice["logprobs"], logprobs, "{request}");
            }
        }
        request.as_object_mut().expect("fields").remove("stream_options");
        let last = server.stream(PATH, request).pop().expect("a chunk");
        assert!(last["choices"][0]["finish_reason"].is_string() && last["impasto"]["layer"] == 3, "{last}");
    }
}

#[test]
fn a_stop_string_ends_a_text_and_is_not_in_it() {
    let server = shared();
    let request = |stop: Value| json!({"prompt": "Once upon a time", "max_tokens": 60, "temperature": 0, "stop": stop, "logprobs": 0, "logit_bias": {"0": -100}});
    let whole = server.ok(PATH, request(Value::Null));
    let whole = text(&whole);
    let letters: Vec<(usize, char)> = whole.char_indices().collect();
    // Stop strings that begin within a token and end within a later one.
    for from in (10..60).step_by(7) {
        let stop = &whole[letters[from].0..letters[from + 9].0];
        let first = whole.find(stop).expect("it is there");
        let answer = server.ok(PATH, request(json!([stop, "never there"])));
        assert_eq!(
            (text(&answer), &answer["choices"][0]["finish_reason"]),
            (&whole[..first], &json!("stop")),
            "{stop:?}"
        );
        let chunks = server.stream(PATH, request(json!(stop)));
        let pieces: String = chunks.iter().map(text).collect();
        assert_eq!(pieces, whole[..first], "what might begin the stop string was sent");
        let tokens = answer["choices"][0]["logprobs"]["tokens"].as_array().expect("tokens").len();
        let used = answer["usage"]["completion_tokens"].as_u64().expect("a number") as usize;
        assert!(tokens < used && used < 60, "{answer}");
    }
    for wrong in [json!(""), json!(["a", ""]), json!(vec!["a"; 17]), json!("x".repeat(2000))] {
        assert_eq!(server.fails(PATH, &request(wrong), 400, "invalid_value")["param"], "stop");
    }
    server.fails(PATH, &request(json!(3)), 400, "invalid_json");
}

#[test]
fn options_of_sampling_do_what_they_say() {
    let server = shared();
    let ask = |extra: Value| {
        let mut request = json!({"prompt": "Once upon a time", "max_tokens": 30, "temperature": 1, "seed": 5});
        extra.as_object().expect("fields").iter().for_each(|(name, value)| request[name] = value.clone());
        text(&server.ok(PATH, request)).to_owned()
    };
    let greedy = ask(json!({"temperature": 0}));
    assert_eq!(ask(json!({})), ask(json!({})));
    assert_ne!(ask(json!({})), ask(json!({"seed": 6})));
    // One candidate is left.
    for alone in
        [json!({"top_k": 1}), json!({"top_p": 0.0001}), json!({"min_p": 1}), json!({"temperature": 0, "seed": 9})]
    {
        assert_eq!(ask(alone.clone()), greedy, "{alone}");
    }
    for all in [
        json!({"top_k": 0}),
        json!({"top_k": -1}),
        json!({"top_p": 1}),
        json!({"min_p": 0}),
        json!({"repetition_penalty": 1}),
    ] {
        assert_eq!(ask(all.clone()), ask(json!({})), "{all}");
    }
    // A banned token is not drawn, and a forced one always.
    let tokens = |text: &str| -> Vec<u64> {
        let tokens = server.ok("/tokenize", json!({"prompt": text, "add_special_tokens": false}));
        tokens["tokens"].as_array().expect("tokens").iter().map(|token| token.as_u64().expect("a number")).collect()
    };
    let first = tokens(&greedy)[0];
    let banned = ask(json!({"temperature": 0, "logit_bias": {first.to_string(): -100}}));
    assert_ne!(tokens(&banned)[0], first);
    let the = tokens(" the");
    assert_eq!(the.len(), 1);
    let forced = ask(json!({"logit_bias": {the[0].to_string(): 100}, "max_tokens": 5}));
    assert_eq!(forced, " the".repeat(5));
    // Each repetition makes the next less likely.
    let repeats = |text: &str| {
        let tokens = tokens(text);
        tokens.len() - tokens.iter().collect::<std::collections::BTreeSet<_>>().len()
    };
    let plain = ask(json!({"temperature": 0, "max_tokens": 60}));
    for penalty in [json!({"frequency_penalty": 2}), json!({"presence_penalty": 2}), json!({"repetition_penalty": 1.8})]
    {
        let mut request = json!({"temperature": 0, "max_tokens": 60});
        penalty.as_object().expect("fields").iter().for_each(|(name, value)| request[name] = value.clone());
        assert!(repeats(&ask(request)) < repeats(&plain), "{penalty}");
    }
    for (name, value) in [
        ("temperature", json!(-1)),
        ("temperature", json!(1e6)),
        ("top_p", json!(1.5)),
        ("top_p", json!(-0.1)),
        ("min_p", json!(2)),
        ("top_k", json!(-2)),
        ("presence_penalty", json!(2.5)),
        ("frequency_penalty", json!(-3)),
        ("repetition_penalty", json!(0)),
        ("n", json!(0)),
        ("n", json!(17)),
        ("logprobs", json!(21)),
        ("best_of", json!(2)),
        ("suffix", json!("end")),
        ("logit_bias", json!({"4096": 1})),
        ("logit_bias", json!({"x": 1})),
        ("logit_bias", json!({"1": 101})),
    ] {
        let error = server.fails(PATH, &json!({"prompt": "a", name: value}), 400, "invalid_value");
        assert_eq!(error["param"], name, "{error}");
    }
}

#[test]
fn continuations_of_several_prompts_come_in_order() {
    let server = shared();
    let ask = |prompt: Value, seed: i64, n: usize| {
        server.ok(PATH, json!({"prompt": prompt, "n": n, "max_tokens": 8, "seed": seed}))["choices"].clone()
    };
    let all = ask(json!(["Once upon", "Lily had", "A dog"]), 4, 2);
    assert_eq!(all.as_array().expect("choices").len(), 6);
    for (i, prompt) in ["Once upon", "Lily had", "A dog"].into_iter().enumerate() {
        for j in 0..2 {
            let choice = &all[2 * i + j];
            assert_eq!(choice["index"], 2 * i + j);
            assert_eq!(choice["text"], ask(json!(prompt), 4 + j as i64, 1)[0]["text"]);
        }
    }
    assert_eq!(server.fails(PATH, &json!({"prompt": vec!["a"; 257]}), 400, "invalid_value")["param"], "prompt");
    let none: [&str; 0] = [];
    server.fails(PATH, &json!({"prompt": none}), 400, "invalid_value");
    server.fails(PATH, &json!({"prompt": [[1, 2], []]}), 400, "invalid_value");
    server.fails(PATH, &json!({"prompt": {"a": 1}}), 400, "invalid_json");
    server.fails(PATH, &json!({"model": "tiny"}), 400, "invalid_json");
}

/// As lm-evaluation-harness asks, against the logits of the model.
#[test]
fn log_probabilities_of_a_prompt_are_those_of_its_logits() {
    let server = shared();
    let loaded = server.loaded(None);
    let (network, tokenizer) = (loaded.model().network(), loaded.tokenizer().expect("a tokenizer"));
    let story = "Once upon a time there was a little dog who lived in a big red house by the sea. ".repeat(6);
    let tokens = tokenizer.encode(&story, true).expect("tokens");
    assert!(tokens.len() > 100);
    let mut cache = network.new_cache(tokens.len()).expect("memory");
    let logits = network.forward(&mut cache, &tokens, Want::All).expect("logits");
    let rows: Vec<&[f32]> = logits.chunks_exact(network.vocab_size()).collect();
    let logprob = |row: &[f32], token: u32| f64::from(row[token as usize]) - log_sum_exp(row);
    let best = |row: &[f32]| impasto_model::sampling::argmax(row).expect("a token");
    for most in [0, 1] {
        let request = json!({
            "prompt": [tokens], "max_tokens": most, "temperature": 0, "logprobs": 1, "echo": true, "seed": 1234
        });
        let answer = server.ok(PATH, request);
        let choice = &answer["choices"][0];
        let reported = &choice["logprobs"];
        let list = |name: &str| reported[name].as_array().expect("a list").clone();
        let (logprobs, top, offsets) = (list("token_logprobs"), list("top_logprobs"), list("text_offset"));
        assert_eq!(logprobs.len(), tokens.len() + most);
        assert!(logprobs[0].is_null() && top[0].is_null());
        let mut shown: Vec<u32> = tokens.clone();
        shown.extend((0..most).map(|_| best(rows[rows.len() - 1])));
        for (i, &token) in shown.iter().enumerate().skip(1) {
            assert_eq!(logprobs[i], written(logprob(rows[i - 1], token)), "token {i}");
            let (first, name) = (best(rows[i - 1]), tokenizer.token_text(best(rows[i - 1])).expect("a token"));
            assert_eq!(top[i], json!({name: written(logprob(rows[i - 1], first))}), "token {i}");
        }
        let text = choice["text"].as_str().expect("a text");
        assert!(text.starts_with(&story));
        for (offset, token) in offsets.iter().zip(list("tokens")) {
            let from = offset.as_u64().expect("a number") as usize;
            let rest: String = text.chars().skip(from).collect();
            assert!(rest.starts_with(token.as_str().expect("a text")), "{token} at {from}");
        }
        assert_eq!(answer["usage"]["completion_tokens"], most);
    }
    // If the token after the prompt ends the text, it is reported like any other: the harness drops the last one.
    let request = json!({
        "prompt": tokens, "max_tokens": 1, "temperature": 0, "logprobs": 1, "echo": true, "logit_bias": {"0": 100}
    });
    let ended = server.ok(PATH, request)["choices"][0].clone();
    assert_eq!((&ended["text"], &ended["finish_reason"]), (&json!(story), &json!("stop")));
    let logprobs = ended["logprobs"]["token_logprobs"].as_array().expect("a list");
    assert_eq!(logprobs.len(), tokens.len() + 1);
    assert_eq!(logprobs[tokens.len()], written(logprob(rows[rows.len() - 1], 0)));
    // Without log probabilities, the prompt is only repeated.
    let plain = server.ok(PATH, json!({"prompt": story, "max_tokens": 0, "echo": true}));
    assert_eq!((text(&plain), &plain["choices"][0]["logprobs"]), (&*story, &Value::Null));
}

#[test]
fn texts_become_tokens_and_come_back() {
    let server = shared();
    for text in ["Once upon a time", "", "  spaces\n\tand \u{1F388} signs \u{0} é 漢字", "<|endoftext|> <|im_start|>"]
    {
        let tokens = server.ok("/tokenize", json!({"prompt": text, "add_special_tokens": false}));
        assert_eq!(tokens["count"], tokens["tokens"].as_array().expect("tokens").len());
        assert_eq!(tokens["max_model_len"], 1024);
        let back = server.ok("/detokenize", json!({"model": "tiny", "tokens": tokens["tokens"]}));
        assert_eq!(back["prompt"], text);
    }
    let same = server.ok("/tokenize", json!({"content": "Once"}));
    assert_eq!(same, server.ok("/tokenize", json!({"prompt": "Once"})));
    assert_eq!(server.fails("/detokenize", &json!({"tokens": [4096]}), 400, "invalid_value")["param"], "tokens");
    server.fails("/detokenize", &json!({"tokens": [-1]}), 400, "invalid_json");
    server.fails("/tokenize", &json!({"tokens": [1]}), 400, "invalid_json");
}

fn floats(embedding: &Value) -> Vec<f64> {
    embedding.as_array().expect("numbers").iter().map(|x| x.as_f64().expect("a number")).collect()
}

#[test]
fn embeddings_are_the_outputs_of_the_model() {
    const PATH: &str = "/v1/embeddings";
    shared().fails(PATH, &json!({"input": "a"}), 400, "not_supported");
    for (pooling, rows) in [(Pooling::Mean, 0..4), (Pooling::Last, 3..4), (Pooling::First, 0..1)] {
        let server = Setup::new().with(|options: &mut ServeOptions| options.pooling = Some(pooling)).start();
        let tokens = [5, 17, 300, 2];
        let loaded = server.loaded(None);
        let network = loaded.model().network();
        let hidden = network.hidden(&mut network.new_cache(4).expect("memory"), &tokens, Want::All).expect("outputs");
        let width = hidden.slice(0..1).expect("a row").len();
        let mut expected = vec![0.0f64; width];
        for row in rows {
            expected
                .iter_mut()
                .zip(hidden.slice(row..row + 1).expect("a row"))
                .for_each(|(sum, &x)| *sum += f64::from(x));
        }
        let unit = |vector: &[f64]| {
            let norm = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            vector.iter().map(|x| x / norm).collect::<Vec<f64>>()
        };
        let close = |a: &[f64], b: &[f64]| a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-5);
        let answer = server.ok(PATH, json!({"input": [tokens, [7]], "encoding_format": "float"}));
        assert_eq!((&answer["object"], &answer["usage"]["prompt_tokens"]), (&json!("list"), &json!(5)));
        assert_eq!((&answer["data"][1]["index"], &answer["data"][1]["object"]), (&json!(1), &json!("embedding")));
        assert!(close(&floats(&answer["data"][0]["embedding"]), &unit(&expected)), "{pooling:?}");
        // The same as bytes.
        let bytes = server.ok(PATH, json!({"input": tokens, "encoding_format": "base64"}));
        let bytes = base64::decode(bytes["data"][0]["embedding"].as_str().expect("a text")).expect("base64");
        let bytes: Vec<f64> =
            bytes.chunks_exact(4).map(|x| f32::from_le_bytes(x.try_into().expect("four")).into()).collect();
        assert!(close(&bytes, &unit(&expected)));
        let short = server.ok(PATH, json!({"input": tokens, "dimensions": 32}));
        assert!(close(&floats(&short["data"][0]["embedding"]), &unit(&expected[..32])));
        let texts = server.ok(PATH, json!({"input": ["a dog", "a dog", "the cat"]}));
        assert_eq!(texts["data"][0]["embedding"], texts["data"][1]["embedding"]);
        assert_ne!(texts["data"][0]["embedding"], texts["data"][2]["embedding"]);
        for wrong in [json!(0), json!(width + 1)] {
            let error = server.fails(PATH, &json!({"input": "a", "dimensions": wrong}), 400, "invalid_value");
            assert_eq!(error["param"], "dimensions");
        }
        server.fails(PATH, &json!({"input": vec![7; 1025]}), 400, "context_length_exceeded");
        server.fails(PATH, &json!({"input": []}), 400, "invalid_value");
    }
    // Too little memory is not the client's fault.
    let server = Setup { kv_memory: 200 << 10, ..Setup::new() };
    let server = server.with(|options| options.pooling = Some(Pooling::Mean)).start();
    server.fails(PATH, &json!({"input": vec![7; 900]}), 503, "out_of_memory");
}
