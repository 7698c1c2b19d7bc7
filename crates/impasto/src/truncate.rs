//! Truncation: writes a smaller file with the units that a cut keeps. Units are copied, not coded again.

use std::collections::BTreeMap;
use std::path::Path;

use impasto_container::{LayerMark, ObjectKind, Source, Summary, UnitSlot, Writer};
use impasto_core::Mode;

use crate::cut::Cut;
use crate::error::FileError;
use crate::file::File;

/// Writes the present units that a cut (and earlier cuts) of `file` keeps to a new file at `path`.
///
/// The new file is written to a temporary file that is then renamed, so `path` may be the file itself. Layers of which
/// every unit is kept remain layers of the new file.
///
/// # Errors
/// As for [`File::cut`]; if a unit is damaged; if a unit of the base is absent; if an object has an unknown class, and
/// so cannot be copied; or if the new file cannot be written. What was at `path` then stays.
pub fn truncate<S: Source>(file: &File<S>, cut: &Cut, path: &Path) -> Result<Summary, FileError> {
    let keep = file.kept(cut)?;
    copy(file, &keep, file.marks_of(&keep), &BTreeMap::new(), path)
}

/// Writes all units of a file to `path`, with a KL divergence for each of its layers, in nats per token.
///
/// # Errors
/// As for [`truncate`], and if the number of layers differs from that of `klds`.
pub fn record_klds<S: Source>(file: &File<S>, klds: &[f32], path: &Path) -> Result<Summary, FileError> {
    let marks = file.reader().marks();
    if marks.len() != klds.len() {
        let (file, layer) = (file.reader().name().to_owned(), klds.len());
        return Err(FileError::NoLayer { file, layer, layers: marks.len() });
    }
    let marks = marks.iter().zip(klds).map(|(mark, &kld)| LayerMark { kld: Some(kld), ..*mark }).collect();
    copy(file, &vec![true; file.reader().units().len()], marks, &BTreeMap::new(), path)
}

/// Writes some units of a file to `path`: the modes and bytes in `changed`, by number, or else those of the file.
pub(crate) fn copy<S: Source>(
    file: &File<S>,
    keep: &[bool],
    marks: Vec<LayerMark>,
    changed: &BTreeMap<u32, (Mode, Vec<u8>)>,
    path: &Path,
) -> Result<Summary, FileError> {
    let reader = file.reader();
    if let Some(object) = reader.objects().iter().find(|object| matches!(object.kind, ObjectKind::Unknown(_))) {
        let (file, name) = (reader.name().to_owned(), object.name.clone());
        return Err(FileError::UnknownClass { file, name, class: object.class() });
    }
    let kept = || (0u32..).zip(reader.units()).zip(keep).filter(|(_, keep)| **keep).map(|(unit, _)| unit);
    let slot = |(_, unit): (u32, &impasto_container::UnitEntry)| UnitSlot {
        object: unit.object,
        tile: unit.tile,
        layer: unit.layer,
        is_header: unit.is_header(),
    };
    let slots = kept().map(slot).collect();
    let mut writer = Writer::create_over(path, reader.base().cloned(), reader.objects().to_vec(), slots, marks)?;
    let copied = kept().try_for_each(|(number, unit)| match changed.get(&number) {
        Some((mode, bytes)) => Ok(writer.push(*mode, bytes)?),
        None => Ok(writer.push(unit.mode, &reader.read_unit(number)?)?),
    });
    file.settled(copied)?;
    Ok(writer.finish()?)
}
