//! Matrices as bytes.

use std::io;

use impasto_kernels::blocks::BlockMatrix;
use impasto_kernels::dense::DenseMatrix;
use impasto_kernels::low_rank::LowRankMatrix;
use impasto_kernels::packed::PackedMatrix;
use impasto_kernels::stored::{Reader, Writer};

use crate::lattice::LatticeMatrix;
use crate::matrix::Matrix;

/// What a matrix begins with.
const DENSE: usize = 0;
const PACKED: usize = 1;
const PACKED_WITH_LOW_RANK: usize = 2;
const BLOCKS: usize = 3;

/// Writes a matrix; false if it is of a kind that stays in the file of its model.
pub(super) fn write(matrix: &Matrix, to: &mut Writer) -> io::Result<bool> {
    match matrix {
        Matrix::Dense(dense) => {
            to.numbers(&[DENSE])?;
            dense.write(to)?;
        }
        Matrix::Packed(LatticeMatrix { packed, low_rank: None }) => {
            to.numbers(&[PACKED])?;
            packed.write(to)?;
        }
        Matrix::Packed(LatticeMatrix { packed, low_rank: Some(low_rank) }) => {
            to.numbers(&[PACKED_WITH_LOW_RANK])?;
            packed.write(to)?;
            low_rank.write(to)?;
        }
        Matrix::Blocks(blocks) => {
            to.numbers(&[BLOCKS])?;
            blocks.write(to)?;
        }
        Matrix::Coded(_) | Matrix::Over(_) | Matrix::Layered(..) => return Ok(false),
    }
    Ok(true)
}

/// Reads a matrix of this shape; `None` if the bytes are not one.
pub(super) fn read(from: &mut Reader, shape: [usize; 2]) -> Option<Matrix> {
    let [kind] = from.numbers()?;
    let matrix = match kind {
        DENSE => Matrix::Dense(DenseMatrix::read(from)?),
        PACKED => Matrix::Packed(LatticeMatrix { packed: PackedMatrix::read(from)?, low_rank: None }),
        PACKED_WITH_LOW_RANK => {
            let packed = PackedMatrix::read(from)?;
            let low_rank = LowRankMatrix::read(from).filter(|low_rank| low_rank.shape() == shape)?;
            Matrix::Packed(LatticeMatrix { packed, low_rank: Some(Box::new(low_rank)) })
        }
        BLOCKS => Matrix::Blocks(BlockMatrix::read(from)?),
        _ => return None,
    };
    (from.is_at_end() && [matrix.outputs(), matrix.inputs()] == shape).then_some(matrix)
}
