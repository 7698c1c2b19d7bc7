//! Metrics in the format of Prometheus.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use crate::api::{Timings, Usage};
use crate::engine::Engine;
use crate::models::Catalog;

/// Labels of a request.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Request {
    route: String,
    status: u16,
}

/// The label of a model and a layer, as in `name:2`.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
pub struct OfModel {
    model: String,
}

/// The label of a transformer block.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfBlock {
    model: String,
    block: usize,
}

type Real = Gauge<f64, AtomicU64>;

/// All metrics of a server.
pub struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    seconds: Family<OfRoute, Histogram>,
    in_flight: Gauge,
    first_token: Family<OfModel, Histogram>,
    rate: Family<OfModel, Histogram>,
    prompt_tokens: Family<OfModel, Counter>,
    written_tokens: Family<OfModel, Counter>,
    cached_tokens: Family<OfModel, Counter>,
    gauges: Gauges,
    guard: Guard,
}

/// The label of a route.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct OfRoute {
    route: String,
}

/// What is read when metrics are.
#[derive(Default)]
struct Gauges {
    running: Gauge,
    parked: Gauge,
    waiting: Gauge,
    passes: Counter,
    evaluated: Counter,
    pass_seconds: Counter<f64, AtomicU64>,
    proposed: Counter,
    kept: Counter,
    cancelled: Counter,
    weights: Gauge,
    kv: Gauge,
    kv_limit: Gauge,
    loads: Counter,
    unloads: Counter,
    arrived: Family<OfModel, Gauge>,
    layer: Family<OfModel, Gauge>,
    resident: Gauge,
}

/// What the guardrails see and do.
struct Guard {
    kld: Family<OfModel, Histogram>,
    agreement: Family<OfModel, Histogram>,
    block_error: Family<OfBlock, Real>,
    promoted: Family<OfModel, Gauge>,
    profile: Family<OfModel, Gauge>,
}

impl Metrics {
    /// Creates them, all zero.
    pub fn new() -> Metrics {
        let seconds = || Histogram::new(exponential_buckets(0.005, 2.0, 16));
        let rates = || Histogram::new(exponential_buckets(1.0, 1.6, 16));
        let divergences = || Histogram::new(exponential_buckets(1e-4, 2.5, 14));
        let shares = || Histogram::new([0.5, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 0.995, 1.0]);
        let metrics = Metrics {
            registry: Registry::with_prefix("impasto"),
            requests: Family::default(),
            seconds: Family::new_with_constructor(seconds),
            in_flight: Gauge::default(),
            first_token: Family::new_with_constructor(seconds),
            rate: Family::new_with_constructor(rates),
            prompt_tokens: Family::default(),
            written_tokens: Family::default(),
            cached_tokens: Family::default(),
            gauges: Gauges::default(),
            guard: Guard {
                kld: Family::new_with_constructor(divergences),
                agreement: Family::new_with_constructor(shares),
                block_error: Family::default(),
                promoted: Family::default(),
                profile: Family::default(),
            },
        };
        metrics.registered()
    }

    fn registered(mut self) -> Metrics {
        let (r, g, guard) = (&mut self.registry, &self.gauges, &self.guard);
        r.register("requests", "Requests, by route and status", self.requests.clone());
        r.register_with_unit("request_duration", "Time of requests", Unit::Seconds, self.seconds.clone());
        r.register("requests_in_flight", "Requests that are being answered", self.in_flight.clone());
        r.register_with_unit("first_token", "Time to the first token", Unit::Seconds, self.first_token.clone());
        r.register("tokens_per_second", "Tokens per second of single answers", self.rate.clone());
        r.register("prompt_tokens", "Tokens of prompts", self.prompt_tokens.clone());
        r.register("completion_tokens", "Tokens that were written", self.written_tokens.clone());
        r.register("cached_tokens", "Tokens of prompts whose keys and values were there", self.cached_tokens.clone());
        r.register("running", "Texts that are being written", g.running.clone());
        r.register("parked", "Texts that wait for memory for their keys and values", g.parked.clone());
        r.register("waiting", "Requests that wait for their turn", g.waiting.clone());
        r.register("passes", "Passes through a model", g.passes.clone());
        r.register("evaluated_tokens", "Tokens that were evaluated, of prompts and texts", g.evaluated.clone());
        r.register_with_unit("passes_duration", "Time of all passes", Unit::Seconds, g.pass_seconds.clone());
        r.register("drafted_tokens", "Tokens that drafts proposed", g.proposed.clone());
        r.register("kept_tokens", "Tokens of drafts that became part of texts", g.kept.clone());
        r.register("cancelled", "Texts given up because the client went or the time was over", g.cancelled.clone());
        r.register_with_unit("weights", "Memory of weights", Unit::Bytes, g.weights.clone());
        r.register_with_unit("kv", "Memory of keys and values", Unit::Bytes, g.kv.clone());
        r.register_with_unit("kv_limit", "Limit of the memory of keys and values", Unit::Bytes, g.kv_limit.clone());
        r.register_with_unit("resident", "Resident memory of the process", Unit::Bytes, g.resident.clone());
        r.register("loads", "Layers that were loaded", g.loads.clone());
        r.register("unloads", "Layers that were given up", g.unloads.clone());
        r.register_with_unit("arrived", "Bytes of the file that are there", Unit::Bytes, g.arrived.clone());
        r.register("layer", "The finest layer in memory", g.layer.clone());
        let kld = "KL divergence of answers from a finer layer, nats per token";
        r.register("guard_kld", kld, guard.kld.clone());
        let agreement = "Share of tokens for which a finer layer has the same most likely token";
        r.register("guard_agreement", agreement, guard.agreement.clone());
        let error = "Relative error of the output of each block, given the input that the finer layer has there";
        r.register("guard_block_error", error, guard.block_error.clone());
        r.register("guard_promoted_blocks", "Blocks that were promoted to a finer layer", guard.promoted.clone());
        let profile = "0 if all runs as requested, 1 if blocks were promoted, 2 if all were";
        r.register("guard_profile", profile, guard.profile.clone());
        self
    }

    /// A request has come.
    pub(crate) fn begins(&self) {
        self.in_flight.inc();
    }

    /// A request has ended.
    pub(crate) fn ends(
        &self,
        route: &str,
        status: u16,
        seconds: f64,
        model: Option<&str>,
        ends: Option<&(Usage, Timings)>,
    ) {
        self.in_flight.dec();
        self.requests.get_or_create(&Request { route: route.to_owned(), status }).inc();
        self.seconds.get_or_create(&OfRoute { route: route.to_owned() }).observe(seconds);
        let (Some(model), Some((usage, timings))) = (model, ends) else { return };
        let model = OfModel { model: model.to_owned() };
        self.prompt_tokens.get_or_create(&model).inc_by(usage.prompt_tokens as u64);
        self.written_tokens.get_or_create(&model).inc_by(usage.completion_tokens as u64);
        self.cached_tokens.get_or_create(&model).inc_by(timings.cached_tokens as u64);
        if usage.completion_tokens > 0 {
            self.first_token.get_or_create(&model).observe(timings.time_to_first_token);
        }
        if timings.tokens_per_second > 0.0 {
            self.rate.get_or_create(&model).observe(timings.tokens_per_second);
        }
    }

    /// An answer was compared with a finer layer.
    pub fn compared(&self, model: &str, kld: f64, agreement: f64, errors: &[f64]) {
        let label = OfModel { model: model.to_owned() };
        self.guard.kld.get_or_create(&label).observe(kld);
        self.guard.agreement.get_or_create(&label).observe(agreement);
        for (block, &error) in errors.iter().enumerate() {
            self.guard.block_error.get_or_create(&OfBlock { model: model.to_owned(), block }).set(error);
        }
    }

    /// Blocks were promoted, or all of them.
    pub fn promoted(&self, model: &str, blocks: usize, profile: i64) {
        let label = OfModel { model: model.to_owned() };
        self.guard.promoted.get_or_create(&label).set(blocks as i64);
        self.guard.profile.get_or_create(&label).set(profile);
    }

    /// Returns all of them as text.
    pub fn text(&self, engine: &Engine, catalog: &Catalog) -> String {
        let (g, stats) = (&self.gauges, engine.stats());
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        g.running.set(stats.running.load(Relaxed) as i64);
        g.parked.set(stats.parked.load(Relaxed) as i64);
        g.waiting.set(engine.waiting() as i64);
        // These only grow, and are written here only.
        g.passes.inner().store(stats.passes.load(Relaxed), Relaxed);
        g.evaluated.inner().store(stats.evaluated.load(Relaxed), Relaxed);
        g.proposed.inner().store(stats.proposed.load(Relaxed), Relaxed);
        g.kept.inner().store(stats.kept.load(Relaxed), Relaxed);
        g.cancelled.inner().store(stats.cancelled.load(Relaxed), Relaxed);
        g.pass_seconds.inner().store((stats.nanoseconds.load(Relaxed) as f64 / 1e9).to_bits(), Relaxed);
        let [loads, unloads] = catalog.loads();
        g.loads.inner().store(loads, Relaxed);
        g.unloads.inner().store(unloads, Relaxed);
        g.weights.set(signed(catalog.memory_bytes()));
        g.kv.set(catalog.kv_memory().used() as i64);
        g.kv_limit.set(signed(catalog.kv_memory().limit() as u64));
        g.resident.set(signed(resident().unwrap_or(0)));
        for summary in catalog.summaries() {
            let label = OfModel { model: summary.id };
            g.arrived.get_or_create(&label).set(signed(summary.arrived_bytes));
            let layer = summary.loaded.map_or(0, |loaded| loaded.quality().layer);
            g.layer.get_or_create(&label).set(layer as i64);
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Metrics::new()
    }
}

/// Resident memory of this process, where the system says it in /proc.
fn resident() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()?.checked_mul(1024)
}
