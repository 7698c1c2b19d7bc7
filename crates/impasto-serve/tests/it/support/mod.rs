//! A server on a port of its own, with models made of the tiny one.

pub mod client;
pub mod files;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use impasto::Bases;
use impasto::format::Limits;
use impasto_runtime::{KvMemory, RunOptions};
use impasto_serve::ServeOptions;
use impasto_serve::api::App;
use impasto_serve::engine::{Engine, EngineOptions, Stats};
use impasto_serve::http::listen;
use impasto_serve::metrics::Metrics;
use impasto_serve::models::{Catalog, CatalogOptions, Drafts, Loaded, Opener};
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use client::Answer;

/// How a server is started.
pub struct Setup {
    pub models: Vec<(String, PathBuf)>,
    pub options: ServeOptions,
    pub run: RunOptions,
    pub memory_limit: u64,
    pub kv_memory: usize,
    pub drafts: Drafts,
}

impl Setup {
    /// One model, `tiny`: three layers, with a chat template that takes tools.
    pub fn new() -> Setup {
        Setup::of(&[("tiny", files::layered())])
    }

    pub fn of(models: &[(&str, PathBuf)]) -> Setup {
        Setup {
            models: models.iter().map(|(name, path)| ((*name).to_owned(), path.clone())).collect(),
            options: ServeOptions::default(),
            run: RunOptions { threads: 2, ..RunOptions::default() },
            memory_limit: 1 << 30,
            kv_memory: 256 << 20,
            drafts: Drafts::default(),
        }
    }

    pub fn with(mut self, change: impl FnOnce(&mut ServeOptions)) -> Setup {
        change(&mut self.options);
        self
    }

    /// Starts it, and loads the first model.
    pub fn start(self) -> Server {
        let server = self.start_empty();
        server.loaded(None);
        server
    }

    /// Starts it; no model is loaded.
    pub fn start_empty(self) -> Server {
        let catalog = self.catalog();
        self.start_with(catalog)
    }

    pub fn catalog(&self) -> Catalog {
        let bases = Bases::new(vec![]);
        let opener = Opener { bases, memory_limit: self.memory_limit, limits: Limits::default() };
        let options = CatalogOptions {
            opener,
            run: self.run.clone(),
            memory_limit: self.memory_limit,
            kv_memory: KvMemory::new(self.kv_memory),
            drafts: self.drafts,
            watched: 0.0,
        };
        Catalog::new(self.models.clone(), options).expect("models")
    }

    pub fn start_with(self, catalog: Catalog) -> Server {
        let options = self.options;
        let engine = Engine::start(EngineOptions { parallel: options.parallel, queue: options.queue });
        let engine = engine.expect("a thread");
        let app = Arc::new(App { catalog: Arc::new(catalog), engine, options, metrics: Arc::new(Metrics::new()) });
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.expect("a runtime");
        let address = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), 0);
        let listening = runtime.block_on(listen(app.clone(), address)).expect("a port");
        let (end, ended) = oneshot::channel::<()>();
        let address = listening.address;
        let handle = runtime.handle().clone();
        let serving = std::thread::spawn(move || {
            handle.block_on(listening.serve(async {
                let _ = ended.await;
            }));
        });
        Server { address, app, runtime: Some(runtime), end: Some(end), serving: Some(serving) }
    }
}

/// A server. It ends when it is dropped.
pub struct Server {
    pub address: SocketAddr,
    pub app: Arc<App>,
    runtime: Option<Runtime>,
    end: Option<oneshot::Sender<()>>,
    serving: Option<JoinHandle<()>>,
}

impl Server {
    pub fn get(&self, path: &str) -> Answer {
        client::get(self.address, path)
    }

    pub fn post(&self, path: &str, body: &Value) -> Answer {
        client::post(self.address, path, &body.to_string())
    }

    /// Sends a request that must succeed.
    pub fn ok(&self, path: &str, body: Value) -> Value {
        let answer = self.post(path, &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        answer.json()
    }

    /// Sends a request that must fail with a status and a code. Returns the error.
    pub fn fails(&self, path: &str, body: &Value, status: u16, code: &str) -> Value {
        let answer = self.post(path, body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        let error = answer.json()["error"].clone();
        assert_eq!(error["code"], code, "{body}: {error}");
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{error}");
        error
    }

    /// Sends a request for a stream that must succeed. Returns its events without the last one, `[DONE]`.
    pub fn stream(&self, path: &str, mut body: Value) -> Vec<Value> {
        body["stream"] = json!(true);
        let answer = self.post(path, &body);
        assert_eq!(answer.status, 200, "{body}: {}", answer.text());
        assert_eq!(answer.header("content-type"), Some("text/event-stream; charset=utf-8"));
        let mut events = client::events(&answer.text());
        assert_eq!(events.pop().as_deref(), Some("[DONE]"), "{}", answer.text());
        events.iter().map(|event| serde_json::from_str(event).expect("JSON")).collect()
    }

    pub fn loaded(&self, name: Option<&str>) -> Arc<Loaded> {
        self.block_on(self.app.catalog.get(name)).expect("a model")
    }

    pub fn block_on<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("a runtime").block_on(what)
    }

    pub fn stats(&self) -> &Stats {
        self.app.engine.stats()
    }

    pub fn running(&self) -> usize {
        self.stats().running.load(Ordering::Relaxed)
    }

    /// The value of a metric with its labels, as in `name{model="tiny:3"}`.
    pub fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").text();
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().expect("a number")
    }

    /// Tells it to end.
    pub fn end(&mut self) {
        if let Some(end) = self.end.take() {
            let _ = end.send(());
        }
    }

    /// Waits until it has ended.
    pub fn ended(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.join().expect("ends without a panic");
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.end();
        if let Some(serving) = self.serving.take() {
            let _ = serving.join();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1));
        }
    }
}

/// A server that many tests use.
pub fn shared() -> &'static Server {
    static SERVER: std::sync::OnceLock<Server> = std::sync::OnceLock::new();
    SERVER.get_or_init(|| Setup::new().start())
}

/// Waits until something is true.
pub fn until(what: &str, is_true: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_true() {
        assert!(begun.elapsed() < Duration::from_secs(60), "not {what} after a minute");
        std::thread::sleep(Duration::from_millis(5));
    }
}
