//! Bases: the file that a delta is read with, and what its objects take from there (SPEC 21).

use impasto_core::{DType, varint};

use crate::cursor::Cursor;
use crate::error::{FormatError, shown};
use crate::object::{MAX_NAME, Object};
use crate::reader::Reader;
use crate::source::Source;
use crate::tensor::TensorMeta;
use crate::unit::UnitEntry;

/// The largest number of mirrors (SPEC 21.1).
pub const MAX_MIRRORS: u64 = 64;
/// The largest length of a mirror, of the name and of the licence in bytes (SPEC 21.1).
pub const MAX_TEXT: u64 = 4096;

/// The base of a file: another file, which its root identifies (SPEC 21.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// The root of that file.
    pub root: [u8; 32],
    /// The name of the model in it; may be empty.
    pub name: String,
    /// Its licence, as its model card says it; may be empty.
    pub license: String,
    /// Where it may be found: URLs, or paths.
    pub mirrors: Vec<String>,
}

/// What an object takes from the base (SPEC 3.4.7).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BaseLink {
    /// How it is used.
    pub usage: BaseUsage,
    /// The level at which the object of the base is read.
    pub level: u8,
    /// The hash of that object at that level (SPEC 21.3).
    pub hash: [u8; 16],
    /// Its name, if it is not that of this object.
    pub name: Option<String>,
}

/// How an object uses that of the base.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BaseUsage {
    /// Tiles are predicted from it.
    Predicted,
    /// It is identical, and has no units.
    Identical,
}

impl BaseUsage {
    fn code(self) -> u8 {
        match self {
            BaseUsage::Predicted => 1,
            BaseUsage::Identical => 2,
        }
    }
}

impl Base {
    /// Reads the payload of the record.
    pub(crate) fn read(mut payload: Cursor<'_>) -> Result<Base, FormatError> {
        let root = payload.take()?;
        let name = text(&mut payload, "name", 0)?;
        let license = text(&mut payload, "licence", 0)?;
        let count = payload.varint()?;
        if count > MAX_MIRRORS {
            return Err(FormatError::Mirrors { count });
        }
        let mirrors = (0..count).map(|_| text(&mut payload, "mirror", 1)).collect::<Result<_, _>>()?;
        Ok(Base { root, name, license, mirrors })
    }

    /// Appends the payload of the record.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.root);
        put_text(&self.name, out);
        put_text(&self.license, out);
        varint::write(out, self.mirrors.len() as u64);
        self.mirrors.iter().for_each(|mirror| put_text(mirror, out));
    }

    /// Checks the rules of SPEC 21.1 for a record to be written.
    pub(crate) fn check(&self) -> Result<(), FormatError> {
        let count = self.mirrors.len() as u64;
        if count > MAX_MIRRORS {
            return Err(FormatError::Mirrors { count });
        }
        check_text(self.name.len() as u64, "name", 0)?;
        check_text(self.license.len() as u64, "licence", 0)?;
        self.mirrors.iter().try_for_each(|mirror| check_text(mirror.len() as u64, "mirror", 1))
    }
}

impl BaseLink {
    /// Reads the fields at the end of an object record; `None` if there are none. `name` is that of the object.
    pub(crate) fn read(cursor: &mut Cursor<'_>, name: &str) -> Result<Option<BaseLink>, FormatError> {
        if cursor.left() == 0 {
            return Ok(None);
        }
        let usage = match cursor.take::<u8>()? {
            0 => return Ok(None),
            1 => BaseUsage::Predicted,
            2 => BaseUsage::Identical,
            usage => return Err(FormatError::BaseUsage { name: shown(name), usage }),
        };
        let (level, hash) = (cursor.take()?, cursor.take()?);
        let length = cursor.varint()?;
        if length > MAX_NAME {
            return Err(FormatError::BaseName { name: shown(name) });
        }
        let bytes = cursor.bytes(length)?;
        let of_base = std::str::from_utf8(bytes).map_err(|_| FormatError::BaseName { name: shown(name) })?;
        let of_base = (length > 0).then(|| of_base.to_owned());
        Ok(Some(BaseLink { usage, level, hash, name: of_base }))
    }

    /// Appends the fields.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.usage.code());
        out.push(self.level);
        out.extend(self.hash);
        put_text(self.name.as_deref().unwrap_or(""), out);
    }

    /// Checks the rules of SPEC 3.4.7 for an object.
    pub(crate) fn check(&self, object: &Object) -> Result<(), FormatError> {
        let wrong = |what| Err(FormatError::ObjectBase { name: shown(&object.name), what });
        let is_predicted = self.usage == BaseUsage::Predicted;
        if self.name.as_ref().is_some_and(|name| name.is_empty() || name.len() as u64 > MAX_NAME) {
            return Err(FormatError::BaseName { name: shown(&object.name) });
        }
        match object.tensor() {
            None if is_predicted => wrong("an asset, which cannot be predicted"),
            None if self.level > 0 => wrong("an asset, whose level is not 0"),
            None => Ok(()),
            Some(meta) if meta.tied.is_some() => wrong("tied"),
            Some(meta) if meta.reference.is_some() => wrong("a tensor with a reference"),
            Some(meta) if is_predicted && meta.dtype == DType::Opaque => wrong("opaque, and cannot be predicted"),
            Some(_) => Ok(()),
        }
    }
}

impl<S: Source> Reader<S> {
    /// Returns the hash of object number `object` at a level (SPEC 21.3); of the tensor that it is tied to, if it is. `None` if
    /// there is no such object or its class is unknown.
    pub fn object_hash(&self, object: u32, level: u8) -> Option<[u8; 16]> {
        let number = self.resolve(object);
        let of = self.objects().get(number as usize)?;
        self.matrix(number)?;
        let mut fields = vec![level];
        of.write_content(&mut fields);
        match of.base() {
            None => fields.push(0),
            Some(link) => {
                fields.extend([link.usage.code(), link.level]);
                fields.extend(link.hash);
            }
        }
        match of.reference() {
            None => fields.push(0),
            Some(reference) => {
                fields.push(1);
                // A reference has none itself (SPEC 3.4.6).
                fields.extend(self.object_hash(reference, 0)?);
            }
        }
        let mut add = |unit: u32| {
            let entry = self.units().get(unit as usize)?;
            // The number of the object differs from file to file.
            let mut bytes = Vec::with_capacity(UnitEntry::SIZE);
            entry.write(&mut bytes);
            fields.extend(&bytes[size_of::<u32>()..]);
            Some(())
        };
        let base = self.units_of(number)?;
        base.header.into_iter().chain(base.tiles.iter().copied()).try_for_each(&mut add)?;
        for layer in 1..=self.layers_of(number).min(level) {
            let units = self.layer_of(number, layer)?;
            add(units.header)?;
            units.units.iter().copied().try_for_each(&mut add)?;
        }
        let full: [u8; 32] = blake3::hash(&fields).into();
        Some(std::array::from_fn(|i| full[i]))
    }
}

/// Checks SPEC 3.4.7 for all objects of a file, which has a base or not.
pub(crate) fn check_links(objects: &[Object], base: Option<&Base>) -> Result<(), FormatError> {
    let mut links = objects.iter().filter_map(|object| Some((object, object.base()?)));
    match base {
        None => links.next().map_or(Ok(()), |(object, _)| Err(FormatError::NoBase { name: shown(&object.name) })),
        Some(base) => {
            base.check()?;
            links.try_for_each(|(object, link)| link.check(object))
        }
    }
}

/// Returns what of `of`, a tensor of the base, does not fit `meta`, a tensor that uses it (SPEC 21.2).
pub fn misfit(usage: BaseUsage, meta: &TensorMeta, of: &TensorMeta) -> Option<&'static str> {
    let is_identical = usage == BaseUsage::Identical;
    let float = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::F8E4M3 | DType::F8E5M2);
    let has_lattice = |dtype| matches!(dtype, DType::F32 | DType::F16 | DType::Bf16);
    // 0 if any dim is, even if the product of others is too large for a u64.
    let product = |dims: &[u64]| dims.iter().fold(1u64, |product, &dim| product.saturating_mul(dim));
    let columns = |meta: &TensorMeta| meta.dims.get(meta.split..).map(product);
    if is_identical && (meta.dtype, &meta.opaque) != (of.dtype, &of.opaque) {
        Some("is of another dtype")
    } else if is_identical && (&meta.dims, meta.split) != (&of.dims, of.split) {
        Some("is of other dims, or split otherwise")
    } else if is_identical {
        None
    } else if meta.dtype != of.dtype && !(has_lattice(meta.dtype) && float(of.dtype)) {
        Some("is of a dtype that cannot be converted")
    } else if columns(meta) != columns(of) {
        Some("is a matrix of other columns")
    } else {
        None
    }
}

fn text(cursor: &mut Cursor<'_>, field: &'static str, least: u64) -> Result<String, FormatError> {
    let length = cursor.varint()?;
    check_text(length, field, least)?;
    let bytes = cursor.bytes(length)?.to_vec();
    String::from_utf8(bytes).map_err(|_| FormatError::BaseText { field })
}

fn check_text(length: u64, field: &'static str, least: u64) -> Result<(), FormatError> {
    if (least..=MAX_TEXT).contains(&length) { Ok(()) } else { Err(FormatError::BaseText { field }) }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    varint::write(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}
