//! Limits, and requests that end in other ways than with an answer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use impasto_model::sampling::SamplingParams;
use impasto_serve::engine::{Constraint, Engine, EngineError, EngineOptions, Event, Job};
use impasto_serve::models::Loaded;
use serde_json::{Value, json};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::support::client::{Answer, begin, connect, request, send};
use crate::support::{Server, Setup, shared, until};

/// A request whose answer fills the context, because the token that ends a text is banned.
fn long(seed: u64) -> Value {
    json!({"prompt": "Once", "max_tokens": 5000, "seed": seed, "logit_bias": {"0": -100}})
}

const PATH: &str = "/v1/completions";

#[test]
fn more_than_may_wait_are_told_to_come_later() {
    let server = Setup::new().with(|options| (options.parallel, options.queue) = (1, 1)).start();
    let first = begin(server.address, PATH, &long(0));
    until("running", || server.running() == 1);
    let second = begin(server.address, PATH, &long(1));
    until("waiting", || server.app.engine.waiting() == 1);
    let third = server.post(PATH, &long(2));
    assert_eq!((third.status, third.header("retry-after")), (429, Some("2")), "{}", third.text());
    let error = &third.json()["error"];
    assert_eq!((&error["code"], &error["type"]), (&json!("queue_full"), &json!("rate_limit_error")));
    let health = server.get("/health").json();
    assert_eq!((&health["running"], &health["waiting"]), (&json!(1), &json!(1)));
    // Both clients go.
    drop((first, second));
    until("idle", || server.app.engine.is_idle());
    assert_eq!(server.stats().cancelled.load(Ordering::Relaxed), 2);
    assert!(server.stats().written.load(Ordering::Relaxed) < 1000, "the first was not given up");
    server.ok(PATH, json!({"prompt": "Once", "max_tokens": 3}));
}

#[test]
fn a_client_that_goes_is_noticed() {
    let server = Setup::new().start();
    for stream in [false, true] {
        let mut request = long(3);
        request["stream"] = json!(stream);
        let connection = begin(server.address, PATH, &request);
        until("running", || server.running() == 1);
        drop(connection);
        until("idle", || server.app.engine.is_idle());
    }
    assert_eq!(server.stats().cancelled.load(Ordering::Relaxed), 2);
    assert!(server.stats().written.load(Ordering::Relaxed) < 2000, "they were written to the end");
    until("recorded", || server.metric(r#"impasto_requests_total{route="/v1/completions",status="499"}"#) == 2.0);
}

#[test]
fn a_prompt_must_fit() {
    let server = shared();
    let prompt = |count: usize| json!({"prompt": vec![7; count], "max_tokens": 50});
    server.fails(PATH, &prompt(1025), 400, "context_length_exceeded");
    let answer = server.ok(PATH, prompt(1024));
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    assert_eq!(answer["usage"]["completion_tokens"], 1, "one more token can be drawn");
    let error = server.fails(PATH, &json!({"prompt": [1, 2, 4096]}), 400, "invalid_value");
    assert_eq!(error["param"], "prompt");
    server.fails(PATH, &json!({"prompt": []}), 400, "invalid_value");
    let talk = json!({"messages": [{"role": "user", "content": "word ".repeat(3000)}]});
    server.fails("/v1/chat/completions", &talk, 400, "context_length_exceeded");
}

#[test]
fn a_request_may_take_so_long() {
    let server = Setup::new().with(|options| options.timeout = Duration::from_millis(150)).start();
    server.fails(PATH, &long(0), 504, "timeout");
    let mut request = long(1);
    request["stream"] = json!(true);
    let answer = server.post(PATH, &request);
    assert_eq!(answer.status, 200, "it had begun");
    let text = answer.text();
    let last = text.trim_end().rsplit("\n\n").next().expect("an event");
    let error: Value = serde_json::from_str(last.strip_prefix("data: ").expect("an event")).expect("JSON");
    assert_eq!(error["error"]["code"], "timeout", "{text}");
    until("idle", || server.app.engine.is_idle());
    // One that waits, too.
    let server =
        Setup::new().with(|options| (options.timeout, options.parallel) = (Duration::from_millis(400), 1)).start();
    let first = begin(server.address, PATH, &long(0));
    until("running", || server.running() == 1);
    server.fails(PATH, &long(1), 504, "timeout");
    drop(first);
}

#[test]
fn a_text_for_which_there_is_no_memory() {
    let server = Setup { kv_memory: 300 << 10, ..Setup::new() }.start();
    let error = server.post(PATH, &json!({"prompt": vec![9; 700], "max_tokens": 1}));
    assert_eq!((error.status, error.header("retry-after")), (503, Some("2")), "{}", error.text());
    assert_eq!(error.json()["error"]["code"], "out_of_memory");
    // One that becomes too long.
    server.fails(PATH, &long(1), 503, "out_of_memory");
    server.ok(PATH, json!({"prompt": "Once upon a time", "max_tokens": 5}));
    let scored = json!({"prompt": vec![9; 700], "max_tokens": 1, "echo": true, "logprobs": 1});
    server.fails(PATH, &scored, 503, "out_of_memory");
}

#[test]
fn running_requests_are_finished_at_the_end() {
    let mut server = Setup::new().start();
    let mut request = long(4);
    request["max_tokens"] = json!(300);
    let mut idle = connect(server.address);
    let mut running = begin(server.address, PATH, &request);
    until("running", || server.running() == 1);
    server.end();
    // The socket that listens is closed, or nobody accepts what it has.
    until("refusing", || std::net::TcpStream::connect(server.address).is_err());
    let answer = Answer::read(&mut running).expect("an answer");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.json()["usage"]["completion_tokens"], 300);
    assert!(Answer::read(&mut idle).is_none(), "an unused connection is closed");
    server.ended();
    let ended = server.app.engine.submit(vec![]);
    assert!(matches!(ended, Err(EngineError::Ending)));
}

#[test]
fn the_end_waits_only_so_long() {
    let mut server = Setup::new().with(|options| options.grace = Duration::from_millis(100)).start();
    let _running = begin(server.address, PATH, &long(0));
    until("running", || server.running() == 1);
    server.end();
    server.ended();
    assert_eq!(server.running(), 1, "it was not finished");
}

#[test]
fn clients_take_turns() {
    let keys = vec!["a".to_owned(), "b".to_owned()];
    let server = Setup::new().with(|options| (options.parallel, options.api_keys) = (1, keys));
    // The model is loaded by the first request.
    let server = server.start_empty();
    let ask = |key: &str, tokens: usize| {
        let body = json!({"prompt": "Once", "max_tokens": tokens, "logit_bias": {"0": -100}}).to_string();
        let bytes = request("POST", PATH, &format!("Authorization: Bearer {key}\r\n"), &body);
        assert_eq!(send(server.address, &bytes).expect("an answer").status, 200);
    };
    ask("a", 1);
    let order = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        let ask = |key: &'static str, tokens| {
            let (ask, order) = (&ask, &order);
            scope.spawn(move || {
                ask(key, tokens);
                order.lock().expect("no panic").push(key);
            });
        };
        ask("a", 400);
        until("running", || server.running() == 1);
        (0..6).for_each(|_| ask("a", 40));
        until("waiting", || server.app.engine.waiting() == 6);
        ask("b", 5);
        until("waiting", || server.app.engine.waiting() == 7);
    });
    let order = order.into_inner().expect("no panic");
    let place = order.iter().position(|key| *key == "b").expect("b was answered");
    assert!(place <= 3, "{order:?}");
}

/// Panics when its first mask is asked for.
struct Panics;

impl Constraint for Panics {
    fn mask(&mut self) -> Result<&[u32], String> {
        panic!("on purpose");
    }

    fn commit(&mut self, _: u32) -> Result<(), String> {
        Ok(())
    }

    fn is_complete(&self) -> bool {
        false
    }
}

fn job(model: &Arc<Loaded>, tokens: usize, constraints: Vec<Box<dyn Constraint>>) -> (Job, UnboundedReceiver<Event>) {
    let (events, received) = unbounded_channel();
    let job = Job {
        client: 0,
        owner: 0,
        model: model.clone(),
        prompt: vec![5, 6, 7],
        first: 0,
        stopped: Arc::new([AtomicBool::new(false)]),
        choices: vec![SamplingParams::default()],
        max_tokens: tokens,
        eos: vec![],
        logprobs: None,
        prompt_logprobs: None,
        logit_bias: vec![],
        constraints,
        deadline: Instant::now() + Duration::from_secs(60),
        events,
    };
    (job, received)
}

/// The last event of a job.
fn last(mut events: UnboundedReceiver<Event>) -> Event {
    let mut last = None;
    while let Some(event) = events.blocking_recv() {
        last = Some(event);
    }
    last.expect("an event")
}

#[test]
fn a_panic_in_a_pass_fails_what_runs_and_nothing_else() {
    let server: &Server = shared();
    let model = server.loaded(None);
    let engine = Engine::start(EngineOptions { parallel: 4, queue: 4 }).expect("a thread");
    let (fine, fine_events) = job(&model, 900, vec![]);
    let (bad, bad_events) = job(&model, 5, vec![Box::new(Panics)]);
    engine.submit(vec![fine, bad]).expect("places");
    for events in [fine_events, bad_events] {
        assert!(matches!(last(events), Event::Failed(EngineError::Panicked)));
    }
    let (next, events) = job(&model, 5, vec![]);
    engine.submit(vec![next]).expect("places");
    assert!(matches!(last(events), Event::End { .. }));
    // A job that nobody has checked fails alone: its prompt is empty.
    let (mut empty, events) = job(&model, 5, vec![]);
    empty.prompt.clear();
    engine.submit(vec![empty]).expect("places");
    assert!(matches!(last(events), Event::Failed(_)));
    let (mut scored, events) = job(&model, 5, vec![]);
    (scored.prompt, scored.prompt_logprobs) = (vec![], Some(1));
    engine.submit(vec![scored]).expect("places");
    assert!(matches!(last(events), Event::Failed(_)));
    let (next, events) = job(&model, 5, vec![]);
    engine.submit(vec![next]).expect("places");
    assert!(matches!(last(events), Event::End { .. }));
}
