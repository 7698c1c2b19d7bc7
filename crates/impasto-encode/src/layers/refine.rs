//! The tensor header of a refinement: scale groups, and tables fitted to what its integers add to those of the layer
//! below.

use impasto_codec::sink::Counts;
use impasto_codec::tile::syntax::{Sums, refinement_row, trellis_refinement_row};
use impasto_codec::{Body, IndexArray, Kind, Refinement, TensorHeader};
use rayon::prelude::*;

use crate::shapes::best_shape;
/// The group (SPEC 13.1) of integers with a standard deviation of one step, whose class is [`UNIT_CLASS`].
const MIDDLE: i32 = 5;
const UNIT_CLASS: i32 = 15;
/// Candidate widths of a group, in classes (four per octave): narrow groups fit better, wide ones need fewer explicit
/// tables.
const WIDTHS: [i32; 3] = [2, 4, 64];
/// Rows whose classes have a smaller standard deviation than this share one class.
const SPREAD: f64 = 1.5;

/// Integers of a layer and of the layer below, both row-major, with the classes of the scale of the latter (SPEC 7.4).
pub struct Refined<'a> {
    pub refinement: Refinement,
    pub coarse: &'a [i32],
    pub fine: &'a [i32],
    pub row_classes: &'a [i16],
    pub column_classes: &'a [i16],
}

impl Refined<'_> {
    /// Returns the tensor header at which the integers cost least.
    pub fn header(&self) -> TensorHeader {
        let rows = evened(self.row_classes);
        let headers = WIDTHS.map(|width| {
            let group = |classes: &[i16], middle: i32, offset: i32| -> Vec<i16> {
                let one = |&class: &i16| (i32::from(class) - offset + width / 2).div_euclid(width) + middle;
                classes.iter().map(|class| one(class) as i16).collect()
            };
            let rows = group(&rows, MIDDLE, UNIT_CLASS);
            let columns = group(self.column_classes, 0, 0);
            let (shape, bits) = best_shape(&self.count(&rows, &columns));
            let header = TensorHeader {
                shape,
                plane: 0,
                row_classes: IndexArray::new(rows),
                column_classes: IndexArray::new(columns),
                body: Body::Refinement(self.refinement.clone()),
            };
            let mut arrays = Vec::new();
            header.row_classes.write(&mut arrays);
            header.column_classes.write(&mut arrays);
            (bits + arrays.len() as u64 * 8, header)
        });
        let [first, others @ ..] = headers;
        others.into_iter().fold(first, |best, header| if header.0 < best.0 { header } else { best }).1
    }

    fn count(&self, rows: &[i16], columns: &[i16]) -> Counts {
        let columns: Vec<i32> = columns.iter().map(|&c| i32::from(c)).collect();
        let n = columns.len().max(1);
        let count = |mut counts: Counts, ((coarse, fine), &row): ((&[i32], &[i32]), &i16)| {
            let sums = Sums { row: row.into(), columns: &columns };
            let factor = self.refinement.factor;
            match self.refinement.trellis {
                None => refinement_row(&mut counts, factor, sums, coarse, fine),
                Some(_) => trellis_refinement_row(&mut counts, factor, sums, coarse, fine),
            }
            counts
        };
        let all = self.coarse.par_chunks(n).zip(self.fine.par_chunks(n)).zip(rows);
        let kind = self.refinement.trellis.map_or(Kind::Refinement, |_| Kind::TrellisRefinement);
        let empty = || Counts::new(kind);
        all.fold(empty, count).reduce(empty, Counts::merged)
    }
}

/// Replaces all classes by their mean, unless they differ enough to be worth sending.
fn evened(classes: &[i16]) -> Vec<i16> {
    let n = classes.len().max(1) as f64;
    let mean = classes.iter().map(|&class| f64::from(class)).sum::<f64>() / n;
    let square = classes.iter().map(|&class| (f64::from(class) - mean).powi(2)).sum::<f64>() / n;
    if square > SPREAD * SPREAD { classes.to_vec() } else { vec![mean.round_ties_even() as i16; classes.len()] }
}
