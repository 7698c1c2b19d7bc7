//! The units of a layered file, kept in a temporary file until their order in the file is known.

use std::collections::HashSet;
use std::path::Path;

use impasto_container::{Base, LayerMark, Object, UnitSlot, Writer, measure};
use impasto_core::Mode;

use crate::error::EncodeError;
use crate::layers::{Increment, order};
use crate::report::TensorReport;
use crate::spool::{Span, Spool};

/// A unit in the temporary file.
#[derive(Clone, Copy)]
pub struct Unit {
    pub slot: UnitSlot,
    pub mode: Mode,
    pub span: Span,
}

/// The units of a tile row above the base.
pub struct TileRow {
    /// The tensor headers of the tensor's layers above the base.
    pub headers: Vec<Unit>,
    /// The units of each layer above the base.
    pub layers: Vec<Vec<Unit>>,
    /// The increment of each of these layers.
    pub increments: Vec<Increment>,
}

impl TileRow {
    /// Returns the number of lossy layers above the base.
    fn lossy(&self) -> usize {
        let exact = |units: &[Unit]| units.iter().any(|unit| unit.mode.is_exact_layer());
        self.layers.iter().take_while(|units| !exact(units)).count()
    }
}

/// All units of a layered file.
pub struct Aside {
    spool: Spool,
    base_file: Option<Base>,
    pub objects: Vec<Object>,
    /// Units of assets, and the base, in the order of the file.
    pub base: Vec<Unit>,
    pub tile_rows: Vec<TileRow>,
    pub tensors: Vec<TensorReport>,
}

impl Aside {
    /// Creates an empty collection for a file with these objects, over `base_file` if there is one. The temporary file is in the
    /// folder of `path`.
    pub fn new(path: &Path, base_file: Option<Base>, objects: Vec<Object>) -> Result<Aside, EncodeError> {
        Ok(Aside { spool: Spool::beside(path)?, base_file, objects, base: vec![], tile_rows: vec![], tensors: vec![] })
    }

    /// Appends a unit to the temporary file.
    pub fn push(&mut self, slot: UnitSlot, mode: Mode, bytes: &[u8]) -> Result<Unit, EncodeError> {
        Ok(Unit { slot, mode, span: self.spool.push(bytes)? })
    }

    /// Appends a unit of the base.
    pub fn push_base(&mut self, slot: UnitSlot, mode: Mode, bytes: &[u8]) -> Result<(), EncodeError> {
        let unit = self.push(slot, mode, bytes)?;
        self.base.push(unit);
        Ok(())
    }

    /// Returns how much is in it.
    pub fn mark(&self) -> Mark {
        Mark { base: self.base.len(), tile_rows: self.tile_rows.len() }
    }

    /// Drops all units since a mark; they stay in the temporary file.
    pub fn return_to(&mut self, mark: &Mark) {
        self.base.truncate(mark.base);
        self.tile_rows.truncate(mark.tile_rows);
    }

    /// Returns the bytes of the units since a mark, which are those of one tensor: in the base, and in all lossy layers.
    pub fn since(&self, mark: &Mark) -> Added {
        let bytes = |units: &mut dyn Iterator<Item = &Unit>| -> u64 {
            units.map(|unit| (unit.span.length as u64).next_multiple_of(16)).sum()
        };
        let base = bytes(&mut self.base[mark.base..].iter());
        let rows = &self.tile_rows[mark.tile_rows..];
        let lossy = |row: &TileRow| bytes(&mut row.layers[..row.lossy()].iter().flatten());
        let headers = rows.first().map_or(0, |row| bytes(&mut row.headers[..row.lossy()].iter()));
        Added { base, lossy: base + headers + rows.iter().map(lossy).sum::<u64>() }
    }

    /// Returns the order of the file: the base, then the increments of tile rows by gain per byte, exact layers last.
    pub fn ordered(&self) -> Ordered {
        let mut ordered = Ordered { units: self.base.clone(), ends: vec![self.base.len()], lossy: 0 };
        let mut headers = HashSet::new();
        for exact in [false, true] {
            let layers = |row: &TileRow| if exact { row.lossy()..row.layers.len() } else { 0..row.lossy() };
            let increments = |row: &TileRow| row.increments[layers(row)].to_vec();
            for (tile_row, increment) in order(&self.tile_rows.iter().map(increments).collect::<Vec<_>>()) {
                let tile_row = &self.tile_rows[tile_row];
                let layer = layers(tile_row).start + increment;
                // `layer` 0 is the first layer above the base, which is layer 1 in a slot.
                let needed = tile_row.headers.iter().filter(|header| usize::from(header.slot.layer) <= layer + 1);
                ordered.units.extend(needed.filter(|header| headers.insert((header.slot.object, header.slot.layer))));
                ordered.units.extend(&tile_row.layers[layer]);
                ordered.ends.push(ordered.units.len());
            }
            if !exact {
                ordered.lossy = ordered.units.len();
            }
        }
        ordered
    }

    /// Returns the length of a file with the first `units` units in this order and a table of `layers` layers.
    pub fn length(&self, ordered: &Ordered, units: usize, layers: usize) -> Result<u64, EncodeError> {
        let lengths: Vec<u32> = ordered.units[..units].iter().map(|unit| unit.span.length as u32).collect();
        // These are the longest possible marks: the real ones take as many bytes or a few less.
        let marks = vec![LayerMark { units: units as u32, kld: None }; layers];
        measure(&self.objects, &lengths, &marks, self.base_file.as_ref())
            .map_err(|rule| EncodeError::Layout(rule.to_string()))
    }

    /// Returns how many units, in whole increments, fit in a file of `bytes` bytes, but at least those of the base.
    pub fn most_within(&self, ordered: &Ordered, bytes: u64, layers: usize) -> Result<usize, EncodeError> {
        let (mut fit, mut over) = (0, ordered.ends.len());
        while over - fit > 1 {
            let middle = fit.midpoint(over);
            if self.length(ordered, ordered.ends[middle], layers)? <= bytes { fit = middle } else { over = middle }
        }
        Ok(ordered.ends[fit])
    }

    /// Writes all units. The file gets its name when the returned writer finishes.
    pub fn write(&mut self, path: &Path, ordered: &Ordered, marks: Vec<LayerMark>) -> Result<Writer, EncodeError> {
        let slots = ordered.units.iter().map(|unit| unit.slot).collect();
        let mut writer = Writer::create_over(path, self.base_file.clone(), self.objects.clone(), slots, marks)?;
        let mut bytes = Vec::new();
        for unit in &ordered.units {
            self.spool.read(unit.span, &mut bytes)?;
            writer.push(unit.mode, &bytes)?;
        }
        Ok(writer)
    }
}

/// How much was in an [`Aside`].
#[derive(Default)]
pub struct Mark {
    base: usize,
    tile_rows: usize,
}

/// Bytes with padding.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Added {
    /// Those of the base.
    pub base: u64,
    /// Those of the base and of all lossy layers above it.
    pub lossy: u64,
}

/// Units in the order of the file.
pub struct Ordered {
    pub units: Vec<Unit>,
    /// Numbers of units after which the base or an increment ends.
    pub ends: Vec<usize>,
    /// Number of units before the first unit of an exact layer.
    pub lossy: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tensors, with two tile rows and one; each has a refinement and an exact layer above the base.
    fn aside(folder: &Path) -> Aside {
        let mut aside = Aside::new(&folder.join("x"), None, vec![]).expect("a file");
        let slot = |object, tile, layer, is_header| UnitSlot { object, tile, layer, is_header };
        aside.push_base(slot(0, 0, 0, false), Mode::STORED, &[9; 3]).expect("room");
        for (object, gains) in [(1, &[[3.0, 400.0], [30.0, 1.0]][..]), (2, &[[10.0, 2.0]])] {
            let push = |aside: &mut Aside, tile, layer, is_header, mode| {
                aside.push(slot(object, tile, layer, is_header), mode, &[layer; 32]).expect("room")
            };
            let headers = [1, 2].map(|layer| push(&mut aside, 0, layer, true, Mode::TENSOR_HEADER)).to_vec();
            for (tile, gains) in (0..).zip(gains) {
                let modes = [(1, Mode::REFINEMENT), (2, Mode::EXACT)];
                let layers = modes.map(|(layer, mode)| vec![push(&mut aside, tile, layer, false, mode)]).to_vec();
                let increments = gains.map(|gain| Increment { gain, bytes: 32 }).to_vec();
                aside.tile_rows.push(TileRow { headers: headers.clone(), layers, increments });
            }
        }
        aside
    }

    #[test]
    fn the_best_tile_rows_come_first_and_exact_layers_last() {
        let folder = tempfile::tempdir().expect("a folder");
        let ordered = aside(folder.path()).ordered();
        let found: Vec<(u32, u32, u8, bool)> =
            ordered.units.iter().map(|Unit { slot: s, .. }| (s.object, s.tile, s.layer, s.is_header)).collect();
        let wanted = [
            (0, 0, 0, false),
            // Refinements by gain; a tensor header precedes the first tile that needs it.
            (1, 0, 1, true),
            (1, 1, 1, false),
            (2, 0, 1, true),
            (2, 0, 1, false),
            (1, 0, 1, false),
            // Exact layers follow all lossy ones, whatever their gain.
            (1, 0, 2, true),
            (1, 0, 2, false),
            (2, 0, 2, true),
            (2, 0, 2, false),
            (1, 1, 2, false),
        ];
        assert_eq!(found, wanted);
        assert_eq!((ordered.lossy, &ordered.ends[..]), (6, &[1, 3, 5, 6, 8, 10, 11][..]));
    }

    #[test]
    fn most_within_is_the_longest_that_fits() {
        let folder = tempfile::tempdir().expect("a folder");
        let aside = aside(folder.path());
        let ordered = aside.ordered();
        let length = |units| aside.length(&ordered, units, 2).expect("a length");
        for pair in ordered.ends.windows(2) {
            for (bytes, fit) in [(length(pair[0]), pair[0]), (length(pair[1]) - 1, pair[0]), (length(pair[1]), pair[1])]
            {
                assert_eq!(aside.most_within(&ordered, bytes, 2).expect("a length"), fit, "{bytes} bytes");
            }
        }
        assert_eq!(aside.most_within(&ordered, 0, 2).expect("a length"), 1, "at least the base");
        assert_eq!(aside.most_within(&ordered, u64::MAX, 2).expect("a length"), 11);
    }
}
