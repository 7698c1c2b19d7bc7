//! Plans of all tensors, and the search for the step that gives the requested size.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use impasto_checkpoint::Checkpoint;
use impasto_container::expansion::{ALWAYS, RATIO};
use impasto_container::{Matrix, manifest_length};

use crate::arithmetic::exp2;
use crate::code::{CodedAsset, code_assets, code_tensor, more_segments};
use crate::error::{EncodeError, heard};
use crate::inputs::Inputs;
use crate::lattice::Grid;
use crate::layout::layout;
use crate::low_rank::residual_bytes;
use crate::metric::RelativeSteps;
use crate::model::Tensor;
use crate::options::{LEAST_WEIGHTS, Options, Preset, Progress, Target, Watch};
use crate::over::Over;
use crate::pace::{Forecast, Pace};
use crate::plan::{Coding, Plan};
use crate::portion::Exchange;
use crate::rate::{COARSEST, FINEST, Found, Measured, Rate, Rates, aim, around, search, usual_step};
use crate::statistics::Statistics;

/// Octaves by which the steps of a calibrated model are finer at the same size: steps are relative to the inputs, of which error
/// feedback makes a part predictable.
const CORRELATED: f64 = 1.25;

/// Plans a file.
pub struct Planner<'a> {
    pub inputs: Inputs<'a>,
    pub assets: Vec<CodedAsset>,
    pub options: &'a Options,
    pub watch: Watch<'a>,
    /// Each tensor that is kept exactly in a lossy file; it is the same at every step.
    kept: Vec<Option<Kept>>,
    /// The rate of each tensor with a format, likewise.
    format_rates: Vec<Option<Rate>>,
    rates: Rates,
    /// Whether each measurement of rates factors a covariance, since not all factors are kept.
    factors_again: bool,
    /// The steps of each tensor, once they are known.
    steps: Vec<OnceLock<RelativeSteps>>,
    /// What other portions of the encoding find out, if there are some.
    pub exchange: Option<&'a Exchange>,
}

/// A tensor that is kept exactly.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Kept {
    /// Its bytes, with alignment.
    pub bytes: u64,
    /// The matrix and its tiles.
    pub tiles: Matrix,
    /// Whether it has a tensor header.
    pub has_header: bool,
}

impl<'a> Planner<'a> {
    /// Analyzes a checkpoint and codes its assets; `over` is what they take from a base, `exchange` what other portions of the
    /// encoding find out.
    ///
    /// # Errors
    /// If a tensor or an asset cannot be coded, or other portions are needed and not there.
    pub fn new(
        checkpoint: &'a Checkpoint,
        options: &'a Options,
        statistics: Option<&'a Statistics>,
        over: Option<&'a Over<'a>>,
        exchange: Option<&'a Exchange>,
        watch: Watch<'a>,
    ) -> Result<Self, EncodeError> {
        let assets = || code_assets(checkpoint, options, over);
        let (assets, inputs) = rayon::join(assets, || Inputs::new(checkpoint, options, statistics, over, exchange));
        let (assets, inputs) = (assets?, inputs?);
        let (rates, steps) = (Rates::default(), std::iter::repeat_with(OnceLock::new).take(inputs.len()).collect());
        let factors_again = inputs.factors_again();
        let (kept, format_rates) = (vec![], vec![]);
        let mut planner =
            Planner { inputs, assets, options, watch, kept, format_rates, rates, factors_again, steps, exchange };
        if options.target != Target::Lossless {
            planner.format_rates =
                (0..planner.inputs.len()).map(|i| planner.format_rate(i)).collect::<Result<_, _>>()?;
            planner.kept = (0..planner.inputs.len()).map(|i| planner.kept(i)).collect::<Result<_, _>>()?;
        }
        if let Some(exchange) = exchange.filter(|_| options.has_size()) {
            exchange.publish_fixed(&planner.kept, &planner.format_rates)?;
            // What is certain to be needed is measured before other portions are waited for.
            planner.publish_rates(exchange, exp2(planner.start(planner.target_bytes())))?;
            exchange.fixed(&planner.inputs.tensors, &mut planner.kept, &mut planner.format_rates)?;
        }
        Ok(planner)
    }

    /// Returns whether the plan of a tensor is known: that of a tensor of another portion is not, if no size depends on it.
    fn is_known(&self, tensor: usize) -> bool {
        self.inputs.is_own(tensor) || self.options.has_size()
    }

    /// Returns whether a tensor has a rate that depends on the global step.
    fn is_free(&self, tensor: usize) -> bool {
        self.inputs.is_lossy(tensor) && self.inputs.format(tensor).is_none()
    }

    /// Measures the tensors of the own portion at the steps that a global step lies between, and further ones, and publishes them.
    fn publish_rates(&self, exchange: &Exchange, step: f64) -> Result<(), EncodeError> {
        let wanted: Vec<i32> = Rates::near(step).filter(|&at| !exchange.has_rates(at)).collect();
        if wanted.is_empty() {
            return Ok(());
        }
        let mut found: Vec<BTreeMap<usize, Measured>> = vec![BTreeMap::new(); wanted.len()];
        for i in (0..self.inputs.len()).filter(|&i| self.inputs.is_own(i) && self.is_free(i)) {
            for (found, &at) in found.iter_mut().zip(&wanted) {
                found.insert(i, self.rates.one(i, at, |step| self.measure(i, step))?);
            }
            self.inputs.release(i);
        }
        wanted.iter().zip(&found).try_for_each(|(&at, found)| exchange.publish_rates(at, found))
    }

    /// Makes the rates of all tensors known around a global step, if portions measure them.
    fn exchange_rates(&self, step: f64) -> Result<(), EncodeError> {
        let Some(exchange) = self.exchange.filter(|_| self.options.has_size()) else { return Ok(()) };
        self.publish_rates(exchange, step)?;
        for at in Rates::near(step).filter(|&at| !self.rates.has_all(at)) {
            self.rates.note(at, exchange.rates(at, |i| self.is_free(i))?);
        }
        Ok(())
    }

    /// Returns the rate of a tensor in its format, if it has one.
    fn format_rate(&self, tensor: usize) -> Result<Option<Rate>, EncodeError> {
        let Some(format) = self.inputs.format(tensor).filter(|_| self.inputs.is_own(tensor)) else { return Ok(None) };
        let rate = self.inputs.lossy(tensor)?.map(|lossy| lossy.measure_format(format));
        self.inputs.release(tensor);
        Ok(rate)
    }

    /// Returns what a tensor takes that is kept exactly in a lossy file. The tensor is coded to find out, since Zstandard
    /// cannot be forecast: a mask of zeros and ones takes almost nothing.
    fn kept(&self, tensor: usize) -> Result<Option<Kept>, EncodeError> {
        if self.inputs.is_lossy(tensor) || !self.inputs.is_own(tensor) {
            return Ok(None);
        }
        let Some(plan) = self.plan(tensor, None)? else { return Ok(None) };
        let mut bytes = 0;
        let (name, matrix) = (&self.inputs.tensors[tensor].name, self.inputs.matrix(tensor));
        let over = self.inputs.tensors[tensor].over_elements();
        code_tensor(name, &matrix, &plan, None, over, self.options, &mut |_, unit: &[u8]| {
            bytes += unit.len().next_multiple_of(16) as u64;
            Ok(())
        })?;
        self.inputs.release(tensor);
        let has_header = !matches!(plan.coding, Coding::Bytes);
        Ok(Some(Kept { bytes, tiles: plan.tiles, has_header }))
    }

    /// Returns plans of all tensors, `None` for tied ones. `step` is the global step; with `None`, all tensors are kept
    /// exactly.
    ///
    /// # Errors
    /// If the format cannot hold a tensor, or a covariance is invalid.
    pub fn plans(&self, step: Option<f64>) -> Result<Vec<Option<Plan>>, EncodeError> {
        step.map_or(Ok(()), |step| self.exchange_rates(step))?;
        let mut plans = (0..self.inputs.len()).map(|i| self.plan(i, step)).collect::<Result<Vec<_>, _>>()?;
        let all_known = (0..plans.len()).all(|i| self.is_known(i));
        if all_known && self.expands_too_much(&plans) {
            for (i, plan) in plans.iter_mut().enumerate() {
                let paying = plan.take().map(|plan| plan.paying(&self.inputs.matrix(i))).transpose();
                *plan = paying.map_err(|_| self.unfit(i))?;
            }
        }
        let tiles: Vec<Option<Matrix>> = plans.iter().map(|plan| plan.as_ref().map(|plan| plan.tiles)).collect();
        for plan in plans.iter_mut().flatten() {
            let of_reference = plan.reference.and_then(|reference| tiles[reference]);
            plan.tiles = of_reference.unwrap_or(plan.tiles);
        }
        Ok(plans)
    }

    /// Returns whether a file with these plans would expand to more than readers allow (SPEC 11.3).
    fn expands_too_much(&self, plans: &[Option<Plan>]) -> bool {
        // What is over a base counts together with it.
        let alone = |(i, _): &(usize, &Tensor)| !plans[*i].as_ref().is_none_or(|plan| plan.is_over);
        let raw: u64 = self.inputs.tensors.iter().enumerate().filter(alone).map(|(_, tensor)| tensor.raw_bytes()).sum();
        raw > ALWAYS.max(self.forecast(plans).saturating_mul(RATIO / 2))
    }

    fn unfit(&self, tensor: usize) -> EncodeError {
        let rule = "the format cannot hold its tiles (SPEC 4.2)";
        EncodeError::Tensor { tensor: self.inputs.tensors[tensor].name.clone(), rule }
    }

    /// Returns the rates of a tensor that is coded with loss, at a global step. Only at few steps are they measured, for which
    /// its covariance is factored.
    fn measured(&self, tensor: usize, step: f64) -> Result<Measured, EncodeError> {
        self.rates.at(tensor, step, self.factors_again, |step| self.measure(tensor, step))
    }

    fn measure(&self, tensor: usize, step: f64) -> Result<Measured, EncodeError> {
        let measured = self.inputs.lossy(tensor)?.map(|lossy| lossy.measure(step));
        measured.ok_or_else(|| self.unfit(tensor))
    }

    /// Returns the steps of a tensor that is coded with loss, at a global step.
    fn grid(&self, tensor: usize, step: f64) -> Result<Grid, EncodeError> {
        if !self.inputs.is_own(tensor) {
            return Ok(Grid::new(1.0)); // Nothing is coded with it.
        }
        let known = &self.steps[tensor];
        if known.get().is_none() {
            let lossy = self.inputs.lossy(tensor)?.ok_or_else(|| self.unfit(tensor))?;
            known.get_or_init(|| lossy.metric.steps(&lossy.feedback));
        }
        let grid = known.get().map(|steps| steps.grid(step)).ok_or_else(|| self.unfit(tensor))?;
        Ok(Grid { low_rank: self.inputs.shared_low_rank(tensor), ..grid })
    }

    fn plan(&self, tensor: usize, step: Option<f64>) -> Result<Option<Plan>, EncodeError> {
        let inputs = &self.inputs;
        if inputs.tensors[tensor].same_as.is_some() || inputs.tensors[tensor].is_identical() {
            return Ok(None);
        }
        let matrix = inputs.matrix(tensor);
        if !inputs.is_own(tensor) {
            if !self.is_known(tensor) {
                return Ok(None);
            }
            if let Some(&Some(Kept { bytes, tiles, has_header })) = self.kept.get(tensor) {
                // Only that it has a header matters.
                let coding = if has_header { Coding::Lattice(Grid::new(1.0)) } else { Coding::Bytes };
                return Ok(Some(Plan { coding, tiles, bytes, reference: None, is_over: false }));
            }
        }
        let format_rate = self.format_rates.get(tensor).copied().flatten();
        let in_format = step.and(inputs.format(tensor)).zip(format_rate);
        let step = step.filter(|_| in_format.is_none() && inputs.is_lossy(tensor));
        let plan = match (inputs.scales(tensor), matrix.dtype.float_layout(), step, in_format) {
            (.., Some((format, rate))) => Plan::format(&matrix, format, rate),
            (Some(_), _, Some(step), _) => {
                let refined = (!self.options.layers.below.is_empty()).then(|| inputs.lossy_weights());
                let (measured, grid) = (self.measured(tensor, step)?, self.grid(tensor, step)?);
                match measured.transform.filter(|transform| transform.gain > 0.0) {
                    Some(transform) if self.options.preset == Preset::Jpeg => Plan::jpeg(&matrix, grid, transform.rate),
                    Some(transform) => {
                        let reference = inputs.reference(tensor).filter(|_| transform.is_predicted);
                        let plan = Plan::transform(&matrix, grid, transform.rate);
                        plan.map(|plan| Plan { reference, ..plan })
                    }
                    None => {
                        let rank = inputs.residual_rank(tensor);
                        let residual = rank.map_or(0, |rank| residual_bytes(rank, matrix.rows, matrix.columns));
                        let plan = Plan::lattice(&matrix, grid.on(inputs.trellis()), measured.lattice, refined);
                        plan.map(|plan| Plan {
                            bytes: plan.bytes + residual + more_segments(&plan, self.options),
                            ..plan
                        })
                    }
                }
            }
            (Some(scales), Some(layout), None, _) if !matrix.is_constant() => Plan::float(&matrix, layout, scales),
            _ => Plan::bytes(&matrix),
        };
        let mut plan = plan.map_err(|_| self.unfit(tensor))?;
        if !plan.is_over
            && let Some(delta) = inputs.delta(tensor).map_err(|_| self.unfit(tensor))?
            && delta.bytes < plan.bytes
        {
            plan = delta;
        }
        if let Some(Some(kept)) = self.kept.get(tensor) {
            plan.bytes = kept.bytes;
        }
        inputs.release(tensor);
        Ok(Some(plan))
    }

    /// Returns the largest permitted size of a lossy file.
    pub fn target_bytes(&self) -> u64 {
        match self.options.target {
            Target::Lossless | Target::Formats | Target::Kld(_) => u64::MAX,
            Target::Size(bytes) => bytes,
            Target::BitsPerWeight(bits) => self.bytes_at(bits),
        }
    }

    /// Returns the size of a file with `bits` bits per weight.
    pub fn bytes_at(&self, bits: f64) -> u64 {
        (bits * self.inputs.weights() as f64 / 8.0) as u64
    }

    /// Returns the global step, as a power of two, at which a model usually takes so many bits per weight.
    pub fn usual_step(&self, bits: f64) -> f64 {
        usual_step(bits) - if self.inputs.is_calibrated() { CORRELATED } else { 0.0 }
    }

    /// Returns the number of weights that the global step decides about.
    ///
    /// # Errors
    /// If there are none.
    pub fn check_any_free(&self) -> Result<u64, EncodeError> {
        match self.inputs.lossy_weights() {
            0 if (0..self.inputs.len()).any(|i| self.inputs.format(i).is_some()) => Err(EncodeError::FormatsDecide),
            0 => Err(EncodeError::NothingLossy { least: LEAST_WEIGHTS }),
            weights => Ok(weights),
        }
    }

    /// Returns the global step, as a power of two, at which the search for one with `target` bytes begins.
    fn start(&self, target: u64) -> f64 {
        self.usual_step(aim(target) as f64 * 8.0 / self.inputs.weights().max(1) as f64).clamp(FINEST, COARSEST)
    }

    /// Returns the global step at which the forecast of the file is `target` bytes.
    ///
    /// # Errors
    /// If no step gives this size, or no tensor is coded with loss.
    pub fn find_step(&self, target: u64) -> Result<f64, EncodeError> {
        let lossy_weights = self.check_any_free()?;
        let mut pass = 0;
        let (wanted, start) = (aim(target), self.start(target));
        let found = search(wanted, target - wanted, lossy_weights, start, |step| {
            pass += 1;
            heard((self.watch)(Progress::Measuring(pass)))?;
            Ok::<_, EncodeError>(self.forecast(&self.plans(Some(step))?))
        })?;
        match found {
            Found::Step(step) => Ok(step),
            Found::LeastIs(least) => {
                let least_bpw = least as f64 * 8.0 / self.inputs.weights() as f64;
                Err(EncodeError::TooSmall { wanted: target, least, least_bpw })
            }
            Found::MostIs(most) => Err(EncodeError::TooLarge { wanted: target, most }),
        }
    }

    /// Returns whether a tensor has a layer for each size of a layered file.
    pub fn has_layers(&self, tensor: usize) -> bool {
        self.inputs.is_lossy(tensor) && self.inputs.format(tensor).is_none()
    }

    /// Returns the rate control of a file of `target` bytes whose plans are for the global step `step`. A weight costs `more` bits than
    /// they say.
    ///
    /// # Errors
    /// If the format cannot hold a tensor, or a covariance is invalid.
    pub fn pace(&self, target: u64, step: f64, plans: &[Option<Plan>], more: f64) -> Result<Pace, EncodeError> {
        let [finer, coarser] = around(step).map(|step| self.plans(Some(step)));
        let (finer, coarser) = (finer?, coarser?);
        let bytes = |plan: &Option<Plan>| plan.as_ref().map_or(0.0, |plan| plan.bytes as f64);
        let forecast = |i: usize| {
            let slope = ((bytes(&finer[i]) - bytes(&coarser[i])) * 4.0).max(0.0);
            let more = if slope > 0.0 { more * self.inputs.tensors[i].weights() as f64 / 8.0 } else { 0.0 };
            Forecast { bytes: bytes(&plans[i]) + more, slope }
        };
        Ok(Pace::new(target, (0..plans.len()).map(forecast).collect()))
    }

    /// Makes the steps of a planned tensor those at another global step.
    ///
    /// # Errors
    /// If a covariance is invalid.
    pub fn change_step(&self, tensor: usize, plan: &mut Plan, step: f64) -> Result<(), EncodeError> {
        if plan.coding.has_steps() {
            plan.coding.set_grid(self.grid(tensor, step)?);
        }
        Ok(())
    }

    /// Returns the forecast length of the file with these plans.
    fn forecast(&self, plans: &[Option<Plan>]) -> u64 {
        let (objects, slots) = layout(&self.assets, &self.inputs.tensors, plans);
        let assets: u64 = self.assets.iter().map(|asset| asset.bytes() + 8).sum();
        let tensors: u64 = plans.iter().flatten().map(|plan| plan.bytes).sum();
        64 + manifest_length(&objects, slots.len(), &[], self.inputs.base()) + assets + tensors
    }
}
