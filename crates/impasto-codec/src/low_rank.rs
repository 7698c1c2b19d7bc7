//! The low-rank part of a tensor: what its tensor header adds to the weights of all its tiles on the lattice and in mode
//! transform (SPEC 19).

use std::ops::Range;

use impasto_core::lattice::write_over_base;
use impasto_core::{DType, Isa, Place, at_each_isa, values};

use crate::error::CodecError;
use crate::index::IndexArray;

/// The most terms (SPEC 19.1).
pub const MOST_TERMS: usize = 255;
/// The largest magnitude of a factor (SPEC 19.1); binary16 holds all integers up to it.
pub const MOST_FACTOR: i16 = 2047;
/// What the weights of a low-rank part may reach at most (SPEC 19.2).
const LIMIT: f64 = 2.0 * (1u128 << 126) as f64;

/// A product of a column of row factors and a row of column factors, times a scale.
#[derive(Clone, Debug, PartialEq)]
pub struct Term {
    /// Finite and above 0.
    pub scale: f32,
    /// The factor of each row, of at most [`MOST_FACTOR`].
    pub rows: IndexArray,
    /// The factor of each column, likewise.
    pub columns: IndexArray,
}

/// A sum of terms, each of which is added to every weight of a tensor: a matrix of low rank.
#[derive(Clone, Debug, PartialEq)]
pub struct LowRank {
    /// At least one, at most [`MOST_TERMS`].
    pub terms: Vec<Term>,
}

impl LowRank {
    /// Checks that SPEC 19 allows this part.
    ///
    /// # Errors
    /// The first field that violates it.
    pub fn check(&self) -> Result<(), CodecError> {
        if self.terms.is_empty() || self.terms.len() > MOST_TERMS {
            return Err(field("rank", self.terms.len() as u64, "it must be 1 to 255", "19.1"));
        }
        let mut most = 0.0;
        for Term { scale, rows, columns } in &self.terms {
            if !(scale.is_finite() && *scale > 0.0) {
                return Err(field("scale", scale.to_bits().into(), "it must be finite and above 0", "19.1"));
            }
            let [row, column] = [rows, columns].map(magnitude);
            if row.max(column) > MOST_FACTOR as u16 {
                return Err(field("factor", row.max(column).into(), "its magnitude must be at most 2047", "19.1"));
            }
            most += f64::from(*scale) * f64::from(row) * f64::from(column);
        }
        if most < LIMIT {
            return Ok(());
        }
        Err(field("rank", self.terms.len() as u64, "the sum of its terms may reach 2^127", "19.2"))
    }

    /// Returns the number of its terms.
    pub fn rank(&self) -> usize {
        self.terms.len()
    }

    /// Returns the bytes of memory that the factors take.
    pub fn memory_bytes(&self) -> usize {
        let arrays = self.terms.iter().flat_map(|term| [&term.rows, &term.columns]);
        size_of_val(&self.terms[..]) + arrays.map(IndexArray::memory_bytes).sum::<usize>()
    }

    /// Returns whether there are factors for every row and column of `place`.
    pub fn covers(&self, place: &Place) -> bool {
        let covers = |term: &Term| term.rows.covers(place.rows.end) && term.columns.covers(place.columns.end);
        self.terms.iter().all(covers)
    }

    /// Replaces `out` by what is added to the weights in row `row`, in some columns. The row and the columns must lie inside
    /// the matrix that the part was read for (SPEC 19.2).
    pub fn row(&self, isa: Isa, row: usize, columns: Range<usize>, out: &mut Vec<f32>) {
        out.clear();
        out.resize(columns.len(), 0.0);
        for term in &self.terms {
            let of_row = term.rows.get(row) as f32 * term.scale;
            match &term.columns {
                IndexArray::Constant(factor) => {
                    let added = of_row * f32::from(*factor);
                    out.iter_mut().for_each(|sum| *sum += added);
                }
                IndexArray::Values(factors) => add(isa, of_row, &factors[columns.clone()], out),
            }
        }
    }

    /// Writes the weights of a base plus what is added to them, rounded to `dtype` (SPEC 21.6), for some columns of row `row`, which
    /// must lie inside the matrix that the part was read for.
    ///
    /// - `over`, `out`: an element of the base and one of the sum for each of these columns, little-endian
    /// - `work`: what is reused from row to row
    pub fn add_to_base(
        &self,
        isa: Isa,
        dtype: DType,
        (row, columns): (usize, Range<usize>),
        over: &[u8],
        out: &mut [u8],
        work: &mut [Vec<f32>; 2],
    ) {
        let [sums, of_base] = work;
        self.row(isa, row, columns, sums);
        of_base.clear();
        values::to_f32(dtype, over, of_base);
        write_over_base(isa, dtype, sums, of_base, over, out);
    }

    /// Appends the part as in a tensor header.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.terms.len() as u8);
        for Term { scale, rows, columns } in &self.terms {
            out.extend(scale.to_le_bytes());
            rows.write(out);
            columns.write(out);
        }
    }

    /// Reads the part of a matrix of `rows` x `columns` from the front of `bytes`. Memory is in proportion to what it takes
    /// there.
    ///
    /// # Errors
    /// If it violates SPEC 19.
    pub(crate) fn read(bytes: &mut &[u8], rows: u64, columns: u64) -> Result<LowRank, CodecError> {
        let truncated = CodecError::Truncated("low-rank part");
        let (&rank, rest) = bytes.split_first().ok_or(truncated)?;
        *bytes = rest;
        let term = |_| {
            let (&scale, rest) = bytes.split_first_chunk().ok_or(CodecError::Truncated("low-rank part"))?;
            *bytes = rest;
            let (rows, columns) = (IndexArray::read(bytes, rows)?, IndexArray::read(bytes, columns)?);
            Ok(Term { scale: f32::from_le_bytes(scale), rows, columns })
        };
        let terms = (0..rank).map(term).collect::<Result<Vec<_>, CodecError>>()?;
        let low_rank = LowRank { terms };
        low_rank.check().map(|()| low_rank)
    }
}

at_each_isa! {
    /// Adds `of_row` times each factor to the sums.
    fn add(of_row: f32, factors: &[i16], sums: &mut [f32]) {
        sums.iter_mut().zip(factors).for_each(|(sum, &factor)| *sum += of_row * f32::from(factor));
    }
}

/// Returns the largest magnitude of the entries.
fn magnitude(array: &IndexArray) -> u16 {
    let (low, high) = array.bounds();
    low.unsigned_abs().max(high.unsigned_abs())
}

fn field(field: &'static str, value: u64, rule: &'static str, clause: &'static str) -> CodecError {
    CodecError::Field { field, value, rule, clause }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn array(n: usize) -> impl Strategy<Value = IndexArray> {
        prop_oneof![
            (-2047i16..=2047).prop_map(IndexArray::Constant),
            prop::collection::vec(-2047i16..=2047, n).prop_map(IndexArray::new),
        ]
    }

    fn term(rows: usize, columns: usize) -> impl Strategy<Value = Term> {
        (1e-6f32..10.0, array(rows), array(columns)).prop_map(|(scale, rows, columns)| Term { scale, rows, columns })
    }

    proptest! {
        #[test]
        fn round_trip_and_rows_are_sums_of_products(
            terms in prop::collection::vec(term(9, 37), 1..6), from in 0usize..37, row in 0usize..9,
        ) {
            let part = LowRank { terms };
            prop_assert_eq!(part.check(), Ok(()));
            let mut bytes = Vec::new();
            part.write(&mut bytes);
            prop_assert_eq!(LowRank::read(&mut &bytes[..], 9, 37), Ok(part.clone()));
            let mut scalar = Vec::new();
            part.row(Isa::Scalar, row, from..37, &mut scalar);
            for (c, &found) in (from..37).zip(&scalar) {
                // Each operation is rounded to binary32 on its own.
                let products = part.terms.iter().map(|term| {
                    (term.rows.get(row) as f32 * term.scale) * term.columns.get(c) as f32
                });
                prop_assert_eq!(found.to_bits(), products.fold(0.0f32, |sum, product| sum + product).to_bits());
            }
            for isa in Isa::available() {
                let mut fast = Vec::new();
                part.row(isa, row, from..37, &mut fast);
                prop_assert_eq!(&fast, &scalar);
            }
        }

        #[test]
        fn never_panics(bytes: Vec<u8>, rows: u64, columns: u64) {
            let _ = LowRank::read(&mut &bytes[..], rows, columns);
        }
    }

    #[test]
    fn refuses_what_the_spec_forbids() {
        let with = |scale, factor| {
            let (rows, columns) = (IndexArray::Constant(2), IndexArray::Constant(factor));
            LowRank { terms: vec![Term { scale, rows, columns }] }.check()
        };
        assert_eq!(with(1.0, 2047), Ok(()));
        for (scale, factor) in [(0.0, 1), (f32::INFINITY, 1), (f32::NAN, 1), (-1.0, 1), (1.0, 2048), (1.0, i16::MIN)] {
            assert!(with(scale, factor).is_err(), "{scale} {factor}");
        }
        assert!(with(1e37, 8).is_ok() && with(1e37, 9).is_err(), "2^127");
        assert!(LowRank { terms: vec![] }.check().is_err());
    }
}
