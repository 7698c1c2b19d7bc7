//! Objects: the tensors and assets of a file (SPEC 3.4).

use impasto_core::name::is_plain;
use impasto_core::{DType, varint};

use crate::base::{BaseLink, BaseUsage};
use crate::cursor::Cursor;
use crate::error::{FormatError, shown};
use crate::geometry::{Matrix, MatrixError, max_tile_elements};
use crate::limits::{Limits, within};
use crate::tensor::TensorMeta;

/// The largest length of a name in bytes (SPEC 3.4.1).
pub const MAX_NAME: u64 = 4096;

/// The suffix of an asset that holds the raw header of a file of tensors, so that a lossless file can restore that file
/// byte for byte (SPEC 3.4.4). The name of the asset is the name of the file, then this suffix.
pub const HEADER_SUFFIX: &str = "#header";

/// The suffix of an asset that is another form of the asset with the rest of its name, and faster to read (SPEC 3.4.5).
pub const COMPILED_SUFFIX: &str = "#compiled";

const ASSET: u8 = 0;
const TENSOR: u8 = 1;

/// A named part of a file: a tensor or an asset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// The name, of 1 to 4096 bytes.
    pub name: String,
    /// The kind of object, with its fields.
    pub kind: ObjectKind,
}

/// The kind of an object, with the fields of its record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ObjectKind {
    /// A file of the checkpoint that is kept with the weights.
    Asset {
        /// Its length in bytes.
        length: u64,
        /// Bytes per tile.
        piece: u64,
        /// The asset of the base that it is identical to, if it has no units (SPEC 3.4.7).
        base: Option<BaseLink>,
    },
    /// A tensor.
    Tensor(TensorMeta),
    /// An object of a class from a later version. Only its name and number are known.
    Unknown(u8),
}

impl Object {
    /// Returns the number of the class.
    pub fn class(&self) -> u8 {
        match self.kind {
            ObjectKind::Asset { .. } => ASSET,
            ObjectKind::Tensor(_) => TENSOR,
            ObjectKind::Unknown(class) => class,
        }
    }

    /// Returns the sort key of objects in a file (SPEC 3.4.1).
    pub fn key(&self) -> (u8, &str) {
        (self.class(), &self.name)
    }

    /// Returns the description of the tensor; `None` if the object is not a tensor.
    pub fn tensor(&self) -> Option<&TensorMeta> {
        match &self.kind {
            ObjectKind::Tensor(meta) => Some(meta),
            _ => None,
        }
    }

    /// Returns the number of the object that this one is tied to, if it is tied.
    pub fn tied(&self) -> Option<u32> {
        self.tensor().and_then(|meta| meta.tied)
    }

    /// Returns the number of the object that tiles of this one may be predicted from, if there is one (SPEC 3.4.6).
    pub fn reference(&self) -> Option<u32> {
        self.tensor().and_then(|meta| meta.reference)
    }

    /// Returns what the object takes from the base, if it takes anything (SPEC 3.4.7).
    pub fn base(&self) -> Option<&BaseLink> {
        match &self.kind {
            ObjectKind::Asset { base, .. } => base.as_ref(),
            ObjectKind::Tensor(meta) => meta.base.as_ref(),
            ObjectKind::Unknown(_) => None,
        }
    }

    /// Returns whether the object is identical to one of the base, and has no units.
    pub fn is_identical(&self) -> bool {
        self.base().is_some_and(|base| base.usage == BaseUsage::Identical)
    }

    /// Returns whether tiles of the object may be predicted from the base.
    pub fn is_delta(&self) -> bool {
        self.base().is_some_and(|base| base.usage == BaseUsage::Predicted)
    }

    /// Returns the dtype of the elements: U8 for an asset, `None` for an object of unknown class.
    pub fn dtype(&self) -> Option<DType> {
        match &self.kind {
            ObjectKind::Asset { .. } => Some(DType::U8),
            ObjectKind::Tensor(meta) => Some(meta.dtype),
            ObjectKind::Unknown(_) => None,
        }
    }

    /// Returns the matrix that the object is coded as (SPEC 4.1); `None` for an object of unknown class.
    ///
    /// # Errors
    /// If the dtype, the shape or the tile size violates SPEC 3.4, 3.4.3, 3.5 or 4.2.
    pub fn matrix(&self) -> Result<Option<Matrix>, FormatError> {
        let (rows, cols, tile_rows, tile_cols) = match &self.kind {
            ObjectKind::Unknown(_) => return Ok(None),
            ObjectKind::Asset { length, piece, .. } => (1, *length, 1, *piece),
            ObjectKind::Tensor(meta) => {
                let (rows, cols) = meta.sides(&self.name)?;
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
        let tile = tile_rows.min(rows) * tile_cols.min(cols);
        if self.dtype().is_some_and(|dtype| tile > max_tile_elements(dtype)) {
            return Err(FormatError::TileBytes { name: name() });
        }
        if !is_asset && tile_cols % 32 != 0 && tile_cols < cols {
            return Err(FormatError::TileCols { name: name(), tile_cols, cols });
        }
        Ok(Some(matrix))
    }

    /// Returns the name of the field that makes the tiles empty, for error messages.
    fn empty_side(&self) -> &'static str {
        match &self.kind {
            ObjectKind::Tensor(meta) if meta.tile_rows == 0 => "tile_rows",
            ObjectKind::Tensor(_) => "tile_cols",
            _ => "piece",
        }
    }

    /// Parses the payload of an object record. `number` is the number of the object, `before` the name of the previous
    /// object. Does not check rules about several objects or those of [`Object::matrix`]; see [`check_objects`].
    pub(crate) fn read(mut cursor: Cursor<'_>, number: usize, before: &str) -> Result<Object, FormatError> {
        let class: u8 = cursor.take()?;
        let name = read_name(&mut cursor, number, before)?;
        let kind = match class {
            ASSET => {
                let (length, piece) = (cursor.varint()?, cursor.varint()?);
                ObjectKind::Asset { length, piece, base: BaseLink::read(&mut cursor, &name)? }
            }
            TENSOR => ObjectKind::Tensor(TensorMeta::read(&mut cursor, &name)?),
            _ => ObjectKind::Unknown(class),
        };
        Ok(Object { name, kind })
    }

    /// Appends the payload of the object record. `before` is the name of the previous object.
    pub(crate) fn write(&self, before: &str, out: &mut Vec<u8>) {
        let shared = self.name.bytes().zip(before.bytes()).take_while(|(a, b)| a == b).count();
        let rest = &self.name.as_bytes()[shared..];
        out.push(self.class());
        varint::write(out, shared as u64);
        varint::write(out, rest.len() as u64);
        out.extend_from_slice(rest);
        self.write_content(out);
        if let ObjectKind::Tensor(meta) = &self.kind {
            meta.write_links(out);
        }
        if let Some(base) = self.base() {
            base.write(out);
        }
    }

    /// Appends the fields that say what the content is: not the name, nor other objects.
    pub(crate) fn write_content(&self, out: &mut Vec<u8>) {
        match &self.kind {
            ObjectKind::Asset { length, piece, .. } => {
                varint::write(out, *length);
                varint::write(out, *piece);
            }
            ObjectKind::Tensor(meta) => meta.write(out),
            ObjectKind::Unknown(_) => {}
        }
    }
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

/// Checks the rules of SPEC 3.4, 3.5 and 4.2 that parsing does not check. Returns the matrix of every object, `None`
/// for one of unknown class.
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
        if object.class() == ASSET && !is_plain(&object.name) {
            return Err(FormatError::AssetName { name: shown(&object.name) });
        }
        check_tie(objects, number, object)?;
        check_reference(objects, number, object)?;
        matrices.push(object.matrix()?);
        before = Some(object);
    }
    check_folders(objects)?;
    Ok(matrices)
}

/// Checks that no asset has the name of a folder of another (SPEC 3.4.4).
fn check_folders(objects: &[Object]) -> Result<(), FormatError> {
    let mut names: Vec<&str> = objects.iter().take_while(|o| o.class() == ASSET).map(|o| o.name.as_str()).collect();
    // What is in a folder follows the folder's name if `/` comes before all other characters.
    let by_parts = |name: &str| name.bytes().map(|byte| if byte == b'/' { 0 } else { byte }).collect::<Vec<_>>();
    names.sort_by_cached_key(|name| by_parts(name));
    for pair in names.windows(2) {
        if pair[1].strip_prefix(pair[0]).is_some_and(|rest| rest.starts_with('/')) {
            return Err(FormatError::AssetFolder { first: shown(pair[0]), second: shown(pair[1]) });
        }
    }
    Ok(())
}

/// Checks SPEC 3.4.2. A tie points to an earlier object that is not tied, so chains and cycles are impossible.
fn check_tie(objects: &[Object], number: usize, object: &Object) -> Result<(), FormatError> {
    let Some(meta) = object.tensor() else { return Ok(()) };
    let Some(to) = meta.tied else { return Ok(()) };
    let name = || shown(&object.name);
    let Some(target) = objects[..number].get(to as usize) else {
        return Err(FormatError::TiedForward { name: name(), to: u64::from(to) });
    };
    let what = match target.tensor() {
        None => "not a tensor",
        Some(target) if target.tied.is_some() => "tied itself",
        Some(target) if target.dtype != meta.dtype => "of another dtype",
        Some(target) if target.opaque != meta.opaque => "of another opaque dtype or length",
        Some(target) if target.dims != meta.dims => "of other dims",
        Some(_) => return Ok(()),
    };
    Err(FormatError::Tied { name: name(), to, what })
}

/// Checks SPEC 3.4.6. A reference has none itself, so chains and cycles are impossible.
fn check_reference(objects: &[Object], number: usize, object: &Object) -> Result<(), FormatError> {
    let Some(meta) = object.tensor() else { return Ok(()) };
    let Some(to) = meta.reference else { return Ok(()) };
    let name = || shown(&object.name);
    if meta.tied.is_some() {
        return Err(FormatError::ReferenceOfTied { name: name() });
    }
    let Some(target) = objects[..number].get(to as usize) else {
        return Err(FormatError::ReferenceForward { name: name(), to: u64::from(to) });
    };
    let tiles = |meta: &TensorMeta| (meta.split, meta.tile_rows, meta.tile_cols);
    let what = match target.tensor() {
        None => "not a tensor",
        Some(target) if target.tied.is_some() => "tied",
        Some(target) if target.reference.is_some() => "a tensor with a reference itself",
        Some(target) if target.base.is_some() => "a tensor with a base",
        Some(target) if target.dtype != meta.dtype => "of another dtype",
        Some(target) if target.dims != meta.dims => "of other dims",
        Some(target) if tiles(target) != tiles(meta) => "of another split or other tiles",
        Some(_) => return Ok(()),
    };
    Err(FormatError::Reference { name: name(), to, what })
}

/// Sums the memory that objects take and checks it against the limits.
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
