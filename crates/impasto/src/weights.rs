//! Files and checkpoints as weight sources for models.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

#[cfg(feature = "gguf")]
use impasto_checkpoint::gguf::hf;
use impasto_checkpoint::{Change, Checkpoint};
use impasto_container::{COMPILED_SUFFIX, Object, Source, UnitState};
use impasto_core::blocks::apart::Form;
use impasto_core::{DType, values};
use impasto_model::{Blocks, CodedTensor, Difference, Failure, HalfTensor, LatticeTensor, WeightSource};

use crate::adapter::AdapterWeights;
use crate::error::FileError;
#[cfg(feature = "gguf")]
use crate::export::gguf::Shapes;
use crate::export::part::{Way, translate};
use crate::file::File;
use crate::halves::{CheckpointHalves, FileHalves};
use crate::lattice;
use crate::tensor::{FewWeights, Recent, Tensor};
use crate::threads;
use crate::view::View;

/// Assets that a model needs to run.
const ASSETS: [&str; 5] =
    ["config.json", TOKENIZER, "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];
/// The asset that may have a compiled form.
const TOKENIZER: &str = "tokenizer.json";

/// Returns the weights of a file; of an adapter, those of its base with the adapter.
///
/// # Errors
/// Those of [`FileWeights::new`] and [`AdapterWeights::new`].
pub fn weights_of<S: Source + 'static>(file: File<S>) -> Result<Box<dyn WeightSource + Send>, FileError> {
    Ok(match AdapterWeights::is_for(&file) {
        true => Box::new(AdapterWeights::new(file)?),
        false => Box::new(FileWeights::new(file)?),
    })
}

/// The weights of an .impasto file. Assets are read at once, so that damage is an error rather than a missing asset: all
/// but `tokenizer.json`, if the file has its compiled form, `tokenizer.json#compiled`.
pub struct FileWeights<S> {
    file: Arc<File<S>>,
    view: View,
    assets: HashMap<String, Vec<u8>>,
    recent: Arc<Recent>,
    /// The weights of the file that this one is a delta of.
    base: Option<Box<FileWeights<S>>>,
    /// The names of the tensors that need no change, by number: those of ties are their originals'.
    names: HashMap<u32, String>,
}

impl<S: Source> FileWeights<S> {
    /// Reads the assets. The file stays open as long as models use its coded weights.
    ///
    /// # Errors
    /// If an asset exists but cannot be read, or threads cannot be started.
    pub fn new(file: impl Into<Arc<File<S>>>) -> Result<Self, FileError> {
        threads::start()?;
        let file = file.into();
        let mut assets = HashMap::new();
        let compiled = compiled(&file, TOKENIZER);
        for name in ASSETS {
            if compiled.is_none() || name != TOKENIZER {
                assets.extend(file.asset(name)?.map(|bytes| (name.to_owned(), bytes)));
            }
        }
        assets.extend(compiled);
        FileWeights::with(file, assets)
    }

    fn with(file: Arc<File<S>>, assets: HashMap<String, Vec<u8>>) -> Result<Self, FileError> {
        let view = View::of_file(&file)?;
        let base = file.attached().cloned().map(|base| FileWeights::with(base, HashMap::new()).map(Box::new));
        let mut names = HashMap::new();
        for (name, origin) in view.iter().filter(|(_, origin)| origin.change == Change::None) {
            let is_tied = file.meta(&origin.name).is_ok_and(|meta| meta.tied.is_some());
            if let Some(number) =
                lattice::number(&file, &origin.name).filter(|number| !is_tied || !names.contains_key(number))
            {
                names.insert(number, name.to_owned());
            }
        }
        Ok(FileWeights { file, view, assets, recent: Arc::default(), base: base.transpose()?, names })
    }

    /// Returns the tensor with a Hugging Face name, and its change.
    fn tensor(&self, name: &str) -> Result<(Tensor<'_, S>, Change), FileError> {
        let origin = self.view.origin(name).ok_or_else(|| self.file.missing(name))?;
        Ok((self.file.tensor(&origin.name)?, origin.change))
    }

    /// Calls `take` with the dtype and the rows of a tensor in transformers' order. Returns `None` if its dtype is not
    /// `wanted`, or if transformers' rows differ in more than their order.
    fn rows<R>(
        &self,
        name: &str,
        wanted: fn(DType) -> bool,
        take: impl FnOnce(DType, Cow<[u8]>) -> R,
    ) -> Result<Option<R>, FileError> {
        let (tensor, change) = self.tensor(name)?;
        let blocks = tensor.block_dtype()?;
        let dtype = blocks.unwrap_or(tensor.dtype());
        if !wanted(dtype) || change.is_within_rows() {
            return Ok(None);
        }
        let bytes = if blocks.is_some() { tensor.blocks(0..tensor.tile_rows())? } else { tensor.bytes()? };
        tensor.release(0..tensor.matrix().rows());
        Ok(Some(take(dtype, hf_rows(bytes.into(), tensor.shape(), change))))
    }

    /// Returns the file.
    #[cfg(feature = "encode")]
    pub(crate) fn file(&self) -> &File<S> {
        &self.file
    }

    /// Returns the number of the tensor with a Hugging Face name, if it needs no change.
    pub(crate) fn unchanged(&self, name: &str) -> Option<u32> {
        let origin = self.view.origin(name).filter(|origin| origin.change == Change::None)?;
        lattice::number(&self.file, &origin.name)
    }
}

impl<S: Source + 'static> WeightSource for FileWeights<S> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        Some(self.file.meta(&self.view.origin(name)?.name).ok()?.dims.clone())
    }

    fn tensor_names(&self) -> Vec<String> {
        self.view.names()
    }

    /// Tensors of one shape whose values are the same are tied, since the encoder looks for them.
    fn is_same(&self, a: &str, b: &str) -> Result<bool, Failure> {
        let number = |name| lattice::number(&self.file, &self.view.origin(name)?.name);
        Ok(self.shape(a) == self.shape(b) && number(a) == number(b))
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let (tensor, change) = self.tensor(name)?;
        let values = hf_values(tensor.dtype(), &tensor.bytes()?, columns(tensor.shape()), change);
        tensor.release(0..tensor.matrix().rows());
        values.ok_or_else(|| {
            let own = self.view.origin(name).map_or(name, |origin| &origin.name);
            let dtype = self.file.meta(own).map_or("", |meta| meta.dtype_name()).to_owned();
            FileError::NotFloat { file: self.file.reader().name().to_owned(), name: name.to_owned(), dtype }.into()
        })
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        let later = || if name == TOKENIZER { self.file.asset(name).ok().flatten() } else { None };
        self.assets.get(name).cloned().or_else(later)
    }

    /// Tells what damage hides, and what the translation of a GGUF that is kept exactly could not derive.
    fn why_absent(&self, name: &str) -> Option<String> {
        if let Err(error) = self.file.asset(name) {
            return Some(error.to_string());
        }
        #[cfg(feature = "gguf")]
        {
            let metadata = crate::view::gguf_metadata(&self.file).ok()??;
            let absent = hf::assets(&metadata, &Shapes(&*self.file)).absent;
            absent.into_iter().find(|(asset, _)| *asset == name).map(|(_, why)| why)
        }
        #[cfg(not(feature = "gguf"))]
        None
    }

    fn lattice(&self, name: &str) -> Result<Option<Box<dyn LatticeTensor + '_>>, Failure> {
        let Some(number) = self.unchanged(name) else { return Ok(None) };
        Ok(lattice::Integers::new(self.file.object(number)?)?.map(|integers| Box::new(integers) as _))
    }

    fn halves(&self, name: &str) -> Result<Option<Box<dyn HalfTensor + '_>>, Failure> {
        let (tensor, change) = self.tensor(name)?;
        Ok(FileHalves::new(tensor, change)?.map(|halves| Box::new(halves) as _))
    }

    fn load_blocks(&self, name: &str) -> Result<Option<Blocks>, Failure> {
        Ok(self.rows(name, has_form, |dtype, bytes| Blocks { dtype, bytes: bytes.into() })?)
    }

    /// That of the whole file.
    fn identity(&self) -> Option<[u8; 32]> {
        let reader = self.file.reader();
        let is_there = |(unit, _)| reader.unit_state(unit).is_ok_and(|state| state == UnitState::Present);
        (0..).zip(reader.units()).all(is_there).then(|| *reader.root())
    }

    /// A hash of the root and of which units are there. Deltas have none.
    fn content(&self) -> Option<[u8; 32]> {
        let reader = self.file.reader();
        let is_there = |(unit, _)| u8::from(reader.unit_state(unit).is_ok_and(|state| state == UnitState::Present));
        let there: Vec<u8> = (0..).zip(reader.units()).map(is_there).collect();
        let whole = || *blake3::Hasher::new().update(reader.root()).update(&there).finalize().as_bytes();
        self.base.is_none().then(whole)
    }

    /// The number of units of the tensor that are there.
    fn extent_of(&self, name: &str) -> u64 {
        let reader = self.file.reader();
        let number = self.view.origin(name).and_then(|origin| lattice::number(&self.file, &origin.name));
        let Some((number, base)) = number.and_then(|number| Some((number, reader.units_of(number)?))) else { return 0 };
        let above = (1..=reader.layers_of(number)).filter_map(|layer| reader.layer_of(number, layer));
        let above = above.flat_map(|layer| {
            let tiles = (0..base.tiles.len() as u32).filter_map(move |tile| layer.tile(tile));
            [layer.header].into_iter().chain(tiles).collect::<Vec<_>>()
        });
        let units = base.header.into_iter().chain(base.tiles.iter().copied()).chain(above);
        units.filter(|&unit| reader.unit_state(unit).is_ok_and(|state| state == UnitState::Present)).count() as u64
    }

    fn base(&self) -> Option<&dyn WeightSource> {
        self.base.as_deref().map(|base| base as _)
    }

    fn name_in_base(&self, name: &str) -> Option<String> {
        let base = self.base.as_deref()?;
        base.names.get(&self.file.whole_of_base(self.unchanged(name)?)?).cloned()
    }

    fn difference(&self, name: &str) -> Result<Option<Difference<'_>>, Failure> {
        let Some(number) = self.unchanged(name).filter(|&number| self.file.whole_of_base(number).is_some()) else {
            return Ok(None);
        };
        let object = self.file.reader().objects().get(number as usize);
        if object.is_some_and(Object::is_identical) {
            return Ok(Some(Difference::default()));
        }
        if let Some(integers) = lattice::Integers::added(self.file.object(number)?)? {
            return Ok(Some(Difference { lattice: Some(Box::new(integers)), ..Difference::default() }));
        }
        let tensor = self.file.object(number)?;
        let (Some(shape), Some(FewWeights { rows, low_rank })) =
            (lattice::matrix_shape(&tensor), tensor.few_weights()?)
        else {
            return Ok(None);
        };
        let low_rank = low_rank.map(|part| lattice::factors(part, shape));
        Ok(Some(Difference { low_rank, sparse: Some(rows), lattice: None }))
    }

    fn is_asset_of_base(&self, name: &str) -> bool {
        let reader = self.file.reader();
        let object = reader.find_asset(name).and_then(|number| reader.objects().get(number as usize));
        self.base.is_some() && object.is_some_and(Object::is_identical)
    }

    fn coded(&self, name: &str) -> Result<Option<Arc<dyn CodedTensor>>, Failure> {
        let Some(number) = self.unchanged(name) else { return Ok(None) };
        Ok(lattice::Coded::new(&self.file, number, &self.recent)?.map(|coded| Arc::new(coded) as _))
    }
}

/// Returns the name and the bytes of the compiled form of an asset, if it is readable and is that of this asset (SPEC
/// 3.4.5).
fn compiled<S: Source>(file: &Arc<File<S>>, name: &str) -> Option<(String, Vec<u8>)> {
    let form = format!("{name}{COMPILED_SUFFIX}");
    file.reader().find_asset(&form)?;
    let (home, number) = file.home(file.reader().find_asset(name)?);
    let reader = home.reader();
    let tiles = reader.units_of(number)?.tiles;
    let hashes: Option<Vec<_>> = tiles.iter().map(|&unit| Some(reader.units().get(unit as usize)?.hash)).collect();
    let mut bytes = file.asset(&form).ok()??;
    let hashes = hashes?.concat();
    if !bytes.starts_with(&hashes) {
        return None;
    }
    bytes.drain(..hashes.len());
    Some((form, bytes))
}

/// Returns whether elements are blocks that can be taken apart.
fn has_form(dtype: DType) -> bool {
    Form::of(dtype).is_some()
}

/// Returns the rows of a tensor of `shape` in transformers' order. Rows must not differ within.
pub(crate) fn hf_rows<'a>(bytes: Cow<'a, [u8]>, shape: &[u64], change: Change) -> Cow<'a, [u8]> {
    let rows = shape.first().map_or(0, |&rows| rows as usize);
    if rows == 0 || !matches!(change, Change::HeadRows { .. }) {
        return bytes;
    }
    let length = bytes.len() / rows;
    let row = |row: usize| &bytes[change.gguf_row(row as u64) as usize * length..][..length];
    (0..rows).flat_map(row).copied().collect()
}

/// The weights of a checkpoint.
pub struct CheckpointWeights<'a> {
    checkpoint: &'a Checkpoint,
    view: View,
}

impl<'a> CheckpointWeights<'a> {
    /// Creates the source for a checkpoint.
    pub fn new(checkpoint: &'a Checkpoint) -> Self {
        CheckpointWeights { checkpoint, view: View::of_checkpoint(checkpoint) }
    }

    /// As [`FileWeights::rows`].
    fn rows<R>(
        &self,
        name: &str,
        wanted: fn(DType) -> bool,
        take: impl FnOnce(DType, Cow<[u8]>) -> R,
    ) -> Result<Option<R>, Failure> {
        let origin = self.view.origin(name).filter(|origin| !origin.change.is_within_rows());
        let tensor = origin.and_then(|origin| Some((self.checkpoint.tensor(&origin.name)?, origin.change)));
        let Some((tensor, change)) = tensor.filter(|(tensor, _)| wanted(tensor.dtype)) else { return Ok(None) };
        let rows = hf_rows(self.checkpoint.bytes(tensor).into(), &tensor.shape, change);
        let taken = take(tensor.dtype, rows);
        self.checkpoint.check_file_of(tensor)?;
        self.checkpoint.release(tensor);
        Ok(Some(taken))
    }
}

impl WeightSource for CheckpointWeights<'_> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.checkpoint.tensor(&self.view.origin(name)?.name).map(|t| t.shape.clone())
    }

    fn tensor_names(&self) -> Vec<String> {
        self.view.names()
    }

    fn is_same(&self, a: &str, b: &str) -> Result<bool, Failure> {
        let find = |name: &str| {
            let origin = self.view.origin(name)?;
            Some((self.checkpoint.tensor(&origin.name)?, origin.change))
        };
        let Some(((a, change), (b, other))) = find(a).zip(find(b)) else { return Ok(false) };
        let alike = (&a.shape, a.dtype, &a.type_name, change) == (&b.shape, b.dtype, &b.type_name, other);
        let same = alike && self.checkpoint.bytes(a) == self.checkpoint.bytes(b);
        for tensor in [a, b] {
            self.checkpoint.check_file_of(tensor)?;
            self.checkpoint.release(tensor);
        }
        Ok(same)
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let found = self.view.origin(name).and_then(|origin| Some((origin, self.checkpoint.tensor(&origin.name)?)));
        let (origin, tensor) = found.ok_or_else(|| format!("there is no tensor {name:?}"))?;
        let values = hf_values(tensor.dtype, self.checkpoint.bytes(tensor), columns(&tensor.shape), origin.change);
        self.checkpoint.check_file_of(tensor)?;
        self.checkpoint.release(tensor);
        let dtype = tensor.type_name.as_deref().unwrap_or(tensor.dtype.name());
        values.ok_or_else(|| format!("tensor {name:?} is {dtype}, which has no float values").into())
    }

    fn halves(&self, name: &str) -> Result<Option<Box<dyn HalfTensor + '_>>, Failure> {
        let origin = self.view.origin(name);
        let found = origin.and_then(|origin| Some((self.checkpoint.tensor(&origin.name)?, origin.change)));
        let halves = found.and_then(|(tensor, change)| CheckpointHalves::new(self.checkpoint, tensor, change));
        Ok(halves.map(|halves| Box::new(halves) as _))
    }

    fn load_blocks(&self, name: &str) -> Result<Option<Blocks>, Failure> {
        self.rows(name, has_form, |dtype, bytes| Blocks { dtype, bytes: bytes.into() })
    }

    fn why_absent(&self, name: &str) -> Option<String> {
        self.checkpoint.why_absent(name).map(str::to_owned)
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.checkpoint.assets().iter().find(|asset| asset.name == name).map(|asset| asset.bytes.clone())
    }
}

/// Converts elements to values in transformers' order; rows have `columns` weights. `None` if the dtype is not a float.
fn hf_values(dtype: DType, bytes: &[u8], columns: usize, change: Change) -> Option<Vec<f32>> {
    let mut own = Vec::new();
    if !values::to_f32(dtype, bytes, &mut own) {
        return None;
    }
    Some(translate(own, columns, Way::ToHf(change)))
}

/// Returns the number of weights in a row.
fn columns(shape: &[u64]) -> usize {
    shape.last().map_or(1, |&n| n as usize)
}
