//! Models that run while their file arrives.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use impasto::format::{GrowingSource, Limits, Source};
use impasto::{Arriving, Cut, Live, Stage};
use impasto_model::sampling::SamplingParams;
use impasto_model::{CausalLm, Session};
use impasto_runtime::{KvUpgrade, Model, RunOptions, RuntimeError, Upgrader};
use serde::Serialize;

use crate::args::{Args, Streaming};
use crate::drafts::DraftArgs;
use crate::exit::UsageError;
use crate::incoming::{Incoming, name_of, refuse_what_needs_an_address};
use crate::model::{load_drafting, memory_limit};
use crate::output::bytes;
use crate::progress::bar;

/// How long a file may stay as it is while its first layer is awaited.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The tokens that were computed with the model as it was at one stage.
#[derive(Clone, Debug, Serialize)]
pub struct Part {
    /// The number of the stage, and of all stages.
    pub stage: usize,
    pub stages: usize,
    /// Bytes of the file that it takes.
    pub bytes: u64,
    /// The first of the tokens, counted from 0, and their number.
    pub first_token: usize,
    pub tokens: usize,
    /// Bytes of the file that had arrived at the first of them.
    pub arrived: u64,
    /// Seconds from the start to the first of them.
    pub seconds: f64,
}

/// A model, whose file may be arriving.
pub enum Loaded {
    Whole(Box<Model>),
    // The model is dropped before the file that it reads is given up.
    Arriving { live: Box<Live>, incoming: Incoming, begun: Instant, how: KvUpgrade },
}

impl Loaded {
    /// Loads a model like [`load_drafting`], or with `--stream` as soon as the first layer of its file is there.
    pub fn begin(
        args: &Args,
        path: &Path,
        cut: Option<&Cut>,
        options: &RunOptions,
        streaming: &Streaming,
        drafts: &DraftArgs,
    ) -> anyhow::Result<Loaded> {
        if !streaming.stream {
            refuse_what_needs_an_address(path, streaming)?;
            return Ok(Loaded::Whole(Box::new(load_drafting(args, path, cut, options, drafts)?)));
        }
        if drafts.needs_layers() {
            let rule = "--draft-layer with a layer and --keep-layers need the whole file, without --stream";
            return Err(UsageError(rule).into());
        }
        if cut.is_some() {
            return Err(
                UsageError("--stream uses all of the file that arrives, so not --budget, --layer or --bpw").into()
            );
        }
        let (begun, name) = (Instant::now(), name_of(path));
        let mut incoming = Incoming::begin(args, path, streaming)?;
        let limits = Limits { allow_expansion: args.allow_expansion, ..Limits::within(memory_limit(args)) };
        let arriving = Arriving::new(incoming.source.clone(), name.clone(), limits);
        let stage = first_stage(args, &arriving, &mut incoming, &name)?;
        let live = Box::new(Live::start(arriving, stage, options).with_context(|| name)?);
        let how = streaming.kv_upgrade.unwrap_or(KvUpgrade::Recompute);
        Ok(Loaded::Arriving { live, incoming, begun, how })
    }

    /// Gives up what is still arriving. Returns a line about it, if there is something to say.
    pub fn end(self) -> Option<String> {
        match self {
            Loaded::Whole(_) => None,
            Loaded::Arriving { live, incoming, .. } => {
                drop(live);
                incoming.end()
            }
        }
    }

    /// The model.
    pub fn model(&self) -> &Model {
        match self {
            Loaded::Whole(model) => model,
            Loaded::Arriving { live, .. } => live.model(),
        }
    }

    /// What watches the tokens of a model whose file is arriving.
    pub fn arrival(&self) -> Option<Arrival<'_>> {
        let Loaded::Arriving { live, incoming, begun, how } = self else { return None };
        let runtime = live.model().shared_runtime()?;
        let (parts, upgraded) = (Vec::new(), live.stage().number);
        let upgrader = Upgrader::new(runtime, *how);
        Some(Arrival {
            live,
            source: &incoming.source,
            begun: *begun,
            parts,
            upgrader,
            how: *how,
            upgraded,
            upgrades: 0,
            announced: false,
        })
    }

    /// Creates an empty session with room for `tokens` tokens.
    pub fn session(&self, sampling: SamplingParams, tokens: usize) -> anyhow::Result<Session<&dyn CausalLm>> {
        let network = self.model().network();
        let mut cache = network.new_cache(tokens)?;
        if let Loaded::Arriving { live, how: KvUpgrade::Residual, .. } = self
            && let Some(runtime) = live.model().runtime()
        {
            runtime.keep_inputs(&mut cache)?;
        }
        Ok(Session::with_cache(network, sampling, cache)?)
    }
}

/// Watches what the tokens of a model are computed with while its file arrives.
pub struct Arrival<'l> {
    live: &'l Live,
    source: &'l GrowingSource,
    begun: Instant,
    parts: Vec<Part>,
    upgrader: Upgrader,
    how: KvUpgrade,
    /// The stage to which keys and values were brought last, or are being brought.
    upgraded: usize,
    /// How often keys and values were exchanged.
    upgrades: usize,
    /// Whether it was said that the model is whole.
    announced: bool,
}

impl Arrival<'_> {
    /// Notes what the next token of a session is computed with, and brings its keys and values to the stage of the weights.
    pub fn before_token(&mut self, session: &mut Session<&dyn CausalLm>) -> Result<(), RuntimeError> {
        self.upgrades += usize::from(self.upgrader.poll(session)?);
        let stage = self.live.stage();
        if stage.number > self.upgraded && !self.upgrader.is_running() {
            self.upgrader.begin(session)?;
            self.upgraded = stage.number;
        }
        match self.parts.last_mut().filter(|part| part.stage == stage.number) {
            Some(part) => part.tokens += 1,
            None => self.parts.push(Part {
                stage: stage.number,
                stages: stage.of,
                bytes: stage.bytes,
                first_token: self.parts.iter().map(|part| part.tokens).sum(),
                tokens: 1,
                arrived: self.source.len(),
                seconds: self.begun.elapsed().as_secs_f64(),
            }),
        }
        Ok(())
    }

    /// The report in JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "parts": self.parts,
            "arrived": self.source.len(),
            "kv_upgrade": self.how.to_string(),
            "kv_upgrades": self.upgrades,
            "most_bytes_twice": self.live.most_bytes(),
            "error": self.live.error(),
        })
    }

    /// Forgets the tokens of an answer that has ended. Returns a line that says what they were computed with, unless that is the whole
    /// file and was so before.
    pub fn answered(&mut self) -> Option<String> {
        let parts = std::mem::take(&mut self.parts);
        let [first, last] = [parts.first()?, parts.last()?];
        if first.stage == first.stages && self.announced {
            return None;
        }
        self.announced = last.stage == last.stages;
        let stages = if first.stage == last.stage {
            last.stage.to_string()
        } else {
            format!("{} to {}", first.stage, last.stage)
        };
        let arrived = bytes(self.source.len());
        let error = self.live.error().map_or(String::new(), |error| format!("; not refined further: {error}"));
        Some(format!("[stage {stages} of {}, {arrived} of the file are there{error}]", last.stages))
    }

    /// Prints which quality gave which tokens.
    pub fn report(&self, name: &str) {
        for part in &self.parts {
            let tokens = match part.tokens {
                1 => format!("token {}", part.first_token + 1),
                tokens => format!("tokens {} to {}", part.first_token + 1, part.first_token + tokens),
            };
            let (stage, of, taken) = (part.stage, part.stages, bytes(part.bytes));
            eprintln!("{name}: {tokens} from stage {stage} of {of} ({taken}), after {:.1} s", part.seconds);
        }
        if let Some(error) = self.live.error() {
            eprintln!("warning: the model was not refined further: {error}");
        }
    }
}

/// Waits for the first stage of a file.
pub fn first_stage(
    args: &Args,
    arriving: &Arriving<Arc<GrowingSource>>,
    incoming: &mut Incoming,
    name: &str,
) -> anyhow::Result<Stage> {
    let spinner = bar(args, 0);
    let (mut last, mut since) = (0, Instant::now());
    loop {
        // Asked before the stage: what came last counts.
        let is_over = incoming.is_over();
        if let Some(stage) = arriving.stage()? {
            spinner.finish_and_clear();
            return Ok(stage);
        }
        if is_over {
            incoming.join()?;
            bail!("{name}: the file ends before its first layer");
        }
        let (there, of) = arriving.bytes()?;
        if there != last {
            (last, since) = (there, Instant::now());
        }
        let of = of.map_or(String::new(), |of| format!(" of {}", bytes(of)));
        if since.elapsed() > PATIENCE && incoming.is_written_by_others() {
            let seconds = PATIENCE.as_secs();
            bail!(
                "{name}: its first layer is not there, and nothing came for {seconds} s; {}{of} are there",
                bytes(there)
            );
        }
        spinner.set_message(format!("waiting for the first layer of {name}: {}{of}", bytes(there)));
        std::thread::sleep(POLL);
    }
}
