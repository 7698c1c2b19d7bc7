//! Attention over paged keys and values.

use std::ops::{Range, RangeInclusive};

use impasto_core::Isa;

use super::kernel::{Kernels, Product};
use super::lanes::WIDTH;
use super::lines::as_bytes;
use super::pages::PAGE;
use super::plane::GROUP;
use super::scratch::{Buffers, Scratch, Sizes, Worker};
use super::softmax::Softmax;
use super::store::{Block, KvStore};
use super::{KvError, KvFormat, hadamard};
use crate::Pool;
use crate::parts::Parts;

/// Rows (queries times the query heads of a key head) per task, unless a single query has more.
const ROWS: usize = 48;
/// Up to this number of rows, pages are read as they are stored; for more, they are converted to floats first.
const DIRECT: usize = 8;
/// Number of tokens in a segment of the context: whole pages. The sums of each segment are computed by themselves and then
/// combined in order, by whichever tasks, so that the result for a query depends only on the tokens that it sees: neither on the
/// queries beside it, nor on the number of threads.
const SEGMENT: usize = 4 * PAGE;
/// Number of tasks to aim at when the context is split.
const TASKS: usize = 32;

/// The shape and parameters of the attention of a transformer block.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Number of query heads; a multiple of `kv`.
    pub query: usize,
    /// Number of key/value heads.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
    /// Factor for the products of queries and keys.
    pub scale: f32,
    /// Soft cap c on the scaled products: c tanh(x / c).
    pub softcap: Option<f32>,
    /// Sliding window: the number of tokens that a query sees, including its own.
    pub window: Option<usize>,
}

impl AttentionShape {
    /// Returns the number of query heads per key head.
    fn group(&self) -> usize {
        self.query / self.kv
    }

    /// Returns the first token that the query at `position` sees.
    fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }

    /// Returns the segments that the query at `position` sees.
    fn segments(&self, position: usize) -> RangeInclusive<usize> {
        self.first(position) / SEGMENT..=position / SEGMENT
    }
}

/// How a call is divided into tasks: key heads x blocks of queries x parts of the context.
#[derive(Clone, Copy)]
struct Plan {
    /// Number of tokens before the first query.
    past: usize,
    /// Number of queries.
    tokens: usize,
    /// Number of queries per block.
    queries: usize,
    blocks: usize,
    /// Number of parts of the context, each of whole segments.
    parts: usize,
    /// The largest number of segments that a block sees.
    segments: usize,
    sizes: Sizes,
}

/// One task of a plan.
#[derive(Clone, Copy)]
struct Task {
    head: usize,
    /// Index of the first query, and number of queries.
    query: usize,
    queries: usize,
    /// Index of the part of the context.
    part: usize,
    /// Index of the slot for the sums of the first segment that its block sees.
    slot: usize,
}

impl Plan {
    fn new(how: &AttentionShape, past: usize, tokens: usize) -> Self {
        let group = how.group();
        let queries = (ROWS / group).clamp(1, tokens);
        let blocks = tokens.div_ceil(queries);
        let segments = how.segments(past + tokens - 1).end() + 1 - how.segments(past).start();
        let parts = segments.min(TASKS / (how.kv * blocks)).max(1);
        let sizes = Sizes { rows: queries * group, dim: how.dim, width: how.dim.next_multiple_of(GROUP) };
        Self { past, tokens, queries, blocks, parts, segments, sizes }
    }

    fn tasks(&self, how: &AttentionShape) -> usize {
        how.kv * self.blocks * self.parts
    }

    /// Returns task `i`. Later queries come first, because they see more tokens.
    fn task(&self, how: &AttentionShape, i: usize) -> Task {
        let (part, rest) = (i % self.parts, i / self.parts);
        let (head, block) = (rest % how.kv, self.blocks - 1 - rest / how.kv);
        let query = block * self.queries;
        let slot = (block * how.kv + head) * self.segments;
        Task { head, query, queries: self.queries.min(self.tokens - query), part, slot }
    }

    /// Returns the segments that the queries of a task see.
    fn seen(&self, how: &AttentionShape, task: &Task) -> Range<usize> {
        let position = self.past + task.query;
        *how.segments(position).start()..how.segments(position + task.queries - 1).end() + 1
    }

    /// Returns the segments of a task.
    fn segments(&self, how: &AttentionShape, task: &Task) -> Range<usize> {
        let seen = self.seen(how, task);
        let share = |part: usize| seen.start + seen.len() * part / self.parts;
        share(task.part)..share(task.part + 1)
    }

    /// Returns the number of floats in the slot of a segment: for each row its sums, its maximum and its weight.
    fn slot(&self) -> usize {
        self.sizes.rows * (self.sizes.width + 2)
    }
}

/// Computes the attention of the last T tokens of a sequence over the whole sequence: causal, with grouped query heads,
/// and with an online softmax, so that no full row of scores exists (Dao et al., "FlashAttention", arXiv 2205.14135).
///
/// `q` and `out` are T x (query heads * dim). The T tokens must have been appended to the block, but not advanced over.
/// The result for a token depends only on it and the tokens before it: neither on the other tokens of the call, nor on the number of
/// threads, nor on the instruction set. Compared with the
/// definition in binary64, on the keys and values as they are stored, the error of an element is at most 1e-5 of the
/// largest value (test `equals_the_definition`; scores up to a few tens).
///
/// # Errors
/// [`KvError::Memory`] if `scratch` must grow and cannot.
///
/// # Panics
/// If sizes do not match, or the block does not have `store.len() + T` tokens.
#[expect(clippy::too_many_arguments, reason = "called once per block and token, with arguments that form no unit")]
pub fn attend(
    isa: Isa,
    store: &KvStore,
    block: usize,
    q: &[f32],
    how: &AttentionShape,
    out: &mut [f32],
    scratch: &mut Scratch,
    pool: &Pool,
) -> Result<(), KvError> {
    let width = how.query * how.dim;
    assert!(how.kv == store.kv_heads() && how.dim == store.head_dim(), "attention of the store's shape");
    assert!(how.query > 0 && how.query.is_multiple_of(how.kv), "query heads in whole groups");
    assert!(how.window != Some(0), "a query sees itself");
    assert!(q.len() == out.len() && q.len().is_multiple_of(width), "queries of whole tokens");
    let (past, tokens) = (store.len(), q.len() / width);
    let block = store.block(block);
    assert_eq!(block.filled, past + tokens, "the tokens were appended to the block");
    if tokens == 0 {
        return Ok(());
    }
    let plan = Plan::new(how, past, tokens);
    let (tasks, slot) = (plan.tasks(how), plan.slot());
    let job = Job { kernels: Kernels::of(isa), block, q, how, plan };
    let slots = if plan.parts > 1 { how.kv * plan.blocks * plan.segments } else { 0 };
    scratch.grow(pool.threads(), plan.sizes, slots.saturating_mul(slot))?;
    let Scratch { workers, partials } = scratch;
    let (workers, partials, out) = (Parts::new(workers), Parts::new(partials.floats_mut()), Parts::new(out));
    pool.run(tasks, &|worker, i| {
        let task = plan.task(how, i);
        // SAFETY: tasks of one worker never overlap.
        let worker: &mut Worker = unsafe { &mut workers.part(worker..worker + 1)[0] };
        let mut buffers = worker.parts(plan.sizes);
        job.scale(&task, buffers.queries);
        let first = plan.seen(how, &task).start;
        for segment in plan.segments(how, &task) {
            job.run(&task, segment, &mut buffers);
            if plan.parts > 1 {
                let at = (task.slot + segment - first) * slot;
                // SAFETY: every segment of a block and a head has its own slot, and belongs to one task.
                job.keep(&task, &buffers, unsafe { partials.part(at..at + slot) });
            } else {
                job.add(&task, segment, &mut buffers);
            }
        }
        if plan.parts == 1 {
            job.each_row(&task, |row, at| {
                let (sums, total) = (&buffers.total_sums[row * plan.sizes.width..][..how.dim], buffers.totals[row]);
                // SAFETY: every head of every token belongs to one task.
                let out = unsafe { out.part(at..at + how.dim) };
                out.copy_from_slice(sums);
                job.finish(total, out);
            });
        }
    });
    if plan.parts > 1 {
        pool.run(tasks / plan.parts, &|_, i| {
            let task = plan.task(how, i * plan.parts);
            // SAFETY: every task here has its own range of slots (those of its head and block), and the tasks that
            // wrote to them have ended.
            let partials = unsafe { partials.part(task.slot * slot..(task.slot + plan.segments) * slot) };
            job.each_row(&task, |row, at| {
                // SAFETY: every head of every token belongs to one task.
                job.join(&task, partials, row, unsafe { out.part(at..at + how.dim) });
            });
        });
    }
    Ok(())
}

/// Data shared by the tasks.
struct Job<'a> {
    kernels: Kernels,
    block: &'a Block,
    q: &'a [f32],
    how: &'a AttentionShape,
    plan: Plan,
}

impl Job<'_> {
    /// Calls `each` with each row of the task, and the offset of its token's head in `q` and `out`.
    fn each_row(&self, task: &Task, mut each: impl FnMut(usize, usize)) {
        let (how, group) = (self.how, self.how.group());
        for row in 0..task.queries * group {
            let (token, head) = (task.query + row / group, task.head * group + row % group);
            each(row, (token * how.query + head) * how.dim);
        }
    }

    /// Returns the position of the token of a row.
    fn position(&self, task: &Task, row: usize) -> usize {
        self.plan.past + task.query + row / self.how.group()
    }

    /// Prepares the queries of a task.
    fn scale(&self, task: &Task, queries: &mut [f32]) {
        let (how, dim) = (self.how, self.how.dim);
        self.each_row(task, |row, at| {
            let query = &mut queries[row * dim..][..dim];
            query.iter_mut().zip(&self.q[at..]).for_each(|(to, q)| *to = q * how.scale);
            if self.block.keys.plane.format == KvFormat::Int4 {
                hadamard::rotate(query);
            }
        });
    }

    /// Computes the sums, maxima and weights of the task's rows over a segment.
    fn run(&self, task: &Task, segment: usize, w: &mut Buffers) {
        let (how, plan, kernels) = (self.how, &self.plan, self.kernels);
        let (keys, values) = (&self.block.keys, &self.block.values);
        let rows = task.queries * how.group();
        let (dim, width) = (plan.sizes.dim, plan.sizes.width);
        w.sums.fill(0.0);
        w.weights.fill(0.0);
        w.max.fill(f32::NEG_INFINITY);
        let tokens = how.first(plan.past + task.query)..plan.past + task.query + task.queries;
        let first = tokens.start.max(segment * SEGMENT) / PAGE;
        let last = tokens.end.min((segment + 1) * SEGMENT).div_ceil(PAGE);
        for page in first..last {
            let base = page * PAGE;
            for (row, seen) in w.seen[..rows].iter_mut().enumerate() {
                let position = self.position(task, row);
                let within = |token: usize| token.saturating_sub(base).min(PAGE);
                *seen = (within(how.first(position)), within(position + 1));
            }
            let (key_numbers, key_scales) = keys.plane.head(keys.page(page), task.head);
            let (value_numbers, value_scales) = values.plane.head(values.page(page), task.head);
            let direct = rows <= DIRECT;
            let more = direct && page + 1 < last;
            let next = if more { keys.plane.head(keys.page(page + 1), task.head).0 } else { &[] };
            let (format, b, b_stride) = if direct {
                (keys.plane.format, key_numbers, keys.plane.row_bytes())
            } else {
                kernels.widen(keys.plane.format, key_numbers, w.keys);
                (KvFormat::F32, as_bytes(w.keys), PAGE * size_of::<f32>())
            };
            let scores = Product {
                a: w.queries,
                a_stride: dim,
                rows,
                depth: dim,
                b,
                b_stride,
                columns: PAGE,
                factors: None,
                ahead: if direct { value_numbers } else { &[] },
            };
            kernels.product(format, &scores, w.scores);
            kernels.softmax(&mut Softmax {
                scores: w.scores,
                seen: &w.seen[..rows],
                key_scales,
                value_scales,
                cap: how.softcap,
                max: w.max,
                sums: w.weights,
                factors: w.factors,
            });
            // Tokens that no row sees are excluded, because the page may hold stale data for them.
            let from = w.seen[..rows].iter().filter(|s| s.0 < s.1).map(|s| s.0).min().unwrap_or(0);
            let to = w.seen[..rows].iter().map(|s| s.1).max().unwrap_or(0).max(from);
            let (format, b, b_stride) = if direct {
                (values.plane.format, value_numbers, values.plane.row_bytes())
            } else {
                kernels.widen(values.plane.format, value_numbers, w.values);
                (KvFormat::F32, as_bytes(w.values), width * size_of::<f32>())
            };
            let sums = Product {
                a: &w.scores[from..],
                a_stride: PAGE,
                rows,
                depth: to - from,
                b: &b[from * b_stride..],
                b_stride,
                columns: width,
                factors: Some(w.factors),
                ahead: next,
            };
            kernels.product(format, &sums, w.sums);
        }
    }

    /// Returns the sum of a row's weights.
    fn weight(&self, w: &Buffers, row: usize) -> f32 {
        let mut parts = [0.0; WIDTH];
        parts.copy_from_slice(&w.weights[row * WIDTH..][..WIDTH]);
        let mut len = WIDTH / 2;
        while len > 0 {
            for i in 0..len {
                parts[i] += parts[i + len];
            }
            len /= 2;
        }
        parts[0]
    }

    /// Adds the sums of a segment to the totals of the rows that see it.
    fn add(&self, task: &Task, segment: usize, w: &mut Buffers) {
        let width = self.plan.sizes.width;
        for row in 0..task.queries * self.how.group() {
            let seen = self.how.segments(self.position(task, row));
            if seen.contains(&segment) {
                let of_row = row * width..(row + 1) * width;
                let part = State { max: w.max[row], weight: self.weight(w, row) };
                let is_first = segment == *seen.start();
                w.totals[row].add(is_first, part, &w.sums[of_row.clone()], &mut w.total_sums[of_row]);
            }
        }
    }

    /// Divides the sums of a row by their weight.
    fn finish(&self, total: State, sums: &mut [f32]) {
        let scale = 1.0 / total.weight;
        sums.iter_mut().for_each(|x| *x *= scale);
        if self.block.values.plane.format == KvFormat::Int4 {
            hadamard::rotate(sums);
        }
    }

    /// Saves the sums of a segment for [`Self::join`].
    fn keep(&self, task: &Task, w: &Buffers, slot: &mut [f32]) {
        let Sizes { rows, width, .. } = self.plan.sizes;
        let (sums, rest) = slot.split_at_mut(rows * width);
        let (max, weights) = rest.split_at_mut(rows);
        sums.copy_from_slice(w.sums);
        max.copy_from_slice(w.max);
        for (row, weight) in weights.iter_mut().enumerate().take(task.queries * self.how.group()) {
            *weight = self.weight(w, row);
        }
    }

    /// Combines the sums of the segments that a row sees.
    fn join(&self, task: &Task, partials: &[f32], row: usize, out: &mut [f32]) {
        let Sizes { rows, width, .. } = self.plan.sizes;
        let seen = self.how.segments(self.position(task, row));
        let segments = self.plan.seen(self.how, task).zip(partials.chunks_exact(self.plan.slot()));
        let mut total = State::default();
        for (segment, slot) in segments.filter(|(segment, _)| seen.contains(segment)) {
            let (sums, rest) = slot.split_at(rows * width);
            let part = State { max: rest[row], weight: rest[rows + row] };
            total.add(segment == *seen.start(), part, &sums[row * width..], out);
        }
        self.finish(total, out);
    }
}

/// What the sums of a row are relative to: sum over tokens of exp(score - max) times the value.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct State {
    /// The largest score.
    max: f32,
    /// Sum over tokens of exp(score - max).
    weight: f32,
}

impl State {
    /// Adds the sums of another segment to those so far, or begins with them. What is no number stays none.
    fn add(&mut self, is_first: bool, part: State, sums: &[f32], total: &mut [f32]) {
        if is_first {
            *self = part;
            let count = total.len();
            return total.copy_from_slice(&sums[..count]);
        }
        let max = self.max.max(part.max);
        let [before, here] = [self.max, part.max].map(|of| (of - max).exp());
        *self = State { max, weight: before * self.weight + here * part.weight };
        total.iter_mut().zip(sums).for_each(|(total, sum)| *total = before * *total + here * sum);
    }
}
