//! Nested matrices: the integers of several layers of one matrix, each layer stored as its difference from the one
//! below.
//!
//! Layers share rows, columns, and the steps of columns; each has its own integers, steps of rows and offset. Therefore
//! the quantized activations of a product are the same at every layer, and only the integer sums differ.
//!
//! # Arithmetic
//! The integers of layer 0, the *base*, are packed as if they were alone. Layer k has a *plane*: the digits
//! `d = z_k - factor * z_(k-1)`, reduced to 8 bits, packed like integers with widths per cell. A product at layer k
//! first *opens* a strip: it computes, one byte per integer and modulo 256,
//!
//! ```text
//! u_0 = z_0,  u_j = factor_j * u_(j-1) + d_j,  j = 1 to k
//! ```
//!
//! If `z_k` fits 8 bits, `u_k` is exactly `z_k`, whatever overflowed on the way. Integers that do not fit, the far
//! outliers of layer k, are replaced by the nearest 8-bit integer, and the rest is stored with the plane. An opened
//! strip thus has the form of one whose cells all have 8 bits, which the kernels for packed strips multiply. Their sums
//! over blocks of columns are exact, and the same operations in binary32 follow. Hence the product at layer k has the
//! bits of the product of a [`PackedMatrix`] that has the integers of layer k alone (with [`Activations::Int8`]; with
//! [`Activations::F32`] sums are rounded in another order).
//!
//! The result does not depend on the factors, only the width of the digits does: they are narrowest if `factor` is near
//! the ratio of the steps.

mod multiply;
mod open;
mod plane;
#[cfg(test)]
mod tests;

use impasto_core::lattice;

pub use plane::{LayerRows, Plane};

#[cfg(doc)]
use super::Activations;
use super::cell::GROUP;
use super::row_group::Strip;
use super::{PackError, PackedMatrix, Packing};

/// A matrix in several layers, from the coarsest to the finest.
#[derive(Debug)]
pub struct NestedMatrix {
    base: PackedMatrix,
    /// The planes of layers 1 and above: one per row group of the base.
    layers: Vec<Vec<Plane>>,
    /// A width of 8 bits for each group of columns.
    widths: Vec<u8>,
}

impl NestedMatrix {
    /// Creates a matrix of its base and the planes of each further layer, one for each row group of the base.
    ///
    /// # Errors
    /// [`PackError::OtherRows`] if the planes of a layer are not those of the row groups.
    pub fn new(base: PackedMatrix, layers: Vec<Vec<Plane>>) -> Result<NestedMatrix, PackError> {
        for planes in &layers {
            PackError::check_count("planes", planes.len(), base.groups().len())?;
            if let Some(index) = planes.iter().zip(base.groups()).position(|(plane, group)| !plane.fits(group)) {
                return Err(PackError::OtherRows(index));
            }
        }
        let widths = vec![super::cell::WIDEST; base.inputs().div_ceil(GROUP)];
        Ok(NestedMatrix { base, layers, widths })
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
        self.base.memory_bytes() + self.planes().map(Plane::memory_bytes).sum::<usize>() + self.widths.len()
    }

    /// Returns the number of bytes that a product at a layer reads.
    pub fn bytes_at(&self, layer: usize) -> usize {
        self.base.bytes + self.planes_at(layer).iter().flatten().map(Plane::bytes).sum::<usize>()
    }

    /// Returns the size of all layers in detail.
    pub fn report(&self) -> Packing {
        let base = self.base.report();
        Packing {
            weights: base.weights,
            cell_bits: base.cell_bits + self.planes().map(Plane::cell_bits).sum::<usize>(),
            outliers: base.outliers + self.planes().map(Plane::outliers).sum::<usize>(),
            bytes: self.memory_bytes(),
        }
    }

    /// Writes the weights of a row at a layer, as [`PackedMatrix::row`].
    ///
    /// # Panics
    /// If there is no such row, or `out` does not have `inputs()` elements.
    pub fn row(&self, layer: usize, row: usize, out: &mut [f32]) {
        let (group, of_group) = self.base.place(row);
        let Some(planes) = self.planes_at(layer).last() else { return self.base.row(row, out) };
        let mut z = vec![0; self.inputs()];
        self.integers(layer, row, &mut z);
        let (_, _, step) = planes[group].digits.place(of_group);
        let (order, steps) = (self.base.columns.order(), self.base.columns.steps());
        for (&column, column_step) in order.iter().zip(steps) {
            out[column as usize] = lattice::point(z[column as usize], planes[group].digits.offset()) * column_step;
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
        let order = self.base.columns.order();
        for planes in self.planes_at(layer) {
            planes[group].refine(row, order, out);
        }
    }

    /// Returns the planes that a product at a layer reads. A layer above the finest is the finest.
    fn planes_at(&self, layer: usize) -> &[Vec<Plane>] {
        &self.layers[..layer.min(self.layers.len())]
    }

    fn planes(&self) -> impl Iterator<Item = &Plane> {
        self.layers.iter().flatten()
    }

    /// Opens strip `index` of a row group at a layer above the base. `lines` is working memory, one line for each 4
    /// columns. Returns the strip as one of 8-bit cells.
    fn open<'a>(
        &'a self,
        planes: &'a [Vec<Plane>],
        group: usize,
        index: usize,
        isa: impasto_core::Isa,
        lines: &'a mut [super::cell::Line],
    ) -> Strip<'a> {
        open::base(isa, self.base.groups()[group].strip(index), lines);
        for planes in planes {
            let plane = &planes[group];
            open::plane(isa, plane.digits.strip(index), plane.factor, lines);
        }
        let lines: &[super::cell::Line] = match planes.last() {
            Some(planes) => planes[group].clamp(index, lines),
            None => lines,
        };
        let finest = planes.last().map_or(&self.base.groups()[group], |planes| &planes[group].digits);
        let far = planes.last().map(|planes| planes[group].far(index)).unwrap_or_default();
        finest.strip(index).opened(&self.widths, far, lines)
    }
}
