//! Objects: the tensors and assets of a file (SPEC 3.4).

use impasto_codec::DType;

use crate::cursor::Cursor;
use crate::error::{FormatError, shown};
use crate::geometry::{Matrix, MatrixError};
use crate::limits::{Limits, within};
use impasto_codec::varint;

/// Most bytes of a name (SPEC 3.4.1).
pub const MAX_NAME: u64 = 4096;

/// Most dims of a tensor (SPEC 3.4).
pub const MAX_DIMS: u64 = 16;

const ASSET: u8 = 0;
const TENSOR: u8 = 1;

/// A named part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its name, of 1 to 4096 bytes.
    pub name: String,
    /// What it is.
    pub kind: ObjectKind,
}

/// What an object is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A file that rides along.
    Asset {
        /// Its bytes.
        length: u64,
        /// Bytes of a tile.
        piece: u64,
    },
    /// A tensor.
    Tensor(TensorMeta),
    /// An object of a class that a later version defines: only its name and number are known.
    Unknown(u8),
}

/// A tensor without its elements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorMeta {
    /// Type of the elements.
    pub dtype: DType,
    /// Its shape; at most 16 dims, empty for a scalar.
    pub dims: Vec<u64>,
    /// How many of the first dims make the rows of its matrix (SPEC 4.1).
    pub split: usize,
    /// Rows of a tile.
    pub tile_rows: u64,
    /// Columns of a tile.
    pub tile_cols: u64,
    /// The number of the object that it is again, if it has no units of its own.
    pub tied: Option<u32>,
}

impl Object {
    /// The number of its class.
    pub fn class(&self) -> u8 {
        match self.kind {
            ObjectKind::Asset { .. } => ASSET,
            ObjectKind::Tensor(_) => TENSOR,
            ObjectKind::Unknown(class) => class,
        }
    }

    /// What objects ascend by in a file (SPEC 3.4.1).
    pub fn key(&self) -> (u8, &str) {
        (self.class(), &self.name)
    }

    /// The tensor that it is, if it is one.
    pub fn tensor(&self) -> Option<&TensorMeta> {
        match &self.kind {
            ObjectKind::Tensor(meta) => Some(meta),
            _ => None,
        }
    }

    /// The object that it is again, if it is tied.
    pub fn tied(&self) -> Option<u32> {
        self.tensor().and_then(|meta| meta.tied)
    }

    /// Type of its elements: U8 for an asset, `None` for an object of unknown class.
    pub fn dtype(&self) -> Option<DType> {
        match &self.kind {
            ObjectKind::Asset { .. } => Some(DType::U8),
            ObjectKind::Tensor(meta) => Some(meta.dtype),
            ObjectKind::Unknown(_) => None,
        }
    }

    /// The matrix that it is coded as (SPEC 4.1); `None` for an object of unknown class.
    ///
    /// # Errors
    /// A shape or a division into tiles that SPEC 3.4, 3.4.3 or 4.2 refuses.
    pub fn matrix(&self) -> Result<Option<Matrix>, FormatError> {
        let (rows, cols, tile_rows, tile_cols) = match &self.kind {
            ObjectKind::Unknown(_) => return Ok(None),
            ObjectKind::Asset { length, piece } => (1, *length, 1, *piece),
            ObjectKind::Tensor(meta) => {
                let (rows, cols) = self.sides(meta)?;
                (rows, cols, meta.tile_rows, meta.tile_cols)
            }
        };
        let is_asset = self.class() == ASSET;
        let name = || shown(&self.name);
        let matrix = Matrix::new(rows, cols, tile_rows, tile_cols).map_err(|error| match error {
            MatrixError::Elements => FormatError::Elements { name: name() },
            MatrixError::EmptyTile => FormatError::Zero { name: name(), field: self.empty_side() },
            MatrixError::TileElements => FormatError::TileElements { name: name() },
            MatrixError::TileCount => FormatError::TileCount { name: name() },
        })?;
        if !is_asset && tile_cols % 32 != 0 && tile_cols < cols {
            return Err(FormatError::TileCols { name: name(), tile_cols, cols });
        }
        Ok(Some(matrix))
    }

    /// Rows and columns of the matrix of the tensor `meta` that this object is.
    fn sides(&self, meta: &TensorMeta) -> Result<(u64, u64), FormatError> {
        let (name, ndim) = (|| shown(&self.name), meta.dims.len());
        if ndim as u64 > MAX_DIMS {
            return Err(FormatError::Dims { name: name(), ndim: ndim as u64 });
        }
        let Some((above, below)) = meta.dims.split_at_checked(meta.split) else {
            return Err(FormatError::Split { name: name(), split: meta.split as u64, ndim });
        };
        match (product(above), product(below)) {
            (Some(rows), Some(cols)) => Ok((rows, cols)),
            _ => Err(FormatError::Elements { name: name() }),
        }
    }

    /// The field that makes the tiles empty, for a message.
    fn empty_side(&self) -> &'static str {
        match &self.kind {
            ObjectKind::Tensor(meta) if meta.tile_rows == 0 => "tile_rows",
            ObjectKind::Tensor(_) => "tile_cols",
            _ => "piece",
        }
    }

    /// Reads the payload of an object record. Rules that bind several objects, and those of [`Object::matrix`], are
    /// left to [`check_objects`]. `number` is the object's, `before` the name of the object before.
    pub(crate) fn read(mut cursor: Cursor<'_>, number: usize, before: &str) -> Result<Object, FormatError> {
        let class: u8 = cursor.take()?;
        let name = read_name(&mut cursor, number, before)?;
        let kind = match class {
            ASSET => ObjectKind::Asset { length: cursor.varint()?, piece: cursor.varint()? },
            TENSOR => ObjectKind::Tensor(read_tensor(&mut cursor, &name)?),
            _ => ObjectKind::Unknown(class),
        };
        Ok(Object { name, kind })
    }

    /// Appends the payload of the object's record.
    pub(crate) fn write(&self, before: &str, out: &mut Vec<u8>) {
        let shared = self.name.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        let rest = &self.name.as_bytes()[shared..];
        out.push(self.class());
        varint::write(out, shared as u64);
        varint::write(out, rest.len() as u64);
        out.extend_from_slice(rest);
        match &self.kind {
            ObjectKind::Asset { length, piece } => {
                varint::write(out, *length);
                varint::write(out, *piece);
            }
            ObjectKind::Tensor(meta) => {
                out.push(meta.dtype as u8);
                varint::write(out, meta.dims.len() as u64);
                meta.dims.iter().for_each(|&dim| varint::write(out, dim));
                varint::write(out, meta.split as u64);
                varint::write(out, meta.tile_rows);
                varint::write(out, meta.tile_cols);
                varint::write(out, meta.tied.map_or(0, |to| u64::from(to) + 1));
            }
            ObjectKind::Unknown(_) => {}
        }
    }
}

/// The product of `dims`, if it is below 2^64. A 0 makes it 0, wherever it stands.
fn product(dims: &[u64]) -> Option<u64> {
    if dims.contains(&0) { Some(0) } else { dims.iter().try_fold(1u64, |product, &dim| product.checked_mul(dim)) }
}

fn read_name(cursor: &mut Cursor<'_>, object: usize, before: &str) -> Result<String, FormatError> {
    let prefix = cursor.varint()?;
    let suffix = cursor.varint()?;
    let shared = usize::try_from(prefix).ok().and_then(|prefix| before.as_bytes().get(..prefix));
    let Some(shared) = shared else {
        return Err(FormatError::Prefix { object, prefix, before: before.len() });
    };
    let length = prefix.saturating_add(suffix);
    if length == 0 || length > MAX_NAME {
        return Err(FormatError::NameLength { object, length });
    }
    let name = [shared, cursor.bytes(suffix)?].concat();
    String::from_utf8(name).map_err(|_| FormatError::NameUtf8 { object })
}

fn read_tensor(cursor: &mut Cursor<'_>, name: &str) -> Result<TensorMeta, FormatError> {
    let code: u8 = cursor.take()?;
    let dtype = DType::from_code(code).ok_or_else(|| FormatError::Dtype { name: shown(name), code })?;
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
    Ok(TensorMeta { dtype, dims, split, tile_rows, tile_cols, tied })
}

/// Checks the rules of SPEC 3.4 and 4.2 that parsing leaves open, and gives the matrix of every object (`None` for
/// one of unknown class).
pub(crate) fn check_objects(objects: &[Object]) -> Result<Vec<Option<Matrix>>, FormatError> {
    let mut before: Option<&Object> = None;
    let mut matrices = Vec::with_capacity(objects.len());
    for (number, object) in objects.iter().enumerate() {
        let length = object.name.len() as u64;
        if length == 0 || length > MAX_NAME {
            return Err(FormatError::NameLength { object: number, length });
        }
        if before.is_some_and(|before| before.key() >= object.key()) {
            return Err(FormatError::Order { name: shown(&object.name) });
        }
        check_tie(objects, number, object)?;
        matrices.push(object.matrix()?);
        before = Some(object);
    }
    Ok(matrices)
}

/// Checks SPEC 3.4.2. Since a tie goes to an earlier object that is not tied, ties have no chains and no cycles.
fn check_tie(objects: &[Object], number: usize, object: &Object) -> Result<(), FormatError> {
    let Some(meta) = object.tensor() else { return Ok(()) };
    let Some(to) = meta.tied else { return Ok(()) };
    let name = || shown(&object.name);
    let Some(target) = objects[..number].get(to as usize) else {
        return Err(FormatError::TiedForward { name: name(), to: u64::from(to) });
    };
    let what = match target.tensor() {
        None => "no tensor",
        Some(target) if target.tied.is_some() => "tied itself",
        Some(target) if target.dtype != meta.dtype => "of another dtype",
        Some(target) if target.dims != meta.dims => "of other dims",
        Some(_) => return Ok(()),
    };
    Err(FormatError::Tied { name: name(), to, what })
}

/// Adds up the memory that objects take, and refuses what is over the limits.
pub(crate) struct Tally<'a> {
    limits: &'a Limits,
    objects: u64,
    name_bytes: u64,
}

impl<'a> Tally<'a> {
    pub fn new(limits: &'a Limits) -> Tally<'a> {
        Tally { limits, objects: 0, name_bytes: 0 }
    }

    pub fn add(&mut self, object: &Object) -> Result<(), FormatError> {
        self.objects += 1;
        self.name_bytes += object.name.len() as u64;
        within("objects", self.objects, self.limits.max_objects)?;
        within("bytes of names", self.name_bytes, self.limits.max_name_bytes)
    }
}
