//! Verification: checks the hash of every unit, and that every tensor and asset decodes.

use std::collections::HashSet;

use impasto_codec::{Body, CodecError, Kind, TensorHeader};
use impasto_container::{ContainerError, Object, Source, UnitEntry, UnitHealth};
use rayon::prelude::*;

use crate::error::FileError;
use crate::file::File;

/// The result of verification; the file is good if all lists are empty.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Number of units in the manifest.
    pub units: usize,
    /// Descriptions of units after the end of a cut file.
    pub absent: Vec<String>,
    /// Descriptions of units with a wrong hash.
    pub damaged: Vec<String>,
    /// Errors of tensors and assets whose units have the right hashes but do not decode.
    pub broken: Vec<String>,
    /// Errors of tensors and assets in a coding mode that this version does not support. They may be valid.
    pub unreadable: Vec<String>,
}

impl Verdict {
    /// Returns whether everything is present and valid.
    pub fn is_good(&self) -> bool {
        self.absent.is_empty() && self.damaged.is_empty() && self.broken.is_empty() && self.unreadable.is_empty()
    }
}

/// Checks the hash of every unit, then decodes every tensor and asset whose base is present, and that of its reference;
/// each tile with its present layers. A delta needs its base for the latter.
///
/// Memory is that of one or two tiles per thread.
///
/// # Errors
/// If the file cannot be read, or one tile takes more than the memory limit; [`FileError::NoBase`] if all units of a delta are
/// good, but its base is not attached.
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
    if let Err(error) = file.needs_no_base() {
        // What can be said without the base is said first.
        if verdict.is_good() {
            return Err(error);
        }
        verdict.unreadable.push(error.to_string());
        return Ok(verdict);
    }
    let good = |unit: u32| health.get(unit as usize) == Some(&UnitHealth::Good);
    let own = |object: u32| match reader.units_of(object) {
        None => false,
        Some(units) => units.header.iter().chain(units.tiles).all(|&u| good(u)),
    };
    let whole = |object: u32| own(object) && reader.reference_of(object).is_none_or(own);
    for (n, object) in reader.objects().iter().enumerate() {
        if object.tied().is_some() || !whole(n as u32) {
            continue;
        }
        // The units of what is identical to an object of the base are those of another file.
        let checked = file.object(n as u32).and_then(|tensor| match object.is_identical() {
            true => tensor.check(&|unit| tensor.has_unit(unit)),
            false => tensor.check(&good),
        });
        match checked {
            Ok(()) => {}
            Err(
                error @ (FileError::MemoryLimit { .. }
                | FileError::NoMemory { .. }
                | FileError::Container(ContainerError::Io { .. })),
            ) => return Err(error),
            Err(error @ FileError::UnknownMode { .. }) => verdict.unreadable.push(error.to_string()),
            Err(error) => verdict.broken.push(error.to_string()),
        }
    }
    // Tensor headers of layers are checked with their tiles; these are the ones that no tile needs.
    let headers =
        (0u32..).zip(reader.units()).filter(|(unit, entry)| entry.is_header() && entry.layer > 0 && good(*unit));
    let needed: HashSet<u32> = (0..reader.objects().len() as u32)
        .flat_map(|n| (1..=reader.layers_of(n)).filter_map(move |layer| Some(reader.layer_of(n, layer)?.header)))
        .collect();
    for (unit, entry) in headers.filter(|(unit, _)| !needed.contains(unit)) {
        if let Err(error) = check_header(file, unit, entry) {
            verdict.broken.push(error.to_string());
        }
    }
    Ok(verdict)
}

/// Checks a tensor header in a layer above 0 against SPEC 6 and 21.6.
fn check_header<S: Source>(file: &File<S>, unit: u32, entry: &UnitEntry) -> Result<(), FileError> {
    let reader = file.reader();
    let object = reader.objects().get(entry.object as usize);
    let is_delta = object.is_some_and(Object::is_delta);
    // Nothing is known about the tensor headers of an object of unknown class.
    let (Some(dtype), Some(matrix)) = (object.and_then(Object::dtype), reader.matrix(entry.object)) else {
        return Ok(());
    };
    let header = TensorHeader::read(&reader.read_unit(unit)?, dtype, matrix.rows(), matrix.cols());
    let broken = |error| file.broken(unit, error);
    let header = header.map_err(broken)?;
    match header.kind() {
        _ if matches!(header.body, Body::ExactOver(_)) => Err(broken(CodecError::ExactOver)),
        _ if is_delta && matches!(header.body, Body::Blocks(_)) => Err(broken(CodecError::DeltaHeader)),
        Kind::Refinement | Kind::TrellisRefinement | Kind::Exact => Ok(()),
        kind => Err(broken(CodecError::HeaderLayer { layer: entry.layer.into(), kind: kind.mode() })),
    }
}
