//! Drift correction: covariances as layers see them after the layers before them are coded.
//!
//! Coded layers pass their errors on, so the inputs of a layer in the coded model differ from those of its calibration.
//! The text passes through the model again, block by block. The covariances of each sublayer's inputs are measured and
//! its layers are coded with them, before the text continues through the coded sublayer (as in GPTQ, arXiv 2210.17323,
//! section 4). All other statistics are kept.

use std::borrow::Cow;
use std::collections::HashMap;
use std::path::Path;

use impasto_checkpoint::Change;
use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Frame, Walk};
use impasto_model::{Failure, ModelError, WeightSource};

use crate::calibrate::{Group, Spill, Stretch, Sums};
use crate::error::{EncodeError, heard};
use crate::feedback::Feedback;
use crate::lattice::Rows;
use crate::metric::Metric;
use crate::model::Tensor;
use crate::options::Progress;
use crate::planner::Planner;
use crate::reorder::reordered;
use crate::statistics::{self, Statistics};

/// The text on which drift is measured, and the weights of the model that it passes through.
#[derive(Clone, Copy)]
pub struct Sequential<'a> {
    /// The weights of the checkpoint.
    pub weights: &'a (dyn WeightSource + Sync),
    /// The tokens of the text. The first [`Info::tokens`](statistics::Info::tokens) of them are used; the statistics
    /// must have been measured on the same tokens.
    pub tokens: &'a [u32],
}

/// A source whose embedding and output projection are coded and decoded.
struct CodedEnds<'a> {
    planner: &'a Planner<'a>,
    step: f64,
    source: &'a (dyn WeightSource + Sync),
}

impl WeightSource for CodedEnds<'_> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.source.shape(name)
    }

    fn is_same(&self, a: &str, b: &str) -> Result<bool, Failure> {
        self.source.is_same(a, b)
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        match coded_weights(self.planner, name, self.step, None)? {
            Some(weights) => Ok(weights),
            None => self.source.load_f32(name),
        }
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.source.asset(name)
    }
}

/// Writes the planner's statistics to `path` with new covariances, which are measured after layers coded at the global
/// step `step`.
pub fn drifted(
    planner: &Planner,
    step: f64,
    statistics: &Statistics,
    sequential: &Sequential,
    path: &Path,
) -> Result<(), EncodeError> {
    let Sequential { weights, tokens } = *sequential;
    let info = statistics.info();
    let window = info.window as usize;
    let tokens = tokens.get(..info.tokens as usize).ok_or(EncodeError::ShortText { tokens: tokens.len(), window })?;
    let why = "a model cannot be run without it";
    let json = weights.asset("config.json").ok_or(ModelError::MissingAsset { name: "config.json", why })?;
    let ends = CodedEnds { planner, step, source: weights };
    let frame = Frame::load(&ends, DecoderConfig::from_json(&json)?, planner.options.threads)?;
    let mut walk = Walk::new(&frame, tokens, window)?;
    let mut spill = Spill::beside(path)?;
    let mut places = HashMap::new();
    let blocks = frame.config().blocks.len();
    for index in 0..blocks {
        heard((planner.watch)(Progress::Drift(index, blocks)))?;
        let mut block = frame.load_block(weights, index)?;
        for sublayer in 0..block.sublayers.len() {
            let mut sums = Sums::of(block.linears_of(sublayer))?;
            walk.observe(&frame, &block, sublayer, &mut sums);
            for mut group in sums.0 {
                let tokens = group.tokens.max(1) as f32;
                group.sum.iter_mut().for_each(|s| *s /= tokens);
                for name in &group.names {
                    if let Some(coded) = coded_weights(planner, name, step, Some(&group))? {
                        block.set_weights(name, &coded)?;
                    }
                }
                keep(group, &mut spill, &mut places)?;
            }
            walk.advance(&frame, &block, sublayer, None);
        }
    }
    let mut sums = Sums::of([frame.head()])?;
    walk.finish(&frame, &mut sums);
    for mut group in sums.0 {
        let tokens = group.tokens.max(1) as f32;
        group.sum.iter_mut().for_each(|s| *s /= tokens);
        keep(group, &mut spill, &mut places)?;
    }
    let rows = info.linears.keys().filter_map(|name| Some((name.clone(), statistics.rows(name)?))).collect();
    statistics::write(path, info, &rows, |name, sink| match places.get(name) {
        Some(&place) => spill.bytes(place, sink),
        None => Ok(()),
    })
}

/// Writes the covariance of a group to the temporary file.
fn keep(group: Group, spill: &mut Spill, places: &mut HashMap<String, Stretch>) -> Result<(), EncodeError> {
    let Some(name) = group.names.into_iter().next() else { return Ok(()) };
    let n = group.inputs;
    let place = spill.push((0..n).map(|i| &group.sum[i * n..=i * n + i]))?;
    places.insert(name, place);
    Ok(())
}

/// Returns the weights of a tensor after coding at a global step, or `None` if the tensor is kept exactly. `group` has
/// a covariance to use instead of that in the statistics.
fn coded_weights(
    planner: &Planner,
    name: &str,
    step: f64,
    group: Option<&Group>,
) -> Result<Option<Vec<f32>>, EncodeError> {
    let inputs = &planner.inputs;
    let Some(tensor) = inputs.tensors.iter().position(|tensor| tensor.hf_name == name) else { return Ok(None) };
    let tensor = inputs.tensors[tensor].same_as.unwrap_or(tensor);
    let Some(mut lossy) = inputs.lossy(tensor)? else { return Ok(None) };
    // Steps and scales stay those of the statistics, since the file will have them.
    let grid = lossy.lattice_grid(step);
    let groups = lossy.format.map(|format| lossy.groups(format));
    if let (Some(group), Metric { input: Some((_, damping)), .. }) = (group, lossy.metric) {
        let broken = || EncodeError::NotFinite { what: "inputs", name: name.to_owned() };
        let order = lossy.matrix.column_order();
        let sum = order.map_or(Cow::Borrowed(&group.sum), |order| Cow::Owned(reordered(&group.sum, order)));
        lossy.feedback = Feedback::new(&sum, group.inputs, *damping).ok_or_else(broken)?.into();
    }
    let weights = match groups {
        Some(groups) => lossy.round_to_format(&groups, Rows::All).weights_of(&lossy.rounder(&groups)),
        None => lossy.round(&grid, Rows::All).weights(lossy.matrix.dtype, &grid),
    };
    inputs.release(tensor);
    Ok(Some(restored(&inputs.tensors[tensor], lossy.matrix.columns, weights)))
}

/// Puts the weights of a tensor in the file's order of rows and columns in that of transformers.
pub fn restored(moved: &Tensor, columns: usize, weights: Vec<f32>) -> Vec<f32> {
    if moved.rows == Change::None && moved.order.is_none() {
        return weights;
    }
    let mut restored = vec![0.0; weights.len()];
    for (r, row) in weights.chunks_exact(columns).enumerate() {
        let to = &mut restored[moved.hf_row(r) * columns..][..columns];
        row.iter().enumerate().for_each(|(c, &weight)| to[moved.hf_column(c)] = weight);
    }
    restored
}
