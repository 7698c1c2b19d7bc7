//! What a request gets does not depend on what else runs.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use impasto_model::sampling::SamplingParams;
use impasto_model::speculation::DraftLength;
use impasto_runtime::GenerateOptions;
use impasto_serve::models::{DraftLayers, Drafts};
use serde_json::{Value, json};

use crate::support::client::begin;
use crate::support::{Server, Setup, until};

/// Tokens that look random.
fn tokens(seed: u32, count: usize) -> Vec<u32> {
    (0..count as u32).map(|i| (seed.wrapping_mul(7919) + i.wrapping_mul(2_654_435_761)) >> 7 & 2047).collect()
}

/// The requests whose answers are compared.
fn subjects(model: &str) -> [Value; 5] {
    let chat = |text: &str| json!([{"role": "user", "content": text}]);
    let requests = [
        json!({"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0.9, "seed": 7, "logprobs": 5}),
        json!({"prompt": tokens(5, 150), "max_tokens": 24, "temperature": 0, "logprobs": 2, "frequency_penalty": 0.7}),
        json!({"messages": chat("Tell me of a dog"), "max_tokens": 30, "seed": -3, "n": 3, "logprobs": true, "top_logprobs": 4}),
        json!({"prompt": [tokens(5, 90), tokens(9, 400)], "max_tokens": 12, "seed": 11, "top_p": 0.9, "top_k": 50, "logprobs": 0}),
        json!({"prompt": tokens(5, 140), "max_tokens": 4, "echo": true, "temperature": 0, "logprobs": 3}),
    ];
    requests.map(|mut request| {
        request["model"] = json!(model);
        request
    })
}

fn path(request: &Value) -> &'static str {
    if request["messages"].is_array() { "/v1/chat/completions" } else { "/v1/completions" }
}

fn choices(server: &Server, request: &Value) -> Value {
    let answer = server.ok(path(request), request.clone());
    json!([answer["choices"], answer["usage"]["prompt_tokens"], answer["usage"]["completion_tokens"]])
}

/// Requests beside them, of many lengths. Some begin like the subjects do.
fn others(count: usize) -> impl Iterator<Item = Value> {
    (0..count).map(|i| {
        let prompt = tokens(if i % 4 == 0 { 5 } else { i as u32 }, 5 + i * 53 % 400);
        let (most, n) = (5 + i * 17 % 60, 1 + i % 3);
        json!({"prompt": prompt, "max_tokens": most, "n": n, "temperature": 1.2, "seed": i, "echo": i % 5 == 0, "logprobs": i % 2})
    })
}

/// Runs the subjects beside others, of which some are given up. Returns what they got, and the most texts that waited for memory.
fn in_company(server: &Server, model: &str) -> (Vec<Value>, usize) {
    let (left, parked) = (AtomicUsize::new(1), AtomicUsize::new(0));
    let answers = std::thread::scope(|scope| {
        for (i, other) in others(15).enumerate() {
            scope.spawn(move || {
                if i % 3 == 1 {
                    let stream = begin(server.address, "/v1/completions", &other);
                    std::thread::sleep(Duration::from_millis(10 * i as u64));
                    drop(stream);
                } else {
                    server.ok("/v1/completions", other);
                }
            });
        }
        let subjects: Vec<_> =
            subjects(model).into_iter().map(|subject| scope.spawn(move || choices(server, &subject))).collect();
        scope.spawn(|| {
            while left.load(Ordering::Relaxed) > 0 {
                parked.fetch_max(server.stats().parked.load(Ordering::Relaxed), Ordering::Relaxed);
                std::thread::yield_now();
            }
        });
        let answers = subjects.into_iter().map(|subject| subject.join().expect("an answer")).collect();
        left.store(0, Ordering::Relaxed);
        answers
    });
    until("idle", || server.app.engine.is_idle());
    (answers, parked.into_inner())
}

#[test]
fn a_text_is_the_same_alone_and_in_company() {
    // Each alone, on a server that has seen nothing else.
    let alone: Vec<Value> = subjects("tiny").iter().map(|subject| choices(&Setup::new().start(), subject)).collect();
    let server = Setup::new().start();
    for round in 0..2 {
        let (answers, _) = in_company(&server, "tiny");
        assert_eq!(answers, alone, "round {round}");
    }
    assert!(server.stats().cancelled.load(Ordering::Relaxed) > 0, "none was given up");
    // In a queue.
    let server = Setup::new().with(|options| options.parallel = 3).start();
    assert_eq!(in_company(&server, "tiny").0, alone, "in a queue");
    // With keys and values that are there already.
    for subject in subjects("tiny") {
        choices(&server, &subject);
        let again = server.ok(path(&subject), subject.clone());
        assert_eq!(again["choices"], choices(&server, &subject)[0]);
        if subject["echo"] != true {
            assert!(again["impasto"]["cached_tokens"].as_u64() > Some(0) || subject["prompt"].is_string(), "{again}");
        }
    }
}

#[test]
fn a_text_is_the_same_after_it_has_waited_for_memory() {
    let alone: Vec<Value> = subjects("tiny:2").iter().map(|subject| choices(&Setup::new().start(), subject)).collect();
    // The lossy layer, whose products are of packed integers; the others run in the exact one, which is floats.
    let server = Setup { kv_memory: 3 << 20, ..Setup::new() }.start();
    let (answers, parked) = in_company(&server, "tiny:2");
    assert!(parked > 0, "there was memory for all");
    assert_eq!(answers, alone);
}

#[test]
fn a_text_is_that_of_the_library() {
    let server = Setup::new().start();
    let loaded = server.loaded(None);
    let (model, tokenizer) = (loaded.model(), loaded.tokenizer().expect("a tokenizer"));
    let prompt = tokenizer.encode("Once upon a time", true).expect("tokens");
    for (temperature, seed) in [(0.0, 0), (0.9, 7), (1.5, u64::MAX)] {
        let sampling = SamplingParams { temperature, seed, ..SamplingParams::default() };
        let options = GenerateOptions { max_tokens: 40, sampling, ..model.generate_options() };
        let direct = model.generate(&prompt, &options, &mut |_| ControlFlow::Continue(())).expect("a text");
        let mut session = model.session(sampling).expect("a session");
        session.extend(&prompt).expect("tokens");
        session.report_logprobs(Some(2));
        let steps: Vec<_> = direct.tokens.iter().map(|_| session.step().expect("a token")).collect();
        let request = json!({
            "prompt": "Once upon a time", "max_tokens": 40, "temperature": temperature, "seed": seed as i64, "logprobs": 2
        });
        let answer = server.ok("/v1/completions", request);
        let choice = &answer["choices"][0];
        assert_eq!(choice["text"], direct.text.as_str());
        assert_eq!(answer["usage"]["completion_tokens"], direct.tokens.len());
        // Numbers are compared as they are written.
        let written = |x: f64| serde_json::from_str::<Value>(&json!(x).to_string()).expect("a number");
        let tokens: Vec<_> = steps.iter().map(|step| tokenizer.token_text(step.token)).collect();
        let logprobs: Vec<_> = steps.iter().map(|step| written(step.logprob.expect("reported"))).collect();
        assert_eq!(choice["logprobs"]["tokens"], json!(tokens));
        assert_eq!(choice["logprobs"]["token_logprobs"], json!(logprobs));
        for (step, top) in steps.iter().zip(choice["logprobs"]["top_logprobs"].as_array().expect("a list")) {
            for &(token, logprob) in &step.top {
                assert_eq!(top[tokenizer.token_text(token).expect("a token")], written(logprob), "{top}");
            }
        }
    }
}

#[test]
fn drafts_do_not_change_texts() {
    let requests: Vec<Value> = (0..6)
        .map(|i| json!({"prompt": tokens(i, 20 + 7 * i as usize), "max_tokens": 30 + i, "temperature": 0, "logprobs": 1}))
        .chain([json!({"prompt": "Once upon a time", "max_tokens": 40, "temperature": 0, "stop": "the"})])
        .chain([json!({"prompt": "Once upon a time", "max_tokens": 20, "temperature": 0.9, "seed": 7})])
        .chain([json!({"prompt": tokens(3, 40), "max_tokens": 30, "temperature": 0, "logprobs": 2, "echo": true})])
        // Evaluated while others are written.
        .chain([json!({"prompt": tokens(8, 700), "max_tokens": 8, "temperature": 0})])
        .collect();
    let plain = Setup::new().start();
    let expected: Vec<Value> = requests.iter().map(|request| choices(&plain, request)).collect();
    let drafts = Drafts { lookup: true, layers: DraftLayers::One(1), length: DraftLength::Fixed(4) };
    let with_drafts = Setup { drafts, ..Setup::new() }.start();
    let together: Vec<Value> = std::thread::scope(|scope| {
        let threads: Vec<_> = requests.iter().map(|request| scope.spawn(|| choices(&with_drafts, request))).collect();
        threads.into_iter().map(|thread| thread.join().expect("an answer")).collect()
    });
    let alone: Vec<Value> = requests.iter().map(|request| choices(&with_drafts, request)).collect();
    for ((expected, together), alone) in expected.iter().zip(&together).zip(&alone) {
        assert_eq!((together, alone), (expected, expected));
    }
    assert!(with_drafts.metric("impasto_drafted_tokens_total") > 0.0, "nothing was drafted");
}
