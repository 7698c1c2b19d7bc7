//! Codes a portion.

use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use impasto_checkpoint::Checkpoint;
use impasto_container::{Header, UnitSlot, Writer, manifest_length};
use impasto_core::Mode;

use super::Portion;
use super::exchange::{Ends, Exchange};
use super::facts::Coded;
use super::file::{CARD, Card};
use crate::arithmetic::exp2;
use crate::check::{GuideKind, check};
use crate::code::CodedAsset;
use crate::error::{EncodeError, heard};
use crate::job::is_input;
use crate::layout::{layout, layout_of};
use crate::model::tensors;
use crate::options::{Options, Progress, Target, Watch};
use crate::pace::Pace;
use crate::plan::Plan;
use crate::planner::Planner;
use crate::rate::{Correction, TRIES, aim, meets};
use crate::statistics::Statistics;
use crate::write::{code, hold};

/// What a portion did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortionReport {
    /// Number of tensors of the portion.
    pub tensors: usize,
    /// Number of its files that were there already.
    pub found: usize,
    /// Names of its tensors that contain NaN or infinity, and so are kept exactly in a lossy file; none if nothing was left to code.
    pub non_finite: Vec<String>,
}

/// Codes a portion of the file at `path`, next to which its files are. Once all portions are coded, [`merge`](super::merge) joins
/// them. `statistics` are those of the original; files of other portions are waited for at most `patience`.
///
/// # Errors
/// [`EncodeError::Waiting`] if other portions are needed and not there: run this again once they are; otherwise as for
/// [`encode_calibrated`](crate::encode_calibrated), and for options that need the whole file at once.
pub fn encode_portion(
    checkpoint: &Checkpoint,
    path: &Path,
    options: &Options,
    statistics: Option<&Statistics>,
    (portion, patience): (Portion, Duration),
    watch: Watch<'_>,
) -> Result<PortionReport, EncodeError> {
    if is_input(checkpoint, path) {
        return Err(EncodeError::OverInput(path.display().to_string()));
    }
    let statistics = statistics.filter(|_| options.target != Target::Lossless);
    check(options, if statistics.is_some() { GuideKind::Statistics } else { GuideKind::None })?;
    let refused = [
        (options.layers.any(), "quality layers (--layers), whose units are ordered over the whole file"),
        (
            matches!(options.target, Target::Kld(_)),
            "a divergence as the target (--kld), which the whole network is measured for",
        ),
        (options.base.is_some(), "a base (--base)"),
        (options.reordering.is_some(), "--reorder"),
    ];
    if let Some((_, what)) = refused.into_iter().find(|(is_so, _)| *is_so) {
        return Err(EncodeError::Portions(what));
    }
    let pool = rayon::ThreadPoolBuilder::new().num_threads(options.threads).build();
    let pool = pool.map_err(|e| EncodeError::Threads(e.to_string()))?;
    let coded = pool.install(|| {
        let tensors = tensors(checkpoint, options.is_exact(), None)?;
        let exchange = Exchange::new((checkpoint, path), &tensors, options, statistics, (portion, patience));
        let found = exchange.clean()?.len();
        let own = (0..tensors.len()).filter(|&i| exchange.is_own(i)).count();
        drop(tensors);
        let job = Job { checkpoint, options, statistics, exchange: &exchange, watch };
        let non_finite = if options.has_size() { job.to_size()? } else { job.free()? };
        Ok(PortionReport { tensors: own, found, non_finite })
    });
    if coded.is_err() {
        checkpoint.check()?;
        statistics.map_or(Ok(()), Statistics::check)?;
    }
    coded
}

/// Returns the stage of a part of the units. `attempt` is 0 for those with rate control.
pub fn stage(attempt: usize, part: usize) -> String {
    format!("units{attempt}-{part}")
}

struct Job<'a> {
    checkpoint: &'a Checkpoint,
    options: &'a Options,
    statistics: Option<&'a Statistics>,
    exchange: &'a Exchange,
    watch: Watch<'a>,
}

/// A part of the tensors, and how it is coded.
struct Part<'a> {
    stage: String,
    tensors: Range<usize>,
    parts: usize,
    target: Option<u64>,
    /// The global step, and by how many octaves the steps are coarser.
    step: f64,
    octaves: f64,
    /// The length of the file before the last tensor that depends on a step, if that is in the part, and the rate control.
    pace: Option<(u64, &'a mut Pace)>,
}

impl Job<'_> {
    fn planner(&self) -> Result<Planner<'_>, EncodeError> {
        let Job { checkpoint, options, statistics, exchange, watch } = *self;
        Planner::new(checkpoint, options, statistics, None, Some(exchange), watch)
    }

    /// Codes a file whose tensors do not depend on each other. Returns the names of own tensors with NaN or infinity, if the file is lossy.
    fn free(&self) -> Result<Vec<String>, EncodeError> {
        let stage = stage(0, 0);
        if self.exchange.has(&stage) {
            return Ok(vec![]);
        }
        let planner = self.planner()?;
        let step = (self.options.target != Target::Lossless).then_some(1.0);
        let mut plans = planner.plans(step)?;
        let tensors = 0..plans.len();
        let part = Part { stage, tensors, parts: 1, target: None, step: 1.0, octaves: 0.0, pace: None };
        self.write(&planner, &mut plans, part)?;
        Ok(non_finite(&planner))
    }

    /// Codes a file of a requested size, as [`crate::job`] does on one machine. Returns what [`Self::free`] does.
    fn to_size(&self) -> Result<Vec<String>, EncodeError> {
        let planner = self.planner()?;
        let target = planner.target_bytes();
        let step = planner.find_step(target)?;
        let mut plans = planner.plans(Some(step))?;
        let mut pace = planner.pace(target, step, &plans, 0.0)?;
        let mut length = start(&planner, &plans);
        let waves = pace.waves();
        let parts = waves.len();
        for (part, tensors) in waves.into_iter().enumerate() {
            let octaves = pace.octaves(tensors.start, length);
            let stage = stage(0, part);
            let last = tensors.clone().find(|&i| pace.is_last(i));
            if !self.exchange.has(&stage) {
                let (stage, tensors) = (stage.clone(), tensors.clone());
                let pace = last.map(|_| (length, &mut pace));
                let part = Part { stage, tensors, parts, target: Some(target), step, octaves, pace };
                self.write(&planner, &mut plans, part)?;
            }
            let (ends, of_last) = self.exchange.lengths(&stage, last)?;
            for (&i, end) in ends.range(tensors) {
                let before = length;
                length = length.next_multiple_of(16) + end;
                pace.coded(i, if last == Some(i) { of_last } else { octaves }, length - before);
            }
        }
        if meets(length, target) {
            return Ok(non_finite(&planner));
        }
        let mut search = Correction::new(step * exp2(pace.missed(length)));
        for attempt in 1..=TRIES {
            let mut plans = planner.plans(Some(search.step()))?;
            let stage = stage(attempt, 0);
            if !self.exchange.has(&stage) {
                let (stage, tensors, step) = (stage.clone(), 0..plans.len(), search.step());
                let part = Part { stage, tensors, parts: 1, target: Some(target), step, octaves: 0.0, pace: None };
                self.write(&planner, &mut plans, part)?;
            }
            let length = total(start(&planner, &plans), &self.exchange.lengths(&stage, None)?.0);
            if meets(length, target) {
                return Ok(non_finite(&planner));
            }
            let bits = (length as f64 - aim(target) as f64) * 8.0 / planner.inputs.lossy_weights() as f64;
            search.correct(bits, length > target);
        }
        Err(EncodeError::Missed { wanted: target })
    }

    /// Codes the own tensors of a part to a file.
    fn write(&self, planner: &Planner, plans: &mut [Option<Plan>], part: Part) -> Result<(), EncodeError> {
        let Part { stage, tensors, parts, target, step, mut octaves, mut pace } = part;
        let (inputs, count) = (&planner.inputs, plans.len());
        // A tied tensor has no units; it is where the one is that it is tied to.
        let is_here = |i: usize| tensors.contains(&inputs.tensors[i].same_as.unwrap_or(i)) && self.exchange.is_own(i);
        let own: Vec<usize> = (0..count).filter(|&i| is_here(i)).collect();
        let alone = own.iter().filter(|&&i| plans[i].is_some());
        let raw = alone.map(|&i| inputs.tensors[i].raw_bytes()).sum();
        let planned = own.iter().filter_map(|&i| plans[i].as_ref()).map(|plan| plan.bytes).sum();
        let facts = Coded { parts, count, target, octaves: String::new(), raw, planned }.with_octaves(octaves);
        let card = self.exchange.card(&stage, own.clone(), facts);

        let is_first = tensors.start == 0 && self.exchange.has_assets();
        let assets = if is_first { &planner.assets[..] } else { &[] };
        let mut with_card: Vec<CodedAsset> = assets.iter().cloned().chain([card.to_asset()]).collect();
        with_card.sort_by(|a, b| a.name.cmp(&b.name));
        let (objects, slots) = layout_of(&own, &with_card, &inputs.tensors, plans);
        // The card comes last, since what it says of the last tensor is not known before.
        let is_card = |slot: &UnitSlot| objects[slot.object as usize].name == CARD;
        let (of_card, others): (Vec<UnitSlot>, Vec<UnitSlot>) = slots.into_iter().partition(is_card);
        let slots = others.into_iter().chain(of_card).collect();
        let mut writer = Writer::create(&self.exchange.path(&stage), objects, slots, vec![])?;
        let mut push = |mode: Mode, bytes: &[u8]| writer.push(mode, bytes);
        assets.iter().flat_map(|asset| &asset.pieces).try_for_each(|(mode, bytes)| push(*mode, bytes))?;
        for &i in &own {
            heard((self.watch)(Progress::Coding(&inputs.tensors[i].name, i, count)))?;
            let Some(plan) = &mut plans[i] else { continue };
            match &mut pace {
                Some((before, pace)) if pace.is_last(i) => {
                    let (_, units) = hold(planner, i, plan, None, (step, &mut octaves), *before, pace)?;
                    units.iter().try_for_each(|(mode, bytes)| push(*mode, bytes))?;
                }
                _ => {
                    planner.change_step(i, plan, step * exp2(octaves))?;
                    code(planner, i, plan, None, &mut push)?;
                }
            }
            inputs.release(i);
        }
        let facts = card.facts.clone().with_octaves(octaves);
        Card { facts, ..card }.to_asset().pieces.iter().try_for_each(|(mode, bytes)| push(*mode, bytes))?;
        inputs.check()?;
        writer.finish()?;
        Ok(())
    }
}

/// Returns the names of own tensors that contain NaN or infinity, if the file is lossy.
fn non_finite(planner: &Planner) -> Vec<String> {
    if planner.inputs.lossy_any() { planner.inputs.non_finite() } else { vec![] }
}

/// Returns the length of the file up to the end of its assets.
fn start(planner: &Planner, plans: &[Option<Plan>]) -> u64 {
    let Planner { assets, inputs, .. } = planner;
    let (objects, slots) = layout(assets, &inputs.tensors, plans);
    let start = Header::SIZE as u64 + manifest_length(&objects, slots.len(), &[], None);
    let units = assets.iter().flat_map(|asset| &asset.pieces).map(|(_, bytes)| bytes.len() as u64);
    units.fold(start, |length, unit| length.next_multiple_of(16) + unit)
}

/// Returns the length of the file with tensors of these lengths.
fn total(start: u64, ends: &Ends) -> u64 {
    ends.values().fold(start, |length, end| length.next_multiple_of(16) + end)
}
