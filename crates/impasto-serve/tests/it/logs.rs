//! One line for each request, which says what was asked for and not what was said.

use std::io::Write;
use std::sync::{Arc, Mutex, OnceLock};

use serde_json::{Value, json};

use crate::support::client::{Answer, begin, request, send};
use crate::support::{Server, Setup, until};

/// What is logged by all servers of this program.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().expect("no panic").extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    fn get() -> &'static Log {
        static LOG: OnceLock<Log> = OnceLock::new();
        LOG.get_or_init(|| {
            let log = Log::default();
            let writer = log.clone();
            let subscriber = tracing_subscriber::fmt().json().flatten_event(true).with_writer(move || writer.clone());
            tracing::subscriber::set_global_default(subscriber.finish()).expect("no other log");
            log
        })
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
    }

    /// The lines about an answer, by its number.
    fn lines(&self, answer: &Answer) -> Vec<Value> {
        let id: u64 = answer.header("x-request-id").expect("a number").parse().expect("a number");
        let text = self.text();
        let complete = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        let lines =
            complete.map(|line| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}")));
        lines.filter(|line| line["id"] == id).collect()
    }

    /// The only line about an answer.
    fn line(&self, answer: &Answer) -> Value {
        until("logged", || !self.lines(answer).is_empty());
        let mut lines = self.lines(answer);
        assert_eq!(lines.len(), 1);
        lines.remove(0)
    }
}

const PATH: &str = "/v1/completions";

fn chat(text: &str) -> Value {
    json!({"messages": [{"role": "user", "content": text}], "max_tokens": 4})
}

#[test]
fn a_request_is_a_line_without_its_text() {
    let log = Log::get();
    let server: Server = Setup::new().start();
    let secret = "zebrasecret";
    let answer =
        server.post(PATH, &json!({"model": "tiny:2", "prompt": secret, "max_tokens": 5, "logit_bias": {"0": -100}}));
    let line = log.line(&answer);
    assert_eq!(
        (&line["level"], &line["target"], &line["message"]),
        (&json!("INFO"), &json!("impasto::request"), &json!("request"))
    );
    assert_eq!((&line["method"], &line["route"], &line["status"]), (&json!("POST"), &json!(PATH), &json!(200)));
    assert_eq!(
        (&line["client"], &line["model"], &line["completion_tokens"]),
        (&json!("127.0.0.1"), &json!("tiny:2"), &json!(5))
    );
    assert!(line["prompt_tokens"].as_u64() > Some(1) && line["bits_per_weight"].as_f64() > Some(3.0), "{line}");
    for field in ["ms", "queue_ms", "first_token_ms", "cached_tokens"] {
        assert!(line[field].is_u64(), "{field}: {line}");
    }
    assert!(
        line["tokens_per_second"].is_number() && line.get("error").is_none() && line.get("prompt").is_none(),
        "{line}"
    );
    // Requests that are wrong, where they quote what was said.
    let mut streamed = chat(secret);
    streamed["stream"] = json!(true);
    let none = json!({"model": "tiny", "prompt": "a", "max_tokens": 1, "top_p": 9});
    for (path, body, status) in [
        ("/v1/chat/completions", chat(secret), 200),
        ("/v1/chat/completions", streamed, 200),
        ("/v1/chat/completions", json!({"messages": secret}), 400),
        ("/v1/chat/completions", json!({"messages": [{"role": "angry", "content": secret}]}), 400),
        (
            "/v1/chat/completions",
            json!({"messages": chat("a")["messages"], "response_format": {"type": "regex", "pattern": format!("{secret}(")}}),
            400,
        ),
        ("/v1/chat/completions", json!({"messages": chat("a")["messages"], "response_format": {"type": secret}}), 400),
        (PATH, json!({"prompt": {"a": secret}}), 400),
        (PATH, json!({"prompt": "a", "logit_bias": {secret: 1}}), 400),
        (PATH, json!({"prompt": "a", "temperature": secret}), 400),
        ("/tokenize", json!({"prompt": secret}), 200),
        (PATH, none, 400),
        ("/none", json!({}), 404),
    ] {
        let answer = server.post(path, &body);
        assert_eq!(answer.status, status, "{body} {}", answer.text());
        let line = log.line(&answer);
        assert_eq!(line["status"], status);
        assert_eq!(line["error"].is_string(), status != 200, "{line}");
        assert!(!line.to_string().contains(secret), "{line}");
    }
    assert!(!log.text().contains(secret));
    // A client that goes.
    drop(begin(
        server.address,
        PATH,
        &json!({"prompt": "Once", "max_tokens": 900, "user": "goes", "logit_bias": {"0": -100}}),
    ));
    until("logged", || log.text().lines().any(|line| line.contains(r#""status":499"#)));
}

#[test]
fn text_is_logged_if_that_is_asked_for() {
    let log = Log::get();
    let server = Setup::new().with(|options| options.log_text = true).start();
    let answer = server.post(PATH, &json!({"prompt": "Once upon", "max_tokens": 5, "temperature": 0}));
    let line = log.line(&answer);
    assert_eq!((&line["prompt"], &line["answer"]), (&json!("Once upon"), &answer.json()["choices"][0]["text"]));
    let answer = server.post("/v1/chat/completions", &chat("Tell me of a dog"));
    let line = log.line(&answer);
    assert!(
        line["prompt"].as_str().expect("a text").contains("<|im_start|>user\nTell me of a dog<|im_end|>"),
        "{line}"
    );
    assert_eq!(line["answer"], answer.json()["choices"][0]["message"]["content"]);
}

#[test]
fn nobody_can_write_lines_of_their_own() {
    let log = Log::get();
    let server = Setup::new().start();
    let bad = "x\n{\"level\": \"INFO\", \"forged\": 1}\r\u{1b}[31m\u{0}\u{2028}";
    for (path, body) in [
        (PATH, json!({"model": bad, "prompt": "a"})),
        (PATH, json!({"model": format!("tiny:{bad}"), "prompt": "a"})),
        (PATH, json!({"prompt": "a", "top_p": 9, "user": bad})),
        (PATH, json!({"prompt": "a", bad: 1, "n": 0})),
        ("/v1/embeddings", json!({"input": "a", "encoding_format": bad})),
        ("/none%0Aforged", json!({})),
        ("/v1/models/%0A%1B[31mforged", json!({})),
    ] {
        let answer = server.post(path, &body);
        assert!(answer.status >= 400);
        log.line(&answer);
    }
    for headers in ["Host: a\u{9}forged.example\r\n", "Host: x%0Aforged\r\n", "Origin: http://\u{e9}forged\r\n"] {
        let answer = send(server.address, &request("GET", "/health", headers, "")).expect("an answer");
        assert!(answer.status >= 400, "{headers:?}");
    }
    let text = log.text();
    // `lines` has parsed each line as JSON; none is one of theirs.
    assert!(!text.contains(r#"{"level": "INFO", "forged""#) && !text.contains('\u{1b}'), "{text}");
    assert!(text.lines().all(|line| line.starts_with(r#"{"timestamp""#)), "{text}");
}
