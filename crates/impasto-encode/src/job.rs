//! The encoding job: a checkpoint becomes one file.

use std::path::Path;

use impasto_checkpoint::Checkpoint;
use impasto_codec::DType;
use impasto_container::{Mode, Summary, Writer, manifest_length, measure};

use crate::code::{CodedAsset, code_assets, code_tensor};
use crate::error::EncodeError;
use crate::layout::layout;
use crate::matrix::has_non_finite;
use crate::model::{Tensor, tensors};
use crate::plan::{Plan, has_lattice};
use crate::rate::{Found, search, step_of};
use crate::scales::{Scales, fit};

/// Fewer weights than this are not worth a head: they are stored or go under Zstandard.
pub const LEAST_WEIGHTS: usize = 4096;
/// Times that a size is aimed at again after the forecast missed it.
const TRIES: usize = 6;

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
}

/// What an encoding is doing, for those who watch.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Looking for the step that gives the wanted size: pass number.
    Measuring(usize),
    /// Coding a tensor: its name, tensors done, tensors in all.
    Coding(&'a str, usize, usize),
}

/// What became of a tensor.
#[derive(Clone, Debug)]
pub struct TensorReport {
    /// Its name.
    pub name: String,
    /// Its dtype.
    pub dtype: DType,
    /// Its shape.
    pub shape: Vec<u64>,
    /// `stored`, `zstd`, `float`, `lattice`, or `tied`.
    pub mode: &'static str,
    /// Bytes of its units.
    pub bytes: u64,
}

/// What an encoding made.
#[derive(Clone, Debug)]
pub struct Report {
    /// Lengths and root of the file.
    pub summary: Summary,
    /// Every tensor, in the order of the file.
    pub tensors: Vec<TensorReport>,
    /// Bytes of the coded assets.
    pub asset_bytes: u64,
    /// Distinct weights: those of tied tensors are counted once.
    pub weights: u64,
    /// Bytes of the distinct tensors in the checkpoint.
    pub raw_bytes: u64,
    /// Step over root mean square of each lossy tensor; `None` for a lossless file.
    pub relative_step: Option<f64>,
    /// Tensors that were kept exactly in a lossy file since they hold weights that are not finite.
    pub non_finite: Vec<String>,
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
    if is_input(checkpoint, path) {
        return Err(EncodeError::OverInput(path.display().to_string()));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|e| EncodeError::Threads(options.threads, e.to_string()))?;
    pool.install(|| Job::new(checkpoint, options, watch)?.run(path))
}

/// Is `path` a file that the checkpoint is read from? The rename would destroy the original.
fn is_input(checkpoint: &Checkpoint, path: &Path) -> bool {
    let Ok(output) = path.canonicalize() else { return false };
    checkpoint.shards().iter().any(|shard| shard.path().canonicalize().is_ok_and(|input| input == output))
}

struct Job<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a Options,
    watch: &'a (dyn Fn(Progress) + Sync),
    tensors: Vec<Tensor<'a>>,
    /// The scales of each tensor that has a float layout, is large enough and not tied.
    scales: Vec<Option<Scales>>,
    assets: Vec<CodedAsset>,
    /// In a lossy file: the bytes of each tensor that is kept exactly, which are the same at every rate.
    kept: Vec<Option<u64>>,
}

impl<'a> Job<'a> {
    fn new(
        checkpoint: &'a Checkpoint,
        options: &'a Options,
        watch: &'a (dyn Fn(Progress) + Sync),
    ) -> Result<Self, EncodeError> {
        let tensors = tensors(checkpoint)?;
        let scale = |tensor: &Tensor| {
            let matrix = tensor.matrix(checkpoint);
            let floats = matrix.dtype.float_layout().is_some() && matrix.elements() >= LEAST_WEIGHTS;
            let scales = (tensor.same_as.is_none() && floats).then(|| fit(&matrix));
            checkpoint.release(tensor.info);
            scales
        };
        let exact = options.target == Target::Lossless;
        let (assets, scales) = rayon::join(|| code_assets(checkpoint, exact), || tensors.iter().map(scale).collect());
        let assets = assets?;
        let mut job = Job { checkpoint, options, watch, tensors, scales, assets, kept: vec![] };
        if options.target != Target::Lossless {
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
        code_tensor(&info.name, &matrix, &plan, self.options.segments, &mut |_, unit: &[u8]| {
            bytes += unit.len().next_multiple_of(16) as u64;
            Ok(())
        })?;
        self.checkpoint.release(info);
        Ok(Some(bytes))
    }

    fn weights(&self) -> u64 {
        self.tensors.iter().filter(|t| t.same_as.is_none()).map(Tensor::elements).sum()
    }

    /// The scales of a tensor that may be coded with loss.
    fn lossy(&self, tensor: usize) -> Option<&Scales> {
        let info = self.tensors[tensor].info;
        let scales = self.scales[tensor].as_ref()?;
        let usual = has_lattice(info.dtype) && info.shape.len() >= 2;
        (usual && scales.non_finite == 0 && scales.mean_square > 0.0).then_some(scales)
    }

    /// Plans for all tensors that are not tied; with loss at a relative step, or without.
    fn plans(&self, relative: Option<f64>) -> Result<Vec<Option<Plan>>, EncodeError> {
        (0..self.tensors.len()).map(|i| self.plan(i, relative)).collect()
    }

    fn plan(&self, tensor: usize, relative: Option<f64>) -> Result<Option<Plan>, EncodeError> {
        let Tensor { info, same_as: None, .. } = self.tensors[tensor] else { return Ok(None) };
        let matrix = self.tensors[tensor].matrix(self.checkpoint);
        let step = relative.and_then(|r| step_of(self.lossy(tensor)?.mean_square, r));
        let plan = match (&self.scales[tensor], matrix.dtype.float_layout(), step) {
            (Some(scales), _, Some(step)) => Plan::lattice(&matrix, scales, step),
            (Some(scales), Some(layout), None) => Plan::float(&matrix, layout, scales),
            _ => Plan::bytes(&matrix),
        };
        let rule = "the format cannot hold its tiles (SPEC 4.2)";
        let mut plan = plan.map_err(|_| EncodeError::Tensor { tensor: info.name.clone(), rule })?;
        if let Some(&Some(bytes)) = self.kept.get(tensor) {
            plan.bytes = bytes;
        }
        self.checkpoint.release(info);
        Ok(Some(plan))
    }

    fn run(&self, path: &Path) -> Result<Report, EncodeError> {
        let target = match self.options.target {
            Target::Lossless => return self.code(path, &self.plans(None)?)?.finish(None),
            Target::Size(bytes) => bytes,
            Target::BitsPerWeight(bits) => (bits * self.weights() as f64 / 8.0) as u64,
        };
        let lossy = (0..self.tensors.len()).filter(|&i| self.lossy(i).is_some());
        let lossy_weights: u64 = lossy.map(|i| self.tensors[i].elements()).sum();
        if lossy_weights == 0 {
            return Err(EncodeError::NothingLossy { least: LEAST_WEIGHTS });
        }
        // The forecast is good to a few parts in 1000; a further try corrects what it missed.
        let slack = target / 1000;
        let mut aim = target - slack;
        let mut pass = 0;
        // The smallest file that was coded and was too large still.
        let mut least_coded = u64::MAX;
        for _ in 0..TRIES {
            let found = search(aim, slack, lossy_weights, |relative| {
                pass += 1;
                (self.watch)(Progress::Measuring(pass));
                Ok::<_, EncodeError>(self.forecast(&self.plans(Some(relative))?))
            })?;
            let relative = match found {
                Found::Step(relative) => relative,
                Found::LeastIs(least) => {
                    let least = if least_coded < u64::MAX { least.max(least_coded) } else { least };
                    let least_bpw = least as f64 * 8.0 / self.weights() as f64;
                    return Err(EncodeError::TooSmall { wanted: target, least, least_bpw });
                }
                Found::MostIs(most) => return Err(EncodeError::TooLarge { wanted: target, most }),
            };
            let coded = self.code(path, &self.plans(Some(relative))?)?;
            let length = coded.length;
            if length <= target && length >= target - target / 200 {
                return coded.finish(Some(relative));
            }
            if length > target {
                least_coded = least_coded.min(length);
            }
            aim = (u128::from(aim) * u128::from(target - slack) / u128::from(length.max(1))) as u64;
        }
        Err(EncodeError::Missed { wanted: target })
    }

    /// Names of the tensors that hold NaN or infinity, whatever their size.
    fn non_finite(&self) -> Vec<String> {
        let holds = |i: &usize| match &self.scales[*i] {
            Some(scales) => scales.non_finite > 0,
            None => self.tensors[*i].same_as.is_none() && has_non_finite(&self.tensors[*i].matrix(self.checkpoint)),
        };
        (0..self.tensors.len()).filter(holds).map(|i| self.tensors[i].info.name.clone()).collect()
    }

    /// The length of the file that plans give, units forecast rather than coded.
    fn forecast(&self, plans: &[Option<Plan>]) -> u64 {
        let (objects, slots) = layout(&self.assets, &self.tensors, plans);
        let assets: u64 = self.assets.iter().map(|asset| asset.bytes() + 8).sum();
        let tensors: u64 = plans.iter().flatten().map(|plan| plan.bytes).sum();
        64 + manifest_length(&objects, slots.len()) + assets + tensors
    }

    /// Codes everything into a file that has not its name yet.
    fn code(&self, path: &Path, plans: &[Option<Plan>]) -> Result<Coded, EncodeError> {
        let (objects, slots) = layout(&self.assets, &self.tensors, plans);
        let mut lengths = Vec::with_capacity(slots.len());
        let mut writer = Writer::create(path, objects.clone(), slots)?;
        let mut push = |mode: Mode, bytes: &[u8]| {
            lengths.push(bytes.len() as u32);
            writer.push(mode, bytes)
        };
        for (mode, bytes) in self.assets.iter().flat_map(|asset| &asset.pieces) {
            push(*mode, bytes)?;
        }
        let mut reports = Vec::new();
        for (i, (tensor, plan)) in self.tensors.iter().zip(plans).enumerate() {
            (self.watch)(Progress::Coding(&tensor.info.name, i, plans.len()));
            let (mode, bytes) = match plan {
                None => ("tied", 0),
                Some(plan) => {
                    let matrix = tensor.matrix(self.checkpoint);
                    code_tensor(&tensor.info.name, &matrix, plan, self.options.segments, &mut push)?
                }
            };
            self.checkpoint.release(tensor.info);
            let info = tensor.info;
            let (name, shape) = (info.name.clone(), info.shape.clone());
            reports.push(TensorReport { name, dtype: info.dtype, shape, mode, bytes });
        }
        let length = measure(&objects, &lengths).map_err(|rule| EncodeError::Layout(rule.to_string()))?;
        let distinct = || self.tensors.iter().filter(|t| t.same_as.is_none());
        Ok(Coded {
            writer,
            length,
            tensors: reports,
            asset_bytes: self.assets.iter().map(CodedAsset::bytes).sum(),
            weights: self.weights(),
            raw_bytes: distinct().map(|t| t.info.byte_len()).sum(),
            non_finite: self.non_finite(),
        })
    }
}

/// A file that is coded but has not its name yet; dropped, it leaves nothing.
struct Coded {
    writer: Writer,
    length: u64,
    tensors: Vec<TensorReport>,
    asset_bytes: u64,
    weights: u64,
    raw_bytes: u64,
    non_finite: Vec<String>,
}

impl Coded {
    fn finish(self, relative_step: Option<f64>) -> Result<Report, EncodeError> {
        Ok(Report {
            summary: self.writer.finish()?,
            tensors: self.tensors,
            asset_bytes: self.asset_bytes,
            weights: self.weights,
            raw_bytes: self.raw_bytes,
            relative_step,
            non_finite: if relative_step.is_some() { self.non_finite } else { vec![] },
        })
    }
}
