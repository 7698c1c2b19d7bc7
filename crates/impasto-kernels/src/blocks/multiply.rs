//! Products: activations are prepared, then strips are distributed over the threads.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::activations::{Panel, PanelMut, quantize};
use super::kernel::{Many, Single, Unpack};
use super::kinds::{self, bias};
use super::lanes::{self, Lanes, OnLanes};
use super::{BlockMatrix, TOGETHER, strip};
use crate::dense;
use crate::packed::cell::{GROUP, Line, QUAD, STRIP, VECTORS};
use crate::packed::{Activations, Kernel, SHARE};
use crate::parts::Parts;
use crate::workers::Buffers;
use crate::{Pool, Workers};

/// The largest number of shares per thread. Shares even out differences in the speed of threads; taking one has a cost.
const SHARES: usize = 8;

/// Working memory of products. It grows to the needs of the largest product and is reused.
#[derive(Debug, Default)]
pub struct Scratch {
    quads: Vec<[i8; QUAD]>,
    starts: Vec<i32>,
    sums: Vec<f32>,
    scales: Vec<f32>,
    workers: Vec<Mutex<Worker>>,
}

/// Working memory of one worker.
#[derive(Debug, Default)]
struct Worker {
    factors: Vec<Line>,
    scales: Vec<Line>,
    results: Vec<Line>,
}

/// Tokens divided into panels of equal width; the last panels may have padding.
#[derive(Clone, Copy)]
struct Panels {
    tokens: usize,
    width: usize,
}

impl Panels {
    /// Divides tokens into panels of one token, or of an even number up to `most`.
    fn new(tokens: usize, most: usize) -> Panels {
        let width = if tokens == 1 { 1 } else { tokens.div_ceil(tokens.div_ceil(most)).next_multiple_of(2) };
        Panels { tokens, width }
    }

    fn count(self) -> usize {
        self.tokens.div_ceil(self.width)
    }

    /// Returns the tokens of a panel.
    fn get(self, index: usize) -> Range<usize> {
        index * self.width..self.tokens.min((index + 1) * self.width)
    }

    /// Returns the part of a panel in a buffer with `size` elements per token.
    fn part(self, index: usize, size: usize) -> Range<usize> {
        index * self.width * size..(index + 1) * self.width * size
    }
}

fn grow<T: Clone + Default>(buffer: &mut Vec<T>, len: usize) {
    if buffer.len() < len {
        buffer.resize(len, T::default());
    }
}

/// Locks a worker's memory. Nobody else uses it while the worker runs a task, so this does not wait.
fn lock(workers: &[Mutex<Worker>], worker: usize) -> MutexGuard<'_, Worker> {
    workers[worker].lock().unwrap_or_else(PoisonError::into_inner)
}

/// Returns [`Lanes::STRIPS`].
struct StripsTogether;

impl OnLanes for StripsTogether {
    type Output = usize;

    #[inline(always)]
    fn run<L: Lanes>(self, _: L) -> usize {
        const { assert!(TOGETHER.is_multiple_of(L::STRIPS)) };
        L::STRIPS
    }
}

impl BlockMatrix {
    /// Computes `out[t][r] = sum over c of W[r][c] x[t][c]` for each row `x[t]` of `x`.
    ///
    /// `x` is tokens x inputs. The rows of `out` begin `stride` elements apart; the first `outputs()` elements of each
    /// are written. With [`Activations::Int8`], the order of additions is fixed, so the result does not depend on the
    /// kernel, the number of threads or the number of tokens; if an activation is infinite or NaN, the outputs of its
    /// token are NaN. With [`Activations::F32`], the weights are multiplied as floats.
    ///
    /// # Panics
    /// If `x` or `out` has the wrong size, or `stride` is less than `outputs()`.
    #[allow(clippy::too_many_arguments, reason = "the inputs, the output and the working memory of a product")]
    pub fn multiply(
        &self,
        kernel: Kernel,
        activations: Activations,
        x: &[f32],
        out: &mut [f32],
        stride: usize,
        scratch: &mut Scratch,
        workers: &Workers,
        pool: &Pool,
    ) {
        let tokens = x.len().checked_div(self.inputs()).unwrap_or(0);
        assert_eq!(x.len(), tokens * self.inputs(), "activations: tokens x inputs");
        if tokens == 0 || self.outputs == 0 {
            return;
        }
        let needed = (tokens - 1).checked_mul(stride).and_then(|n| n.checked_add(self.outputs));
        assert!(stride >= self.outputs && needed.is_some_and(|n| n <= out.len()), "room for tokens x outputs");
        let out = Parts::new(out);
        match activations {
            Activations::F32 => self.multiply_floats(x, &out, stride, workers, pool),
            Activations::Int8 => self.multiply_int8(kernel, x, tokens, &out, stride, scratch, pool),
        }
    }

    fn multiply_floats(&self, x: &[f32], out: &Parts<f32>, stride: usize, workers: &Workers, pool: &Pool) {
        pool.run(self.count(), &|worker, index| {
            workers.with(worker, |Buffers { weights, outputs, .. }| {
                let rows = index * STRIP..self.outputs.min((index + 1) * STRIP);
                grow(weights, rows.len() * self.inputs());
                let weights = &mut weights[..rows.len() * self.inputs()];
                strip::weights(&self.shape, self.strip(index), 0..rows.len(), weights);
                // SAFETY: strips are disjoint rows.
                unsafe {
                    dense::multiply_rows(weights, rows, x, self.inputs(), out, stride, outputs, workers.isa());
                }
            });
        });
    }

    #[allow(clippy::too_many_arguments, reason = "as above")]
    fn multiply_int8(
        &self,
        kernel: Kernel,
        x: &[f32],
        tokens: usize,
        out: &Parts<f32>,
        stride: usize,
        scratch: &mut Scratch,
        pool: &Pool,
    ) {
        let panels = Panels::new(tokens, lanes::panel(kernel));
        let strips = lanes::run(kernel, StripsTogether);
        self.quantize(kernel, x, panels, scratch, pool);
        while scratch.workers.len() < pool.threads() {
            scratch.workers.push(Mutex::default());
        }
        let scratch = &*scratch;
        let bytes = self.count() * size_of_val(self.strip(0));
        let shares = if pool.threads() == 1 { 1 } else { (bytes / SHARE).clamp(1, SHARES * pool.threads()) };
        pool.run(shares, &|worker, share| {
            // Shares begin where strips are multiplied together.
            let cut = |share: usize| (self.count() * share / shares).next_multiple_of(strips).min(self.count());
            let range = cut(share)..cut(share + 1);
            if tokens == 1 {
                self.multiply_one(kernel, range, scratch, out);
            } else {
                let worker = &mut *lock(&scratch.workers, worker);
                for first in range.clone().step_by(strips) {
                    let together = first..range.end.min(first + strips);
                    self.multiply_many(kernel, strips, together, panels, scratch, worker, out, stride);
                }
            }
        });
    }

    /// Quantizes the activations of all tokens.
    fn quantize(&self, kernel: Kernel, x: &[f32], panels: Panels, scratch: &mut Scratch, pool: &Pool) {
        let (cells, groups) = (self.shape.cells(), self.shape.groups());
        let all = panels.count() * panels.width;
        grow(&mut scratch.quads, all * cells * VECTORS);
        grow(&mut scratch.starts, all * groups);
        grow(&mut scratch.sums, all * groups);
        grow(&mut scratch.scales, all * cells);
        let Scratch { quads, starts, sums, scales, .. } = scratch;
        let (quads, starts) = (Parts::new(quads), Parts::new(starts));
        let (sums, scales) = (Parts::new(sums), Parts::new(scales));
        pool.run(panels.count(), &|_, index| {
            // SAFETY: the parts of different panels do not overlap.
            let mut panel = unsafe {
                PanelMut {
                    tokens: panels.width,
                    group: self.shape.form.group,
                    bias: bias(&self.shape.form),
                    quads: quads.part(panels.part(index, cells * VECTORS)),
                    starts: starts.part(panels.part(index, groups)),
                    sums: sums.part(panels.part(index, groups)),
                    scales: scales.part(panels.part(index, cells)),
                }
            };
            let tokens = panels.get(index);
            let padding = tokens.len()..panels.width;
            for (place, token) in tokens.enumerate() {
                quantize(kernel.isa(), &mut panel, place, &x[token * self.inputs()..][..self.inputs()]);
            }
            padding.for_each(|place| panel.clear(place));
        });
    }

    fn panel<'a>(&self, scratch: &'a Scratch, panels: Panels, index: usize) -> Panel<'a> {
        let (cells, groups) = (self.shape.cells(), self.shape.groups());
        Panel {
            quads: &scratch.quads[panels.part(index, cells * VECTORS)],
            starts: &scratch.starts[panels.part(index, groups)],
            sums: &scratch.sums[panels.part(index, groups)],
            scales: &scratch.scales[panels.part(index, cells)],
        }
    }

    /// Multiplies strips by one token.
    fn multiply_one(&self, kernel: Kernel, range: Range<usize>, scratch: &Scratch, out: &Parts<f32>) {
        let panel = self.panel(scratch, Panels::new(1, 1), 0);
        let mut first = range.start;
        while first < range.end {
            // As many as are stored together, because calls have a cost.
            let end = range.end.min((first / TOGETHER + 1) * TOGETHER);
            let lines = &self.strips[first / TOGETHER][first % TOGETHER * self.shape.lines()..];
            let lines = &lines[..(end - first) * self.shape.lines()];
            // SAFETY: strips are disjoint rows, and each is multiplied by one worker.
            let out = unsafe { out.part(first * STRIP..self.outputs.min(end * STRIP)) };
            kinds::run(kernel, self.shape.dtype, Single { isa: kernel.isa(), shape: &self.shape, lines, panel, out });
            first = end;
        }
    }

    /// Multiplies up to `strips` strips by all tokens.
    #[allow(clippy::too_many_arguments, reason = "as above")]
    fn multiply_many(
        &self,
        kernel: Kernel,
        strips: usize,
        together: Range<usize>,
        panels: Panels,
        scratch: &Scratch,
        worker: &mut Worker,
        out: &Parts<f32>,
        stride: usize,
    ) {
        let Worker { factors, scales, results } = worker;
        let (dtype, shape, tokens) = (self.shape.dtype, &self.shape, panels.width);
        let lines = shape.inputs / GROUP * VECTORS * strips;
        let of_scales = shape.groups() * strips * if shape.form.has_minimums() { 2 } else { 1 };
        grow(factors, lines);
        grow(scales, of_scales);
        grow(results, strips * tokens);
        let (factors, scales) = (&mut factors[..lines], &mut scales[..of_scales]);
        // If the last strips are fewer, the others still hold earlier values, whose products are not used.
        for (index, strip) in together.clone().enumerate() {
            let strip = self.strip(strip);
            let isa = kernel.isa();
            kinds::run(kernel, dtype, Unpack { isa, shape, strip, index, strips, factors, scales });
        }
        for index in 0..panels.count() {
            let (panel, results) = (self.panel(scratch, panels, index), &mut results[..strips * tokens]);
            kinds::run(kernel, dtype, Many { tokens, factors, scales, panel, out: results });
            for (strip, results) in together.clone().zip(results.chunks_exact(tokens)) {
                let rows = strip * STRIP..self.outputs.min((strip + 1) * STRIP);
                for (token, result) in panels.get(index).zip(results) {
                    let result: &[f32; STRIP] = bytemuck::cast_ref(result);
                    let at = token * stride + rows.start;
                    // SAFETY: strips are disjoint rows, and each is multiplied by one worker.
                    let out = unsafe { out.part(at..at + rows.len()) };
                    out.copy_from_slice(&result[..rows.len()]);
                }
            }
        }
    }
}
