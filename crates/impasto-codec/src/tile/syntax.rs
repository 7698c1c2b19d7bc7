//! The syntax of a tile in each mode: its values, their classes and the raw bits (SPEC 9, 10, 13, 14, 16).
//!
//! Each mode is one function that passes a row to a [`SymbolSink`]. The same function, with different sinks, counts the
//! symbols of a tensor, costs a tile, and codes it. To add a mode with classes, add a function here and a variant of
//! [`super::Content`].

use std::cell::RefCell;
use std::ops::Range;

use impasto_core::blocks::apart::Form;
use impasto_core::{DType, FloatLayout, Isa, at_each_isa};

use crate::blocks::{self, BlockRow};
use crate::sink::{BATCH, SymbolSink};
use crate::{exact, refinement};

/// Classes of a row and of the columns. The class of an element is computed from the sum of the two.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a> {
    /// Class of the row.
    pub row: i32,
    /// Class of each column; one per element of the row.
    pub columns: &'a [i32],
}

/// What a sink receives for some neighbouring elements of a row.
struct Batch {
    classes: [i32; BATCH],
    values: [i32; BATCH],
    raw: [i32; BATCH],
}

impl Batch {
    /// Passes a row to a sink. `split` fills the batch, whose classes are the sums, for the elements in a range.
    /// `raw_bits` of each raw field go to the plane.
    #[inline(always)]
    fn row(sink: &mut impl SymbolSink, sums: Sums, raw_bits: u32, split: impl Fn(Isa, &mut Batch, Range<usize>)) {
        thread_local! {
            /// Working memory. Clearing it for each row would take as long as all the rest.
            static BUFFER: RefCell<Batch> =
                const { RefCell::new(Batch { classes: [0; BATCH], values: [0; BATCH], raw: [0; BATCH] }) };
        }
        let isa = Isa::best();
        BUFFER.with_borrow_mut(|batch| {
            for (i, columns) in sums.columns.chunks(BATCH).enumerate() {
                let n = columns.len();
                add(isa, sums.row, columns, &mut batch.classes[..n]);
                split(isa, batch, i * BATCH..i * BATCH + n);
                sink.symbols(&batch.classes[..n], &batch.values[..n]);
                sink.raw(&batch.raw[..n], raw_bits);
            }
        });
        sink.end_row();
    }
}

at_each_isa! {
    fn add(row: i32, columns: &[i32], sums: &mut [i32]) {
        sums.iter_mut().zip(columns).for_each(|(sum, &column)| *sum = row + column);
    }
}

/// Mode float. `row` holds little-endian floats of `layout`.
pub fn float_row(sink: &mut impl SymbolSink, layout: FloatLayout, sums: Sums, row: &[u8]) {
    Batch::row(sink, sums, layout.raw_bits(), |isa, batch, elements| {
        let (n, size) = (elements.len(), layout.size());
        let row = &row[elements.start * size..elements.end * size];
        split_floats(isa, layout, row, &mut batch.values[..n], &mut batch.raw[..n]);
    });
}

at_each_isa! {
    fn split_floats(layout: FloatLayout, row: &[u8], values: &mut [i32], raw: &mut [i32]) {
        match layout.size() {
            1 => split_floats_of::<1>(layout, row, values, raw),
            2 => split_floats_of::<2>(layout, row, values, raw),
            _ => split_floats_of::<4>(layout, row, values, raw),
        }
    }
}

#[inline(always)]
fn split_floats_of<const N: usize>(layout: FloatLayout, row: &[u8], values: &mut [i32], raw: &mut [i32]) {
    for ((&element, value), raw) in row.as_chunks::<N>().0.iter().zip(values).zip(raw) {
        let split = layout.split(bits(element));
        (*value, *raw) = (split.0 as i32, split.1 as i32);
    }
}

/// Mode lattice. `z` holds the integers of the row; the low `plane` bits of each are raw.
pub fn lattice_row(sink: &mut impl SymbolSink, plane: u8, sums: Sums, z: &[i32]) {
    let plane = u32::from(plane);
    Batch::row(sink, sums, plane, |_, batch, elements| {
        let z = &z[elements];
        batch.raw[..z.len()].copy_from_slice(z);
        batch.values.iter_mut().zip(z).for_each(|(value, &z)| *value = z >> plane);
    });
}

/// Mode lattice with a trellis. `z` holds the integers of the row, whose parities are known; the low `plane` bits of each index
/// are raw.
pub fn trellis_row(sink: &mut impl SymbolSink, plane: u8, sums: Sums, z: &[i32]) {
    let plane = u32::from(plane);
    Batch::row(sink, sums, plane, |_, batch, elements| {
        let Batch { classes, values, raw } = batch;
        let z = &z[elements];
        for (((class, value), raw), z) in classes.iter_mut().zip(values).zip(raw).zip(z) {
            *class = 2 * *class + (z & 1);
            *raw = z >> 1;
            *value = *raw >> plane;
        }
    });
}

/// Mode refinement. Codes the residuals that turn the integers `coarse` of the layer below into `fine`, whose steps are
/// `factor` times as small.
pub fn refinement_row(sink: &mut impl SymbolSink, factor: u8, sums: Sums, coarse: &[i32], fine: &[i32]) {
    Batch::row(sink, sums, 0, |isa, batch, elements| {
        let (coarse, fine) = (&coarse[elements.clone()], &fine[elements]);
        let n = coarse.len();
        refinement::classes_of_row(isa, &mut batch.classes[..n], coarse);
        refinement::residuals_of_row(isa, factor, coarse, fine, &mut batch.values[..n]);
    });
}

/// Mode refinement with a trellis. As [`refinement_row`], but the parities of residuals are known.
pub fn trellis_refinement_row(sink: &mut impl SymbolSink, factor: u8, sums: Sums, coarse: &[i32], fine: &[i32]) {
    Batch::row(sink, sums, 0, |isa, batch, elements| {
        let (coarse, fine) = (&coarse[elements.clone()], &fine[elements]);
        let Batch { classes, values, .. } = batch;
        let (classes, values) = (&mut classes[..coarse.len()], &mut values[..coarse.len()]);
        refinement::classes_of_row(isa, classes, coarse);
        refinement::residuals_of_row(isa, factor, coarse, fine, values);
        for (class, value) in classes.iter_mut().zip(values) {
            *class = 2 * *class + (*value & 1);
            *value >>= 1;
        }
    });
}

/// The input for a row in mode exact; each field has one entry per element of the row.
#[derive(Clone, Copy, Debug)]
pub struct ExactRow<'a> {
    /// Integers of the layer below.
    pub z: &'a [i32],
    /// Weights of the layer below, as little-endian floats.
    pub predicted: &'a [u8],
    /// The elements, as little-endian floats.
    pub elements: &'a [u8],
}

/// Mode exact. Codes the differences between the bits of floats of `layout` and the weights of the layer below; the low
/// `plane` bits of each are raw.
pub fn exact_row(sink: &mut impl SymbolSink, layout: FloatLayout, plane: u8, sums: Sums, row: ExactRow) {
    let ExactRow { z, predicted, elements: floats } = row;
    Batch::row(sink, sums, plane.into(), |isa, batch, elements| {
        let size = layout.size();
        let bytes = elements.start * size..elements.end * size;
        let row = ExactRow { z: &z[elements], predicted: &predicted[bytes.clone()], elements: &floats[bytes] };
        let Batch { classes, values, raw } = batch;
        split_exact(isa, layout, row, classes, raw);
        values.iter_mut().zip(&*raw).take(row.z.len()).for_each(|(value, &raw)| *value = raw >> plane);
    });
}

/// Mode blocks. Codes how far the integers of `blocks`, which are of `dtype`, are from those that come nearest to the
/// weights `below` of the layer below. Passes nothing if `dtype` is not a block dtype.
pub fn blocks_row(sink: &mut impl SymbolSink, dtype: DType, sums: Sums, below: &[f32], blocks: &[u8]) {
    let Some(form) = Form::of(dtype) else { return };
    let mut row = BlockRow::default();
    row.read(dtype, &form, blocks);
    Batch::row(sink, sums, 0, |_, batch, elements| {
        let of_batch = batch.classes.iter_mut().zip(&mut batch.values);
        for (i, (class, value)) in elements.zip(of_batch) {
            let scales = row.scales[i / form.group];
            *value = i32::from(row.integers[i]) - blocks::predicted(&form, below[i], scales);
            *class = blocks::class(*class, scales.0);
        }
    });
}

at_each_isa! {
    /// Replaces sums of classes by classes, and writes the residuals to `residuals`.
    fn split_exact(layout: FloatLayout, row: ExactRow, classes: &mut [i32], residuals: &mut [i32]) {
        match layout.size() {
            1 => split_exact_of::<1>(layout, row, classes, residuals),
            2 => split_exact_of::<2>(layout, row, classes, residuals),
            _ => split_exact_of::<4>(layout, row, classes, residuals),
        }
    }
}

#[inline(always)]
fn split_exact_of<const N: usize>(layout: FloatLayout, row: ExactRow, classes: &mut [i32], residuals: &mut [i32]) {
    let floats = row.predicted.as_chunks::<N>().0.iter().zip(row.elements.as_chunks::<N>().0);
    for (((class, residual), &z), (&predicted, &element)) in classes.iter_mut().zip(residuals).zip(row.z).zip(floats) {
        let predicted = bits(predicted);
        *residual = exact::residual(layout, *class, z, predicted, bits(element));
        *class = exact::class(layout, *class, z, predicted);
    }
}

/// Returns the bits of a float of `N` bytes.
#[inline(always)]
fn bits<const N: usize>(element: [u8; N]) -> u32 {
    element.iter().rev().fold(0, |bits, &b| bits << 8 | u32::from(b))
}
