//! The tensors of a file and the ties between them, in the order of the file.

use std::collections::HashMap;

#[cfg(feature = "gguf")]
use impasto_checkpoint::gguf::hf::{Mapped, NameMap};
use impasto_checkpoint::{Change, Checkpoint, TensorInfo};
use impasto_container::BaseUsage;
use impasto_core::DType;
use rayon::prelude::*;

use crate::error::EncodeError;
use crate::matrix::{MatrixView, is_constant, split};
use crate::over::OverTensor;
use crate::plan::Plan;
use crate::reorder::{Reordering, TensorOrder};
use crate::tiles::EMPTY_TILE;

/// Bytes of each end of a tensor that say whether it may be equal to another one.
const ENDS: usize = 4096;

/// A tensor of the file.
pub struct Tensor<'a> {
    /// The tensor of the checkpoint that it is made from.
    pub info: &'a TensorInfo,
    /// Its name in the file.
    pub name: String,
    /// Its type in the file.
    pub dtype: DType,
    /// What turns the checkpoint's elements into those of the file.
    pub change: Change,
    /// Its name in transformers, which statistics use.
    pub hf_name: String,
    /// How its rows in the file differ from those in transformers.
    pub rows: Change,
    /// The order of its rows and columns in the file, of which `change` knows nothing.
    pub order: Option<&'a TensorOrder>,
    /// Number of dims that form the rows.
    pub split: usize,
    /// Index (in the same list) of the first tensor with the same bytes, if that is another one.
    pub same_as: Option<usize>,
    /// What it takes from the base, if the file has one.
    pub over: Option<TensorOver<'a>>,
}

/// What a tensor takes from the base.
#[derive(Clone, Copy)]
pub struct TensorOver<'a> {
    pub of_base: &'a OverTensor,
    /// The elements that it is predicted from; `None` if it is identical.
    pub elements: Option<&'a [u8]>,
}

impl<'a> Tensor<'a> {
    /// A tensor that is kept as it is in the checkpoint.
    fn as_it_is(info: &'a TensorInfo) -> Self {
        let split = if info.dtype == DType::Opaque { 0 } else { split(&info.shape) };
        let (name, dtype) = (info.name.clone(), info.dtype);
        Tensor {
            info,
            hf_name: name.clone(),
            name,
            dtype,
            change: Change::None,
            rows: Change::None,
            order: None,
            split,
            same_as: None,
            over: None,
        }
    }

    /// A tensor of a GGUF that is kept as it is.
    #[cfg(feature = "gguf")]
    fn of_gguf(info: &'a TensorInfo, names: &NameMap) -> Self {
        let tensor = Tensor::as_it_is(info);
        match names.hf_tensor(&info.name, &info.shape) {
            Some(Mapped { name, change }) => Tensor { hf_name: name, rows: change, ..tensor },
            None => tensor,
        }
    }

    /// A tensor of a GGUF with the name, row order and values that it has in transformers. Blocks become floats.
    #[cfg(feature = "gguf")]
    fn translated(info: &'a TensorInfo, Mapped { name, change }: Mapped) -> Self {
        let mut tensor = Tensor { hf_name: name.clone(), name, change, ..Tensor::as_it_is(info) };
        if info.dtype.is_block() || change.is_within_rows() {
            tensor.dtype = DType::F32;
        }
        tensor
    }

    /// Returns the rows and columns of the matrix.
    pub fn sides(&self) -> (u64, u64) {
        let (rows, columns) = self.info.shape.split_at(self.split);
        let columns = side(columns) / self.dtype.weights() as u64;
        if self.dtype == DType::Opaque { (1, self.info.byte_len()) } else { (side(rows), columns) }
    }

    /// Returns the tensor as a matrix.
    pub fn matrix(&self, checkpoint: &'a Checkpoint) -> MatrixView<'a> {
        let (rows, columns) = self.sides();
        let (rows, columns) = (rows as usize, columns as usize);
        let bytes = checkpoint.bytes(self.info);
        let (stored, change, order) = (self.info.dtype, self.change, self.order);
        MatrixView { bytes, stored, change, order, less: None, over: None, dtype: self.dtype, rows, columns }
    }

    /// Returns whether it is identical to a tensor of the base, and has no units.
    pub fn is_identical(&self) -> bool {
        self.over.is_some_and(|over| over.elements.is_none())
    }

    /// Returns what it takes from the base with this plan.
    pub fn usage(&self, plan: Option<&Plan>) -> Option<BaseUsage> {
        let over = self.over?;
        let taken = over.elements.is_none() || plan.is_some_and(|plan| plan.is_over);
        taken.then_some(over.of_base.link.usage)
    }

    /// Returns the elements of the base that it is predicted from.
    pub fn over_elements(&self) -> Option<&'a [u8]> {
        self.over.and_then(|over| over.elements)
    }

    /// Returns the index in transformers of row `row` of the file.
    pub fn hf_row(&self, row: usize) -> usize {
        let order = self.order.and_then(|order| order.rows.as_deref());
        self.rows.hf_row(order.map_or(row, |order| order[row] as usize) as u64) as usize
    }

    /// Returns the index in transformers of column `column` of the file.
    pub fn hf_column(&self, column: usize) -> usize {
        let order = self.order.and_then(|order| order.columns.as_deref());
        order.map_or(column, |order| order[column] as usize)
    }

    /// Returns whether its weights are floats in the file, made of blocks.
    pub fn is_of_blocks(&self) -> bool {
        self.info.dtype.is_block() && !self.dtype.is_block()
    }

    /// Returns the number of weights.
    pub fn weights(&self) -> u64 {
        self.info.weights()
    }

    /// Returns the length of its elements in the file's dtype, in bytes.
    pub fn raw_bytes(&self) -> u64 {
        if self.dtype == self.info.dtype { self.info.byte_len() } else { self.weights() * self.dtype.size() as u64 }
    }
}

/// Returns the product of dims.
fn side(dims: &[u64]) -> u64 {
    dims.iter().product()
}

/// Returns whether rows, columns and elements are within the limits of the format. A tensor without elements may still
/// have too many rows.
fn fits(shape: &[u64]) -> bool {
    let side = |dims: &[u64]| {
        if dims.contains(&0) { Some(0) } else { dims.iter().try_fold(1u64, |n, &dim| n.checked_mul(dim)) }
    };
    let (rows, columns) = shape.split_at(split(shape));
    let elements = side(rows).zip(side(columns)).and_then(|(rows, columns)| rows.checked_mul(columns));
    elements.is_some_and(|n| n <= 1 << 48)
}

/// Returns the tensors of a checkpoint, with ties. Those of an `exact` file are kept as they are; otherwise, those of a
/// GGUF are translated to their form in a Hugging Face folder, and some may be reordered.
///
/// # Errors
/// If the format cannot hold a tensor, or an order does not fit one.
pub fn tensors<'a>(
    checkpoint: &'a Checkpoint,
    exact: bool,
    reordering: Option<&'a Reordering>,
) -> Result<Vec<Tensor<'a>>, EncodeError> {
    let mut tensors: Vec<Tensor> = if exact { kept(checkpoint) } else { of_hf(checkpoint) };
    tensors.sort_by(|a, b| a.name.cmp(&b.name));
    let broken = |name: &str, rule| Err(EncodeError::Tensor { tensor: name.to_owned(), rule });
    for (i, Tensor { name, info, .. }) in tensors.iter().enumerate() {
        if info.shape.len() > 16 {
            return broken(name, "it has more than 16 dimensions (SPEC 3.4)");
        }
        if name.is_empty() || name.len() > 4096 {
            return broken(name, "its name must have 1 to 4096 bytes (SPEC 3.4.1)");
        }
        if !fits(&info.shape) {
            return broken(name, "it has more than 2^48 elements, or 2^64 rows or columns (SPEC 3.4.3)");
        }
        if i > 0 && tensors[i - 1].name == *name {
            return broken(name, "two tensors of the GGUF have this name in a Hugging Face folder");
        }
    }
    for (name, order) in reordering.iter().flat_map(|reordering| reordering.tensors()) {
        let found = tensors.binary_search_by(|tensor| tensor.name.as_str().cmp(name));
        let tensor = found.ok().map(|i| &mut tensors[i]).filter(|tensor| order.fits(&tensor.info.shape));
        let Some(tensor) = tensor else {
            return broken(name, "the order of its rows or columns was made for another checkpoint");
        };
        tensor.order = Some(order);
    }
    find_repeated(checkpoint, &mut tensors);
    Ok(tensors)
}

/// Returns the tensors as they are.
fn kept(checkpoint: &Checkpoint) -> Vec<Tensor<'_>> {
    #[cfg(feature = "gguf")]
    if let Some(names) = checkpoint.metadata().and_then(NameMap::of_gguf) {
        return checkpoint.tensors().iter().map(|info| Tensor::of_gguf(info, &names)).collect();
    }
    checkpoint.tensors().iter().map(Tensor::as_it_is).collect()
}

/// Returns the tensors as they are in a Hugging Face folder.
fn of_hf(checkpoint: &Checkpoint) -> Vec<Tensor<'_>> {
    #[cfg(feature = "gguf")]
    if let Some(metadata) = checkpoint.metadata() {
        let names = NameMap::of_gguf(metadata);
        let hf = |info: &TensorInfo| match &names {
            Some(names) => names.hf_tensor(&info.name, &info.shape),
            None => Some(Mapped { name: info.name.clone(), change: Change::None }),
        };
        let tensors = checkpoint.tensors().iter();
        return tensors.filter_map(|info| Some(Tensor::translated(info, hf(info)?))).collect();
    }
    checkpoint.tensors().iter().map(Tensor::as_it_is).collect()
}

/// Returns the hash of the first and last bytes of a tensor.
pub fn ends(checkpoint: &Checkpoint, info: &TensorInfo) -> blake3::Hash {
    let bytes = checkpoint.bytes(info);
    let length = bytes.len().min(ENDS);
    let mut hasher = blake3::Hasher::new();
    hasher.update(&bytes[..length]).update(&bytes[bytes.len() - length..]);
    hasher.finalize()
}

/// Finds repeated tensors: the same bytes with the same interpretation and order.
///
/// Large ones whose elements are all the same are not tied: they code to almost nothing anyway, and ties to them would let
/// the file expand to more than readers allow (SPEC 11.3).
fn find_repeated(checkpoint: &Checkpoint, tensors: &mut [Tensor]) {
    type Kind<'a> = (DType, Option<&'a str>, Change, Option<&'a TensorOrder>, &'a [u64]);
    fn kind<'a>(t: &Tensor<'a>) -> Kind<'a> {
        (t.info.dtype, t.info.type_name.as_deref(), t.change, t.order, &t.info.shape)
    }
    // Only tensors of the same kind that begin and end alike can be equal, so others need no hash.
    let ends: Vec<blake3::Hash> = tensors.par_iter().map(|tensor| ends(checkpoint, tensor.info)).collect();
    let mut alike: HashMap<(Kind, blake3::Hash), usize> = HashMap::new();
    for (tensor, ends) in tensors.iter().zip(&ends) {
        *alike.entry((kind(tensor), *ends)).or_default() += 1;
    }
    let hash = |(tensor, ends): (&Tensor, &blake3::Hash)| {
        if alike[&(kind(tensor), *ends)] < 2 {
            return None;
        }
        let bytes = checkpoint.bytes(tensor.info);
        let is_empty = bytes.is_empty() || bytes.len() as u64 > EMPTY_TILE && is_constant(bytes, tensor.info.dtype);
        let hash = (!is_empty).then(|| blake3::hash(bytes));
        checkpoint.release(tensor.info);
        hash
    };
    let hashes: Vec<Option<blake3::Hash>> = tensors.par_iter().zip(&ends).map(hash).collect();
    let mut first: HashMap<(Kind, blake3::Hash), usize> = HashMap::new();
    for (i, (tensor, hash)) in tensors.iter_mut().zip(hashes).enumerate() {
        let Some(hash) = hash else { continue };
        let seen = *first.entry((kind(tensor), hash)).or_insert(i);
        tensor.same_as = (seen != i).then_some(seen);
    }
}
