//! What the manifest says of a tensor: dtype, shape, tiles (SPEC 3.4, 3.5, 4.1).

use impasto_core::{DType, varint};

use crate::cursor::Cursor;
use crate::error::{FormatError, shown};
use crate::geometry::MAX_ELEMENTS;

/// Most dims of a tensor (SPEC 3.4).
pub const MAX_DIMS: u64 = 16;

/// Most bytes of the name of an opaque dtype (SPEC 3.5.2).
pub const MAX_TYPE_NAME: u64 = 64;

/// A tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    /// Type of the elements.
    pub dtype: DType,
    /// What stands for the dtype if that is [`DType::Opaque`]; `None` for every other.
    pub opaque: Option<Opaque>,
    /// Its shape in weights, slowest first; at most 16 dims, empty for a scalar.
    pub dims: Vec<u64>,
    /// How many of the first dims make the rows of its matrix (SPEC 4.1).
    pub split: usize,
    /// Rows of a tile.
    pub tile_rows: u64,
    /// Columns of a tile, in elements: for a block dtype, blocks.
    pub tile_cols: u64,
    /// The number of the object that it is again, if it has no units of its own.
    pub tied: Option<u32>,
}

/// A dtype that the format has no code for, and how many bytes a tensor of it has (SPEC 3.5.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opaque {
    /// The name that the checkpoint gives the dtype, of 1 to 64 bytes; not that of a plain dtype.
    pub name: String,
    /// Bytes of the tensor; its dims do not tell.
    pub bytes: u64,
}

impl TensorMeta {
    /// The name of its dtype: what the checkpoint calls it if it is opaque.
    pub fn dtype_name(&self) -> &str {
        self.opaque.as_ref().map_or(self.dtype.name(), |opaque| &opaque.name)
    }

    /// The product of the dims; at most 2^48 in a file that obeys SPEC 3.4.3, whatever stands beside a 0.
    pub fn weights(&self) -> u64 {
        product(&self.dims).unwrap_or(u64::MAX)
    }

    /// Rows and columns of its matrix, in elements (SPEC 4.1). `name` is that of the tensor, for messages.
    ///
    /// # Errors
    /// A dtype or a shape that SPEC 3.4, 3.4.3, 3.5.1 or 3.5.2 refuses.
    pub(crate) fn sides(&self, name: &str) -> Result<(u64, u64), FormatError> {
        let (rows, cols) = self.sides_in_weights(name)?;
        let (name, split) = (|| shown(name), self.split);
        match (self.dtype, &self.opaque) {
            (DType::Opaque, Some(opaque)) => {
                check_type_name(opaque.name.as_bytes(), name)?;
                if split != 0 {
                    return Err(FormatError::OpaqueSplit { name: name(), split });
                }
                Ok((1, opaque.bytes))
            }
            (DType::Opaque, None) | (_, Some(_)) => Err(FormatError::OpaqueMeta { name: name() }),
            (dtype, None) if dtype.weights() == 1 => Ok((rows, cols)),
            (dtype, None) => {
                let (weights, ndim) = (dtype.weights() as u64, self.dims.len());
                match self.dims[split..].last() {
                    None => Err(FormatError::BlockSplit { name: name(), split, ndim }),
                    // Then `cols` is a multiple too.
                    Some(last) if last.is_multiple_of(weights) => Ok((rows, cols / weights)),
                    Some(&last) => Err(FormatError::BlockDim { name: name(), last, weights }),
                }
            }
        }
    }

    /// The products of the first `split` dims and of the rest.
    fn sides_in_weights(&self, name: &str) -> Result<(u64, u64), FormatError> {
        let (name, ndim) = (|| shown(name), self.dims.len());
        if ndim as u64 > MAX_DIMS {
            return Err(FormatError::Dims { name: name(), ndim: ndim as u64 });
        }
        let Some((above, below)) = self.dims.split_at_checked(self.split) else {
            return Err(FormatError::Split { name: name(), split: self.split as u64, ndim });
        };
        let sides = product(above).zip(product(below));
        let within = |&(rows, cols): &(u64, u64)| rows.checked_mul(cols).is_some_and(|n| n <= MAX_ELEMENTS);
        sides.filter(within).ok_or_else(|| FormatError::Elements { name: name() })
    }

    /// Reads the fields of a tensor. What [`TensorMeta::sides`] checks is left to it.
    pub(crate) fn read(cursor: &mut Cursor<'_>, name: &str) -> Result<TensorMeta, FormatError> {
        let code: u8 = cursor.take()?;
        let dtype = DType::from_code(code).ok_or_else(|| FormatError::Dtype { name: shown(name), code })?;
        let opaque = if dtype == DType::Opaque { Some(Opaque::read(cursor, name)?) } else { None };
        let ndim = cursor.varint()?;
        if ndim > MAX_DIMS {
            return Err(FormatError::Dims { name: shown(name), ndim });
        }
        let dims = (0..ndim).map(|_| cursor.varint()).collect::<Result<Vec<u64>, _>>()?;
        let split = cursor.varint()?;
        let split = usize::try_from(split).map_err(|_| {
            let ndim = dims.len();
            FormatError::Split { name: shown(name), split, ndim }
        })?;
        let (tile_rows, tile_cols) = (cursor.varint()?, cursor.varint()?);
        let tied = match cursor.varint()?.checked_sub(1) {
            None => None,
            Some(to) => {
                let forward = |_| FormatError::TiedForward { name: shown(name), to };
                Some(u32::try_from(to).map_err(forward)?)
            }
        };
        Ok(TensorMeta { dtype, opaque, dims, split, tile_rows, tile_cols, tied })
    }

    /// Appends the fields of the tensor.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.dtype as u8);
        if let Some(opaque) = &self.opaque {
            opaque.write(out);
        }
        varint::write(out, self.dims.len() as u64);
        self.dims.iter().for_each(|&dim| varint::write(out, dim));
        varint::write(out, self.split as u64);
        varint::write(out, self.tile_rows);
        varint::write(out, self.tile_cols);
        varint::write(out, self.tied.map_or(0, |to| u64::from(to) + 1));
    }
}

impl Opaque {
    fn read(cursor: &mut Cursor<'_>, tensor: &str) -> Result<Opaque, FormatError> {
        let length = cursor.varint()?;
        // Before it is taken, so that the clause is the same wherever the record ends.
        if length == 0 || length > MAX_TYPE_NAME {
            return Err(FormatError::TypeNameLength { name: shown(tensor), length });
        }
        let name = check_type_name(cursor.bytes(length)?, || shown(tensor))?.to_owned();
        Ok(Opaque { name, bytes: cursor.varint()? })
    }

    fn write(&self, out: &mut Vec<u8>) {
        varint::write(out, self.name.len() as u64);
        out.extend_from_slice(self.name.as_bytes());
        varint::write(out, self.bytes);
    }
}

/// The name of an opaque dtype, if SPEC 3.5.2 allows it; `tensor` is the name of the tensor, for messages.
fn check_type_name(bytes: &[u8], tensor: impl Fn() -> String) -> Result<&str, FormatError> {
    let length = bytes.len() as u64;
    if length == 0 || length > MAX_TYPE_NAME {
        return Err(FormatError::TypeNameLength { name: tensor(), length });
    }
    match std::str::from_utf8(bytes) {
        Err(_) => Err(FormatError::TypeNameUtf8 { name: tensor() }),
        Ok(name) if DType::from_name(name).is_some() => {
            Err(FormatError::TypeNamePlain { name: tensor(), dtype: shown(name) })
        }
        Ok(name) => Ok(name),
    }
}

/// The product of `dims`, if it is below 2^64. A 0 makes it 0, wherever it stands.
fn product(dims: &[u64]) -> Option<u64> {
    if dims.contains(&0) { Some(0) } else { dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim)) }
}
