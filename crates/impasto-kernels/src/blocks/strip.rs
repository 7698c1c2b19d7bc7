//! The layout of a strip: for every few cells, the scales of their groups, then the cells.
//!
//! So a strip is read from one end to the other. The cells that belong together are a *run*: as many as have scales of
//! whole lines. Scales are stored as in the blocks, those of 16 rows side by side: binary16 for the scale and the
//! minimum of a block, bytes for exponents and those of a group. In order:
//!
//! | scales | for each block |
//! |---|---|
//! | `Block` | scales |
//! | `BlockMinimum` | scales, minimums |
//! | `Exponent` | scales |
//! | `Group` | scales; for each group, its scales |
//! | `GroupMinimum` | scales, negated minimums; for each group, its scales; for each group, its minimums |
//!
//! Scales and minimums of groups of 16 have 4 bits each and share a byte, scales in its low half.
//!
//! A strip of a dtype that [keeps its blocks](keeps_blocks) has other lines: see [`whole`](super::whole).

use std::ops::Range;

use half::f16;
use impasto_core::blocks::apart::{Form, Parts, Scales, power};
use impasto_core::{DType, at_each_isa};

use super::kinds::bias;
use super::whole;
use crate::packed::cell::{self, CELL, GROUP, Line, QUAD, STRIP};

/// Bytes of the binary16 of all rows.
const HALVES: usize = STRIP * size_of::<u16>();
/// Bytes of the bytes of all rows.
const BYTES: usize = STRIP;

/// The layout of the strips of a matrix.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub dtype: DType,
    pub form: Form,
    pub inputs: usize,
}

/// The positions of the scales of a group, in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Places {
    /// The scales of the block.
    pub scale: usize,
    /// The minimums of the block.
    pub minimum: usize,
    /// The scales of the group.
    pub of_group: usize,
    /// The minimums of the group, if they are not in the bytes of the scales.
    pub minimum_of_group: usize,
}

impl Shape {
    pub(super) fn new(dtype: DType, form: Form, inputs: usize) -> Shape {
        Shape { dtype, form, inputs }
    }

    /// Returns whether the strips keep the blocks as they are.
    pub(super) fn keeps_blocks(&self) -> bool {
        keeps_blocks(self.dtype, &self.form)
    }

    /// Returns the number of cells of a strip.
    pub(super) fn cells(&self) -> usize {
        self.inputs / GROUP
    }

    /// Returns the number of groups with scales of their own.
    pub(super) fn groups(&self) -> usize {
        self.inputs / self.form.group
    }

    /// Returns the number of lines of a strip.
    #[inline(always)]
    pub(super) fn lines(&self) -> usize {
        if self.keeps_blocks() {
            return whole::lines(self);
        }
        let (form, run) = (&self.form, run(&self.form));
        let rest = self.cells() % run;
        self.cells() / run * lines(form, run) + lines(form, rest)
    }
}

/// Returns whether blocks take less memory as they are than their integers alone would take in cells.
pub(super) const fn keeps_blocks(dtype: DType, form: &Form) -> bool {
    form.bits as usize * form.block / 8 > dtype.size()
}

/// Returns the number of cells of a run; the last of a strip may have fewer.
const fn run(form: &Form) -> usize {
    match form.scales {
        Scales::Block => 2 * form.block / GROUP,
        Scales::BlockMinimum => 1,
        Scales::Exponent => 4,
        Scales::Group => 16,
        Scales::GroupMinimum => 8,
    }
}

/// Returns the number of lines of a run of `cells` cells.
const fn lines(form: &Form, cells: usize) -> usize {
    cells * form.bits as usize + scale_lines(form, cells)
}

/// Returns the number of lines of the scales of a run of `cells` cells.
const fn scale_lines(form: &Form, cells: usize) -> usize {
    (cells * GROUP / form.block * stride(form)).div_ceil(size_of::<Line>())
}

/// The runs of a strip: the bytes of the scales, and the cells.
pub(super) struct Runs<'a> {
    form: &'a Form,
    cells: usize,
    rest: &'a [Line],
}

impl<'a> Runs<'a> {
    /// `inputs` is the number of columns.
    #[inline(always)]
    pub(super) fn new(form: &'a Form, inputs: usize, strip: &'a [Line]) -> Runs<'a> {
        Runs { form, cells: inputs / GROUP, rest: strip }
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = (&'a [u8], &'a [Line]);

    #[inline(always)]
    fn next(&mut self) -> Option<Self::Item> {
        let cells = run(self.form).min(self.cells);
        if cells == 0 {
            return None;
        }
        let (now, rest) = self.rest.split_at(lines(self.form, cells));
        (self.cells, self.rest) = (self.cells - cells, rest);
        let (scales, cells) = now.split_at(scale_lines(self.form, cells));
        Some((bytemuck::cast_slice(scales), cells))
    }
}

/// Returns the bytes of the scales of a block.
const fn stride(form: &Form) -> usize {
    let groups = form.block / form.group;
    match form.scales {
        Scales::Block => HALVES,
        Scales::BlockMinimum => 2 * HALVES,
        Scales::Exponent => BYTES,
        Scales::Group => HALVES + groups * BYTES,
        Scales::GroupMinimum if shares_bytes(form) => 2 * HALVES + groups * BYTES,
        Scales::GroupMinimum => 2 * HALVES + 2 * groups * BYTES,
    }
}

/// Returns whether the scale and the minimum of a group share a byte.
pub(super) const fn shares_bytes(form: &Form) -> bool {
    matches!(form.scales, Scales::GroupMinimum) && form.group == 16
}

/// Returns the positions of the scales of a group, given its number within its run.
#[inline(always)]
pub(super) const fn places(form: &Form, group: usize) -> Places {
    let groups = form.block / form.group;
    let (at, within) = (group / groups * stride(form), group % groups * BYTES);
    let none = Places { scale: at, minimum: 0, of_group: 0, minimum_of_group: 0 };
    match form.scales {
        Scales::Block | Scales::Exponent => none,
        Scales::BlockMinimum => Places { minimum: at + HALVES, ..none },
        Scales::Group => Places { of_group: at + HALVES + within, ..none },
        Scales::GroupMinimum => {
            let of_group = at + 2 * HALVES + within;
            Places { minimum: at + HALVES, of_group, minimum_of_group: of_group + groups * BYTES, ..none }
        }
    }
}

at_each_isa! {
    /// Appends the lines of a strip. `rows` are the blocks of at most 16 rows; missing rows are zeros.
    pub(super) fn pack(shape: &Shape, rows: &[&[u8]], lines: &mut Vec<Line>) {
        if shape.keeps_blocks() {
            return whole::pack(shape, rows, lines);
        }
        let Shape { dtype, form, .. } = shape;
        let (of_block, start) = (form.block / GROUP, lines.len());
        let mut cells = [[0u8; CELL]; 256 / GROUP];
        let mut parts = Parts::default();
        lines.reserve(shape.lines());
        for first in (0..shape.cells()).step_by(run(form)) {
            let last = shape.cells().min(first + run(form));
            let at = lines.len();
            lines.resize(at + scale_lines(form, last - first), Line::default());
            for cell in (first..last).step_by(of_block) {
                let scales = bytemuck::cast_slice_mut(&mut lines[at..]);
                for (lane, row) in rows.iter().enumerate() {
                    parts.read(*dtype, &row[cell / of_block * dtype.size()..][..dtype.size()]);
                    put_integers(&parts, lane, &mut cells[..of_block]);
                    put_scales(form, (cell - first) * GROUP / form.group, lane, &parts, scales);
                }
                cells[..of_block].iter().for_each(|values| cell::pack(values, form.bits, lines));
            }
        }
        debug_assert_eq!(lines.len() - start, shape.lines());
    }
}

/// Stores the integers of a block of one row.
#[inline(always)]
pub(super) fn put_integers(parts: &Parts, lane: usize, cells: &mut [[u8; CELL]]) {
    for (cell, integers) in cells.iter_mut().zip(parts.integers.as_chunks::<GROUP>().0) {
        for (vector, quad) in cell.as_chunks_mut::<64>().0.iter_mut().zip(integers.as_chunks::<QUAD>().0) {
            vector[lane * QUAD..][..QUAD].copy_from_slice(quad);
        }
    }
}

/// Stores the scales of a block of one row. `first` is the number of its first group within its run.
#[inline(always)]
fn put_scales(form: &Form, first: usize, lane: usize, parts: &Parts, out: &mut [u8]) {
    let at = places(form, first);
    let mut put_half = |at: usize, bits: u16| out[at + 2 * lane..][..2].copy_from_slice(&bits.to_ne_bytes());
    match form.scales {
        Scales::Block => return put_half(at.scale, parts.scale),
        Scales::BlockMinimum => {
            put_half(at.scale, parts.scale);
            return put_half(at.minimum, parts.minimum);
        }
        Scales::Exponent => {
            out[at.scale + lane] = parts.scale as u8;
            return;
        }
        Scales::Group => put_half(at.scale, parts.scale),
        Scales::GroupMinimum => {
            put_half(at.scale, parts.scale);
            put_half(at.minimum, parts.minimum ^ 0x8000);
        }
    }
    for of_block in 0..form.block / form.group {
        let at = places(form, first + of_block);
        let (scale, minimum) = (parts.scales[of_block] as u8, parts.minimums[of_block]);
        if shares_bytes(form) {
            out[at.of_group + lane] = scale | minimum << 4;
            continue;
        }
        out[at.of_group + lane] = scale;
        if matches!(form.scales, Scales::GroupMinimum) {
            out[at.minimum_of_group + lane] = minimum;
        }
    }
}

/// Returns the scale and the minimum of a group of one row.
fn scales(form: &Form, bytes: &[u8], group: usize, lane: usize) -> (f32, f32) {
    let places = places(form, group);
    let half = |at: usize| f16::from_ne_bytes([bytes[at + 2 * lane], bytes[at + 2 * lane + 1]]).to_f32();
    let of_group = || bytes[places.of_group + lane];
    match form.scales {
        Scales::Block => (half(places.scale), 0.0),
        Scales::BlockMinimum => (half(places.scale), half(places.minimum)),
        Scales::Exponent => (power(bytes[places.scale + lane]), 0.0),
        Scales::Group => (half(places.scale) * f32::from(of_group() as i8), 0.0),
        Scales::GroupMinimum => {
            let (scale, minimum) = match shares_bytes(form) {
                true => (of_group() & 15, of_group() >> 4),
                false => (of_group(), bytes[places.minimum_of_group + lane]),
            };
            (half(places.scale) * f32::from(scale), half(places.minimum) * f32::from(minimum))
        }
    }
}

/// Writes the weights of some rows of a strip: rows x inputs.
pub(super) fn weights(shape: &Shape, strip: &[Line], rows: Range<usize>, out: &mut [f32]) {
    if shape.keeps_blocks() {
        return whole::weights(shape, strip, rows, out);
    }
    let form = &shape.form;
    let mut values = [0u8; CELL];
    let mut column = 0;
    for (bytes, cells) in Runs::new(form, shape.inputs, strip) {
        for (number, cell) in cells.chunks_exact(form.bits.into()).enumerate() {
            cell::unpack(cell, form.bits, &mut values);
            for (row, out) in rows.clone().zip(out.chunks_exact_mut(shape.inputs)) {
                let out = &mut out[column..][..GROUP];
                for (sub, out) in out.chunks_exact_mut(form.group).enumerate() {
                    let (scale, minimum) = scales(form, bytes, number * (GROUP / form.group) + sub, row);
                    let integer = |i: usize| values[i / QUAD * 64 + row * QUAD + i % QUAD];
                    for (i, out) in out.iter_mut().enumerate() {
                        *out = weight(form, integer(sub * form.group + i), scale, minimum);
                    }
                }
            }
            column += GROUP;
        }
    }
}

/// Returns the weight of an integer.
#[inline(always)]
fn weight(form: &Form, integer: u8, scale: f32, minimum: f32) -> f32 {
    let value = match &form.table {
        Some(table) => i32::from(table[usize::from(integer)]),
        None => i32::from(integer) - bias(form),
    };
    match form.scales {
        Scales::Block | Scales::Exponent | Scales::Group => scale * value as f32,
        Scales::BlockMinimum | Scales::GroupMinimum => scale * value as f32 + minimum,
    }
}
