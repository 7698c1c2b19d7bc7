//! The syntax of a tile in each mode: its values, their classes and the raw bits (SPEC 9, 10, 13, 14).
//!
//! Each mode is one function that passes a row to a [`SymbolSink`]. The same function, with different sinks, counts the
//! symbols of a tensor, costs a tile, and codes it. To add a mode with classes, add a function here and a variant of
//! [`super::Content`].

use impasto_core::FloatLayout;

use crate::class::{Kind, class};
use crate::sink::SymbolSink;
use crate::{exact, refinement};

/// Classes of a row and of the columns. The class of an element is computed from the sum of the two.
#[derive(Clone, Copy, Debug)]
pub struct Sums<'a> {
    /// Class of the row.
    pub row: i32,
    /// Class of each column; one per element of the row.
    pub columns: &'a [i32],
}

impl Sums<'_> {
    #[inline(always)]
    fn iter(&self) -> impl Iterator<Item = i32> {
        self.columns.iter().map(|&column| self.row + column)
    }
}

/// Mode float. `row` holds little-endian floats of `layout`.
#[inline]
pub fn float_row(sink: &mut impl SymbolSink, layout: FloatLayout, sums: Sums, row: &[u8]) {
    match layout.size() {
        1 => float_elements::<1>(sink, layout, sums, row),
        2 => float_elements::<2>(sink, layout, sums, row),
        _ => float_elements::<4>(sink, layout, sums, row),
    }
    sink.end_row();
}

#[inline(always)]
fn float_elements<const N: usize>(sink: &mut impl SymbolSink, layout: FloatLayout, sums: Sums, row: &[u8]) {
    for (sum, &element) in sums.iter().zip(row.as_chunks::<N>().0) {
        let (value, raw) = layout.split(bits(element));
        sink.symbol(class(Kind::Float, sum, 0), value as i32);
        sink.raw(raw, layout.raw_bits());
    }
}

/// Mode lattice. `z` holds the integers of the row; the low `plane` bits of each are raw.
#[inline]
pub fn lattice_row(sink: &mut impl SymbolSink, plane: u8, sums: Sums, z: &[i32]) {
    let plane = u32::from(plane);
    for (sum, &z) in sums.iter().zip(z) {
        sink.symbol(class(Kind::Lattice, sum, 0), z >> plane);
        sink.raw(z as u32, plane);
    }
    sink.end_row();
}

/// Mode refinement. Codes the residuals that turn the integers `coarse` of the layer below into `fine`, whose steps are
/// `factor` times as small.
#[inline]
pub fn refinement_row(sink: &mut impl SymbolSink, factor: u8, sums: Sums, coarse: &[i32], fine: &[i32]) {
    for ((sum, &coarse), &fine) in sums.iter().zip(coarse).zip(fine) {
        let class = class(Kind::Refinement, refinement::class(sum, coarse), 0);
        sink.symbol(class, refinement::residual(factor, coarse, fine));
    }
    sink.end_row();
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
#[inline]
pub fn exact_row(sink: &mut impl SymbolSink, layout: FloatLayout, plane: u8, sums: Sums, row: ExactRow) {
    match layout.size() {
        1 => exact_elements::<1>(sink, layout, plane, sums, row),
        2 => exact_elements::<2>(sink, layout, plane, sums, row),
        _ => exact_elements::<4>(sink, layout, plane, sums, row),
    }
    sink.end_row();
}

#[inline(always)]
fn exact_elements<const N: usize>(
    sink: &mut impl SymbolSink,
    layout: FloatLayout,
    plane: u8,
    sums: Sums,
    row: ExactRow,
) {
    let plane = u32::from(plane);
    let floats = row.predicted.as_chunks::<N>().0.iter().zip(row.elements.as_chunks::<N>().0);
    for ((sum, &z), (&predicted, &element)) in sums.iter().zip(row.z).zip(floats) {
        let predicted = bits(predicted);
        let residual = exact::residual(layout, sum, z, predicted, bits(element));
        sink.symbol(class(Kind::Exact, exact::class(layout, sum, z, predicted), 0), residual >> plane);
        sink.raw(residual as u32, plane);
    }
}

/// Returns the bits of a float of `N` bytes.
#[inline(always)]
fn bits<const N: usize>(element: [u8; N]) -> u32 {
    element.iter().rev().fold(0, |bits, &b| bits << 8 | u32::from(b))
}
