//! What a tensor is, where its bytes lie, and the rules that tensors of one file keep together.

use std::ops::Range;

use impasto_core::DType;

use crate::error::CheckpointError;
use crate::rules::TensorRule;

/// The longest name of an opaque type in bytes.
pub(crate) const MAX_TYPE_NAME: usize = 64;

/// A tensor of a checkpoint: what it is and where its bytes lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorInfo {
    /// The name, unique in the checkpoint.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// What the file calls the type of an opaque tensor, in 1 to 64 bytes; `None` for every other.
    pub type_name: Option<String>,
    /// The extents in weights, slowest first; empty for a scalar. Of an opaque tensor they say nothing about its bytes.
    pub shape: Vec<u64>,
    /// The place of its file in [`Checkpoint::shards`](crate::Checkpoint::shards).
    pub shard: usize,
    /// Its bytes, counted from the begin of the file's data.
    pub(crate) offsets: Range<u64>,
}

impl TensorInfo {
    /// Its bytes in the file, counted from the begin of the data.
    pub fn offsets(&self) -> Range<u64> {
        self.offsets.clone()
    }

    /// How many bytes it has.
    pub fn byte_len(&self) -> u64 {
        self.offsets.end - self.offsets.start
    }

    /// How many elements it has: weights, blocks of weights, or the bytes of an opaque tensor.
    pub fn elements(&self) -> u64 {
        self.byte_len() / self.dtype.size() as u64
    }

    /// How many weights it has: the product of its shape.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }
}

/// A tensor to write: everything but its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorSpec {
    /// The name, unique in the file.
    pub name: String,
    /// The element type.
    pub dtype: DType,
    /// The extents in weights, slowest first; empty for a scalar.
    pub shape: Vec<u64>,
    /// What `dtype` does not say of an opaque tensor; `None` for every other.
    pub opaque: Option<Opaque>,
}

/// The type of an opaque tensor, and the length that it gives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opaque {
    /// What the file calls the type, in 1 to 64 bytes.
    pub name: String,
    /// Bytes of the tensor.
    pub bytes: u64,
}

impl TensorSpec {
    /// A tensor of a plain or block dtype.
    pub fn new(name: impl Into<String>, dtype: DType, shape: impl Into<Vec<u64>>) -> TensorSpec {
        TensorSpec { name: name.into(), dtype, shape: shape.into(), opaque: None }
    }

    /// A tensor of any other type.
    pub fn opaque(name: impl Into<String>, shape: impl Into<Vec<u64>>, opaque: Opaque) -> TensorSpec {
        TensorSpec { name: name.into(), dtype: DType::Opaque, shape: shape.into(), opaque: Some(opaque) }
    }

    /// Bytes of its data; `None` where shape and dtype make no number of them.
    pub fn byte_len(&self) -> Option<u64> {
        self.checked_len().ok()
    }

    /// Bytes of its data, or why there is no such number.
    pub(crate) fn checked_len(&self) -> Result<u64, TensorRule> {
        match (&self.opaque, self.dtype) {
            (Some(opaque), DType::Opaque) => Ok(opaque.bytes),
            (None, DType::Opaque) | (Some(_), _) => Err(TensorRule::HalfOpaque),
            (None, dtype) => byte_count(&self.shape, dtype.weights() as u64, dtype.size() as u64),
        }
    }

    /// Dtype and shape for a message.
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

/// Bytes of a tensor whose rows are made of elements of so many weights and bytes.
///
/// Refused are a row that is no whole number of elements, and a product, or one on the way from the first extent, that
/// overflows.
pub(crate) fn byte_count(shape: &[u64], weights: u64, bytes: u64) -> Result<u64, TensorRule> {
    let row = shape.last().copied().unwrap_or(1);
    if !row.is_multiple_of(weights) {
        return Err(TensorRule::CutBlock { row, weights });
    }
    let all = shape.iter().try_fold(1u64, |product, &extent| product.checked_mul(extent));
    all.and_then(|all| (all / weights).checked_mul(bytes)).ok_or(TensorRule::Overflow)
}

/// A type of which nothing is known but the name.
pub(crate) fn check_type_name(name: &str) -> Result<(), TensorRule> {
    match name.len() {
        1..=MAX_TYPE_NAME => Ok(()),
        len => Err(TensorRule::TypeName { len, max: MAX_TYPE_NAME }),
    }
}

/// No name comes twice. Leaves the tensors sorted by name.
pub(crate) fn check_names(tensors: &mut [TensorInfo], file_name: &str) -> Result<(), CheckpointError> {
    tensors.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    match tensors.windows(2).find(|pair| pair[0].name == pair[1].name) {
        Some(pair) => Err(CheckpointError::tensor(file_name, &pair[0].name, TensorRule::Duplicate)),
        None => Ok(()),
    }
}

/// Each tensor begins where the one before it ends, at the next multiple of `alignment`. Leaves the tensors in the
/// order of their bytes (those of no bytes before the one that begins at the same place) and returns the last end, of
/// which the next multiple of `alignment` is a number too.
pub(crate) fn check_layout(
    tensors: &mut [TensorInfo],
    alignment: u64,
    file_name: &str,
) -> Result<u64, CheckpointError> {
    // A stable sort: equal ranges stay sorted by name.
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

/// The tensors of a header are exactly those given, in any order.
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
