//! Tensors as a decoder finds them, for those that are predicted from them.

use std::collections::HashMap;
use std::path::Path;

use impasto_codec::tile::{TileDecoder, Unit};
use impasto_codec::{CodecError, TensorHeader};
use impasto_container::Matrix;
use impasto_core::{DType, Isa, Mode, Place};

use crate::error::EncodeError;
use crate::spool::{Span, Spool};

/// The elements of references, in a temporary file.
pub struct References {
    spool: Spool,
    spans: HashMap<usize, Span>,
}

impl References {
    /// Creates an empty collection. The temporary file is in the folder of `path`.
    pub fn beside(path: &Path) -> Result<References, EncodeError> {
        Ok(References { spool: Spool::beside(path)?, spans: HashMap::new() })
    }

    /// Keeps the elements of a tensor.
    pub fn push(&mut self, tensor: usize, elements: &[u8]) -> Result<(), EncodeError> {
        self.spans.insert(tensor, self.spool.push(elements)?);
        Ok(())
    }

    /// Returns the elements of a tensor, row-major; `None` if they were not kept.
    pub fn elements(&mut self, tensor: usize) -> Result<Option<Vec<u8>>, EncodeError> {
        let Some(&span) = self.spans.get(&tensor) else { return Ok(None) };
        let mut out = Vec::new();
        self.spool.read(span, &mut out)?;
        Ok(Some(out))
    }
}

/// Decodes the units of a tensor in layer 0, which are in order, its tensor header first. `reference` has the elements of the tensor
/// that it is predicted from, if there is one. Returns its elements, row-major.
pub fn elements(
    dtype: DType,
    tiles: &Matrix,
    units: &[(Mode, Vec<u8>)],
    reference: Option<&[u8]>,
) -> Result<Vec<u8>, CodecError> {
    let (headers, units): (Vec<_>, Vec<_>) = units.iter().partition(|(mode, _)| *mode == Mode::TENSOR_HEADER);
    let headers = headers.iter().map(|(_, unit)| TensorHeader::read(unit, dtype, tiles.rows(), tiles.cols()));
    let decoder = TileDecoder::new(dtype, headers.collect::<Result<_, _>>()?, Isa::best())?;
    let stride = tiles.cols() as usize * dtype.size();
    let mut out = vec![0; tiles.rows() as usize * stride];
    for ((mode, bytes), rect) in units.iter().zip((0..).map_while(|tile| tiles.tile(tile))) {
        let place = Place::from(rect);
        let at = place.rows.start * stride + place.columns.start * dtype.size();
        let reference = reference.map(|elements| part(elements, dtype, tiles.cols() as usize, &place));
        decoder.decode_predicted(
            &[Unit { mode: *mode, bytes }],
            reference.as_deref(),
            &place,
            &mut out[at..],
            stride,
        )?;
    }
    Ok(out)
}

/// Returns the elements of a place of a matrix with `columns` columns, row-major.
pub fn part(elements: &[u8], dtype: DType, columns: usize, place: &Place) -> Vec<u8> {
    let size = dtype.size();
    let row =
        |r: usize| &elements[(r * columns + place.columns.start) * size..(r * columns + place.columns.end) * size];
    place.rows.clone().flat_map(row).copied().collect()
}
