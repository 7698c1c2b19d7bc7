//! Products: activations are prepared, then strips are distributed over the threads.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::activations::{FloatPanel, PANEL, Panel, PanelMut};
use super::cell::{BLOCK_GROUPS, GROUP, Line, QUAD, STRIP};
use super::fixes::Fixes;
use super::kernel::STRIPS;
use super::row_group::{RowGroup, Strip};
use super::{Activations, ColumnOrder, Kernel, PackedMatrix, Pool, SHARE};
use crate::parts::Parts;

/// The largest number of shares per thread. Shares even out differences in the speed of threads. But taking one is an
/// atomic operation, which waits for outstanding loads, so there are only a few.
const SHARES: usize = 8;

/// Working memory of products. It grows to the needs of the largest product and is reused.
#[derive(Debug, Default)]
pub struct Scratch {
    quads: Vec<[i8; QUAD]>,
    sums: Vec<i32>,
    scales: Vec<f32>,
    /// Activations in binary32.
    values: Vec<f32>,
    workers: Vec<Mutex<Worker>>,
}

/// Working memory of one worker.
#[derive(Debug, Default)]
pub(super) struct Worker {
    /// The activations of one token, in the sorted order of columns.
    row: Vec<f32>,
    fixes: [Fixes; STRIPS],
    /// Strips with one byte per integer.
    unpacked: Vec<Line>,
    /// Strips of nested matrices, with one byte per integer.
    pub opened: [Vec<Line>; STRIPS],
    results: [[f32; STRIP]; STRIPS * PANEL],
}

/// Number of elements per token in each buffer.
#[derive(Clone, Copy)]
struct Sizes {
    places: usize,
    groups: usize,
    blocks: usize,
}

impl Sizes {
    fn quads(self) -> usize {
        self.places / QUAD
    }

    /// Number of lines of an unpacked strip.
    fn lines(self) -> usize {
        self.quads()
    }
}

/// Tokens divided into panels of nearly equal size.
#[derive(Clone, Copy)]
struct Panels {
    tokens: usize,
    count: usize,
}

impl Panels {
    fn new(tokens: usize, most: usize) -> Self {
        Panels { tokens, count: tokens.div_ceil(most) }
    }

    fn get(self, index: usize) -> Range<usize> {
        let first = |index: usize| self.tokens * index / self.count;
        first(index)..first(index + 1)
    }
}

impl Scratch {
    /// Creates empty working memory.
    pub fn new() -> Self {
        Scratch::default()
    }

    fn grow(&mut self, sizes: Sizes, tokens: usize, activations: Activations, unpacks: bool, threads: usize) {
        fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
            if buffer.len() < len {
                buffer.resize(len, T::default());
            }
        }
        match activations {
            Activations::Int8 => {
                grow(&mut self.quads, sizes.quads() * tokens);
                grow(&mut self.sums, sizes.groups * tokens);
                grow(&mut self.scales, sizes.blocks * tokens);
            }
            Activations::F32 => grow(&mut self.values, sizes.places * tokens),
        }
        while self.workers.len() < threads {
            self.workers.push(Mutex::default());
        }
        for worker in &mut self.workers {
            let worker = worker.get_mut().unwrap_or_else(PoisonError::into_inner);
            grow(&mut worker.row, sizes.places);
            worker.fixes.iter_mut().for_each(|fixes| fixes.grow(sizes.blocks * tokens.min(PANEL)));
            if unpacks {
                grow(&mut worker.unpacked, STRIPS * sizes.lines());
            }
        }
    }
}

/// Locks a worker's memory. Nobody else uses it while the worker runs a task, so this does not wait.
fn lock(workers: &[Mutex<Worker>], worker: usize) -> MutexGuard<'_, Worker> {
    workers[worker].lock().unwrap_or_else(PoisonError::into_inner)
}

impl PackedMatrix {
    /// Computes `out[t][r] = sum over c of W[r][c] x[t][c]` for each of `tokens` tokens.
    ///
    /// `x` is tokens x inputs. The rows of `out` begin `stride` elements apart; the first `outputs()` elements of each
    /// are written. The order of additions is fixed, so the result does not depend on the kernel, the number of threads
    /// or the number of tokens. If an activation is infinite or NaN, or overflows when multiplied by the step of its
    /// column, the outputs of that token are NaN; with [`Activations::F32`], they follow IEEE 754.
    ///
    /// # Panics
    /// If `x` or `out` has the wrong size, or `stride` is less than `outputs()`.
    #[allow(clippy::too_many_arguments, reason = "the inputs, the output and the working memory of a product")]
    pub fn multiply(
        &self,
        kernel: Kernel,
        activations: Activations,
        x: &[f32],
        tokens: usize,
        out: &mut [f32],
        stride: usize,
        scratch: &mut Scratch,
        pool: &Pool,
    ) {
        let (has_offset, most_shares) = (self.has_offset(), self.most_shares());
        let call = Call { kernel, activations, x, tokens, stride, has_offset, most_shares };
        self.multiply_strips(&call, out, scratch, pool, |product, index, strips, worker, each| {
            product.multiply(&self.groups()[index], strips, worker, each);
        });
    }

    /// Prepares the activations, and has `multiply` called for strips of a row group with this number, on all threads. It
    /// must call its last argument as [`Product::multiply`] does.
    pub(super) fn multiply_strips(
        &self,
        call: &Call,
        out: &mut [f32],
        scratch: &mut Scratch,
        pool: &Pool,
        multiply: impl Fn(&Product, usize, Range<usize>, &mut Worker, &mut Each) + Sync,
    ) {
        let &Call { kernel, activations, x, tokens, stride, has_offset, most_shares } = call;
        let columns = self.columns();
        assert_eq!(Some(x.len()), tokens.checked_mul(columns.inputs()), "activations: tokens x inputs");
        if tokens == 0 || self.outputs() == 0 {
            return;
        }
        let needed = (tokens - 1).checked_mul(stride).and_then(|n| n.checked_add(self.outputs()));
        assert!(stride >= self.outputs() && needed.is_some_and(|n| n <= out.len()), "room for tokens x outputs");
        let sizes = Sizes { places: columns.padded(), groups: columns.groups(), blocks: columns.blocks() };
        let unpacks = activations == Activations::Int8 && !has_offset && kernel.unpacks(tokens);
        let panels = Panels::new(tokens, kernel.panel(unpacks));
        scratch.grow(sizes, tokens, activations, unpacks, pool.threads());
        match activations {
            Activations::Int8 => quantize(kernel, columns, x, panels, sizes, scratch, pool),
            Activations::F32 => arrange(kernel, columns, x, panels, sizes, scratch, pool),
        }
        let scratch = &*scratch;
        let product = Product { kernel, activations, unpacks, panels, sizes, scratch };
        let out = Parts::new(out);
        let shares = if pool.threads() == 1 { 1 } else { most_shares.min(SHARES * pool.threads()) };
        pool.run(shares, &|worker, share| {
            let worker = &mut *lock(&scratch.workers, worker);
            for (index, strips) in self.share(share, shares) {
                let height = self.groups()[index].rows();
                let mut write = |strip: Strip, tokens: Range<usize>, sums: &[[f32; STRIP]]| {
                    for (token, sums) in tokens.zip(sums) {
                        let start = token * stride + self.start_of(index);
                        let out = out.pointer(start..start + height);
                        for ((row, step), sum) in strip.outputs().zip(sums) {
                            // SAFETY: rows are below the number of rows of the row group (`Strip::is_sound`), and each is
                            // written only by the share that has its strip.
                            unsafe { out.add(row).write(sum * step) };
                        }
                    }
                };
                multiply(&product, index, strips, worker, &mut write);
            }
        });
    }
}

/// What takes the sums of a strip for some tokens, before the multiplication by row steps.
pub(super) type Each<'a> = dyn FnMut(Strip, Range<usize>, &[[f32; STRIP]]) + 'a;

/// What a product is called with.
pub(super) struct Call<'a> {
    pub kernel: Kernel,
    pub activations: Activations,
    /// Tokens x inputs.
    pub x: &'a [f32],
    pub tokens: usize,
    /// Distance of the rows of the output.
    pub stride: usize,
    /// Whether some row group has an offset.
    pub has_offset: bool,
    /// The largest number of shares.
    pub most_shares: usize,
}

/// A product whose activations are prepared.
pub(super) struct Product<'a> {
    pub kernel: Kernel,
    activations: Activations,
    /// [`Kernel::unpacks`].
    unpacks: bool,
    panels: Panels,
    sizes: Sizes,
    scratch: &'a Scratch,
}

impl Product<'_> {
    /// Multiplies strips of a row group by all tokens. Calls `each` with a strip, a range of tokens, and the strip's
    /// sums for each of these tokens, before the multiplication by row steps.
    fn multiply(
        &self,
        group: &RowGroup,
        strips: Range<usize>,
        worker: &mut Worker,
        mut each: impl FnMut(Strip, Range<usize>, &[[f32; STRIP]]),
    ) {
        let panels = || (0..self.panels.count).map(|index| self.panels.get(index));
        match self.activations {
            Activations::Int8 if self.unpacks => self.multiply_unpacked(group, strips, worker, each),
            Activations::Int8 => {
                // Few enough strips that the next panel finds them in the cache. With one panel all strips, because
                // calls have a cost.
                let run =
                    if self.panels.count > 1 { SHARE * group.strips() / group.bytes().max(1) } else { strips.len() };
                for first in strips.clone().step_by(run.max(1)) {
                    let strips = first..strips.end.min(first + run.max(1));
                    for tokens in panels() {
                        let each = |strip: Strip, sums: &[_]| each(strip, tokens.clone(), sums);
                        self.kernel.int8(group, strips.clone(), self.integers(&tokens), &mut worker.fixes[0], each);
                    }
                }
            }
            Activations::F32 => {
                for (place, tokens) in strips.flat_map(|place| panels().map(move |tokens| (place, tokens))) {
                    let sums = &mut worker.results[..tokens.len()];
                    let strip = group.strip(place);
                    self.kernel.float(strip, self.floats(&tokens), group.offset(), sums);
                    each(strip, tokens, sums);
                }
            }
        }
    }

    /// [`Product::multiply`] for strips that are unpacked, a few at a time, and then multiplied by all tokens.
    fn multiply_unpacked(
        &self,
        group: &RowGroup,
        strips: Range<usize>,
        worker: &mut Worker,
        mut each: impl FnMut(Strip, Range<usize>, &[[f32; STRIP]]),
    ) {
        for first in strips.clone().step_by(STRIPS) {
            let places = first..strips.end.min(first + STRIPS);
            let mut of_places = [group.strip(first); STRIPS];
            of_places.iter_mut().zip(places.clone()).for_each(|(strip, place)| *strip = group.strip(place));
            self.multiply_unpacked_few(&of_places[..places.len()], worker, &mut each);
        }
    }

    /// Unpacks at most [`STRIPS`] strips and multiplies them by all tokens.
    fn multiply_unpacked_few(
        &self,
        strips: &[Strip],
        worker: &mut Worker,
        mut each: impl FnMut(Strip, Range<usize>, &[[f32; STRIP]]),
    ) {
        let Worker { fixes, unpacked, results, .. } = worker;
        let unpacked = &mut unpacked[..strips.len() * self.sizes.lines()];
        for (index, strip) in strips.iter().enumerate() {
            self.kernel.unpack(*strip, index, strips.len(), unpacked);
        }
        for tokens in (0..self.panels.count).map(|index| self.panels.get(index)) {
            self.kernel.unpacked(strips, unpacked, self.integers(&tokens), fixes, results);
            for (strip, sums) in strips.iter().zip(results.chunks_exact(tokens.len())) {
                each(*strip, tokens.clone(), sums);
            }
        }
    }

    /// [`Product::multiply`] for at most [`STRIPS`] strips with an offset.
    pub(super) fn multiply_few(&self, strips: &[Strip], offset: f32, worker: &mut Worker, each: &mut Each) {
        if self.activations == Activations::Int8 && self.unpacks {
            return self.multiply_unpacked_few(strips, worker, each);
        }
        let Worker { fixes: [fixes, ..], results, .. } = worker;
        for (&strip, panel) in strips.iter().flat_map(|strip| (0..self.panels.count).map(move |panel| (strip, panel))) {
            let tokens = self.panels.get(panel);
            let sums = &mut results[..tokens.len()];
            match self.activations {
                Activations::Int8 => self.kernel.int8_strip(strip, offset, self.integers(&tokens), fixes, sums),
                Activations::F32 => self.kernel.float(strip, self.floats(&tokens), offset, sums),
            }
            each(strip, tokens, sums);
        }
    }

    fn integers(&self, tokens: &Range<usize>) -> Panel<'_> {
        let Scratch { quads, sums, scales, .. } = self.scratch;
        Panel {
            tokens: tokens.len(),
            quads: &quads[part(tokens, self.sizes.quads())],
            sums: &sums[part(tokens, self.sizes.groups)],
            scales: &scales[part(tokens, self.sizes.blocks)],
        }
    }

    fn floats(&self, tokens: &Range<usize>) -> FloatPanel<'_> {
        FloatPanel { tokens: tokens.len(), values: &self.scratch.values[part(tokens, self.sizes.places)] }
    }
}

/// Returns the range of `tokens` in a buffer with `size` elements per token.
fn part(tokens: &Range<usize>, size: usize) -> Range<usize> {
    tokens.start * size..tokens.end * size
}

/// Quantizes the activations of all tokens.
fn quantize(
    kernel: Kernel,
    columns: &ColumnOrder,
    x: &[f32],
    panels: Panels,
    sizes: Sizes,
    scratch: &mut Scratch,
    pool: &Pool,
) {
    let Scratch { quads, sums, scales, workers, .. } = scratch;
    let (quads, sums, scales) = (Parts::new(quads), Parts::new(sums), Parts::new(scales));
    pool.run(panels.count, &|worker, panel| {
        let tokens = panels.get(panel);
        let row = &mut lock(workers, worker).row[..sizes.places];
        // SAFETY: panels are disjoint sets of tokens, so their parts do not overlap.
        let mut panel = unsafe {
            PanelMut {
                tokens: tokens.len(),
                quads: quads.part(part(&tokens, sizes.quads())),
                sums: sums.part(part(&tokens, sizes.groups)),
                scales: scales.part(part(&tokens, sizes.blocks)),
            }
        };
        for (index, token) in tokens.enumerate() {
            kernel.permute(columns, &x[token * columns.inputs()..][..columns.inputs()], row);
            kernel.quantize(&mut panel, index, row);
        }
    });
}

/// Arranges the activations of all tokens in binary32.
fn arrange(
    kernel: Kernel,
    columns: &ColumnOrder,
    x: &[f32],
    panels: Panels,
    sizes: Sizes,
    scratch: &mut Scratch,
    pool: &Pool,
) {
    let Scratch { values, workers, .. } = scratch;
    let values = Parts::new(values);
    pool.run(panels.count, &|worker, panel| {
        let tokens = panels.get(panel);
        let row = &mut lock(workers, worker).row[..sizes.places];
        // SAFETY: panels are disjoint sets of tokens, so their parts do not overlap.
        let values = unsafe { values.part(part(&tokens, sizes.places)) };
        for (index, token) in tokens.clone().enumerate() {
            kernel.permute(columns, &x[token * columns.inputs()..][..columns.inputs()], row);
            values.iter_mut().skip(index).step_by(tokens.len()).zip(&*row).for_each(|(to, &from)| *to = from);
        }
    });
}

const _: () = assert!(BLOCK_GROUPS * GROUP == super::ACTIVATION_BLOCK);
