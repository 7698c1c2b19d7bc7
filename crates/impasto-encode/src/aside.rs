//! All units of a file in layers, set aside until their order is known; then the file.

use std::collections::HashSet;
use std::path::Path;

use impasto_container::{LayerMark, Object, UnitSlot, Writer, measure};
use impasto_core::Mode;

use crate::error::EncodeError;
use crate::layers::{Increment, order};
use crate::report::TensorReport;
use crate::spool::{Span, Spool};

/// A unit that is set aside.
#[derive(Clone, Copy)]
pub struct Unit {
    pub slot: UnitSlot,
    pub mode: Mode,
    pub span: Span,
}

/// A tile row of a tensor above its base: what is to be ordered.
pub struct TileRow {
    /// The tensor headers of its tensor's layers above the base.
    pub headers: Vec<Unit>,
    /// For each layer above the base its units.
    pub layers: Vec<Vec<Unit>>,
    /// What each of these layers is worth.
    pub increments: Vec<Increment>,
}

impl TileRow {
    /// How many of its layers are lossy.
    fn lossy(&self) -> usize {
        let exact = |units: &[Unit]| units.iter().any(|unit| unit.mode == Mode::EXACT);
        self.layers.iter().take_while(|units| !exact(units)).count()
    }
}

/// All units of a file.
pub struct Aside {
    spool: Spool,
    pub objects: Vec<Object>,
    /// Assets and bases, in the order of the file.
    pub base: Vec<Unit>,
    pub tile_rows: Vec<TileRow>,
    pub tensors: Vec<TensorReport>,
}

impl Aside {
    /// Nothing yet of a file at `path` with these objects.
    pub fn new(path: &Path, objects: Vec<Object>) -> Result<Aside, EncodeError> {
        Ok(Aside { spool: Spool::beside(path)?, objects, base: vec![], tile_rows: vec![], tensors: vec![] })
    }

    /// Sets a unit aside.
    pub fn push(&mut self, slot: UnitSlot, mode: Mode, bytes: &[u8]) -> Result<Unit, EncodeError> {
        Ok(Unit { slot, mode, span: self.spool.push(bytes)? })
    }

    /// Sets a unit of the base aside.
    pub fn push_base(&mut self, slot: UnitSlot, mode: Mode, bytes: &[u8]) -> Result<(), EncodeError> {
        let unit = self.push(slot, mode, bytes)?;
        self.base.push(unit);
        Ok(())
    }

    /// The order of the file: the base, then tile rows by what their increments are worth, exact layers last.
    pub fn ordered(&self) -> Ordered {
        let mut ordered = Ordered { units: self.base.clone(), ends: vec![self.base.len()], lossy: 0 };
        let mut headers = HashSet::new();
        for exact in [false, true] {
            let layers = |row: &TileRow| if exact { row.lossy()..row.layers.len() } else { 0..row.lossy() };
            let increments = |row: &TileRow| row.increments[layers(row)].to_vec();
            for (tile_row, increment) in order(&self.tile_rows.iter().map(increments).collect::<Vec<_>>()) {
                let tile_row = &self.tile_rows[tile_row];
                let layer = layers(tile_row).start + increment;
                // The base is layer 0, and not among these.
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

    /// The length of a file of the first `units` units in this order, with a record of `layers` layers.
    pub fn length(&self, ordered: &Ordered, units: usize, layers: usize) -> Result<u64, EncodeError> {
        let lengths: Vec<u32> = ordered.units[..units].iter().map(|unit| unit.span.length as u32).collect();
        // As many bytes as any others, or a few more.
        let marks = vec![LayerMark { units: units as u32, kld: None }; layers];
        measure(&self.objects, &lengths, &marks).map_err(|rule| EncodeError::Layout(rule.to_string()))
    }

    /// The most units, whole increments of tile rows, of a file of at most `bytes` bytes; at least the base.
    pub fn most_within(&self, ordered: &Ordered, bytes: u64, layers: usize) -> Result<usize, EncodeError> {
        let (mut fit, mut over) = (0, ordered.ends.len());
        while over - fit > 1 {
            let middle = fit.midpoint(over);
            if self.length(ordered, ordered.ends[middle], layers)? <= bytes { fit = middle } else { over = middle }
        }
        Ok(ordered.ends[fit])
    }

    /// Writes all units to a file that has not its name yet.
    pub fn write(&mut self, path: &Path, ordered: &Ordered, marks: Vec<LayerMark>) -> Result<Writer, EncodeError> {
        let slots = ordered.units.iter().map(|unit| unit.slot).collect();
        let mut writer = Writer::create(path, self.objects.clone(), slots, marks)?;
        let mut bytes = Vec::new();
        for unit in &ordered.units {
            self.spool.read(unit.span, &mut bytes)?;
            writer.push(unit.mode, &bytes)?;
        }
        Ok(writer)
    }
}

/// Units in the order of the file.
pub struct Ordered {
    pub units: Vec<Unit>,
    /// After how many units the base, or an increment of a tile row, ends.
    pub ends: Vec<usize>,
    /// How many there are without those of exact layers.
    pub lossy: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two tensors in a base, a refinement and an exact layer: one of two tile rows, one of one.
    fn aside(folder: &Path) -> Aside {
        let mut aside = Aside::new(&folder.join("x"), vec![]).expect("a file");
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
            // The refinements by gain, tensor headers before the first that needs them.
            (1, 0, 1, true),
            (1, 1, 1, false),
            (2, 0, 1, true),
            (2, 0, 1, false),
            (1, 0, 1, false),
            // The exact layers: however much one gains, lossy ones come first.
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
