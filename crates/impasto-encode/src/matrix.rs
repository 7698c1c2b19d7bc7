//! A tensor as the matrix that it is coded as.

use std::borrow::Cow;
use std::ops::Range;

use impasto_checkpoint::Change;
use impasto_codec::LowRank;
use impasto_codec::rans::LANES;
use impasto_core::{DType, Isa, values};

use crate::reorder::TensorOrder;

/// A tensor as a matrix of `rows` x `columns` elements (SPEC 4.1). The elements are those of the checkpoint or, if a
/// GGUF is translated, computed from them row by row: no tensor is translated as a whole.
#[derive(Clone, Copy)]
pub struct MatrixView<'a> {
    /// The elements of the checkpoint, little-endian, row-major.
    pub bytes: &'a [u8],
    /// The dtype of `bytes`.
    pub stored: DType,
    /// What turns the checkpoint's elements into those of this matrix.
    pub change: Change,
    /// The order of its rows and columns, after `change`; those of a file that is exact have none.
    pub order: Option<&'a TensorOrder>,
    /// What is taken away from the weights, since the tensor header adds it; elements have it.
    pub less: Option<&'a LowRank>,
    /// The elements of the base, as many as there are here, which are taken away from the weights too.
    pub over: Option<&'a [u8]>,
    /// The dtype of this matrix's elements: `stored`, or F32.
    pub dtype: DType,
    /// Number of rows.
    pub rows: usize,
    /// Number of columns, in elements.
    pub columns: usize,
}

/// Returns after how many dims the columns begin: before the last dim, or after the first one if the last dims are a
/// small convolution kernel rather than the matrices of many experts.
pub fn split(dims: &[u64]) -> usize {
    match dims {
        [] | [_] => 0,
        [_, .., last] if dims.len() > 2 && *last < 32 => 1,
        _ => dims.len() - 1,
    }
}

impl<'a> MatrixView<'a> {
    /// Creates a matrix of elements as they are.
    pub fn plain(bytes: &'a [u8], dtype: DType, rows: usize, columns: usize) -> Self {
        MatrixView {
            bytes,
            stored: dtype,
            change: Change::None,
            order: None,
            less: None,
            over: None,
            dtype,
            rows,
            columns,
        }
    }

    /// The bytes in the checkpoint of row `r`.
    fn stored_row(&self, r: usize) -> &'a [u8] {
        let n = self.columns * self.dtype.weights() / self.stored.weights() * self.stored.size();
        let r = self.order.and_then(|order| order.rows.as_ref()).map_or(r, |rows| rows[r] as usize);
        let r = self.change.gguf_row(r as u64) as usize;
        &self.bytes[r * n..(r + 1) * n]
    }

    /// Returns the index of each column before it was moved, if they were.
    pub fn column_order(&self) -> Option<&'a [u32]> {
        self.order?.columns.as_deref()
    }

    /// Returns whether values or dtype differ from those of the checkpoint.
    fn is_made(&self) -> bool {
        self.stored != self.dtype || self.change.is_within_rows()
    }

    /// Replaces `out` by the weights of row `r`; by nothing if the dtype is not a float.
    pub fn weights(&self, r: usize, out: &mut Vec<f32>) {
        out.clear();
        self.append_weights(r, out);
    }

    /// Appends the weights of row `r` to `out`, less those of the base and of the low-rank part.
    pub fn append_weights(&self, r: usize, out: &mut Vec<f32>) {
        let start = out.len();
        values::to_f32(self.stored, self.stored_row(r), out);
        self.change.values_to_hf(&mut out[start..]);
        if let Some(order) = self.column_order() {
            let before = out[start..].to_vec();
            out[start..].iter_mut().zip(order).for_each(|(weight, &from)| *weight = before[from as usize]);
        }
        if let Some(over) = self.over {
            let (mut of_base, n) = (Vec::new(), self.columns * self.dtype.size());
            values::to_f32(self.dtype, &over[r * n..(r + 1) * n], &mut of_base);
            // One that is not finite takes the place of the weight (SPEC 21.7), whatever is added.
            let finite = out[start..].iter_mut().zip(of_base).filter(|(_, of_base)| of_base.is_finite());
            finite.for_each(|(weight, of_base)| *weight -= of_base);
        }
        if let Some(less) = self.less {
            let mut taken = Vec::new();
            less.row(Isa::best(), r, 0..self.columns, &mut taken);
            out[start..].iter_mut().zip(taken).for_each(|(weight, taken)| *weight -= taken);
        }
    }

    /// Returns the dtype of the blocks that these floats are made of, if they are.
    pub fn made_of_blocks(&self) -> Option<DType> {
        Some(self.stored).filter(|stored| stored.is_block() && self.dtype != *stored)
    }

    /// Returns after how many columns tiles may end: whole blocks, of which the matrix is made, and lanes.
    pub fn unit(&self) -> usize {
        self.made_of_blocks().map_or(LANES, |dtype| dtype.weights().max(LANES))
    }

    /// Returns the blocks of columns `columns` of row `r`, of which these floats are made.
    pub fn blocks(&self, r: usize, columns: Range<usize>) -> &'a [u8] {
        let bytes = |column: usize| column / self.stored.weights() * self.stored.size();
        &self.stored_row(r)[bytes(columns.start)..bytes(columns.end)]
    }

    /// Returns the elements of columns `columns` of row `r`, as bytes.
    pub fn part(&self, r: usize, columns: Range<usize>) -> Cow<'a, [u8]> {
        if self.is_made() {
            let mut weights = Vec::with_capacity(self.columns);
            MatrixView { over: None, less: None, ..*self }.weights(r, &mut weights);
            return Cow::Owned(weights[columns].iter().flat_map(|w| w.to_le_bytes()).collect());
        }
        let (size, row) = (self.dtype.size(), self.stored_row(r));
        if let Some(order) = self.column_order() {
            let element = |&from: &u32| &row[from as usize * size..][..size];
            return Cow::Owned(order[columns].iter().flat_map(element).copied().collect());
        }
        Cow::Borrowed(&row[columns.start * size..columns.end * size])
    }

    /// Returns the bytes of row `r`.
    pub fn row(&self, r: usize) -> Cow<'a, [u8]> {
        self.part(r, 0..self.columns)
    }

    /// Returns elements `range` in row-major order, as bytes.
    pub fn elements(&self, range: Range<usize>) -> Cow<'a, [u8]> {
        let size = self.dtype.size();
        if !self.is_made() && self.change == Change::None && self.order.is_none() {
            return Cow::Borrowed(&self.bytes[range.start * size..range.end * size]);
        }
        let mut out = Vec::with_capacity(range.len() * size);
        let mut at = range.start;
        while at < range.end {
            let (r, c) = (at / self.columns, at % self.columns);
            let end = self.columns.min(c + range.end - at);
            out.extend_from_slice(&self.part(r, c..end));
            at += end - c;
        }
        Cow::Owned(out)
    }

    /// Returns the number of elements.
    pub fn len(&self) -> usize {
        self.rows * self.columns
    }

    /// Returns whether all elements are the same, which usually takes a look at two of them.
    pub fn is_constant(&self) -> bool {
        is_constant(self.bytes, self.stored)
    }
}

/// Returns whether all elements of `dtype` are the same.
pub fn is_constant(bytes: &[u8], dtype: DType) -> bool {
    let size = dtype.size().min(bytes.len());
    bytes[size..] == bytes[..bytes.len() - size]
}

/// Returns whether a float tensor contains NaN or infinity; false for other dtypes.
pub fn has_non_finite(matrix: &MatrixView) -> bool {
    // An exponent of all ones. (F8_E4M3 has no infinity, and its NaN also has a mantissa of all ones.)
    let ones = |bits: u32, mask: u32| bits & mask == mask;
    let found = |bytes: &[u8]| {
        let mut pairs = bytes.as_chunks::<2>().0.iter().map(|&b| u32::from(u16::from_le_bytes(b)));
        match matrix.dtype {
            DType::F32 | DType::C64 => {
                bytes.as_chunks::<4>().0.iter().any(|&b| ones(u32::from_le_bytes(b), 0x7F80_0000))
            }
            DType::F64 => bytes.as_chunks::<8>().0.iter().any(|&b| !f64::from_le_bytes(b).is_finite()),
            DType::F16 => pairs.any(|b| ones(b, 0x7C00)),
            DType::Bf16 => pairs.any(|b| ones(b, 0x7F80)),
            DType::F8E4M3 => bytes.iter().any(|&b| ones(b.into(), 0x7F)),
            DType::F8E5M2 => bytes.iter().any(|&b| ones(b.into(), 0x7C)),
            DType::F8E8M0 => bytes.contains(&0xFF),
            _ => false,
        }
    };
    (0..matrix.rows).any(|r| found(&matrix.row(r)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};

    #[test]
    fn splits() {
        assert_eq!(split(&[]), 0);
        assert_eq!(split(&[7]), 0);
        assert_eq!(split(&[7, 9]), 1);
        assert_eq!(split(&[384, 80, 3]), 1, "a convolution");
        assert_eq!(split(&[8, 512, 128]), 2, "experts");
    }

    #[test]
    fn constants() {
        assert!(is_constant(&[1, 2, 1, 2, 1, 2], DType::Bf16) && !is_constant(&[1, 2, 1, 2, 1, 3], DType::Bf16));
        assert!(!is_constant(&[1, 2, 1, 2], DType::U8) && is_constant(&[5], DType::U8) && is_constant(&[], DType::F32));
    }

    #[test]
    fn non_finite_bits() {
        let found = |dtype: DType, bytes: &[u8]| {
            has_non_finite(&MatrixView::plain(bytes, dtype, 1, bytes.len() / dtype.size()))
        };
        assert!(found(DType::F32, &f32::NAN.to_le_bytes()) && !found(DType::F32, &f32::MAX.to_le_bytes()));
        assert!(found(DType::F64, &f64::INFINITY.to_le_bytes()) && !found(DType::F64, &f64::MAX.to_le_bytes()));
        assert!(found(DType::Bf16, &bf16::NEG_INFINITY.to_le_bytes()) && !found(DType::Bf16, &bf16::MAX.to_le_bytes()));
        assert!(found(DType::F16, &f16::NAN.to_le_bytes()) && !found(DType::F16, &f16::MAX.to_le_bytes()));
        assert!(found(DType::F8E4M3, &[0xFF]) && !found(DType::F8E4M3, &[0x7E]));
        assert!(found(DType::F8E5M2, &[0x7C]) && !found(DType::F8E5M2, &[0x7B]));
        assert!(!found(DType::I32, &[0xFF; 4]));
    }

    /// A Q8_0 matrix of two attention heads with four rows, read as binary32 in the row order of transformers.
    #[test]
    fn a_translated_matrix_is_made_row_by_row() {
        let block = |r: u8| [&f16::ONE.to_le_bytes()[..], &[r; 32]].concat();
        let bytes: Vec<u8> = (0..8).flat_map(block).collect();
        let change = Change::HeadRows { head_dim: 4 };
        let (stored, order) = (DType::Q8_0, None);
        let matrix = MatrixView {
            bytes: &bytes,
            stored,
            change,
            order,
            less: None,
            over: None,
            dtype: DType::F32,
            rows: 8,
            columns: 32,
        };
        let mut w = Vec::new();
        let first: Vec<f32> = (0..8)
            .map(|r| {
                matrix.weights(r, &mut w);
                w[5]
            })
            .collect();
        assert_eq!(first, [0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let all: Vec<u8> = (0..8).flat_map(|r| matrix.row(r).into_owned()).collect();
        assert_eq!(&all[8 * 4 * 3..8 * 4 * 9], &matrix.elements(24..72)[..], "across rows");
        let kept = MatrixView { dtype: DType::Q8_0, columns: 1, ..matrix };
        assert_eq!(&kept.row(1)[..], &bytes[2 * 34..3 * 34], "blocks stay blocks");
    }

    /// Rows are moved after they are translated, and elements within them, whatever way they are read.
    #[test]
    fn an_order_moves_rows_and_columns() {
        let order = TensorOrder { rows: Some(vec![1, 2, 0]), columns: Some(vec![3, 0, 1, 2]) };
        let bytes: Vec<u8> = (0..12u16).flat_map(|i| f16::from_f32(i.into()).to_le_bytes()).collect();
        let matrix = MatrixView { order: Some(&order), ..MatrixView::plain(&bytes, DType::F16, 3, 4) };
        let expected = [7.0, 4.0, 5.0, 6.0, 11.0, 8.0, 9.0, 10.0, 3.0, 0.0, 1.0, 2.0];
        let mut weights = vec![];
        (0..3).for_each(|r| matrix.append_weights(r, &mut weights));
        assert_eq!(weights, expected);
        let floats =
            |bytes: &[u8]| bytes.as_chunks().0.iter().map(|&b| f16::from_le_bytes(b).to_f32()).collect::<Vec<_>>();
        assert_eq!(floats(&matrix.elements(0..12)), expected);
        assert_eq!(floats(&matrix.elements(3..9)), expected[3..9]);
        assert_eq!(floats(&matrix.part(1, 1..3)), expected[5..7]);
        let heads = MatrixView { change: Change::HeadRows { head_dim: 2 }, rows: 2, ..matrix };
        let order = TensorOrder { rows: Some(vec![1, 0]), columns: None };
        let heads = MatrixView { order: Some(&order), ..heads };
        assert_eq!(floats(&heads.elements(0..8)), [4.0, 5.0, 6.0, 7.0, 0.0, 1.0, 2.0, 3.0]);
        let halves = MatrixView { change: Change::PlusOne, dtype: DType::F32, ..matrix };
        let wide: Vec<f32> = halves.row(0).as_chunks().0.iter().map(|&b| f32::from_le_bytes(b)).collect();
        assert_eq!(wide, [6.0, 3.0, 4.0, 5.0]);
    }
}
