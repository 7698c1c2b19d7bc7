//! Cuts: which units of a file are used, and the size of a file with only these.

use impasto_container::{LayerMark, Source, UnitState, file_length, manifest_length};

use crate::error::FileError;
use crate::file::File;

/// How much of a file is used. The base, which is the units of layer 0, is always used.
#[derive(Clone, Debug, PartialEq)]
pub enum Cut {
    /// The longest prefix of the units that, with the base, makes a file of at most this many bytes.
    Bytes(u64),
    /// The same in bits of the file per weight, as counted by [`File::weights`].
    BitsPerWeight(f64),
    /// The units of the layer with this number (from 1) in the file's layer table.
    Layer(usize),
    /// For each tensor, a layer by name: the first word that is part of its name (or of a tied tensor's name) selects
    /// the layer. The empty word is the default; without it, other tensors keep all units.
    Parts(Vec<(String, usize)>),
}

/// A layer of a file, including all coarser ones.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// Number of units of the file up to the end of the layer.
    pub units: u32,
    /// Bytes of a file cut at this layer.
    pub bytes: u64,
    /// KL divergence from the original in nats per token, if it was measured.
    pub kld: Option<f32>,
    /// Whether all its units are present.
    pub is_whole: bool,
}

impl<S: Source> File<S> {
    /// Returns the layers in the file's layer table, the coarsest first; empty if there is none.
    pub fn layers(&self) -> Vec<Layer> {
        let layer = |mark: &LayerMark| {
            let first = |unit: usize| unit < mark.units as usize;
            let keep: Vec<bool> =
                self.reader.units().iter().enumerate().map(|(unit, entry)| entry.layer == 0 || first(unit)).collect();
            let is_whole = (0..mark.units).all(|unit| self.is_there(unit));
            Layer { units: mark.units, bytes: self.bytes_of(&keep), kld: mark.kld, is_whole }
        };
        self.reader.marks().iter().map(layer).collect()
    }

    /// Limits all later reads to a cut, in addition to earlier cuts.
    ///
    /// # Errors
    /// If the base is larger than the cut, the layer does not exist, or no tensor's name contains a word.
    pub fn cut(&mut self, cut: &Cut) -> Result<(), FileError> {
        let keep = self.kept(cut)?;
        self.reader.keep(keep);
        Ok(())
    }

    /// Returns for each unit whether a cut keeps it: always in layer 0, and above only if it is also present.
    ///
    /// # Errors
    /// If the base is larger than the cut, the layer does not exist, or no tensor's name contains a word.
    pub(crate) fn kept(&self, cut: &Cut) -> Result<Vec<bool>, FileError> {
        match cut {
            Cut::Bytes(bytes) => self.within(*bytes),
            Cut::BitsPerWeight(bits) => self.within((bits * self.weights() as f64 / 8.0) as u64),
            Cut::Layer(layer) => {
                let units = self.mark(*layer)?;
                Ok(self.keep_where(|unit| unit < units))
            }
            Cut::Parts(parts) => {
                let limits = self.limits(parts)?;
                let units = self.reader.units();
                Ok(self
                    .keep_where(|unit| limits[units[unit as usize].object as usize].is_none_or(|limit| unit < limit)))
            }
        }
    }

    /// Keeps the longest prefix that fits.
    fn within(&self, bytes: u64) -> Result<Vec<bool>, FileError> {
        let base = self.bytes_of(&self.keep_where(|_| false));
        if base > bytes {
            let base_bits = base as f64 * 8.0 / self.weights().max(1) as f64;
            return Err(FileError::Budget { file: self.reader.name().to_owned(), bytes, base, base_bits });
        }
        // A longer prefix never gives a smaller file. `most` units fit; `least` units do not fit, or exceed those of
        // the file.
        let (mut most, mut least) = (0, self.reader.units().len() as u32 + 1);
        while least - most > 1 {
            let middle = most + (least - most) / 2;
            if self.bytes_of(&self.keep_where(|unit| unit < middle)) <= bytes { most = middle } else { least = middle }
        }
        Ok(self.keep_where(|unit| unit < most))
    }

    /// Returns the number of units of a layer, which is numbered from 1.
    fn mark(&self, layer: usize) -> Result<u32, FileError> {
        let layers = self.reader.marks().len();
        let missing = || FileError::NoLayer { file: self.reader.name().to_owned(), layer, layers };
        self.reader.units_of_layer(layer).ok_or_else(missing)
    }

    /// Returns the limit on the unit index for each object; `None` for no limit.
    fn limits(&self, parts: &[(String, usize)]) -> Result<Vec<Option<u32>>, FileError> {
        let (words, default): (Vec<_>, Vec<_>) = parts.iter().partition(|(word, _)| !word.is_empty());
        let objects = self.reader.objects();
        let mut limits = vec![None; objects.len()];
        for (word, layer) in words.into_iter().chain(default) {
            let units = self.mark(*layer)?;
            let mut found = false;
            for (n, object) in (0u32..).zip(objects).filter(|(_, object)| object.tensor().is_some()) {
                if object.name.contains(word.as_str()) {
                    found = true;
                    limits[self.reader.resolve(n) as usize].get_or_insert(units);
                }
            }
            if !found && !word.is_empty() {
                return Err(FileError::NoPart { file: self.reader.name().to_owned(), word: word.clone() });
            }
        }
        Ok(limits)
    }

    fn keep_where(&self, wanted: impl Fn(u32) -> bool) -> Vec<bool> {
        (0u32..).zip(self.reader.units()).map(|(n, unit)| unit.layer == 0 || (wanted(n) && self.is_there(n))).collect()
    }

    fn is_there(&self, unit: u32) -> bool {
        self.reader.unit_state(unit).is_ok_and(|state| state == UnitState::Present)
    }

    /// Returns the marks that remain valid in a file of the kept units: those before which every unit is kept.
    pub(crate) fn marks_of(&self, keep: &[bool]) -> Vec<LayerMark> {
        let whole = keep.iter().take_while(|&&kept| kept).count();
        self.reader.marks().iter().filter(|mark| mark.units as usize <= whole).copied().collect()
    }

    /// Returns the length of a file of the kept units.
    fn bytes_of(&self, keep: &[bool]) -> u64 {
        let kept = || self.reader.units().iter().zip(keep).filter(|(_, keep)| **keep).map(|(unit, _)| unit.length);
        let manifest = manifest_length(self.reader.objects(), kept().count(), &self.marks_of(keep), self.reader.base());
        // This cannot overflow: the units are those of an existing file.
        file_length(manifest, kept()).unwrap_or(u64::MAX)
    }
}
