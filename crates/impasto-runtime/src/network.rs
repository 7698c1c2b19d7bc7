//! The decoder-only transformer of [`impasto_model::decoder`], run from packed or coded weights.

use std::cell::Cell;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockWriteGuard};
use std::time::Instant;

use impasto_core::Isa;
use impasto_kernels::elementwise::{add, gated, gelu_tanh, rms_norm, rms_norm_in_place, rope, silu, softcap};
use impasto_kernels::kv::{self, AttentionShape, KvLayout, KvStore, Pages};
use impasto_kernels::packed::{self, Activations, Arena, Kernel, Packing};
use impasto_kernels::{Pool, Workers};
use impasto_model::config::{Activation, DecoderConfig, Rope};
use impasto_model::decoder::{Attention, Loader, Projection, names};
use impasto_model::{CausalLm, Hidden, KvCache, ModelError, Result, Want, WeightSource, check_tokens};

use crate::RuntimeError;
use crate::load::{LoadTimes, MatrixLoader, Residence};
use crate::matrix::{Linear, Matrix, Tools};
use crate::paged::{Paged, failed};
use crate::room::{Room, Rooms, sized};
use crate::weights::Weights;

/// Tokens run through the blocks at a time: bounds the working memory of a long prompt.
const PREFILL: usize = 512;

/// How a model is run.
#[derive(Clone, Debug, PartialEq)]
pub struct RuntimeOptions {
    /// In which form weights lie in memory.
    pub residence: Residence,
    /// In which form packed matrices take their inputs.
    pub activations: Activations,
    /// In which form keys and values are kept.
    pub kv: KvLayout,
    /// Most bytes that all weights, and most that the keys and values of all sequences may take.
    pub memory_limit: usize,
    /// Threads; 0 takes all processors.
    pub threads: usize,
}

/// A decoder-only transformer whose weights lie packed or coded in memory.
///
/// Any number of threads may run passes at once: each has working memory of its own, all share one thread pool, and
/// nothing is locked while a pass runs. Weights can be exchanged meanwhile ([`Runtime::exchange`]).
pub struct Runtime {
    config: DecoderConfig,
    /// Read once a pass; replaced as a whole.
    weights: RwLock<Arc<Weights>>,
    /// Where packed matrices are stored, those that come later too.
    pub(crate) arena: Arena,
    tools: Tools,
    pub(crate) residence: Residence,
    kv: KvLayout,
    pub(crate) pages: Arc<Pages>,
    max_context: usize,
    rooms: Rooms,
    times: LoadTimes,
}

/// Some tokens of one sequence, on their way through the network.
struct Part<'a> {
    cache: &'a mut KvCache,
    tokens: &'a [u32],
    /// Tokens in the sequence once all that were asked for have run: LongRoPE turns by it.
    context: usize,
}

impl Runtime {
    /// Loads the weights that `config` calls for, every shape checked before its values are read.
    ///
    /// # Errors
    /// A tensor that is missing, has another shape or cannot be read; threads that cannot be started.
    pub fn load(
        source: &dyn WeightSource,
        config: DecoderConfig,
        options: &RuntimeOptions,
    ) -> Result<Self, RuntimeError> {
        let begun = Instant::now();
        options.kv.check(config.blocks.len())?;
        let pool = Pool::new(options.threads)?;
        let (decode, pack) = (AtomicU64::new(0), AtomicU64::new(0));
        let RuntimeOptions { residence, memory_limit: limit, .. } = *options;
        let arena = Arena::new();
        let used = Cell::new(0usize);
        let admit = |bytes: usize| match used.get().saturating_add(bytes) {
            bytes if bytes > limit => Err(ModelError::MemoryLimit { bytes: bytes as u64, limit: limit as u64 }),
            _ => Ok(()),
        };
        let loader =
            MatrixLoader { source, residence, pool: &pool, arena: &arena, admit: &admit, decode: &decode, pack: &pack };
        let make = |name: String, shape: [usize; 2], bias| {
            // A packed weight takes about a bit at least.
            admit(shape[0].saturating_mul(shape[1]) / 8)?;
            let linear = Linear { matrix: loader.matrix(&name, shape)?, name, bias };
            admit(linear.memory_bytes())?;
            used.set(used.get() + linear.memory_bytes());
            Ok(Arc::new(linear))
        };
        let (prefix, head) = names(source, &config);
        let parts = Loader::new(source, &config, prefix, &make);
        let ends = parts.ends(head)?;
        let blocks = (0..config.blocks.len()).map(|index| parts.block(index)).collect::<Result<_, _>>()?;
        let seconds = |nanoseconds: &AtomicU64| nanoseconds.load(Ordering::Relaxed) as f64 / 1e9;
        let times = LoadTimes {
            seconds: begun.elapsed().as_secs_f64(),
            assets: 0.0,
            decode: seconds(&decode),
            pack: seconds(&pack),
            threads: pool.threads(),
        };
        let workers = Workers::new(pool.threads(), Isa::best());
        let rooms = Rooms::new(pool.threads());
        Ok(Self {
            max_context: config.max_position_embeddings,
            config,
            weights: RwLock::new(Arc::new(Weights { ends, blocks })),
            arena,
            tools: Tools { pool, kernel: Kernel::best(), activations: options.activations, workers },
            residence,
            kv: options.kv.clone(),
            pages: Pages::new(options.memory_limit),
            rooms,
            times,
        })
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        &self.config
    }

    /// Sets a context shorter than the configuration's.
    pub fn limit_context(&mut self, tokens: usize) {
        self.max_context = self.config.max_position_embeddings.min(tokens);
    }

    /// In which form the weights lie in memory.
    pub fn residence(&self) -> Residence {
        self.residence
    }

    /// How long loading took.
    pub fn load_times(&self) -> LoadTimes {
        self.times
    }

    /// Threads that products run on.
    pub fn threads(&self) -> usize {
        self.tools.pool.threads()
    }

    /// What the packed matrices take, together.
    pub fn packing(&self) -> Packing {
        let mut sum = Packing::default();
        for linear in self.weights().linears() {
            if let Matrix::Packed(packed) = &linear.matrix {
                sum.add(packed.report());
            }
        }
        sum
    }

    /// Bytes of all weights in memory.
    pub fn memory_bytes(&self) -> usize {
        self.weights().memory_bytes()
    }

    /// The weights as they are now.
    pub(crate) fn weights(&self) -> Arc<Weights> {
        self.weights.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The weights, for one who puts others in their place.
    pub(crate) fn weights_mut(&self) -> RwLockWriteGuard<'_, Arc<Weights>> {
        self.weights.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `parts`, at most [`PREFILL`] tokens all in all, through the blocks; the residual stream lies in `room.x`
    /// behind it, and the caches hold the tokens. After an error they are as they were.
    fn run(&self, weights: &Weights, room: &mut Room, parts: &mut [Part<'_>]) -> Result<()> {
        let result = self.run_blocks(weights, room, parts);
        for part in parts {
            match &result {
                Ok(()) => part.cache.advance(part.tokens, part.context),
                Err(_) => part.cache.truncate(part.cache.len()),
            }
        }
        result
    }

    fn run_blocks(&self, weights: &Weights, room: &mut Room, parts: &mut [Part<'_>]) -> Result<()> {
        let (config, tools) = (&self.config, &self.tools);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (query, kv_width) = (config.query_width(), config.kv_width());
        let tokens: usize = parts.iter().map(|part| part.tokens.len()).sum();
        self.embed(weights, sized(&mut room.x, tokens * hidden), parts)?;
        self.turn(room, parts);
        let Room { x, normed, q, k, v, wide, mixed, gate, up, out, tables, packed, attention, .. } = room;
        let (x, out) = (&mut x[..tokens * hidden], sized(out, tokens * hidden));
        let normed = sized(normed, tokens * hidden);
        let (q, mixed) = (sized(q, tokens * query), sized(mixed, tokens * query));
        let (k, v) = (sized(k, tokens * kv_width), sized(v, tokens * kv_width));
        let (gate, up) = (sized(gate, tokens * inner), sized(up, tokens * inner));
        let eps = config.rms_norm_eps;
        for (index, block) in weights.blocks.iter().enumerate() {
            rms_norm(x, &block.attention_norm, eps, normed, &tools.pool);
            project(&block.qkv, normed, [&mut *q, k, v], wide, tools, packed)?;
            let positions = config.blocks[index].rope.map(|set| (config.ropes[set].dim, &tables[set]));
            for (heads, width, norm) in [(&mut *q, query, &block.q_norm), (k, kv_width, &block.k_norm)] {
                if let Some(norm) = norm {
                    rms_norm_in_place(heads, norm, eps, &tools.pool);
                }
                if let Some((dim, table)) = positions {
                    rope(heads, width, config.head_dim, dim, table, &tools.pool);
                }
            }
            let how = shape(Attention::of(config, index));
            let mut at = 0;
            for part in parts.iter_mut() {
                let rows = at..at + part.tokens.len();
                let of = |width: usize| rows.start * width..rows.end * width;
                let Paged(store) = part.cache.store().ok_or(ModelError::ForeignCache)?;
                store.append(index, &k[of(kv_width)], &v[of(kv_width)]);
                let attended = kv::attend(
                    tools.workers.isa(),
                    store,
                    index,
                    &q[of(query)],
                    &how,
                    &mut mixed[of(query)],
                    attention,
                    &tools.pool,
                );
                attended.map_err(failed)?;
                at = rows.end;
            }
            project(&block.output, mixed, [&mut *out], wide, tools, packed)?;
            self.join(x, out, &block.post_attention_norm);
            rms_norm(x, &block.mlp_norm, eps, normed, &tools.pool);
            project(&block.gate_up, normed, [&mut *gate, up], wide, tools, packed)?;
            match config.activation {
                Activation::Silu => gated(gate, up, inner, silu, &tools.pool),
                Activation::GeluTanh => gated(gate, up, inner, gelu_tanh, &tools.pool),
            }
            project(&block.down, gate, [&mut *out], wide, tools, packed)?;
            self.join(x, out, &block.post_mlp_norm);
        }
        Ok(())
    }

    /// Adds the output of a half to the residual stream, through the norm behind it where the family has one.
    fn join(&self, x: &mut [f32], out: &mut [f32], norm: &Option<Vec<f32>>) {
        if let Some(norm) = norm {
            rms_norm_in_place(out, norm, self.config.rms_norm_eps, &self.tools.pool);
        }
        add(x, out);
    }

    /// The embeddings of all tokens.
    fn embed(&self, weights: &Weights, x: &mut [f32], parts: &[Part<'_>]) -> Result<()> {
        let tokens = parts.iter().flat_map(|part| part.tokens).map(|&token| token as usize);
        weights.ends.embedding.rows(tokens, x)?;
        if let Some(scale) = self.config.embedding_scale() {
            x.iter_mut().for_each(|x| *x *= scale);
        }
        Ok(())
    }

    /// Fills the tables of rotary positions.
    fn turn(&self, room: &mut Room, parts: &[Part<'_>]) {
        let ropes = &self.config.ropes;
        room.tables.resize_with(ropes.len(), Vec::new);
        room.frequencies.resize_with(ropes.len(), Default::default);
        for ((rope, table), frequencies) in ropes.iter().zip(&mut room.tables).zip(&mut room.frequencies) {
            table.clear();
            for part in parts {
                let long = rope.is_long(part.context);
                if frequencies.1.is_empty() || frequencies.0 != long {
                    *frequencies = (long, rope.frequencies(part.context));
                }
                let past = part.cache.len();
                // The angle is rounded to binary32 as in transformers; at long context that is visible.
                let angles =
                    (past..past + part.tokens.len()).flat_map(|p| frequencies.1.iter().map(move |f| p as f32 * f));
                table.extend(angles.map(|angle| (angle.cos() * rope.scale, angle.sin() * rope.scale)));
            }
        }
    }

    /// Checks what is asked, and takes room in the cache.
    fn admit(&self, cache: &mut KvCache, tokens: &[u32]) -> Result<()> {
        let shape = (self.config.blocks.len(), self.config.num_kv_heads, self.config.head_dim);
        let fits = |Paged(store): &mut Paged| (store.blocks(), store.kv_heads(), store.head_dim()) == shape;
        if !cache.store().is_some_and(fits) {
            return Err(ModelError::ForeignCache);
        }
        check_tokens(tokens, self.config.vocab_size, cache.len(), self.max_context)?;
        cache.reserve(tokens.len())
    }

    /// Runs the tokens of `cache` again if a context of `context` tokens gives them other rotary positions than those
    /// that their keys have.
    fn renew(&self, weights: &Weights, room: &mut Room, cache: &mut KvCache, context: usize) -> Result<()> {
        let stale = |rope: &Rope| rope.is_long(cache.context()) != rope.is_long(context);
        if cache.is_empty() || !self.config.ropes.iter().any(stale) {
            return Ok(());
        }
        let tokens = cache.tokens().to_vec();
        cache.clear();
        cache.reserve(context)?;
        for piece in tokens.chunks(PREFILL) {
            self.run(weights, room, &mut [Part { cache, tokens: piece, context }])?;
        }
        Ok(())
    }

    /// Normalises rows of the residual stream for the output projection.
    fn normed<'a>(&self, weights: &Weights, x: &[f32], out: &'a mut Vec<f32>) -> &'a [f32] {
        let out = sized(out, x.len());
        rms_norm(x, &weights.ends.norm, self.config.rms_norm_eps, out, &self.tools.pool);
        out
    }

    /// Logits of `rows` normalised rows.
    fn project_logits(
        &self,
        weights: &Weights,
        rows: &[f32],
        logits: &mut [f32],
        scratch: &mut packed::Scratch,
    ) -> Result<()> {
        weights.projection().multiply(rows, logits, &self.tools, scratch)?;
        if let Some(cap) = self.config.logit_softcap {
            softcap(logits, cap);
        }
        Ok(())
    }
}

/// The attention of a block, in the words of its kernel.
fn shape(Attention { query, kv, dim, scale, softcap, window }: Attention) -> AttentionShape {
    AttentionShape { query, kv, dim, scale, softcap, window }
}

/// The outputs of layers that share the input `x`.
fn project<const N: usize>(
    projection: &Projection<N, Arc<Linear>>,
    x: &[f32],
    outs: [&mut [f32]; N],
    wide: &mut Vec<f32>,
    tools: &Tools,
    scratch: &mut packed::Scratch,
) -> Result<()> {
    match projection {
        Projection::Apart(layers) => {
            for (layer, out) in layers.iter().zip(outs) {
                layer.multiply(x, out, tools, scratch)?;
            }
        }
        Projection::Fused(layer, widths) => {
            let all = layer.outputs();
            let wide = sized(wide, x.len() / layer.inputs() * all);
            layer.multiply(x, wide, tools, scratch)?;
            let mut at = 0;
            for (out, &width) in outs.into_iter().zip(widths) {
                let rows = out.chunks_exact_mut(width).zip(wide.chunks_exact(all));
                rows.for_each(|(out, row)| out.copy_from_slice(&row[at..at + width]));
                at += width;
            }
        }
    }
    Ok(())
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
        let mut cache = KvCache::of(Box::new(Paged(store.map_err(failed)?)));
        cache.reserve(tokens.min(self.max_context))?;
        Ok(cache)
    }

    fn hidden(&self, cache: &mut KvCache, tokens: &[u32], want: Want) -> Result<Hidden> {
        let mut hidden = self.hidden_of_many(&mut [(cache, tokens)], want)?;
        Ok(hidden.remove(0))
    }

    fn hidden_of_many(&self, batch: &mut [(&mut KvCache, &[u32])], want: Want) -> Result<Vec<Hidden>> {
        for (cache, tokens) in batch.iter_mut() {
            self.admit(cache, tokens)?;
        }
        let width = self.config.hidden_size;
        let (weights, room) = (&*self.weights(), &mut *self.rooms.enter());
        let mut wanted: Vec<Vec<f32>> = batch.iter().map(|_| Vec::new()).collect();
        let contexts: Vec<usize> = batch.iter().map(|(cache, tokens)| cache.len() + tokens.len()).collect();
        for ((cache, _), &context) in batch.iter_mut().zip(&contexts) {
            self.renew(weights, room, cache, context)?;
        }
        let mut done: Vec<usize> = vec![0; batch.len()];
        let before: Vec<usize> = batch.iter().map(|(cache, _)| cache.len()).collect();
        loop {
            // What runs together: of each sequence in order as many tokens as there is room for.
            let mut left = PREFILL;
            let mut ranges: Vec<Range<usize>> = Vec::new();
            let mut parts = Vec::new();
            for (i, (cache, tokens)) in batch.iter_mut().enumerate() {
                let range = done[i]..tokens.len().min(done[i] + left);
                left -= range.len();
                if !range.is_empty() {
                    parts.push(Part { cache, tokens: &tokens[range.clone()], context: contexts[i] });
                }
                ranges.push(range);
            }
            if parts.is_empty() {
                break;
            }
            if let Err(error) = self.run(weights, room, &mut parts) {
                batch.iter_mut().zip(&before).for_each(|((cache, _), &before)| cache.truncate(before));
                return Err(error);
            }
            let mut row = 0;
            for (i, range) in ranges.into_iter().enumerate() {
                let first = want.first(batch[i].1.len()).clamp(range.start, range.end);
                let rows = row + (first - range.start)..row + range.len();
                if !rows.is_empty() {
                    let Room { x, normed, .. } = room;
                    wanted[i].extend_from_slice(self.normed(weights, &x[rows.start * width..rows.end * width], normed));
                }
                row += range.len();
                done[i] = range.end;
            }
        }
        Ok(wanted.into_iter().map(|data| Hidden::new(data, width)).collect())
    }

    fn logits(&self, hidden: &Hidden, rows: Range<usize>) -> Result<Vec<f32>> {
        let mut logits = vec![0.0; rows.len() * self.config.vocab_size];
        self.project_logits(&self.weights(), hidden.slice(rows)?, &mut logits, &mut self.rooms.enter().packed)?;
        Ok(logits)
    }

    fn next_logits(&self, cache: &mut KvCache, tokens: &[u32], logits: &mut Vec<f32>) -> Result<()> {
        self.admit(cache, tokens)?;
        let (width, context) = (self.config.hidden_size, cache.len() + tokens.len());
        let (weights, room) = (&*self.weights(), &mut *self.rooms.enter());
        self.renew(weights, room, cache, context)?;
        let before = cache.len();
        let mut last = 0;
        for piece in tokens.chunks(PREFILL) {
            last = piece.len() - 1;
            if let Err(error) = self.run(weights, room, &mut [Part { cache, tokens: piece, context }]) {
                cache.truncate(before);
                return Err(error);
            }
        }
        let Room { x, normed, packed, .. } = room;
        let row = self.normed(weights, &x[last * width..(last + 1) * width], normed);
        logits.resize(self.config.vocab_size, 0.0);
        self.project_logits(weights, row, logits, packed).inspect_err(|_| cache.truncate(before))
    }
}
