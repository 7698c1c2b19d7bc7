//! Models that run while their file arrives.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use impasto::format::{GrowingSource, Limits};
use impasto::{Arriving, Live, Stage};
use impasto_model::{CausalLm, Session};
use impasto_runtime::{KvUpgrade, RunOptions, Runtime, RuntimeError, Upgrader};
use serde::Serialize;

use crate::args::Args;
use crate::model::memory_limit;
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

/// A model whose file arrives, and what its tokens were computed with.
pub struct Arrival {
    pub live: Live,
    source: Arc<GrowingSource>,
    begun: Instant,
    parts: Vec<Part>,
    upgrader: Upgrader,
    how: KvUpgrade,
    /// The stage to which keys and values were brought last, or are being brought.
    upgraded: usize,
    /// How often keys and values were exchanged.
    upgrades: usize,
}

impl Arrival {
    /// Waits for the first layer of the file at `path`, and loads the model.
    pub fn begin(args: &Args, path: &Path, options: &RunOptions, how: Option<KvUpgrade>) -> anyhow::Result<Arrival> {
        let (begun, name) = (Instant::now(), path.display().to_string());
        let source = Arc::new(GrowingSource::open(path).with_context(|| name.clone())?);
        let limits = Limits { allow_expansion: args.allow_expansion, ..Limits::within(memory_limit(args)) };
        let arriving = Arriving::new(source.clone(), name.clone(), limits);
        let stage = first_stage(args, &arriving, &name)?;
        let live = Live::start(arriving, stage, options).with_context(|| name.clone())?;
        let runtime = live.model().shared_runtime().with_context(|| name)?;
        let how = how.unwrap_or(KvUpgrade::Recompute);
        let (parts, upgrader, upgraded) = (Vec::new(), Upgrader::new(runtime, how), stage.number);
        Ok(Arrival { live, source, begun, parts, upgrader, how, upgraded, upgrades: 0 })
    }

    /// Creates an empty session with room for `tokens` tokens.
    pub fn session<'m>(
        &self,
        runtime: &'m Runtime,
        options: &impasto_runtime::GenerateOptions,
        tokens: usize,
    ) -> anyhow::Result<Session<&'m dyn CausalLm>> {
        let mut cache = runtime.new_cache(tokens)?;
        if self.how == KvUpgrade::Residual {
            runtime.keep_inputs(&mut cache)?;
        }
        Ok(Session::with_cache(runtime as &dyn CausalLm, options.sampling, cache)?)
    }

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
                arrived: impasto_container::Source::len(&*self.source),
                seconds: self.begun.elapsed().as_secs_f64(),
            }),
        }
        Ok(())
    }

    /// The report in JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "parts": self.parts,
            "arrived": impasto_container::Source::len(&*self.source),
            "kv_upgrade": self.how.to_string(),
            "kv_upgrades": self.upgrades,
            "most_bytes_twice": self.live.most_bytes(),
            "error": self.live.error(),
        })
    }

    /// Prints which quality gave which tokens.
    pub fn report(&self, path: &Path) {
        for part in &self.parts {
            let tokens = match part.tokens {
                1 => format!("token {}", part.first_token + 1),
                tokens => format!("tokens {} to {}", part.first_token + 1, part.first_token + tokens),
            };
            let (stage, of, taken) = (part.stage, part.stages, bytes(part.bytes));
            eprintln!("{}: {tokens} from stage {stage} of {of} ({taken}), after {:.1} s", path.display(), part.seconds);
        }
        if let Some(error) = self.live.error() {
            eprintln!("warning: the model was not refined further: {error}");
        }
    }
}

/// Waits for the first stage of a file.
fn first_stage(args: &Args, arriving: &Arriving<Arc<GrowingSource>>, name: &str) -> anyhow::Result<Stage> {
    let spinner = bar(args, 0);
    let (mut last, mut since) = (0, Instant::now());
    loop {
        if let Some(stage) = arriving.stage()? {
            spinner.finish_and_clear();
            return Ok(stage);
        }
        let (there, of) = arriving.bytes()?;
        if there != last {
            (last, since) = (there, Instant::now());
        }
        let of = of.map_or(String::new(), |of| format!(" of {}", bytes(of)));
        if since.elapsed() > PATIENCE {
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
