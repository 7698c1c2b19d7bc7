//! A model in memory.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Instant;

use impasto::Live;
use impasto_model::speculation::{DraftLength, Speculator};
use impasto_model::{CausalLm, Session};
use impasto_runtime::{Drafting, KvUpgrade, Model, Runtime};
use impasto_text::grammar::Grammars;
use impasto_text::{ChatTemplate, Tokenizer};

use crate::engine::{Prefixes, Tag};
use crate::guard::{GuardState, Judge, Samples};

/// What is known of a file that arrives.
pub trait Incoming: Send + Sync {
    /// Bytes that are there.
    fn arrived(&self) -> u64;
}

/// What a model was loaded as.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Quality {
    /// The layer of its file, from 1.
    pub layer: usize,
    /// The number of layers of the file.
    pub layers: usize,
    /// Bytes of the file up to this layer, times 8, per weight; 0 if it is not known.
    pub bits_per_weight: f64,
}

/// A model in memory, and what the server keeps for it.
pub struct Loaded {
    /// The name of the model, without the layer.
    pub id: String,
    quality: Quality,
    kind: Kind,
    tokenizer: Result<Arc<Tokenizer>, String>,
    template: Result<ChatTemplate, String>,
    /// For answers that must match something; made when the first one must.
    grammars: OnceLock<Result<Grammars, String>>,
    prefixes: Mutex<Prefixes>,
    /// What draws tokens with drafts, if they are wanted.
    speculator: Mutex<Option<Speculator<'static>>>,
    samples: Mutex<Samples>,
    judge: Mutex<Judge>,
    kv_upgrade: KvUpgrade,
    /// Counts exchanges of weights other than those of arriving files.
    exchanged: AtomicU64,
    /// Seconds from the start of the process to its last use.
    used: AtomicU64,
    /// The base whose weights it shares.
    base: Option<Arc<Loaded>>,
}

enum Kind {
    Whole(Box<Model>),
    /// `bits` are the bits per weight up to each layer.
    Live {
        live: Box<Live>,
        incoming: Box<dyn Incoming>,
        bits: Vec<f64>,
    },
}

impl Loaded {
    /// Takes a model that was loaded.
    pub fn whole(id: String, quality: Quality, model: Model, base: Option<Arc<Loaded>>) -> Loaded {
        Loaded::new(id, quality, Kind::Whole(Box::new(model)), KvUpgrade::Keep, base)
    }

    /// Takes a model whose file arrives, which has `bits` bits per weight up to each of its layers.
    pub fn live(id: String, bits: Vec<f64>, live: Live, incoming: Box<dyn Incoming>, kv_upgrade: KvUpgrade) -> Loaded {
        let quality = Quality { layer: 0, layers: bits.len(), bits_per_weight: 0.0 };
        Loaded::new(id, quality, Kind::Live { live: Box::new(live), incoming, bits }, kv_upgrade, None)
    }

    fn new(id: String, quality: Quality, kind: Kind, kv_upgrade: KvUpgrade, base: Option<Arc<Loaded>>) -> Loaded {
        let model = kind.model();
        let tokenizer = model.shared_tokenizer().map_err(|error| error.to_string());
        let template = model.chat_template().map_err(|error| error.to_string());
        let (exchanged, used) = (AtomicU64::new(0), AtomicU64::new(0));
        let loaded = Loaded {
            id,
            quality,
            tokenizer,
            template,
            grammars: OnceLock::new(),
            prefixes: Mutex::default(),
            speculator: Mutex::default(),
            samples: Mutex::default(),
            judge: Mutex::default(),
            kv_upgrade,
            exchanged,
            used,
            base,
            kind,
        };
        loaded.touch();
        loaded
    }

    /// The model.
    pub fn model(&self) -> &Model {
        self.kind.model()
    }

    /// The network, shared.
    pub fn network(&self) -> Arc<dyn CausalLm> {
        self.model().shared_network()
    }

    /// The tokenizer, or why there is none.
    pub fn tokenizer(&self) -> Result<&Arc<Tokenizer>, &str> {
        self.tokenizer.as_ref().map_err(String::as_str)
    }

    /// The chat template, or why there is none.
    pub fn template(&self) -> Result<&ChatTemplate, &str> {
        self.template.as_ref().map_err(String::as_str)
    }

    /// The quality that its weights have now.
    pub fn quality(&self) -> Quality {
        match &self.kind {
            Kind::Whole(_) => self.quality,
            Kind::Live { live, bits, .. } => {
                let stage = live.stage();
                let bits = stage.number.checked_sub(1).and_then(|index| bits.get(index)).copied();
                Quality { layer: stage.number, layers: stage.of, bits_per_weight: bits.unwrap_or(0.0) }
            }
        }
    }

    /// Bytes of its file that are there, if it arrives.
    pub fn arrived(&self) -> Option<u64> {
        match &self.kind {
            Kind::Whole(_) => None,
            Kind::Live { incoming, .. } => Some(incoming.arrived()),
        }
    }

    /// Why it does not become finer any more, if it is because of an error.
    pub fn error(&self) -> Option<String> {
        match &self.kind {
            Kind::Whole(_) => None,
            Kind::Live { live, .. } => live.error(),
        }
    }

    /// A number that changes when its weights do.
    pub fn generation(&self) -> u64 {
        let stage = match &self.kind {
            Kind::Whole(_) => 0,
            Kind::Live { live, .. } => live.stage().number as u64,
        };
        stage + self.exchanged.load(Ordering::Acquire)
    }

    /// Says that weights were exchanged.
    pub fn weights_changed(&self) {
        self.exchanged.fetch_add(1, Ordering::AcqRel);
    }

    /// How keys and values of running texts are brought to new weights, if they are.
    pub(crate) fn upgrades(&self) -> Option<(Arc<Runtime>, KvUpgrade)> {
        match (&self.kind, self.kv_upgrade) {
            (_, KvUpgrade::Keep) | (Kind::Whole(_), _) => None,
            (Kind::Live { .. }, how) => self.model().shared_runtime().map(|runtime| (runtime, how)),
        }
    }

    /// What answers are matched with, or why they cannot be.
    ///
    /// # Errors
    /// A message, if there is no tokenizer or no token that ends a text.
    pub fn grammars(&self) -> Result<&Grammars, String> {
        let make = || {
            let tokenizer = self.tokenizer()?;
            let eos = match self.template() {
                Ok(template) => self.model().chat_options(template).eos,
                Err(_) => self.model().eos().to_vec(),
            };
            Grammars::new(tokenizer, &eos).map_err(|error| error.to_string())
        };
        self.grammars.get_or_init(make).as_ref().map_err(Clone::clone)
    }

    /// What the guardrails have done.
    pub fn guard(&self) -> GuardState {
        self.judge().state()
    }

    /// What judges its texts.
    pub(crate) fn judge(&self) -> MutexGuard<'_, Judge> {
        self.judge.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Texts to compare with a finer layer.
    pub(crate) fn samples(&self) -> MutexGuard<'_, Samples> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What draws tokens with drafts.
    pub(crate) fn speculator(&self) -> MutexGuard<'_, Option<Speculator<'static>>> {
        self.speculator.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws tokens with drafts from now on.
    ///
    /// # Errors
    /// If it does not have the layer in memory that is to propose them.
    pub fn draft(&self, drafting: Drafting, length: DraftLength) -> impasto_model::Result<()> {
        // Only texts without a temperature are drafted, so that the seed does not matter.
        *self.speculator() = self.model().speculator(drafting, length, 0)?;
        Ok(())
    }

    /// Takes a share of its texts to compare.
    pub fn watch(&self, share: f64) {
        *self.samples() = Samples::new(share);
    }

    /// The keys and values that are kept.
    pub fn prefixes(&self) -> MutexGuard<'_, Prefixes> {
        self.prefixes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a text that has ended, whose first tokens are the prompt.
    pub(crate) fn ended(&self, tag: Tag, prompt: usize, session: Session<Arc<dyn CausalLm>>) {
        self.samples().offer(session.tokens(), prompt);
        self.prefixes().keep(tag, session.into_cache());
    }

    /// Bytes of its weights, without those that it shares with a base.
    pub fn memory_bytes(&self) -> u64 {
        self.model().memory_bytes() as u64
    }

    /// Notes that it is used.
    pub fn touch(&self) {
        self.used.store(now(), Ordering::Relaxed);
    }

    /// When it was used last, as a number that grows.
    pub(crate) fn used(&self) -> u64 {
        self.used.load(Ordering::Relaxed)
    }

    /// The base whose weights it shares.
    pub fn base(&self) -> Option<&Arc<Loaded>> {
        self.base.as_ref()
    }
}

impl Kind {
    fn model(&self) -> &Model {
        match self {
            Kind::Whole(model) => model,
            Kind::Live { live, .. } => live.model(),
        }
    }
}

/// Milliseconds since the first call.
fn now() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_millis()).unwrap_or(u64::MAX)
}
