//! `impasto encode`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use anyhow::Context;
use impasto::calibrate::{CalibrateOptions, Calibrated, Statistics};
use impasto::encode::{
    BaseFile, EncodeBase, EncodeError, Extent, Floors, GuideKind, Judge, Judged, Layers, Options, Preset, Progress,
    Pruning, Quality, ReorderBy, Reordered, Reordering, Report, Residual, Sequential, Target, Trellis, check,
    encode_calibrated, encode_to_quality, is_input,
};
use impasto::format::BaseUsage;
use impasto::recover::{RecoverError, RecoverOptions};
use impasto::{Checkpoint, CheckpointWeights, Format};
use impasto_core::files::{self, TemporaryFolder};
use impasto_model::config::DecoderConfig;
use impasto_model::{ModelError, WeightSource, graph};
use impasto_text::tokenizer::{self, NotCompiled};
use serde_json::json;

use super::calibrate::{calibrate_on, calibrate_options};
use super::judge::{self, HeldBack, Original};
use super::measure::{all_but_last_quarter, measure};
use super::recover::{Done as Recovered, Training};
use super::resident::Resident;
use super::shards;
use crate::args::{
    Args, CALIBRATION_TOKENS, Encode, FloorsArg, GuideArgs, LayersArg, LicenseCheck, PresetArg, PurposeArg,
};
use crate::card::{self, CARD};
use crate::exit::{Code, LicenseError, UsageError};
use crate::licenses::{self, Verdict};
use crate::model::{explained, memory_limit, open, tokenizer};
use crate::output::{bytes, expansion_note, print, print_json, print_notes, shown, table};
use crate::progress::{Step, Watcher, bar};
use crate::stages::{self, Stages};

/// Logarithm of the number of states of the trellis of a file that is for downloading.
const DOWNLOAD: u8 = 6;

pub fn run(args: &Args, command: &Encode) -> anyhow::Result<Code> {
    if let Some(portion) = command.shard {
        let Plan { options, guide, .. } = plan(args, command)?;
        return shards::encode(args, command, portion, &options, &guide);
    }
    let progress = bar(args, 0);
    let encoded = job(args, command, &progress)?;
    progress.finish_and_clear();
    encoded.print(args)?;
    warn_of_non_finite(&encoded.report.non_finite);
    Ok(Code::Success)
}

/// Says which tensors a lossy file stores losslessly.
pub fn warn_of_non_finite(tensors: &[String]) {
    for name in tensors {
        eprintln!("warning: tensor {name:?} contains NaN or infinity and is stored losslessly");
    }
}

/// What the command line requests.
struct Plan {
    options: Options,
    guide: Guide,
    reorder: Option<ReorderBy>,
    /// Whether sizes follow from the model: what has no format is kept exactly.
    is_fixed: bool,
}

/// Returns what the command line requests. Options that contradict each other are errors.
fn plan(args: &Args, command: &Encode) -> anyhow::Result<Plan> {
    if command.layers.is_none() && (command.layer_feedback.is_some() || command.measure.is_some()) {
        return Err(UsageError("--layer-feedback and --measure require --layers").into());
    }
    let mut formats = command.format.clone().unwrap_or_default();
    formats.fragile = command.policy;
    let (target, layers) = target(command, !formats.is_empty());
    if command.layers.as_ref().is_some_and(|layers| layers.lossy.is_empty()) && formats.is_empty() {
        let rule = "there is no layer below `lossless`; use --lossless for a file without layers, or --format";
        return Err(UsageError(rule).into());
    }
    if command.lossless && !formats.is_empty() {
        return Err(UsageError("--format and --policy are for lossy files: leave out --lossless").into());
    }
    let floors = match command.floors {
        Some(FloorsArg::Conservative) => Floors::Conservative,
        Some(FloorsArg::Balanced) | None => Floors::Balanced,
        Some(FloorsArg::Aggressive) => Floors::Aggressive,
    };
    // What has neither a format nor a size is kept exactly.
    let is_fixed = matches!(target, Target::Lossless | Target::Formats);
    if command.tools.is_some() && (is_fixed || layers.exact) {
        return Err(
            UsageError("--tools is for lossy files without an exact layer: use --bpw, --size or --layers").into()
        );
    }
    if command.effort.is_some() && (is_fixed || layers.any()) {
        return Err(UsageError("--effort is for lossy files without layers: use --bpw or --size").into());
    }
    if command.preset.is_some() && target == Target::Lossless {
        return Err(UsageError("--preset is for lossy files: use --bpw or --size").into());
    }
    let residual = command.residual.unwrap_or_default();
    if command.residual.is_some() && (is_fixed || layers.exact) {
        let rule = "--residual is for tensors on the lattice of a lossy file without an exact layer: use --bpw, --size or --layers";
        return Err(UsageError(rule).into());
    }
    if matches!(residual, Residual::LowRank(_)) && layers.any() {
        return Err(UsageError("--residual low-rank=R is for files without layers: use --bpw or --size").into());
    }
    if command.trellis.is_some() && is_fixed {
        return Err(UsageError("--trellis is for lossy files: use --bpw or --size").into());
    }
    let (trellis, fit_widths) = purpose(command, target, &layers)?;
    let reorder = command.reorder.by();
    if reorder.is_some() && (target == Target::Lossless || layers.exact) {
        let rule = "--reorder is not for a lossless file or layer, which keeps the order of the checkpoint: use --bpw, --size or \
                    --layers without lossless";
        return Err(UsageError(rule).into());
    }
    if reorder == Some(ReorderBy::Activation) && (command.guide.uncalibrated || command.preset.is_some()) {
        return Err(UsageError("--reorder activation needs calibration").into());
    }
    let pruning = pruning(command, target, &layers)?;
    let preset = match command.preset {
        Some(PresetArg::Jpeg) => Preset::Jpeg,
        None => Preset::Best,
    };
    let (segments, tools) = (command.segments.into(), command.tools.unwrap_or_default());
    let effort = command.effort.unwrap_or_default().into();
    let own =
        Options { tools, effort, preset, residual, pruning, formats, trellis, fit_widths, ..Options::new(target) };
    let base = base(args, command)?;
    let options = Options { threads: args.threads, segments, floors, layers, base, ..own };
    let guide = guide(command, target)?;
    Ok(Plan { options, guide, reorder, is_fixed })
}

/// Encodes a checkpoint as the command line says.
pub fn job(args: &Args, command: &Encode, watcher: &dyn Watcher) -> anyhow::Result<Encoded> {
    if command.shard.is_some() {
        return Err(UsageError("--shard is for the command impasto, not for functions").into());
    }
    let Plan { options, guide, reorder, is_fixed } = plan(args, command)?;
    let measure = command.measure.as_ref().map(|text| text.as_deref());
    if command.kld.is_some() && !args.base.is_empty() {
        return Err(UsageError("--kld is for files without a base: use --bpw or --size").into());
    }
    let held_back = HeldBack { text: command.kld_text.as_deref(), tokens: command.kld_tokens.unwrap_or(judge::TOKENS) };
    let held_back = command.kld.map(|_| held_back);
    let training = training(args, command, is_fixed)?;
    let way = Way {
        model: &command.model,
        output: &command.output,
        measure,
        reorder,
        held_back,
        training: training.as_ref(),
    };
    encode_to(args, way, &options, &guide, watcher)
}

/// Returns the file that the new one is a delta of, if there is one.
fn base(args: &Args, command: &Encode) -> anyhow::Result<Option<Arc<dyn BaseFile>>> {
    let Some(path) = args.base.first() else { return Ok(None) };
    let base = open_base(args, path, &command.mirror, &command.output)?;
    check_license(&base.record().license, command)?;
    Ok(Some(base))
}

/// Opens the file at `path` to encode a delta over it, which goes to `output`.
pub fn open_base(args: &Args, path: &Path, mirrors: &[String], output: &Path) -> anyhow::Result<Arc<dyn BaseFile>> {
    let file = open(args, path, None)?;
    let mut below = Some(&file);
    while let Some(file) = below {
        let is_output =
            |output: PathBuf| Path::new(file.reader().name()).canonicalize().is_ok_and(|base| base == output);
        if output.canonicalize().is_ok_and(is_output) {
            return Err(EncodeError::OverInput(output.display().to_string()).into());
        }
        below = file.attached().map(|attached| &**attached);
    }
    let card = file.asset(CARD)?.unwrap_or_default();
    let license = card::license(&String::from_utf8_lossy(&card)).unwrap_or_default();
    let name = file.model_name();
    Ok(Arc::new(EncodeBase::new(Arc::new(file), name, license, mirrors.to_vec())?))
}

/// Compares the licence of the fine-tune with that of its base, as their model cards name them.
fn check_license(base: &str, command: &Encode) -> anyhow::Result<()> {
    let how = command.license_check.unwrap_or_default();
    let card = std::fs::read(command.model.join(CARD)).unwrap_or_default();
    let own = card::license(&String::from_utf8_lossy(&card)).unwrap_or_default();
    let path = command.model.display();
    let shown = |name: &str| if name.is_empty() { "none".to_owned() } else { shown(name) };
    let (own_shown, base_shown) = (shown(&own), shown(base));
    match licenses::check(base, &own) {
        _ if how == LicenseCheck::Off => Ok(()),
        Verdict::Fine => Ok(()),
        Verdict::Unknown if how == LicenseCheck::Warn => Ok(()),
        Verdict::Unknown => Err(LicenseError(format!(
            "{path}: the licence {own_shown} cannot be compared with that of the base, {base_shown}: one of them is not named in the \
             model card, or not in the table of licences"
        ))
        .into()),
        Verdict::Incompatible(clause) => {
            let message = format!(
                "{path}: the licence {own_shown} is not one that the base, under {base_shown}, allows: {clause}"
            );
            if how == LicenseCheck::Strict {
                return Err(LicenseError(message).into());
            }
            eprintln!("warning: {message}");
            Ok(())
        }
    }
}

/// Returns how the file is pruned, if that was requested.
fn pruning(command: &Encode, target: Target, layers: &Layers) -> anyhow::Result<Option<Pruning>> {
    let Some(pruning) = &command.prune else { return Ok(None) };
    if target == Target::Lossless || layers.exact || command.preset.is_some() {
        let rule = "--prune is not for a lossless file or layer, which keeps every weight, nor for --preset: use --bpw, --size or \
                    --layers without lossless";
        return Err(UsageError(rule).into());
    }
    if command.guide.uncalibrated && pruning.criterion.needs_calibration() {
        return Err(UsageError("--prune wanda and --prune sparsegpt need calibration").into());
    }
    Ok(Some(Pruning { tensors: command.prune_tensor.clone(), ..pruning.clone() }))
}

/// Returns the trellis that integers follow, and whether they fit the widths of memory: what the file is for.
fn purpose(command: &Encode, target: Target, layers: &Layers) -> anyhow::Result<(Option<Trellis>, bool)> {
    let Some(purpose) = command.purpose else { return Ok((command.trellis, false)) };
    let refused = |rule| Err(UsageError(rule).into());
    if matches!(target, Target::Lossless | Target::Formats) {
        return refused("--for is for tensors on the lattice of a lossy file: use --bpw, --size or --kld");
    }
    match purpose {
        PurposeArg::Memory if layers.any() => {
            refused("--for memory is for files without layers, since layers share their integers")
        }
        PurposeArg::Memory if command.trellis.is_some() => {
            refused("--for memory and --trellis contradict: a trellis has finer steps, so wider integers in memory")
        }
        PurposeArg::Memory => Ok((None, true)),
        PurposeArg::Download if command.prune.is_some() => {
            refused("--for download uses a trellis, which is not for pruned weights: a state may forbid 0")
        }
        PurposeArg::Download => Ok((command.trellis.or(Trellis::new(DOWNLOAD)), false)),
    }
}

/// The finest lossy layer, and the layers below and above it. Formats are a target of their own.
fn target(command: &Encode, has_formats: bool) -> (Target, Layers) {
    let target = |extent| match extent {
        Extent::BitsPerWeight(bits) => Target::BitsPerWeight(bits),
        Extent::Size(bytes) => Target::Size(bytes),
    };
    let mut layers = Layers::default();
    if let Some(feedback) = command.layer_feedback {
        layers.feedback = feedback;
    }
    let without_size = if has_formats { Target::Formats } else { Target::Lossless };
    if let Some(LayersArg { lossy, exact }) = &command.layers {
        layers.exact = *exact;
        if let Some((&top, below)) = lossy.split_last() {
            layers.below = below.to_vec();
            return (target(top), layers);
        }
        return (without_size, layers);
    }
    if let Some(kld) = command.kld {
        return (Target::Kld(kld), layers);
    }
    let extent = command.bpw.map(Extent::BitsPerWeight).or(command.size.map(Extent::Size));
    (extent.map_or(without_size, target), layers)
}

/// Returns what recovery trains on, if it was requested.
fn training(args: &Args, command: &Encode, is_fixed: bool) -> anyhow::Result<Option<Training>> {
    let Some(steps) = command.recover else { return Ok(None) };
    if is_fixed {
        let rule = "--recover is for tensors on the lattice of a lossy file: use --bpw, --size or --layers";
        return Err(UsageError(rule).into());
    }
    if !args.base.is_empty() {
        return Err(UsageError("--recover is not for a delta").into());
    }
    // What --measure scores is not trained on.
    let text = match &command.guide.calibration {
        Some(_) => calibration_text(&command.guide)?,
        None => Cow::Borrowed(all_but_last_quarter(impasto::calibrate::TEXT)),
    };
    Ok(Some(Training { steps: steps.unwrap_or(RecoverOptions::default().steps), text }))
}

/// Reads the text to calibrate on, or returns the built-in one.
pub fn calibration_text(guide: &GuideArgs) -> anyhow::Result<Cow<'static, str>> {
    match &guide.calibration {
        Some(path) => std::fs::read_to_string(path).with_context(|| path.display().to_string()).map(Cow::Owned),
        None => Ok(Cow::Borrowed(impasto::calibrate::TEXT)),
    }
}

/// How a lossy encoding decides where error matters least.
pub enum Guide {
    /// It does not.
    None,
    /// Calibrate the model on this text first. `given` means that the user supplied it.
    Text { text: Cow<'static, str>, tokens: usize, sequential: bool, given: bool },
    /// Use statistics from a file. `sequential` is the text that they were computed from, if the inputs of blocks are
    /// to come from coded blocks.
    Statistics { file: PathBuf, sequential: Option<Cow<'static, str>> },
}

impl Guide {
    fn kind(&self) -> GuideKind {
        match self {
            Guide::None => GuideKind::None,
            Guide::Text { sequential: true, .. } | Guide::Statistics { sequential: Some(_), .. } => {
                GuideKind::Sequential
            }
            Guide::Text { .. } | Guide::Statistics { .. } => GuideKind::Statistics,
        }
    }
}

/// Returns what the command line requests. Options that would be ignored are errors.
fn guide(command: &Encode, target: Target) -> anyhow::Result<Guide> {
    let given = command.guide.calibration.is_some();
    if target == Target::Lossless {
        let lossy = given
            || command.guide.statistics.is_some()
            || command.guide.calibration_tokens.is_some()
            || command.floors.is_some()
            || command.sequential
            || command.guide.uncalibrated;
        return match lossy {
            true => Err(UsageError("calibration is for lossy files: use --bpw, --size, --layers or --format").into()),
            false => Ok(Guide::None),
        };
    }
    let text = || calibration_text(&command.guide);
    match &command.guide.statistics {
        _ if command.guide.uncalibrated || command.preset.is_some() => Ok(Guide::None),
        Some(_) if given && !command.sequential && command.recover.is_none() => {
            let rule = "--calibration has no effect with --statistics, unless --sequential or --recover is given";
            Err(UsageError(rule).into())
        }
        Some(file) => {
            let sequential = command.sequential.then(text).transpose()?;
            Ok(Guide::Statistics { file: file.clone(), sequential })
        }
        None => {
            let tokens = command.guide.calibration_tokens.unwrap_or(CALIBRATION_TOKENS);
            let sequential = command.sequential;
            Ok(Guide::Text { text: text()?, tokens, sequential, given })
        }
    }
}

/// The input and the output of an encoding.
#[derive(Clone, Copy)]
pub struct Way<'a> {
    pub model: &'a Path,
    pub output: &'a Path,
    /// Whether to measure the layers, and the text for it; the built-in text if there is none.
    pub measure: Option<Option<&'a Path>>,
    /// What hidden units and heads are to be ordered by.
    pub reorder: Option<ReorderBy>,
    /// What the divergence is measured on, if it is the target.
    pub held_back: Option<HeldBack<'a>>,
    /// What recovery trains on.
    pub training: Option<&'a Training>,
}

/// A file that was encoded.
pub struct Encoded {
    report: Report,
    output: PathBuf,
    klds: Vec<f32>,
    notes: Vec<String>,
    recovered: Option<Recovered>,
    stages: Vec<(&'static str, f64)>,
    seconds: f64,
    /// Whether its weights may be packed in memory.
    is_packed: bool,
}

/// Encodes.
pub fn encode_to(
    args: &Args,
    way: Way,
    options: &Options,
    guide: &Guide,
    watcher: &dyn Watcher,
) -> anyhow::Result<Encoded> {
    let begun = Instant::now();
    let Way { model, output, measure: measured, reorder, held_back, training } = way;
    let _folders = files::prepare(output).with_context(|| output.display().to_string())?;
    let checkpoint = Checkpoint::open(model)?;
    // Recovery codes to another path first.
    if is_input(&checkpoint, output) {
        return Err(EncodeError::OverInput(output.display().to_string()).into());
    }
    let weights = CheckpointWeights::new(&checkpoint);
    let stages = Stages::begin("opening");
    let watch = |step: Progress| {
        let (stage, count, message) = match step {
            Progress::Measuring(pass) => ("rates", [pass, 0], format!("measuring rates, pass {pass}")),
            Progress::Judging(step) => ("divergence", [step, 0], format!("measuring the divergence, step {step}")),
            Progress::Drift(block, blocks) => {
                ("drift", [block, blocks], format!("drift, block {} of {blocks}", block + 1))
            }
            Progress::Coding(name, done, all) => {
                ("coding", [done, all], format!("coding {done}/{all} {}", shown(name)))
            }
        };
        stages.enter(stage);
        watcher.step(Step::new(stage, count, message))
    };
    // A network that cannot run is an error before anything takes time.
    let original = held_back.map(|held_back| explained(Original::load(args, model, held_back), model, &checkpoint));
    let original = original.transpose()?;
    let mut notes = notes(&checkpoint, options.target == Target::Lossless || options.layers.exact);
    let source = Source { args, checkpoint: &checkpoint, weights: &weights, output, watcher };
    // So are options that contradict each other.
    explained(check(options, guide.kind()).map_err(Into::into), model, &checkpoint)?;
    stages.enter("calibration");
    let Guidance { statistics, tokens, _folder } = explained(source.guidance(guide, &mut notes), model, &checkpoint)?;
    let calibrated = statistics.as_ref().map(|statistics| {
        let sequential = tokens.as_deref().map(|tokens| Sequential { weights: &weights, tokens });
        Calibrated { statistics, sequential }
    });
    let memory = Some(memory_limit(args));
    let reordering = reorder.map(|by| {
        stages.enter("reordering");
        cancelled(watcher.step(Step::new("reordering", [0, 0], "reordering hidden units and heads")))?;
        let reordering = Reordering::new(&weights, by, statistics.as_ref(), memory);
        explained(reordering.map_err(Into::into), model, &checkpoint)
    });
    let reordering = reordering.transpose()?.map(Arc::new);
    let compiled_tokenizer = compiled_tokenizer(&weights, guide, &mut notes);
    let mut options = Options { compiled_tokenizer, reordering, memory_limit: memory, ..options.clone() };
    let prepared = training.map(|training| training.prepare(args, &weights, &mut options)).transpose();
    let prepared = explained(prepared, model, &checkpoint)?;
    // What is recovered is written once more; until then the output stays as it was.
    let beside = || {
        TemporaryFolder::beside(output).with_context(|| format!("{}: a temporary folder next to it", output.display()))
    };
    let folder = prepared.is_some().then(beside).transpose()?;
    let coded = folder.as_ref().map_or(output.to_owned(), |folder| folder.path().join("coded.impasto"));
    let calibrated = calibrated.as_ref();
    stages.enter("scales");
    let report = match &original {
        None => encode_calibrated(&checkpoint, &coded, &options, calibrated, &watch),
        Some(original) => {
            let measure = |weights: &dyn WeightSource| original.judge(weights);
            let judge = Judge { weights: &weights, measure: &measure };
            encode_to_quality(&checkpoint, &coded, &options, calibrated, judge, &watch)
        }
    };
    let mut report = report.with_context(|| model.display().to_string())?;
    let recovered = prepared.map(|prepared| {
        match prepared.run(args, &weights, [&coded, output], &mut report, watcher) {
            // What was coded is not lost.
            Err(error) if matches!(error.downcast_ref(), Some(RecoverError::Nothing(_))) => {
                std::fs::rename(&coded, output).with_context(|| output.display().to_string())?;
                notes.push(
                    "--recover: no linear layer of a block is on a free lattice, so no row has a multiplier".into(),
                );
                Ok(None)
            }
            recovered => explained(recovered.map(Some), model, &checkpoint),
        }
    });
    let recovered = recovered.transpose()?.flatten();
    let mut klds = vec![];
    if let Some(text) = measured {
        stages.enter("measuring layers");
        (report.summary, klds) = measure(args, model, output, text, watcher)?;
    }
    notes.extend(expansion_note(&report.summary));
    let is_packed = options.target != Target::Lossless && options.preset != Preset::Jpeg;
    let (stages, seconds, output) = (stages.end(), begun.elapsed().as_secs_f64(), output.to_owned());
    Ok(Encoded { report, output, klds, notes, recovered, stages, seconds, is_packed })
}

impl Encoded {
    /// Prints notes and the result.
    pub fn print(&self, args: &Args) -> anyhow::Result<()> {
        print_notes(&self.notes);
        // There is no figure for a model that cannot run, or not within the limit on memory.
        let resident = self.is_packed.then(|| Resident::of(args, &self.output).ok()).flatten();
        if args.json {
            let mut json = self.to_json();
            json["memory"] = resident.map_or(serde_json::Value::Null, |resident| resident.to_json());
            return print_json(&json);
        }
        let recovered = self.recovered.as_ref().map_or(String::new(), Recovered::to_text);
        let resident = resident.map_or(String::new(), |resident| resident.to_line());
        let text = to_text(&self.report, &self.klds, &self.output, self.seconds);
        print(&(recovered + &text + &resident + &stages::to_text(&self.stages)))
    }

    /// The result for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let mut json = to_json(&self.report, &self.klds, &self.notes, &self.output);
        (json["seconds"], json["stages"]) = (json!(self.seconds), stages::to_json(&self.stages));
        json["recovery"] = self.recovered.as_ref().map_or(serde_json::Value::Null, Recovered::to_json);
        json
    }
}

/// Returns an error if a watcher cancels.
pub fn cancelled(answer: ControlFlow<()>) -> Result<(), EncodeError> {
    if answer.is_break() { Err(EncodeError::Cancelled) } else { Ok(()) }
}

/// Returns the compiled form of the tokenizer, if it is worth its bytes and does the same to the calibration text.
pub fn compiled_tokenizer(weights: &dyn WeightSource, guide: &Guide, notes: &mut Vec<String>) -> Option<Vec<u8>> {
    let given = match guide {
        Guide::Text { text, .. } | Guide::Statistics { sequential: Some(text), .. } => Some(&**text),
        Guide::None | Guide::Statistics { .. } => None,
    };
    let samples: Vec<&str> = [impasto::calibrate::TEXT].into_iter().chain(given).collect();
    let form = tokenizer::compile(&weights.asset(tokenizer::FILE)?, &samples);
    if form == Err(NotCompiled::Differs) {
        let why = "its compiled form would give other tokens than the library tokenizers, so it is left out";
        notes.push(format!("{}: {why}", tokenizer::FILE));
    }
    form.ok()
}

/// The model to encode, and what its calibration needs.
pub struct Source<'a> {
    pub args: &'a Args,
    pub checkpoint: &'a Checkpoint,
    pub weights: &'a CheckpointWeights<'a>,
    /// The file to be written; temporary statistics are stored next to it.
    pub output: &'a Path,
    pub watcher: &'a dyn Watcher,
}

/// The result of a [`Guide`].
#[derive(Default)]
pub struct Guidance {
    pub statistics: Option<Statistics>,
    /// The tokens that the statistics were computed from, if the inputs of blocks are to come from coded blocks.
    tokens: Option<Vec<u32>>,
    /// The folder of temporary statistics, which are mapped.
    _folder: Option<TemporaryFolder>,
}

impl Source<'_> {
    /// Calibrates, or opens statistics.
    pub fn guidance(&self, guide: &Guide, notes: &mut Vec<String>) -> anyhow::Result<Guidance> {
        let mut folder = None;
        let (statistics, text) = match guide {
            Guide::None => return Ok(Guidance::default()),
            Guide::Statistics { file, sequential } => (Statistics::open(file)?, sequential.as_deref()),
            Guide::Text { text, tokens, sequential, given } => match runs(self.weights, notes) {
                Err(error) if !given && !sequential => {
                    notes.push(format!("not calibrated, because the model cannot run: {error}"));
                    return Ok(Guidance::default());
                }
                Err(error) => return Err(error),
                Ok(context) => {
                    let made = TemporaryFolder::beside(self.output);
                    let made =
                        made.with_context(|| format!("{}: a temporary folder next to it", self.output.display()))?;
                    let path = folder.insert(made).path().join("statistics.safetensors");
                    let usual = calibrate_options(self.args);
                    let options = CalibrateOptions { tokens: *tokens, window: usual.window.min(context), ..usual };
                    calibrate_on(self.checkpoint, self.weights, text, &options, &path, self.watcher, None)?;
                    (Statistics::open(&path)?, sequential.then_some(text.as_ref()))
                }
            },
        };
        let Some(text) = text else {
            return Ok(Guidance { statistics: Some(statistics), tokens: None, _folder: folder });
        };
        if statistics.info().text != blake3::hash(text.as_bytes()).to_hex().as_str() {
            let rule = "--sequential needs the text that the statistics were computed from; pass it with --calibration";
            return Err(UsageError(rule).into());
        }
        let tokens = tokenizer(self.weights)?.encode(text, true)?;
        Ok(Guidance { statistics: Some(statistics), tokens: Some(tokens), _folder: folder })
    }
}

/// Returns the context length of a model, after checking that it can run and has a tokenizer.
pub fn runs(weights: &dyn WeightSource, notes: &mut Vec<String>) -> anyhow::Result<usize> {
    let config = weights.asset("config.json");
    let config =
        config.ok_or(ModelError::MissingAsset { name: "config.json", why: "a model cannot run without it" })?;
    let mut config = DecoderConfig::from_json(&config)?;
    tokenizer(weights)?;
    let tied = config.tie_word_embeddings;
    graph::describe_source(weights, &mut config)?;
    if tied && !config.tie_word_embeddings {
        notes.push(graph::OWN_OUTPUT.into());
    }
    Ok(config.max_position_embeddings)
}

fn root(report: &Report) -> String {
    impasto::hex(&report.summary.root)
}

fn bits_per_weight(report: &Report) -> f64 {
    report.summary.file_length as f64 * 8.0 / report.weights.max(1) as f64
}

/// Notes about what the checkpoint lacks, and about what a lossless file does not restore.
pub fn notes(checkpoint: &Checkpoint, exact: bool) -> Vec<String> {
    let odd = checkpoint.shards().iter().filter(|shard| exact && !shard.is_canonical());
    let padding = odd.map(|shard| {
        let name = shard.name();
        format!("{name}: nonstandard padding: decoding restores header and tensors byte for byte, but zeros as padding")
    });
    checkpoint.notes().iter().cloned().chain(padding).collect()
}

fn to_json(report: &Report, klds: &[f32], notes: &[String], output: &Path) -> serde_json::Value {
    let tensors = report.tensors.iter().map(|t| {
        let (mode, format, rank, zeros) = (t.coded_as(), t.format.map(Format::name), t.rank, t.zeros);
        json!({
            "name": t.name, "dtype": t.dtype, "shape": t.shape, "mode": mode, "format": format, "rank": rank,
            "bytes": t.bytes, "zeros": zeros, "base": t.base.map(usage),
        })
    });
    let layers = report
        .layers
        .iter()
        .enumerate()
        .map(|(n, layer)| json!({ "units": layer.units, "bytes": layer.bytes, "kld": klds.get(n) }));
    json!({
        "file": output.display().to_string(),
        "root": root(report),
        "bytes": report.summary.file_length,
        "manifest_bytes": report.summary.manifest_length,
        "asset_bytes": report.asset_bytes,
        "raw_bytes": report.raw_bytes,
        "weights": report.weights,
        "bits_per_weight": bits_per_weight(report),
        "layers": layers.collect::<Vec<_>>(),
        "relative_step": report.relative_step,
        "kld": report.quality.map(|quality| json!({
            "target": quality.target,
            "reached": quality.reached.kld,
            "error": quality.reached.error,
            "tokens": quality.reached.tokens,
            "tries": quality.tries,
        })),
        "reordered": report.reordered.map(|reordered| json!({
            "by": reordered.by.name(),
            "mlps": reordered.mlps,
            "attentions": reordered.attentions,
            "tensors": reordered.tensors,
        })),
        "non_finite": report.non_finite,
        "notes": notes,
        "tensors": tensors.collect::<Vec<_>>(),
    })
}

/// Returns the name of what a tensor takes from the base.
pub fn usage(usage: BaseUsage) -> &'static str {
    match usage {
        BaseUsage::Predicted => "predicted",
        BaseUsage::Identical => "identical",
    }
}

fn to_text(report: &Report, klds: &[f32], output: &Path, seconds: f64) -> String {
    // For each mode: tensors, weights, bytes.
    let mut modes: BTreeMap<String, (u64, u64, u64)> = BTreeMap::new();
    for tensor in &report.tensors {
        let row = modes.entry(tensor.coded_as()).or_default();
        row.0 += 1;
        row.1 += tensor.shape.iter().product::<u64>();
        row.2 += tensor.bytes;
    }
    let mut rows = vec![["coded as", "tensors", "weights", "bytes", "bits/weight"].map(String::from).to_vec()];
    for (mode, (tensors, weights, size)) in modes {
        let bits = if weights > 0 { size as f64 * 8.0 / weights as f64 } else { 0.0 };
        rows.push(vec![mode, tensors.to_string(), weights.to_string(), bytes(size), format!("{bits:.3}")]);
    }
    let other = |name: &str, size: u64| vec![name.into(), String::new(), String::new(), bytes(size), String::new()];
    rows.push(other("assets", report.asset_bytes));
    let inside = report.asset_bytes + report.tensors.iter().map(|t| t.bytes).sum::<u64>();
    rows.push(other("container", report.summary.file_length - inside));
    let length = report.summary.file_length;
    let bits = |bytes: u64| bytes as f64 * 8.0 / report.weights.max(1) as f64;
    let mut layers = vec![["layer", "bytes", "bits/weight", "KLD"].map(String::from).to_vec()];
    layers.extend(report.layers.iter().enumerate().map(|(n, layer)| {
        let kld = klds.get(n).map_or(String::new(), |kld| format!("{kld:.5}"));
        vec![(n + 1).to_string(), bytes(layer.bytes), format!("{:.3}", bits(layer.bytes)), kld]
    }));
    if klds.is_empty() {
        layers.iter_mut().for_each(|row| row.truncate(3));
    }
    let layers = if report.layers.is_empty() { String::new() } else { table(&layers) };
    let ranks: Vec<usize> = report.tensors.iter().map(|tensor| tensor.rank).filter(|&rank| rank > 0).collect();
    let low_rank = match ranks.iter().max() {
        Some(most) => format!("low-rank parts in {} tensors, of rank {most} at most\n", ranks.len()),
        None => String::new(),
    };
    let reordered = report.reordered.map_or(String::new(), |Reordered { by, mlps, attentions, tensors }| {
        let by = by.name();
        format!(
            "reordered by {by}: hidden units of {mlps} MLPs, heads of {attentions} attentions ({tensors} tensors)\n"
        )
    });
    let pruned = pruned(report);
    let quality = report.quality.map_or(String::new(), |Quality { target, reached, tries }| {
        let Judged { kld, error, tokens } = reached;
        format!(
            "KL divergence: {kld:.6} +- {error:.6} nats on {tokens} tokens (at most {target}), {tries} steps tried\n"
        )
    });
    format!(
        "{}{layers}{low_rank}{reordered}{pruned}{quality}{}: {} ({:.2}% of {} of tensors, {:.3} bits per weight) in {seconds:.1} s\nroot {}\n",
        table(&rows),
        output.display(),
        bytes(length),
        100.0 * length as f64 / report.raw_bytes.max(1) as f64,
        bytes(report.raw_bytes),
        bits_per_weight(report),
        root(report),
    )
}

/// Returns a line about pruned tensors, if there are any.
fn pruned(report: &Report) -> String {
    let pruned: Vec<(f64, f64)> = report
        .tensors
        .iter()
        .filter_map(|t| t.zeros.map(|zeros| (zeros, t.shape.iter().product::<u64>() as f64)))
        .collect();
    if pruned.is_empty() {
        return String::new();
    }
    let weights: f64 = pruned.iter().map(|(_, weights)| weights).sum();
    let zeros: f64 = pruned.iter().map(|(zeros, weights)| zeros * weights).sum();
    format!("pruned: {} tensors, of whose weights {:.1}% are 0\n", pruned.len(), 100.0 * zeros / weights.max(1.0))
}
