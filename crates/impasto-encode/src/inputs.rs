//! The input of an encoding: the tensors of a checkpoint, the scales of their weights, and the metrics of their errors.

use std::collections::HashMap;
use std::sync::Arc;

use impasto_checkpoint::Checkpoint;
use impasto_codec::{Body, Groups, LowRank, Trellis};
use impasto_container::{Base, Matrix, MatrixError};
use impasto_core::{DType, Format, Place};

use crate::code::parts;
use crate::error::EncodeError;
use crate::feedback::{Feedback, Pruner};
use crate::formats::{self, FormatRounder};
use crate::lattice::{
    Cells, Costs, Grid, Integers, Parts, PathCosts, Rows, TRELLIS_GAIN, round, round_on_trellis, round_with,
};
use crate::low_rank::{self, Residual};
use crate::matrix::{MatrixView, has_non_finite};
use crate::memory;
use crate::metric::{Feedbacks, Metric, metrics};
use crate::model::{Tensor, tensors};
use crate::options::{LEAST_WEIGHTS, Options, Preset, Target};
use crate::over::Over;
use crate::plan::{Plan, has_lattice};
use crate::portion::{Exchange, survey};
use crate::prune::{Pruning, Scores};
use crate::rate::{Measured, Rate, Transformed};
use crate::reorder::Reordered;
use crate::scales::{Scales, fit};
use crate::statistics::Statistics;
use crate::transform::{self, Alike, Forecast, MOST_WEIGHTS, Tools, TransformTool};

/// The mean square of differences from a base, relative to that of weights, below which these are coded over it.
const WORTH: f64 = 0.5;
/// Bits per weight of a file whose size is not known.
const USUAL_RATE: f64 = 4.0;
/// Octaves from the root of the mean square of differences that are nearly all 0 to those that are not.
const RARE: i32 = 3;

/// All tensors of the file.
pub struct Inputs<'a> {
    checkpoint: &'a Checkpoint,
    statistics: Option<&'a Statistics>,
    /// Whether the file restores every bit of the checkpoint.
    pub is_exact: bool,
    /// In the order of the file.
    pub tensors: Vec<Tensor<'a>>,
    /// The scales of each tensor that has a float layout, is large enough and not tied.
    scales: Vec<Option<Scales>>,
    /// The metrics of tensors that are coded with loss; empty for a lossless file.
    metrics: Vec<Option<Metric>>,
    feedbacks: Feedbacks<'a>,
    costs: Costs,
    /// What integers on the lattice follow, if they are not free.
    trellis: Option<(Trellis, PathCosts)>,
    fit_widths: bool,
    /// Tools of mode transform, for each tensor that may gain by them.
    tools: Vec<Option<Tools>>,
    /// For each tensor, an earlier one that it may be predicted from, which has none itself; empty if none has one.
    references: Vec<Option<usize>>,
    /// The format of each tensor that has one; empty for a lossless file.
    formats: Vec<Option<Format>>,
    preset: Preset,
    /// What is taken away from the weights of each tensor before they are rounded, since its tensor header adds it; empty if
    /// that is nothing.
    low_rank: Vec<Option<Arc<LowRank>>>,
    residual: Residual,
    pruning: Option<&'a Pruning>,
    /// What was reordered.
    pub reordered: Option<Reordered>,
    over: Option<&'a Over<'a>>,
    exchange: Option<&'a Exchange>,
}

/// A tensor that is coded with loss: its weights, and everything that its steps and its rounding depend on.
pub struct LossyTensor<'a> {
    pub matrix: MatrixView<'a>,
    pub scales: &'a Scales,
    pub metric: &'a Metric,
    pub feedback: Arc<Feedback>,
    pub costs: &'a Costs,
    /// Tools of mode transform, if it may gain by them.
    pub tools: Option<Tools>,
    /// How the file is coded.
    pub preset: Preset,
    /// Which of its weights become 0, if some do.
    pub pruning: Option<&'a Pruning>,
    /// Its format, if it has one.
    pub format: Option<Format>,
    /// What its integers on the lattice follow, if they are not free, and what these cost.
    pub trellis: Option<(Trellis, &'a PathCosts)>,
    /// Whether its integers on the lattice are kept within widths in memory.
    pub fit_widths: bool,
    /// The tensor that it may be predicted from, if there is one.
    pub reference: Option<Box<LossyTensor<'a>>>,
    /// What its tensor header adds to its weights; the matrix is without it.
    pub low_rank: Option<Arc<LowRank>>,
}

impl LossyTensor<'_> {
    /// Returns its steps at a global step.
    pub fn grid(&self, step: f64) -> Grid {
        Grid { low_rank: self.low_rank.clone(), ..self.metric.grid(&self.feedback, step) }
    }

    /// Returns its steps on the lattice at a global step: as [`LossyTensor::grid`], or on its trellis.
    pub fn lattice_grid(&self, step: f64) -> Grid {
        self.grid(step).on(self.trellis.map(|(trellis, _)| trellis))
    }

    /// Returns its integers on a grid for these tiles, chosen by error and cost.
    pub fn round_tiles(&self, grid: &Grid, tiles: &Matrix, segments: usize) -> Integers {
        match self.trellis.filter(|_| grid.trellis.is_some()) {
            None if self.fit_widths => {
                let free = self.round(grid, Rows::All);
                let (cells, classes) = free.cells(&grid.body(), self.costs, tiles.tile_rows() as usize);
                drop(free);
                self.round_within(grid, Some(&cells), Rows::All).with(classes)
            }
            None => self.round(grid, Rows::All),
            Some(trellis) => self.round_paths(grid, trellis, Parts::All(parts(tiles, segments))),
        }
    }

    fn round_paths(&self, grid: &Grid, trellis: (Trellis, &PathCosts), parts: Parts) -> Integers {
        round_on_trellis(&self.matrix, self.scales, &self.feedback, grid, trellis, parts)
    }

    /// Returns its integers on a grid, chosen by error and cost. On a trellis they are those of tiles of some size.
    pub fn round(&self, grid: &Grid, rows: Rows) -> Integers {
        if let Some(trellis) = self.trellis.filter(|_| grid.trellis.is_some()) {
            let parts = match rows {
                Rows::All => Parts::whole(self.matrix.rows),
                Rows::Sample => Parts::Sample,
            };
            return self.round_paths(grid, trellis, parts);
        }
        self.round_within(grid, None, rows)
    }

    /// Returns its integers on a grid without a trellis, within the widths of cells if there are any.
    fn round_within(&self, grid: &Grid, cells: Option<&Cells>, rows: Rows) -> Integers {
        let scores = self.pruning.map(|pruning| Scores::new(pruning, &self.feedback, &self.metric.rows));
        let pruner = scores.as_ref().map(|scores| scores as &dyn Pruner);
        round(&self.matrix, self.scales, &self.feedback, grid, (self.costs, cells), pruner, rows)
    }

    /// Returns the scales of its groups in a format.
    pub fn groups(&self, format: Format) -> Groups {
        let importance: Vec<f64> = self.feedback.diagonal().iter().map(|l| l * l).collect();
        formats::groups(format, &self.matrix, &importance)
    }

    /// Returns what rounds it to a format.
    pub fn rounder(&self, groups: &Groups) -> FormatRounder {
        FormatRounder::new(self.matrix.dtype, groups, self.matrix.rows, self.matrix.columns)
    }

    /// Returns its integers in a format.
    pub fn round_to_format(&self, groups: &Groups, rows: Rows) -> Integers {
        round_with(&self.matrix, &self.feedback, &self.rounder(groups), None, rows)
    }

    /// Returns its rate in a format, measured on some of its rows.
    pub fn measure_format(&self, format: Format) -> Rate {
        let groups = self.groups(format);
        self.round_to_format(&groups, Rows::Sample).rate(&Body::Format(groups), self.costs)
    }

    /// Returns the tensor that it may be predicted from at a global step, as it will be about.
    pub fn forecast(&self, step: f64) -> Option<Forecast<'_>> {
        self.reference.as_ref().map(|reference| Forecast { matrix: reference.matrix, grid: reference.grid(step) })
    }

    /// Returns its rates at a global step, measured on some of its rows.
    pub fn measure(&self, step: f64) -> Measured {
        let grid = self.grid(step);
        if self.preset == Preset::Jpeg {
            let place = Plan::jpeg_tile(&self.matrix);
            if let Some(rate) = transform::measure_jpeg(&self.matrix, &grid, &place) {
                // The lattice is no choice, whatever its rate.
                return Measured {
                    lattice: rate,
                    transform: Some(Transformed { rate, gain: 1.0, is_predicted: false }),
                };
            }
        }
        let on_lattice = self.lattice_grid(step);
        let lattice = self.round(&on_lattice, Rows::Sample).rate(&on_lattice.body(), self.costs);
        let reference = self.forecast(step);
        let transform = |tools| transform::measure(&self.matrix, &grid, tools, reference.as_ref());
        // Transforms are measured against a lattice without a trellis.
        let ahead = if self.trellis.is_some() { TRELLIS_GAIN } else { 0.0 };
        let transform = self.tools.and_then(transform);
        let transform = transform.map(|found| Transformed { gain: found.gain - ahead, ..found });
        Measured { lattice, transform }
    }
}

impl<'a> Inputs<'a> {
    /// Finds the tensors of a checkpoint and fits their scales and metrics; `over` is what they take from a base. With an
    /// `exchange`, only the weights of the own portion are read; what is needed of others comes from there.
    ///
    /// # Errors
    /// If the format cannot hold a tensor, or memory would exceed its limit; if other portions are needed and not there.
    pub fn new(
        checkpoint: &'a Checkpoint,
        options: &'a Options,
        statistics: Option<&'a Statistics>,
        over: Option<&'a Over<'a>>,
        exchange: Option<&'a Exchange>,
    ) -> Result<Self, EncodeError> {
        let is_own = |tensor: usize| exchange.is_none_or(|exchange| exchange.is_own(tensor));
        let lossless = options.target == Target::Lossless;
        let is_exact = options.is_exact();
        let mut tensors = tensors(checkpoint, is_exact, options.reordering.as_deref())?;
        if options.layers.exact {
            // Their lower layers are floats.
            let blocks = tensors.iter_mut().filter(|tensor| tensor.dtype.is_block());
            blocks.for_each(|tensor| tensor.dtype = DType::F32);
        }
        if let Some(over) = over {
            over.give_to(&mut tensors);
        }
        let scale = |(i, tensor): (usize, &Tensor)| {
            if !is_own(i) {
                return None;
            }
            let matrix = tensor.matrix(checkpoint);
            let floats = matrix.dtype.float_layout().is_some() && matrix.len() >= LEAST_WEIGHTS;
            let scales = (tensor.same_as.is_none() && !tensor.is_identical() && floats).then(|| fit(&matrix));
            checkpoint.release(tensor.info);
            scales
        };
        let mut scales: Vec<Option<Scales>> = tensors.iter().enumerate().map(scale).collect();
        // What is coded with loss over a base has the scales of the differences.
        let alone = if lossless { vec![] } else { difference_scales(checkpoint, &mut tensors, &mut scales) };
        let mut metrics = if lossless {
            vec![]
        } else {
            let usual = |t: &Tensor, s: &Scales| is_usual(t, s) && !t.matrix(checkpoint).is_constant();
            let seen =
                exchange.map(|exchange| survey(exchange, (checkpoint, statistics), &tensors, &mut scales, usual));
            let seen = seen.transpose()?;
            let usual = |i: usize, t: &Tensor, s: &Scales| seen.as_ref().map_or_else(|| usual(t, s), |seen| seen[i]);
            // How large a step may be depends on the weights, not on the differences.
            let lossy = tensors.iter().zip(&scales).enumerate().map(|(i, (tensor, scales))| {
                let scales = scales.as_ref().filter(|scales| usual(i, tensor, scales))?;
                Some((tensor, alone.get(i).and_then(Option::as_ref).unwrap_or(scales)))
            });
            metrics(&lossy.collect::<Vec<_>>(), statistics, options.floors)
        };
        let names: Vec<&str> = tensors.iter().map(|tensor| &*tensor.hf_name).collect();
        let weights: Vec<u64> = tensors.iter().map(Tensor::weights).collect();
        let formats = options.formats.of_tensors(&names, &weights, &metrics)?;
        if options.target == Target::Formats {
            metrics
                .iter_mut()
                .zip(&formats)
                .filter(|(_, format)| format.is_none())
                .for_each(|(metric, _)| *metric = None);
        }
        for (i, alone) in alone.into_iter().enumerate() {
            if alone.is_some() && metrics.get(i).is_some_and(Option::is_none) {
                scales[i] = alone;
            }
        }
        if options.layers.exact {
            keep_blocks(&mut tensors, &mut scales, &metrics);
        }
        let metric = |i: usize| metrics.get(i).and_then(Option::as_ref);
        let entries = tensors.iter().zip(&scales).enumerate();
        let entries = entries.filter(|(i, _)| is_own(*i));
        let entries: Vec<_> = entries.map(|(i, (tensor, scales))| (tensor, scales.as_ref(), metric(i))).collect();
        let feedbacks = Feedbacks::new(statistics, memory::room(&entries, options)?);
        let (costs, preset) = (Costs::typical(), options.preset);
        let mut inputs = Inputs {
            checkpoint,
            statistics,
            is_exact,
            tensors,
            scales,
            metrics,
            feedbacks,
            costs,
            trellis: options.trellis.map(|trellis| (trellis, PathCosts::typical())),
            fit_widths: options.fit_widths,
            tools: vec![],
            references: vec![],
            formats,
            preset,
            low_rank: vec![],
            residual: options.residual,
            pruning: options.pruning.as_ref(),
            reordered: options.reordering.as_ref().map(|reordering| reordering.report()),
            over,
            exchange,
        };
        if let Some(pruning) = inputs.pruning {
            let lossy = inputs.tensors.iter().enumerate().filter(|(i, _)| inputs.is_lossy(*i));
            pruning.check(lossy.map(|(_, tensor)| tensor))?;
        }
        // Layers are planes of a tile; an exact layer needs the lattice below it.
        let tools = match &options.layers {
            layers if layers.exact => Tools::NONE,
            _ if preset != Preset::Best || options.residual.rank().is_some() => Tools::NONE,
            layers if layers.any() => options.tools.and(Tools::PLANES),
            _ => options.tools,
        };
        if tools != Tools::NONE {
            if tools.has(TransformTool::CoLocated) {
                inputs.find_references();
                inputs.check_references()?;
            }
            // A tensor that is predicted from a base has no tiles in mode transform (SPEC 21.6).
            let may = |i: usize| inputs.is_own(i) && inputs.is_free(i) && inputs.tensors[i].over.is_none();
            let may_gain = |i: usize| may(i) && (inputs.reference(i).is_some() || inputs.may_gain(i));
            inputs.tools = (0..inputs.len()).map(|i| may_gain(i).then_some(tools)).collect();
        }
        if options.residual == Residual::Auto && !lossless && !options.layers.exact && preset == Preset::Best {
            inputs.find_structure(options)?;
        }
        Ok(inputs)
    }

    /// Finds tensors whose weights have a low-rank part that pays, and takes it away. If transforms may gain on one, too, it is
    /// measured which gain more, at about the step that the file will have.
    ///
    /// # Errors
    /// If a covariance is invalid.
    fn find_structure(&mut self, options: &Options) -> Result<(), EncodeError> {
        let rate = match options.target {
            Target::Lossless | Target::Formats => return Ok(()),
            Target::Kld(_) => USUAL_RATE,
            Target::BitsPerWeight(bits) => bits,
            Target::Size(bytes) => bytes as f64 * 8.0 / self.weights().max(1) as f64,
        };
        let step = low_rank::step_at(rate);
        self.low_rank = vec![None; self.len()];
        let may_have = |i: &usize| self.is_own(*i) && self.is_lossy(*i) && self.is_free(*i);
        for i in (0..self.len()).filter(may_have).collect::<Vec<_>>() {
            let structure = self.scales(i).and_then(|scales| low_rank::of_weights(&self.matrix(i), scales, rate));
            if let Some((part, scales)) = structure {
                let transformed = self.lossy(i)?.and_then(|tensor| {
                    let transform = tensor.measure(step).transform.filter(|transform| transform.gain > 0.0);
                    transform.map(|transform| transform.rate.all_bits(tensor.matrix.len()))
                });
                let whole = self.scales[i].replace(scales);
                self.low_rank[i] = Some(Arc::new(part));
                let on_lattice = self.lossy(i)?.map(|tensor| {
                    let grid = tensor.lattice_grid(step);
                    tensor.round(&grid, Rows::Sample).rate(&grid.body(), tensor.costs).all_bits(tensor.matrix.len())
                });
                if transformed.zip(on_lattice).is_some_and(|(transformed, on_lattice)| transformed < on_lattice) {
                    (self.scales[i], self.low_rank[i]) = (whole, None);
                } else if let Some(tools) = self.tools.get_mut(i) {
                    *tools = None;
                }
            }
            self.release(i);
        }
        Ok(())
    }

    /// Finds tensors that may be predicted from others. What error feedback codes is none of them, but may be a reference.
    pub fn find_references(&mut self) {
        type Kind = (DType, Vec<u64>, usize);
        let mut found = vec![None; self.len()];
        let mut alike: HashMap<Kind, (usize, Alike)> = HashMap::new();
        let kind = |i: usize| {
            let Tensor { dtype, split, info, .. } = &self.tensors[i];
            let free = self.is_lossy(i) && self.format(i).is_none() && self.tensors[i].over.is_none();
            (free && self.matrix(i).len() <= MOST_WEIGHTS).then(|| (*dtype, info.shape.clone(), *split))
        };
        for kind in (0..self.len()).filter_map(kind) {
            alike.entry(kind).or_default().0 += 1;
        }
        for (i, found) in found.iter_mut().enumerate() {
            // One that is alone in its shape needs no look.
            let Some((_, alike)) = kind(i).and_then(|kind| alike.get_mut(&kind)).filter(|(count, _)| *count > 1) else {
                continue;
            };
            let has_feedback =
                self.metrics.get(i).and_then(Option::as_ref).is_some_and(|metric| metric.input.is_some());
            *found = alike.next(i, &self.matrix(i), has_feedback);
            self.release(i);
        }
        self.references = found;
    }

    /// Portions of an encoding are coded apart, so none may need what another one codes.
    fn check_references(&self) -> Result<(), EncodeError> {
        let Some(tensor) = self.references.iter().position(Option::is_some).filter(|_| self.exchange.is_some()) else {
            return Ok(());
        };
        let (tensor, rule) = (
            self.tensors[tensor].name.clone(),
            "it may be predicted from another tensor, which --shard is not for: leave co-located out of --tools",
        );
        Err(EncodeError::Tensor { tensor, rule })
    }

    /// Returns whether a tensor is of the portion that is coded here; without portions, all are.
    pub fn is_own(&self, tensor: usize) -> bool {
        self.exchange.is_none_or(|exchange| exchange.is_own(tensor))
    }

    /// Returns the format of a tensor, if it has one.
    pub fn format(&self, tensor: usize) -> Option<Format> {
        self.formats.get(tensor).copied().flatten()
    }

    /// Returns the tensor that a tensor may be predicted from.
    pub fn reference(&self, tensor: usize) -> Option<usize> {
        self.references.get(tensor).copied().flatten()
    }

    /// Returns whether transforms may gain on a tensor. Error feedback leaves them nothing: it needs the lattice.
    fn may_gain(&self, tensor: usize) -> bool {
        let metric = self.metrics.get(tensor).and_then(Option::as_ref).filter(|metric| metric.input.is_none());
        let scales = self.scales(tensor).filter(|_| metric.is_some());
        let gains = scales.is_some_and(|scales| transform::may_gain(&self.matrix(tensor), scales.mean_square));
        self.release(tensor);
        gains
    }

    /// Returns the number of tensors.
    pub fn len(&self) -> usize {
        self.tensors.len()
    }

    /// Returns a tensor as a matrix, less its low-rank part, and less the base if it is coded with loss.
    pub fn matrix(&self, tensor: usize) -> MatrixView<'_> {
        let of = &self.tensors[tensor];
        let over = of.over_elements().filter(|_| self.is_lossy(tensor));
        MatrixView { less: self.low_rank(tensor), over, ..of.matrix(self.checkpoint) }
    }

    /// Returns the base of the file, if it has one.
    pub fn base(&self) -> Option<&Base> {
        self.over.map(|over| &over.record)
    }

    /// Returns a plan of a tensor that is kept exactly over the base, if it has one.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn delta(&self, tensor: usize) -> Result<Option<Plan>, MatrixError> {
        let of = &self.tensors[tensor];
        let over = of.over.and_then(|over| Some((over.of_base.tiles, over.elements?)));
        let matrix = of.matrix(self.checkpoint);
        let Some(((tiles, over), layout)) = over.filter(|_| !self.is_lossy(tensor)).zip(matrix.dtype.float_layout())
        else {
            return Ok(None);
        };
        let scales = |predicted: &[u8]| fit(&MatrixView { over: Some(predicted), ..matrix });
        let mut best = Plan::delta(&matrix, layout, over, None, &scales(over), tiles)?;
        // What a lossy file keeps exactly is small, and planned often.
        let parts = if self.lossy_any() { vec![] } else { low_rank::of_difference(&matrix, layout, over) };
        for part in parts {
            let place = Place { rows: 0..matrix.rows, columns: 0..matrix.columns };
            let predicted = low_rank::predicted(&part, matrix.dtype, &place, over);
            let fitted = scales(&predicted);
            for scales in [0, RARE].map(|octaves| fitted.alike(octaves)).into_iter().chain([fitted]) {
                let other = Plan::delta(&matrix, layout, &predicted, Some(part.clone()), &scales, tiles)?;
                if other.bytes < best.bytes {
                    best = other;
                }
            }
        }
        Ok(Some(best))
    }

    /// Returns what is taken away from the weights of a tensor before they are rounded.
    pub fn low_rank(&self, tensor: usize) -> Option<&LowRank> {
        self.low_rank.get(tensor).and_then(Option::as_deref)
    }

    /// Returns the trellis of tensors on the lattice, if there is one.
    pub fn trellis(&self) -> Option<Trellis> {
        self.trellis.as_ref().map(|(trellis, _)| *trellis)
    }

    /// Returns what [`Inputs::low_rank`] does, to be kept.
    pub fn shared_low_rank(&self, tensor: usize) -> Option<Arc<LowRank>> {
        self.low_rank.get(tensor).cloned().flatten()
    }

    /// Returns the scales of a tensor that has a float layout, is large enough and not tied.
    pub fn scales(&self, tensor: usize) -> Option<&Scales> {
        self.scales[tensor].as_ref()
    }

    /// Returns an error if a file became shorter while it was read, so that everything made from it may be wrong.
    pub fn check(&self) -> Result<(), EncodeError> {
        self.checkpoint.check()?;
        self.over.map_or(Ok(()), Over::check)?;
        self.statistics.map_or(Ok(()), Statistics::check)
    }

    /// Releases the mapped memory of a tensor.
    pub fn release(&self, tensor: usize) {
        self.checkpoint.release(self.tensors[tensor].info);
    }

    /// Returns whether a tensor is coded with loss.
    pub fn is_lossy(&self, tensor: usize) -> bool {
        self.metrics.get(tensor).is_some_and(Option::is_some)
    }

    /// Returns whether steps follow from statistics.
    pub fn is_calibrated(&self) -> bool {
        self.statistics.is_some()
    }

    /// Returns whether any tensor is coded with loss.
    pub fn lossy_any(&self) -> bool {
        self.metrics.iter().any(Option::is_some)
    }

    /// Returns whether covariances are factored again whenever they are needed, since not all factors are kept.
    pub fn factors_again(&self) -> bool {
        !self.feedbacks.keeps(self.metrics.iter().flatten())
    }

    /// Returns a tensor that is coded with loss, with the covariance in the statistics; `None` for a tensor that is
    /// kept exactly.
    ///
    /// # Errors
    /// If the covariance does not fit the tensor or cannot be factored.
    pub fn lossy(&self, tensor: usize) -> Result<Option<LossyTensor<'_>>, EncodeError> {
        let Some(metric) = self.metrics.get(tensor).and_then(Option::as_ref) else { return Ok(None) };
        let Some(scales) = self.scales(tensor) else { return Ok(None) };
        let matrix = self.matrix(tensor);
        let feedback = self.feedbacks.of(metric, matrix.columns, matrix.column_order())?;
        let (tools, costs, preset) = (self.tools.get(tensor).copied().flatten(), &self.costs, self.preset);
        // A reference has none itself.
        let reference = self.reference(tensor).map_or(Ok(None), |reference| self.lossy(reference))?.map(Box::new);
        let format = self.format(tensor);
        let low_rank = self.shared_low_rank(tensor);
        let trellis = self.trellis.as_ref().map(|(trellis, costs)| (*trellis, costs));
        let pruning = self.pruning(tensor);
        Ok(Some(LossyTensor {
            matrix,
            scales,
            metric,
            feedback,
            costs,
            tools,
            preset,
            pruning,
            format,
            trellis,
            fit_widths: self.fit_widths,
            reference,
            low_rank,
        }))
    }

    /// Returns whether a tensor is neither pruned nor in a format, so that any tool may code it.
    fn is_free(&self, tensor: usize) -> bool {
        self.pruning(tensor).is_none() && self.format(tensor).is_none()
    }

    /// Returns the rank of the part that approximates the error of rounding a tensor, if there is one. A pruned tensor has none,
    /// since it would have no zeros, and one with a format has none, since engines do not know of it.
    pub fn residual_rank(&self, tensor: usize) -> Option<u8> {
        self.residual.rank().filter(|_| self.is_lossy(tensor) && self.is_free(tensor))
    }

    /// Returns how a tensor is pruned that is coded with loss, if it is.
    pub fn pruning(&self, tensor: usize) -> Option<&'a Pruning> {
        self.pruning.filter(|pruning| self.is_lossy(tensor) && pruning.includes(&self.tensors[tensor]))
    }

    /// Returns the number of weights of all tensors; tied ones count once.
    pub fn weights(&self) -> u64 {
        self.tensors.iter().filter(|t| t.same_as.is_none()).map(Tensor::weights).sum()
    }

    /// Returns the number of weights of the tensors that are coded with loss, as fine as the size allows.
    pub fn lossy_weights(&self) -> u64 {
        (0..self.len())
            .filter(|&i| self.is_lossy(i) && self.format(i).is_none())
            .map(|i| self.tensors[i].weights())
            .sum()
    }

    /// Returns the names of the tensors, of any size, that contain NaN or infinity.
    pub fn non_finite(&self) -> Vec<String> {
        let holds = |i: &usize| match self.scales(*i) {
            Some(scales) => scales.non_finite > 0,
            None => {
                self.tensors[*i].same_as.is_none()
                    && !self.tensors[*i].is_identical()
                    && has_non_finite(&self.matrix(*i))
            }
        };
        (0..self.len()).filter(|&i| self.is_own(i)).filter(holds).map(|i| self.tensors[i].name.clone()).collect()
    }
}

/// Replaces the scales of tensors that have a base by those of the differences, if these are smaller than the weights; otherwise
/// the tensor has no base any more. Returns the scales that were replaced.
fn difference_scales(
    checkpoint: &Checkpoint,
    tensors: &mut [Tensor],
    scales: &mut [Option<Scales>],
) -> Vec<Option<Scales>> {
    let replace = |(tensor, scales): (&mut Tensor, &mut Option<Scales>)| {
        let (over, alone) = tensor.over_elements().zip(scales.as_ref())?;
        let of_differences = fit(&MatrixView { over: Some(over), ..tensor.matrix(checkpoint) });
        checkpoint.release(tensor.info);
        if of_differences.mean_square < alone.mean_square * WORTH && of_differences.non_finite == 0 {
            return scales.replace(of_differences);
        }
        tensor.over = None;
        None
    };
    tensors.iter_mut().zip(scales).map(replace).collect()
}

/// Turns the tensors that have no lower layers back into blocks, and those that are tied to them.
fn keep_blocks(tensors: &mut [Tensor], scales: &mut [Option<Scales>], metrics: &[Option<Metric>]) {
    let keeps: Vec<bool> = tensors.iter().enumerate().map(|(i, t)| metrics[t.same_as.unwrap_or(i)].is_none()).collect();
    for ((tensor, scales), keeps) in tensors.iter_mut().zip(scales).zip(keeps) {
        if keeps && tensor.is_of_blocks() {
            (tensor.dtype, *scales) = (tensor.info.dtype, None);
        }
    }
}

/// Returns whether a tensor with these scales may be coded with loss.
fn is_usual(tensor: &Tensor, scales: &Scales) -> bool {
    let matrix = has_lattice(tensor.dtype) && tensor.info.shape.len() >= 2;
    matrix && scales.non_finite == 0 && scales.mean_square > 0.0
}
