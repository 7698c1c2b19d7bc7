//! Split GGUF files: `NAME-00001-of-00003.gguf`, each a GGUF file itself. The first one has the metadata of the model.
//! In each part, `split.no` (from 0) and `split.count` tell which part it is (gguf-split of llama.cpp).

use std::fs;
use std::path::{Path, PathBuf};

use super::metadata::Metadata;
use super::rules::SplitRule;
use crate::error::{CheckpointError, one_line, shown};

const NO: &str = "split.no";
const COUNT: &str = "split.count";
const TENSORS: &str = "split.tensors.count";

/// Most parts: the largest number with the five digits of a name.
const MAX_PARTS: u64 = 99_999;

/// The extension of a GGUF file in a folder.
const EXTENSION: &str = ".gguf";

/// Returns the end of a part's name; `part` counts from 1.
fn suffix(part: u64, count: u64) -> String {
    format!("-{part:05}-of-{count:05}{EXTENSION}")
}

/// Returns the name of a part without the suffix, and the number of parts in the suffix.
fn stem_and_count(name: &str) -> Option<(&str, u64)> {
    let (stem, suffix) = name.split_at_checked(name.len().checked_sub(suffix(1, 1).len())?)?;
    let (part, count) = suffix.strip_prefix('-')?.strip_suffix(EXTENSION)?.split_once("-of-")?;
    let number = |digits: &str| if digits.bytes().all(|b| b.is_ascii_digit()) { digits.parse().ok() } else { None };
    let (_, count): (u64, u64) = (number(part)?, number(count)?);
    Some((stem, count))
}

/// The part of a split file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// From 0.
    no: u64,
    count: u64,
}

impl Part {
    /// Reads the part from the metadata, and checks it against the file name. Returns `None` for a whole file.
    pub fn of(metadata: &Metadata, name: &str) -> Result<Option<Part>, SplitRule> {
        // A value of another type is not a valid number.
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

    /// Returns the names of all parts, given the name of this one.
    pub fn names(self, name: &str) -> Vec<String> {
        let stem = stem_and_count(name).map_or(name, |(stem, _)| stem);
        (1..=self.count).map(|part| format!("{stem}{}", suffix(part, self.count))).collect()
    }

    /// Returns the error that the part with this name is missing.
    pub fn missing(self, name: &str) -> SplitRule {
        SplitRule::Missing { count: self.count, missing: one_line(name) }
    }

    /// Checks the number of tensors in all parts against the metadata of the first part, if these have it.
    pub fn check_tensors(self, metadata: &Metadata, held: u64) -> Result<(), SplitRule> {
        match metadata.u64(TENSORS) {
            Some(declared) if declared != held => Err(SplitRule::Tensors { count: self.count, held, declared }),
            _ => Ok(()),
        }
    }
}

/// Returns the GGUF file of a folder: the only one, or the first part of the only split file. `None` if there is none.
pub(crate) fn only_file(folder: &Path) -> Result<Option<PathBuf>, CheckpointError> {
    let io = |error| CheckpointError::io(folder, error);
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        // A name that is not UTF-8 could not be restored.
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
