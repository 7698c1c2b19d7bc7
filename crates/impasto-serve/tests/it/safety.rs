//! Who may use the server, and clients that mean no good.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::client::{Answer, begin, connect, get, post, request, send};
use crate::support::{Server, Setup, shared, until};

const PATH: &str = "/v1/completions";

fn ask(server: &Server, method: &str, path: &str, headers: &str) -> Answer {
    send(server.address, &request(method, path, headers, "")).expect("an answer")
}

/// Checks that the server still answers.
fn assert_well(server: &Server) {
    server.ok(PATH, json!({"prompt": "Once", "max_tokens": 1}));
}

#[test]
fn names_of_strangers_are_refused() {
    let server = Setup::new().with(|options| options.allow_hosts = vec!["models.example".into()]).start_empty();
    for host in ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "localhost.evil"] {
        let answer = ask(&server, "GET", "/health", &format!("Host: {host}\r\n"));
        assert_eq!(answer.status, 421, "{host}");
        assert_eq!(answer.json()["error"]["code"], "wrong_host");
    }
    for host in ["localhost:1", "127.0.0.1", "[::1]:8080", "models.example", "MODELS.example:443"] {
        assert_eq!(ask(&server, "GET", "/health", &format!("Host: {host}\r\n")).status, 200, "{host}");
    }
    let open = Setup::new().with(|options| options.allow_hosts = vec!["*".into()]).start_empty();
    assert_eq!(ask(&open, "GET", "/health", "Host: any.example\r\n").status, 200);
}

#[test]
fn pages_of_strangers_are_refused() {
    let server = Setup::new().with(|options| options.allow_origins = vec!["https://app.example".into()]).start_empty();
    for origin in ["https://evil.example", "null", "http://app.example", "https://app.example.evil"] {
        for method in ["GET", "OPTIONS"] {
            let answer = ask(&server, method, "/v1/models", &format!("Origin: {origin}\r\n"));
            assert_eq!((answer.status, answer.header("access-control-allow-origin")), (403, None), "{origin}");
        }
    }
    let answer = ask(&server, "GET", "/v1/models", "Origin: https://app.example\r\n");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://app.example")));
    let preflight = "Origin: https://app.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n";
    let answer = ask(&server, "OPTIONS", PATH, preflight);
    assert_eq!((answer.status, answer.header("access-control-allow-headers")), (204, Some("authorization, *")));
    // A page of this server, and programs.
    let own = format!("Host: {}\r\nOrigin: http://{}\r\n", server.address, server.address);
    let answer = ask(&server, "GET", "/v1/models", &own);
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, None));
    // A form of a page cannot send JSON without being asked.
    let form = request("POST", PATH, "Content-Type: text/plain\r\n", r#"{"prompt": "a"}"#);
    assert_eq!(send(server.address, &form).expect("an answer").status, 415);
}

#[test]
fn a_key_is_needed_where_there_are_keys() {
    let keys = vec!["secret-key".to_owned(), "other".to_owned()];
    let server =
        Setup::new().with(|options| (options.api_keys, options.allow_origins) = (keys, vec!["*".into()])).start_empty();
    for path in ["/v1/models", "/metrics", "/openapi.json", "/v1/models/tiny", "/none"] {
        for header in [
            "",
            "Authorization: Bearer wrong\r\n",
            "Authorization: secret-key\r\n",
            "Authorization: Basic secret-key\r\n",
            "X-Api-Key: x\r\n",
        ] {
            let answer = ask(&server, "GET", path, header);
            assert_eq!((answer.status, answer.header("www-authenticate")), (401, Some("Bearer")), "{path} {header}");
            assert_eq!(answer.json()["error"]["type"], "authentication_error");
        }
        let status = if path == "/none" { 404 } else { 200 };
        assert_eq!(ask(&server, "GET", path, "Authorization: Bearer secret-key\r\n").status, status, "{path}");
    }
    for path in ["/", "/health", "/web/app.js", "/favicon.ico"] {
        assert_eq!(ask(&server, "GET", path, "").status, 200, "{path}");
    }
    // A browser asks whether it may send a key without sending one.
    assert_eq!(ask(&server, "OPTIONS", PATH, "Origin: https://a.example\r\n").status, 204);
    assert_eq!(server.post(PATH, &json!({"prompt": "a"})).status, 401);
}

fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a size");
    line.trim().trim_end_matches("kB").trim().parse::<u64>().expect("a number") << 10
}

#[test]
fn bodies_without_end_are_refused_and_not_kept() {
    let server = Setup::new().with(|options| options.max_body = 1 << 20).start();
    let before = resident();
    let head = |length: &str| {
        format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n{length}\r\n\r\n")
    };
    let declared = send(server.address, head("Content-Length: 1073741824").as_bytes()).expect("an answer");
    assert_eq!((declared.status, &declared.json()["error"]["code"]), (413, &json!("request_too_large")));
    let piece = vec![b' '; 1 << 16];
    let sent: usize = std::thread::scope(|scope| {
        let clients: Vec<_> = (0..4)
            .map(|i| {
                let (piece, head) = (&piece, &head);
                let address = server.address;
                scope.spawn(move || {
                    let mut stream = connect(address);
                    let is_chunked = i % 2 == 0;
                    let how = if is_chunked { "Transfer-Encoding: chunked" } else { "Content-Length: 1000000" };
                    stream.write_all(head(how).as_bytes()).expect("writes");
                    let mut sent = 0;
                    // Until the server has enough of it.
                    while sent < 1 << 30 {
                        let framed = is_chunked.then(|| [b"10000\r\n", &piece[..], b"\r\n"].concat());
                        if stream.write_all(framed.as_deref().unwrap_or(piece)).is_err() {
                            break;
                        }
                        sent += piece.len();
                    }
                    sent
                })
            })
            .collect();
        clients.into_iter().map(|client| client.join().expect("no panic")).max().expect("clients")
    });
    assert!(sent < 64 << 20, "{sent} bytes were taken");
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more");
    // One that is just small enough is read, and is wrong for another reason.
    let body = format!(r#"{{"prompt": "{}"}}"#, "a ".repeat((1 << 19) - 100));
    assert_eq!(post(server.address, PATH, &body).json()["error"]["code"], "context_length_exceeded");
    assert_well(&server);
}

#[test]
fn headers_without_end_are_refused() {
    let server = shared();
    let closed = |bytes: &[u8]| send(server.address, bytes).map(|answer| answer.status);
    let long = format!("GET /health HTTP/1.1\r\nHost: localhost\r\nX-Long: {}\r\n\r\n", "a".repeat(1 << 20));
    assert!(matches!(closed(long.as_bytes()), None | Some(431)));
    let many = format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "X-A: b\r\n".repeat(5000));
    assert!(matches!(closed(many.as_bytes()), None | Some(431)));
    let path = format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", "a".repeat(1 << 20));
    assert!(matches!(closed(path.as_bytes()), None | Some(414 | 431)));
    assert_well(server);
}

/// Whether the other side closes a connection, with or without an answer. Panics if it does not.
fn is_closed(mut stream: TcpStream) -> bool {
    let mut rest = Vec::new();
    match stream.read_to_end(&mut rest) {
        Ok(_) => true,
        Err(error) => matches!(error.kind(), std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe),
    }
}

#[test]
fn slow_clients_are_left() {
    let short = Duration::from_millis(300);
    let server = Setup::new().with(|options| (options.header_timeout, options.body_timeout) = (short, short)).start();
    // One that says nothing, one that stops in the header, one that has had an answer and keeps the connection.
    let silent = connect(server.address);
    let mut header = connect(server.address);
    header.write_all(b"GET /health HTTP/1.1\r\nHost: loc").expect("writes");
    let mut kept = connect(server.address);
    kept.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").expect("writes");
    // One that sends a byte now and then.
    let address = server.address;
    let trickle = std::thread::spawn(move || {
        let mut stream = connect(address);
        let begun = Instant::now();
        for byte in b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"
            .iter()
            .cycle()
        {
            if stream.write_all(&[*byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(20));
            if begun.elapsed() > Duration::from_secs(30) {
                return false;
            }
        }
        false
    });
    let body = |bytes: &[u8]| {
        let mut stream = connect(server.address);
        let head = "POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 100\r\n\r\n";
        stream.write_all(head.as_bytes()).expect("writes");
        stream.write_all(bytes).expect("writes");
        Answer::read(&mut stream).expect("an answer")
    };
    let answer = body(b"{\"prompt\": ");
    assert_eq!((answer.status, &answer.json()["error"]["code"]), (408, &json!("timeout")));
    assert!(is_closed(silent) && is_closed(header) && is_closed(kept));
    assert!(trickle.join().expect("no panic"), "it was not left");
    assert_well(&server);
}

#[test]
fn a_client_that_does_not_read_is_left() {
    let server = Setup::new().with(|options| options.write_timeout = Duration::from_millis(300)).start();
    let request = json!({
        "prompt": "Once", "max_tokens": 1000, "n": 12, "logprobs": 20, "stream": true, "logit_bias": {"0": -100}
    });
    let _stream = begin(server.address, PATH, &request);
    until("running", || server.running() > 0);
    until("idle", || server.app.engine.is_idle());
    assert_eq!(server.stats().cancelled.load(Ordering::Relaxed), 12);
    assert!(server.stats().written.load(Ordering::Relaxed) < 11_000, "all was written");
}

#[test]
fn half_of_a_connection() {
    let server = Setup::new().start();
    // A client that has said all may close its side; the server takes that for a client that goes.
    let mut stream = connect(server.address);
    let body = json!({"prompt": "Once", "max_tokens": 900, "logit_bias": {"0": -100}}).to_string();
    stream.write_all(&request("POST", PATH, "", &body)).expect("writes");
    until("running", || server.running() == 1);
    stream.shutdown(Shutdown::Write).expect("closes");
    until("idle", || server.app.engine.is_idle());
    assert!(is_closed(stream));
    // One that reads no more, and one that breaks off in its body.
    let stream = begin(server.address, PATH, &json!({"prompt": "Once", "max_tokens": 50}));
    stream.shutdown(Shutdown::Read).expect("closes");
    let mut broken = connect(server.address);
    broken.write_all(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 50\r\n\r\n{").expect("writes");
    drop((stream, broken));
    until("idle", || server.app.engine.is_idle());
    assert_well(&server);
}

#[test]
fn a_thousand_connections() {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` is a structure of the expected type, which the calls read and write.
    unsafe {
        assert_eq!(libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit), 0);
        limit.rlim_cur = limit.rlim_max.min(16384);
        assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &limit), 0);
    }
    let server = Setup::new().start();
    let before = resident();
    let mut streams: Vec<TcpStream> = (0..1000).map(|_| connect(server.address)).collect();
    let ask = request("GET", "/health", "", "");
    let write = json!({"prompt": "Once", "max_tokens": 1}).to_string();
    let write = request("POST", PATH, "", &write);
    for (i, stream) in streams.iter_mut().enumerate() {
        stream.write_all(if i % 10 == 0 { &write } else { &ask }).expect("writes");
    }
    let mut statuses = std::collections::BTreeMap::new();
    for stream in &mut streams {
        *statuses.entry(Answer::read(stream).expect("an answer").status).or_insert(0) += 1;
    }
    assert_eq!(statuses.into_iter().collect::<Vec<_>>(), [(200, 1000)]);
    let grown = resident().saturating_sub(before);
    assert!(grown < 256 << 20, "{grown} bytes more");
    // More than there may be wait until there is a place.
    let server = Setup::new().with(|options| options.connections = 2).start_empty();
    let held = [connect(server.address), connect(server.address)];
    let mut third = connect(server.address);
    third.write_all(&ask).expect("writes");
    third.set_read_timeout(Some(Duration::from_millis(200))).expect("a time");
    assert!(third.read(&mut [0; 1]).is_err(), "it was answered");
    drop(held);
    third.set_read_timeout(Some(Duration::from_secs(60))).expect("a time");
    assert_eq!(Answer::read(&mut third).expect("an answer").status, 200);
}

/// Every answer to a request that is wrong is an error of the client, and the next request is answered.
#[test]
fn nonsense_is_refused() {
    let server = shared();
    let deep = |open: &str, close: &str| format!(r#"{{"prompt": {}{}}}"#, open.repeat(100_000), close.repeat(100_000));
    let bodies: Vec<Vec<u8>> = vec![
        b"".to_vec(),
        b"null".to_vec(),
        b"{".to_vec(),
        b"\"\xff\xfe\"".to_vec(),
        b"{\"prompt\": \"\xc3\x28\"}".to_vec(),
        deep("[", "]").into_bytes(),
        deep("{\"a\":", "}").into_bytes(),
        br#"{"prompt": "a", "max_tokens": 1e400}"#.to_vec(),
        br#"{"prompt": "a", "max_tokens": -1}"#.to_vec(),
        br#"{"prompt": "a", "max_tokens": 99999999999999999999999999}"#.to_vec(),
        br#"{"prompt": "a", "temperature": 1e39}"#.to_vec(),
        br#"{"prompt": "a", "temperature": "hot"}"#.to_vec(),
        br#"{"prompt": [1e9]}"#.to_vec(),
        br#"{"prompt": [99999999999]}"#.to_vec(),
        br#"{"prompt": "a", "n": 18446744073709551615}"#.to_vec(),
        br#"{"prompt": "a", "n": 9223372036854775807, "best_of": 2}"#.to_vec(),
        br#"{"prompt": "a", "prompt": "b"}"#.to_vec(),
        br#"{"prompt": "a", "model": "\u0000"}"#.to_vec(),
        br#"{"prompt": "a", "stop": {"a": 1}}"#.to_vec(),
        br#"{"messages": [{"role": "user", "content": [[[]]]}], "prompt": 1}"#.to_vec(),
    ];
    for body in &bodies {
        for path in [PATH, "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize"] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            );
            let answer = send(server.address, &[head.as_bytes(), body].concat()).expect("an answer");
            let shown = String::from_utf8_lossy(&body[..body.len().min(60)]);
            // Fields that a route does not know are ignored.
            assert!(
                (400..500).contains(&answer.status) || (answer.status == 200 && path == "/tokenize"),
                "{path} {shown} {}",
                answer.status
            );
        }
    }
    // A text may have any characters.
    server.ok(PATH, json!({"prompt": "a\u{0}b\u{202e}\u{feff}", "max_tokens": 1, "stop": "\u{0}"}));
    // What is quoted is short.
    let error = server.fails(PATH, &json!({"prompt": "a", "model": "x".repeat(1 << 20)}), 404, "model_not_found");
    assert!(error["message"].as_str().expect("a message").len() < 4096);

    let statuses = |bytes: &[u8]| -> Vec<u16> {
        let mut stream = connect(server.address);
        stream.write_all(bytes).expect("writes");
        stream.shutdown(Shutdown::Write).expect("closes");
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text);
        let text = String::from_utf8_lossy(&text);
        text.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].parse().expect("a status")).collect()
    };
    let good = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(statuses(format!("{good}{good}\u{1}\u{2}garbage\r\n\r\n{good}").as_bytes()), [200, 200, 400]);
    for garbage in [
        "\u{16}\u{3}\u{1}\u{2}\u{0}",
        "GET / HTTP/9.9\r\n\r\n",
        "\r\n\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        "GET http://[::1 HTTP/1.1\r\n\r\n",
        "GET /\u{0} HTTP/1.1\r\n\r\n",
    ] {
        assert!(statuses(garbage.as_bytes()).iter().all(|status| (400..600).contains(status)), "{garbage:?}");
    }
    // Two lengths, and a length beside pieces: requests that a front may see differently.
    let two =
        format!("POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: 40\r\n\r\n{{}}{good}");
    assert!(statuses(two.as_bytes()).iter().all(|status| (400..500).contains(status)));
    for (method, path, status) in [
        ("GET", PATH, 405),
        ("POST", "/health", 405),
        ("DELETE", "/v1/models/tiny", 405),
        ("GET", "/none", 404),
        ("GET", "/v1", 404),
        ("GET", "/v1/models/", 404),
        ("GET", "/web/../Cargo.toml", 404),
        ("GET", "/web/%2e%2e%2fCargo.toml", 404),
    ] {
        let answer = ask(server, method, path, "");
        assert_eq!(answer.status, status, "{method} {path}");
        assert!(answer.json()["error"]["code"].is_string());
    }
    assert_well(server);
}

/// A test that this file's `get` is what browsers see: no answer of the server may be taken for a page of a stranger.
#[test]
fn answers_have_headers_that_browsers_obey() {
    let server: &Server = shared();
    let address: SocketAddr = server.address;
    let page = get(address, "/");
    assert!(page.header("content-security-policy").is_some_and(|policy| policy.starts_with("default-src 'none'")));
    for path in ["/", "/v1/models", "/metrics", "/none", "/health"] {
        let answer = get(address, path);
        assert_eq!(answer.header("x-content-type-options"), Some("nosniff"), "{path}");
        assert!(answer.header("x-request-id").is_some_and(|id| id.parse::<u64>().is_ok()), "{path}");
        assert!(answer.header("server").is_none());
    }
    let _: Value = get(address, "/v1/models").json();
}
