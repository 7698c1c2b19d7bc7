//! Export to a new GGUF file, for llama.cpp and other programs that read GGUF.

use std::collections::BTreeMap;

use impasto_checkpoint::gguf::Metadata;
use impasto_checkpoint::gguf::hf::{self, Folded, FromAssets, Mapped, Tensors, place};
use impasto_checkpoint::{Asset, Change, TensorSpec};
use impasto_container::Source;
use impasto_core::DType;
use impasto_model::graph;

use super::part::{Content, Part, Way};
use super::{Begin, Contents, Output};
use crate::error::FileError;
use crate::file::File;
use crate::view::gguf_metadata;

/// The default file name.
const WEIGHTS: &str = "model.gguf";
/// The key for the type of most matrices, with llama.cpp's numbers.
const FILE_TYPE: &str = "general.file_type";
/// Assets that the metadata are built from.
const ASSETS: [&str; 5] =
    ["config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "chat_template.jinja"];

/// The type of the matrices in a GGUF.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 8-bit integers with one scale per 32 weights.
    Q8_0,
    /// 4-bit integers with one scale per 32 weights.
    Q4_0,
}

impl GgufType {
    fn dtype(self) -> DType {
        match self {
            GgufType::F32 => DType::F32,
            GgufType::F16 => DType::F16,
            GgufType::Bf16 => DType::Bf16,
            GgufType::Q8_0 => DType::Q8_0,
            GgufType::Q4_0 => DType::Q4_0,
        }
    }

    /// Returns llama.cpp's number for a file of this type (`llama_ftype`).
    fn file_type(self) -> u32 {
        match self {
            GgufType::F32 => 0,
            GgufType::F16 => 1,
            GgufType::Q4_0 => 2,
            GgufType::Q8_0 => 7,
            GgufType::Bf16 => 32,
        }
    }

    /// Returns the type of a tensor with these dims. Vectors stay binary32, as llama.cpp requires for norms and biases.
    /// If rows are not whole blocks, the type is binary16.
    fn of(self, dims: &[u64]) -> DType {
        let dtype = self.dtype();
        match dims {
            [] | [_] => DType::F32,
            [.., last] if !last.is_multiple_of(dtype.weights() as u64) => DType::F16,
            _ => dtype,
        }
    }
}

/// Plans a GGUF with all tensors.
pub(super) fn contents<S: Source>(
    file: &File<S>,
    name: Option<&str>,
    wanted: Option<GgufType>,
) -> Result<Contents, FileError> {
    let wanted = wanted.unwrap_or_else(|| usual(file));
    let file_name = name.unwrap_or(WEIGHTS);
    let (metadata, parts, notes) = match gguf_metadata(file)? {
        Some(metadata) => again(file, metadata, wanted)?,
        None => translated(file, file_name.trim_end_matches(".gguf"), wanted)?,
    };
    let output = Output { name: file_name.to_owned(), begin: Begin::Gguf(metadata), parts };
    Ok(Contents { outputs: vec![output], assets: vec![], changed: BTreeMap::new(), identical: false, notes })
}

/// Returns the type of most weights: binary32, binary16 or bfloat16.
fn usual<S: Source>(file: &File<S>) -> GgufType {
    let weights = |dtype: DType| -> u64 {
        let tensors = file.reader().objects().iter().filter_map(|object| object.tensor());
        tensors.filter(|meta| meta.dtype == dtype && meta.dims.len() > 1).map(|meta| meta.weights()).sum()
    };
    let types = [GgufType::F16, GgufType::Bf16, GgufType::F32];
    types.into_iter().max_by_key(|t| weights(t.dtype())).unwrap_or(GgufType::F16)
}

type Parts = (Metadata, Vec<Part>, Vec<String>);

/// Plans the tensors of a GGUF with another type.
fn again<S: Source>(file: &File<S>, mut metadata: Metadata, wanted: GgufType) -> Result<Parts, FileError> {
    metadata.insert(FILE_TYPE, wanted.file_type());
    // The output is one file, even if the input was split.
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    let part = |name: &str| {
        let meta = file.meta(name)?;
        Ok(made(name, name, &meta.dims, wanted, Change::None))
    };
    let parts = file.tensor_names().map(part).collect::<Result<_, FileError>>()?;
    Ok((metadata, parts, vec![]))
}

/// Plans the tensors of a Hugging Face folder with the names, row order and values of a GGUF.
fn translated<S: Source>(file: &File<S>, model: &str, wanted: GgufType) -> Result<Parts, FileError> {
    let broken = |rule: String| FileError::Form { file: file.reader().name().to_owned(), form: "GGUF", rule };
    let mut assets = Vec::new();
    for name in ASSETS {
        if let Some(bytes) = file.asset(name)? {
            assets.push(Asset { name: name.to_owned(), bytes });
        }
    }
    let made_of = hf::metadata(&assets, &Shapes(file), model, wanted.file_type());
    let FromAssets { metadata, factors, mut notes } = made_of.map_err(|rule| broken(rule.to_string()))?;
    let config = assets.iter().find(|asset| asset.name == "config.json").map_or(&[][..], |asset| &asset.bytes);
    let mut tensors = Vec::new();
    for name in file.tensor_names() {
        let meta = file.meta(name)?;
        tensors.push(Folded { name, dims: &meta.dims, is_tied: meta.tied.is_some() });
    }
    let placed = place(config, graph::tensor_names(config).as_ref(), &tensors);
    let placed = placed.map_err(|rule| broken(rule.to_string()))?;
    let part = |(own, new): &(Folded, Mapped)| made(&new.name, own.name, own.dims, wanted, new.change);
    let mut parts: Vec<Part> = placed.tensors.iter().map(part).collect();
    let factor = |(name, values): (String, Vec<f32>)| {
        let spec = TensorSpec::new(name, DType::F32, [values.len() as u64]);
        Part { spec, content: Content::Values(values) }
    };
    parts.extend(factors.into_iter().map(factor));
    notes.extend(placed.left_out);
    Ok((metadata, parts, notes))
}

fn made(new: &str, own: &str, dims: &[u64], wanted: GgufType, change: Change) -> Part {
    let spec = TensorSpec::new(new, wanted.of(dims), dims);
    Part { spec, content: Content::Tensor(own.to_owned(), Way::ToGguf(change)) }
}

/// The tensors of a file, for the translation of assets.
pub struct Shapes<'a, S>(pub &'a File<S>);

impl<S: Source> Tensors for Shapes<'_, S> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        Some(self.0.meta(name).ok()?.dims.clone())
    }

    fn values(&self, name: &str) -> Option<Vec<f32>> {
        let tensor = self.0.tensor(name).ok().filter(|tensor| tensor.dtype() == DType::F32)?;
        let bytes = tensor.bytes().ok()?;
        Some(bytes.as_chunks::<4>().0.iter().map(|&b| f32::from_le_bytes(b)).collect())
    }
}
