//! Files, layers, deltas: what is in memory, and what the server says of it.

use std::borrow::Cow;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use impasto::format::{Limits, Source};
use impasto::{Arriving, Live, Stage};
use impasto_runtime::{KvMemory, KvUpgrade, RunOptions};
use impasto_serve::models::{Incoming, Loaded, Opening};
use serde_json::{Value, json};

use crate::support::{Server, Setup, files, shared, until};

const PATH: &str = "/v1/completions";

fn text(server: &Server, model: &str) -> Value {
    let answer =
        server.ok(PATH, json!({"model": model, "prompt": "Once upon a time", "temperature": 0, "max_tokens": 30}));
    assert_eq!(answer["model"], model);
    answer["choices"][0]["text"].clone()
}

fn of(server: &Server, id: &str) -> Value {
    let models = server.get("/v1/models").json();
    let found = models["data"].as_array().expect("models").iter().find(|model| model["id"] == id);
    found.unwrap_or_else(|| panic!("{id}: {models}")).clone()
}

#[test]
fn layers_of_a_file_are_models() {
    let server = Setup::new().start_empty();
    let ids = |models: Value| -> Vec<String> {
        models["data"]
            .as_array()
            .expect("models")
            .iter()
            .map(|model| model["id"].as_str().expect("a name").to_owned())
            .collect()
    };
    let models = server.get("/v1/models").json();
    assert_eq!(models["object"], "list");
    assert_eq!(ids(models), ["tiny", "tiny:1", "tiny:2", "tiny:3"]);
    let tiny = of(&server, "tiny");
    assert_eq!((&tiny["object"], &tiny["owned_by"]), (&json!("model"), &json!("impasto")));
    assert_eq!((&tiny["impasto"]["state"], &tiny["impasto"]["serving"]), (&json!("unloaded"), &Value::Null));
    let length = std::fs::metadata(files::layered()).expect("a file").len();
    assert_eq!((&tiny["impasto"]["file_bytes"], &tiny["impasto"]["arrived_bytes"]), (&json!(length), &json!(length)));
    let layers = tiny["impasto"]["layers"].as_array().expect("layers");
    let bits: Vec<f64> = layers.iter().map(|layer| layer["bits_per_weight"].as_f64().expect("a number")).collect();
    assert!(bits.is_sorted_by(|a, b| a < b) && bits[0] < 2.6 && (3.9..4.1).contains(&bits[1]), "{bits:?}");
    assert_eq!(layers[2]["bytes"], length);
    assert_eq!(of(&server, "tiny:2")["impasto"], json!({"of": "tiny", "layer": 2}));
    assert_eq!(server.get("/v1/models/tiny").json(), tiny);
    assert_eq!(server.get("/v1/models/tiny:1").json()["id"], "tiny:1");
    assert_eq!(server.get("/v1/models/none").status, 404);
    assert_eq!(server.get("/v1/models/%FF").status, 400);

    // A layer is loaded when it is asked for, by its number or by bits per weight.
    let [one, two, three] = ["tiny:1", "tiny:2", "tiny:3"].map(|model| text(&server, model));
    assert!(one != three && two != one);
    assert_eq!(text(&server, "tiny"), three);
    assert_eq!(text(&server, "tiny:3bpw"), one);
    assert_eq!(text(&server, "tiny:4.05bpw"), two);
    assert_eq!(text(&server, "tiny:16bpw"), three);
    let answer = server.ok(PATH, json!({"model": "tiny:3.0bpw", "prompt": "a", "max_tokens": 1}));
    assert_eq!(answer["impasto"]["layer"], 1);
    assert!((answer["impasto"]["bits_per_weight"].as_f64().expect("a number") - bits[0]).abs() < 1e-9);
    let tiny = of(&server, "tiny");
    assert_eq!((&tiny["impasto"]["state"], &tiny["impasto"]["chat"]), (&json!("loaded"), &json!(true)));
    assert_eq!((&tiny["impasto"]["context"], &tiny["impasto"]["serving"]["layer"]), (&json!(1024), &json!(3)));
    assert!(tiny["impasto"]["layers"].as_array().expect("layers").iter().all(|layer| layer["state"] == "loaded"));
    assert_eq!(server.metric("impasto_loads_total"), 3.0);
    for wrong in
        ["none", "tiny:4", "tiny:0", "tiny:x", "tiny:1bpw", "tiny:", "", "../tiny", "/etc/passwd", "layered.impasto"]
    {
        let error = server.fails(PATH, &json!({"model": wrong, "prompt": "a"}), 404, "model_not_found");
        assert_eq!(error["param"], "model");
    }
    // No name is the first model.
    assert_eq!(server.ok(PATH, json!({"prompt": "a", "max_tokens": 1}))["model"], "tiny");
}

#[test]
fn models_are_given_up_when_memory_is_needed() {
    let one = shared().loaded(Some("tiny:3")).memory_bytes();
    // The exact layer fits beside one of the others.
    let limit = one + shared().loaded(Some("tiny:2")).memory_bytes() * 3 / 2;
    let server = Setup { memory_limit: limit, ..Setup::new() }.start_empty();
    let states = |server: &Server| -> Vec<Value> {
        of(server, "tiny")["impasto"]["layers"]
            .as_array()
            .expect("layers")
            .iter()
            .map(|layer| layer["state"].clone())
            .collect()
    };
    text(&server, "tiny:1");
    text(&server, "tiny:3");
    assert_eq!(states(&server), ["loaded", "unloaded", "loaded"]);
    text(&server, "tiny:2");
    assert_eq!(states(&server), ["unloaded", "loaded", "loaded"], "the first was not used for the longest time");
    assert!(server.app.catalog.memory_bytes() <= limit);
    // One in use stays.
    let used = server.loaded(Some("tiny:2"));
    let all = server.loaded(Some("tiny:3"));
    let error = server.post(PATH, &json!({"model": "tiny:1", "prompt": "a"}));
    assert_eq!((error.status, error.header("retry-after")), (503, Some("2")), "{}", error.text());
    assert_eq!(error.json()["error"]["code"], "out_of_memory");
    drop((used, all));
    text(&server, "tiny:1");
    assert!(server.metric("impasto_unloads_total") >= 2.0);
    assert!(server.metric("impasto_weights_bytes") <= limit as f64);
    // One that never fits.
    let server = Setup { memory_limit: one / 3, ..Setup::new() }.start_empty();
    server.fails(PATH, &json!({"prompt": "a"}), 503, "out_of_memory");
    text(&server, "tiny:1");
}

#[test]
fn a_delta_shares_the_weights_of_its_base() {
    let [base, delta] = files::base_and_delta();
    let server = Setup::of(&[("base", base), ("tuned", delta)]).start_empty();
    assert_eq!(of(&server, "tuned")["impasto"]["base"], "base");
    assert_eq!(of(&server, "base")["impasto"]["base"], Value::Null);
    let tuned = text(&server, "tuned");
    let whole = server.loaded(Some("base")).memory_bytes();
    let added = server.loaded(Some("tuned")).memory_bytes();
    assert!(added * 3 < whole, "{added} {whole}");
    assert_eq!(server.metric("impasto_loads_total"), 2.0, "the base was loaded with it");
    assert_ne!(text(&server, "base"), tuned);
    // Both at once, from many clients.
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| assert_eq!(text(&server, "tuned"), tuned));
            scope.spawn(|| assert_ne!(text(&server, "base"), tuned));
        }
    });
}

#[test]
fn a_damaged_file_is_an_error_that_does_not_say_where_it_is() {
    let folder = files::temporary();
    let mut bytes = std::fs::read(files::layered()).expect("a file");
    let path = folder.path().join("damaged.impasto");
    let half = bytes.len() / 2;
    bytes[half..half + 64].iter_mut().for_each(|byte| *byte ^= 0x55);
    std::fs::write(&path, bytes).expect("writes");
    let server = Setup::of(&[("bad", path), ("good", files::tiny())]).start_empty();
    let error = server.fails(PATH, &json!({"model": "bad", "prompt": "a"}), 500, "model_failed");
    let message = error["message"].as_str().expect("a message");
    let place = folder.path().display().to_string();
    assert!(message.contains("bad") && !message.contains(&place) && !message.contains("/tmp"), "{message}");
    let state = &of(&server, "bad")["impasto"];
    assert_eq!(state["state"], "failed");
    assert!(!state.to_string().contains(&place), "{state}");
    server.ok(PATH, json!({"model": "good", "prompt": "a", "max_tokens": 1}));
    // The layers before the damage are good.
    server.ok(PATH, json!({"model": "bad:1", "prompt": "a", "max_tokens": 1}));
    // A file that is gone.
    let gone = folder.path().join("gone.impasto");
    std::fs::copy(files::layered(), &gone).expect("copies");
    let server = Setup::of(&[("gone", gone.clone())]).start_empty();
    std::fs::remove_file(&gone).expect("removes");
    let error = server.fails(PATH, &json!({"prompt": "a"}), 500, "model_failed");
    assert!(!error["message"].as_str().expect("a message").contains(&place), "{error}");
}

/// A file of which the first bytes are there.
struct Script {
    bytes: Vec<u8>,
    there: AtomicU64,
}

impl Source for Script {
    fn len(&self) -> u64 {
        self.there.load(Ordering::Acquire)
    }

    fn read_at(&self, offset: u64, len: usize) -> io::Result<Cow<'_, [u8]>> {
        self.bytes[..self.len() as usize].read_at(offset, len).map(|bytes| Cow::Owned(bytes.into_owned()))
    }
}

struct Arrived(Arc<Script>);

impl Incoming for Arrived {
    fn arrived(&self) -> u64 {
        self.0.len()
    }
}

/// Lets the file come up to the end of a layer.
fn come(script: &Script, arriving: &Arriving<Arc<Script>>, layer: usize) -> Stage {
    let length = script.bytes.len() as u64;
    for there in (script.len()..length).step_by(997).chain([length]) {
        script.there.store(there, Ordering::Release);
        if let Some(stage) = arriving.stage().expect("a good file").filter(|stage| stage.number == layer) {
            return stage;
        }
    }
    panic!("there is no layer {layer}");
}

#[test]
fn a_file_is_served_while_it_arrives() {
    let bytes = std::fs::read(files::layered()).expect("a file");
    let script = Arc::new(Script { bytes, there: 0.into() });
    let arriving = || Arriving::new(script.clone(), "arriving.impasto", Limits::default());
    let stage = come(&script, &arriving(), 1);
    let setup = Setup { models: vec![], ..Setup::new() };
    let kv_memory = Some(KvMemory::new(setup.kv_memory));
    let run = RunOptions { kv_memory, ..setup.run.clone() };
    let opening = Opening::of(&arriving().open(&stage).expect("opens"), stage.bytes_of);
    let live = Live::start(arriving(), stage, &run).expect("a model");
    let bits = opening.bits();
    let loaded = Loaded::live("tiny".into(), bits, live, Box::new(Arrived(script.clone())), KvUpgrade::Recompute);
    let mut catalog = setup.catalog();
    catalog.add_live(PathBuf::from("arriving.impasto"), opening, Arc::new(loaded)).expect("one name");
    let server = setup.start_with(catalog);

    let finished = shared();
    let layer = |number: usize| text(finished, &format!("tiny:{number}"));
    let state = || of(&server, "tiny")["impasto"].clone();
    assert_eq!(text(&server, "tiny"), layer(1));
    let before = state();
    assert_eq!((&before["serving"]["layer"], &before["layers"][1]["state"]), (&json!(1), &json!("arriving")));
    assert_eq!((&before["arrived_bytes"], &before["file_bytes"]), (&json!(script.len()), &json!(script.bytes.len())));
    assert_eq!(server.metric(r#"impasto_layer{model="tiny"}"#), 1.0);
    assert_eq!(server.metric(r#"impasto_arrived_bytes{model="tiny"}"#), script.len() as f64);
    let error = server.post(PATH, &json!({"model": "tiny:2", "prompt": "a"}));
    assert_eq!((error.status, error.header("retry-after")), (503, Some("2")), "{}", error.text());
    assert_eq!(error.json()["error"]["code"], "model_not_ready");
    // A long text runs through the refinement.
    std::thread::scope(|scope| {
        let server = &server;
        let long = scope
            .spawn(move || server.ok(PATH, json!({"prompt": "Once", "max_tokens": 600, "logit_bias": {"0": -100}})));
        until("running", || server.running() == 1);
        for number in [2, 3] {
            come(&script, &arriving(), number);
            until("finer", || state()["serving"]["layer"] == number);
            assert_eq!(text(server, "tiny"), layer(number), "as if it had been there from the beginning");
            assert_eq!(server.metric(r#"impasto_layer{model="tiny"}"#), number as f64);
        }
        let long = long.join().expect("an answer");
        assert_eq!(long["usage"]["completion_tokens"], 600);
    });
    assert_eq!(state()["layers"][2]["state"], "loaded");
    assert_eq!(text(&server, "tiny:3"), layer(3));
}
