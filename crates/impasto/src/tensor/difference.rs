//! How a tensor of a delta that is not on a lattice differs from that of the base: in few weights, beside its low-rank part.

use impasto_codec::LowRank;
use impasto_container::Source;
use impasto_core::{Place, values};
use impasto_model::SparseRows;

use super::Tensor;
use crate::base::elements_at;
use crate::error::FileError;
use crate::lattice::{matrix_shape, tile_rows};

/// Of how many weights one may differ. A product with it takes about as long as one with ten others.
const ONE_IN: usize = 16;
/// The most columns: numbers of columns have 16 bits.
const MOST_COLUMNS: usize = 1 << 16;

/// The weights of a tensor that are not those of the base plus its low-rank part, and this part. With such a part, sums are not
/// rounded to the dtype before a product; so those that round to a neighbour of the weight count as the weight.
pub(crate) struct FewWeights<'t> {
    pub(crate) rows: SparseRows,
    pub(crate) low_rank: Option<&'t LowRank>,
}

impl<S: Source> Tensor<'_, S> {
    /// Compares the tensor with that of the base. `None` if there is none, it has another dtype, or more than one weight in 16
    /// differs. Runs on this thread only.
    ///
    /// # Errors
    /// As for [`Tensor::bytes`].
    pub(crate) fn few_weights(&self) -> Result<Option<FewWeights<'_>>, FileError> {
        let (Some(base), Some([_, columns])) = (&self.over, matrix_shape(self)) else { return Ok(None) };
        if base.dtype != self.dtype || columns > MOST_COLUMNS || self.finest_level() > 0 {
            return Ok(None);
        }
        let low_rank = self.header().and_then(|header| header.low_rank());
        let size = self.dtype.size();
        let mut found = SparseRows::default();
        let (mut over_most, mut work) = (0, <[Vec<f32>; 2]>::default());
        let [mut own, mut predicted, mut of_base, mut added] = <[Vec<f32>; 4]>::default();
        for rows in tile_rows(self) {
            let mut elements = vec![0; rows.len() * columns * size];
            self.tile_row_into(&self.base, rows.start as u64..rows.end as u64, &mut elements)?;
            let there = elements_at(base, self.dtype, &Place { rows: rows.clone(), columns: 0..columns })?;
            for (row, (here, there)) in
                rows.zip(elements.chunks_exact(columns * size).zip(there.chunks_exact(columns * size)))
            {
                let mut sum = there.to_vec();
                if let Some(part) = low_rank {
                    part.add_to_base(self.file.isa, self.dtype, (row, 0..columns), there, &mut sum, &mut work);
                }
                if sum != here {
                    for (bytes, out) in [(here, &mut own), (&sum[..], &mut predicted), (there, &mut of_base)] {
                        out.clear();
                        if !values::to_f32(self.dtype, bytes, out) {
                            return Ok(None);
                        }
                    }
                    added.clear();
                    added.resize(columns, 0.0);
                    if let Some(part) = low_rank {
                        part.row(self.file.isa, row, 0..columns, &mut added);
                    }
                    let far = |column: usize| {
                        let [here, sum] = [here, &sum[..]].map(|bytes| ordinal(&bytes[column * size..][..size]));
                        low_rank.is_none() || here.abs_diff(sum) > 1
                    };
                    let differs = |&column: &usize| own[column].to_bits() != predicted[column].to_bits() && far(column);
                    for column in (0..columns).filter(differs) {
                        found.columns.push(column as u16);
                        found.values.push(own[column] - (of_base[column] + added[column]));
                    }
                }
                found.ends.push(found.values.len());
            }
            over_most = found.ends.len() * columns / ONE_IN;
            // Rows that the base does not have differ in all weights, and come last.
            if found.values.len() > over_most && (found.ends.len() as u64) <= base.matrix.rows() {
                return Ok(None);
            }
        }
        Ok((found.values.len() <= over_most).then_some(FewWeights { rows: found, low_rank }))
    }
}

/// Returns the position of a float among those of its dtype, from its little-endian bytes.
fn ordinal(bytes: &[u8]) -> i64 {
    let bits = bytes.iter().rev().fold(0i64, |bits, &byte| bits << 8 | i64::from(byte));
    let sign = 1 << (8 * bytes.len() - 1);
    if bits & sign == 0 { bits } else { sign - bits }
}
