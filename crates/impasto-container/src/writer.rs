//! Writing a file: units as they come, then the manifest before them, and the whole at once under its name.

use std::io::{self, BufWriter, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use impasto_core::Mode;
use impasto_core::files::AtomicFile;

use crate::error::{ContainerError, FormatError};
use crate::header::{Header, MAX_MANIFEST, MINOR};
use crate::layers::{LayerMark, check_marks};
use crate::layout::{Layout, Places, align};
use crate::manifest::{Manifest, manifest_length};
use crate::object::Object;
use crate::reader::describe;
use crate::unit::{MAX_UNIT, UnitEntry, unit_hash};

/// A unit that is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnitSlot {
    /// The number of the object it will belong to.
    pub object: u32,
    /// The tile it will hold; 0 for a head.
    pub tile: u32,
    /// Its quality layer.
    pub layer: u8,
    /// Whether it will be a head.
    pub is_header: bool,
}

/// What was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Bytes of the file.
    pub file_length: u64,
    /// Bytes of the manifest.
    pub manifest_length: u64,
    /// Number of units.
    pub units: usize,
    /// Bytes of all units, without what aligns them.
    pub unit_bytes: u64,
    /// The hash of the manifest.
    pub root: [u8; 32],
}

/// A file being written. It is a temporary file in the folder of the destination until [`Writer::finish`] gives it its
/// name; dropped before, it is removed.
#[derive(Debug)]
pub struct Writer {
    file: BufWriter<AtomicFile>,
    destination: PathBuf,
    /// The manifest; entries of units yet to come are placeholders.
    manifest: Manifest,
    manifest_length: u64,
    pushed: usize,
    /// The end of the last unit.
    end: u64,
    unit_bytes: u64,
}

impl Writer {
    /// Begins a file of `objects`, ascending by [`Object::key`], whose units will be those of `slots`, in that order;
    /// `layers` are the layers that it says it has, none if it is empty.
    ///
    /// # Errors
    /// Objects, slots and layers that SPEC 3 and 4 refuse, and what the operating system refuses.
    pub fn create(
        path: &Path,
        objects: Vec<Object>,
        slots: Vec<UnitSlot>,
        layers: Vec<LayerMark>,
    ) -> Result<Writer, ContainerError> {
        let name = || path.display().to_string();
        let rule = |rule| ContainerError::Format { file: name(), rule };
        let io = |error| ContainerError::Io { file: name(), error };
        let length = manifest_length(&objects, slots.len(), &layers);
        if length > MAX_MANIFEST {
            return Err(rule(FormatError::ManifestLength { length }));
        }
        check_marks(&layers, slots.len()).map_err(rule)?;
        let manifest = Manifest { objects, units: slots.iter().map(placeholder).collect(), layers };
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
    /// A unit more than there are slots, a tensor header where a tile should be or the other way round, a unit that is too
    /// long, and what the operating system refuses. After an error of the system the file cannot be finished.
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

    /// How many units have been pushed; the next is for the slot of this number.
    pub fn pushed(&self) -> usize {
        self.pushed
    }

    /// Writes the manifest and the header, makes the file durable, and gives it its name; a file of that name is
    /// replaced.
    ///
    /// # Errors
    /// Units that are missing, a tile that needs a tensor header and has none before it, and what the operating system refuses;
    /// then no file is left, and one that was there before stays.
    pub fn finish(self) -> Result<Summary, ContainerError> {
        if self.pushed != self.manifest.units.len() {
            return Err(self.wrong_count(self.pushed));
        }
        let name = self.destination.display().to_string();
        Layout::new(&self.manifest, self.manifest_length)
            .map_err(|rule| ContainerError::Format { file: name.clone(), rule })?;
        self.commit().map_err(|error| ContainerError::Io { file: name, error })
    }

    fn commit(mut self) -> io::Result<Summary> {
        let manifest = self.manifest.to_bytes();
        let header = Header {
            minor: MINOR,
            manifest_length: self.manifest_length,
            file_length: self.end,
            root: *blake3::hash(&manifest).as_bytes(),
        };
        // Not so if a push failed half-way, or if the manifest is not of the announced length.
        if self.file.stream_position()? != self.end || manifest.len() as u64 != self.manifest_length {
            return Err(io::Error::other("the units written are not those of the manifest"));
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
        })
    }

    fn wrong_count(&self, pushed: usize) -> ContainerError {
        let file = self.destination.display().to_string();
        ContainerError::UnitCount { file, slots: self.manifest.units.len(), pushed }
    }
}

/// The exact bytes of a file of `objects` and `layers` whose units have `lengths` bytes. Nothing is written, and the
/// objects are not checked. What does not change while lengths are tried is [`manifest_length`]; see [`file_length`].
///
/// # Errors
/// A unit that is too long (SPEC 3.6).
pub fn measure(objects: &[Object], lengths: &[u32], layers: &[LayerMark]) -> Result<u64, FormatError> {
    file_length(manifest_length(objects, lengths.len(), layers), lengths.iter().copied())
}

/// The exact bytes of a file with a manifest of `manifest_length` bytes and units of `lengths` bytes.
///
/// # Errors
/// A unit that is too long (SPEC 3.6).
pub fn file_length(manifest_length: u64, lengths: impl IntoIterator<Item = u32>) -> Result<u64, FormatError> {
    Places::new(manifest_length, lengths).map(|places| places.end())
}

/// The entry of a unit that is to come. A tile is taken for one that asks for no tensor header yet: stored in layer 0, and above
/// it in a mode that does not exist, which no rule binds to the layers below.
fn placeholder(slot: &UnitSlot) -> UnitEntry {
    let mode = match (slot.is_header, slot.layer) {
        (true, _) => Mode::TENSOR_HEADER,
        (_, 0) => Mode::STORED,
        _ => Mode(u8::MAX),
    };
    UnitEntry { object: slot.object, tile: slot.tile, mode, layer: slot.layer, length: 0, hash: [0; 16] }
}
