//! All units of a file in layers, set aside until their order is known; then the file.

use std::collections::HashSet;
use std::path::Path;

use impasto_container::{LayerMark, Mode, Object, UnitSlot, Writer, measure};

use crate::error::EncodeError;
use crate::layers::{Step, order};
use crate::report::TensorReport;
use crate::spool::{Part, Spool};

/// A unit that is set aside.
#[derive(Clone, Copy)]
pub struct Unit {
    pub slot: UnitSlot,
    pub mode: Mode,
    pub part: Part,
}

/// A band of a tensor above its base: what is to be ordered.
pub struct Band {
    /// The heads of its tensor's layers above the base.
    pub heads: Vec<Unit>,
    /// For each layer above the base its units.
    pub layers: Vec<Vec<Unit>>,
    /// What each of these layers is worth.
    pub steps: Vec<Step>,
}

impl Band {
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
    pub bands: Vec<Band>,
    pub tensors: Vec<TensorReport>,
}

impl Aside {
    /// Nothing yet of a file at `path` with these objects.
    pub fn new(path: &Path, objects: Vec<Object>) -> Result<Aside, EncodeError> {
        Ok(Aside { spool: Spool::beside(path)?, objects, base: vec![], bands: vec![], tensors: vec![] })
    }

    /// Sets a unit aside.
    pub fn push(&mut self, slot: UnitSlot, mode: Mode, bytes: &[u8]) -> Result<Unit, EncodeError> {
        Ok(Unit { slot, mode, part: self.spool.push(bytes)? })
    }

    /// Sets a unit of the base aside.
    pub fn push_base(&mut self, slot: UnitSlot, mode: Mode, bytes: &[u8]) -> Result<(), EncodeError> {
        let unit = self.push(slot, mode, bytes)?;
        self.base.push(unit);
        Ok(())
    }

    /// The order of the file: the base, then bands by what they are worth, those of exact layers last.
    pub fn ordered(&self) -> Ordered {
        let mut ordered = Ordered { units: self.base.clone(), ends: vec![self.base.len()], lossy: 0 };
        let mut heads = HashSet::new();
        for exact in [false, true] {
            let layers = |band: &Band| if exact { band.lossy()..band.layers.len() } else { 0..band.lossy() };
            let bands: Vec<Vec<Step>> = self.bands.iter().map(|band| band.steps[layers(band)].to_vec()).collect();
            for (band, step) in order(&bands) {
                let band = &self.bands[band];
                let layer = layers(band).start + step;
                // The base is layer 0, and not among these.
                let needed = band.heads.iter().filter(|head| usize::from(head.slot.layer) <= layer + 1);
                ordered.units.extend(needed.filter(|head| heads.insert((head.slot.object, head.slot.layer))));
                ordered.units.extend(&band.layers[layer]);
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
        let lengths: Vec<u32> = ordered.units[..units].iter().map(|unit| unit.part.length as u32).collect();
        // As many bytes as any others, or a few more.
        let marks = vec![LayerMark { units: units as u32, kld: None }; layers];
        measure(&self.objects, &lengths, &marks).map_err(|rule| EncodeError::Layout(rule.to_string()))
    }

    /// The most units, whole steps of bands, of a file of at most `bytes` bytes; at least the base.
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
            self.spool.read(unit.part, &mut bytes)?;
            writer.push(unit.mode, &bytes)?;
        }
        Ok(writer)
    }
}

/// Units in the order of the file.
pub struct Ordered {
    pub units: Vec<Unit>,
    /// After how many units the base, or the step of a band, ends.
    pub ends: Vec<usize>,
    /// How many there are without those of exact layers.
    pub lossy: usize,
}
