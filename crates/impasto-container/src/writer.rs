//! Writing a file: first the units, then the manifest in front of them, then an atomic rename.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use impasto_core::Mode;
use impasto_core::files::AtomicFile;

use crate::base::{Base, check_links};
use crate::error::{ContainerError, FormatError};
use crate::expansion::Expansion;
use crate::header::{Header, MAX_MANIFEST, MINOR};
use crate::layers::{LayerMark, check_marks};
use crate::layout::{Layout, Places, align};
use crate::manifest::{Manifest, manifest_length};
use crate::object::Object;
use crate::reader::describe;
use crate::unit::{MAX_UNIT, UnitEntry, unit_hash};

/// The place of a unit that is still to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitSlot {
    /// Number of the object that the unit belongs to.
    pub object: u32,
    /// Number of the tile; 0 for a tensor header.
    pub tile: u32,
    /// Its quality layer.
    pub layer: u8,
    /// Whether the unit is a tensor header.
    pub is_header: bool,
}

/// Size and hash of a file that was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Length of the file in bytes.
    pub file_length: u64,
    /// Length of the manifest in bytes.
    pub manifest_length: u64,
    /// Number of units.
    pub units: usize,
    /// Total length of the units in bytes, without padding.
    pub unit_bytes: u64,
    /// The hash of the manifest.
    pub root: [u8; 32],
    /// What the file expands to; readers may refuse one that is not within the bound.
    pub expansion: Expansion,
}

/// A file that is being written. It is a temporary file in the folder of the destination, which [`Writer::finish`]
/// renames; dropping it earlier removes the file.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<AtomicFile>,
    destination: PathBuf,
    /// The manifest; the entries of units that are not written yet are placeholders.
    manifest: Manifest,
    manifest_length: u64,
    pushed: usize,
    /// The end of the last unit.
    end: u64,
    unit_bytes: u64,
}

impl Writer {
    /// Creates a file of `objects`, in ascending order of [`Object::key`]. Its units will be those of `slots`, in that
    /// order. `layers` goes into the layers record; if it is empty, there is no such record. Missing folders are made.
    ///
    /// # Errors
    /// If objects, slots or layers violate SPEC 3 or 4, or the operating system reports an error.
    pub fn create(
        path: &Path,
        objects: Vec<Object>,
        slots: Vec<UnitSlot>,
        layers: Vec<LayerMark>,
    ) -> Result<Writer, ContainerError> {
        Writer::create_over(path, None, objects, slots, layers)
    }

    /// Creates a file like [`Writer::create`]; a delta, if there is a base.
    ///
    /// # Errors
    /// As for [`Writer::create`], or if the base violates SPEC 21.1.
    pub fn create_over(
        path: &Path,
        base: Option<Base>,
        objects: Vec<Object>,
        slots: Vec<UnitSlot>,
        layers: Vec<LayerMark>,
    ) -> Result<Writer, ContainerError> {
        let name = || path.display().to_string();
        let rule = |rule| ContainerError::Format { file: name(), rule };
        let io = |error| ContainerError::Io { file: name(), error };
        let length = manifest_length(&objects, slots.len(), &layers, base.as_ref());
        if length > MAX_MANIFEST {
            return Err(rule(FormatError::ManifestLength { length }));
        }
        check_marks(&layers, slots.len()).map_err(rule)?;
        check_links(&objects, base.as_ref()).map_err(rule)?;
        let manifest = Manifest { objects, units: slots.iter().map(placeholder).collect(), layers, base };
        Layout::new(&manifest, length).map_err(rule)?;

        let end = Header::SIZE as u64 + length;
        let mut file = BufWriter::with_capacity(1 << 20, AtomicFile::create(path).map_err(io)?);
        file.seek(SeekFrom::Start(end)).map_err(io)?;
        Ok(Writer {
            file,
            destination: path.to_owned(),
            manifest,
            manifest_length: length,
            pushed: 0,
            end,
            unit_bytes: 0,
        })
    }

    /// Writes the unit of the next slot.
    ///
    /// # Errors
    /// If all slots are used, `mode` is that of a tensor header while the slot is not (or the reverse), the unit is too
    /// long, or the operating system reports an error. After an error of the operating system the file cannot be
    /// finished.
    pub fn push(&mut self, mode: Mode, bytes: &[u8]) -> Result<(), ContainerError> {
        let unit = self.pushed;
        let Some(entry) = self.manifest.units.get_mut(unit) else {
            return Err(self.wrong_count(unit + 1));
        };
        let file = || self.destination.display().to_string();
        if entry.is_header() != (mode == Mode::TENSOR_HEADER) {
            let object = self.manifest.objects.get(entry.object as usize);
            let place = describe(unit, entry, object);
            return Err(ContainerError::WrongMode { file: file(), place, mode });
        }
        let Some(length) = u32::try_from(bytes.len()).ok().filter(|&length| length <= MAX_UNIT) else {
            return Err(ContainerError::LongUnit { file: file(), unit, length: bytes.len() });
        };
        let start = align(self.end);
        let padding = [0u8; 16];
        let written =
            self.file.write_all(&padding[..(start - self.end) as usize]).and_then(|()| self.file.write_all(bytes));
        written.map_err(|error| ContainerError::Io { file: file(), error })?;
        (entry.mode, entry.length, entry.hash) = (mode, length, unit_hash(bytes));
        self.pushed += 1;
        self.end = start + u64::from(length);
        self.unit_bytes += u64::from(length);
        Ok(())
    }

    /// Returns the number of units written so far, which is also the number of the next slot.
    pub fn pushed(&self) -> usize {
        self.pushed
    }

    /// Returns the length of the file up to the end of the last unit, which is that of the whole file once all are written.
    pub fn length(&self) -> u64 {
        self.end
    }

    /// Writes the manifest and the header, syncs the file, and renames it to its destination, replacing an existing
    /// file.
    ///
    /// # Errors
    /// If units are missing, a tile has no tensor header or lower layer that it needs, or the operating system reports
    /// an error. On error the temporary file is removed, and an existing destination is unchanged.
    pub fn finish(self) -> Result<Summary, ContainerError> {
        if self.pushed != self.manifest.units.len() {
            return Err(self.wrong_count(self.pushed));
        }
        let name = self.destination.display().to_string();
        let layout = Layout::new(&self.manifest, self.manifest_length)
            .map_err(|rule| ContainerError::Format { file: name.clone(), rule })?;
        let manifest_end = Header::SIZE as u64 + self.manifest_length;
        let expansion = Expansion::new(&self.manifest, manifest_end, &layout, |_| true);
        self.commit(expansion).map_err(|error| ContainerError::Io { file: name, error })
    }

    fn commit(mut self, expansion: Expansion) -> io::Result<Summary> {
        let manifest = self.manifest.to_bytes();
        let header = Header {
            minor: MINOR,
            manifest_length: self.manifest_length,
            file_length: self.end,
            root: *blake3::hash(&manifest).as_bytes(),
        };
        // This fails if an earlier push failed midway, or the manifest does not have the length computed at the start.
        if self.file.stream_position()? != self.end || manifest.len() as u64 != self.manifest_length {
            return Err(io::Error::other("the units written differ from those in the manifest"));
        }
        self.file.seek(SeekFrom::Start(0))?;
        self.file.write_all(&header.to_bytes())?;
        self.file.write_all(&manifest)?;
        self.file.into_inner().map_err(|error| error.into_error())?.commit()?;
        Ok(Summary {
            file_length: header.file_length,
            manifest_length: header.manifest_length,
            units: self.pushed,
            unit_bytes: self.unit_bytes,
            root: header.root,
            expansion,
        })
    }

    fn wrong_count(&self, pushed: usize) -> ContainerError {
        let file = self.destination.display().to_string();
        ContainerError::UnitCount { file, slots: self.manifest.units.len(), pushed }
    }
}

/// Returns the exact length in bytes of a file of `objects`, `layers` and a base whose units have `lengths` bytes. Writes
/// nothing, and does not check the objects. To try many lengths, compute [`manifest_length`] once and call
/// [`file_length`].
///
/// # Errors
/// If a unit is too long (SPEC 3.6).
pub fn measure(
    objects: &[Object],
    lengths: &[u32],
    layers: &[LayerMark],
    base: Option<&Base>,
) -> Result<u64, FormatError> {
    file_length(manifest_length(objects, lengths.len(), layers, base), lengths.iter().copied())
}

/// Returns the exact length in bytes of a file with a manifest of `manifest_length` bytes and units of `lengths` bytes.
///
/// # Errors
/// If a unit is too long (SPEC 3.6).
pub fn file_length(manifest_length: u64, lengths: impl IntoIterator<Item = u32>) -> Result<u64, FormatError> {
    Places::new(manifest_length, lengths).map(|places| places.end())
}

/// Returns the entry of a unit that is not written yet. A tile gets a mode that needs no tensor header: stored in layer
/// 0; above it an undefined mode, which no rule about lower layers applies to.
fn placeholder(slot: &UnitSlot) -> UnitEntry {
    let mode = match (slot.is_header, slot.layer) {
        (true, _) => Mode::TENSOR_HEADER,
        (_, 0) => Mode::STORED,
        _ => Mode(u8::MAX),
    };
    UnitEntry { object: slot.object, tile: slot.tile, mode, layer: slot.layer, length: 0, hash: [0; 16] }
}
