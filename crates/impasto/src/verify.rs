//! Checking a file: every unit's hash, and that every tensor and asset decodes.

use impasto_container::{Source, UnitHealth};
use rayon::prelude::*;

use crate::error::FileError;
use crate::file::File;

/// What is wrong with a file; nothing, if all lists are empty.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Units in the manifest.
    pub units: usize,
    /// Units that lie behind the end of a cut file, named.
    pub absent: Vec<String>,
    /// Units that are there with a wrong hash, named.
    pub damaged: Vec<String>,
    /// Tensors and assets whose units are whole but do not decode, with the reason.
    pub broken: Vec<String>,
    /// Tensors and assets in a coding mode that this version does not know: it cannot tell whether they are right.
    pub unreadable: Vec<String>,
}

impl Verdict {
    /// Is everything there and right?
    pub fn is_good(&self) -> bool {
        self.absent.is_empty() && self.damaged.is_empty() && self.broken.is_empty() && self.unreadable.is_empty()
    }
}

/// Checks the hash of every unit, then decodes every tensor and asset that has all its units. Memory is that of one tile for each thread.
///
/// # Errors
/// If the file cannot be read at all.
pub fn verify<S: Source>(file: &File<S>) -> Result<Verdict, FileError> {
    let reader = file.reader();
    let units = reader.units().len();
    let health: Vec<UnitHealth> =
        (0..units as u32).into_par_iter().map(|unit| reader.verify_unit(unit)).collect::<Result<_, _>>()?;
    let named = |wanted: UnitHealth| {
        (0..units as u32).filter(|&u| health[u as usize] == wanted).map(|u| reader.unit_place(u)).collect()
    };
    let mut verdict =
        Verdict { units, absent: named(UnitHealth::Absent), damaged: named(UnitHealth::Damaged), ..Verdict::default() };
    let whole = |object: u32| match reader.units_of(object) {
        None => false,
        Some(units) => units.head.iter().chain(units.tiles).all(|&u| health[u as usize] == UnitHealth::Good),
    };
    for (n, object) in reader.objects().iter().enumerate() {
        if object.tied().is_some() || !whole(n as u32) {
            continue;
        }
        match file.object(n as u32).and_then(|object| object.check()) {
            Ok(()) => {}
            Err(error @ FileError::UnknownMode { .. }) => verdict.unreadable.push(error.to_string()),
            Err(error) => verdict.broken.push(error.to_string()),
        }
    }
    Ok(verdict)
}
