//! A file as the base of deltas that are encoded.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use impasto_checkpoint::Checkpoint;
use impasto_container::{Base, Source, TensorMeta};
use impasto_core::DType;
use impasto_encode::{BaseAsset, BaseError, BaseFile};

use crate::adapter;
use crate::base::rows_as;
use crate::error::FileError;
use crate::file::File;
use crate::tensor::Tensor;

/// A file that deltas can be encoded over.
pub struct EncodeBase<S> {
    file: Arc<File<S>>,
    name: String,
    license: String,
    mirrors: Vec<String>,
}

impl<S: Source> EncodeBase<S> {
    /// Creates the base. Deltas say its name, its licence and where it may be found, by `mirrors`: URLs, or paths from the
    /// folder of a delta.
    ///
    /// # Errors
    /// If it is a delta whose own base is not attached.
    pub fn new(
        file: Arc<File<S>>,
        name: String,
        license: String,
        mirrors: Vec<String>,
    ) -> Result<EncodeBase<S>, FileError> {
        file.needs_no_base()?;
        Ok(EncodeBase { file, name, license, mirrors })
    }

    /// Returns the largest level up to which all units of a tensor are there.
    fn level(&self, number: u32) -> u8 {
        let reader = self.file.reader();
        let there = |layer: &u8| {
            reader.layer_of(number, *layer).is_some_and(|layer| {
                let present =
                    |&unit: &u32| reader.unit_state(unit).is_ok_and(|s| s == crate::format::UnitState::Present);
                present(&layer.header) && layer.units.iter().all(present)
            })
        };
        (1..=reader.layers_of(number)).take_while(there).last().unwrap_or(0)
    }

    fn open(&self, name: &str) -> Result<Tensor<'_, S>, FileError> {
        let number = self.file.reader().find_tensor(name).ok_or_else(|| self.file.missing(name))?;
        Ok(self.file.object(number)?.at_level(self.level(number)))
    }
}

impl<S> fmt::Debug for EncodeBase<S> {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.debug_struct("EncodeBase").field("name", &self.name).finish_non_exhaustive()
    }
}

impl<S: Source + 'static> BaseFile for EncodeBase<S> {
    fn record(&self) -> Base {
        let EncodeBase { file, name, license, mirrors } = self;
        Base { root: *file.reader().root(), name: name.clone(), license: license.clone(), mirrors: mirrors.clone() }
    }

    fn check(&self, checkpoint: &Checkpoint) -> Result<(), BaseError> {
        Ok(adapter::check(checkpoint, self.file.clone())?)
    }

    fn tensor_names(&self) -> Vec<String> {
        self.file.tensor_names().map(str::to_owned).collect()
    }

    fn tensor(&self, name: &str) -> Option<(TensorMeta, u8, [u8; 16])> {
        let number = self.file.reader().find_tensor(name)?;
        let level = self.level(number);
        let hash = self.file.reader().object_hash(number, level)?;
        Some((self.file.meta(name).ok()?.clone(), level, hash))
    }

    fn rows(&self, name: &str, rows: Range<u64>) -> Result<Vec<u8>, BaseError> {
        let tensor = self.open(name)?;
        Ok(tensor.band(rows, 0..tensor.matrix().cols())?)
    }

    fn rows_as(&self, name: &str, dtype: DType, rows: Range<u64>) -> Result<Vec<u8>, BaseError> {
        Ok(rows_as(&self.open(name)?, dtype, rows)?)
    }

    fn asset(&self, name: &str) -> Result<Option<BaseAsset>, BaseError> {
        let reader = self.file.reader();
        let Some(bytes) = self.file.asset(name)? else { return Ok(None) };
        Ok(reader.find_asset(name).and_then(|number| reader.object_hash(number, 0)).map(|hash| (bytes, hash)))
    }
}
