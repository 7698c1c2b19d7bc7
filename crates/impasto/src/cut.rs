//! Taking less of a file: which units a cut keeps, and how large a file of them is.

use impasto_container::{LayerMark, Source, UnitState, file_length, manifest_length};

use crate::error::FileError;
use crate::file::File;

/// How much of a file to take. The base, which is the units of layer 0, is always taken.
#[derive(Clone, Debug, PartialEq)]
pub enum Cut {
    /// The longest run of units, from the first on, that with the base makes a file of at most so many bytes.
    Bytes(u64),
    /// The same in bits of the file over all weights, as [`File::weights`] counts them.
    BitsPerWeight(f64),
    /// Layer number so much of the file, from 1: the units that the file says it consists of.
    Layer(usize),
    /// Of each tensor the units of the layer that stands with the first of these words which its name (or that of a tensor tied to it)
    /// contains; all units of a tensor that has none. The empty word stands for tensors that have no other.
    Parts(Vec<(String, usize)>),
}

/// A layer of a file, all coarser ones included.
#[derive(Clone, Debug, PartialEq)]
pub struct Layer {
    /// It is the first so many units of the file.
    pub units: u32,
    /// Bytes of a file cut at it.
    pub bytes: u64,
    /// KL divergence from the original in nats a position, where the encoder measured it.
    pub kld: Option<f32>,
    /// Are all its units there?
    pub is_whole: bool,
}

impl<S: Source> File<S> {
    /// The layers that the file says it has, coarsest first; empty if it does not say.
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

    /// Reads no more than a cut takes from now on, and of that no more than an earlier cut took.
    ///
    /// # Errors
    /// If the base alone is too large, there is no such layer, or no tensor has a name that contains a word.
    pub fn cut(&mut self, cut: &Cut) -> Result<(), FileError> {
        let keep = self.kept(cut)?;
        self.reader.keep(keep);
        Ok(())
    }

    /// For each unit whether a cut keeps it: all of layer 0, and of those above that are there what it takes.
    ///
    /// # Errors
    /// If the base alone is too large, there is no such layer, or no tensor has a name that contains a word.
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

    /// The units of the longest prefix that fits.
    fn within(&self, bytes: u64) -> Result<Vec<bool>, FileError> {
        let base = self.bytes_of(&self.keep_where(|_| false));
        if base > bytes {
            let base_bits = base as f64 * 8.0 / self.weights().max(1) as f64;
            return Err(FileError::Budget { file: self.reader.name().to_owned(), bytes, base, base_bits });
        }
        // A longer prefix makes no smaller file. `most` units fit, `least` do not, or are more than there are.
        let (mut most, mut least) = (0, self.reader.units().len() as u32 + 1);
        while least - most > 1 {
            let middle = most + (least - most) / 2;
            if self.bytes_of(&self.keep_where(|unit| unit < middle)) <= bytes { most = middle } else { least = middle }
        }
        Ok(self.keep_where(|unit| unit < most))
    }

    /// Units of a layer, by its number from 1.
    fn mark(&self, layer: usize) -> Result<u32, FileError> {
        let marks = self.reader.marks();
        let mark = layer.checked_sub(1).and_then(|n| marks.get(n));
        let missing = || FileError::NoLayer { file: self.reader.name().to_owned(), layer, layers: marks.len() };
        mark.map(|mark| mark.units).ok_or_else(missing)
    }

    /// For each object how many of the first units of the file may be its own; `None` for all.
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

    /// The marks that say of a file of the units that are kept what they say of this: all units before them are kept.
    pub(crate) fn marks_of(&self, keep: &[bool]) -> Vec<LayerMark> {
        let whole = keep.iter().take_while(|&&kept| kept).count();
        self.reader.marks().iter().filter(|mark| mark.units as usize <= whole).copied().collect()
    }

    /// Bytes of a file of the units that are kept.
    fn bytes_of(&self, keep: &[bool]) -> u64 {
        let kept = || self.reader.units().iter().zip(keep).filter(|(_, keep)| **keep).map(|(unit, _)| unit.length);
        let manifest = manifest_length(self.reader.objects(), kept().count(), &self.marks_of(keep));
        // Units that are in a file are not too long.
        file_length(manifest, kept()).unwrap_or(u64::MAX)
    }
}
