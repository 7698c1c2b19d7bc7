//! Keys and values of earlier tokens after an exchange of weights.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;
use std::thread::JoinHandle;

use impasto_model::graph::{self, Op};
use impasto_model::{CausalLm, KvCache, ModelError, Result, Session, Want};

use crate::Runtime;
use crate::network::PREFILL;
use crate::paged::{Inputs, Paged};
use crate::pass::{Pass, Piece, Room, sized};
use crate::weights::Weights;

/// What becomes of the keys and values of earlier tokens when weights are exchanged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum KvUpgrade {
    /// They stay those of the earlier weights.
    #[default]
    Keep,
    /// All are computed again, as if the weights had been there from the beginning.
    Recompute,
    /// Those of the first blocks are computed again, others stay: about this share of the time, as DroidSpeak (Liu et al., arXiv
    /// 2411.02820) does between variants of a model.
    Layers(usize),
    /// All are computed again from the inputs that the blocks had with the earlier weights, which the cache must have kept
    /// ([`Runtime::keep_inputs`]): only the projections to keys and values run. That is the same as adding the product of the
    /// change of these weights and the kept inputs.
    Residual,
}

impl fmt::Display for KvUpgrade {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            KvUpgrade::Keep => f.write_str("keep"),
            KvUpgrade::Recompute => f.write_str("recompute"),
            KvUpgrade::Layers(blocks) => write!(f, "layers={blocks}"),
            KvUpgrade::Residual => f.write_str("residual"),
        }
    }
}

impl FromStr for KvUpgrade {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let blocks = || text.strip_prefix("layers=")?.parse().ok().map(KvUpgrade::Layers);
        match text {
            "keep" => Ok(KvUpgrade::Keep),
            "recompute" => Ok(KvUpgrade::Recompute),
            "residual" => Ok(KvUpgrade::Residual),
            _ => blocks().ok_or_else(|| "not keep, recompute, residual or layers=N".to_owned()),
        }
    }
}

impl Runtime {
    /// Has an empty cache keep the inputs of all blocks: 2 bytes per token, block and element of the hidden size.
    ///
    /// # Errors
    /// [`ModelError::ForeignCache`] if it is not one of this network, or not empty.
    pub fn keep_inputs(&self, cache: &mut KvCache) -> Result<()> {
        let (blocks, width) = (self.config().blocks.len(), self.config().hidden_size);
        let is_empty = cache.is_empty();
        let paged = cache.store::<Paged>().filter(|_| is_empty).ok_or(ModelError::ForeignCache)?;
        paged.inputs = Some(Inputs::new(blocks, width));
        Ok(())
    }

    /// Returns a cache with the tokens of `cache`, whose keys and values are brought to the current weights in the way of `how`. It
    /// may run while others generate.
    ///
    /// # Errors
    /// [`ModelError::ForeignCache`] if `cache` is not one of this network, [`ModelError::NoInputs`] if it has not kept what
    /// [`KvUpgrade::Residual`] needs, or memory that cannot be allocated.
    pub fn upgrade(&self, cache: &KvCache, how: KvUpgrade) -> Result<KvCache> {
        let Paged { store, inputs } = cache.store_ref::<Paged>().ok_or(ModelError::ForeignCache)?;
        let blocks = self.config().blocks.len();
        match how {
            KvUpgrade::Keep => cache.fork(),
            KvUpgrade::Layers(most) if most < blocks => {
                let mut again =
                    Paged { store: store.again(0..most), inputs: inputs.as_ref().map(|_| self.no_inputs()) };
                if let (Some(own), Some(inputs)) = (&mut again.inputs, inputs) {
                    own.take_from(most, inputs);
                }
                self.fill(cache, again, |weights, room, piece| self.run_blocks(weights, room, piece, 0..most))
            }
            KvUpgrade::Recompute | KvUpgrade::Layers(_) => {
                let mut again = self.new_cache(cache.len())?;
                if inputs.is_some() {
                    self.keep_inputs(&mut again)?;
                }
                if !cache.is_empty() {
                    self.hidden(&mut again, cache.tokens(), Want::From(cache.len()))?;
                }
                Ok(again)
            }
            KvUpgrade::Residual => {
                let kept = inputs.as_ref().ok_or(ModelError::NoInputs)?;
                let again = Paged { store: store.again(0..blocks), inputs: Some(kept.clone()) };
                self.fill(cache, again, |weights, room, piece| self.project(weights, kept, room, piece))
            }
        }
    }

    fn no_inputs(&self) -> Inputs {
        Inputs::new(self.config().blocks.len(), self.config().hidden_size)
    }

    /// Fills a store by pieces of the tokens of a cache.
    fn fill(
        &self,
        cache: &KvCache,
        store: Paged,
        run: impl Fn(&Weights, &mut Room, &mut [Piece<'_>]) -> Result<()>,
    ) -> Result<KvCache> {
        let mut again = KvCache::of(Box::new(store));
        let (weights, room) = (&*self.weights(), &mut *self.rooms.enter());
        for tokens in cache.tokens().chunks(PREFILL) {
            again.reserve(tokens.len())?;
            run(weights, room, &mut [Piece { cache: &mut again, tokens, context: cache.context() }])?;
            again.advance(tokens, cache.context());
        }
        Ok(again)
    }

    /// Computes keys and values of the tokens of a piece from kept inputs of the blocks.
    fn project(&self, weights: &Weights, kept: &Inputs, room: &mut Room, pieces: &mut [Piece<'_>]) -> Result<()> {
        let (width, tokens) = (self.config().hidden_size, pieces.iter().map(|piece| piece.tokens.len()).sum::<usize>());
        self.prepare_room(room, pieces);
        for block in &weights.blocks {
            let first = pieces.first().map_or(0, |piece| piece.cache.len());
            if !kept.read(block.index, first, sized(&mut room.slots[0], tokens * width)?) {
                return Err(ModelError::NoInputs);
            }
            for sublayer in &block.sublayers {
                let Some(at) = sublayer.ops.iter().position(|op| matches!(op, Op::Attend { .. })) else { continue };
                let mut pass =
                    Pass { tools: self.tools(), room, pieces, tokens, block: block.index, only_append: true };
                graph::run(&sublayer.ops[..=at], &mut pass)?;
            }
        }
        Ok(())
    }
}

/// Upgrades the keys and values of a session on a thread of its own, while tokens are generated.
pub struct Upgrader {
    runtime: Arc<Runtime>,
    how: KvUpgrade,
    job: Option<JoinHandle<Result<KvCache>>>,
}

impl Upgrader {
    /// Creates an upgrader for sessions of a network.
    pub fn new(runtime: Arc<Runtime>, how: KvUpgrade) -> Upgrader {
        Upgrader { runtime, how, job: None }
    }

    /// Begins to bring the tokens of a session that are evaluated to the current weights. An upgrade that is running is given up.
    ///
    /// # Errors
    /// If the thread cannot be started, or memory cannot be allocated.
    pub fn begin<M: Deref<Target: CausalLm>>(&mut self, session: &Session<M>) -> Result<()> {
        if self.how == KvUpgrade::Keep {
            return Ok(());
        }
        let (runtime, how, cache) = (self.runtime.clone(), self.how, session.cache().fork()?);
        let job = std::thread::Builder::new().name("upgrade".to_owned()).spawn(move || runtime.upgrade(&cache, how));
        self.job = Some(job.map_err(|error| ModelError::Threads(error.to_string()))?);
        Ok(())
    }

    /// Returns whether an upgrade is running.
    pub fn is_running(&self) -> bool {
        self.job.is_some()
    }

    /// Gives the session its new keys and values if they are there. Returns whether it did.
    ///
    /// # Errors
    /// Those of [`Runtime::upgrade`].
    pub fn poll<M: Deref<Target: CausalLm>>(&mut self, session: &mut Session<M>) -> Result<bool> {
        if self.job.as_ref().is_some_and(JoinHandle::is_finished) { self.wait(session) } else { Ok(false) }
    }

    /// Like [`Upgrader::poll`], but waits for an upgrade that is running.
    ///
    /// # Errors
    /// Those of [`Runtime::upgrade`].
    pub fn wait<M: Deref<Target: CausalLm>>(&mut self, session: &mut Session<M>) -> Result<bool> {
        let Some(job) = self.job.take() else { return Ok(false) };
        let panicked = |_| ModelError::Threads("the thread that upgrades keys and values ended too early".to_owned());
        session.adopt(job.join().map_err(panicked)??);
        Ok(true)
    }
}
