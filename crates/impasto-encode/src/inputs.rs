//! What is encoded: the tensors of a checkpoint, the scales of their weights, and how the error of each is measured.

use std::sync::Arc;

use impasto_checkpoint::Checkpoint;

use crate::error::EncodeError;
use crate::feedback::Feedback;
use crate::lattice::{Costs, Grid, Integers, Rows, round};
use crate::matrix::{MatrixView, has_non_finite};
use crate::metric::{Feedbacks, Metric, metrics};
use crate::model::{Tensor, tensors};
use crate::options::{LEAST_WEIGHTS, Options, Target};
use crate::plan::has_lattice;
use crate::rate::Rate;
use crate::scales::{Scales, fit};
use crate::statistics::Statistics;

/// All tensors of the file.
pub struct Inputs<'a> {
    checkpoint: &'a Checkpoint,
    /// In the order of the file.
    pub tensors: Vec<Tensor<'a>>,
    /// The scales of each tensor that has a float layout, is large enough and not tied.
    scales: Vec<Option<Scales>>,
    /// How the error of each tensor that is coded with loss is measured; empty in a lossless file.
    metrics: Vec<Option<Metric>>,
    feedbacks: Feedbacks<'a>,
    costs: Costs,
}

/// A tensor that is coded with loss: its weights, and all that its steps and its rounding depend on.
pub struct LossyTensor<'a> {
    pub matrix: MatrixView<'a>,
    pub scales: &'a Scales,
    pub metric: &'a Metric,
    pub feedback: Arc<Feedback>,
    pub costs: &'a Costs,
}

impl LossyTensor<'_> {
    /// Its steps at a global step.
    pub fn grid(&self, step: f64) -> Grid {
        self.metric.grid(&self.feedback, step)
    }

    /// Its integers on a grid, chosen by error and cost.
    pub fn round(&self, grid: &Grid, rows: Rows) -> Integers {
        round(&self.matrix, self.scales, &self.feedback, grid, self.costs, rows)
    }

    /// What it takes at a global step, measured on some rows.
    pub fn rate(&self, step: f64) -> Rate {
        let grid = self.grid(step);
        self.round(&grid, Rows::Sample).rate(&grid, self.costs)
    }
}

impl<'a> Inputs<'a> {
    /// Looks through a checkpoint.
    ///
    /// # Errors
    /// A tensor that the format cannot hold.
    pub fn new(
        checkpoint: &'a Checkpoint,
        options: &Options,
        statistics: Option<&'a Statistics>,
    ) -> Result<Self, EncodeError> {
        let lossless = options.target == Target::Lossless;
        let tensors = tensors(checkpoint, lossless)?;
        let scale = |tensor: &Tensor| {
            let matrix = tensor.matrix(checkpoint);
            let floats = matrix.dtype.float_layout().is_some() && matrix.len() >= LEAST_WEIGHTS;
            let scales = (tensor.same_as.is_none() && floats).then(|| fit(&matrix));
            checkpoint.release(tensor.info);
            scales
        };
        let scales: Vec<Option<Scales>> = tensors.iter().map(scale).collect();
        let metrics = if lossless {
            vec![]
        } else {
            let lossy = tensors.iter().zip(&scales).map(|(t, s)| Some((t, s.as_ref().filter(|s| is_usual(t, s))?)));
            metrics(&lossy.collect::<Vec<_>>(), statistics, options.floors)
        };
        let feedbacks = Feedbacks::new(statistics);
        Ok(Inputs { checkpoint, tensors, scales, metrics, feedbacks, costs: Costs::typical() })
    }

    /// Number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// A tensor as a matrix.
    pub fn matrix(&self, tensor: usize) -> MatrixView<'_> {
        self.tensors[tensor].matrix(self.checkpoint)
    }

    /// The scales of a tensor, if it has floats, is large enough and not tied.
    pub fn scales(&self, tensor: usize) -> Option<&Scales> {
        self.scales[tensor].as_ref()
    }

    /// Lets the memory of a mapped tensor go.
    pub fn release(&self, tensor: usize) {
        self.checkpoint.release(self.tensors[tensor].info);
    }

    /// Is a tensor coded with loss?
    pub fn is_lossy(&self, tensor: usize) -> bool {
        self.metrics.get(tensor).is_some_and(Option::is_some)
    }

    /// A tensor that is coded with loss, under the covariance of the statistics; `None` for one that is kept exactly.
    ///
    /// # Errors
    /// A covariance that does not fit the tensor, or cannot be factored.
    pub fn lossy(&self, tensor: usize) -> Result<Option<LossyTensor<'_>>, EncodeError> {
        let Some(metric) = self.metrics.get(tensor).and_then(Option::as_ref) else { return Ok(None) };
        let Some(scales) = self.scales(tensor) else { return Ok(None) };
        let matrix = self.matrix(tensor);
        let feedback = self.feedbacks.of(metric, matrix.columns)?;
        Ok(Some(LossyTensor { matrix, scales, metric, feedback, costs: &self.costs }))
    }

    /// Weights of all tensors; those of tied ones count once.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().filter(|t| t.same_as.is_none()).map(Tensor::weights).sum()
    }

    /// Weights of the tensors that are coded with loss.
    pub fn lossy_weights(&self) -> u64 {
        (0..self.len()).filter(|&i| self.is_lossy(i)).map(|i| self.tensors[i].weights()).sum()
    }

    /// Names of the tensors that hold NaN or infinity, whatever their size.
    pub fn non_finite(&self) -> Vec<String> {
        let holds = |i: &usize| match self.scales(*i) {
            Some(scales) => scales.non_finite > 0,
            None => self.tensors[*i].same_as.is_none() && has_non_finite(&self.matrix(*i)),
        };
        (0..self.len()).filter(holds).map(|i| self.tensors[i].name.clone()).collect()
    }
}

/// May a tensor of these scales be coded with loss?
fn is_usual(tensor: &Tensor, scales: &Scales) -> bool {
    let matrix = has_lattice(tensor.dtype) && tensor.info.shape.len() >= 2;
    matrix && scales.non_finite == 0 && scales.mean_square > 0.0
}
