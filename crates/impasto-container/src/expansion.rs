//! The bound on what the units of a file expand to (SPEC 11.3).

use impasto_core::Mode;

use crate::error::{FormatError, shown};
use crate::geometry::Matrix;
use crate::layout::Layout;
use crate::manifest::Manifest;
use crate::object::Object;

/// Any file may expand to this many bytes.
pub const ALWAYS: u64 = 1 << 28;
/// Bytes that a file may expand to for each of its own.
pub const RATIO: u64 = 512;
/// Bytes that a tensor header counts for, because tables are made from it.
pub const HEADER: u64 = 1 << 16;

/// Elements of a row that are decoded together (SPEC 8.2).
const LANES: u64 = 32;

/// What the units of a file expand to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expansion {
    /// Bytes of the elements of all present tiles, in every layer, of the tensors that are tied to them, and of references
    /// once more; with a surcharge for tensor headers.
    pub expanded: u64,
    /// Bytes of the header, the manifest and the present units.
    pub present: u64,
    /// Bytes of the elements of objects that take something from the base, and of what they take. They count once the base is
    /// there, together with its bytes.
    pub from_base: u64,
    /// The object that expands to most, and its bytes.
    most: Option<(usize, u64)>,
}

impl Expansion {
    /// Sums up the units of a file for which `is_present` holds. Time and memory are linear in the manifest.
    pub(crate) fn new(
        manifest: &Manifest,
        manifest_end: u64,
        layout: &Layout,
        is_present: impl Fn(u32) -> bool,
    ) -> Expansion {
        let size = |object: usize| manifest.objects[object].dtype().map_or(0, |dtype| dtype.size() as u64);
        let mut present = manifest_end;
        let whole = |object: usize, matrix: &Matrix| (matrix.rows() * matrix.cols()).saturating_mul(size(object));
        let identical = (0..).zip(&manifest.objects).filter(|(_, of)| of.is_identical());
        let identical = identical.filter_map(|(object, _)| Some(whole(object, layout.matrix(object as u32)?)));
        let mut from_base = identical.fold(0u64, u64::saturating_add);
        // For each object, the bytes of its tiles in layer 0, and those of everything.
        let mut bytes = vec![(0u64, 0u64); manifest.objects.len()];
        for (_, entry) in (0u32..).zip(&manifest.units).filter(|(unit, _)| is_present(*unit)) {
            present += u64::from(entry.length);
            let object = entry.object as usize;
            let Some(matrix) = layout.matrix(entry.object).filter(|_| entry.mode.is_known()) else { continue };
            let own = match matrix.tile(entry.tile) {
                _ if entry.is_header() => HEADER,
                // A row takes as long to decode as one that fills all lanes.
                Some(tile) if entry.mode.needs_header() => {
                    tile.height() as u64 * (tile.width() as u64).next_multiple_of(LANES) * size(object)
                }
                Some(tile) => tile.height() as u64 * tile.width() as u64 * size(object),
                None => 0,
            };
            if manifest.objects[object].is_delta() {
                // It is of no use without the base, of which as much is decoded.
                let both = if entry.mode == Mode::SAME { own } else { own.saturating_mul(2) };
                from_base = from_base.saturating_add(both);
                continue;
            }
            let (base, all) = &mut bytes[object];
            *all = all.saturating_add(own);
            if entry.layer == 0 && !entry.is_header() {
                *base = base.saturating_add(own);
            }
        }
        for (object, of) in manifest.objects.iter().enumerate() {
            // What a tensor is tied to is decoded once more, and so is the reference of either.
            let original = of.tied().map_or(Some(of), |to| manifest.objects.get(to as usize));
            for to in of.tied().into_iter().chain(original.and_then(Object::reference)) {
                bytes[object].1 = bytes[object].1.saturating_add(bytes[to as usize].0);
            }
        }
        let expanded = bytes.iter().fold(0u64, |sum, (_, all)| sum.saturating_add(*all));
        let most = (0..).zip(&bytes).map(|(object, (_, all))| (object, *all)).max_by_key(|(_, all)| *all);
        Expansion { expanded, present, from_base, most }
    }

    /// Returns the expansion of a file with its base, of which `present` bytes are there.
    pub(crate) fn over(&self, present: u64) -> Expansion {
        let expanded = self.expanded.saturating_add(self.from_base);
        Expansion { expanded, present: self.present.saturating_add(present), from_base: 0, most: self.most }
    }

    /// Returns whether it is within the bound.
    pub fn is_within(&self) -> bool {
        self.expanded <= ALWAYS.max(self.present.saturating_mul(RATIO))
    }

    /// Returns an error if it is not within the bound.
    pub(crate) fn check(&self, objects: &[Object]) -> Result<(), FormatError> {
        if self.is_within() {
            return Ok(());
        }
        let (object, share) = self.most.unwrap_or_default();
        let name = objects.get(object).map_or(String::new(), |object| shown(&object.name));
        Err(FormatError::Expansion { expanded: self.expanded, present: self.present, name, share })
    }
}
