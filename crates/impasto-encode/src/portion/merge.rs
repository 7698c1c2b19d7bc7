//! Joins the files of all portions.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use impasto_checkpoint::CheckpointError;
use impasto_container::expansion::{ALWAYS, RATIO};
use impasto_container::{
    Header, Object, ObjectKind, Reader, Source, Summary, UnitEntry, UnitSlot, Writer, manifest_length,
};

use super::Portion;
use super::facts::Coded;
use super::file::{CARD, Opened, folder, limits, name, open, opened, parsed};
use super::job::stage;
use crate::error::EncodeError;
use crate::rate::{TRIES, meets};

/// A file that was joined.
#[derive(Clone, Debug)]
pub struct Merged {
    /// Its lengths and root.
    pub summary: Summary,
    /// Number of portions.
    pub portions: usize,
    /// Number of tensors.
    pub tensors: usize,
}

/// Joins the portions of the file at `path`, which [`encode_portion`](super::encode_portion) coded. The file is written atomically;
/// the files of the portions stay.
///
/// # Errors
/// [`EncodeError::Waiting`] if portions are missing, or have to go on; [`EncodeError::PortionFile`] if a file is not of the same
/// encoding as the others; if a file is damaged, or cannot be read or written.
pub fn merge(path: &Path) -> Result<Merged, EncodeError> {
    let folder = folder(path);
    let (of, attempt) = found(&folder)?;
    let Some(attempt) = attempt else {
        return Err(EncodeError::Waiting { portions: (1..=of).collect(), stage: stage(0, 0) });
    };
    let parts = files(&folder, of, attempt)?;
    let joined = Joined::new(&parts)?;
    if let (TRIES, Some(wanted), false) = (attempt, joined.target, joined.meets_target()) {
        return Err(EncodeError::Missed { wanted });
    }
    if !joined.meets_target() {
        // Each portion finds out, and codes once more.
        return Err(EncodeError::Waiting { portions: (1..=of).collect(), stage: stage(attempt + 1, 0) });
    }
    let tensors = joined.objects.len() - joined.assets;
    Ok(Merged { summary: joined.write(path)?, portions: of, tensors })
}

/// Joins a file that is the only portion, as far as that is possible without a file system, for a fuzzer.
#[doc(hidden)]
pub fn fuzz_portion(bytes: &[u8]) -> Result<u64, EncodeError> {
    let reader = Reader::open(bytes, "portion", &limits())?;
    let opened = [opened(reader, &name(Portion { number: 1, of: 1 }, &stage(0, 0)))?];
    opened[0].verify()?;
    let joined = Joined::new(&opened)?;
    joined.meets_target();
    Ok(joined.length())
}

fn broken(file: &str, rule: &str) -> EncodeError {
    EncodeError::PortionFile { file: file.to_owned(), rule: rule.to_owned() }
}

/// Returns the number of portions whose files are in a folder, and the last attempt at their units.
pub fn found(folder: &Path) -> Result<(usize, Option<usize>), EncodeError> {
    let io = |error| EncodeError::Checkpoint(CheckpointError::io(folder, error));
    let (mut counts, mut attempt) = (BTreeSet::new(), None);
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let entry = entry.map_err(io)?.file_name();
        let Some((portion, of_stage)) = entry.to_str().and_then(parsed) else { continue };
        counts.insert(portion.of);
        let number = of_stage.strip_prefix("units").and_then(|rest| rest.split_once('-')?.0.parse().ok());
        attempt = attempt.max(number.filter(|&number| number <= TRIES));
    }
    let broken = |rule: &str| broken(&folder.display().to_string(), rule);
    match (counts.pop_first(), counts.pop_first()) {
        (None, _) => Err(broken("it has no files of shards")),
        (Some(of), None) => Ok((of, attempt)),
        (Some(of), Some(other)) => {
            Err(broken(&format!("it has files of {of} and of {other} shards: remove those that are not wanted")))
        }
    }
}

/// Opens the files of an attempt.
fn files(folder: &Path, of: usize, attempt: usize) -> Result<Vec<Opened<Coded>>, EncodeError> {
    let path = |number: usize, part: usize| -> Option<PathBuf> {
        Some(folder.join(name(Portion::new(number, of)?, &stage(attempt, part)))).filter(|path| path.exists())
    };
    let (mut opened, mut part, mut parts) = (vec![], 0, 1);
    while part < parts {
        let paths: Vec<(usize, Option<PathBuf>)> = (1..=of).map(|number| (number, path(number, part))).collect();
        let missing: Vec<usize> = paths.iter().filter(|(_, path)| path.is_none()).map(|(number, _)| *number).collect();
        if !missing.is_empty() {
            return Err(EncodeError::Waiting { portions: missing, stage: stage(attempt, part) });
        }
        for path in paths.iter().filter_map(|(_, path)| path.as_deref()) {
            opened.push(open::<Coded>(path)?);
        }
        parts = opened.first().map_or(0, |first: &Opened<Coded>| first.card.facts.parts);
        part += 1;
    }
    Ok(opened)
}

/// Where an object or a unit is: a file, and the number there.
type Place<'a, S> = (&'a Opened<Coded, S>, u32);

/// The objects and units of the whole file.
struct Joined<'a, S> {
    objects: Vec<Object>,
    slots: Vec<UnitSlot>,
    /// Where the bytes of each unit are.
    units: Vec<Place<'a, S>>,
    /// Number of assets.
    assets: usize,
    /// The largest permitted size, if there is one.
    target: Option<u64>,
}

impl<'a, S: Source> Joined<'a, S> {
    /// Joins files, of which the first one has the assets.
    ///
    /// # Errors
    /// If they are not those of one encoding, or some are missing.
    fn new(parts: &'a [Opened<Coded, S>]) -> Result<Self, EncodeError> {
        let Some(first) = parts.first() else { return Err(broken("a folder of shards", "it has no parts")) };
        let target = first.card.facts.target;
        let mut joined = Joined { objects: vec![], slots: vec![], units: vec![], assets: 0, target };
        let all = (0..).zip(first.reader.objects());
        for (object, of) in all.filter(|(_, of)| matches!(of.kind, ObjectKind::Asset { .. }) && of.name != CARD) {
            joined.push(first, object, of.clone());
        }
        joined.assets = joined.objects.len();
        for (tensor, (opened, object)) in Self::tensors(parts)? {
            let mut of = opened.reader.objects()[object as usize].clone();
            if let ObjectKind::Tensor(meta) = &mut of.kind {
                if meta.reference.is_some() || meta.base.is_some() {
                    return Err(broken(opened.reader.name(), &format!("tensor {tensor} needs another one")));
                }
                // The tensors of a file are its last objects.
                let before = opened.reader.objects().len() - opened.card.tensors.len();
                let original = |tied: u32| opened.card.tensors.get((tied as usize).checked_sub(before)?);
                meta.tied = meta.tied.and_then(original).map(|tensor| (joined.assets + tensor) as u32);
            }
            joined.push(opened, object, of);
        }
        joined.check_expansion(parts)?;
        Ok(joined)
    }

    /// Returns where each tensor is.
    fn tensors(parts: &'a [Opened<Coded, S>]) -> Result<BTreeMap<usize, Place<'a, S>>, EncodeError> {
        let mut tensors: BTreeMap<usize, Place<S>> = BTreeMap::new();
        let first = &parts[0];
        let count = first.card.facts.count;
        for opened in parts {
            let broken = |rule: String| broken(opened.reader.name(), &rule);
            if opened.card.fingerprint != first.card.fingerprint {
                let other = first.reader.name();
                return Err(broken(format!("it was made from other inputs or with other options than {other}")));
            }
            for (tensor, object) in opened.objects()? {
                if tensor >= count {
                    return Err(broken(format!("it has tensor {tensor} of {count}")));
                }
                if let Some((other, _)) = tensors.insert(tensor, (opened, object)) {
                    return Err(broken(format!("it has a tensor that is in {}, too", other.reader.name())));
                }
            }
        }
        match (0..count).find(|tensor| !tensors.contains_key(tensor)) {
            Some(absent) => Err(broken(first.reader.name(), &format!("tensor {absent} is in no file"))),
            None => Ok(tensors),
        }
    }

    /// One machine makes tiles smaller if the file would expand to more than readers allow (SPEC 11.3).
    fn check_expansion(&self, parts: &[Opened<Coded, S>]) -> Result<(), EncodeError> {
        let (mut raw, mut planned) = (0u64, self.start());
        for Coded { raw: more, planned: further, .. } in parts.iter().map(|opened| &opened.card.facts) {
            (raw, planned) = (raw.saturating_add(*more), planned.saturating_add(*further));
        }
        let of_assets = self.units.iter().zip(&self.slots).filter(|(_, slot)| (slot.object as usize) < self.assets);
        let of_assets: u64 = of_assets.map(|(&unit, _)| Self::bytes(unit)).sum();
        let planned = planned.saturating_add(of_assets + 8 * self.assets as u64);
        match self.target {
            None if raw > ALWAYS.max(planned.saturating_mul(RATIO / 2)) => {
                Err(EncodeError::Portions("a file of nearly nothing but zeros, in which tiles are smaller"))
            }
            _ => Ok(()),
        }
    }

    fn push(&mut self, opened: &'a Opened<Coded, S>, object: u32, of: Object) {
        let number = self.objects.len() as u32;
        // Those of a tied tensor are those of another one.
        let units = opened.reader.units_of(object).filter(|_| of.tied().is_none());
        self.objects.push(of);
        for &unit in units.iter().flat_map(|units| units.header.iter().chain(units.tiles)) {
            let UnitEntry { tile, layer, .. } = opened.reader.units()[unit as usize];
            let is_header = opened.reader.units()[unit as usize].is_header();
            self.slots.push(UnitSlot { object: number, tile, layer, is_header });
            self.units.push((opened, unit));
        }
    }

    /// Returns the length of a unit.
    fn bytes((opened, unit): Place<S>) -> u64 {
        u64::from(opened.reader.units()[unit as usize].length)
    }

    /// Returns whether the file has the size that it is to have.
    fn meets_target(&self) -> bool {
        self.target.is_none_or(|target| meets(self.length(), target))
    }

    /// Returns the length of the header and the manifest.
    fn start(&self) -> u64 {
        Header::SIZE as u64 + manifest_length(&self.objects, self.slots.len(), &[], None)
    }

    /// Returns the length of the file.
    fn length(&self) -> u64 {
        self.units
            .iter()
            .map(|&unit| Self::bytes(unit))
            .fold(self.start(), |length, unit| length.next_multiple_of(16) + unit)
    }

    fn write(self, path: &Path) -> Result<Summary, EncodeError> {
        let mut writer = Writer::create(path, self.objects, self.slots, vec![])?;
        for (opened, unit) in self.units {
            writer.push(opened.reader.units()[unit as usize].mode, &opened.reader.read_unit(unit)?)?;
            opened.reader.release_unit(unit);
            opened.reader.check_source()?;
        }
        Ok(writer.finish()?)
    }
}
