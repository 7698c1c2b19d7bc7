//! The fast network: runs the description in [`impasto_model::graph`] on packed or coded weights.

use std::cell::RefCell;
use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Instant;

use impasto_kernels::elementwise::{rms_norm, softcap};
use impasto_kernels::kv::{KvLayout, KvStore, Pages};
use impasto_kernels::packed::{Activations, Arena, Packing};
use impasto_model::config::{DecoderConfig, Rope};
use impasto_model::graph::{self, LinearSpec, Loader, check_shape};
use impasto_model::{CausalLm, Hidden, KvCache, ModelError, Result, Want, WeightSource, check_tokens};

use crate::RuntimeError;
use crate::load::{Budget, LoadTimes, LoadWarning, MatrixLoader, Residence, Wanted};
use crate::matrix::{Linear, Scratch, Tools};
use crate::packs::{Found, Pack, PackError, Packs, Writing};
use crate::paged::{Paged, failed};
use crate::pass::{Pass, Piece, Room, sized};
use crate::room::Rooms;
use crate::weights::Weights;

/// Tokens that run through the blocks at a time: bounds the working memory of a long prompt.
pub(crate) const PREFILL: usize = 512;

/// Options for loading and running a network.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeOptions {
    /// The form of the weights in memory.
    pub residence: Residence,
    /// The precision of the inputs of packed matrices.
    pub activations: Activations,
    /// The formats of keys and values.
    pub kv: KvLayout,
    /// Memory limit in bytes, for all weights and, separately, for the keys and values of all sequences.
    pub memory_limit: usize,
    /// Number of threads; 0 means one per processor.
    pub threads: usize,
    /// Where packed weights are kept for later loads, if they are; residence coded ignores it.
    pub packs: Option<Packs>,
    /// The count of the bytes of keys and values, if networks share one. Its limit then takes the place of the memory limit for
    /// these.
    pub kv_memory: Option<KvMemory>,
}

impl Default for RuntimeOptions {
    /// Packed weights without a limit, 8-bit activations, all processors.
    fn default() -> Self {
        Self {
            residence: Residence::default(),
            activations: Activations::default(),
            kv: KvLayout::default(),
            memory_limit: usize::MAX,
            threads: 0,
            packs: None,
            kv_memory: None,
        }
    }
}

/// A count of the bytes of keys and values, with a limit, that networks share.
#[derive(Clone, Debug)]
pub struct KvMemory(Arc<Pages>);

impl KvMemory {
    /// Creates a count with a limit in bytes.
    pub fn new(limit: usize) -> KvMemory {
        KvMemory(Pages::new(limit))
    }

    /// Returns the bytes in use. Pages that sequences share count once.
    pub fn used(&self) -> usize {
        self.0.used()
    }

    /// Returns the limit in bytes.
    pub fn limit(&self) -> usize {
        self.0.limit()
    }
}

/// Two are equal if they are the same count.
impl PartialEq for KvMemory {
    fn eq(&self, other: &KvMemory) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// What a network may have in common with others.
struct Shared {
    tools: Arc<Tools>,
    pages: Arc<Pages>,
    memory_limit: usize,
    residence: Residence,
    kv: KvLayout,
    packs: Option<Packs>,
    /// The weights of the base.
    weights: Option<Arc<Weights>>,
}

impl Shared {
    /// What a network has that has nothing in common with others.
    fn new(options: &RuntimeOptions) -> Result<Shared, RuntimeError> {
        Ok(Shared {
            tools: Arc::new(Tools::new(options)?),
            pages: options.kv_memory.clone().map_or_else(|| Pages::new(options.memory_limit), |KvMemory(pages)| pages),
            memory_limit: options.memory_limit,
            residence: options.residence,
            kv: options.kv.clone(),
            packs: options.packs.clone().filter(|_| options.residence == Residence::Packed),
            weights: None,
        })
    }
}

/// A decoder-only transformer with packed or coded weights.
///
/// Any number of threads may run passes at the same time: each pass has its own working memory, all share one thread
/// pool, and no lock is held during a pass. Weights can be exchanged at any time ([`Runtime::exchange`]).
pub struct Runtime {
    config: DecoderConfig,
    /// Read once per pass; replaced as a whole.
    weights: RwLock<Arc<Weights>>,
    /// The memory of packed matrices, including replacements.
    pub(crate) arena: Arena,
    /// Number of buffers for the values of a sublayer.
    slots: usize,
    /// Number of layers in memory.
    pub(crate) layers: usize,
    tools: Arc<Tools>,
    pub(crate) residence: Residence,
    kv: KvLayout,
    pub(crate) pages: Arc<Pages>,
    /// Of weights, in bytes.
    pub(crate) memory_limit: usize,
    max_context: usize,
    pub(crate) rooms: Rooms,
    times: LoadTimes,
    warnings: Vec<LoadWarning>,
    /// The file of packed weights that is being written.
    writing: Option<Writing>,
}

impl Runtime {
    /// Loads the weights that `config` requires. The shape of each tensor is checked before its values are read.
    ///
    /// # Errors
    /// A tensor that is missing, has the wrong shape or cannot be read; weights above the memory limit; threads that
    /// cannot be started.
    pub fn load(
        source: &dyn WeightSource,
        config: DecoderConfig,
        options: &RuntimeOptions,
    ) -> Result<Self, RuntimeError> {
        Runtime::load_layers(&[source], config, options)
    }

    /// Loads several layers of the same weights, the coarsest first, such as cuts of one file. The finest, the last, is in
    /// use until [`Runtime::set_layers`] chooses others, and [`Runtime::at`] returns the network at each. Matrices of
    /// packed integers are nested: a finer layer takes only what it adds. Norms and biases are those of the finest.
    ///
    /// # Errors
    /// [`ModelError::Layers`] if there are no layers, one is a delta, or the residence is not packed; those of
    /// [`Runtime::load`].
    pub fn load_layers(
        layers: &[&dyn WeightSource],
        config: DecoderConfig,
        options: &RuntimeOptions,
    ) -> Result<Self, RuntimeError> {
        let Some((finest, coarser)) = layers.split_last() else {
            return Err(ModelError::Layers("there are none").into());
        };
        if options.residence != Residence::Packed && !coarser.is_empty() {
            return Err(ModelError::Layers("only those of residence packed can").into());
        }
        if layers.iter().any(|layer| layer.base().is_some()) && !coarser.is_empty() {
            return Err(ModelError::Layers("those of a delta cannot").into());
        }
        options.kv.check(config.blocks.len())?;
        Runtime::load_with(*finest, coarser, config, Shared::new(options)?)
    }

    /// Loads a delta of this model, which keeps in memory only what it adds to the weights of this one: integers, low-rank parts,
    /// and single weights that differ. What differs in most weights is kept whole. The threads are shared, and the memory limit;
    /// that of weights counts those of this model and of the delta.
    ///
    /// Under the other residences than packed, no weights are shared in memory (coded ones are in the mapped files).
    ///
    /// # Errors
    /// [`ModelError::OtherBase`] if this model has not all weights of the base of `source`, or some were exchanged; those of
    /// [`Runtime::load`].
    pub fn load_over(&self, source: &dyn WeightSource, config: DecoderConfig) -> Result<Self, RuntimeError> {
        self.kv.check(config.blocks.len())?;
        let weights = self.weights();
        let base = source.base().and_then(|base| base.identity());
        if base.is_none() || base != weights.identity {
            return Err(ModelError::OtherBase.into());
        }
        let (tools, pages, residence) = (self.tools.clone(), self.pages.clone(), self.residence);
        let weights = (residence == Residence::Packed).then_some(weights);
        Runtime::load_with(
            source,
            &[],
            config,
            Shared {
                tools,
                pages,
                memory_limit: self.memory_limit,
                residence,
                kv: self.kv.clone(),
                packs: None,
                weights,
            },
        )
    }

    fn load_with(
        source: &dyn WeightSource,
        coarser: &[&dyn WeightSource],
        mut config: DecoderConfig,
        shared: Shared,
    ) -> Result<Self, RuntimeError> {
        let begun = Instant::now();
        let Shared { tools, pages, memory_limit, residence, kv, packs, weights: of_base } = shared;
        let (pool, arena) = (&tools.pool, Arena::new());
        let network = graph::describe_source(source, &mut config)?;
        let specs = || network.ends.layers().chain(network.blocks.iter().flat_map(graph::Block::layers));
        for layer in coarser.iter().copied().chain([source]) {
            specs().try_for_each(|spec| check_shape(layer, &spec.name, &[spec.outputs, spec.inputs]))?;
        }
        let budget = Budget::new(memory_limit, of_base.as_ref().map_or(0, |weights| weights.memory_bytes()));
        let loader = MatrixLoader::new(source, residence, pool, &arena, &budget).over(of_base.as_deref());
        let wanted: Vec<Wanted> =
            specs().map(|spec| Wanted { name: &spec.name, shape: [spec.outputs, spec.inputs] }).collect();
        // Layers are not kept in packs.
        let content = source.content().filter(|_| residence == Residence::Packed && coarser.is_empty());
        if let Some(packs) = packs.as_ref().filter(|_| content.is_none() && coarser.is_empty()) {
            (packs.report)(&PackError::NoContent.to_string());
        }
        let kept = packs.zip(content);
        let found = kept.as_ref().and_then(|(packs, content)| packs.find(content, &wanted, pool));
        let cached = found.is_some();
        let (matrices, mut warnings, map) = match found {
            Some(Found { matrices, warnings, map }) => (matrices, warnings, Some(map)),
            None if coarser.is_empty() => (loader.load(&wanted)?, vec![], None),
            None => (loader.load_layers(coarser, &wanted)?, vec![], None),
        };
        if cached {
            matrices.iter().try_for_each(|matrix| budget.spend(matrix.memory_bytes()))?;
        }
        let matrices = RefCell::new(wanted.iter().map(|wanted| wanted.name).zip(matrices).collect::<HashMap<_, _>>());
        let make = |spec: &LinearSpec, bias: Option<Vec<f32>>| {
            budget.spend(bias.as_deref().map_or(0, size_of_val))?;
            let loaded = matrices.borrow_mut().remove(&*spec.name);
            let matrix = loaded.ok_or_else(|| ModelError::NoLinear { name: spec.name.clone() })?;
            Ok(Arc::new(Linear { matrix, name: spec.name.clone(), bias }))
        };
        let weights = Loader::new(source, &make);
        let ends = weights.ends(&network.ends)?;
        let blocks = network.blocks.iter().map(|block| weights.block(block)).collect::<Result<_, _>>()?;
        let ([decode, pack], of_loader) = loader.finish();
        warnings.extend(of_loader);
        let (seconds, threads) = (begun.elapsed().as_secs_f64(), pool.threads());
        let times = LoadTimes { seconds, assets: 0.0, weights: seconds, decode, pack, threads, cached };
        // A file may have grown meanwhile.
        let content = content.filter(|before| source.content().as_ref() == Some(before));
        let weights = Arc::new(Weights { identity: source.identity(), content, map, ends, blocks });
        let kept = kept.filter(|_| content.is_some() && !cached);
        let writing = kept.map(|(packs, content)| Writing::begin(packs, content, weights.clone(), warnings.clone()));
        Ok(Self {
            max_context: config.max_position_embeddings,
            slots: network.slots(),
            layers: 1 + coarser.len(),
            config,
            weights: RwLock::new(weights),
            arena,
            rooms: Rooms::new(pool.threads()),
            tools,
            residence,
            kv,
            pages,
            memory_limit,
            times,
            warnings,
            writing,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Limits the context to `tokens`, if that is less than the configuration's.
    pub fn limit_context(&mut self, tokens: usize) {
        self.max_context = self.config.max_position_embeddings.min(tokens);
    }

    /// The form of the weights in memory.
    pub fn residence(&self) -> Residence {
        self.residence
    }

    /// Loading times.
    pub fn load_times(&self) -> LoadTimes {
        self.times
    }

    /// Warnings about matrices that could not be packed, in loading order.
    pub fn warnings(&self) -> &[LoadWarning] {
        &self.warnings
    }

    /// Number of threads that products run on.
    pub fn threads(&self) -> usize {
        self.tools.pool.threads()
    }

    /// Memory statistics of all packed matrices together, without those that are shared with a base.
    pub fn packing(&self) -> Packing {
        let mut sum = Packing::default();
        self.weights().linears().for_each(|linear| linear.matrix.add_packing(&mut sum));
        sum
    }

    /// Writes the packed weights to a file, as a load with these packs does.
    ///
    /// # Errors
    /// [`PackError::NoContent`] if the source did not say what it is, weights were exchanged, or they are not packed; errors of
    /// the operating system, or a limit that is too low.
    pub fn bake(&self, packs: &Packs) -> Result<Pack, PackError> {
        let weights = self.weights();
        let content = weights.content.ok_or(PackError::NoContent)?;
        packs.write(&content, &weights, &self.warnings)
    }

    /// Waits until the packed weights are written, if they are kept. Dropping the last reference to this waits too.
    pub fn wait_for_pack(&self) {
        self.writing.iter().for_each(Writing::wait);
    }

    /// Bytes of all weights in memory, without those that are shared with a base.
    pub fn memory_bytes(&self) -> usize {
        self.weights().memory_bytes()
    }

    pub(crate) fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The current weights.
    pub(crate) fn weights(&self) -> Arc<Weights> {
        self.weights.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The current weights, locked for replacement.
    pub(crate) fn weights_mut(&self) -> RwLockWriteGuard<'_, Arc<Weights>> {
        self.weights.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `pieces`, at most [`PREFILL`] tokens in total, through the blocks. The residual stream after the last block
    /// is in the first slot, and the caches have the tokens. After an error the caches are unchanged.
    fn run(&self, weights: &Weights, room: &mut Room, pieces: &mut [Piece<'_>]) -> Result<()> {
        let result = self.run_blocks(weights, room, pieces, 0..weights.blocks.len());
        for piece in pieces {
            match &result {
                Ok(()) => piece.cache.advance(piece.tokens, piece.context),
                Err(_) => piece.cache.truncate(piece.cache.len()),
            }
        }
        result
    }

    /// Runs `pieces` through some blocks, and leaves the residual stream in the first slot.
    pub(crate) fn run_blocks(
        &self,
        weights: &Weights,
        room: &mut Room,
        pieces: &mut [Piece<'_>],
        blocks: Range<usize>,
    ) -> Result<()> {
        let (width, tokens) = (self.config.hidden_size, pieces.iter().map(|piece| piece.tokens.len()).sum::<usize>());
        self.prepare_room(room, pieces);
        let Room { slots, products, .. } = room;
        self.embed(weights, sized(&mut slots[0], tokens * width)?, pieces, products)?;
        weights.blocks[blocks].iter().try_for_each(|block| {
            let mut at = 0;
            for piece in pieces.iter_mut() {
                let rows = at..at + piece.tokens.len() * width;
                at = rows.end;
                let Paged { inputs, .. } = piece.cache.store().ok_or(ModelError::ForeignCache)?;
                if let Some(inputs) = inputs {
                    inputs.append(block.index, &room.slots[0][rows])?;
                }
            }
            let mut pass = Pass { tools: &self.tools, room, pieces, tokens, block: block.index, only_append: false };
            block.sublayers.iter().try_for_each(|sublayer| graph::run(&sublayer.ops, &mut pass))
        })?;
        weights.check()
    }

    /// Gets the working memory ready for pieces.
    pub(crate) fn prepare_room(&self, room: &mut Room, pieces: &[Piece<'_>]) {
        room.slots.resize_with(room.slots.len().max(self.slots), Vec::new);
        room.turn(&self.config.ropes, pieces);
    }

    /// Writes the embeddings of all tokens to `x`.
    pub(crate) fn embed(
        &self,
        weights: &Weights,
        x: &mut [f32],
        pieces: &[Piece<'_>],
        scratch: &mut Scratch,
    ) -> Result<()> {
        let tokens = pieces.iter().flat_map(|piece| piece.tokens).map(|&token| token as usize);
        weights.ends.embedding.rows(tokens, x, scratch)?;
        if let Some(scale) = weights.ends.scale {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(())
    }

    /// Checks the arguments and allocates memory in the cache.
    fn admit(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<()> {
        let shape = (self.config.blocks.len(), self.config.num_kv_heads, self.config.head_dim);
        let fits = |Paged { store, .. }: &mut Paged| (store.blocks(), store.kv_heads(), store.head_dim()) == shape;
        if !cache.store().is_some_and(fits) {
            return Err(ModelError::ForeignCache);
        }
        check_tokens(tokens, self.config.vocab_size, cache.len(), self.max_context)?;
        cache.reserve(tokens.len())
    }

    /// Evaluates the tokens in `cache` again if a context of `context` tokens gives them other rotary positions than
    /// their keys have.
    fn renew(&self, weights: &Weights, room: &mut Room, cache: &mut KvCache, context: usize) -> Result<()> {
        let stale = |rope: &Rope| rope.is_long(cache.context()) != rope.is_long(context);
        if cache.is_empty() || !self.config.ropes.iter().any(stale) {
            return Ok(());
        }
        let tokens = cache.tokens().to_vec();
        cache.clear();
        cache.reserve(context)?;
        for piece in tokens.chunks(PREFILL) {
            self.run(weights, room, &mut [Piece { cache, tokens: piece, context }])?;
        }
        Ok(())
    }

    /// Normalizes rows of the residual stream for the output projection.
    pub(crate) fn normed<'a>(&self, weights: &Weights, x: &[f32], out: &'a mut Vec<f32>) -> Result<&'a [f32]> {
        let out = sized(out, x.len())?;
        rms_norm(x, &weights.ends.norm, weights.ends.eps, out, &self.tools.pool);
        Ok(out)
    }

    /// Computes the logits of normalized rows.
    fn project_logits(&self, weights: &Weights, rows: &[f32], logits: &mut [f32], scratch: &mut Scratch) -> Result<()> {
        weights.ends.projection().multiply(rows, logits, &self.tools, scratch)?;
        weights.check()?;
        if let Some(cap) = weights.ends.softcap {
            softcap(logits, cap);
        }
        Ok(())
    }

    /// Runs the tokens of all sequences, [`PREFILL`] at a time, and returns the wanted rows of each. After an error,
    /// the caches may hold some of the tokens.
    fn hidden_by_pieces(
        &self,
        weights: &Weights,
        room: &mut Room,
        batch: &mut [(&mut KvCache, &[u32])],
        want: Want,
    ) -> Result<Vec<Hidden>> {
        let width = self.config.hidden_size;
        let contexts: Vec<usize> = batch.iter().map(|(cache, tokens)| cache.len() + tokens.len()).collect();
        let mut wanted: Vec<Vec<f32>> = batch.iter().map(|_| Vec::new()).collect();
        let mut done: Vec<usize> = vec![0; batch.len()];
        loop {
            // Collect tokens of each sequence in order, up to PREFILL in total.
            let mut left = PREFILL;
            let mut ranges: Vec<Range<usize>> = Vec::new();
            let mut pieces = Vec::new();
            for (i, (cache, tokens)) in batch.iter_mut().enumerate() {
                let range = done[i]..tokens.len().min(done[i] + left);
                left -= range.len();
                if !range.is_empty() {
                    pieces.push(Piece { cache, tokens: &tokens[range.clone()], context: contexts[i] });
                }
                ranges.push(range);
            }
            if pieces.is_empty() {
                break;
            }
            self.run(weights, room, &mut pieces)?;
            let mut row = 0;
            for (i, range) in ranges.into_iter().enumerate() {
                let first = want.first(batch[i].1.len()).clamp(range.start, range.end);
                let rows = row + (first - range.start)..row + range.len();
                if !rows.is_empty() {
                    let Room { slots, normed, .. } = room;
                    let rows = self.normed(weights, &slots[0][rows.start * width..rows.end * width], normed)?;
                    wanted[i].extend_from_slice(rows);
                }
                row += range.len();
                done[i] = range.end;
            }
        }
        Ok(wanted.into_iter().map(|data| Hidden::new(data, width)).collect())
    }
}

impl CausalLm for Runtime {
    fn vocab_size(&self) -> usize {
        self.config.vocab_size
    }

    fn max_context(&self) -> usize {
        self.max_context
    }

    fn new_cache(&self, tokens: usize) -> Result<KvCache> {
        let DecoderConfig { num_kv_heads, head_dim, .. } = self.config;
        let store = KvStore::new(self.pages.clone(), self.config.blocks.len(), num_kv_heads, head_dim, &self.kv);
        let mut cache = KvCache::of(Box::new(Paged { store: store.map_err(failed)?, inputs: None }));
        cache.reserve(tokens.min(self.max_context))?;
        Ok(cache)
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        let mut hidden = self.hidden_of_many(&mut [(cache, tokens)], want)?;
        Ok(hidden.remove(0))
    }

    fn hidden_of_many(&self, batch: &mut [(&mut KvCache, &[u32])], want: Want) -> Result<Vec<Hidden>> {
        self.hidden_with(&self.weights(), batch, want)
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        self.logits_with(&self.weights(), hidden, rows)
    }

    fn next_logits(&self, cache: &mut KvCache, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        self.next_logits_with(&self.weights(), cache, tokens, logits)
    }
}

/// The methods of [`CausalLm`] that need weights, for given ones.
impl Runtime {
    pub(crate) fn hidden_with(
        &self,
        weights: &Weights,
        batch: &mut [(&mut KvCache, &[u32])],
        want: Want,
    ) -> Result<Vec<Hidden>> {
        for (cache, tokens) in batch.iter_mut() {
            self.admit(cache, tokens)?;
        }
        let room = &mut *self.rooms.enter();
        for (cache, tokens) in batch.iter_mut() {
            let context = cache.len() + tokens.len();
            self.renew(weights, room, cache, context)?;
        }
        let before: Vec<usize> = batch.iter().map(|(cache, _)| cache.len()).collect();
        let hidden = self.hidden_by_pieces(weights, room, batch, want);
        if hidden.is_err() {
            batch.iter_mut().zip(&before).for_each(|((cache, _), &before)| cache.truncate(before));
        }
        hidden
    }

    pub(crate) fn logits_with(&self, weights: &Weights, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; rows.len() * self.config.vocab_size];
        self.project_logits(weights, hidden.slice(rows)?, &mut logits, &mut self.rooms.enter().products)?;
        Ok(logits)
    }

    pub(crate) fn next_logits_with(
        &self,
        weights: &Weights,
        cache: &mut KvCache,
        tokens: &[u32],
        logits: &mut Vec<f32>,
    ) -> Result<()> {
        self.admit(cache, tokens)?;
        let (width, context) = (self.config.hidden_size, cache.len() + tokens.len());
        let room = &mut *self.rooms.enter();
        self.renew(weights, room, cache, context)?;
        let before = cache.len();
        let mut last = 0;
        for piece in tokens.chunks(PREFILL) {
            last = piece.len() - 1;
            if let Err(error) = self.run(weights, room, &mut [Piece { cache, tokens: piece, context }]) {
                cache.truncate(before);
                return Err(error);
            }
        }
        let Room { slots, normed, products, .. } = room;
        let row = self
            .normed(weights, &slots[0][last * width..(last + 1) * width], normed)
            .inspect_err(|_| cache.truncate(before))?;
        logits.resize(self.config.vocab_size, 0.0);
        self.project_logits(weights, row, logits, products).inspect_err(|_| cache.truncate(before))
    }
}
