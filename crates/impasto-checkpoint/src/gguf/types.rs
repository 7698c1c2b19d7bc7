//! The types of ggml: their numbers in a GGUF file, and the sizes of their blocks.

use impasto_core::DType;

use crate::rules::TensorRule;
use crate::tensor::{TensorSpec, byte_count};

/// Types with one weight per element.
const PLAIN: [(u32, DType); 8] = [
    (0, DType::F32),
    (1, DType::F16),
    (24, DType::I8),
    (25, DType::I16),
    (26, DType::I32),
    (27, DType::I64),
    (28, DType::F64),
    (30, DType::Bf16),
];

/// Offset from ggml's number of a block type to its dtype code.
const BLOCK_CODE: u32 = 64;

/// Types without a dtype: number, name, and weights and bytes of a block, as in the Python package gguf.
///
/// Q8_1 is omitted: it does not occur in files, and ggml and that package disagree on its size.
const OPAQUE: [(u32, &str, u64, u64); 3] = [(15, "Q8_K", 256, 292), (40, "NVFP4", 64, 36), (41, "Q1_0", 128, 18)];

/// Prefix of the number in the name of an unknown type.
const NAMELESS: &str = "GGML_";

/// A type of ggml.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct GgmlType {
    pub dtype: DType,
    /// The name of an opaque type.
    pub name: Option<String>,
    /// Weights and bytes of an element; `None` if unknown.
    size: Option<(u64, u64)>,
}

impl GgmlType {
    /// Returns the type with a number; every number has one.
    pub fn of(number: u32) -> GgmlType {
        let plain = PLAIN.iter().find(|(n, _)| *n == number).map(|(_, dtype)| *dtype);
        let block = || DType::BLOCKS.into_iter().find(|dtype| *dtype as u32 == number.saturating_add(BLOCK_CODE));
        if let Some(dtype) = plain.or_else(block) {
            let size = Some((dtype.weights() as u64, dtype.size() as u64));
            return GgmlType { dtype, name: None, size };
        }
        let known = OPAQUE.iter().find(|(n, ..)| *n == number);
        GgmlType {
            dtype: DType::Opaque,
            name: Some(known.map_or_else(|| format!("{NAMELESS}{number}"), |known| known.1.to_owned())),
            size: known.map(|&(_, _, weights, bytes)| (weights, bytes)),
        }
    }

    /// Returns whether the length of a tensor of this type is known only from the file.
    pub fn is_open(&self) -> bool {
        self.size.is_none()
    }

    /// Returns the bytes of a tensor with a shape, slowest dimension first; `None` if the type does not determine it.
    pub fn byte_len(&self, shape: &[u64]) -> Result<Option<u64>, TensorRule> {
        match self.size {
            Some((weights, bytes)) => byte_count(shape, weights, bytes).map(Some),
            None => byte_count(shape, 1, 1).map(|_| None),
        }
    }
}

/// Returns ggml's number for the type of a tensor.
pub(super) fn number(tensor: &TensorSpec) -> Result<u32, TensorRule> {
    let name = tensor.opaque.as_ref().map_or(tensor.dtype.name(), |opaque| &opaque.name);
    let number = match &tensor.opaque {
        Some(opaque) => {
            let known = OPAQUE.iter().find(|(_, name, ..)| *name == opaque.name).map(|(number, ..)| *number);
            known.or_else(|| opaque.name.strip_prefix(NAMELESS)?.parse().ok())
        }
        None if tensor.dtype.is_block() => Some(tensor.dtype as u32 - BLOCK_CODE),
        None => PLAIN.iter().find(|(_, dtype)| *dtype == tensor.dtype).map(|(number, _)| *number),
    };
    number.ok_or_else(|| TensorRule::NoSuchType { format: "GGUF", dtype: name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::{GgmlType, number};
    use crate::tensor::{Opaque, TensorSpec};
    use impasto_core::DType;

    #[test]
    fn every_number_has_a_type_and_every_type_its_number() {
        for n in (0..256).chain([u32::MAX - 64, u32::MAX]) {
            let found = GgmlType::of(n);
            let opaque = found.name.map(|name| Opaque { name, bytes: 0 });
            let spec = TensorSpec { name: "t".into(), dtype: found.dtype, shape: vec![], opaque };
            assert_eq!(number(&spec).ok(), Some(n), "{spec:?}");
        }
        assert_eq!(number(&TensorSpec::new("t", DType::Q6K, [256])).ok(), Some(14));
        let none = number(&TensorSpec::new("t", DType::U8, [1])).unwrap_err();
        assert_eq!(none.to_string(), "GGUF has no type U8");
        let none = number(&TensorSpec::opaque("t", [1], Opaque { name: "F4".into(), bytes: 1 })).unwrap_err();
        assert_eq!(none.to_string(), "GGUF has no type F4");
    }
}
