//! The base of a delta: what of it the tensors and assets of a checkpoint are like, as they will be predicted.
//!
//! The elements of the base are decoded once, to a temporary file that is mapped; further passes over the weights read them there.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::fmt::Debug;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::ops::Range;
use std::path::Path;

use impasto_checkpoint::{Checkpoint, CheckpointError};
use impasto_container::base::misfit;
use impasto_container::{Base, BaseLink, BaseUsage, Opaque, TensorMeta};
use impasto_core::DType;
use impasto_core::files::{MadeFolders, Map, folder_of};

use crate::error::EncodeError;
use crate::model::{Tensor, TensorOver};
use crate::plan::has_lattice;

/// About the bytes of the base that are decoded together.
const BAND: u64 = 16 << 20;

/// An error of reading a base.
pub type BaseError = Box<dyn Error + Send + Sync>;
/// The bytes of an asset, and its hash.
pub type BaseAsset = (Vec<u8>, [u8; 16]);

/// A file that a checkpoint can be a delta of.
pub trait BaseFile: Debug + Send + Sync {
    /// Returns what a delta says of it.
    fn record(&self) -> Base;

    /// Checks that a checkpoint can be a delta of it, before anything is written.
    ///
    /// # Errors
    /// If it cannot be of use: an adapter that does not fit the base.
    fn check(&self, checkpoint: &Checkpoint) -> Result<(), BaseError>;

    /// Returns the names of its tensors.
    fn tensor_names(&self) -> Vec<String>;

    /// Returns a tensor, and the level at which it can be read whole with its hash at that level.
    fn tensor(&self, name: &str) -> Option<(TensorMeta, u8, [u8; 16])>;

    /// Returns the elements of some rows of a tensor at that level, as they are in the base: little-endian, row-major.
    ///
    /// # Errors
    /// If it cannot be read.
    fn rows(&self, name: &str, rows: Range<u64>) -> Result<Vec<u8>, BaseError>;

    /// Returns the elements of rows of a tensor in another dtype, as they predict (SPEC 21.4).
    ///
    /// # Errors
    /// If the tensor cannot be read, or has no values.
    fn rows_as(&self, name: &str, dtype: DType, rows: Range<u64>) -> Result<Vec<u8>, BaseError>;

    /// Returns the bytes of an asset and its hash; `None` if there is none.
    ///
    /// # Errors
    /// If it cannot be read.
    fn asset(&self, name: &str) -> Result<Option<BaseAsset>, BaseError>;
}

/// What a tensor takes from the base.
#[derive(Clone, Debug)]
pub struct OverTensor {
    pub link: BaseLink,
    /// The place of its elements among those that were decoded, in the dtype of the tensor; nothing if it is identical.
    elements: Range<usize>,
    /// The tiles of the tensor in the base.
    pub tiles: (u64, u64),
}

/// The elements of the base that a matrix is predicted from: as many as it has, in its dtype, row-major.
pub type OverElements<'a> = &'a [u8];

/// The base of a file that is being made.
pub struct Over<'a> {
    file: &'a dyn BaseFile,
    pub record: Base,
    map: Option<Map>,
    /// By the name of the tensor in the file.
    tensors: HashMap<String, OverTensor>,
}

impl<'a> Over<'a> {
    /// Finds which tensors are like those of the base, and decodes these to a temporary file in the folder of `path`.
    ///
    /// # Errors
    /// If the base cannot be read, or the temporary file cannot be written.
    pub fn new(
        file: &'a dyn BaseFile,
        checkpoint: &Checkpoint,
        tensors: &[Tensor],
        path: &Path,
    ) -> Result<Over<'a>, EncodeError> {
        let folder = folder_of(path);
        let io = |error| CheckpointError::io(folder, error);
        let _folders = MadeFolders::make(folder).map_err(io)?;
        let mut spool = BufWriter::new(tempfile::tempfile_in(folder).map_err(io)?);
        let (mut end, mut found) = (0, HashMap::new());
        let names = Names::new(file.tensor_names(), tensors.iter().map(|tensor| tensor.name.as_str()));
        for tensor in tensors.iter().filter(|tensor| tensor.same_as.is_none()) {
            let Some(name) = names.of(&tensor.name) else { continue };
            let Some((of_base, level, hash)) = file.tensor(&name) else { continue };
            let meta = meta(tensor);
            let fits = |usage| misfit(usage, &meta, &of_base).is_none();
            let broken = |error: BaseError| EncodeError::Base { tensor: tensor.name.clone(), error };
            let link = |usage| {
                let name = (name != tensor.name).then(|| name.clone());
                BaseLink { usage, level, hash, name }
            };
            let tiles = (of_base.tile_rows, of_base.tile_cols);
            if fits(BaseUsage::Identical) && is_identical(file, &name, checkpoint, tensor).map_err(broken)? {
                let link = link(BaseUsage::Identical);
                found.insert(tensor.name.clone(), OverTensor { link, elements: 0..0, tiles });
                continue;
            }
            let matrix = tensor.matrix(checkpoint);
            if !fits(BaseUsage::Predicted) || !has_lattice(tensor.dtype) || matrix.len() == 0 {
                continue;
            }
            let start = end;
            for rows in bands(matrix.rows, matrix.columns * matrix.dtype.size()) {
                let rows = rows.start as u64..rows.end as u64;
                let elements = file.rows_as(&name, tensor.dtype, rows).map_err(broken)?;
                spool.write_all(&elements).map_err(io)?;
                end += elements.len();
            }
            if end - start != matrix.len() * matrix.dtype.size() {
                return Err(broken("the base has another number of elements".into()));
            }
            let link = link(BaseUsage::Predicted);
            found.insert(tensor.name.clone(), OverTensor { link, elements: start..end, tiles });
        }
        let spool: File = spool.into_inner().map_err(|error| io(error.into_error()))?;
        let map = (end > 0).then(|| Map::new(&spool, folder)).transpose().map_err(io)?;
        Ok(Over { file, record: file.record(), map, tensors: found })
    }

    /// Tells tensors what they take from the base.
    pub fn give_to<'t>(&'t self, tensors: &mut [Tensor<'t>]) {
        for tensor in tensors.iter_mut().filter(|tensor| tensor.same_as.is_none()) {
            let of_base = self.tensor(&tensor.name);
            let is_identical = |of_base: &OverTensor| of_base.link.usage == BaseUsage::Identical;
            tensor.over = of_base.and_then(|of_base| {
                let elements = if is_identical(of_base) { None } else { Some(self.elements(&tensor.name)?) };
                Some(TensorOver { of_base, elements })
            });
        }
    }

    /// Returns an error if the temporary file became shorter.
    ///
    /// # Errors
    /// As said.
    pub fn check(&self) -> Result<(), EncodeError> {
        let checked = self.map.as_ref().map_or(Ok(()), Map::check);
        checked.map_err(|error| EncodeError::Base { tensor: String::new(), error: error.into() })
    }

    /// Returns what a tensor takes from the base.
    pub fn tensor(&self, name: &str) -> Option<&OverTensor> {
        self.tensors.get(name)
    }

    /// Returns the elements of the base that a tensor may be predicted from.
    pub fn elements(&self, name: &str) -> Option<OverElements<'_>> {
        let tensor = self.tensor(name).filter(|tensor| tensor.link.usage == BaseUsage::Predicted)?;
        self.map.as_ref()?.get(tensor.elements.clone())
    }

    /// Returns what an asset takes from the base, if it is identical to one there.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn asset(&self, name: &str, bytes: &[u8]) -> Result<Option<BaseLink>, EncodeError> {
        let of_base = self.file.asset(name);
        let of_base = of_base.map_err(|error| EncodeError::Base { tensor: name.to_owned(), error })?;
        let same = of_base.filter(|(of_base, _)| of_base == bytes);
        Ok(same.map(|(_, hash)| BaseLink { usage: BaseUsage::Identical, level: 0, hash, name: None }))
    }

    /// Returns the bytes of an asset of the base.
    ///
    /// # Errors
    /// If the base cannot be read.
    pub fn asset_bytes(&self, name: &str) -> Result<Option<Vec<u8>>, EncodeError> {
        let of_base = self.file.asset(name);
        let of_base = of_base.map_err(|error| EncodeError::Base { tensor: name.to_owned(), error })?;
        Ok(of_base.map(|(bytes, _)| bytes))
    }
}

/// Returns the description of a tensor of the file; its tiles do not matter.
fn meta(tensor: &Tensor) -> TensorMeta {
    let type_name = tensor.info.type_name.clone();
    TensorMeta {
        dtype: tensor.dtype,
        opaque: type_name.map(|name| Opaque { name, bytes: tensor.info.byte_len() }),
        dims: tensor.info.shape.clone(),
        split: tensor.split,
        tile_rows: 1,
        tile_cols: 32,
        tied: None,
        reference: None,
        base: None,
    }
}

/// Returns the rows of bands of about [`BAND`] bytes.
fn bands(rows: usize, row_bytes: usize) -> impl Iterator<Item = Range<usize>> {
    let height = (BAND as usize / row_bytes.max(1)).max(1);
    (0..rows).step_by(height).map(move |row| row..rows.min(row + height))
}

/// Returns whether a tensor has the elements of one of the base, which is of the same dtype and dims.
fn is_identical(file: &dyn BaseFile, name: &str, checkpoint: &Checkpoint, tensor: &Tensor) -> Result<bool, BaseError> {
    let matrix = tensor.matrix(checkpoint);
    for rows in bands(matrix.rows, matrix.columns * matrix.dtype.size()) {
        let elements = file.rows(name, rows.start as u64..rows.end as u64)?;
        let n = matrix.columns;
        if matrix.elements(rows.start * n..rows.end * n)[..] != elements[..] {
            checkpoint.release(tensor.info);
            return Ok(false);
        }
    }
    checkpoint.release(tensor.info);
    Ok(true)
}

/// The names of tensors in the base. Programs that save a part of a model drop the first words of all names, or add some.
struct Names {
    of_base: HashSet<String>,
    /// What the names of the checkpoint have in front, and what those of the base have instead.
    prefix: (String, String),
}

impl Names {
    /// Finds what the names of most tensors begin with here and there.
    fn new<'n>(of_base: Vec<String>, own: impl Iterator<Item = &'n str>) -> Names {
        let of_base: HashSet<String> = of_base.into_iter().collect();
        let own: Vec<&str> = own.collect();
        let known = own.iter().filter(|name| of_base.contains(**name)).count();
        let mut names = Names { of_base, prefix: (String::new(), String::new()) };
        if known > 0 || own.is_empty() {
            return names;
        }
        // No name is known. A prefix that is dropped ends with a dot, in any name; one that is added is found from there.
        let count = |prefix: &(String, String)| own.iter().filter(|name| names.with(prefix, name).is_some()).count();
        let prefixes = |name: &str| name.match_indices('.').map(|(at, _)| name[..=at].to_owned()).collect::<Vec<_>>();
        let dropped = prefixes(own[0]).into_iter().map(|prefix| (prefix, String::new()));
        let first = names.of_base.iter().min().map_or(vec![], |name| prefixes(name));
        let added = first.into_iter().map(|prefix| (String::new(), prefix));
        let best = dropped.chain(added).max_by_key(|prefix| count(prefix)).filter(|prefix| count(prefix) > 0);
        names.prefix = best.unwrap_or_default();
        names
    }

    fn with(&self, (own, there): &(String, String), name: &str) -> Option<String> {
        let name = format!("{there}{}", name.strip_prefix(own.as_str())?);
        self.of_base.contains(&name).then_some(name)
    }

    /// Returns the name that a tensor has in the base, if it is there.
    fn of(&self, name: &str) -> Option<String> {
        self.with(&self.prefix, name)
    }
}

#[cfg(test)]
mod tests {
    use super::Names;

    fn names(of_base: &[&str], own: &[&str]) -> Names {
        Names::new(of_base.iter().map(|&name| name.to_owned()).collect(), own.iter().copied())
    }

    #[test]
    fn prefixes_are_found() {
        let base = ["model.a.weight", "model.b.weight", "lm_head.weight"];
        assert_eq!(names(&base, &["model.b.weight", "new"]).of("model.b.weight").as_deref(), Some("model.b.weight"));
        assert_eq!(names(&base, &["model.b.weight", "new"]).of("new"), None);
        let wrapped = ["base_model.model.model.a.weight", "base_model.model.lm_head.weight"];
        assert_eq!(names(&base, &wrapped).of(wrapped[1]).as_deref(), Some("lm_head.weight"));
        let bare = ["a.weight", "b.weight"];
        let base = ["model.a.weight", "model.b.weight"];
        assert_eq!(names(&base, &bare).of("b.weight").as_deref(), Some("model.b.weight"));
        assert_eq!(names(&base, &["x", "y.z"]).of("x"), None);
        assert_eq!(names(&base, &[]).of("x"), None);
    }
}
