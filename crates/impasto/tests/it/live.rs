//! Models that run while their file arrives: what each token is computed with, under a source that the test controls.

use std::borrow::Cow;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use impasto::encode::{Extent, Layers, Options, Target, encode};
use impasto::format::{Limits, Source};
use impasto::{Arriving, Checkpoint, FileWeights, Live, LiveError, Stage};
use impasto_model::sampling::SamplingParams;
use impasto_model::{CausalLm, KvCache, ModelError, Session, Want};
use impasto_runtime::{KvUpgrade, Model, Refiner, Residence, RunOptions, Runtime, Upgrader};

use crate::support::{Model as Checkpoints, Random, open};

const PROMPT: [u32; 9] = [5, 17, 300, 2, 44, 800, 1, 9, 73];
/// Tokens that are drawn before the upgrade.
const BEFORE: usize = 6;

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

/// The tiny model in the layers 2.5, 4 and exact.
fn layered() -> &'static [u8] {
    static FILE: OnceLock<Vec<u8>> = OnceLock::new();
    FILE.get_or_init(|| {
        let model = Checkpoints::wide_tiny();
        let path = model.file("layered.impasto");
        let layers = Layers { below: vec![Extent::BitsPerWeight(2.5)], exact: true, ..Layers::default() };
        let options = Options { layers, ..Options::new(Target::BitsPerWeight(4.0)) };
        let checkpoint = Checkpoint::open(&model.path).expect("a checkpoint");
        encode(&checkpoint, &path, &options, &|_| std::ops::ControlFlow::Continue(())).expect("encodes");
        std::fs::read(path).expect("a file")
    })
}

type Arrival = Arriving<Arc<Script>>;

/// The layered file, of which nothing is there.
fn arrival(bytes: &[u8]) -> (Arc<Script>, Arrival) {
    let script = Arc::new(Script { bytes: bytes.to_vec(), there: 0.into() });
    (script.clone(), Arriving::new(script, "arriving", Limits::default()))
}

/// Lets the file come up to the end of a stage, and returns this.
fn come(script: &Script, arriving: &Arrival, stage: usize) -> Stage {
    let steps = (0..=script.bytes.len() as u64).step_by(997).chain([script.bytes.len() as u64]);
    for there in steps.filter(|&there| there >= script.len()) {
        script.there.store(there, Ordering::Release);
        if let Some(now) = arriving.stage().expect("a good file").filter(|now| now.number == stage) {
            script.there.store(now.bytes, Ordering::Release);
            return now;
        }
    }
    panic!("there is no stage {stage}");
}

fn options() -> RunOptions {
    RunOptions { threads: 2, ..RunOptions::default() }
}

fn weights(arriving: &Arrival, stage: &Stage) -> FileWeights<Arc<Script>> {
    FileWeights::new(arriving.open(stage).expect("opens")).expect("assets")
}

/// A model at the first stage, with what brings it to later ones.
struct Running {
    script: Arc<Script>,
    arriving: Arrival,
    runtime: Arc<Runtime>,
    refiner: Refiner,
}

impl Running {
    fn new() -> Running {
        let (script, arriving) = arrival(layered());
        let first = weights(&arriving, &come(&script, &arriving, 1));
        let model = Model::load(&first, &options()).expect("a model");
        let runtime = model.shared_runtime().expect("fast");
        let refiner = Refiner::new(&runtime, &first);
        Running { script, arriving, runtime, refiner }
    }

    /// Refines the weights to those of a stage.
    fn refine(&mut self, stage: usize) {
        let now = weights(&self.arriving, &come(&self.script, &self.arriving, stage));
        let done =
            self.refiner.refine(&self.runtime, &now, &mut || std::ops::ControlFlow::Continue(())).expect("reads");
        assert!(done.layers > 0 && done.left == 0, "{done:?}");
    }
}

/// The model of the whole file, or of its first stages.
fn at_stage(stage: usize) -> Model {
    let (script, arriving) = arrival(layered());
    Model::load(&weights(&arriving, &come(&script, &arriving, stage)), &options()).expect("a model")
}

fn greedy(model: &dyn CausalLm, cache: Option<KvCache>) -> Session<&dyn CausalLm> {
    let cache = cache.unwrap_or_else(|| model.new_cache(0).expect("a cache"));
    let mut session = Session::with_cache(model, SamplingParams::default(), cache).expect("a session");
    session.extend(&PROMPT).expect("tokens");
    session
}

fn draw(session: &mut Session<&dyn CausalLm>, count: usize) -> Vec<u32> {
    (0..count).map(|_| session.step().expect("a token").token).collect()
}

/// Tokens before an upgrade are those of the base, later ones those of the refined weights, with keys and values of the policy.
#[test]
fn tokens_across_an_upgrade() {
    let (base, whole) = (at_stage(1), at_stage(3));
    let mut of_base = greedy(base.network(), None);
    let before = draw(&mut of_base, BEFORE);
    let blocks = whole.config().blocks.len();
    // Of the whole file: after the same tokens, with keys and values of the whole file, or with those of the base.
    let mut of_whole = greedy(whole.network(), None);
    // In the same pieces, as sums of floats depend on them.
    of_whole.extend(&before[..BEFORE - 1]).expect("tokens");
    of_whole.logits().expect("logits");
    of_whole.extend(&before[BEFORE - 1..]).expect("tokens");
    let recomputed = of_whole.logits().expect("logits").to_vec();
    let mut cache = of_base.cache().fork().expect("memory");
    let mut kept = Vec::new();
    whole.network().next_logits(&mut cache, &before[BEFORE - 1..], &mut kept).expect("runs");
    assert!(kept != recomputed);
    let cases = [
        (KvUpgrade::Keep, Some(&kept)),
        (KvUpgrade::Recompute, Some(&recomputed)),
        (KvUpgrade::Layers(0), Some(&kept)),
        (KvUpgrade::Layers(blocks), Some(&recomputed)),
        (KvUpgrade::Layers(blocks / 2), None),
        (KvUpgrade::Residual, None),
    ];
    let error = |logits: &[f32]| {
        let squares = logits.iter().zip(&recomputed).map(|(a, b)| f64::from(a - b).powi(2));
        squares.sum::<f64>().sqrt()
    };
    for (how, expected) in cases {
        let mut running = Running::new();
        let runtime = running.runtime.clone();
        let mut cache = runtime.new_cache(0).expect("memory");
        if how == KvUpgrade::Residual {
            runtime.keep_inputs(&mut cache).expect("an empty cache");
        }
        let mut session = greedy(&*runtime, Some(cache));
        assert_eq!(draw(&mut session, BEFORE), before, "{how}");
        running.refine(3);
        let mut upgrader = Upgrader::new(runtime.clone(), how);
        upgrader.begin(&session).expect("begins");
        assert_eq!(upgrader.wait(&mut session).expect("runs"), how != KvUpgrade::Keep, "{how}");
        let logits = session.logits().expect("logits").to_vec();
        match expected {
            Some(expected) => assert!(logits == *expected, "{how}: {}", error(&logits)),
            // Between the two: nearer to what a new run would give.
            None => assert!(error(&logits) > 0.0 && error(&logits) < error(&kept), "{how}: {}", error(&logits)),
        }
        if how == KvUpgrade::Recompute {
            assert_eq!(draw(&mut session, 20), draw(&mut of_whole, 20));
        }
    }
}

/// If nothing was exchanged, an upgrade changes nothing, but for the rounding of kept inputs.
#[test]
fn upgrades_without_an_exchange() {
    let model = at_stage(2);
    let runtime = model.shared_runtime().expect("fast");
    let mut cache = runtime.new_cache(0).expect("memory");
    runtime.keep_inputs(&mut cache).expect("an empty cache");
    let tokens: Vec<u32> = (0..600).map(|i| i * 7 % 4096).collect();
    runtime.hidden(&mut cache, &tokens, Want::LastOnly).expect("runs");
    let next = |mut cache: KvCache| {
        let mut logits = Vec::new();
        runtime.next_logits(&mut cache, &[3], &mut logits).expect("runs");
        assert_eq!((cache.len(), cache.tokens()[599]), (601, tokens[599]));
        logits
    };
    let expected = next(cache.fork().expect("memory"));
    for how in [KvUpgrade::Keep, KvUpgrade::Recompute, KvUpgrade::Layers(3), KvUpgrade::Residual] {
        let logits = next(runtime.upgrade(&cache, how).expect("runs"));
        match how {
            KvUpgrade::Residual => {
                let worst = logits.iter().zip(&expected).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
                let size = expected.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                assert!(worst < 0.02 * size, "{worst} of {size}");
            }
            _ => assert!(logits == expected, "{how}"),
        }
        // An upgraded cache can be upgraded again.
        let again = runtime.upgrade(&cache, how).expect("runs");
        assert!(next(runtime.upgrade(&again, KvUpgrade::Recompute).expect("runs")) == expected, "{how}");
        assert!(runtime.upgrade(&again, KvUpgrade::Residual).is_ok(), "{how}");
    }
    let mut other = runtime.new_cache(0).expect("memory");
    runtime.hidden(&mut other, &tokens[..5], Want::LastOnly).expect("runs");
    assert!(matches!(runtime.upgrade(&other, KvUpgrade::Residual), Err(ModelError::NoInputs)));
    assert!(matches!(runtime.keep_inputs(&mut other), Err(ModelError::ForeignCache)), "it is not empty");
}

#[test]
fn refinement_goes_on_where_it_was_stopped() {
    let mut running = Running::new();
    let now = weights(&running.arriving, &come(&running.script, &running.arriving, 2));
    let mut left = 5;
    let mut watch = || {
        left -= 1;
        if left >= 0 { std::ops::ControlFlow::Continue(()) } else { std::ops::ControlFlow::Break(()) }
    };
    let part = running.refiner.refine(&running.runtime, &now, &mut watch).expect("reads");
    assert_eq!((part.layers, part.layers + part.left), (5, running.runtime.linear_names().len()));
    let rest =
        running.refiner.refine(&running.runtime, &now, &mut || std::ops::ControlFlow::Continue(())).expect("reads");
    assert_eq!((rest.layers, rest.left), (part.left, 0));
    let largest = running.runtime.memory_bytes();
    assert!(rest.most_bytes > 0 && rest.most_bytes < largest / 2, "one layer at a time: {rest:?} of {largest}");
    let logits = |model: &dyn CausalLm| model.forward(&mut model.new_cache(0).expect("memory"), &PROMPT, Want::All);
    let expected = logits(at_stage(2).network()).expect("runs");
    assert!(logits(&*running.runtime).expect("runs") == expected);
    // All at once, the same.
    let mut other = Running::new();
    let now = weights(&other.arriving, &come(&other.script, &other.arriving, 2));
    let done = other.refiner.refine_at_once(&other.runtime, &now).expect("reads");
    assert_eq!(done.layers, part.layers + rest.layers);
    assert!(logits(&*other.runtime).expect("runs") == expected && done.most_bytes > rest.most_bytes);
    assert_eq!(other.refiner.refine_at_once(&other.runtime, &now).expect("reads").layers, 0);
}

/// Waits until something holds.
fn eventually(what: &str, holds: impl Fn() -> bool) {
    let begun = Instant::now();
    while !holds() {
        assert!(begun.elapsed() < Duration::from_secs(120), "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_live_model_ends_as_the_whole_file() {
    for residence in [Residence::Packed, Residence::Coded] {
        let (script, arriving) = arrival(layered());
        let stage = come(&script, &arriving, 1);
        let options = RunOptions { residence, ..options() };
        let live = Live::start(arriving, stage, &options).expect("a model");
        let mut session = greedy(live.model().network(), None);
        draw(&mut session, BEFORE);
        assert_eq!(live.stage(), stage);
        // Generation goes on while the rest arrives.
        let mut random = Random(3);
        while script.len() < script.bytes.len() as u64 {
            let more = script.len() + random.below(script.bytes.len() as u64 / 10);
            script.there.store(more.min(script.bytes.len() as u64), Ordering::Release);
            draw(&mut session, 1);
        }
        eventually("the last stage", || live.stage().is_last());
        assert!(live.error().is_none());
        let whole = Model::load(&FileWeights::new(at_whole()).expect("assets"), &options).expect("a model");
        let logits = |model: &Model| {
            let mut session = greedy(model.network(), None);
            session.logits().expect("logits").to_vec()
        };
        assert!(logits(live.model()) == logits(&whole), "{residence:?}");
    }
}

fn at_whole() -> impasto::File<Vec<u8>> {
    let reader = impasto::format::Reader::open(layered().to_vec(), "whole", &Limits::default()).expect("a good file");
    impasto::File::new(reader)
}

/// Damage in a later layer ends refinement, and names the unit; the model stays as it is.
#[test]
fn damage_ends_refinement() {
    let mut bytes = layered().to_vec();
    let last = bytes.len() - 10;
    bytes[last] ^= 1;
    let (script, arriving) = arrival(&bytes);
    let stage = come(&script, &arriving, 2);
    let live = Live::start(arriving, stage, &options()).expect("a model");
    script.there.store(bytes.len() as u64, Ordering::Release);
    eventually("an error", || live.error().is_some());
    let error = live.error().expect("one");
    assert!(error.contains("damaged") && error.contains("tile"), "{error}");
    assert_eq!(live.stage(), stage);
    draw(&mut greedy(live.model().network(), None), 3);
}

/// The memory limit holds for a layer in two forms: the model stays as fine as it fits.
#[test]
fn refinement_within_the_memory_limit() {
    let (script, arriving) = arrival(layered());
    let stage = come(&script, &arriving, 1);
    let limit = at_stage(1).memory_bytes() as u64 * 6 / 5;
    let options = RunOptions { memory_limit: Some(limit), ..options() };
    let live = Live::start(arriving, stage, &options).expect("a model");
    script.there.store(script.bytes.len() as u64, Ordering::Release);
    eventually("an error", || live.error().is_some());
    let error = live.error().expect("one");
    assert!(error.contains(&format!("more than the limit of {limit}")), "{error}");
    assert!(live.model().memory_bytes() as u64 <= limit && live.stage() == stage);
    draw(&mut greedy(live.model().network(), None), 3);
}

#[test]
fn stages_are_the_layers() {
    let (script, arriving) = arrival(layered());
    assert_eq!((arriving.stage().expect("nothing yet"), arriving.bytes().expect("nothing yet")), (None, (0, None)));
    let whole = at_whole();
    let layers = whole.layers();
    assert_eq!(layers.len(), 3);
    for number in 1..=3 {
        let stage = come(&script, &arriving, number);
        assert_eq!((stage.number, stage.of, stage.is_last()), (number, 3, number == 3));
        assert_eq!(stage.bytes_of, script.bytes.len() as u64);
        assert!(stage.bytes.abs_diff(layers[number - 1].bytes) < 20_000, "{stage:?} {:?}", layers[number - 1]);
        // A byte less is the stage before.
        script.there.store(stage.bytes - 1, Ordering::Release);
        assert_eq!(arriving.stage().expect("good").map_or(0, |stage| stage.number), number - 1);
        script.there.store(stage.bytes, Ordering::Release);
        let file = arriving.open(&stage).expect("opens");
        for name in file.tensor_names() {
            assert!(file.is_exact(name) || number < 3, "{name}");
            assert!(file.tensor(name).expect("it").bytes().is_ok(), "{name} at {number}");
        }
    }
    // Without layers, all is one stage.
    let model = crate::support::few_of_tiny();
    model.encode("plain.impasto", Target::Lossless).expect("encodes");
    let (script, arriving) = arrival(&std::fs::read(model.file("plain.impasto")).expect("a file"));
    assert!(come(&script, &arriving, 1).is_last());
    assert_eq!(open(&model.file("plain.impasto")).layers().len(), 0);
}

#[test]
fn files_that_cannot_arrive() {
    let (script, arriving) = arrival(&[7; 100]);
    script.there.store(63, Ordering::Release);
    assert_eq!(arriving.stage().expect("not enough to tell"), None);
    script.there.store(64, Ordering::Release);
    assert!(arriving.stage().is_err() && arriving.bytes().is_err(), "no magic");
    let (script, arriving) = arrival(layered());
    let stage = come(&script, &arriving, 1);
    let refused = Live::start(arriving, stage, &RunOptions::float()).err();
    assert!(matches!(refused, Some(LiveError::Residence)));
}
