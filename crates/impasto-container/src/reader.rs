//! Reading a file: its manifest, and its units on demand.

use std::borrow::Cow;
use std::io;
use std::ops::Range;
use std::path::Path;

use impasto_core::Mode;

use crate::base::Base;
use crate::error::{ContainerError, FormatError, shown};
use crate::expansion::Expansion;
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

/// An open file. Several threads may read its units at once.
#[derive(Debug)]
pub struct Reader<S> {
    source: S,
    name: String,
    /// Length of the source in bytes; less than the header's `file_length` if the file is cut.
    length: u64,
    /// The units whose bytes are available.
    present: UnitSet,
    /// The units that were read and had the right hash, if the source returns borrowed bytes.
    verified: UnitSet,
    header: Header,
    manifest: Manifest,
    pub(crate) layout: Layout,
    /// The choice of [`Reader::keep`], by unit.
    keep: Vec<bool>,
    allow_expansion: bool,
}

/// Whether the bytes of a unit are available (SPEC 2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitState {
    /// All bytes are available.
    Present,
    /// The source does not have all bytes ([`Source::has`]), for example because the file is cut before the unit's end,
    /// or [`Reader::keep`] excludes the unit.
    Absent,
}

/// The result of verifying a unit (SPEC 11.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnitHealth {
    /// Present, and its hash is that in the manifest.
    Good,
    /// Absent, as in [`UnitState::Absent`].
    Absent,
    /// Present, but its hash differs.
    Damaged,
}

impl Reader<MmapSource> {
    /// Maps and opens the file at `path`.
    ///
    /// # Errors
    /// As for [`Reader::open`], or if the file cannot be mapped.
    pub fn open_file(path: &Path, limits: &Limits) -> Result<Reader<MmapSource>, ContainerError> {
        let name = path.display().to_string();
        match MmapSource::open(path) {
            Ok(source) => Reader::open(source, name, limits),
            Err(error) => Err(ContainerError::Io { file: name, error }),
        }
    }
}

impl<S: Source> Reader<S> {
    /// Opens a file: reads and checks the header and the manifest, and nothing else. A file that is cut after its
    /// manifest opens too. `name` is the name of the file in messages.
    ///
    /// # Errors
    /// If the file violates SPEC 2 to 4, 12.1 or 12.2, exceeds `limits`, among them the bound of SPEC 11.3, or cannot be
    /// read.
    pub fn open(source: S, name: impl Into<String>, limits: &Limits) -> Result<Reader<S>, ContainerError> {
        let name = name.into();
        let read = read_manifest(&source, limits);
        if let Err(error) = source.check() {
            return Err(ContainerError::Io { file: name, error });
        }
        match read {
            Ok((header, manifest, layout)) => {
                let (length, count) = (source.len(), manifest.units.len());
                let has = |unit| layout.places().unit(unit).is_some_and(|range| source.has(&range));
                let (present, verified) = (UnitSet::of(count, has), UnitSet::new(count));
                let allow_expansion = limits.allow_expansion;
                let keep = vec![];
                let reader =
                    Reader { source, name, length, present, verified, header, manifest, layout, keep, allow_expansion };
                reader.check_expansion()?;
                Ok(reader)
            }
            Err(OpenError::Io(error)) => Err(ContainerError::Io { file: name, error }),
            Err(OpenError::Format(rule)) => Err(ContainerError::Format { file: name, rule }),
        }
    }

    /// Returns the name of the file in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the header.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Returns the hash of the manifest, which identifies the file (SPEC 2.3).
    pub fn root(&self) -> &[u8; 32] {
        &self.header.root
    }

    /// Returns whether bytes are missing at the end.
    pub fn is_cut(&self) -> bool {
        self.length < self.header.file_length
    }

    /// Returns the file that this one is a delta of, if it is one (SPEC 21).
    pub fn base(&self) -> Option<&Base> {
        self.manifest.base.as_ref()
    }

    /// Returns all objects; the index is the number of the object.
    pub fn objects(&self) -> &[Object] {
        &self.manifest.objects
    }

    /// Returns the entries of all units, in the order of the file.
    pub fn units(&self) -> &[UnitEntry] {
        &self.manifest.units
    }

    /// Returns the layers that the writer recorded, coarsest first (SPEC 3.7). [`Reader::keep`] does not affect them.
    pub fn marks(&self) -> &[LayerMark] {
        &self.manifest.layers
    }

    /// Excludes the units above layer 0 for which `keep`, indexed by unit, is false: they count as absent. Replaces an
    /// earlier choice. Units of layer 0 and units past the end of `keep` are not excluded.
    pub fn keep(&mut self, keep: Vec<bool>) {
        self.keep = keep;
    }

    /// Asks the source again which units are available, so that units that it has received since can be read.
    ///
    /// # Errors
    /// If they expand to too much, as in [`Reader::open`].
    pub fn refresh(&mut self) -> Result<(), ContainerError> {
        let has = |unit| self.unit_range(unit).is_some_and(|range| self.source.has(&range));
        (self.present, self.length) = (UnitSet::of(self.units().len(), has), self.source.len());
        self.check_expansion()
    }

    /// Returns what the present units expand to.
    pub fn expansion(&self) -> Expansion {
        Expansion::new(&self.manifest, self.header.manifest_end(), &self.layout, |unit| self.present.contains(unit))
    }

    /// Checks that what this file and its base expand to together is within the bound of SPEC 11.3. `present` is the number of
    /// bytes of the base that are present.
    ///
    /// # Errors
    /// If it is not.
    pub fn check_expansion_over(&self, present: u64) -> Result<(), ContainerError> {
        if self.allow_expansion {
            return Ok(());
        }
        let checked = self.expansion().over(present).check(self.objects());
        checked.map_err(|rule| ContainerError::Format { file: self.name.clone(), rule })
    }

    fn check_expansion(&self) -> Result<(), ContainerError> {
        if self.allow_expansion {
            return Ok(());
        }
        let checked = self.expansion().check(self.objects());
        checked.map_err(|rule| ContainerError::Format { file: self.name.clone(), rule })
    }

    /// Returns the number of the tensor called `name`.
    pub fn find_tensor(&self, name: &str) -> Option<u32> {
        self.find((1, name))
    }

    /// Returns the number of the asset called `name`.
    pub fn find_asset(&self, name: &str) -> Option<u32> {
        self.find((0, name))
    }

    fn find(&self, key: (u8, &str)) -> Option<u32> {
        let found = self.objects().binary_search_by(|object| object.key().cmp(&key));
        found.ok().and_then(|number| u32::try_from(number).ok())
    }

    /// Returns the number of the object that holds the units of object number `object`: the object that it is tied to,
    /// or itself.
    pub fn resolve(&self, object: u32) -> u32 {
        let tied = self.objects().get(object as usize).and_then(Object::tied);
        tied.unwrap_or(object)
    }

    /// Returns the matrix of object number `object`, or of the tensor that it is tied to. `None` if there is no such
    /// object or its class is unknown.
    pub fn matrix(&self, object: u32) -> Option<&Matrix> {
        self.layout.matrix(self.resolve(object))
    }

    /// Returns the units in layer 0 of object number `object`, or of the tensor that it is tied to. `None` if there is
    /// no such object or its class is unknown.
    pub fn units_of(&self, object: u32) -> Option<ObjectUnits<'_>> {
        self.layout.own_units(self.resolve(object))
    }

    /// Returns the number of the tensor that tiles of object number `object`, or of the tensor that it is tied to, may be
    /// predicted from (SPEC 3.4.6). That tensor has units of its own, and no reference itself.
    pub fn reference_of(&self, object: u32) -> Option<u32> {
        self.objects().get(self.resolve(object) as usize).and_then(Object::reference)
    }

    /// Returns the unit in layer 0 of a tile of that tensor, if tile number `tile` of object number `object` may be
    /// predicted from it.
    pub fn reference_unit(&self, object: u32, tile: u32) -> Option<u32> {
        let unit = |object: u32| self.units_of(object)?.tiles.get(tile as usize).copied();
        let mode = self.units().get(unit(object)? as usize)?.mode;
        if mode == Mode::TRANSFORM { unit(self.reference_of(object)?) } else { None }
    }

    /// Returns the byte range of unit number `unit` in the file; `None` if there is no such unit.
    pub fn unit_range(&self, unit: u32) -> Option<Range<u64>> {
        self.layout.places().unit(unit)
    }

    /// Describes a unit for messages, as in `unit 7 (tile 2 of "model.norm.weight")`.
    pub fn unit_place(&self, unit: u32) -> String {
        let Some(entry) = self.units().get(unit as usize) else { return format!("unit {unit}") };
        describe(unit as usize, entry, self.objects().get(entry.object as usize))
    }

    /// Returns whether the bytes of unit number `unit` are available, without reading them.
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

    /// Reads unit number `unit` and checks its hash.
    ///
    /// If the source returns borrowed bytes, the hash is only computed at the first read, on the assumption that it
    /// always returns the same bytes.
    ///
    /// # Errors
    /// If the unit is absent, damaged or not in the manifest, or cannot be read.
    pub fn read_unit(&self, unit: u32) -> Result<Cow<'_, [u8]>, ContainerError> {
        let range = self.present_range(unit)?;
        let bytes = read_exact(&self.source, range.start, range.end - range.start).map_err(|error| self.io(error))?;
        self.check(unit, &bytes)?;
        Ok(bytes)
    }

    /// Reads several units in one call to the source. Their hashes are checked in [`Fetched::unit`], so that threads
    /// can share that work.
    ///
    /// # Errors
    /// As for [`Reader::read_unit`], except for damage.
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

    /// Advises the source that unit number `unit` will not be read again soon ([`Source::release`]).
    pub fn release_unit(&self, unit: u32) {
        if let Some(range) = self.unit_range(unit) {
            self.source.release(range);
        }
    }

    /// Reads unit number `unit` and computes its hash, even if it was verified before. Units can be verified in any
    /// order and by several threads.
    ///
    /// # Errors
    /// If the unit is not in the manifest or cannot be read.
    pub fn verify_unit(&self, unit: u32) -> Result<UnitHealth, ContainerError> {
        let range = self.range(unit)?;
        if !self.is_present(unit) {
            return Ok(UnitHealth::Absent);
        }
        self.verified.remove(unit);
        let bytes = read_exact(&self.source, range.start, range.end - range.start).map_err(|error| self.io(error))?;
        let good = self.is_good(unit, &bytes);
        self.check_source()?;
        Ok(if good { UnitHealth::Good } else { UnitHealth::Damaged })
    }

    /// Returns an error if the source cannot stand by bytes that it returned ([`Source::check`]). Users of units call
    /// this when they are done with them, before they use results.
    ///
    /// # Errors
    /// [`ContainerError::Io`].
    pub fn check_source(&self) -> Result<(), ContainerError> {
        self.source.check().map_err(|error| self.io(error))
    }

    fn range(&self, unit: u32) -> Result<Range<u64>, ContainerError> {
        let no_such_unit = || ContainerError::NoSuchUnit { file: self.name.clone(), unit, count: self.units().len() };
        self.unit_range(unit).ok_or_else(no_such_unit)
    }

    /// Returns the byte range of a unit, if it is present.
    fn present_range(&self, unit: u32) -> Result<Range<u64>, ContainerError> {
        let range = self.range(unit)?;
        if !self.is_present(unit) {
            return Err(ContainerError::Absent { file: self.name.clone(), unit, place: self.unit_place(unit) });
        }
        Ok(range)
    }

    /// Checks the hash of a unit. Remembers the result only for borrowed bytes, because each copy can differ.
    #[expect(clippy::ptr_arg, reason = "it matters whether the bytes are borrowed")]
    fn check(&self, unit: u32, bytes: &Cow<'_, [u8]>) -> Result<(), ContainerError> {
        if matches!(bytes, Cow::Borrowed(_)) && self.verified.contains(unit) {
            return Ok(());
        }
        if !self.is_good(unit, bytes) {
            self.check_source()?;
            return Err(ContainerError::Damaged { file: self.name.clone(), unit, place: self.unit_place(unit) });
        }
        Ok(())
    }

    #[expect(clippy::ptr_arg, reason = "it matters whether the bytes are borrowed")]
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

/// The bytes of several units, read in one call.
#[derive(Debug)]
pub struct Fetched<'a, S> {
    reader: &'a Reader<S>,
    /// In ascending order.
    units: Vec<u32>,
    bytes: Vec<Cow<'a, [u8]>>,
}

impl<S: Source> Fetched<'_, S> {
    /// Returns the bytes of unit number `unit`, after checking their hash.
    ///
    /// # Errors
    /// If the unit is damaged, or was not passed to [`Reader::fetch`].
    pub fn unit(&self, unit: u32) -> Result<&[u8], ContainerError> {
        let found = self.units.binary_search(&unit).ok().and_then(|at| self.bytes.get(at));
        let (file, count) = (|| self.reader.name.clone(), self.units.len());
        let bytes = found.ok_or_else(|| ContainerError::NoSuchUnit { file: file(), unit, count })?;
        self.reader.check(unit, bytes)?;
        Ok(bytes)
    }
}

/// Describes a unit for messages, given its number, its entry and its object.
pub(crate) fn describe(unit: usize, entry: &UnitEntry, object: Option<&Object>) -> String {
    let part = if entry.is_header() { "tensor header".to_owned() } else { format!("tile {}", entry.tile) };
    let layer = if entry.layer == 0 { String::new() } else { format!(", layer {}", entry.layer) };
    let name = object.map_or(String::new(), |object| shown(&object.name));
    format!("unit {unit} ({part}{layer} of {name})")
}

/// An error of opening a file, without the name of the file.
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

/// Reads bytes at a range that was checked against the length of the source. Fails if the source returns another number
/// of bytes.
fn read_exact<S: Source>(source: &S, offset: u64, length: u64) -> io::Result<Cow<'_, [u8]>> {
    let eof = || io::Error::from(io::ErrorKind::UnexpectedEof);
    let length = usize::try_from(length).map_err(|_| eof())?;
    let bytes = source.read_at(offset, length)?;
    if bytes.len() == length { Ok(bytes) } else { Err(eof()) }
}

/// Opens bytes as a file, with default limits. Entry point for fuzzing.
///
/// # Errors
/// As for [`Reader::open`].
pub fn fuzz_open(bytes: &[u8]) -> Result<Reader<&[u8]>, ContainerError> {
    Reader::open(bytes, "fuzz", &Limits::default())
}

/// Parses bytes as a manifest. Entry point for fuzzing without the root hash, which a fuzzer cannot get past in
/// [`fuzz_open`].
///
/// # Errors
/// If the manifest violates SPEC 3, 4, 12.1 or 12.2.
pub fn fuzz_manifest(bytes: &[u8]) -> Result<(Manifest, Layout), FormatError> {
    let manifest = Manifest::parse(bytes, &Limits::default())?;
    let layout = Layout::new(&manifest, bytes.len() as u64)?;
    Ok((manifest, layout))
}
