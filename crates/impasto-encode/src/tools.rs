//! The tools that code a tile, and the choice of tools to try.
//!
//! In an exact file, these are scale classes, Zstandard and digits. In a lossy file it is the lattice, on some tensors also
//! transforms, with raw bytes for what they cannot code. Further tools go into the lists of [`code_exact`] and
//! [`code_lossy`]; see [`crate::trial`].

use std::cell::OnceCell;

use impasto_codec::exact::signs_of_row;
use impasto_codec::tile::{TileEncoder, encode_bytes};
use impasto_codec::{CodecError, digits};
use impasto_core::{Isa, Mode, Place};

use crate::decoded::part;
use crate::lattice::{Grid, Integers, LAMBDA};
use crate::layers::Nested;
use crate::matrix::MatrixView;
use crate::transform::{self, Request};
use crate::trial::{Tool, Trial, choose};

/// Zstandard compression levels: for tensors, and to test whether compression pays.
pub const TENSOR_LEVEL: i32 = 9;
const SAMPLE_LEVEL: i32 = 1;
/// Bytes of a tile that are tried at [`SAMPLE_LEVEL`].
const SAMPLE: usize = 16 << 10;
/// Elements of a tile of floats that are looked at first, and of a tile that is large enough for that: the classes of a small
/// one may cost more than they save, also where the last digits are noise.
const NOISE: usize = 2048;
const LARGE: usize = 1 << 14;
/// One byte, in the unit of [`Trial::bits`].
const BYTE: u64 = 8 << 16;

/// The units of a tile, one per layer from the base up, with their modes.
pub type Units = Vec<(Mode, Vec<u8>)>;

/// Returns the size of units, in the unit of [`Trial::bits`].
fn bits(units: &Units) -> u64 {
    units.iter().map(|(_, unit)| unit.len() as u64 * BYTE).sum()
}

/// A tile to be coded.
pub struct Tile<'a> {
    matrix: &'a MatrixView<'a>,
    place: &'a Place,
    elements: OnceCell<Vec<u8>>,
}

impl<'a> Tile<'a> {
    /// Creates the tile at a place of a matrix.
    pub fn new(matrix: &'a MatrixView, place: &'a Place) -> Self {
        Tile { matrix, place, elements: OnceCell::new() }
    }

    /// Returns its elements, row-major. They are gathered on the first call.
    fn elements(&self) -> &[u8] {
        self.elements.get_or_init(|| {
            let mut out = Vec::with_capacity(self.place.elements() * self.matrix.dtype.size());
            for r in self.place.rows.clone() {
                out.extend_from_slice(&self.matrix.part(r, self.place.columns.clone()));
            }
            out
        })
    }
}

/// Codes a tile exactly: as floats under scale classes (if there is an `encoder` for them), as bytes or as digits.
///
/// # Errors
/// If Zstandard fails.
pub fn code_exact<'a>(tile: &Tile<'a>, encoder: Option<&TileEncoder>) -> Result<Units, CodecError> {
    let float = encoder.map(Floats);
    let tools: [Option<&dyn Tool<Tile<'a>, Units, CodecError>>; 3] =
        [float.as_ref().map(|tool| tool as _), Some(&Bytes), Some(&Digits)];
    decide(&tools.into_iter().flatten().collect::<Vec<_>>(), tile)
}

/// Codes a tile with the best lossy tool, or as bytes if no tool can code it.
///
/// # Errors
/// If Zstandard fails.
pub fn code_lossy<'a>(tile: &Tile<'a>, lossy: &[&dyn Tool<Tile<'a>, Units, CodecError>]) -> Result<Units, CodecError> {
    decide(&[lossy, &[&StandIn(Bytes)]].concat(), tile)
}

/// Codes a tile over the elements `over` of the base there: as nothing, if they are the same, otherwise by the differences from
/// those that are predicted from them, or as bytes.
///
/// # Errors
/// If Zstandard fails.
pub fn code_delta(tile: &Tile, encoder: &TileEncoder, over: &[u8], predicted: &[u8]) -> Result<Units, CodecError> {
    if tile.elements() == over {
        return Ok(vec![(Mode::SAME, vec![])]);
    }
    decide(&[&Differences { encoder, predicted }, &StandIn(Bytes)], tile)
}

fn decide<'a>(tools: &[&dyn Tool<Tile<'a>, Units, CodecError>], tile: &Tile<'a>) -> Result<Units, CodecError> {
    Ok(choose(tools, tile, LAMBDA.into())?.map_or(vec![], |trial| trial.outcome))
}

/// The tool for mode float.
struct Floats<'a>(&'a TileEncoder<'a>);

impl<'a> Tool<Tile<'a>, Units, CodecError> for Floats<'_> {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        _: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let unit = self.0.float(tile.matrix.dtype, tile.place, tile.elements());
        let units = unit.map(|unit| vec![(Mode::FLOAT, unit)]);
        Ok(units.map(|units| Trial::exact(bits(&units), units)))
    }
}

/// The tool for mode exact over a base.
struct Differences<'a> {
    encoder: &'a TileEncoder<'a>,
    /// The elements that are predicted from the base at the place of the tile, row by row.
    predicted: &'a [u8],
}

impl<'a> Tool<Tile<'a>, Units, CodecError> for Differences<'_> {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        _: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let dtype = tile.matrix.dtype;
        let Some(layout) = dtype.float_layout() else { return Ok(None) };
        let mut signs = Vec::new();
        signs_of_row(Isa::best(), layout, self.predicted, &mut signs);
        let unit = self.encoder.exact(dtype, tile.place, &signs, self.predicted, tile.elements());
        let units = unit.map(|unit| vec![(Mode::EXACT, unit)]);
        Ok(units.map(|units| Trial::exact(bits(&units), units)))
    }
}

/// The tool for Zstandard, or stored if that is not larger. It suits tiles of zeros or repeated rows, and all dtypes
/// without a float layout.
struct Bytes;

impl<'a> Tool<Tile<'a>, Units, CodecError> for Bytes {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        best: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let (elements, dtype) = (tile.elements(), tile.matrix.dtype);
        if let Some(best) = best {
            let sample = &elements[..elements.len().min(SAMPLE)];
            let (_, tried) = encode_bytes(sample, dtype, SAMPLE_LEVEL)?;
            let best = u128::from(best.bits / BYTE);
            if tried.len() as u128 * elements.len() as u128 >= best * sample.len() as u128 {
                return Ok(None);
            }
        }
        let units = vec![encode_bytes(elements, dtype, TENSOR_LEVEL)?];
        Ok(Some(Trial::exact(bits(&units), units)))
    }
}

/// The tool for mode digits. It suits integers that are packed, and pruned tensors.
struct Digits;

impl<'a> Tool<Tile<'a>, Units, CodecError> for Digits {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        best: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let (elements, size) = (tile.elements(), tile.matrix.dtype.size());
        if let Some(best) = best {
            // A sample needs fewer bits than the whole, since its contexts are few and its tables are not counted. On weights
            // that are neither quantized nor pruned, digits come within a percent of scale classes, but do not win.
            let is_float = best.outcome.iter().any(|(mode, _)| *mode == Mode::FLOAT);
            let percent = if is_float { 97 } else { 100 };
            if is_float && elements.len() >= LARGE * size && digits::ends_in_noise(&elements[..NOISE * size], size) {
                return Ok(None);
            }
            let sample = &elements[..elements.len().min(SAMPLE / size.max(1) * size)];
            let least = u128::from(digits::estimate(sample, size)) * elements.len() as u128 * 100;
            if least >= u128::from(best.bits / BYTE) * sample.len() as u128 * percent {
                return Ok(None);
            }
        }
        let units = digits::encode(elements, size).map(|unit| vec![(Mode::DIGITS, unit)]);
        Ok(units.map(|units| Trial::exact(bits(&units), units)))
    }
}

/// A tool that is tried only if no other tool can code the subject.
struct StandIn<T>(T);

impl<S, T, E, I: Tool<S, T, E>> Tool<S, T, E> for StandIn<I> {
    fn attempt<'t>(&'t self, subject: &'t S, best: Option<&Trial<T>>) -> Result<Option<Trial<'t, T>>, E> {
        if best.is_some() { Ok(None) } else { self.0.attempt(subject, None) }
    }
}

/// Codes the integers of a tile in mode lattice.
fn lattice_units(encoder: &TileEncoder, integers: &Integers, tile: &Tile) -> Option<Units> {
    let unit = encoder.lattice(tile.place, &integers.tile(tile.place))?;
    Some(vec![(Mode::LATTICE, unit)])
}

/// The tool for mode lattice, with integers that were chosen for the whole matrix.
pub struct Lattice<'a> {
    pub encoder: &'a TileEncoder<'a>,
    pub integers: &'a Integers,
    pub grid: &'a Grid,
}

impl<'a> Tool<Tile<'a>, Units, CodecError> for Lattice<'_> {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        _: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let distortion = || self.integers.distortion(tile.matrix, self.grid, tile.place);
        let units = lattice_units(self.encoder, self.integers, tile);
        Ok(units.map(|units| Trial::lossy(bits(&units), units, distortion)))
    }
}

/// The tool for integers of a format, which were chosen for the whole matrix. No other tool competes with it.
pub struct OfFormat<'a> {
    pub encoder: &'a TileEncoder<'a>,
    pub integers: &'a Integers,
}

impl<'a> Tool<Tile<'a>, Units, CodecError> for OfFormat<'_> {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        _: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let units = lattice_units(self.encoder, self.integers, tile);
        Ok(units.map(|units| Trial::exact(bits(&units), units)))
    }
}

/// The tool for mode transform.
pub struct Transform<'a> {
    pub grid: &'a Grid,
    /// How tiles are coded; their values, widths and references are filled in.
    pub request: Request<'a>,
    /// The elements of the matrix that its tiles may be predicted from, row-major, if there is one.
    pub reference: Option<&'a [u8]>,
}

impl<'a> Tool<Tile<'a>, Units, CodecError> for Transform<'_> {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        _: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let MatrixView { dtype, columns, .. } = *tile.matrix;
        let reference = self.reference.map(|elements| part(elements, dtype, columns, tile.place));
        let coded = transform::code_tile(tile.matrix, self.grid, tile.place, &self.request, reference.as_deref());
        let Some((unit, distortion)) = coded else { return Ok(None) };
        let units = vec![(Mode::TRANSFORM, unit)];
        Ok(Some(Trial::lossy(bits(&units), units, move || distortion)))
    }
}

/// The tool for all layers of a layered tensor.
pub struct Layered<'a> {
    pub nested: &'a Nested<'a>,
    pub segments: usize,
}

impl<'a> Tool<Tile<'a>, Units, CodecError> for Layered<'_> {
    fn attempt<'t>(
        &'t self,
        tile: &'t Tile<'a>,
        _: Option<&Trial<Units>>,
    ) -> Result<Option<Trial<'t, Units>>, CodecError> {
        let units = self.nested.tile(tile.place, self.segments);
        let distortion = || self.nested.distortion(tile.place);
        Ok(units.map(|units| Trial::lossy(bits(&units), units, distortion)))
    }
}

#[cfg(test)]
mod tests {
    use impasto_codec::{Body, IndexArray, Shape, TensorHeader};
    use impasto_core::DType;

    use super::*;

    const PLACE: Place = Place { rows: 0..64, columns: 0..256 };

    /// Returns the mode that is chosen for a tile of BF16 weights, under classes for weights of about 2^-r in row `r`.
    fn coded(weight: impl Fn(usize, usize) -> u16) -> Mode {
        let (rows, columns) = (PLACE.rows.len(), PLACE.columns.len());
        let bytes: Vec<u8> = (0..rows * columns).flat_map(|i| weight(i / columns, i % columns).to_le_bytes()).collect();
        let matrix = MatrixView::plain(&bytes, DType::Bf16, rows, columns);
        let header = TensorHeader {
            shape: Shape::Parametric(1),
            plane: 6,
            row_classes: IndexArray::new((0..rows as i16).map(|r| 4 * (127 - r)).collect()),
            column_classes: IndexArray::Constant(0),
            body: Body::Float,
        };
        let encoder = TileEncoder::new(&header, 1);
        code_exact(&Tile::new(&matrix, &PLACE), Some(&encoder)).expect("codes")[0].0
    }

    #[test]
    fn each_tool_has_its_tiles() {
        assert_eq!(coded(|_, _| 0), Mode::DIGITS, "one value");
        assert_eq!(coded(|r, c| (r * r * 7 + c % 3 * 1000) as u16), Mode::ZSTD, "repeated bytes");
        let scaled = |r: usize, c: usize| {
            let mut noise = (r * 256 + c) as u64;
            for _ in 0..4 {
                noise = (noise ^ noise >> 29).wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            }
            (127 - r as u16 - (noise >> 40 | 64).trailing_zeros() as u16) << 7 | (noise >> 20 & 0x807F) as u16
        };
        assert_eq!(coded(scaled), Mode::FLOAT);
    }

    #[test]
    fn a_stand_in_stands_back() {
        let bytes = [0; 64 * 256 * 2];
        let matrix = MatrixView::plain(&bytes, DType::Bf16, 64, 256);
        let tile = Tile::new(&matrix, &PLACE);
        let best = Trial::exact(u64::MAX, vec![]);
        let stand_in = StandIn(Bytes);
        assert!(stand_in.attempt(&tile, Some(&best)).expect("no error").is_none());
        assert_eq!(stand_in.attempt(&tile, None).expect("codes").expect("a trial").outcome[0].0, Mode::ZSTD);
        let trial = Bytes.attempt(&tile, None).expect("codes").expect("a trial");
        assert_eq!(trial.bits, trial.outcome[0].1.len() as u64 * BYTE);
    }
}
