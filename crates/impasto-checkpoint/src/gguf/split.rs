//! GGUF files in several parts: `NAME-00001-of-00003.gguf`, each a GGUF file of its own. The first has the metadata of the
//! model; every part says in `split.no` (from 0) and `split.count` which one it is (gguf-split of llama.cpp).

use std::fs;
use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use super::rules::SplitRule;
use crate::error::{CheckpointError, one_line, shown};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// The most parts: what the five digits of a name hold.
const MAX_PARTS: u64 = 99_999;

/// What every GGUF file of a folder ends in.
const EXTENSION: &str = ".gguf";

/// How the name of a part ends; `part` counts from 1.
fn suffix(part: u64, count: u64) -> String {
    format!("-{part:05}-of-{count:05}{EXTENSION}")
}

/// The name of a part before the suffix, and how many parts the suffix says there are.
fn stem_and_count(name: &str) -> Option<(&str, u64)> {
    let (stem, suffix) = name.split_at_checked(name.len().checked_sub(suffix(1, 1).len())?)?;
    let (part, count) = suffix.strip_prefix('-')?.strip_suffix(EXTENSION)?.split_once("-of-")?;
    let number = |digits: &str| if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None };
    let (_, count): (u64, u64) = (number(part)?, number(count)?);
    Some((stem, count))
}

/// Which part of how many a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 0.
    no: u64,
    count: u64,
}

impl Part {
    /// What the metadata say, if the name of the file agrees; `None` for a whole file.
    pub fn of(metadata: &Metadata, name: &str) -> Result<Option<Part>, SplitRule> {
        // A value of another type is no number of parts.
        let number = |key, absent| metadata.get(key).map_or(absent, |value| value.as_u64().unwrap_or(u64::MAX));
        let (no, count) = (number(NO, 0), number(COUNT, 1));
        let named = stem_and_count(name);
        if count <= 1 {
            return match named {
                Some((_, count)) if count > 1 => Err(SplitRule::Whole { count }),
                _ => Ok(None),
            };
        }
        if no >= count || count > MAX_PARTS {
            return Err(SplitRule::NoPart { no, count });
        }
        let suffix = suffix(no + 1, count);
        if named.is_none() || !name.ends_with(&suffix) {
            return Err(SplitRule::Name { part: no + 1, count, suffix });
        }
        Ok(Some(Part { no, count }))
    }

    /// The names of all parts, given that of this one.
    pub fn names(self, name: &str) -> Vec<String> {
        let stem = stem_and_count(name).map_or(name, |(stem, _)| stem);
        (1..=self.count).map(|part| format!("{stem}{}", suffix(part, self.count))).collect()
    }

    /// That a part of this name is not there.
    pub fn missing(self, name: &str) -> SplitRule {
        SplitRule::Missing { count: self.count, missing: one_line(name) }
    }

    /// All parts together hold as many tensors as the metadata of the first say, if they do.
    pub fn check_tensors(self, metadata: &Metadata, held: u64) -> Result<(), SplitRule> {
        match metadata.u64(TENSORS) {
            Some(declared) if declared != held => Err(SplitRule::Tensors { count: self.count, held, declared }),
            _ => Ok(()),
        }
    }
}

/// The GGUF file of a folder: the only one, or the first part of the only set of parts. `None` if there is none.
pub(crate) fn only_file(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let io = |error| CheckpointError::io(folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        // A name that is not UTF-8 could not be given back.
        if let Ok(name) = entry.map_err(io)?.file_name().into_string()
            && name.ends_with(EXTENSION)
        {
            names.push(name);
        }
    }
    names.sort_unstable();
    let set = |name: &str| stem_and_count(name).map(|(stem, count)| (stem.to_owned(), count));
    let Some(first) = names.first() else { return Ok(None) };
    let other = names.iter().skip(1).find(|name| set(first).is_none() || set(name) != set(first));
    match other {
        Some(second) => Err(CheckpointError::SeveralGguf {
            folder: shown(folder),
            first: one_line(first),
            second: one_line(second),
        }),
        None => Ok(Some(folder.join(first))),
    }
}
