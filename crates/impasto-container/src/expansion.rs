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
        let identical =
            identical.filter_map(|(object, _)| Some((object, whole(object, layout.matrix(object as u32)?))));
        // For each object, the bytes of its tiles in layer 0, and those of everything.
        let mut bytes = vec![(0u64, 0u64); manifest.objects.len()];
        identical.for_each(|(object, whole)| bytes[object] = (whole, whole));
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
            let is_lowest = entry.layer == 0 && !entry.is_header();
            // As much of the base is decoded, and in mode same nothing else.
            let twice = manifest.objects[object].is_delta() && is_lowest && entry.mode != Mode::SAME;
            let own = own.saturating_mul(1 + u64::from(twice));
            let (base, all) = &mut bytes[object];
            *all = all.saturating_add(own);
            if is_lowest {
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
        let takes_from_base = |object: usize| {
            let of = &manifest.objects[object];
            of.tied().map_or(Some(of), |to| manifest.objects.get(to as usize)).is_some_and(|of| of.base().is_some())
        };
        let sum = |from_base: bool| {
            let counted = (0..).zip(&bytes).filter(|&(object, _)| takes_from_base(object) == from_base);
            counted.fold(0u64, |sum, (_, (_, all))| sum.saturating_add(*all))
        };
        let (expanded, from_base) = (sum(false), sum(true));
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
