//! Coding modes (SPEC 5).

use std::fmt;

/// The coding mode of a unit, as its number in the file (SPEC 3.6.1, 5). Later versions may define more modes.
///
/// Displayed as its name, or as its number if it has no name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mode(pub u8);

impl Mode {
    /// The elements, unchanged.
    pub const STORED: Mode = Mode(0);
    /// Byte planes, compressed with Zstandard.
    pub const ZSTD: Mode = Mode(1);
    /// Not a tile: holds what all tiles of an object and layer share, if their modes need it.
    pub const TENSOR_HEADER: Mode = Mode(2);
    /// Lossless floats; needs a tensor header.
    pub const FLOAT: Mode = Mode(3);
    /// Lattice integers; needs a tensor header.
    pub const LATTICE: Mode = Mode(4);
    /// Finer integers, coded given those of the layer below; needs a tensor header.
    pub const REFINEMENT: Mode = Mode(5);
    /// The original bits, coded given the integers of the layer below; needs a tensor header.
    pub const EXACT: Mode = Mode(6);
    /// The original blocks of a block dtype, coded given the weights of the layer below; needs a tensor header.
    pub const BLOCKS: Mode = Mode(7);
    /// Blocks that are predicted and transformed; needs the tensor header of a lattice.
    pub const TRANSFORM: Mode = Mode(8);
    /// Digits of 4 bits, each under the one before, with a mask if one value is frequent.
    pub const DIGITS: Mode = Mode(9);
    /// The elements of the base, unchanged; the unit is empty.
    pub const SAME: Mode = Mode(10);

    /// The modes of this version with their names; the index is the number of the mode.
    pub const KNOWN: [(Mode, &str); 11] = [
        (Mode::STORED, "stored"),
        (Mode::ZSTD, "zstd"),
        (Mode::TENSOR_HEADER, "tensor header"),
        (Mode::FLOAT, "float"),
        (Mode::LATTICE, "lattice"),
        (Mode::REFINEMENT, "refinement"),
        (Mode::EXACT, "exact"),
        (Mode::BLOCKS, "blocks"),
        (Mode::TRANSFORM, "transform"),
        (Mode::DIGITS, "digits"),
        (Mode::SAME, "same"),
    ];

    /// Returns the name, or `None` if this version does not define the mode.
    pub fn name(self) -> Option<&'static str> {
        Self::KNOWN.get(usize::from(self.0)).map(|(_, name)| *name)
    }

    /// Returns whether this version defines the mode.
    pub fn is_known(self) -> bool {
        self.name().is_some()
    }

    /// Returns whether decoding a tile in this mode requires the tensor header of its object and layer.
    pub fn needs_header(self) -> bool {
        matches!(self, Mode::FLOAT | Mode::LATTICE | Mode::TRANSFORM) || self.is_above()
    }

    /// Returns whether a tile in this mode always refines another, and so occurs only in layers above 0 (SPEC 12.1).
    pub fn is_above(self) -> bool {
        matches!(self, Mode::REFINEMENT) || self.is_exact_layer()
    }

    /// Returns whether a tile in this mode may be in a layer (SPEC 12.1). `is_delta` says whether its tensor is predicted from
    /// a base: the base is then what an exact tile in layer 0 refines.
    pub fn occurs_in(self, layer: u8, is_delta: bool) -> bool {
        match self {
            Mode::TRANSFORM => true,
            Mode::SAME => is_delta && layer == 0,
            Mode::EXACT if is_delta => true,
            _ => self.is_above() == (layer > 0),
        }
    }

    /// Returns whether a tile in this mode may have layers above it that make it finer.
    pub fn may_be_refined(self) -> bool {
        matches!(self, Mode::LATTICE | Mode::REFINEMENT | Mode::TRANSFORM)
    }

    /// Returns whether a tile in this mode in layer 0 is decoded from the elements of the base, in their place (SPEC 21).
    pub fn replaces_base(self) -> bool {
        matches!(self, Mode::SAME | Mode::EXACT)
    }

    /// Returns whether a tile in this mode gives the bits of the checkpoint, on top of other layers.
    pub fn is_exact_layer(self) -> bool {
        matches!(self, Mode::EXACT | Mode::BLOCKS)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "{}", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_places_in_the_table() {
        for (i, (mode, name)) in Mode::KNOWN.into_iter().enumerate() {
            assert_eq!((usize::from(mode.0), mode.to_string().as_str()), (i, name));
        }
        assert_eq!(Mode(11).name(), None);
        assert_eq!(Mode(255).to_string(), "255");
    }
}
