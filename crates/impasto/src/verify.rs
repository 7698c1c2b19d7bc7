//! Checking a file: every unit's hash, and that every tensor and asset decodes.

use impasto_container::{Source, UnitHealth};
use rayon::prelude::*;

use crate::error::FileError;
use crate::file::File;

/// Rows decoded at a time.
const BAND_BYTES: u64 = 64 << 20;

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
}

impl Verdict {
    /// Is everything there and right?
    pub fn is_good(&self) -> bool {
        self.absent.is_empty() && self.damaged.is_empty() && self.broken.is_empty()
    }
}

/// Checks the hash of every unit, then decodes every tensor and asset that has all its units.
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
        Verdict { units, absent: named(UnitHealth::Absent), damaged: named(UnitHealth::Damaged), broken: vec![] };
    let whole = |object: u32| match reader.units_of(object) {
        None => false,
        Some(units) => units.head.iter().chain(units.tiles).all(|&u| health[u as usize] == UnitHealth::Good),
    };
    for (n, object) in reader.objects().iter().enumerate() {
        if object.tied().is_some() || !whole(n as u32) {
            continue;
        }
        let result = if object.tensor().is_some() {
            decode_by_bands(file, &object.name)
        } else {
            file.asset(&object.name).map(|_| ())
        };
        if let Err(error) = result {
            verdict.broken.push(error.to_string());
        }
    }
    Ok(verdict)
}

fn decode_by_bands<S: Source>(file: &File<S>, name: &str) -> Result<(), FileError> {
    let tensor = file.tensor(name)?;
    let matrix = tensor.matrix();
    if matrix.elements() == 0 {
        return Ok(()); // There may be rows all the same, too many to walk over.
    }
    let row_bytes = (matrix.cols() * tensor.dtype().size() as u64).max(1);
    let height = matrix.tile_rows().saturating_mul((BAND_BYTES / row_bytes / matrix.tile_rows().max(1)).max(1));
    let mut from = 0;
    while from < matrix.rows() {
        let to = from.saturating_add(height).min(matrix.rows());
        tensor.band(from..to, 0..matrix.cols())?;
        from = to;
    }
    Ok(())
}
