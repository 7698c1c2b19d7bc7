//! What portions know of each other: files in a folder, which each portion writes of its own tensors and reads of all.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use blake3::Hash;
use impasto_checkpoint::{Checkpoint, CheckpointError, TensorInfo};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::Portion;
use super::assign::owners;
use super::facts::{Coded, Fact, Fixed, Number, Rated, Surveyed};
use super::file::{Card, Opened, VERSION, folder, name, open, parsed};
use crate::calibrate::{hash_of, tensor_hash};
use crate::error::EncodeError;
use crate::model::{Tensor, ends};
use crate::options::{Options, Target};
use crate::planner::Kept;
use crate::rate::{Measured, Rate};
use crate::scales::Scales;
use crate::statistics::Statistics;

/// How often a file of another portion is looked for.
const LOOK: Duration = Duration::from_millis(500);

/// The exchange of a portion with the others.
pub struct Exchange {
    folder: PathBuf,
    portion: Portion,
    /// The portion of each tensor.
    owners: Vec<usize>,
    fingerprint: String,
    /// For how long files of others are waited for, at each stage.
    patience: Duration,
}

/// The length of tensors in the file, each from the first byte of its first unit on.
pub type Ends = BTreeMap<usize, u64>;

impl Exchange {
    /// Creates the exchange for a file at `path`. Files of others are waited for at most so long, at each stage.
    pub fn new(
        (checkpoint, path): (&Checkpoint, &Path),
        tensors: &[Tensor],
        options: &Options,
        statistics: Option<&Statistics>,
        (portion, patience): (Portion, Duration),
    ) -> Exchange {
        let statistics = statistics.filter(|_| options.target != Target::Lossless);
        Exchange {
            folder: folder(path),
            portion,
            owners: owners(tensors, statistics, portion.of),
            fingerprint: fingerprint(checkpoint, options, statistics, portion.of),
            patience,
        }
    }

    /// Returns whether a tensor is of this portion.
    pub fn is_own(&self, tensor: usize) -> bool {
        self.owners.get(tensor) == Some(&self.portion.number)
    }

    /// Returns whether this is the portion that codes the assets.
    pub fn has_assets(&self) -> bool {
        self.portion.number == 1
    }

    /// Returns the path of the own file of a stage.
    pub fn path(&self, stage: &str) -> PathBuf {
        self.folder.join(name(self.portion, stage))
    }

    /// Removes own files that are damaged or were made with other options or inputs. Returns the stages of those that are whole.
    ///
    /// # Errors
    /// If the folder or a file cannot be read or removed.
    pub fn clean(&self) -> Result<Vec<String>, EncodeError> {
        let io = |path: &Path, error| EncodeError::Checkpoint(CheckpointError::io(path, error));
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(io(&self.folder, error)),
        };
        let mut whole = vec![];
        for entry in entries {
            let path = entry.map_err(|error| io(&self.folder, error))?.path();
            let file_name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            let Some((_, stage)) = parsed(file_name).filter(|(portion, _)| *portion == self.portion) else { continue };
            let opened = open::<serde_json::Value>(&path).and_then(|opened| opened.verify().map(|()| opened));
            if opened.is_ok_and(|opened| opened.card.fingerprint == self.fingerprint) {
                whole.push(stage.to_owned());
            } else {
                std::fs::remove_file(&path).map_err(|error| io(&path, error))?;
            }
        }
        Ok(whole)
    }

    /// Returns the card of an own file.
    pub fn card<T>(&self, stage: &str, tensors: Vec<usize>, facts: T) -> Card<T> {
        let (fingerprint, stage) = (self.fingerprint.clone(), stage.to_owned());
        let Portion { number, of } = self.portion;
        Card { version: VERSION, fingerprint, portion: number, of, stage, tensors, facts }
    }

    /// Returns the own tensors.
    fn own(&self) -> Vec<usize> {
        (0..self.owners.len()).filter(|&i| self.is_own(i)).collect()
    }

    fn publish<T: Serialize>(&self, stage: &str, facts: BTreeMap<usize, T>) -> Result<(), EncodeError> {
        let (tensors, facts): (Vec<usize>, Vec<T>) = facts.into_iter().unzip();
        self.card(stage, tensors, facts).write(&self.path(stage))
    }

    /// Returns a file of a portion, if it is there and belongs to this encoding.
    fn find<T: DeserializeOwned>(&self, stage: &str, number: usize) -> Option<Opened<T>> {
        let path = self.folder.join(name(Portion { number, ..self.portion }, stage));
        open(&path).ok().filter(|opened: &Opened<T>| opened.card.fingerprint == self.fingerprint)
    }

    /// Returns whether the own file of a stage is there.
    pub fn has(&self, stage: &str) -> bool {
        self.find::<serde_json::Value>(stage, self.portion.number).is_some()
    }

    /// Applies `take` to the file of a stage of each portion.
    ///
    /// # Errors
    /// [`EncodeError::Waiting`] if one is not there, or `take` returns `None` for it.
    fn all<T: DeserializeOwned>(
        &self,
        stage: &str,
        mut take: impl FnMut(usize, Opened<T>) -> Option<()>,
    ) -> Result<(), EncodeError> {
        let mut missing: Vec<usize> = (1..=self.portion.of).collect();
        let until = Instant::now().checked_add(self.patience); // `None`: for ever
        loop {
            missing.retain(|&number| self.find(stage, number).and_then(|opened| take(number, opened)).is_none());
            if missing.is_empty() {
                return Ok(());
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return Err(EncodeError::Waiting { portions: missing, stage: stage.to_owned() });
            }
            std::thread::sleep(LOOK);
        }
    }

    /// Returns the facts of a stage about all tensors that `is_wanted` names.
    fn facts<T: Fact>(
        &self,
        stage: &str,
        is_wanted: impl Fn(usize) -> bool,
    ) -> Result<BTreeMap<usize, T>, EncodeError> {
        let mut wanted: Vec<Vec<usize>> = vec![vec![]; self.portion.of];
        for (tensor, owner) in self.owners.iter().enumerate().filter(|(tensor, _)| is_wanted(*tensor)) {
            wanted[owner - 1].push(tensor);
        }
        let mut found = BTreeMap::new();
        self.all(stage, |number, opened: Opened<Vec<T>>| {
            let Card { tensors, facts, .. } = opened.card;
            let fits = tensors == wanted[number - 1] && facts.len() == tensors.len() && facts.iter().all(T::is_sane);
            fits.then(|| found.extend(tensors.into_iter().zip(facts)))
        })?;
        Ok(found)
    }

    /// Publishes what does not depend on a step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn publish_fixed(&self, kept: &[Option<Kept>], formats: &[Option<Rate>]) -> Result<(), EncodeError> {
        if self.has(FIXED) {
            return Ok(());
        }
        let fixed = |i: usize| Fixed::new(kept.get(i).copied().flatten(), formats.get(i).copied().flatten());
        self.publish(FIXED, self.own().into_iter().map(|i| (i, fixed(i))).collect())
    }

    /// Completes what does not depend on a step by what other portions published.
    ///
    /// # Errors
    /// If portions are missing, or one contradicts the shapes.
    pub fn fixed(
        &self,
        tensors: &[Tensor],
        kept: &mut [Option<Kept>],
        formats: &mut [Option<Rate>],
    ) -> Result<(), EncodeError> {
        for (i, fixed) in self.facts::<Fixed>(FIXED, |_| true)?.into_iter().filter(|(i, _)| !self.is_own(*i)) {
            let broken = || EncodeError::PortionFile {
                file: self
                    .folder
                    .join(name(Portion { number: self.owners[i], ..self.portion }, FIXED))
                    .display()
                    .to_string(),
                rule: format!("the tiles of {:?} do not fit its shape", tensors[i].name),
            };
            (kept[i], formats[i]) = fixed.of(tensors[i].sides()).ok_or_else(broken)?;
        }
        Ok(())
    }

    /// Returns whether the own rates at the step with number `at` are published.
    pub fn has_rates(&self, at: i32) -> bool {
        self.has(&rates(at))
    }

    /// Publishes rates at the step with number `at`.
    ///
    /// # Errors
    /// If they cannot be written.
    pub fn publish_rates(&self, at: i32, found: &BTreeMap<usize, Measured>) -> Result<(), EncodeError> {
        self.publish(&rates(at), found.iter().map(|(&i, &measured)| (i, Rated::from(measured))).collect())
    }

    /// Returns the rates at a step of all tensors that have some.
    ///
    /// # Errors
    /// If portions are missing.
    pub fn rates(&self, at: i32, has: impl Fn(usize) -> bool) -> Result<BTreeMap<usize, Measured>, EncodeError> {
        let found = self.facts::<Rated>(&rates(at), has)?;
        Ok(found.into_iter().map(|(i, rated)| (i, rated.into())).collect())
    }

    /// Returns the lengths of the tensors of a part of the file that have units, and by how many octaves the step of tensor `of` is
    /// coarser than the global one.
    ///
    /// # Errors
    /// If portions are missing.
    pub fn lengths(&self, stage: &str, of: Option<usize>) -> Result<(Ends, f64), EncodeError> {
        let (mut ends, mut found) = (Ends::new(), 0.0);
        self.all(stage, |_, opened: Opened<Coded>| {
            let octaves = opened.card.facts.octaves()?;
            let mut own = Ends::new();
            let is_tied = |object: u32| opened.reader.objects()[object as usize].tied().is_some();
            for (tensor, object) in opened.objects().ok()?.filter(|(_, object)| !is_tied(*object)) {
                let units = opened.reader.units_of(object)?;
                let in_order = units.header.iter().chain(units.tiles);
                let lengths = in_order.map(|&unit| u64::from(opened.reader.units()[unit as usize].length));
                if units.header.is_some() || !units.tiles.is_empty() {
                    own.insert(tensor, lengths.fold(0, |end: u64, length| end.next_multiple_of(16) + length));
                }
            }
            if of.is_some_and(|of| own.contains_key(&of)) {
                found = octaves;
            }
            ends.extend(own);
            Some(())
        })?;
        Ok((ends, found))
    }
}

const SCALES: &str = "scales";
const FIXED: &str = "fixed";

fn rates(at: i32) -> String {
    format!("rates{at:+}")
}

/// Returns whether each tensor may be coded with loss, and completes the scales of tensors by the mean square of those of other
/// portions. `usual` says it of an own tensor with these scales.
///
/// # Errors
/// If portions are missing, or the statistics are of another model.
pub fn survey(
    exchange: &Exchange,
    (checkpoint, statistics): (&Checkpoint, Option<&Statistics>),
    tensors: &[Tensor],
    scales: &mut [Option<Scales>],
    usual: impl Fn(&Tensor, &Scales) -> bool,
) -> Result<Vec<bool>, EncodeError> {
    if !exchange.has(SCALES) {
        let own = exchange.own().into_iter().map(|i| {
            let hash = tensor_hash(checkpoint, tensors[i].info).to_hex().to_string();
            let of = scales[i].as_ref();
            let usual = of.is_some_and(|scales| usual(&tensors[i], scales));
            (i, Surveyed { hash, scales: of.map(|of| (Number(of.mean_square), of.non_finite)), usual })
        });
        exchange.publish(SCALES, own.collect())?;
    }
    let all = exchange.facts::<Surveyed>(SCALES, |_| true)?;
    if let Some(statistics) = statistics {
        // A tensor that the file leaves out has no portion.
        let known: BTreeMap<&str, &Surveyed> = all.iter().map(|(&i, of)| (tensors[i].info.name.as_str(), of)).collect();
        let hash = |info: &TensorInfo| match known.get(info.name.as_str()) {
            Some(of) => Hash::from_hex(&of.hash).unwrap_or(Hash::from_bytes([0; 32])),
            None => tensor_hash(checkpoint, info),
        };
        let hashes: Vec<Hash> = checkpoint.tensors().iter().map(hash).collect();
        if statistics.info().model != hash_of(checkpoint, &hashes).to_hex().as_str() {
            return Err(EncodeError::OtherModel { file: statistics.name().to_owned() });
        }
    }
    for (&i, of) in all.iter().filter(|(i, _)| !exchange.is_own(**i)) {
        let summary = |(mean_square, non_finite): (Number, u64)| Scales {
            rows: vec![],
            columns: vec![],
            mean_square: mean_square.0,
            non_finite,
        };
        scales[i] = of.scales.map(summary);
    }
    Ok((0..tensors.len()).map(|i| all.get(&i).is_some_and(|of| of.usual)).collect())
}

/// Returns the hash of what the files of portions depend on: the program, the number of portions, the options, the statistics, and the
/// checkpoint, of which only the beginning and the end of each tensor are read.
fn fingerprint(checkpoint: &Checkpoint, options: &Options, statistics: Option<&Statistics>, of: usize) -> String {
    use std::fmt::Write;
    let form = options.compiled_tokenizer.as_ref().map(|form| blake3::hash(form));
    // The file does not depend on these.
    let options = Options { compiled_tokenizer: None, threads: 0, memory_limit: None, ..options.clone() };
    let mut text = format!("{} {VERSION} {of}\n{options:?}\n{form:?}\n", env!("CARGO_PKG_VERSION"));
    if let Some(statistics) = statistics {
        // Numbers and texts have a form in JSON.
        text += &serde_json::to_string(statistics.info()).unwrap_or_default();
    }
    for info in checkpoint.tensors() {
        let ends = ends(checkpoint, info);
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{:?} {:?} {:?} {:?} {ends}", info.name, info.dtype, info.type_name, info.shape);
    }
    for asset in checkpoint.assets() {
        let _ = writeln!(text, "{:?} {}", asset.name, blake3::hash(&asset.bytes));
    }
    for shard in checkpoint.shards() {
        let _ = writeln!(text, "{:?} {}", shard.name(), blake3::hash(shard.header()));
    }
    blake3::hash(text.as_bytes()).to_hex().to_string()
}
