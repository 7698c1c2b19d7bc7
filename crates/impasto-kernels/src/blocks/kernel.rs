//! The kernels: one token times strips, and many tokens times strips that were unpacked to bytes.
//!
//! For each group of columns in order, the sum of products of integers, times the scale of the row, times the scale of
//! the activations, is added in binary32; then, if groups have minimums, the minimum times the sum of the activations.

use impasto_core::Isa;
use impasto_core::blocks::apart::Scales;

use super::activations::Panel;
use super::kinds::{Algorithm, Kind};
use super::lanes::Lanes;
use super::strip::{Runs, Shape, places, shares_bytes};
use super::whole::{self, Open};
use crate::packed::cell::{GROUP, Line, QUAD, STRIP, VECTORS};
use crate::prefetch::prefetch_ahead;

/// The largest number of groups of a cell.
const MOST_SUBS: usize = GROUP / 16;

/// Computes the products of strips, which are one after another in `lines`, with one token. `out` has an element for
/// each row; the last strip may have fewer than 16 rows.
pub(super) struct Single<'a> {
    pub isa: Isa,
    pub shape: &'a Shape,
    pub lines: &'a [Line],
    pub panel: Panel<'a>,
    pub out: &'a mut [f32],
}

impl Algorithm for Single<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes, K: Kind>(self, lanes: L) {
        let Single { isa, shape, lines, panel, out } = self;
        for (strip, out) in lines.chunks_exact(shape.lines()).zip(out.chunks_mut(STRIP)) {
            let mut sums = Line::default();
            lanes.store_floats(&mut sums, single::<L, K>(lanes, isa, shape, strip, panel));
            let sums: [f32; STRIP] = bytemuck::cast(sums);
            out.copy_from_slice(&sums[..out.len()]);
        }
    }
}

/// Multiplies a strip by one token.
#[inline(always)]
fn single<L: Lanes, K: Kind>(lanes: L, isa: Isa, shape: &Shape, strip: &[Line], panel: Panel) -> L::Floats {
    let mut result = lanes.floats(0.0);
    let mut number = 0;
    if K::KEPT {
        let mut opened = Open::default();
        for blocks in whole::blocks(shape, strip) {
            whole::open(isa, shape, blocks, &mut opened);
            for (cell, scales) in opened.cells.iter().zip(opened.scales.chunks_exact(K::SUBS)) {
                let mut u = [lanes.ints(0); VECTORS];
                for v in 0..VECTORS {
                    u[v] = lanes.load(&cell[v]);
                }
                let mut of_groups = [(lanes.floats(0.0), lanes.floats(0.0)); MOST_SUBS];
                for (of_group, scale) in of_groups.iter_mut().zip(scales) {
                    of_group.0 = lanes.load_floats(scale);
                }
                result = cell_product::<L, K>(lanes, panel, number, u, of_groups, result);
                number += 1;
            }
        }
        return result;
    }
    for (scales, cells) in Runs::new(const { &K::FORM }, shape.inputs, strip) {
        for (of_run, cell) in cells.chunks_exact(K::BITS.into()).enumerate() {
            let u = factors::<L, K>(lanes, cell);
            let mut of_groups = [(lanes.floats(0.0), lanes.floats(0.0)); MOST_SUBS];
            for (sub, of_group) in of_groups.iter_mut().enumerate().take(K::SUBS) {
                *of_group = scales_of::<L, K>(lanes, scales, of_run * K::SUBS + sub);
            }
            result = cell_product::<L, K>(lanes, panel, number, u, of_groups, result);
            number += 1;
        }
    }
    result
}

/// Adds the product of cell `number` of a strip, given its factors and the scales and minimums of its groups.
#[inline(always)]
fn cell_product<L: Lanes, K: Kind>(
    lanes: L,
    panel: Panel,
    number: usize,
    u: [L::Ints; VECTORS],
    of_groups: [(L::Floats, L::Floats); MOST_SUBS],
    mut result: L::Floats,
) -> L::Floats {
    let quads = &panel.quads.as_chunks::<VECTORS>().0[number];
    for (sub, (scale, minimum)) in of_groups.into_iter().enumerate().take(K::SUBS) {
        let group = number * K::SUBS + sub;
        // Two chains of additions, which hide the latency of the products.
        let mut sums = [start::<L, K>(lanes, panel.starts[group]), lanes.ints(0)];
        for v in sub * K::VECTORS..(sub + 1) * K::VECTORS {
            sums[v % 2] = dot::<L, K>(lanes, sums[v % 2], u[v], &quads[v]);
        }
        let sum = lanes.to_floats(lanes.add(sums[0], sums[1]));
        result = lanes.fma(lanes.mul(sum, scale), lanes.floats(panel.scales[number]), result);
        if K::MINIMUM {
            result = lanes.fma(minimum, lanes.floats(panel.sums[group]), result);
        }
    }
    result
}

/// Returns the first term of a sum of products.
#[inline(always)]
fn start<L: Lanes, K: Kind>(lanes: L, start: i32) -> L::Ints {
    lanes.ints(if K::WIDE && L::CENTRED { 0 } else { start })
}

#[inline(always)]
fn dot<L: Lanes, K: Kind>(lanes: L, sum: L::Ints, u: L::Ints, q: &[i8; QUAD]) -> L::Ints {
    if K::WIDE { lanes.wide_dot(sum, u, q) } else { lanes.dot(sum, u, q) }
}

/// Returns the factors of the activations in a cell: its integers, or the values of the table plus 128.
#[inline(always)]
fn factors<L: Lanes, K: Kind>(lanes: L, cell: &[Line]) -> [L::Ints; VECTORS] {
    prefetch_ahead(cell.as_ptr(), cell.len());
    let mut u = lanes.unpack(cell, K::BITS);
    if K::FORM.table.is_some() {
        // A loop, because closures that `map` calls would not be compiled for the instructions.
        for u in &mut u {
            *u = lanes.look_up(const { &K::TABLE }, *u);
        }
    }
    u
}

/// Returns the scales and the minimums of a group, given its number within its run.
#[inline(always)]
fn scales_of<L: Lanes, K: Kind>(lanes: L, bytes: &[u8], group: usize) -> (L::Floats, L::Floats) {
    let places = places(&K::FORM, group);
    match K::FORM.scales {
        Scales::Block => (half(lanes, bytes, places.scale), lanes.floats(0.0)),
        Scales::BlockMinimum => (half(lanes, bytes, places.scale), half(lanes, bytes, places.minimum)),
        Scales::Exponent => (lanes.powers(of_rows(bytes, places.scale)), lanes.floats(0.0)),
        Scales::Group => {
            let of_group = lanes.signed(of_rows(bytes, places.of_group));
            (lanes.mul(half(lanes, bytes, places.scale), of_group), lanes.floats(0.0))
        }
        Scales::GroupMinimum => {
            let (scale, minimum) = if shares_bytes(&K::FORM) {
                let both = of_rows(bytes, places.of_group);
                (lanes.nibbles(both, false), lanes.nibbles(both, true))
            } else {
                // They have 6 bits, so they are the same as signed bytes.
                let [scale, minimum] = [places.of_group, places.minimum_of_group];
                (lanes.signed(of_rows(bytes, scale)), lanes.signed(of_rows(bytes, minimum)))
            };
            let (of_block, minimum_of_block) = (half(lanes, bytes, places.scale), half(lanes, bytes, places.minimum));
            (lanes.mul(of_block, scale), lanes.mul(minimum_of_block, minimum))
        }
    }
}

/// Returns the binary16 of all rows at a position.
#[inline(always)]
fn half<L: Lanes>(lanes: L, bytes: &[u8], at: usize) -> L::Floats {
    lanes.halves(bytes[at..].first_chunk().expect("scales of all rows"))
}

/// Returns the bytes of all rows at a position.
#[inline(always)]
fn of_rows(bytes: &[u8], at: usize) -> &[u8; STRIP] {
    bytes[at..].first_chunk().expect("scales of all rows")
}

/// Writes the factors of a strip to lines `index`, `index + strips`, ... of `factors`, one line for each vector, and
/// the scales of its groups, each followed by the minimums if there are any, to those of `scales`.
pub(super) struct Unpack<'a> {
    pub isa: Isa,
    pub shape: &'a Shape,
    pub strip: &'a [Line],
    pub index: usize,
    pub strips: usize,
    pub factors: &'a mut [Line],
    pub scales: &'a mut [Line],
}

impl Algorithm for Unpack<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes, K: Kind>(self, lanes: L) {
        let Unpack { isa, shape, strip, index, strips, factors: to_factors, scales: to_scales } = self;
        let per_group = if K::MINIMUM { 2 } else { 1 };
        let mut to_factors = to_factors.chunks_exact_mut(VECTORS * strips);
        let mut to_scales = to_scales.chunks_exact_mut(per_group * strips);
        if K::KEPT {
            let mut opened = Open::default();
            for blocks in whole::blocks(shape, strip) {
                whole::open(isa, shape, blocks, &mut opened);
                let scales = opened.scales.iter().take(whole::CELLS * K::SUBS);
                scales.zip(&mut to_scales).for_each(|(scales, to)| to[index] = *scales);
                for (cell, to) in opened.cells.iter().zip(&mut to_factors) {
                    cell.iter().enumerate().for_each(|(v, line)| to[v * strips + index] = *line);
                }
            }
            return;
        }
        for (bytes, cells) in Runs::new(const { &K::FORM }, shape.inputs, strip) {
            let cells = cells.chunks_exact(K::BITS.into());
            for (group, to) in to_scales.by_ref().take(cells.len() * K::SUBS).enumerate() {
                let (scale, minimum) = scales_of::<L, K>(lanes, bytes, group);
                lanes.store_floats(&mut to[index], scale);
                if K::MINIMUM {
                    lanes.store_floats(&mut to[strips + index], minimum);
                }
            }
            for (cell, to) in cells.zip(to_factors.by_ref()) {
                let u = factors::<L, K>(lanes, cell);
                for v in 0..VECTORS {
                    lanes.store(&mut to[v * strips + index], u[v]);
                }
            }
        }
    }
}

/// Computes the products of [`Lanes::STRIPS`] strips that [`Unpack`] unpacked with the tokens of a panel: for each
/// strip, a line of sums for each token.
pub(super) struct Many<'a> {
    /// The number of tokens: 2, 4 or 6, at most [`Lanes::PANEL`].
    pub tokens: usize,
    pub factors: &'a [Line],
    pub scales: &'a [Line],
    pub panel: Panel<'a>,
    pub out: &'a mut [Line],
}

impl Algorithm for Many<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes, K: Kind>(self, lanes: L) {
        match (L::STRIPS, self.tokens) {
            (1, 2) => self.multiply::<L, K, 1, 2>(lanes),
            (2, 2) => self.multiply::<L, K, 2, 2>(lanes),
            (2, 4) => self.multiply::<L, K, 2, 4>(lanes),
            (2, 6) => self.multiply::<L, K, 2, 6>(lanes),
            (_, tokens) => unreachable!("a panel of {tokens} tokens"),
        }
    }
}

impl Many<'_> {
    #[inline(always)]
    #[allow(clippy::needless_range_loop, reason = "with plain indices the sums stay in registers")]
    fn multiply<L: Lanes, K: Kind, const S: usize, const T: usize>(self, lanes: L) {
        let factors = self.factors.as_chunks::<S>().0.as_chunks::<VECTORS>().0;
        let quads = self.panel.quads.as_chunks::<T>().0.as_chunks::<VECTORS>().0;
        let of_tokens = self.panel.scales.as_chunks::<T>().0;
        let (starts, token_sums) = (self.panel.starts.as_chunks::<T>().0, self.panel.sums.as_chunks::<T>().0);
        let per_group = if K::MINIMUM { 2 } else { 1 };
        let scales = self.scales.as_chunks::<S>().0;
        let mut results = [[lanes.floats(0.0); T]; S];
        for (number, ((factors, quads), of_tokens)) in factors.iter().zip(quads).zip(of_tokens).enumerate() {
            for sub in 0..K::SUBS {
                let group = number * K::SUBS + sub;
                let mut sums = [[lanes.ints(0); T]; S];
                let starts = &starts[group];
                for t in 0..T {
                    let start = start::<L, K>(lanes, starts[t]);
                    for s in 0..S {
                        sums[s][t] = start;
                    }
                }
                for v in sub * K::VECTORS..(sub + 1) * K::VECTORS {
                    let mut u = [lanes.ints(0); S];
                    for s in 0..S {
                        u[s] = lanes.load(&factors[v][s]);
                    }
                    for t in 0..T {
                        for s in 0..S {
                            sums[s][t] = dot::<L, K>(lanes, sums[s][t], u[s], &quads[v][t]);
                        }
                    }
                }
                let scales = &scales[group * per_group..][..per_group];
                for s in 0..S {
                    let scale = lanes.load_floats(&scales[0][s]);
                    for t in 0..T {
                        let sum = lanes.mul(lanes.to_floats(sums[s][t]), scale);
                        results[s][t] = lanes.fma(sum, lanes.floats(of_tokens[t]), results[s][t]);
                    }
                }
                if K::MINIMUM {
                    let token_sums = &token_sums[group];
                    for s in 0..S {
                        let minimum = lanes.load_floats(&scales[per_group - 1][s]);
                        for t in 0..T {
                            results[s][t] = lanes.fma(minimum, lanes.floats(token_sums[t]), results[s][t]);
                        }
                    }
                }
            }
        }
        for (out, results) in self.out.as_chunks_mut::<T>().0.iter_mut().zip(results) {
            out.iter_mut().zip(results).for_each(|(out, result)| lanes.store_floats(out, result));
        }
    }
}
