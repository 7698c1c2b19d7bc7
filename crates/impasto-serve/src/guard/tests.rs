use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use impasto::encode::{Extent, Layers, Options, Target, encode};
use impasto::{Bases, Checkpoint};
use impasto_model::sampling::SamplingParams;
use impasto_model::{Failure, Want, WeightSource};
use impasto_runtime::{KvMemory, RunOptions};
use tokio::sync::mpsc::unbounded_channel;

use super::*;
use crate::engine::{Engine, EngineOptions, Event, Job};
use crate::models::{Catalog, CatalogOptions, Drafts, Opener};
use crate::{GuardOptions, ServeOptions};

const THRESHOLD: f64 = 0.5;
const PATIENCE: Duration = Duration::from_secs(120);

/// The tiny model in the layers 2.5, 4 and exact.
fn layered(folder: &Path) -> PathBuf {
    let path = folder.join("tiny.impasto");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny");
    let below = vec![Extent::BitsPerWeight(2.5)];
    let options = Options {
        layers: Layers { below, exact: true, ..Layers::default() },
        ..Options::new(Target::BitsPerWeight(4.0))
    };
    encode(&Checkpoint::open(&model).unwrap(), &path, &options, &|_| ControlFlow::Continue(())).unwrap();
    path
}

fn app(path: PathBuf) -> Arc<App> {
    let options = CatalogOptions {
        opener: Opener { bases: Bases::default(), limits: impasto::format::Limits::default(), memory_limit: 1 << 30 },
        run: RunOptions { threads: 1, ..RunOptions::default() },
        memory_limit: 1 << 30,
        kv_memory: KvMemory::new(1 << 28),
        drafts: Drafts::default(),
        watched: 1.0,
    };
    let catalog = Arc::new(Catalog::new(vec![("tiny".to_owned(), path)], options).unwrap());
    let engine = Engine::start(EngineOptions { parallel: 4, queue: 64 }).unwrap();
    let guard = GuardOptions { share: 1.0, threshold: Some(THRESHOLD), window: 2 };
    Arc::new(App {
        catalog,
        engine,
        options: ServeOptions { guard, ..ServeOptions::default() },
        metrics: Arc::default(),
    })
}

/// Has a model write some texts, and waits until they are compared.
fn write(app: &App, model: &Arc<Loaded>, texts: u32) {
    for text in 0..texts {
        let (events, mut received) = unbounded_channel();
        let job = Job {
            client: 0,
            owner: 0,
            model: model.clone(),
            prompt: (0..12).map(|i| (37 * i + 11 * text) % 500).collect(),
            first: 0,
            stopped: Arc::new([]),
            choices: vec![SamplingParams { temperature: 1.0, seed: text.into(), ..SamplingParams::default() }],
            max_tokens: 24,
            eos: vec![],
            logprobs: None,
            prompt_logprobs: None,
            logit_bias: vec![],
            constraints: vec![],
            deadline: Instant::now() + PATIENCE,
            events,
        };
        app.engine.submit(vec![job]).unwrap();
        let ended = std::iter::from_fn(|| received.blocking_recv()).any(|event| match event {
            Event::Failed(error) => panic!("{error}"),
            event => matches!(event, Event::End { .. }),
        });
        assert!(ended);
    }
    let begun = Instant::now();
    while !model.samples().is_empty() {
        assert!(begun.elapsed() < PATIENCE, "the samples are not compared");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Weights whose signs and scales are wrong.
struct Damaged<'a>(&'a dyn WeightSource);

impl WeightSource for Damaged<'_> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.0.shape(name)
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        Ok(self.0.load_f32(name)?.into_iter().map(|x| -4.0 * x).collect())
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.0.asset(name)
    }
}

fn damage(app: &App, model: &Loaded, names: &[String]) {
    let weights = app.catalog.reopen("tiny", Some(2)).unwrap();
    let runtime = model.model().runtime().unwrap();
    let damaged = names.iter().map(|name| runtime.prepare(&Damaged(&*weights), name).unwrap()).collect::<Vec<_>>();
    runtime.exchange(damaged).unwrap();
    model.weights_changed();
}

/// The last row of logits of a model for some tokens.
fn logits(model: &Loaded) -> Vec<f32> {
    let network = model.model().network();
    let mut cache = network.new_cache(0).unwrap();
    network.forward(&mut cache, &[5, 17, 300, 2, 44], Want::LastOnly).unwrap()
}

fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is_so() {
        assert!(begun.elapsed() < PATIENCE, "{what}");
    }
}

#[test]
fn damage_is_detected_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let app = app(layered(folder.path()));
    let guard = Guard::start(app.clone()).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let get = |name| runtime.block_on(app.catalog.get(Some(name))).unwrap();
    let model = get("tiny:2");
    let metrics = || app.metrics.text(&app.engine, &app.catalog);

    // Nothing is done to a model that is well.
    write(&app, &model, 6);
    assert_eq!(model.guard(), GuardState::default());
    assert!(metrics().contains("impasto_guard_kld_count{model=\"tiny:2\"} 6"), "{}", metrics());

    // One block is damaged: it is found, and promoted.
    let blocks = model.model().config().blocks.len();
    damage(&app, &model, &model.model().runtime().unwrap().names_of_block(blocks - 1));
    until("the damaged block is promoted", || {
        write(&app, &model, 1);
        model.guard().profile == Profile::Promoted
    });
    let promoted = model.judge().promoted.clone();
    assert_eq!(promoted.into_iter().collect::<Vec<_>>(), [(blocks - 1, 1)]);
    assert!(metrics().contains("impasto_guard_promoted_blocks{model=\"tiny:2\"} 1"), "{}", metrics());
    write(&app, &model, 4);
    assert_eq!(model.guard(), GuardState { profile: Profile::Promoted, promoted: 1 }, "the promotion helped");

    // What no block explains: after some promotions, all weights become the finest.
    let embedding = model.model().runtime().unwrap().linear_names().pop().unwrap();
    damage(&app, &model, &[embedding]);
    until("the model falls back", || {
        write(&app, &model, 1);
        model.guard().profile == Profile::Conservative
    });
    assert!(metrics().contains("impasto_guard_profile{model=\"tiny:2\"} 2"), "{}", metrics());
    assert_eq!(logits(&model), logits(&get("tiny")), "bit for bit the finest layer");
    write(&app, &model, 4);
    assert!(model.judge().mean() < THRESHOLD / 10.0, "{}", model.judge().mean());
    drop(guard);
}

#[test]
fn requests_come_before_comparisons() {
    let folder = tempfile::tempdir().unwrap();
    let app = app(layered(folder.path()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let model = runtime.block_on(app.catalog.get(Some("tiny:1"))).unwrap();
    let weights = app.catalog.reopen("tiny", None).unwrap();
    let reference = impasto_runtime::Model::load(&*weights, &RunOptions::default()).unwrap();
    let sample = Sample { tokens: (0..40).collect(), prompt: 10 };
    let left = std::cell::Cell::new(3usize);
    let is_busy = || left.replace(left.get().saturating_sub(1)) == 0;
    assert_eq!(audit::compare(&model, &reference, &sample, &is_busy).unwrap(), None, "stopped between blocks");
    let audit = audit::compare(&model, &reference, &sample, &|| false).unwrap().unwrap();
    assert!(audit.kld > 0.0 && audit.kld.is_finite() && audit.agreement <= 1.0);
    assert!(audit.errors.iter().all(|&error| error > 0.0 && error < 1.0), "{audit:?}");
    let finest = runtime.block_on(app.catalog.get(Some("tiny"))).unwrap();
    let same = audit::compare(&finest, &reference, &sample, &|| false).unwrap().unwrap();
    assert!(same.kld < 1e-6 && same.agreement == 1.0, "{same:?}");
}
