//! `impasto serve` as a user runs it.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::{Workplace, impasto, tiny};

/// A server that runs. It is killed when it is dropped.
pub struct Serving {
    child: Child,
    pub address: String,
    log: Arc<Mutex<String>>,
    reading: Option<JoinHandle<()>>,
}

impl Serving {
    /// Starts `impasto serve` in a folder, at any port, with a log of JSON lines, and waits until it listens.
    pub fn start(at: &Workplace, args: &[&str]) -> Serving {
        Serving::start_with(at, &[args, &["--log", "json"]].concat(), |_| ())
    }

    fn start_with(at: &Workplace, args: &[&str], change: impl FnOnce(&mut Command)) -> Serving {
        let mut command = impasto(&[&["serve", "--port", "0"], args].concat());
        command.current_dir(at.path(".")).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().expect("starts");
        let mut lines = BufReader::new(child.stderr.take().expect("a pipe"));
        let (mut text, mut address) = (String::new(), None);
        while address.is_none() {
            let from = text.len();
            assert!(lines.read_line(&mut text).expect("UTF-8") > 0, "it ended: {text}");
            let url = text[from..].split("listening at ").nth(1);
            address = url.map(|url| url.chars().take_while(|c| !c.is_whitespace() && *c != '"').collect());
        }
        let log = Arc::new(Mutex::new(text));
        let to = log.clone();
        let reading = std::thread::spawn(move || {
            let mut line = String::new();
            while lines.read_line(&mut line).is_ok_and(|bytes| bytes > 0) {
                to.lock().expect("no panic").push_str(&line);
                line.clear();
            }
        });
        Serving { child, address: address.expect("an address"), log, reading: Some(reading) }
    }

    fn exchange(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let host = self.address.strip_prefix("http://").expect("an address");
        let mut stream = TcpStream::connect(host).expect("connects");
        stream.set_read_timeout(Some(Duration::from_secs(120))).expect("a time");
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n"
        );
        stream.write_all(&[head.as_bytes(), body.as_bytes()].concat()).expect("writes");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("an answer");
        let (head, body) = text.split_once("\r\n\r\n").expect("a header");
        (head[9..12].parse().expect("a status"), body.to_owned())
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.exchange("GET", path, "", "")
    }

    pub fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.exchange("POST", path, "", &body.to_string());
        (status, serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}")))
    }

    /// Ends it as a service manager does. Returns how it ended, and its log.
    fn end(mut self) -> (ExitStatus, String) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().expect("runs").success());
        let status = self.child.wait().expect("ends");
        self.reading.take().expect("a thread").join().expect("no panic");
        let log = self.log.lock().expect("no panic").clone();
        (status, log)
    }

    pub fn log(&self) -> String {
        self.log.lock().expect("no panic").clone()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Copies the tiny model to `name`, with a chat template.
pub fn chatting(at: &Workplace, name: &str, template: &str) {
    std::fs::create_dir(at.path(name)).expect("a folder");
    for entry in std::fs::read_dir(tiny()).expect("the tiny model") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, at.path(name).join(path.file_name().expect("a name"))).expect("copies");
    }
    std::fs::write(at.path(name).join("chat_template.jinja"), template).expect("writes");
}

pub const PLAIN: &str = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";

const PROMPT: &str = "Once upon a time";

#[test]
fn a_file_is_served_and_ends_well() {
    let at = Workplace::new();
    chatting(&at, "model", PLAIN);
    at.run(&["encode", "model", "-o", "small.impasto", "--layers", "2.5,4", "--uncalibrated"]).ok();
    let serving =
        Serving::start(&at, &["small.impasto", "again=small.impasto", "--preload", "small:1", "--threads", "2"]);
    let (status, models) = serving.get("/v1/models");
    assert_eq!(status, 200);
    for name in ["small", "small:1", "small:2", "again"] {
        assert!(models.contains(&format!("\"id\":\"{name}\"")), "{models}");
    }
    let ask = json!({"model": "small:1", "prompt": PROMPT, "temperature": 0, "max_tokens": 20});
    let (status, answer) = serving.post("/v1/completions", &ask);
    assert_eq!((status, &answer["impasto"]["layer"]), (200, &json!(1)));
    let run = ["run", "small.impasto", "--layer", "1", "-p", PROMPT, "--raw", "-n", "20", "--json"];
    let direct = at.run(&run).json();
    assert_eq!(answer["choices"][0]["text"], direct["generation"]["text"]);
    let talk = json!({"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 5});
    assert_eq!(serving.post("/v1/chat/completions", &talk).0, 200);
    assert_eq!(serving.get("/").0, 200);
    let (status, log) = serving.end();
    assert!(status.success(), "{status}: {log}");
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let requests = lines.iter().filter(|line| line["message"] == "request").count();
    assert_eq!(requests, 4, "{log}");
    assert!(!log.contains(PROMPT) && !log.contains("Hello"));
}

#[test]
fn the_log_of_people_has_a_line_each_and_no_forged_ones() {
    let at = Workplace::new();
    let serving = Serving::start_with(&at, &[&tiny(), "--log-text"], |_| ());
    let bad = "x\nFORGED line\u{1b}[31m\r";
    for body in [json!({"model": bad, "prompt": "a"}), json!({"prompt": bad, "max_tokens": 1})] {
        serving.post("/v1/completions", &body);
    }
    let (status, log) = serving.end();
    assert!(status.success());
    assert!(log.contains("FORGED") && !log.contains('\u{1b}'), "{log}");
    assert!(!log.lines().any(|line| line.starts_with("FORGED")), "{log}");
    assert_eq!(log.lines().filter(|line| line.contains("/v1/completions")).count(), 2, "{log}");
}

#[test]
fn keys_come_from_a_file_and_from_the_environment() {
    let at = Workplace::new();
    at.write("keys", "# for people\nfirst\n\n  second \n");
    let args = [&tiny(), "--api-key-file", "keys"];
    let serving = Serving::start_with(&at, &args, |command| _ = command.env("IMPASTO_API_KEY", "third"));
    let status = |key: &str| serving.exchange("GET", "/v1/models", &format!("Authorization: Bearer {key}\r\n"), "").0;
    assert_eq!(["first", "second", "third", "# for people", "", "fourth"].map(status), [200, 200, 200, 401, 401, 401]);
    assert_eq!((serving.get("/health").0, serving.get("/metrics").0), (200, 401));
    assert!(!serving.log().contains("first"));
    at.write("none", "# nothing\n");
    at.run(&["serve", &tiny(), "--api-key-file", "none"]).fails(1, "none: no API key in it");
}

#[test]
fn what_cannot_be_served_is_said() {
    let at = Workplace::new();
    at.write("not.impasto", "words");
    assert_ne!(at.run(&["serve", "not.impasto"]).code, Some(0));
    assert_ne!(at.run(&["serve", "missing.impasto"]).code, Some(0));
    let twice = at.run(&["serve", &tiny(), &tiny()]);
    assert!(twice.code != Some(0) && twice.err.contains("two models have the name \"tiny\""), "{twice:?}");
    let preload = at.run(&["serve", &tiny(), "--port", "0", "--preload", "none"]);
    assert!(preload.code != Some(0) && preload.err.contains("there is no model \"none\""), "{preload:?}");
    assert_eq!(at.run(&["serve"]).code, Some(2));
}

/// Templates run in a process of their own, so those that take all memory end themselves.
#[test]
fn hostile_templates_end_themselves() {
    let at = Workplace::new();
    let hostile = [
        ("loops", "{% for a in range(100000) %}{% for b in range(100000) %}{{ a }}{% endfor %}{% endfor %}"),
        (
            "doubles",
            "{% set n = namespace(x='aaaaaaaaaaaaaaaa') %}{% for i in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x }}",
        ),
        ("multiplies", "{{ messages[0].content * 1000000000000 }}"),
    ];
    for (name, template) in hostile {
        chatting(&at, name, template);
    }
    let names = hostile.map(|(name, _)| name);
    let serving = Serving::start(&at, &names);
    for name in names {
        let ask = json!({"model": name, "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1});
        let (status, answer) = serving.post("/v1/chat/completions", &ask);
        assert_eq!((status, &answer["error"]["param"]), (400, &json!("messages")), "{name}: {answer}");
        assert_eq!(serving.post("/v1/completions", &json!({"model": name, "prompt": "a", "max_tokens": 1})).0, 200);
    }
}

#[test]
fn a_file_is_served_while_it_arrives() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "whole.impasto", "--layers", "2.5,4,lossless", "--uncalibrated"]).ok();
    let bytes = std::fs::read(at.path("whole.impasto")).expect("a file");
    let second =
        at.run(&["inspect", "whole.impasto", "--json"]).json()["layers"][1]["bytes"].as_u64().expect("bytes") as usize;
    let mut arriving = std::fs::File::create(at.path("arriving.impasto")).expect("a file");
    arriving.write_all(&bytes[..second - 1]).expect("writes");
    let serving = Serving::start(&at, &["arriving.impasto", "--stream"]);
    let ask = json!({"prompt": PROMPT, "temperature": 0, "max_tokens": 20});
    let answer = |layer: &str| {
        at.run(&["run", "whole.impasto", "--layer", layer, "-p", PROMPT, "--raw", "-n", "20", "--json"]).json()["generation"]["text"].clone()
    };
    assert_eq!(serving.post("/v1/completions", &ask).1["choices"][0]["text"], answer("1"));
    arriving.write_all(&bytes[second - 1..]).expect("writes");
    while serving.post("/v1/completions", &ask).1["impasto"]["layer"] != 3 {
        std::thread::sleep(Duration::from_millis(20));
    }
    assert_eq!(serving.post("/v1/completions", &ask).1["choices"][0]["text"], answer("3"));
    let metrics = serving.get("/metrics").1;
    assert!(metrics.contains(&format!("impasto_arrived_bytes{{model=\"arriving\"}} {}", bytes.len())), "{metrics}");
}

/// The folder of a crate.
pub fn crates(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
