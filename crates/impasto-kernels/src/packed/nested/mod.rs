//! Nested matrices: the integers of several layers of one matrix, each layer stored as its difference from the one
//! below.
//!
//! Layers share rows, columns, and the steps of columns; each has its own integers, steps of rows and offset. Therefore
//! the quantized activations of a product are the same at every layer, and only the integer sums differ.
//!
//! # Codes
//! A layer has *codes* c, from which its integers z follow. The codes of the base, layer 0, are packed like integers,
//! with widths per cell. Those of layer k are `c_k = factor * c_(k-1) + d`, with *digits* d, which a *plane* stores.
//!
//! - Where z_(k-1) is the quotient z_k / factor, rounded to nearest, codes are the integers, and the digits around 0.
//! - Where it is rounded toward zero, a digit would have the sign of z_k, and the code 0 would have more digits than
//!   others. Therefore the codes of layer k-1 are then z if z_k is at least 0, and z - 1 if it is below: there are two
//!   zeros, 0 and -1. Then c_(k-1) is the floor of c_k / factor, and the digits are 0 to factor - 1 for each code.
//!   For factor 2 they take one bit.
//!
//! Digits -1, 0 and 1 of factor 3 take 1.6 bits (`trits`).
//!
//! # Products
//! A product first *opens* a strip: it computes its integers at a layer, one byte each. Codes are computed modulo 256:
//! if `c_k` fits 8 bits, the byte is exact, whatever overflowed on the way. Integers whose magnitude is above 127, the far
//! outliers of the layer, are replaced by +-127, and the rest is stored with the layer. An opened strip thus has the form
//! of one whose cells all have 8 bits, which the kernels for packed strips multiply. Their sums over blocks of columns are
//! exact, and the same operations in binary32 follow. Hence the product at layer k has the bits of the product of a
//! [`PackedMatrix`] that has the integers of layer k alone (with [`Activations::Int8`](super::Activations::Int8); with
//! binary32, sums are rounded in another order).

mod form;
mod multiply;
mod open;
mod rows;
#[cfg(test)]
mod tests;
mod trits;

use impasto_core::{Isa, lattice};

pub use rows::{LayerRows, NestedRows};

use super::cell::{GROUP, Line, WIDEST};
use super::row_group::{RowGroup, Strip};
use super::{ColumnOrder, PackError, PackedMatrix, Packing};
use form::Form;
use open::Digits;
use rows::Plane;

/// A matrix in several layers, from the coarsest to the finest.
#[derive(Debug)]
pub struct NestedMatrix {
    /// The codes of the base.
    base: PackedMatrix,
    /// What the integers of the base are, for each row group.
    forms: Vec<Form>,
    /// The planes of layers 1 and above: one per row group of the base.
    layers: Vec<Vec<Plane>>,
    /// A width of 8 bits for each group of columns.
    widths: Vec<u8>,
}

impl NestedMatrix {
    /// Creates a matrix of row groups, in the order of rows, that were packed with `columns`.
    ///
    /// # Errors
    /// [`PackError::OtherColumns`] if one was packed with others; [`PackError::Count`] if they have different numbers of
    /// layers.
    pub fn new(columns: ColumnOrder, rows: Vec<NestedRows>) -> Result<NestedMatrix, PackError> {
        let above = rows.first().map_or(0, |rows| rows.planes.len());
        let mut layers: Vec<Vec<Plane>> = (0..above).map(|_| Vec::new()).collect();
        let (mut groups, mut forms) = (Vec::new(), Vec::new());
        for NestedRows { base, form, planes } in rows {
            PackError::check_count("planes", planes.len(), above)?;
            layers.iter_mut().zip(planes).for_each(|(layer, plane)| layer.push(plane));
            groups.push(base);
            forms.push(form);
        }
        let widths = vec![WIDEST; columns.inputs().div_ceil(GROUP)];
        Ok(NestedMatrix { base: PackedMatrix::new(columns, groups)?, forms, layers, widths })
    }

    /// Returns the number of layers, at least 1.
    pub fn layers(&self) -> usize {
        1 + self.layers.len()
    }

    /// Returns the number of rows.
    pub fn outputs(&self) -> usize {
        self.base.outputs()
    }

    /// Returns the number of columns.
    pub fn inputs(&self) -> usize {
        self.base.inputs()
    }

    /// Returns the memory of all layers in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.base.memory_bytes()
            + self.widths.len()
            + self.forms.iter().map(Form::memory_bytes).sum::<usize>()
            + self.planes().map(Plane::memory_bytes).sum::<usize>()
    }

    /// Returns the number of bytes that a product at a layer reads.
    pub fn bytes_at(&self, layer: usize) -> usize {
        self.base.bytes + self.planes_at(layer).iter().flatten().map(Plane::bytes).sum::<usize>()
    }

    /// Returns the size of all layers in detail.
    pub fn report(&self) -> Packing {
        let base = self.base.report();
        Packing {
            cell_bits: base.cell_bits + self.planes().map(Plane::cell_bits).sum::<usize>(),
            outliers: base.outliers + self.planes().map(Plane::outliers).sum::<usize>(),
            head_bytes: base.head_bytes + self.planes().map(Plane::head_bytes).sum::<usize>(),
            bytes: self.memory_bytes(),
            ..base
        }
    }

    /// Writes the weights of a row at a layer, as [`PackedMatrix::row`].
    ///
    /// # Panics
    /// If there is no such row, or `out` does not have `inputs()` elements.
    pub fn row(&self, layer: usize, row: usize, out: &mut [f32]) {
        let (group, of_group) = self.base.place(row);
        let mut z = vec![0; self.inputs()];
        self.integers(layer, row, &mut z);
        let finest = self.finest(self.planes_at(layer), group);
        let (_, _, step) = finest.place(of_group);
        let (order, steps) = (self.base.columns.order(), self.base.columns.steps());
        for (&column, column_step) in order.iter().zip(steps) {
            out[column as usize] = lattice::point(z[column as usize], finest.offset()) * column_step;
        }
        out.iter_mut().for_each(|weight| *weight *= step);
    }

    /// Writes the integers of a row at a layer, with columns in the order of the file.
    ///
    /// # Panics
    /// As for [`NestedMatrix::row`].
    pub fn integers(&self, layer: usize, row: usize, out: &mut [i32]) {
        self.base.integers(row, out);
        let (group, row) = self.base.place(row);
        let (order, planes) = (self.base.columns.order(), self.planes_at(layer));
        planes.iter().for_each(|planes| planes[group].add_to_row(row, order, out));
        let (index, lane) = self.base.groups[group].lane(row);
        self.form(planes, group).settle_row(index, lane, order, out);
    }

    /// Returns the planes that a product at a layer reads. A layer above the finest is the finest.
    fn planes_at(&self, layer: usize) -> &[Vec<Plane>] {
        &self.layers[..layer.min(self.layers.len())]
    }

    fn planes(&self) -> impl Iterator<Item = &Plane> {
        self.layers.iter().flatten()
    }

    /// Returns the row group that has the steps and the offset of the layer with these planes.
    fn finest<'a>(&'a self, planes: &'a [Vec<Plane>], group: usize) -> &'a RowGroup {
        planes.last().map_or(&self.base.groups[group], |planes| &planes[group].digits)
    }

    fn form<'a>(&'a self, planes: &'a [Vec<Plane>], group: usize) -> &'a Form {
        planes.last().map_or(&self.forms[group], |planes| &planes[group].form)
    }

    /// Opens strip `index` of a row group at the layer with these planes. `lines` is working memory, one line for each 4
    /// columns. Returns the strip as one of 8-bit cells.
    fn open<'a>(
        &'a self,
        planes: &'a [Vec<Plane>],
        group: usize,
        index: usize,
        isa: Isa,
        lines: &'a mut [Line],
    ) -> Strip<'a> {
        let base = Digits { strip: self.base.groups[group].strip(index), factor: 0, shift: 0 };
        let above = planes.first().map(|planes| &planes[group]).filter(|plane| plane.is_simple());
        open::base(isa, base, above.map(|plane| plane.digits(index)), lines);
        let others = planes.iter().skip(usize::from(above.is_some()));
        others.for_each(|planes| planes[group].add(isa, index, lines));
        let form = self.form(planes, group);
        form.settle(isa, index, lines);
        self.finest(planes, group).strip(index).opened(&self.widths, form.far(index), lines)
    }
}
