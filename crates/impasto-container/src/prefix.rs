//! Prefixes of the units of a file, which the cuts of a file are made of.

use crate::object::Object;
use crate::reader::Reader;
use crate::source::Source;

impl<S: Source> Reader<S> {
    /// Returns the number of weights of all tensors, which bits per weight refer to. Tied tensors count once.
    pub fn weights(&self) -> u64 {
        let own = self.objects().iter().filter_map(Object::tensor).filter(|meta| meta.tied.is_none());
        own.fold(0, |sum, meta| sum.saturating_add(meta.weights()))
    }

    /// Returns the number of units up to the end of a layer of the file, which is numbered from 1 (SPEC 3.7); `None` if there is
    /// no such layer.
    pub fn units_of_layer(&self, layer: usize) -> Option<u32> {
        layer.checked_sub(1).and_then(|n| self.marks().get(n)).map(|mark| mark.units)
    }

    /// Returns the number of units of the shortest prefix that holds all units of layers up to `layer` (0 for the base).
    pub fn units_through(&self, layer: u8) -> u32 {
        let last = self.units().iter().rposition(|unit| unit.layer <= layer);
        last.map_or(0, |last| last as u32 + 1)
    }

    /// Returns the length in bytes of the file, cut after its first `units` units.
    pub fn prefix_length(&self, units: u32) -> u64 {
        let last = units.checked_sub(1).and_then(|last| self.unit_range(last));
        last.map_or(self.header().manifest_end(), |range| range.end)
    }

    /// Returns the number of units of the longest prefix that is at most `bytes` long.
    pub fn units_within(&self, bytes: u64) -> u32 {
        // A longer prefix is never shorter in bytes. `most` units fit; `least` do not, or exceed those of the file.
        let (mut most, mut least) = (0, self.units().len() as u32 + 1);
        while least - most > 1 {
            let middle = most + (least - most) / 2;
            if self.prefix_length(middle) <= bytes { most = middle } else { least = middle }
        }
        most
    }
}
