//! Tensors, their positions in a file, and the rules for all tensors of a file.

use std::ops::Range;

use impasto_core::DType;

use crate::error::CheckpointError;
use crate::rules::TensorRule;

/// Largest length of an opaque type's name in bytes.
pub(crate) const MAX_TYPE_NAME: usize = 64;

/// A tensor of a checkpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the checkpoint.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The name of an opaque tensor's type in the file, 1 to 64 bytes; `None` for other tensors.
    pub type_name: Option<String>,
    /// The dimensions in weights, slowest first; empty for a scalar. They do not determine the length of an opaque
    /// tensor.
    pub shape: Vec<u64>,
    /// The index of its file in [`Checkpoint::shards`](crate::Checkpoint::shards).
    pub shard: usize,
    /// Its byte range, from the start of the file's data.
    pub(crate) offsets: Range<u64>,
}

impl TensorInfo {
    /// Returns its byte range, from the start of the file's data.
    pub fn offsets(&self) -> Range<u64> {
        self.offsets.clone()
    }

    /// Returns its length in bytes.
    pub fn byte_len(&self) -> u64 {
        self.offsets.end - self.offsets.start
    }

    /// Returns the number of elements: weights, blocks of weights, or the bytes of an opaque tensor.
    pub fn elements(&self) -> u64 {
        self.byte_len() / self.dtype.size() as u64
    }

    /// Returns the number of weights: the product of its shape.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// The description of a tensor to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, unique in the file.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The dimensions in weights, slowest first; empty for a scalar.
    pub shape: Vec<u64>,
    /// Type and length of an opaque tensor; `None` for other tensors.
    pub opaque: Option<Opaque>,
}

/// The type and length of an opaque tensor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// The name of the type in the file, 1 to 64 bytes.
    pub name: String,
    /// Length of the tensor in bytes.
    pub bytes: u64,
}

impl TensorSpec {
    /// Describes a tensor with a plain or block dtype.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<u64>>) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: shape.into(), opaque: None }
    }

    /// Describes a tensor with any other type.
    pub fn opaque(name: impl Into<String>, shape: impl Into<Vec<u64>>, opaque: Opaque) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: DType::Opaque, shape: shape.into(), opaque: Some(opaque) }
    }

    /// Returns its length in bytes, or `None` if shape and dtype are invalid or the length overflows.
    pub fn byte_len(&self) -> Option<u64> {
        self.checked_len().ok()
    }

    /// Returns its length in bytes, or why it has none.
    pub(crate) fn checked_len(&self) -> Result<u64, TensorRule> {
        match (&self.opaque, self.dtype) {
            (Some(opaque), DType::Opaque) => Ok(opaque.bytes),
            (None, DType::Opaque) | (Some(_), _) => Err(TensorRule::HalfOpaque),
            (None, dtype) => byte_count(&self.shape, dtype.weights() as u64, dtype.size() as u64),
        }
    }

    /// Formats dtype and shape for a message.
    fn described(&self) -> String {
        match &self.opaque {
            Some(Opaque { name, bytes }) => format!("{name} {:?} of {bytes} bytes", self.shape),
            None => format!("{} {:?}", self.dtype.name(), self.shape),
        }
    }
}

impl From<&TensorInfo> for TensorSpec {
    fn from(info: &TensorInfo) -> TensorSpec {
        let opaque = info.type_name.clone().map(|name| Opaque { name, bytes: info.byte_len() });
        TensorSpec { name: info.name.clone(), dtype: info.dtype, shape: info.shape.clone(), opaque }
    }
}

/// Returns the bytes of a tensor whose elements have the given numbers of weights and bytes.
///
/// # Errors
/// If a row is not a whole number of elements, or if the product of the dimensions, from the first one on, overflows.
pub(crate) fn byte_count(shape: &[u64], weights: u64, bytes: u64) -> Result<u64, TensorRule> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(weights) {
        return Err(TensorRule::CutBlock { row, weights });
    }
    let all = shape.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent));
    all.and_then(|all| (all / weights).checked_mul(bytes)).ok_or(TensorRule::Overflow)
}

/// Checks the name of an opaque type.
pub(crate) fn check_type_name(name: &str) -> Result<(), TensorRule> {
    match name.len() {
        1..=MAX_TYPE_NAME => Ok(()),
        len => Err(TensorRule::TypeName { len, max: MAX_TYPE_NAME }),
    }
}

/// Checks that names are unique. Sorts the tensors by name.
pub(crate) fn check_names(tensors: &mut [TensorInfo], file_name: &str) -> Result<(), CheckpointError> {
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(CheckpointError::tensor(file_name, &pair[0].name, TensorRule::Duplicate)),
        None => Ok(()),
    }
}

/// Checks that each tensor starts where the previous one ends, at the next multiple of `alignment`. Sorts the tensors
/// by position (empty ones before others with the same start). Returns the end of the last one, which can be aligned
/// without overflow.
pub(crate) fn check_layout(
    tensors: &mut [TensorInfo],
    alignment: u64,
    file_name: &str,
) -> Result<u64, CheckpointError> {
    // A stable sort keeps equal ranges sorted by name.
    tensors.sort_by_key(|t| (t.offsets.start, t.offsets.end));
    let mut previous = 0u64;
    for tensor in tensors.iter() {
        let (begin, place) = (tensor.offsets.start, previous.checked_next_multiple_of(alignment));
        if place != Some(begin) {
            let rule = if begin < previous {
                TensorRule::Overlap { begin, previous }
            } else if !begin.is_multiple_of(alignment) {
                TensorRule::Misaligned { begin, alignment }
            } else {
                TensorRule::Hole { begin, previous }
            };
            return Err(CheckpointError::tensor(file_name, &tensor.name, rule));
        }
        previous = tensor.offsets.end;
        if previous.checked_next_multiple_of(alignment).is_none() {
            return Err(CheckpointError::tensor(file_name, &tensor.name, TensorRule::Overflow));
        }
    }
    Ok(previous)
}

/// Checks that the tensors of a header are exactly the given ones, in any order.
pub(crate) fn check_given(header: &[TensorInfo], given: &[TensorSpec], file_name: &str) -> Result<(), CheckpointError> {
    let broken = |name: &str, rule| Err(CheckpointError::tensor(file_name, name, rule));
    let mut in_header: Vec<&TensorInfo> = header.iter().collect();
    in_header.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    let mut given: Vec<&TensorSpec> = given.iter().collect();
    given.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    if let Some(pair) = given.windows(2).find(|pair| pair[0].name == pair[1].name) {
        return broken(&pair[0].name, TensorRule::Duplicate);
    }
    for spec in &given {
        let Ok(place) = in_header.binary_search_by(|t| t.name.cmp(&spec.name)) else {
            return broken(&spec.name, TensorRule::NotInHeader);
        };
        let found = TensorSpec::from(in_header[place]);
        if found != **spec {
            return broken(&spec.name, TensorRule::Differs { header: found.described(), given: spec.described() });
        }
    }
    for info in in_header {
        if given.binary_search_by(|spec| spec.name.cmp(&info.name)).is_err() {
            return broken(&info.name, TensorRule::NotGiven);
        }
    }
    Ok(())
}
