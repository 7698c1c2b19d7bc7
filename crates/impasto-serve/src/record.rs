//! The record of a request: one line in the log, and its share of the metrics.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use axum::http::StatusCode;

use crate::api::{Timings, Usage};
use crate::metrics::Metrics;
use crate::models::Loaded;

/// What is known of a request. When nobody needs it any more, it is logged: after the last byte of the answer, or when the
/// client has gone.
pub struct Record {
    metrics: Arc<Metrics>,
    begun: Instant,
    id: u64,
    method: String,
    route: String,
    client: String,
    rest: Mutex<Rest>,
}

#[derive(Default)]
struct Rest {
    status: Option<StatusCode>,
    error: Option<String>,
    model: Option<String>,
    prompt_tokens: usize,
    ends: Option<(Usage, Timings)>,
    /// Whether an answer is still being written.
    is_open: bool,
    /// The text, if it is to be logged.
    text: Option<[String; 2]>,
}

impl Record {
    /// Begins the record of a request from `client`.
    pub fn new(metrics: Arc<Metrics>, id: u64, method: String, route: String, client: String) -> Record {
        metrics.begins();
        Record { metrics, begun: Instant::now(), id, method, route, client, rest: Mutex::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Rest> {
        self.rest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Notes the status of the answer.
    pub fn answers(&self, status: StatusCode) {
        self.lock().status = Some(status);
    }

    /// Notes what is wrong.
    pub fn fails(&self, error: &str) {
        let mut rest = self.lock();
        rest.error = Some(error.to_owned());
        rest.is_open = false;
    }

    /// Notes that a model begins to write.
    pub fn begins(&self, model: &Loaded, prompt_tokens: usize) {
        let mut rest = self.lock();
        rest.model = Some(format!("{}:{}", model.id, model.quality().layer));
        (rest.prompt_tokens, rest.is_open) = (prompt_tokens, true);
    }

    /// Notes what was written.
    pub fn ends(&self, usage: &Usage, timings: &Timings) {
        let mut rest = self.lock();
        (rest.ends, rest.is_open) = (Some((*usage, *timings)), false);
    }

    /// Notes the prompt and the answer.
    pub fn says(&self, prompt: &str, answer: &str) {
        self.lock().text = Some([prompt.to_owned(), answer.to_owned()]);
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let rest = std::mem::take(&mut *self.lock());
        let seconds = self.begun.elapsed().as_secs_f64();
        // Clients that go away do not get an answer; nginx calls that 499.
        let status = match rest.status {
            Some(status) if !rest.is_open => status.as_u16(),
            _ => 499,
        };
        self.metrics.ends(&self.route, status, seconds, rest.model.as_deref(), rest.ends.as_ref());
        let (usage, timings) = rest.ends.unwrap_or_default();
        let error = rest.error.as_deref();
        let model = rest.model.as_deref();
        let prompt_tokens = rest.prompt_tokens;
        let text = rest.text.as_ref();
        let (prompt, answer) = (text.map(|text| text[0].as_str()), text.map(|text| text[1].as_str()));
        let ms = |seconds: f64| (seconds * 1e3).round() as u64;
        let rate = (timings.tokens_per_second * 10.0).round() / 10.0;
        tracing::info!(
            target: "impasto::request",
            id = self.id,
            client = self.client,
            method = self.method,
            route = self.route,
            status,
            ms = ms(seconds),
            model,
            bits_per_weight = model.map(|_| (timings.bits_per_weight * 100.0).round() / 100.0),
            prompt_tokens = model.map(|_| prompt_tokens),
            cached_tokens = model.map(|_| timings.cached_tokens),
            completion_tokens = model.map(|_| usage.completion_tokens),
            queue_ms = model.map(|_| ms(timings.queue_seconds)),
            first_token_ms = model.map(|_| ms(timings.time_to_first_token)),
            tokens_per_second = model.map(|_| rate),
            error,
            prompt,
            answer,
            "request"
        );
    }
}
