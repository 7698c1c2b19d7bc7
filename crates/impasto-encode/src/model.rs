//! What is to be encoded: assets, distinct tensors and the ties between them, in the order of the file.

use std::collections::HashMap;

use impasto_checkpoint::{Checkpoint, TensorInfo};
use impasto_codec::DType;
use rayon::prelude::*;

use crate::error::EncodeError;
use crate::matrix::{MatrixView, split};

/// A tensor of the checkpoint with its place in the file.
pub struct Tensor<'a> {
    /// Name, dtype, shape.
    pub info: &'a TensorInfo,
    /// How many dims make the rows.
    pub split: usize,
    /// Index (in the same list) of the first tensor with the same bytes, if that is another.
    pub same_as: Option<usize>,
}

impl<'a> Tensor<'a> {
    /// The tensor as a matrix.
    pub fn matrix(&self, checkpoint: &'a Checkpoint) -> MatrixView<'a> {
        let side = |dims: &[u64]| dims.iter().product::<u64>() as usize;
        let (rows, columns) = self.info.shape.split_at(self.split);
        MatrixView {
            bytes: checkpoint.bytes(self.info),
            dtype: self.info.dtype,
            rows: side(rows),
            columns: side(columns),
        }
    }

    /// Number of weights.
    pub fn elements(&self) -> u64 {
        self.info.shape.iter().product()
    }
}

/// Are rows, columns and elements within what the format holds? (No elements do not mean few rows.)
fn fits(shape: &[u64]) -> bool {
    let side = |dims: &[u64]| {
        if dims.contains(&0) { Some(0) } else { dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim)) }
    };
    let (rows, columns) = shape.split_at(split(shape));
    let elements = side(rows).zip(side(columns)).and_then(|(rows, columns)| rows.checked_mul(columns));
    elements.is_some_and(|n| n <= 1 << 48)
}

/// The tensors of a checkpoint, with repeated ones found.
///
/// # Errors
/// A tensor that the format cannot hold.
pub fn tensors(checkpoint: &Checkpoint) -> Result<Vec<Tensor<'_>>, EncodeError> {
    let infos = checkpoint.tensors();
    if let Some(info) = infos.iter().find(|info| info.shape.len() > 16) {
        return Err(EncodeError::Tensor { tensor: info.name.clone(), rule: "more than 16 dims (SPEC 3.4)" });
    }
    if let Some(info) = infos.iter().find(|info| info.name.is_empty() || info.name.len() > 4096) {
        return Err(EncodeError::Tensor {
            tensor: info.name.clone(),
            rule: "a name is of 1 to 4096 bytes (SPEC 3.4.1)",
        });
    }
    if let Some(info) = infos.iter().find(|info| !fits(&info.shape)) {
        let rule = "more than 2^48 elements, or 2^64 rows or columns (SPEC 3.4.3)";
        return Err(EncodeError::Tensor { tensor: info.name.clone(), rule });
    }
    let mut alike: HashMap<(DType, &[u64]), usize> = HashMap::new();
    for info in infos {
        *alike.entry((info.dtype, &info.shape)).or_default() += 1;
    }
    // Only tensors of the same dtype and shape can be the same; hash those alone.
    let hashes: Vec<Option<blake3::Hash>> = infos
        .par_iter()
        .map(|info| {
            (alike[&(info.dtype, &info.shape[..])] > 1 && info.byte_len() > 0).then(|| {
                let hash = blake3::hash(checkpoint.bytes(info));
                checkpoint.release(info);
                hash
            })
        })
        .collect();
    let mut first: HashMap<(DType, &[u64], blake3::Hash), usize> = HashMap::new();
    let tensors = infos.iter().zip(hashes).enumerate().map(|(i, (info, hash))| {
        let same_as = hash.and_then(|hash| {
            let seen = *first.entry((info.dtype, &info.shape, hash)).or_insert(i);
            (seen != i).then_some(seen)
        });
        Tensor { info, split: split(&info.shape), same_as }
    });
    Ok(tensors.collect())
}
