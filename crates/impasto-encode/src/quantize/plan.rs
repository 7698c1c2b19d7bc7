//! The tensors of a new GGUF: where each comes from, and its type.

use impasto_checkpoint::gguf::Metadata;
use impasto_checkpoint::gguf::hf::{self, Folded, Mapped, OUTPUT, Placed};
use impasto_checkpoint::{Change, Checkpoint, TensorInfo};
use impasto_core::DType;
use impasto_model::graph;

use super::mix::{GgufMix, types};
use crate::error::EncodeError;
use crate::model::tensors;
use crate::statistics::Statistics;

/// The embedding, which may be the output matrix, too.
const EMBEDDING: &str = "embed_tokens.weight";

/// A tensor of the new file.
pub struct Planned<'a> {
    /// Its name there.
    pub name: String,
    /// Its type there.
    pub dtype: DType,
    pub content: Content<'a>,
}

/// Where the weights of a tensor come from.
pub enum Content<'a> {
    /// A tensor of the checkpoint.
    Tensor {
        info: &'a TensorInfo,
        /// What turns it into that of the GGUF.
        change: Change,
        /// Its name in statistics.
        measured_as: String,
    },
    /// New values.
    Values(Vec<f32>),
}

impl Planned<'_> {
    /// Returns its dimensions, slowest first.
    pub fn dims(&self) -> Vec<u64> {
        match &self.content {
            Content::Tensor { info, .. } => info.shape.clone(),
            Content::Values(values) => vec![values.len() as u64],
        }
    }
}

/// The contents of the new file.
pub struct Plan<'a> {
    pub metadata: Metadata,
    pub tensors: Vec<Planned<'a>>,
    /// What the user should know, one line each.
    pub notes: Vec<String>,
}

/// Plans a GGUF of a checkpoint: with the metadata of the checkpoint if it is a GGUF, else translated. `model` is its name for display.
///
/// # Errors
/// If a GGUF cannot express the model.
pub fn plan<'a>(
    checkpoint: &'a Checkpoint,
    model: &str,
    mix: GgufMix,
    statistics: Option<&Statistics>,
) -> Result<Plan<'a>, EncodeError> {
    let mut plan = match checkpoint.metadata() {
        Some(metadata) => again(checkpoint, metadata.clone(), mix)?,
        None => translated(checkpoint, model, mix)?,
    };
    let dims: Vec<Vec<u64>> = plan.tensors.iter().map(Planned::dims).collect();
    let given = plan.tensors.iter().zip(&dims).map(|(tensor, dims)| (tensor.name.as_str(), &dims[..]));
    let types = types(mix, &plan.metadata, &given.collect::<Vec<_>>(), statistics.is_some());
    for (tensor, wanted) in plan.tensors.iter_mut().zip(types) {
        tensor.dtype = match (&tensor.content, wanted) {
            (Content::Tensor { info, .. }, wanted) if is_float(info.dtype) => wanted.unwrap_or(kept(info)),
            (Content::Tensor { info, .. }, None) => info.dtype,
            (Content::Tensor { .. }, Some(_)) => {
                let rule = "it is a matrix, but neither of F32, F16, BF16 or F64 nor of blocks that are known";
                return Err(EncodeError::Tensor { tensor: tensor.name.clone(), rule });
            }
            (Content::Values(_), _) => DType::F32,
        };
    }
    let is_block = |tensor: &&Planned| matches!(&tensor.content, Content::Tensor { info, .. } if info.dtype.is_block());
    let blocks = plan.tensors.iter().filter(is_block).count();
    if blocks > 0 {
        plan.notes.push(format!("{blocks} matrices were quantized already: their errors add up"));
    }
    // Tensors that share an input are neighbours, so that its covariance is factored once.
    let group = |tensor: &Planned| match &tensor.content {
        Content::Tensor { measured_as, .. } => {
            statistics.and_then(|s| s.info().linears.get(measured_as)?.input.clone()).unwrap_or_default()
        }
        Content::Values(_) => String::new(),
    };
    let block = |tensor: &Planned| tensor.name.strip_prefix("blk.")?.split_once('.')?.0.parse::<usize>().ok();
    plan.tensors
        .sort_by_cached_key(|tensor| (block(tensor), group(tensor), tensor.dtype.weights(), tensor.name.clone()));
    Ok(plan)
}

/// Whether weights of a dtype are rounded.
fn is_float(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::Bf16 | DType::F64) || dtype.is_block()
}

/// The type of a tensor that is not quantized: vectors and everything small is binary32, as llama.cpp requires.
fn kept(info: &TensorInfo) -> DType {
    let is_vector = info.shape.iter().filter(|&&dim| dim > 1).count() < 2;
    if is_vector || info.dtype == DType::F64 { DType::F32 } else { info.dtype }
}

fn planned(name: String, info: &TensorInfo, change: Change, measured_as: String) -> Planned<'_> {
    Planned { name, dtype: info.dtype, content: Content::Tensor { info, change, measured_as } }
}

/// Plans the tensors of a GGUF, under their names.
fn again<'a>(checkpoint: &'a Checkpoint, mut metadata: Metadata, mix: GgufMix) -> Result<Plan<'a>, EncodeError> {
    metadata.insert("general.file_type", mix.file_type());
    metadata.insert("general.quantization_version", 2u32);
    // The output is one file, even if the input was split.
    for key in ["split.no", "split.count", "split.tensors.count"] {
        metadata.remove(key);
    }
    let tensors = tensors(checkpoint, true, None)?;
    let planned = tensors.into_iter().map(|t| planned(t.info.name.clone(), t.info, Change::None, t.hf_name));
    Ok(Plan { metadata, tensors: planned.collect(), notes: vec![] })
}

/// Plans the tensors of a Hugging Face folder with the names, row order and values of a GGUF.
fn translated<'a>(checkpoint: &'a Checkpoint, model: &str, mix: GgufMix) -> Result<Plan<'a>, EncodeError> {
    let broken = |rule: hf::TranslationRule| EncodeError::Gguf(rule.to_string());
    let made = hf::metadata(checkpoint.assets(), checkpoint, model, mix.file_type()).map_err(broken)?;
    let config = checkpoint.assets().iter().find(|asset| asset.name == "config.json");
    let config = config.map_or(&[][..], |asset| &asset.bytes);
    let tensors = tensors(checkpoint, true, None)?;
    // Of two that are the same, either is said to be that of the other.
    let first = |i: usize| tensors[i].same_as.unwrap_or(i);
    let find = |name: &str| tensors.iter().position(|tensor| tensor.name.ends_with(name));
    let output = find(OUTPUT).filter(|&output| find(EMBEDDING).is_some_and(|other| first(other) == first(output)));
    let folded = tensors.iter().enumerate();
    let folded = folded.map(|(i, t)| Folded { name: &t.name, dims: &t.info.shape, is_tied: output == Some(i) });
    let Placed { tensors: placed, left_out } =
        hf::place(config, graph::tensor_names(config).as_ref(), &folded.collect::<Vec<_>>()).map_err(broken)?;
    let mut planned: Vec<Planned> = placed
        .into_iter()
        .filter_map(|(own, Mapped { name, change })| {
            let info = checkpoint.tensor(own.name)?;
            // An embedding that is the output, too, was measured as that.
            let output = output.filter(|_| own.name.ends_with(EMBEDDING)).map(|output| tensors[output].name.clone());
            Some(planned(name, info, change, output.unwrap_or_else(|| own.name.to_owned())))
        })
        .collect();
    let factor = |(name, values)| Planned { name, dtype: DType::F32, content: Content::Values(values) };
    planned.extend(made.factors.into_iter().map(factor));
    Ok(Plan { metadata: made.metadata, tensors: planned, notes: made.notes.into_iter().chain(left_out).collect() })
}
