//! The encoding job: a checkpoint becomes one file.

use std::path::Path;

use impasto_checkpoint::{Checkpoint, CheckpointError, Format};
use impasto_codec::TensorHeader;
use impasto_container::{Writer, manifest_length, measure};
use impasto_core::Mode;

use crate::arithmetic::{exp2, log2_fixed};
use crate::calibrate::model_hash;
use crate::code::{CodedAsset, code_assets, code_tensor};
use crate::drift::{self, Sequential};
use crate::error::EncodeError;
use crate::lattice::{Costs, Integers, Rows, round};
use crate::layers::Layers;
use crate::layout::layout;
use crate::matrix::has_non_finite;
use crate::metric::{Feedbacks, Floors, Metric, metrics};
use crate::model::{Tensor, tensors};
use crate::plan::{Coding, Plan, has_lattice};
use crate::rate::{Found, Rates, search};
use crate::report::{Coded, Report, TensorReport};
use crate::scales::{Scales, fit};
use crate::statistics::Statistics;

/// Fewer weights than this are not worth a tensor header: they are stored or go under Zstandard.
pub const LEAST_WEIGHTS: usize = 4096;
/// Times that a file is coded to meet a size.
pub const TRIES: usize = 8;
/// A forecast aims below the wanted size by one part in so many.
pub const SLACK: u64 = 1000;

/// How much of the weights to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Every bit.
    Lossless,
    /// At most so many bytes of file, and at least 99.5% of them.
    Size(u64),
    /// The same in bits of file over all weights (tied tensors counted once).
    BitsPerWeight(f64),
}

/// Options of an encoding.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much to keep.
    pub target: Target,
    /// Threads; 0 for as many as the machine has. The bytes do not depend on it.
    pub threads: usize,
    /// rANS segments of a tile, 1 to 16.
    pub segments: usize,
    /// How far statistics are believed.
    pub floors: Floors,
    /// Layers below and above the lossy one that `target` is the size of.
    pub layers: Layers,
}

impl Options {
    /// The usual options for a target.
    pub fn new(target: Target) -> Options {
        Options { target, threads: 0, segments: 1, floors: Floors::default(), layers: Layers::default() }
    }
}

/// What an encoding is doing, for those who watch.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Looking for the step that gives the wanted size: pass number.
    Measuring(usize),
    /// Running the text through coded blocks: the block's number from 0, and how many there are.
    Drift(usize, usize),
    /// Coding a tensor: its name, tensors done, tensors in all.
    Coding(&'a str, usize, usize),
}

/// What a text says of a model.
pub struct Calibrated<'a> {
    /// Its statistics.
    pub statistics: &'a Statistics,
    /// To let each block see inputs from coded blocks.
    pub sequential: Option<Sequential<'a>>,
}

/// Encodes a checkpoint into a file at `path`: written beside it, then renamed.
///
/// # Errors
/// [`EncodeError`]; then what was at `path` stays.
pub fn encode(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    watch: &(dyn Fn(Progress) + Sync),
) -> Result<Report, EncodeError> {
    encode_calibrated(checkpoint, path, options, None, watch)
}

/// As [`encode`]; a lossy file puts its error where `calibrated` says that it weighs least.
///
/// # Errors
/// [`EncodeError`]; then what was at `path` stays.
pub fn encode_calibrated(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    calibrated: Option<&Calibrated>,
    watch: &(dyn Fn(Progress) + Sync),
) -> Result<Report, EncodeError> {
    if is_input(checkpoint, path) {
        return Err(EncodeError::OverInput(path.display().to_string()));
    }
    if options.layers.exact && checkpoint.shards().iter().any(|shard| shard.format() == Format::Gguf) {
        return Err(EncodeError::ExactGguf);
    }
    let calibrated = calibrated.filter(|_| options.target != Target::Lossless);
    if let Some(Calibrated { statistics, .. }) = calibrated
        && statistics.info().model != model_hash(checkpoint).to_hex().as_str()
    {
        return Err(EncodeError::OtherModel { file: statistics.name().to_owned() });
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|e| EncodeError::Threads(options.threads, e.to_string()))?;
    pool.install(|| {
        let job = Job::new(checkpoint, options, calibrated.map(|c| c.statistics), watch)?;
        let Some((statistics, sequential)) = calibrated.and_then(|c| Some((c.statistics, c.sequential.as_ref()?)))
        else {
            return job.run(path);
        };
        let folder = tempfile::tempdir().map_err(|error| CheckpointError::io(path, error))?;
        let drifted = folder.path().join("statistics.safetensors");
        drift::drifted(&job, job.find_step(job.target_bytes())?, statistics, sequential, &drifted)?;
        drop(job);
        Job::new(checkpoint, options, Some(&Statistics::open(&drifted)?), watch)?.run(path)
    })
}

/// Is `path` a file that the checkpoint is read from? The rename would destroy the original.
fn is_input(checkpoint: &Checkpoint, path: &Path) -> bool {
    let Ok(output) = path.canonicalize() else { return false };
    checkpoint.shards().iter().any(|shard| shard.path().canonicalize().is_ok_and(|input| input == output))
}

pub(crate) struct Job<'a> {
    pub checkpoint: &'a Checkpoint,
    pub options: &'a Options,
    pub watch: &'a (dyn Fn(Progress) + Sync),
    pub tensors: Vec<Tensor<'a>>,
    /// The scales of each tensor that has a float layout, is large enough and not tied.
    scales: Vec<Option<Scales>>,
    pub assets: Vec<CodedAsset>,
    /// In a lossy file: the bytes of each tensor that is kept exactly, which are the same at every rate.
    kept: Vec<Option<u64>>,
    /// How the error of each lossy tensor is measured.
    metrics: Vec<Option<Metric>>,
    pub feedbacks: Feedbacks<'a>,
    pub costs: Costs,
    rates: Rates,
}

impl<'a> Job<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        options: &'a Options,
        statistics: Option<&'a Statistics>,
        watch: &'a (dyn Fn(Progress) + Sync),
    ) -> Result<Self, EncodeError> {
        let tensors = tensors(checkpoint, options.target == Target::Lossless)?;
        let scale = |tensor: &Tensor| {
            let matrix = tensor.matrix(checkpoint);
            let floats = matrix.dtype.float_layout().is_some() && matrix.len() >= LEAST_WEIGHTS;
            let scales = (tensor.same_as.is_none() && floats).then(|| fit(&matrix));
            checkpoint.release(tensor.info);
            scales
        };
        let exact = options.target == Target::Lossless || options.layers.exact;
        let (assets, scales) = rayon::join(|| code_assets(checkpoint, exact), || tensors.iter().map(scale).collect());
        let assets = assets?;
        let mut job = Job {
            checkpoint,
            options,
            watch,
            tensors,
            scales,
            assets,
            kept: vec![],
            metrics: vec![],
            feedbacks: Feedbacks::new(statistics),
            costs: Costs::typical(),
            rates: Rates::default(),
        };
        if options.target != Target::Lossless {
            let lossy: Vec<_> = (0..job.tensors.len()).map(|i| Some((&job.tensors[i], job.lossy(i)?))).collect();
            job.metrics = metrics(&lossy, statistics, options.floors);
            job.kept = (0..job.tensors.len()).map(|i| job.kept_bytes(i)).collect::<Result<_, _>>()?;
        }
        Ok(job)
    }

    /// Bytes that a tensor takes with what aligns its units, if it is kept exactly in a lossy file. They are found by coding it, since
    /// Zstandard has no forecast: a mask of zeros and ones takes next to nothing.
    fn kept_bytes(&self, tensor: usize) -> Result<Option<u64>, EncodeError> {
        let info = self.tensors[tensor].info;
        if self.lossy(tensor).is_some() {
            return Ok(None);
        }
        let Some(plan) = self.plan(tensor, None)? else { return Ok(None) };
        let mut bytes = 0;
        let matrix = self.tensors[tensor].matrix(self.checkpoint);
        code_tensor(&self.tensors[tensor].name, &matrix, &plan, None, self.options.segments, &mut |_, unit: &[u8]| {
            bytes += unit.len().next_multiple_of(16) as u64;
            Ok(())
        })?;
        self.checkpoint.release(info);
        Ok(Some(bytes))
    }

    pub fn weights(&self) -> u64 {
        self.tensors.iter().filter(|t| t.same_as.is_none()).map(Tensor::weights).sum()
    }

    /// The scales of a tensor that may be coded with loss.
    fn lossy(&self, tensor: usize) -> Option<&Scales> {
        let Tensor { info, dtype, .. } = self.tensors[tensor];
        let scales = self.scales[tensor].as_ref()?;
        let usual = has_lattice(dtype) && info.shape.len() >= 2;
        (usual && scales.non_finite == 0 && scales.mean_square > 0.0).then_some(scales)
    }

    /// Plans for all tensors that are not tied; with loss at a global step, or without.
    pub fn plans(&self, step: Option<f64>) -> Result<Vec<Option<Plan>>, EncodeError> {
        (0..self.tensors.len()).map(|i| self.plan(i, step)).collect()
    }

    pub fn plan(&self, tensor: usize, step: Option<f64>) -> Result<Option<Plan>, EncodeError> {
        let Tensor { info, same_as: None, .. } = self.tensors[tensor] else { return Ok(None) };
        let matrix = self.tensors[tensor].matrix(self.checkpoint);
        let lossy = self.metrics.get(tensor).and_then(Option::as_ref).zip(step);
        let plan = match (&self.scales[tensor], matrix.dtype.float_layout(), lossy) {
            (Some(scales), _, Some((metric, step))) => {
                let feedback = self.feedbacks.of(metric, matrix.columns)?;
                let refined = (!self.options.layers.below.is_empty()).then(|| self.lossy_weights());
                let rate = self.rates.at(tensor, step, |step| {
                    let grid = metric.grid(&feedback, step);
                    let sample = round(&matrix, scales, &feedback, &grid, &self.costs, Rows::Sample);
                    sample.rate(&grid, &self.costs)
                });
                Plan::lattice(&matrix, metric.grid(&feedback, step), rate, refined)
            }
            (Some(scales), Some(layout), None) => Plan::float(&matrix, layout, scales),
            _ => Plan::bytes(&matrix),
        };
        let rule = "the format cannot hold its tiles (SPEC 4.2)";
        let mut plan = plan.map_err(|_| EncodeError::Tensor { tensor: self.tensors[tensor].name.clone(), rule })?;
        if let Some(&Some(bytes)) = self.kept.get(tensor) {
            plan.bytes = bytes;
        }
        self.checkpoint.release(info);
        Ok(Some(plan))
    }

    /// Bytes that a lossy file may have.
    pub fn target_bytes(&self) -> u64 {
        match self.options.target {
            Target::Lossless => u64::MAX,
            Target::Size(bytes) => bytes,
            Target::BitsPerWeight(bits) => self.bytes_at(bits),
        }
    }

    /// Bytes of a file of so many bits over all weights.
    pub fn bytes_at(&self, bits: f64) -> u64 {
        (bits * self.weights() as f64 / 8.0) as u64
    }

    pub fn lossy_weights(&self) -> u64 {
        let lossy = (0..self.tensors.len()).filter(|&i| self.lossy(i).is_some());
        lossy.map(|i| self.tensors[i].weights()).sum()
    }

    /// How the error of a lossy tensor is measured, and the scales of its weights.
    pub fn measure(&self, tensor: usize) -> Option<(&Metric, &Scales)> {
        self.metrics.get(tensor)?.as_ref().zip(self.scales[tensor].as_ref())
    }

    /// The global step at which the file is forecast to have `target` bytes.
    pub fn find_step(&self, target: u64) -> Result<f64, EncodeError> {
        let lossy_weights = self.lossy_weights();
        if lossy_weights == 0 {
            return Err(EncodeError::NothingLossy { least: LEAST_WEIGHTS });
        }
        let slack = target / SLACK;
        let mut pass = 0;
        let found = search(target - slack, slack, lossy_weights, |step| {
            pass += 1;
            (self.watch)(Progress::Measuring(pass));
            Ok::<_, EncodeError>(self.forecast(&self.plans(Some(step))?))
        })?;
        match found {
            Found::Step(step) => Ok(step),
            Found::LeastIs(least) => Err(self.too_small(target, least)),
            Found::MostIs(most) => Err(EncodeError::TooLarge { wanted: target, most }),
        }
    }

    fn run(&self, path: &Path) -> Result<Report, EncodeError> {
        if self.options.target == Target::Lossless {
            return self.code(path, &self.plans(None)?)?.finish(None);
        }
        if self.options.layers.any() {
            return self.run_layered(path);
        }
        let (target, lossy_weights) = (self.target_bytes(), self.lossy_weights());
        let slack = target / SLACK;
        let mut step = self.find_step(target)?;
        // The forecast is good to a few parts in 1000: what was coded tells the rest. Sizes are above the target at steps up to `low`.
        let (mut low, mut high) = (None, None);
        for _ in 0..TRIES {
            let coded = self.code(path, &self.plans(Some(step))?)?;
            let length = coded.length;
            if length <= target && length >= target - target / 200 {
                return coded.finish(Some(step));
            }
            let log = f64::from(log2_fixed(step).unwrap_or(0)) / 65536.0;
            if length > target {
                low = Some(log);
            } else {
                high = Some(log);
            }
            let bits = (length as f64 - (target - slack) as f64) * 8.0 / lossy_weights as f64;
            let next = match (low, high) {
                (Some(low), Some(high)) if !(low < log + bits && log + bits < high) => (low + high) / 2.0,
                _ => log + bits,
            };
            step = exp2(next);
        }
        Err(EncodeError::Missed { wanted: target })
    }

    fn too_small(&self, wanted: u64, least: u64) -> EncodeError {
        EncodeError::TooSmall { wanted, least, least_bpw: least as f64 * 8.0 / self.weights() as f64 }
    }

    /// Names of the tensors that hold NaN or infinity, whatever their size.
    fn non_finite(&self) -> Vec<String> {
        let holds = |i: &usize| match &self.scales[*i] {
            Some(scales) => scales.non_finite > 0,
            None => self.tensors[*i].same_as.is_none() && has_non_finite(&self.tensors[*i].matrix(self.checkpoint)),
        };
        (0..self.tensors.len()).filter(holds).map(|i| self.tensors[i].name.clone()).collect()
    }

    /// The length of the file that plans give, units forecast rather than coded.
    fn forecast(&self, plans: &[Option<Plan>]) -> u64 {
        let (objects, slots) = layout(&self.assets, &self.tensors, plans);
        let assets: u64 = self.assets.iter().map(|asset| asset.bytes() + 8).sum();
        let tensors: u64 = plans.iter().flatten().map(|plan| plan.bytes).sum();
        64 + manifest_length(&objects, slots.len(), &[]) + assets + tensors
    }

    /// The integers of a tensor on the lattice, and their head.
    fn integers(&self, tensor: usize, plan: &Plan) -> Result<Option<(Integers, TensorHeader)>, EncodeError> {
        let Coding::Lattice(grid) = &plan.coding else { return Ok(None) };
        let Some((metric, scales)) = self.measure(tensor) else { return Ok(None) };
        let matrix = self.tensors[tensor].matrix(self.checkpoint);
        let feedback = self.feedbacks.of(metric, matrix.columns)?;
        let integers = round(&matrix, scales, &feedback, grid, &self.costs, Rows::All);
        let (header, _) = integers.header(grid, &self.costs);
        Ok(Some((integers, header)))
    }

    /// Codes everything into a file that has not its name yet.
    fn code(&self, path: &Path, plans: &[Option<Plan>]) -> Result<Coded, EncodeError> {
        let (objects, slots) = layout(&self.assets, &self.tensors, plans);
        let mut lengths = Vec::with_capacity(slots.len());
        let mut writer = Writer::create(path, objects.clone(), slots, vec![])?;
        let mut push = |mode: Mode, bytes: &[u8]| {
            lengths.push(bytes.len() as u32);
            writer.push(mode, bytes)
        };
        for (mode, bytes) in self.assets.iter().flat_map(|asset| &asset.pieces) {
            push(*mode, bytes)?;
        }
        let mut reports = Vec::new();
        for (i, (tensor, plan)) in self.tensors.iter().zip(plans).enumerate() {
            (self.watch)(Progress::Coding(&tensor.name, i, plans.len()));
            let (mode, bytes) = match plan {
                None => (None, 0),
                Some(plan) => {
                    let matrix = tensor.matrix(self.checkpoint);
                    let integers = self.integers(i, plan)?;
                    let segments = self.options.segments;
                    let coded = code_tensor(&tensor.name, &matrix, plan, integers.as_ref(), segments, &mut push)?;
                    (Some(coded.0), coded.1)
                }
            };
            self.checkpoint.release(tensor.info);
            reports.push(TensorReport::new(tensor, mode, bytes));
        }
        let coded = self.coded(writer, reports);
        let length = measure(&objects, &lengths, &[]).map_err(|rule| EncodeError::Layout(rule.to_string()))?;
        Ok(Coded { length, ..coded })
    }

    /// What there is to say of a file whose units are written.
    pub fn coded(&self, writer: Writer, tensors: Vec<TensorReport>) -> Coded {
        let distinct = || self.tensors.iter().filter(|t| t.same_as.is_none());
        Coded {
            writer,
            length: 0,
            tensors,
            layers: vec![],
            asset_bytes: self.assets.iter().map(CodedAsset::bytes).sum(),
            weights: self.weights(),
            raw_bytes: distinct().map(Tensor::raw_bytes).sum(),
            non_finite: self.non_finite(),
        }
    }
}
