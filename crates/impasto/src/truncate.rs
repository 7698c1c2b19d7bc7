//! A smaller file of the units that a cut keeps: they are copied, nothing is coded again.

use std::path::Path;

use impasto_container::{LayerMark, ObjectKind, Source, Summary, UnitSlot, Writer};

use crate::cut::Cut;
use crate::error::FileError;
use crate::file::File;

/// Writes the units that a cut keeps, of those that `file` has and earlier cuts kept, into a file of their own at `path`: written beside it,
/// then renamed, so `path` may be the file itself. Layers whose units are all kept stay layers of the new file.
///
/// # Errors
/// As [`File::cut`]; if a unit is damaged, or absent and of the base; if an object is of a class that this version does not know, and so
/// cannot be copied; if the new file cannot be written. Then what was at `path` stays.
pub fn truncate<S: Source>(file: &File<S>, cut: &Cut, path: &Path) -> Result<Summary, FileError> {
    let keep = file.kept(cut)?;
    copy(file, &keep, file.marks_of(&keep), path)
}

/// Writes all units of a file again, to `path`, with a KL divergence for each of its layers, in nats a position.
///
/// # Errors
/// As [`truncate`]; if there are more or fewer layers than divergences.
pub fn record_klds<S: Source>(file: &File<S>, klds: &[f32], path: &Path) -> Result<Summary, FileError> {
    let marks = file.reader().marks();
    if marks.len() != klds.len() {
        let (file, layer) = (file.reader().name().to_owned(), klds.len());
        return Err(FileError::NoLayer { file, layer, layers: marks.len() });
    }
    let marks = marks.iter().zip(klds).map(|(mark, &kld)| LayerMark { kld: Some(kld), ..*mark }).collect();
    copy(file, &vec![true; file.reader().units().len()], marks, path)
}

fn copy<S: Source>(file: &File<S>, keep: &[bool], marks: Vec<LayerMark>, path: &Path) -> Result<Summary, FileError> {
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
    let mut writer = Writer::create(path, reader.objects().to_vec(), slots, marks)?;
    for (number, unit) in kept() {
        writer.push(unit.mode, &reader.read_unit(number)?)?;
    }
    Ok(writer.finish()?)
}
