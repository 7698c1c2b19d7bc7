//! Working memory of attention.

use super::KvError;
use super::attend::State;
use super::lanes::WIDTH;
use super::lines::Lines;
use super::pages::PAGE;

/// Working memory that is passed to every call. It grows to the needs of the largest call and is reused.
#[derive(Default)]
pub struct Scratch {
    /// One per worker.
    pub(super) workers: Vec<Worker>,
    /// Results of parts of the context, before they are combined.
    pub(super) partials: Lines,
}

/// Working memory of one worker.
#[derive(Default)]
pub(super) struct Worker {
    floats: Lines,
    pub(super) seen: Vec<(usize, usize)>,
    totals: Vec<State>,
}

/// Sizes of the working memory of a worker.
#[derive(Clone, Copy)]
pub(super) struct Sizes {
    /// Number of rows: queries times the query heads of a key head.
    pub(super) rows: usize,
    /// Width of a head.
    pub(super) dim: usize,
    /// Width of a head, rounded up to whole groups.
    pub(super) width: usize,
}

/// The working memory of a worker, divided into buffers.
pub(super) struct Buffers<'a> {
    /// Rows x dim.
    pub(super) queries: &'a mut [f32],
    /// Rows x PAGE.
    pub(super) scores: &'a mut [f32],
    /// Rows x width: sums of a segment of the context.
    pub(super) sums: &'a mut [f32],
    /// Rows x width: sums of all segments so far.
    pub(super) total_sums: &'a mut [f32],
    /// Dim x PAGE.
    pub(super) keys: &'a mut [f32],
    /// PAGE x width.
    pub(super) values: &'a mut [f32],
    /// Rows.
    pub(super) max: &'a mut [f32],
    /// Rows.
    pub(super) factors: &'a mut [f32],
    /// Rows x 16.
    pub(super) weights: &'a mut [f32],
    /// Rows.
    pub(super) seen: &'a mut [(usize, usize)],
    /// Rows.
    pub(super) totals: &'a mut [State],
}

impl Sizes {
    /// Returns the number of floats in each buffer, in whole lines.
    fn parts(self) -> [usize; 9] {
        let Self { rows, dim, width } = self;
        let sums = rows * width;
        let parts = [rows * dim, rows * PAGE, sums, sums, dim * PAGE, PAGE * width, rows, rows, rows * WIDTH];
        parts.map(|floats| floats.next_multiple_of(WIDTH))
    }
}

/// Grows `lines` to at least `floats` floats.
fn grow(lines: &mut Lines, floats: usize) -> Result<(), KvError> {
    let bytes = floats.saturating_mul(size_of::<f32>());
    lines.grow(bytes).map_err(|_| KvError::Memory { bytes })
}

impl Worker {
    fn grow(&mut self, sizes: Sizes) -> Result<(), KvError> {
        let floats: usize = sizes.parts().iter().sum();
        grow(&mut self.floats, floats)?;
        if self.seen.len() < sizes.rows {
            self.seen.resize(sizes.rows, (0, 0));
            self.totals.resize(sizes.rows, State::default());
        }
        Ok(())
    }

    pub(super) fn parts(&mut self, sizes: Sizes) -> Buffers<'_> {
        let mut rest = self.floats.floats_mut();
        let mut take = |floats: usize, used: usize| -> &mut [f32] {
            let (part, after) = std::mem::take(&mut rest).split_at_mut(floats);
            rest = after;
            &mut part[..used]
        };
        let Sizes { rows, dim, width } = sizes;
        let [q, s, o, t, k, v, m, f, w] = sizes.parts();
        Buffers {
            queries: take(q, rows * dim),
            scores: take(s, rows * PAGE),
            sums: take(o, rows * width),
            total_sums: take(t, rows * width),
            keys: take(k, dim * PAGE),
            values: take(v, PAGE * width),
            max: take(m, rows),
            factors: take(f, rows),
            weights: take(w, rows * WIDTH),
            seen: &mut self.seen[..rows],
            totals: &mut self.totals[..rows],
        }
    }
}

impl Scratch {
    /// Creates empty working memory.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns the memory in bytes.
    pub fn memory_bytes(&self) -> usize {
        let worker = |w: &Worker| {
            let states = w.seen.capacity() * size_of::<(usize, usize)>() + w.totals.capacity() * size_of::<State>();
            w.floats.bytes().len() + states
        };
        self.partials.bytes().len() + self.workers.iter().map(worker).sum::<usize>()
    }

    /// Grows to the given number of workers and of floats for partial results.
    pub(super) fn grow(&mut self, workers: usize, sizes: Sizes, partials: usize) -> Result<(), KvError> {
        if self.workers.len() < workers {
            self.workers.resize_with(workers, Worker::default);
        }
        self.workers.iter_mut().try_for_each(|w| w.grow(sizes))?;
        grow(&mut self.partials, partials)
    }
}
