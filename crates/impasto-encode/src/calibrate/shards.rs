//! Portions of a calibration: each sums over its parts of the windows, and the sums of all parts are added in the order of the text, as on
//! one machine.
//!
//! The file of a portion is one of [`crate::portion`] with an asset more: the sums of its groups, in 32-bit floats, then those of gradients,
//! in 64-bit floats, little-endian, in the order in which the card lists them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use impasto_container::{Object, ObjectKind, Reader, Source, UnitSlot, Writer};
use impasto_core::Mode;
use serde::{Deserialize, Serialize};

use super::memory::joining;
use super::spill::{Spill, Stretch};
use super::sums::{Fisher, Group, zeros};
use super::{HeldBack, Steps, damping, result, settle, triangle};
use crate::code::PIECE;
use crate::error::EncodeError;
use crate::portion::{Card, Opened, Portion, VERSION, folder, folder_stages, limits, name, open, opened, parsed};
use crate::statistics::Info;

/// The stage of the files.
pub const STAGE: &str = "sums";
/// Most tokens of a calibration.
const MOST_TOKENS: u64 = 1 << 40;
/// The name of the asset.
const SUMS: &str = "sums";

/// The sums of a group over the parts of a portion, in the temporary file.
pub struct Recorded {
    names: Vec<String>,
    inputs: usize,
    /// The position of the input in its block; `None` for that of the output projection.
    pub kind: Option<usize>,
    /// Number, tokens and triangle of each part.
    pub parts: Vec<(usize, usize, Stretch)>,
    /// Tokens, rows that dampings are searched on, the triangle and the rows of the held-out part.
    pub held: Option<(usize, usize, [Stretch; 2])>,
}

impl Recorded {
    pub fn of(group: &Group) -> Recorded {
        Recorded { names: group.names.clone(), inputs: group.inputs, kind: None, parts: vec![], held: None }
    }
}

impl HeldBack {
    /// Writes what [`settle`] needs to the temporary file.
    pub fn record(self, n: usize, spill: &mut Spill) -> Result<(usize, usize, [Stretch; 2]), EncodeError> {
        let taken = damping::taken(self.tokens);
        let sum = spill.push(triangle(&self.sum, n))?;
        let rows = spill.push(taken.clone().map(|row| &self.rows[row * n..(row + 1) * n]))?;
        Ok((self.tokens, taken.count(), [sum, rows]))
    }
}

/// What the sums of a portion are of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Summed {
    info: Info,
    /// Number of parts of all portions.
    parts: usize,
    /// Names of the embedding and the output projection.
    ends: (String, String),
    vocabulary: usize,
    groups: Vec<OfGroup>,
    /// Number of the part, and the number of outputs of each layer; then the vocabulary follows.
    gradients: Vec<(usize, BTreeMap<String, usize>)>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct OfGroup {
    names: Vec<String>,
    inputs: usize,
    kind: Option<usize>,
    /// Number and tokens of each part.
    parts: Vec<(usize, usize)>,
    /// Tokens of the held-out part, and rows of it that follow its triangle.
    held: Option<(usize, usize)>,
}

/// The file of a portion, to be written.
pub struct PortionSums {
    path: PathBuf,
    portion: Portion,
    info: Info,
    parts: usize,
    fingerprint: String,
}

impl PortionSums {
    pub fn new(path: &Path, portion: Portion, info: Info, parts: usize) -> PortionSums {
        // Numbers and texts have a form in JSON.
        let of = serde_json::to_string(&info).unwrap_or_default();
        let text = format!("{} {VERSION} {} {of}", env!("CARGO_PKG_VERSION"), portion.of());
        let fingerprint = blake3::hash(text.as_bytes()).to_hex().to_string();
        PortionSums { path: folder(path).join(name(portion, STAGE)), portion, info, parts, fingerprint }
    }

    /// Returns whether the file is there, whole and of this calibration.
    pub fn is_there(&self) -> bool {
        let opened = open::<Summed>(&self.path).and_then(|opened| opened.verify().map(|()| opened));
        opened.is_ok_and(|opened| opened.card.fingerprint == self.fingerprint)
    }

    /// Writes the file.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn write(
        self,
        recorded: Vec<Recorded>,
        gradients: &[(usize, Fisher)],
        (embedding, head): (&str, &str),
        spill: &mut Spill,
    ) -> Result<(), EncodeError> {
        let of_group = |group: &Recorded| OfGroup {
            names: group.names.clone(),
            inputs: group.inputs,
            kind: group.kind,
            parts: group.parts.iter().map(|&(part, tokens, _)| (part, tokens)).collect(),
            held: group.held.map(|(tokens, rows, _)| (tokens, rows)),
        };
        let of_gradients = |(part, fisher): &(usize, Fisher)| {
            (*part, fisher.outputs.iter().map(|(name, sums)| (name.clone(), sums.len())).collect())
        };
        let summed = Summed {
            info: self.info,
            parts: self.parts,
            ends: (embedding.to_owned(), head.to_owned()),
            vocabulary: gradients.first().map_or(0, |(_, fisher)| fisher.embedding.len()),
            groups: recorded.iter().map(of_group).collect(),
            gradients: gradients.iter().map(of_gradients).collect(),
        };
        let (portion, stage) = (self.portion, STAGE.to_owned());
        let length = summed.length().unwrap_or(u64::MAX);
        let card = Card {
            version: VERSION,
            fingerprint: self.fingerprint,
            portion: portion.number(),
            of: portion.of(),
            stage,
            tensors: vec![],
            facts: summed,
        };
        let card = card.to_asset();
        let asset = |name: &str, length: u64| Object {
            name: name.to_owned(),
            kind: ObjectKind::Asset { length, piece: PIECE, base: None },
        };
        let units = |object: u32, length: u64| {
            (0..length.div_ceil(PIECE) as u32).map(move |tile| UnitSlot { object, tile, layer: 0, is_header: false })
        };
        let slots = units(0, card.length).chain(units(1, length)).collect();
        let objects = vec![asset(&card.name, card.length), asset(SUMS, length)];
        let mut writer = Writer::create(&self.path, objects, slots, vec![])?;
        card.pieces.iter().try_for_each(|(mode, bytes)| writer.push(*mode, bytes))?;
        let mut pieces = Pieces { writer, held: vec![] };
        for group in &recorded {
            let of_parts = group.parts.iter().map(|(.., sum)| *sum);
            for stretch in of_parts.chain(group.held.iter().flat_map(|(.., both)| *both)) {
                let mut failed = Ok(());
                spill.bytes(stretch, &mut |bytes| {
                    if failed.is_ok() {
                        failed = pieces.push(bytes);
                    }
                    Ok(())
                })?;
                failed?;
            }
        }
        for (_, fisher) in gradients {
            for sums in fisher.outputs.values().chain([&fisher.embedding]) {
                sums.iter().try_for_each(|sum| pieces.push(&sum.to_le_bytes()))?;
            }
        }
        pieces.finish()
    }
}

/// Bytes that are written in pieces of [`PIECE`].
struct Pieces {
    writer: Writer,
    held: Vec<u8>,
}

impl Pieces {
    fn push(&mut self, bytes: &[u8]) -> Result<(), EncodeError> {
        self.held.extend_from_slice(bytes);
        while self.held.len() >= PIECE as usize {
            self.writer.push(Mode::STORED, &self.held[..PIECE as usize])?;
            self.held.drain(..PIECE as usize);
        }
        Ok(())
    }

    fn finish(mut self) -> Result<(), EncodeError> {
        if !self.held.is_empty() {
            self.writer.push(Mode::STORED, &self.held)?;
        }
        self.writer.finish()?;
        Ok(())
    }
}

/// Returns the number of entries of the lower triangle of an n x n matrix.
fn entries(n: usize) -> Option<u64> {
    (n as u64).checked_mul(n as u64 + 1).map(|twice| twice / 2)
}

impl Summed {
    /// Returns the bytes of the sums; `None` if they do not fit.
    fn length(&self) -> Option<u64> {
        let mut bytes = 0u64;
        for group in &self.groups {
            let (triangle, held) = (entries(group.inputs)?, u64::from(group.held.is_some()));
            let triangles = triangle.checked_mul(group.parts.len() as u64 + held)?;
            let rows = (group.inputs as u64).checked_mul(group.held.map_or(0, |(_, rows)| rows as u64))?;
            bytes = bytes.checked_add(triangles.checked_add(rows)?.checked_mul(4)?)?;
        }
        for (_, outputs) in &self.gradients {
            let mut all = outputs.values().chain([&self.vocabulary]);
            let sums = all.try_fold(0u64, |sum, &n| sum.checked_add(n as u64))?;
            bytes = bytes.checked_add(sums.checked_mul(8)?)?;
        }
        Some(bytes)
    }
}

/// The sums of a portion, read in order.
struct Sums<'a, S> {
    reader: &'a Reader<S>,
    /// The units that are left.
    units: std::slice::Iter<'a, u32>,
    /// The rest of the last one.
    bytes: Vec<u8>,
    at: usize,
}

impl<'a, S: Source> Sums<'a, S> {
    fn new(opened: &'a Opened<Summed, S>) -> Result<Self, EncodeError> {
        let reader = &opened.reader;
        let broken = || broken(opened, "its sums are not those that it lists");
        let object = reader.find_asset(SUMS).ok_or_else(broken)?;
        let length = opened.card.facts.length().ok_or_else(broken)?;
        let is_right = matches!(reader.objects()[object as usize].kind, ObjectKind::Asset { length: found, .. } if found == length);
        let units = reader.units_of(object).ok_or_else(broken)?.tiles;
        let stored = |unit: &u32| reader.units()[*unit as usize].mode == Mode::STORED;
        let of_units: u64 = units.iter().map(|&unit| u64::from(reader.units()[unit as usize].length)).sum();
        if !is_right || !units.iter().all(stored) || of_units != length {
            return Err(broken());
        }
        Ok(Sums { reader, units: units.iter(), bytes: vec![], at: 0 })
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], EncodeError> {
        let mut number = [0; N];
        let mut filled = 0;
        while filled < N {
            if self.at == self.bytes.len() {
                // The length was checked, so there is another unit.
                let Some(&unit) = self.units.next() else { break };
                (self.bytes, self.at) = (self.reader.read_unit(unit)?.into_owned(), 0);
                self.reader.release_unit(unit);
                self.reader.check_source()?;
            }
            let now = (N - filled).min(self.bytes.len() - self.at);
            number[filled..filled + now].copy_from_slice(&self.bytes[self.at..self.at + now]);
            (filled, self.at) = (filled + now, self.at + now);
        }
        Ok(number)
    }

    fn floats(&mut self, out: &mut [f32]) -> Result<(), EncodeError> {
        for value in out {
            *value = f32::from_le_bytes(self.number()?);
        }
        Ok(())
    }

    fn doubles(&mut self, count: usize) -> Result<Vec<f64>, EncodeError> {
        (0..count).map(|_| Ok(f64::from_le_bytes(self.number()?))).collect()
    }

    /// Reads the sums of gradients, which follow all others.
    fn gradients(&mut self, of: &Summed) -> Result<Vec<(usize, Fisher)>, EncodeError> {
        let fisher = |(part, outputs): &(usize, BTreeMap<String, usize>)| {
            let mut fisher = Fisher::new(0);
            for (name, &count) in outputs {
                fisher.outputs.insert(name.clone(), self.doubles(count)?);
            }
            fisher.embedding = self.doubles(of.vocabulary)?;
            Ok((*part, fisher))
        };
        of.gradients.iter().map(fisher).collect()
    }

    /// Reads a lower triangle into an n x n matrix.
    fn triangle(&mut self, sum: &mut [f32], n: usize) -> Result<(), EncodeError> {
        (0..n).try_for_each(|i| self.floats(&mut sum[i * n..=i * n + i]))
    }
}

fn broken<S: Source>(opened: &Opened<Summed, S>, rule: &str) -> EncodeError {
    EncodeError::PortionFile { file: opened.reader.name().to_owned(), rule: rule.to_owned() }
}

/// Returns whether there are files of portions of a calibration for the statistics at `path`.
pub fn is_calibration(path: &Path) -> bool {
    let entries = std::fs::read_dir(folder(path)).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_str().and_then(parsed).is_some_and(|(_, of)| of == STAGE))
}

/// Makes the statistics at `path` of the portions that [`calibrate_portion`](super::calibrate_portion) summed, with so many threads (0
/// means one per core), in at most `limit` bytes of memory.
///
/// # Errors
/// [`EncodeError::Waiting`] if portions are missing; [`EncodeError::PortionFile`] if a file is not of the same calibration as the others;
/// [`EncodeError::MergeMemory`] if memory would exceed the limit; if a file is damaged, or cannot be read or written.
pub fn merge_statistics(path: &Path, threads: usize, limit: Option<u64>) -> Result<Info, EncodeError> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build();
    let pool = pool.map_err(|e| EncodeError::Threads(e.to_string()))?;
    pool.install(|| merged(path, limit))
}

fn merged(path: &Path, limit: Option<u64>) -> Result<Info, EncodeError> {
    let folder = folder(path);
    let (of, _) = folder_stages(&folder)?;
    let files = (1..=of).filter_map(|number| Some((number, folder.join(name(Portion::new(number, of)?, STAGE)))));
    let (there, missing): (Vec<_>, Vec<_>) = files.partition(|(_, file)| file.exists());
    if !missing.is_empty() {
        let portions = missing.into_iter().map(|(number, _)| number).collect();
        return Err(EncodeError::Waiting { portions, stage: STAGE.to_owned() });
    }
    let opened = there.iter().map(|(_, file)| open::<Summed>(file)).collect::<Result<Vec<_>, _>>()?;
    let first = opened.first().ok_or(EncodeError::Waiting { portions: vec![], stage: STAGE.to_owned() })?;
    let whole = check(&opened, first)?;
    let mut sums = opened.iter().map(Sums::new).collect::<Result<Vec<_>, _>>()?;
    let needed = needed(opened.iter().map(|opened| &opened.card.facts));
    if let Some(limit) = limit.filter(|&limit| needed > limit) {
        return Err(EncodeError::MergeMemory { needed, limit });
    }
    let (mut spill, mut steps, mut groups) = (Spill::beside(path)?, Steps::new(), BTreeMap::new());
    for (number, group) in whole.groups.iter().enumerate() {
        let n = group.inputs;
        let square = || zeros(n.checked_mul(n), "the covariance of a layer's inputs");
        let mut all = Group { names: group.names.clone(), inputs: n, sum: square()?, tokens: 0 };
        let (mut part_sum, mut held): (Vec<f32>, _) = (square()?, None);
        // Parts of a portion are in ascending order, and so are those of all, one after the other.
        let mut next = vec![0; opened.len()];
        for part in 0..whole.parts {
            let owner = part % opened.len();
            let of_owner = &opened[owner].card.facts.groups[number];
            if let Some(&(_, tokens)) = of_owner.parts.get(next[owner]).filter(|(found, _)| *found == part) {
                sums[owner].triangle(&mut part_sum, n)?;
                all.add(&part_sum, tokens);
                next[owner] += 1;
            } else if let Some((tokens, rows)) = of_owner.held {
                let mut sum = square()?;
                sums[owner].triangle(&mut sum, n)?;
                let mut searched = zeros(rows.checked_mul(n), "the held-out inputs")?;
                sums[owner].floats(&mut searched)?;
                held = Some(HeldBack { rows: searched, sum, tokens });
            }
        }
        drop(part_sum);
        let step = steps.entry(group.kind).or_insert(damping::USUAL);
        groups.extend(settle(all, held, step, &mut spill)?);
    }
    let mut gradients: BTreeMap<usize, Fisher> = BTreeMap::new();
    for (opened, sums) in opened.iter().zip(&mut sums) {
        gradients.extend(sums.gradients(&opened.card.facts)?);
    }
    let fisher = Fisher::sum(whole.vocabulary, gradients.values());
    let (embedding, head) = &whole.ends;
    result::write(path, whole.info.clone(), groups, &fisher, (embedding, head), &mut spill)
}

/// Reads a file that is the only portion, as far as that is possible without a file system, for a fuzzer. Returns the number of groups.
#[doc(hidden)]
pub fn fuzz_sums(bytes: &[u8]) -> Result<u64, EncodeError> {
    let reader = Reader::open(bytes, "sums", &limits())?;
    let named = Portion::new(1, 1).map_or(String::new(), |portion| name(portion, STAGE));
    let file = [opened(reader, &named)?];
    file[0].verify()?;
    let whole = check(&file, &file[0])?;
    let mut sums = Sums::new(&file[0])?;
    for group in &whole.groups {
        let n = group.inputs;
        let mut sum = zeros(n.checked_mul(n), "the covariance of a layer's inputs")?;
        group.parts.iter().try_for_each(|_| sums.triangle(&mut sum, n))?;
        if let Some((_, rows)) = group.held {
            sums.triangle(&mut sum, n)?;
            sums.floats(&mut zeros(rows.checked_mul(n), "the held-out inputs")?)?;
        }
    }
    let gradients = sums.gradients(&whole)?;
    Fisher::sum(whole.vocabulary, gradients.iter().map(|(_, fisher)| fisher));
    Ok(whole.groups.len() as u64)
}

/// Returns an estimate of the memory that joining portions takes, in bytes.
fn needed<'a>(portions: impl Iterator<Item = &'a Summed> + Clone) -> u64 {
    let groups = portions.clone().flat_map(|of| &of.groups);
    let of_groups = groups.map(|group| (group.inputs, group.held.map_or(0, |(_, rows)| rows)));
    let sums = |of: &Summed| {
        let of_part =
            |outputs: &BTreeMap<String, usize>| outputs.values().map(|&n| n as u64).sum::<u64>() + of.vocabulary as u64;
        of.gradients.iter().map(|(_, outputs)| of_part(outputs)).sum::<u64>()
    };
    joining(of_groups, portions.map(sums).sum())
}

/// Checks that all files are of one calibration, that each part is where it belongs, and that groups agree. Returns what they are of.
fn check<S: Source>(opened: &[Opened<Summed, S>], first: &Opened<Summed, S>) -> Result<Summed, EncodeError> {
    let same = |a: &OfGroup, b: &OfGroup| a.names == b.names && a.inputs == b.inputs && a.kind == b.kind;
    let of = &first.card.facts;
    // The first portion has the first window, and so gradients; nothing else bounds the vocabulary.
    if of.gradients.is_empty() {
        return Err(broken(first, "it has no gradients"));
    }
    for (owner, file) in opened.iter().enumerate() {
        let facts = &file.card.facts;
        if file.card.fingerprint != first.card.fingerprint || facts.info != of.info {
            let rule = format!("it was made from other inputs or with other options than {}", first.reader.name());
            return Err(broken(file, &rule));
        }
        let alike =
            facts.groups.len() == of.groups.len() && facts.groups.iter().zip(&of.groups).all(|(a, b)| same(a, b));
        if !alike || facts.parts != of.parts || facts.ends != of.ends {
            return Err(broken(file, &format!("its layers are not those of {}", first.reader.name())));
        }
        // Part p belongs to portion p modulo their number; the last one is held out, if one is.
        let held = (of.info.held_back_tokens > 0).then(|| facts.parts.saturating_sub(1));
        let own = || (owner..facts.parts).step_by(opened.len()).filter(|part| Some(*part) != held);
        // No sum is made of nothing, and so every matrix is as large as the file makes it.
        if facts.parts <= usize::from(held.is_some()) || facts.info.tokens > MOST_TOKENS {
            return Err(broken(file, "its parts are not those of a calibration"));
        }
        let has_held = held.is_some_and(|held| held % opened.len() == owner);
        let is_right = |group: &OfGroup| {
            let few = |tokens: usize| tokens as u64 <= facts.info.tokens;
            let held = group
                .held
                .is_none_or(|(tokens, rows)| has_held && few(tokens) && rows == damping::taken(tokens).count());
            let parts = group.parts.iter().map(|(part, _)| *part);
            parts.eq(own()) && group.parts.iter().all(|(_, tokens)| few(*tokens)) && held
        };
        let of_own = |part: &usize| part % opened.len() == owner && *part < facts.parts;
        let ascending = facts.gradients.is_sorted_by(|a, b| a.0 < b.0);
        if !facts.groups.iter().all(is_right) || !ascending || !facts.gradients.iter().all(|(part, _)| of_own(part)) {
            return Err(broken(file, "its parts are not those of its shard"));
        }
        let vocabularies = [facts.vocabulary, of.vocabulary];
        if !facts.gradients.is_empty() && vocabularies[0] != vocabularies[1] {
            return Err(broken(file, &format!("its vocabulary is not that of {}", first.reader.name())));
        }
    }
    Ok(of.clone())
}

#[cfg(test)]
mod tests;
