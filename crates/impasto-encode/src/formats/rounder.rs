//! Rounds targets to the values of a format.

use impasto_codec::Groups;
use impasto_core::format::{Values, nearest, weight};
use impasto_core::{DType, Format, Isa, lattice};

use crate::feedback::{Rounding, Row};

/// Rounds to the nearest weight that a format has under the scales of its groups.
pub struct FormatRounder {
    dtype: DType,
    isa: Isa,
    format: Format,
    values: Values,
    step: f32,
    /// Columns of a group.
    width: usize,
    /// Groups of a row.
    across: usize,
    /// The scale of each group, row by row.
    scales: Vec<f32>,
}

impl FormatRounder {
    /// Creates a rounder for a matrix of `rows` x `columns` with these groups.
    pub fn new(dtype: DType, groups: &Groups, rows: usize, columns: usize) -> Self {
        let form = groups.format.scale_form();
        let width = if groups.width() == 0 { columns.max(1) } else { groups.width() as usize };
        let scales = (0..rows).flat_map(|r| groups.row(r)).map(|index| form.scale(index)).collect();
        let values = Values::of(groups.format);
        let (isa, format) = (Isa::best(), groups.format);
        FormatRounder { dtype, isa, format, values, step: groups.step, width, across: groups.across(), scales }
    }

    /// Returns the weight that a decoder makes of `z` in a row and column.
    pub fn weight_at(&self, row: usize, column: usize, z: i32) -> f32 {
        self.weight(z, self.scale_at(row, column))
    }

    /// Returns the sign of the value of an integer.
    pub fn sign(&self, z: i32) -> i32 {
        self.values.sign(z)
    }

    fn scale_at(&self, row: usize, column: usize) -> f32 {
        self.scales[row * self.across + column / self.width]
    }

    /// Returns the weight that a decoder makes of `z` (SPEC 20.3).
    fn weight(&self, z: i32, scale: f32) -> f32 {
        lattice::round(self.dtype, weight(self.values.get(z), scale, self.step))
    }
}

impl Rounding for FormatRounder {
    fn round(&self, column: usize, first: usize, targets: &Row<f32>, z: &mut Row<i32>, weights: &mut Row<f32>) {
        let count = (self.scales.len() / self.across.max(1) - first).min(z.len());
        let (mut x, mut scales) = ([0.0; 16], [0.0; 16]);
        for lane in 0..count {
            scales[lane] = self.scale_at(first + lane, column);
            let scale = scales[lane] * self.step;
            x[lane] = if scale > 0.0 { targets[lane] / scale } else { 0.0 };
        }
        nearest(self.isa, self.format, &x, z);
        for lane in 0..count {
            weights[lane] = self.weight(z[lane], scales[lane]);
            // Rounding up must not turn a large weight into infinity.
            while !weights[lane].is_finite() && self.values.sign(z[lane]) != 0 {
                z[lane] = self.format.toward_zero(z[lane]);
                weights[lane] = self.weight(z[lane], scales[lane]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use impasto_codec::IndexArray;
    use impasto_core::Format;

    use super::*;

    /// Groups of two columns with scales 1 and 2 in the first row, 4 and 0 in the second.
    #[test]
    fn the_scale_is_that_of_the_group() {
        let bits = |scale: f32| (scale.to_bits() >> 16) as i16;
        let scales = IndexArray::new([1.0, 2.0, 4.0, 0.0].map(bits).to_vec());
        let groups = Groups::new(Format::Int4, 1.0, 2, 4, scales);
        let rounder = FormatRounder::new(DType::Bf16, &groups, 2, 4);
        let mut targets = [0.0; 16];
        targets[..2].copy_from_slice(&[3.4, 9.9]);
        for (column, wanted) in [([3.0, 8.0], [3, 2]), ([3.0, 8.0], [3, 2]), ([4.0, 0.0], [2, 0]), ([4.0, 0.0], [2, 0])]
            .into_iter()
            .enumerate()
        {
            let (mut z, mut weights) = ([0; 16], [0.0; 16]);
            rounder.round(column, 0, &targets, &mut z, &mut weights);
            assert_eq!((&weights[..2], &z[..2]), (&wanted.0[..], &wanted.1[..]), "column {column}");
            assert_eq!(rounder.weight_at(1, column, z[1]), weights[1]);
        }
    }

    #[test]
    fn no_weight_is_infinite() {
        let groups = Groups::new(Format::Mxfp4, 1.0, 32, 1, IndexArray::Constant(127 + 15));
        let rounder = FormatRounder::new(DType::F16, &groups, 1, 1);
        let (mut z, mut weights) = ([0; 16], [0.0; 16]);
        rounder.round(0, 0, &[1e30; 16], &mut z, &mut weights);
        assert_eq!((z[0], weights[0]), (3, 49152.0), "6, 4, 3 and 2 times 2^15 are above the largest F16");
    }
}
