//! Descriptions of tensors in the manifest: dtype, shape, tiles (SPEC 3.4, 3.5, 4.1).

use impasto_core::{DType, varint};

use crate::base::BaseLink;
use crate::cursor::Cursor;
use crate::error::{FormatError, shown};
use crate::geometry::MAX_ELEMENTS;

/// The largest number of dims of a tensor (SPEC 3.4).
pub const MAX_DIMS: u64 = 16;

/// The largest length of the name of an opaque dtype, in bytes (SPEC 3.5.2).
pub const MAX_TYPE_NAME: u64 = 64;

/// The description of a tensor, without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    /// Dtype of the elements.
    pub dtype: DType,
    /// Name and length for [`DType::Opaque`]; `None` for every other dtype.
    pub opaque: Option<Opaque>,
    /// Shape in weights, slowest dim first; at most 16 dims, empty for a scalar.
    pub dims: Vec<u64>,
    /// Number of leading dims whose product is the number of rows of the matrix (SPEC 4.1).
    pub split: usize,
    /// Rows per tile.
    pub tile_rows: u64,
    /// Columns per tile, in elements (blocks for a block dtype).
    pub tile_cols: u64,
    /// Number of the object that this tensor is tied to; `None` if it has its own units.
    pub tied: Option<u32>,
    /// Number of the object that tiles of this tensor may be predicted from (SPEC 3.4.6).
    pub reference: Option<u32>,
    /// The tensor of the base that this one is predicted from or identical to, if there is one (SPEC 3.4.7).
    pub base: Option<BaseLink>,
}

/// A dtype without a code in the format, and the length of a tensor of that dtype (SPEC 3.5.2).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Opaque {
    /// The name that the checkpoint gives the dtype, of 1 to 64 bytes; not the name of a plain dtype.
    pub name: String,
    /// Length of the tensor in bytes, which its dims do not determine.
    pub bytes: u64,
}

impl TensorMeta {
    /// Returns the name of the dtype; for an opaque dtype, the name that the checkpoint gives it.
    pub fn dtype_name(&self) -> &str {
        self.opaque.as_ref().map_or(self.dtype.name(), |opaque| &opaque.name)
    }

    /// Returns the product of the dims: at most 2^48 in a valid file (SPEC 3.4.3), and 0 if any dim is 0.
    pub fn weights(&self) -> u64 {
        product(&self.dims).unwrap_or(u64::MAX)
    }

    /// Returns the rows and columns of the matrix, in elements (SPEC 4.1). `name` is the name of the tensor, for
    /// messages.
    ///
    /// # Errors
    /// If the dtype or the shape violates SPEC 3.4, 3.4.3, 3.5.1 or 3.5.2.
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
                    // `cols` is then a multiple, too.
                    Some(last) if last.is_multiple_of(weights) => Ok((rows, cols / weights)),
                    Some(&last) => Err(FormatError::BlockDim { name: name(), last, weights }),
                }
            }
        }
    }

    /// Returns the product of the first `split` dims and that of the others.
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

    /// Parses the fields of a tensor, without the checks of [`TensorMeta::sides`].
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
        let forward = |to| FormatError::TiedForward { name: shown(name), to };
        let tied = number(cursor.varint()?).map_err(forward)?;
        let forward = |to| FormatError::ReferenceForward { name: shown(name), to };
        let reference = if cursor.left() == 0 { None } else { number(cursor.varint()?).map_err(forward)? };
        let base = BaseLink::read(cursor, name)?;
        Ok(TensorMeta { dtype, opaque, dims, split, tile_rows, tile_cols, tied, reference, base })
    }

    /// Appends the fields of the tensor up to its tiles.
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
    }

    /// Appends the numbers of other objects.
    pub(crate) fn write_links(&self, out: &mut Vec<u8>) {
        varint::write(out, self.tied.map_or(0, |to| u64::from(to) + 1));
        // A payload that ends before it stands for none.
        if self.reference.is_some() || self.base.is_some() {
            varint::write(out, self.reference.map_or(0, |to| u64::from(to) + 1));
        }
    }
}

impl Opaque {
    fn read(cursor: &mut Cursor<'_>, tensor: &str) -> Result<Opaque, FormatError> {
        let length = cursor.varint()?;
        // Checked before the bytes are read, so that the error is the same even if the record ends early.
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

/// Returns the number of an object from a field that is one more, or `None` if that is 0.
///
/// # Errors
/// The number, if no object can have it.
fn number(field: u64) -> Result<Option<u32>, u64> {
    field.checked_sub(1).map(|to| u32::try_from(to).map_err(|_| to)).transpose()
}

/// Returns the name of an opaque dtype, if SPEC 3.5.2 allows it. `tensor` returns the name of the tensor, for messages.
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

/// Returns the product of `dims` if it is below 2^64; 0 if any dim is 0, even if other products overflow.
fn product(dims: &[u64]) -> Option<u64> {
    if dims.contains(&0) { Some(0) } else { dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim)) }
}
