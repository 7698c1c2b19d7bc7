//! Which tensors may be predicted from an earlier one of the same shape (SPEC 3.4.6): a fast test on a few blocks, which finds
//! copies, deltas and tables that are alike, and which independent tensors do not pass.

use std::collections::VecDeque;

use impasto_core::lattice::reconstruct_row_at;
use impasto_core::{Isa, Place};

use crate::lattice::Grid;
use crate::matrix::MatrixView;

/// Blocks that are compared, and their largest sides. On noise, the best factor of each seems to gain 0.006 bits.
const BLOCKS: usize = 32;
const SIDES: [usize; 2] = [8, 16];
/// Bits per weight that prediction must seem to gain. Where it seemed to gain 0.14, on queries from keys, it saved 0.02, and
/// took a multiple of the time.
const LEAST_GAIN: f32 = 0.25;
/// Earlier tensors of its shape, the last ones, that a tensor is compared with.
const COMPARED: usize = 64;
/// The least share of a block that prediction seems to leave.
const LEAST_LEFT: f32 = 1e-6;

/// The tensors of one shape so far that others may be predicted from.
#[derive(Default)]
pub struct Alike(VecDeque<(usize, Vec<f32>)>);

impl Alike {
    /// Takes the next tensor of the shape, in the order of the file. Returns the one that it may be predicted from; one that
    /// is not, or `must_not` be, may be the reference of others.
    pub fn next(&mut self, tensor: usize, matrix: &MatrixView, must_not: bool) -> Option<usize> {
        let sample = sample(matrix);
        let gains = self.0.iter().filter(|_| !must_not).map(|(other, of_other)| (gain(&sample, of_other), *other));
        let best = gains.max_by(|a, b| a.0.total_cmp(&b.0)).filter(|(gain, _)| *gain > LEAST_GAIN);
        if best.is_none() {
            self.0.push_back((tensor, sample));
            if self.0.len() > COMPARED {
                self.0.pop_front();
            }
        }
        best.map(|(_, other)| other)
    }
}

/// Returns the weights of some blocks of a matrix, block by block.
fn sample(matrix: &MatrixView) -> Vec<f32> {
    let [height, width] = [matrix.rows.min(SIDES[0]), matrix.columns.min(SIDES[1])];
    let across = matrix.columns / width.max(1);
    let blocks = matrix.rows / height.max(1) * across;
    let chosen = blocks.min(BLOCKS);
    let (mut row, mut out) = (Vec::new(), Vec::with_capacity(chosen * height * width));
    for i in 0..chosen {
        let block = i * blocks / chosen;
        let (top, left) = (block / across * height, block % across * width);
        for r in top..top + height {
            matrix.weights(r, &mut row);
            out.extend_from_slice(&row[left..left + width]);
        }
    }
    out
}

/// Returns about the bits per weight that prediction with a factor for each block gains.
fn gain(sample: &[f32], other: &[f32]) -> f32 {
    let parts = SIDES[0] * SIDES[1];
    let bits = sample.chunks(parts).zip(other.chunks(parts)).map(|(a, b)| {
        let product = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
        let both = product(a, a) * product(b, b);
        let explained = if both > 0.0 { product(a, b) * product(a, b) / both } else { 0.0 };
        -0.5 * (1.0 - explained).max(LEAST_LEFT).log2() * a.len() as f32
    });
    bits.sum::<f32>() / sample.len().max(1) as f32
}

/// A reference that is not coded yet, as it will be about: rounded to its lattice.
pub struct Forecast<'a> {
    pub matrix: MatrixView<'a>,
    pub grid: Grid,
}

impl Forecast<'_> {
    /// Returns the elements of a place, row-major.
    pub fn elements(&self, place: &Place) -> Vec<u8> {
        let MatrixView { rows, columns, dtype, .. } = self.matrix;
        let factors = self.grid.factors(rows, columns);
        let of_columns = &factors.columns[place.columns.clone()];
        let stride = place.columns.len() * dtype.size();
        let (mut row, mut out) = (Vec::new(), vec![0; place.rows.len() * stride]);
        for (r, out) in place.rows.clone().zip(out.chunks_exact_mut(stride.max(1))) {
            self.matrix.weights(r, &mut row);
            let values = row[place.columns.clone()].iter().zip(of_columns);
            let z: Vec<i32> = values.map(|(w, column)| (w / (column * factors.rows[r])).round() as i32).collect();
            reconstruct_row_at(Isa::best(), dtype, &z, 0, of_columns, factors.rows[r], out);
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use impasto_core::DType;

    use super::super::job::tests::noise;
    use super::*;

    fn bytes(weight: impl Fn(usize) -> f32) -> Vec<u8> {
        (0..64 * 96).flat_map(|i| weight(i).to_le_bytes()).collect()
    }

    fn view(bytes: &[u8]) -> MatrixView<'_> {
        MatrixView::plain(bytes, DType::F32, 64, 96)
    }

    #[test]
    fn what_is_alike_is_found_and_noise_is_not() {
        let [first, other] = [bytes(noise), bytes(|i| noise(i + 99_999))];
        let copy = bytes(|i| -0.7 * noise(i) + 0.2 * noise(i + 77_777));
        let mut alike = Alike::default();
        assert_eq!(alike.next(3, &view(&first), false), None);
        assert_eq!(alike.next(5, &view(&other), false), None);
        assert_eq!(alike.next(6, &view(&copy), false), Some(3));
        // One with a reference is none itself.
        assert_eq!(alike.next(7, &view(&copy), false), Some(3));
        assert_eq!(alike.next(8, &view(&copy), true), None);
        assert_eq!(alike.next(9, &view(&copy), false), Some(8));
        let zero = bytes(|_| 0.0);
        assert_eq!(alike.next(10, &view(&zero), false), None);
    }

    #[test]
    fn a_forecast_is_within_half_a_step() {
        let weights = bytes(noise);
        let grid = Grid::new(0.125);
        let place = Place { rows: 3..9, columns: 50..96 };
        let elements = Forecast { matrix: view(&weights), grid }.elements(&place);
        let found = elements.as_chunks().0.iter().map(|&b| f32::from_le_bytes(b));
        let wanted = (3..9).flat_map(|r| (50..96).map(move |c| noise(r * 96 + c)));
        assert!(found.zip(wanted).all(|(found, wanted)| (found - wanted).abs() <= 0.0625 && found % 0.125 == 0.0));
    }
}
