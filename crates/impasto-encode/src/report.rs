//! The result of an encoding.

use impasto_container::{BaseUsage, Summary, Writer};
use impasto_core::{Format, Mode};

use crate::code::CodedAsset;
use crate::error::EncodeError;
use crate::inputs::Inputs;
use crate::model::Tensor;
use crate::quality::Quality;
use crate::reorder::Reordered;

/// The result for a tensor.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// The name of its dtype in the file.
    pub dtype: String,
    /// Its shape.
    pub shape: Vec<u64>,
    /// The mode of most of its bytes; `None` for a tied tensor, which has no units.
    pub mode: Option<Mode>,
    /// Its format, if it has one; its mode is then *lattice*.
    pub format: Option<Format>,
    /// Bytes of its units.
    pub bytes: u64,
    /// Rank of the low-rank part of its tensor header; 0 if it has none.
    pub rank: usize,
    /// What it takes from the base, if it does.
    pub base: Option<BaseUsage>,
    /// The share of its integers, in the finest lossy layer, that are 0; `None` if it is not pruned.
    pub zeros: Option<f64>,
}

impl TensorReport {
    /// Returns the name of [`TensorReport::format`], else that of [`TensorReport::mode`], or `tied`, or that it is that of the base.
    pub fn coded_as(&self) -> String {
        match (self.mode, self.format) {
            _ if self.base == Some(BaseUsage::Identical) => "same as in the base".to_owned(),
            (None, _) => "tied".to_owned(),
            (Some(Mode::LATTICE), Some(format)) => format.name().to_owned(),
            (Some(mode), _) => mode.to_string(),
        }
    }

    pub(crate) fn new(tensor: &Tensor, mode: Option<Mode>, bytes: u64) -> Self {
        let dtype = tensor.info.type_name.clone().unwrap_or_else(|| tensor.dtype.name().to_owned());
        let (name, shape) = (tensor.name.clone(), tensor.info.shape.clone());
        TensorReport { name, dtype, shape, mode, format: None, bytes, rank: 0, base: None, zeros: None }
    }
}

/// A layer of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerReport {
    /// Number of units of the file up to the end of the layer.
    pub units: u32,
    /// Bytes of a file of these units.
    pub bytes: u64,
}

/// The result of an encoding.
#[derive(Clone, Debug)]
pub struct Report {
    /// Lengths and root of the file.
    pub summary: Summary,
    /// Every tensor, in the order of the file.
    pub tensors: Vec<TensorReport>,
    /// Its layers, the coarsest first; empty for a file without layers.
    pub layers: Vec<LayerReport>,
    /// Bytes of the coded assets.
    pub asset_bytes: u64,
    /// Number of weights; those of tied tensors count once.
    pub weights: u64,
    /// Bytes of the tensors before coding, in the file's dtypes, or those of the checkpoint if the file restores it; tied
    /// ones count once.
    pub raw_bytes: u64,
    /// The global step, to which the steps of each lossy tensor are relative (without statistics, also to the root mean
    /// square of its weights); `None` for a file without a size.
    pub relative_step: Option<f64>,
    /// What was reordered, if that was requested.
    pub reordered: Option<Reordered>,
    /// The quality, if that was the target.
    pub quality: Option<Quality>,
    /// Tensors of a lossy file that were kept exactly because they contain NaN or infinity.
    pub non_finite: Vec<String>,
}

/// A coded file before it gets its name. Dropping it removes the file.
pub(crate) struct Coded<'a> {
    pub inputs: &'a Inputs<'a>,
    pub writer: Writer,
    /// Bytes of the file.
    pub length: u64,
    pub tensors: Vec<TensorReport>,
    pub layers: Vec<LayerReport>,
    pub asset_bytes: u64,
    pub weights: u64,
    pub raw_bytes: u64,
    pub non_finite: Vec<String>,
}

impl<'a> Coded<'a> {
    /// Creates the result for a file without layers whose units are written; the caller sets its length.
    pub fn new(inputs: &'a Inputs<'a>, assets: &[CodedAsset], writer: Writer, tensors: Vec<TensorReport>) -> Self {
        let distinct = inputs.tensors.iter().filter(|t| t.same_as.is_none());
        Coded {
            inputs,
            writer,
            length: 0,
            tensors,
            layers: vec![],
            asset_bytes: assets.iter().map(CodedAsset::bytes).sum(),
            weights: inputs.weights(),
            raw_bytes: distinct.map(|t| if inputs.is_exact { t.info.byte_len() } else { t.raw_bytes() }).sum(),
            non_finite: inputs.non_finite(),
        }
    }

    /// Gives the file its name, if the inputs are still whole.
    pub fn finish(self, relative_step: Option<f64>) -> Result<Report, EncodeError> {
        self.inputs.check()?;
        Ok(Report {
            summary: self.writer.finish()?,
            tensors: self.tensors,
            layers: self.layers,
            asset_bytes: self.asset_bytes,
            weights: self.weights,
            raw_bytes: self.raw_bytes,
            relative_step,
            reordered: self.inputs.reordered,
            quality: None,
            non_finite: if self.inputs.lossy_any() { self.non_finite } else { vec![] },
        })
    }
}
