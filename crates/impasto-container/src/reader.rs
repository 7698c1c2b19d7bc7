//! Reading a file: what it holds, and the units of it that are wanted.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::error::{ContainerError, FormatError, shown};
use crate::geometry::Matrix;
use crate::header::Header;
use crate::layers::LayerMark;
use crate::layout::{Layout, ObjectUnits};
use crate::limits::{Limits, within};
use crate::manifest::Manifest;
use crate::object::Object;
use crate::set::UnitSet;
use crate::source::{MmapSource, Source};
use crate::unit::{UnitEntry, unit_hash};

/// An open file. Several threads may read units of it at once.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    name: String,
    /// Bytes that are there; a cut file has fewer than its header says.
    length: u64,
    /// The units whose bytes are there.
    present: UnitSet,
    /// The units whose bytes were read, hashed and found right, of a source that lends its bytes.
    verified: UnitSet,
    header: Header,
    manifest: Manifest,
    pub(crate) layout: Layout,
    /// For each unit whether it is wanted, if it is above layer 0; those behind the end are.
    keep: Vec<bool>,
}

/// Whether the bytes of a unit are there (SPEC 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// All of them are.
    Present,
    /// The source does not have all of them ([`Source::has`]), as when the file is cut before the unit's end; or [`Reader::keep`]
    /// leaves the unit out.
    Absent,
}

/// What a unit is found to be (SPEC 11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitHealth {
    /// Present, with the hash that the manifest gives.
    Good,
    /// As [`UnitState::Absent`].
    Absent,
    /// Present, with another hash.
    Damaged,
}

impl Reader<MmapSource> {
    /// Maps and opens the file at `path`.
    ///
    /// # Errors
    /// As [`Reader::open`].
    pub fn open_file(path: &Path, limits: &Limits) -> Result<Reader<MmapSource>, ContainerError> {
        let name = path.display().to_string();
        match MmapSource::open(path) {
            Ok(source) => Reader::open(source, name, limits),
            Err(error) => Err(ContainerError::Io { file: name, error }),
        }
    }
}

impl<S: Source> Reader<S> {
    /// Opens a file whose bytes are `source`: reads the header and the manifest, nothing else, and checks them. A file
    /// cut after its manifest opens. `name` is what messages call the file.
    ///
    /// # Errors
    /// Whatever SPEC 2 to 4 refuse, what is over `limits`, and what the source refuses.
    pub fn open(source: S, name: impl Into<String>, limits: &Limits) -> Result<Reader<S>, ContainerError> {
        let name = name.into();
        match read_manifest(&source, limits) {
            Ok((header, manifest, layout)) => {
                let (length, count) = (source.len(), manifest.units.len());
                let has = |unit| layout.places().unit(unit).is_some_and(|range| source.has(&range));
                let (present, verified) = (UnitSet::of(count, has), UnitSet::new(count));
                Ok(Reader { source, name, length, present, verified, header, manifest, layout, keep: vec![] })
            }
            Err(OpenError::Io(error)) => Err(ContainerError::Io { file: name, error }),
            Err(OpenError::Format(rule)) => Err(ContainerError::Format { file: name, rule }),
        }
    }

    /// What messages call the file.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The hash of the manifest, which names the file (SPEC 2.3).
    pub fn root(&self) -> &[u8; 32] {
        &self.header.root
    }

    /// Whether bytes are missing at the end.
    pub fn is_cut(&self) -> bool {
        self.length < self.header.file_length
    }

    /// All objects; the number of an object is its place here.
    pub fn objects(&self) -> &[Object] {
        &self.manifest.objects
    }

    /// All units, in the order of the file.
    pub fn units(&self) -> &[UnitEntry] {
        &self.manifest.units
    }

    /// The layers that the file says it has, coarsest first (SPEC 3.7). [`Reader::keep`] does not change them.
    pub fn marks(&self) -> &[LayerMark] {
        &self.manifest.layers
    }

    /// Leaves out the units above layer 0 for which `keep`, a choice for each unit, is false: they count as absent from
    /// now on. An earlier choice is forgotten. Units of layer 0 stay, and those behind the end of `keep`.
    pub fn keep(&mut self, keep: Vec<bool>) {
        self.keep = keep;
    }

    /// Asks the source again which units are there: those that it has got meanwhile can be read from now on.
    pub fn refresh(&mut self) {
        let has = |unit| self.unit_range(unit).is_some_and(|range| self.source.has(&range));
        (self.present, self.length) = (UnitSet::of(self.units().len(), has), self.source.len());
    }

    /// The number of the tensor called `name`.
    pub fn find_tensor(&self, name: &str) -> Option<u32> {
        self.find((1, name))
    }

    /// The number of the asset called `name`.
    pub fn find_asset(&self, name: &str) -> Option<u32> {
        self.find((0, name))
    }

    fn find(&self, key: (u8, &str)) -> Option<u32> {
        let found = self.objects().binary_search_by(|object| object.key().cmp(&key));
        found.ok().and_then(|number| u32::try_from(number).ok())
    }

    /// The number of the object whose units hold object number `object`: where it is tied to, or itself.
    pub fn resolve(&self, object: u32) -> u32 {
        let tied = self.objects().get(object as usize).and_then(Object::tied);
        tied.unwrap_or(object)
    }

    /// The matrix whose tiles hold object number `object`, that of the tied-to tensor if it is tied; `None` if there is
    /// no such object or its class is unknown.
    pub fn matrix(&self, object: u32) -> Option<&Matrix> {
        self.layout.matrix(self.resolve(object))
    }

    /// The units in layer 0 that hold object number `object`, those of the tied-to tensor if it is tied; `None` if
    /// there is no such object or its class is unknown.
    pub fn units_of(&self, object: u32) -> Option<ObjectUnits<'_>> {
        self.layout.own_units(self.resolve(object))
    }

    /// The bytes of the file that unit number `unit` takes; `None` if there is no such unit.
    pub fn unit_range(&self, unit: u32) -> Option<Range<u64>> {
        self.layout.places().unit(unit)
    }

    /// Which unit a message means, as in `unit 7 (tile 2 of "model.norm.weight")`.
    pub fn unit_place(&self, unit: u32) -> String {
        let Some(entry) = self.units().get(unit as usize) else { return format!("unit {unit}") };
        describe(unit as usize, entry, self.objects().get(entry.object as usize))
    }

    /// Whether the bytes of unit number `unit` are there. They are not read.
    ///
    /// # Errors
    /// [`ContainerError::NoSuchUnit`].
    pub fn unit_state(&self, unit: u32) -> Result<UnitState, ContainerError> {
        self.range(unit)?;
        Ok(if self.is_present(unit) { UnitState::Present } else { UnitState::Absent })
    }

    pub(crate) fn is_present(&self, unit: u32) -> bool {
        let wanted = || self.keep.get(unit as usize).is_none_or(|&keep| keep);
        let Some(entry) = self.units().get(unit as usize) else { return false };
        self.present.contains(unit) && (entry.layer == 0 || wanted())
    }

    /// The bytes of unit number `unit`, with the hash that the manifest gives. A source that lends its bytes is trusted to lend the
    /// same again: their hash is computed at the first read only.
    ///
    /// # Errors
    /// A unit that is absent, damaged, or not in the manifest, and what the source refuses.
    pub fn read_unit(&self, unit: u32) -> Result<Cow<'_, [u8]>, ContainerError> {
        let range = self.present_range(unit)?;
        let bytes = read_exact(&self.source, range.start, range.end - range.start).map_err(|error| self.io(error))?;
        self.check(unit, &bytes)?;
        Ok(bytes)
    }

    /// Reads many units in one call of the source. Their hashes are checked when they are taken out of the result, so that threads
    /// share that work.
    ///
    /// # Errors
    /// As [`Reader::read_unit`], but for damage.
    pub fn fetch(&self, units: &[u32]) -> Result<Fetched<'_, S>, ContainerError> {
        let mut units = units.to_vec();
        units.sort_unstable();
        units.dedup();
        let ranges = units.iter().map(|&unit| self.present_range(unit)).collect::<Result<Vec<_>, _>>()?;
        let bytes = self.source.read_ranges(&ranges).map_err(|error| self.io(error))?;
        let lengths = ranges.iter().map(|range| range.end - range.start);
        if !lengths.eq(bytes.iter().map(|bytes| bytes.len() as u64)) {
            return Err(self.io(io::ErrorKind::UnexpectedEof.into()));
        }
        Ok(Fetched { reader: self, units, bytes })
    }

    /// Says that unit number `unit` will not be read again soon, and may leave memory ([`Source::release`]).
    pub fn release_unit(&self, unit: u32) {
        if let Some(range) = self.unit_range(unit) {
            self.source.release(range);
        }
    }

    /// Reads unit number `unit`, hashes it, whether or not that was done before, and says what it is. A whole file is verified unit by
    /// unit, in any order and by any number of threads.
    ///
    /// # Errors
    /// A unit that is not in the manifest, and what the source refuses.
    pub fn verify_unit(&self, unit: u32) -> Result<UnitHealth, ContainerError> {
        let range = self.range(unit)?;
        if !self.is_present(unit) {
            return Ok(UnitHealth::Absent);
        }
        self.verified.remove(unit);
        let bytes = read_exact(&self.source, range.start, range.end - range.start).map_err(|error| self.io(error))?;
        Ok(if self.is_good(unit, &bytes) { UnitHealth::Good } else { UnitHealth::Damaged })
    }

    fn range(&self, unit: u32) -> Result<Range<u64>, ContainerError> {
        let no_such_unit = || ContainerError::NoSuchUnit { file: self.name.clone(), unit, count: self.units().len() };
        self.unit_range(unit).ok_or_else(no_such_unit)
    }

    /// The place of a unit, if it is there.
    fn present_range(&self, unit: u32) -> Result<Range<u64>, ContainerError> {
        let range = self.range(unit)?;
        if !self.is_present(unit) {
            return Err(ContainerError::Absent { file: self.name.clone(), unit, place: self.unit_place(unit) });
        }
        Ok(range)
    }

    /// Do these bytes of a unit have its hash? Remembers it of bytes that the source lends: copies are new each time.
    #[expect(clippy::ptr_arg, reason = "whether the bytes are lent or a copy matters")]
    fn check(&self, unit: u32, bytes: &Cow<'_, [u8]>) -> Result<(), ContainerError> {
        if matches!(bytes, Cow::Borrowed(_)) && self.verified.contains(unit) {
            return Ok(());
        }
        if !self.is_good(unit, bytes) {
            return Err(ContainerError::Damaged { file: self.name.clone(), unit, place: self.unit_place(unit) });
        }
        Ok(())
    }

    #[expect(clippy::ptr_arg, reason = "whether the bytes are lent or a copy matters")]
    fn is_good(&self, unit: u32, bytes: &Cow<'_, [u8]>) -> bool {
        let declared = self.units().get(unit as usize).map(|entry| entry.hash);
        let good = declared == Some(unit_hash(bytes));
        if good && matches!(bytes, Cow::Borrowed(_)) {
            self.verified.insert(unit);
        }
        good
    }

    fn io(&self, error: io::Error) -> ContainerError {
        ContainerError::Io { file: self.name.clone(), error }
    }
}

/// The bytes of some units, read at once.
#[derive(Debug)]
pub struct Fetched<'a, S> {
    reader: &'a Reader<S>,
    /// Ascending.
    units: Vec<u32>,
    bytes: Vec<Cow<'a, [u8]>>,
}

impl<S: Source> Fetched<'_, S> {
    /// The bytes of unit number `unit`, with the hash that the manifest gives.
    ///
    /// # Errors
    /// A unit that is damaged, or was not asked for.
    pub fn unit(&self, unit: u32) -> Result<&[u8], ContainerError> {
        let found = self.units.binary_search(&unit).ok().and_then(|at| self.bytes.get(at));
        let (file, count) = (|| self.reader.name.clone(), self.units.len());
        let bytes = found.ok_or_else(|| ContainerError::NoSuchUnit { file: file(), unit, count })?;
        self.reader.check(unit, bytes)?;
        Ok(bytes)
    }
}

/// Which unit a message means: its number, its entry, its object.
pub(crate) fn describe(unit: usize, entry: &UnitEntry, object: Option<&Object>) -> String {
    let part = if entry.is_header() { "tensor header".to_owned() } else { format!("tile {}", entry.tile) };
    let layer = if entry.layer == 0 { String::new() } else { format!(", layer {}", entry.layer) };
    let name = object.map_or(String::new(), |object| shown(&object.name));
    format!("unit {unit} ({part}{layer} of {name})")
}

/// Why a file does not open, before it has its name.
enum OpenError {
    Io(io::Error),
    Format(FormatError),
}

impl From<io::Error> for OpenError {
    fn from(error: io::Error) -> OpenError {
        OpenError::Io(error)
    }
}

impl From<FormatError> for OpenError {
    fn from(rule: FormatError) -> OpenError {
        OpenError::Format(rule)
    }
}

fn read_manifest<S: Source>(source: &S, limits: &Limits) -> Result<(Header, Manifest, Layout), OpenError> {
    let end = source.len();
    let header = Header::read(&read_exact(source, 0, end.min(Header::SIZE as u64))?)?;
    let length = header.manifest_length;
    if header.manifest_end() > end {
        return Err(FormatError::ManifestPastEnd { length, end }.into());
    }
    within("bytes of manifest", length, limits.max_manifest)?;
    let bytes = read_exact(source, Header::SIZE as u64, length)?;
    if blake3::hash(&bytes) != header.root {
        return Err(FormatError::Root.into());
    }
    let manifest = Manifest::parse(&bytes, limits)?;
    drop(bytes);
    let layout = Layout::new(&manifest, length)?;
    let end = layout.places().end();
    if header.file_length != end {
        return Err(FormatError::FileLength { declared: header.file_length, end }.into());
    }
    Ok((header, manifest, layout))
}

/// Reads bytes whose number was checked against the source, and holds the source to it.
fn read_exact<S: Source>(source: &S, offset: u64, length: u64) -> io::Result<Cow<'_, [u8]>> {
    let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let length = usize::try_from(length).map_err(|_| eof())?;
    let bytes = source.read_at(offset, length)?;
    if bytes.len() == length { Ok(bytes) } else { Err(eof()) }
}

/// Opens bytes as a file of the default limits: the entry for fuzzing.
///
/// # Errors
/// As [`Reader::open`].
pub fn fuzz_open(bytes: &[u8]) -> Result<Reader<&[u8]>, ContainerError> {
    Reader::open(bytes, "fuzz", &Limits::default())
}

/// Reads bytes as a manifest, past the root hash that keeps a fuzzer out of [`fuzz_open`].
///
/// # Errors
/// Whatever SPEC 3 and 4 refuse.
pub fn fuzz_manifest(bytes: &[u8]) -> Result<(Manifest, Layout), FormatError> {
    let manifest = Manifest::parse(bytes, &Limits::default())?;
    let layout = Layout::new(&manifest, bytes.len() as u64)?;
    Ok((manifest, layout))
}
