//! The encoding job: a checkpoint becomes one file.

use std::path::Path;

use impasto_checkpoint::{Checkpoint, CheckpointError};
use impasto_core::files::TemporaryFolder;

use crate::arithmetic::exp2;
use crate::calibrate::model_hash;
use crate::check::{GuideKind, check};
use crate::drift::drifted;
use crate::error::EncodeError;
use crate::layered;
use crate::model::tensors;
use crate::options::{Calibrated, Options, Preset, Target, Watch};
use crate::over::Over;
use crate::pace::Pace;
use crate::planner::Planner;
use crate::quality::{Judge, find_step};
use crate::rate::{Correction, TRIES, aim, meets};
use crate::report::Report;
use crate::statistics::Statistics;
use crate::transform::Tools;
use crate::write::write;

/// Encodes a checkpoint to a file at `path`.
///
/// The file is written atomically: to a temporary file that is then renamed. Other temporary data is next to it, too.
/// `watch` is called before each stage and can cancel with [`EncodeError::Cancelled`].
///
/// # Errors
/// [`EncodeError`]. What was at `path` then stays.
pub fn encode(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    watch: Watch<'_>,
) -> Result<Report, EncodeError> {
    encode_calibrated(checkpoint, path, options, None, watch)
}

/// Encodes a checkpoint like [`encode`]; a lossy file uses statistics to put its error where it matters least.
///
/// # Errors
/// [`EncodeError`]. What was at `path` then stays.
pub fn encode_calibrated(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    calibrated: Option<&Calibrated>,
    watch: Watch<'_>,
) -> Result<Report, EncodeError> {
    encode_with(checkpoint, path, options, calibrated, None, watch)
}

/// Encodes a checkpoint like [`encode_calibrated`], to the smallest file whose quality is as good as [`Target::Kld`] says; `judge`
/// measures it.
///
/// # Errors
/// [`EncodeError`]. What was at `path` then stays.
pub fn encode_to_quality(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    calibrated: Option<&Calibrated>,
    judge: Judge<'_>,
    watch: Watch<'_>,
) -> Result<Report, EncodeError> {
    encode_with(checkpoint, path, options, calibrated, Some(judge), watch)
}

fn encode_with(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    calibrated: Option<&Calibrated>,
    judge: Option<Judge<'_>>,
    watch: Watch<'_>,
) -> Result<Report, EncodeError> {
    if is_input(checkpoint, path) {
        return Err(EncodeError::OverInput(path.display().to_string()));
    }
    let calibrated = calibrated.filter(|_| options.target != Target::Lossless);
    if let Some(Calibrated { statistics, .. }) = calibrated
        && statistics.info().model != model_hash(checkpoint)?.to_hex().as_str()
    {
        return Err(EncodeError::OtherModel { file: statistics.name().to_owned() });
    }
    let guide = match calibrated {
        None => GuideKind::None,
        Some(Calibrated { sequential: None, .. }) => GuideKind::Statistics,
        Some(_) => GuideKind::Sequential,
    };
    check(options, guide)?;
    if matches!(options.target, Target::Kld(_)) && judge.is_none() {
        return Err(EncodeError::Quality("searched for with a network that is measured"));
    }
    if let Some(base) = &options.base {
        base.check(checkpoint).map_err(EncodeError::Misfit)?;
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|e| EncodeError::Threads(e.to_string()))?;
    let over = options.base.as_deref().map(|base| {
        pool.install(|| {
            let tensors = tensors(checkpoint, options.is_exact(), None)?;
            Over::new(base, checkpoint, &tensors, path)
        })
    });
    let over = over.transpose()?;
    let attempt = |options: &Options| {
        let planner = Planner::new(checkpoint, options, calibrated.map(|c| c.statistics), over.as_ref(), None, watch)?;
        let Some((statistics, sequential)) = calibrated.and_then(|c| Some((c.statistics, c.sequential.as_ref()?)))
        else {
            return run(&planner, path, judge);
        };
        let folder = TemporaryFolder::beside(path).map_err(|error| CheckpointError::io(path, error))?;
        let file = folder.path().join("statistics.safetensors");
        let step = match options.target {
            Target::Formats => 1.0,
            _ => planner.find_step(planner.target_bytes())?,
        };
        drifted(&planner, step, statistics, sequential, &file)?;
        planner.inputs.check()?;
        drop(planner);
        run(
            &Planner::new(checkpoint, options, Some(&Statistics::open(&file)?), over.as_ref(), None, watch)?,
            path,
            judge,
        )
    };
    let encoded = pool.install(|| match attempt(options) {
        // At the step where a tensor changes to mode transform, the size jumps. That of the lattice alone does not.
        Err(EncodeError::Missed { .. }) if options.tools != Tools::NONE && options.preset != Preset::Jpeg => {
            attempt(&Options { tools: Tools::NONE, ..options.clone() })
        }
        encoded => encoded,
    });
    // That a file became shorter explains any other error.
    if encoded.is_err() {
        checkpoint.check()?;
        calibrated.map_or(Ok(()), |calibrated| calibrated.statistics.check())?;
    }
    encoded
}

/// Returns whether `path` is a file of the checkpoint, which a rename to it would destroy.
pub fn is_input(checkpoint: &Checkpoint, path: &Path) -> bool {
    let Ok(output) = path.canonicalize() else { return false };
    checkpoint.shards().iter().any(|shard| shard.path().canonicalize().is_ok_and(|input| input == output))
}

fn run(planner: &Planner, path: &Path, judge: Option<Judge>) -> Result<Report, EncodeError> {
    if planner.options.target == Target::Lossless {
        write(planner, path, planner.plans(None)?, 1.0, &mut Pace::none())?.finish(None)
    } else if planner.options.layers.any() {
        layered::write(planner, path)
    } else if planner.options.target == Target::Formats {
        // No tensor depends on a step.
        write(planner, path, planner.plans(Some(1.0))?, 1.0, &mut Pace::none())?.finish(None)
    } else if let (Target::Kld(most), Some(judge)) = (planner.options.target, judge) {
        planner.check_any_free()?;
        let (step, quality) = find_step(planner, judge, most)?;
        let coded = write(planner, path, planner.plans(Some(step))?, step, &mut Pace::none())?;
        Ok(Report { quality: Some(quality), ..coded.finish(Some(step))? })
    } else {
        write_to_size(planner, path)
    }
}

/// Codes the file at about the forecast step. If it misses its size in spite of its rate control, it is coded again, at one step
/// throughout.
fn write_to_size(planner: &Planner, path: &Path) -> Result<Report, EncodeError> {
    let (target, lossy_weights) = (planner.target_bytes(), planner.inputs.lossy_weights());
    let step = planner.find_step(target)?;
    let plans = planner.plans(Some(step))?;
    let mut pace = planner.pace(target, step, &plans, 0.0)?;
    let coded = write(planner, path, plans, step, &mut pace)?;
    if meets(coded.length, target) {
        return coded.finish(Some(step));
    }
    let mut search = Correction::new(step * exp2(pace.missed(coded.length)));
    drop(coded);
    for _ in 0..TRIES {
        let plans = planner.plans(Some(search.step()))?;
        let coded = write(planner, path, plans, search.step(), &mut Pace::none())?;
        if meets(coded.length, target) {
            return coded.finish(Some(search.step()));
        }
        let bits = (coded.length as f64 - aim(target) as f64) * 8.0 / lossy_weights as f64;
        search.correct(bits, coded.length > target);
    }
    Err(EncodeError::Missed { wanted: target })
}
