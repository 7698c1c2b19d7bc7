//! Access to a tensor for the runtime: integers or weights of a lattice, one tile row at a time.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use impasto_codec::tile::TileDecoder;
use impasto_codec::{CodecError, TensorHeader};
use impasto_container::Source;
use impasto_core::{DType, Isa};

use super::{Reading, Tensor};
use crate::error::FileError;
use crate::file::File;

/// Number of tensors whose decoders are kept: those of one product, and of the next if threads are not in step.
const RECENT: usize = 8;

/// The checked tensor headers of an object, from which a [`Tensor`] can be opened again without reading.
pub(crate) struct Headers {
    dtype: DType,
    isa: Isa,
    /// From layer 0 up to the finest level.
    layers: Vec<TensorHeader>,
    level: u8,
    /// Those of the tensor that tiles may be predicted from, if there is one.
    reference: Option<Box<Headers>>,
    is_delta: bool,
}

impl Headers {
    /// Returns the memory that they take, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        let own = self.layers.iter().map(TensorHeader::memory_bytes).sum::<usize>();
        own + self.reference.as_ref().map_or(0, |reference| reference.memory_bytes())
    }
}

/// Decoders of the most recently read tensors, by number. The tables of a decoder are as large as the units of a small
/// tensor, too large to keep for all tensors, but they are needed for each tile row.
#[derive(Default)]
pub(crate) struct Recent(Mutex<VecDeque<(u32, Arc<TileDecoder>)>>);

impl Recent {
    /// Returns the decoder of object `number`, which has these headers.
    fn decoder(&self, number: u32, headers: &Headers) -> Result<Arc<TileDecoder>, CodecError> {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, decoder)) = recent.iter().find(|(of, _)| *of == number) {
            return Ok(decoder.clone());
        }
        let made = if headers.is_delta { TileDecoder::delta } else { TileDecoder::new };
        let decoder = Arc::new(made(headers.dtype, headers.layers.clone(), headers.isa)?);
        recent.truncate(RECENT - 1);
        recent.push_front((number, decoder.clone()));
        Ok(decoder)
    }
}

impl<'a, S: Source> Tensor<'a, S> {
    /// Opens object `number` of a file, which has these headers. Nothing is read.
    pub(crate) fn of_headers(
        file: &'a File<S>,
        number: u32,
        headers: &Headers,
        recent: &Recent,
    ) -> Result<Self, FileError> {
        let broken =
            |error| file.broken(file.reader.units_of(number).and_then(|u| u.header).unwrap_or_default(), error);
        let reference = match (&headers.reference, file.reader.reference_of(number)) {
            (Some(headers), Some(number)) => Some(Box::new(Tensor::of_headers(file, number, headers, recent)?)),
            _ => None,
        };
        let over = match headers.is_delta {
            true => file.of_base(number)?.map(|(tensor, _)| Box::new(tensor)),
            false => None,
        };
        let tensor = Tensor::with(file, number, || recent.decoder(number, headers).map_err(broken))?;
        Ok(Tensor { reference, over, ..tensor })
    }

    /// Returns its tensor headers, for every level at which it can be read.
    pub(crate) fn headers(&self) -> Result<Headers, FileError> {
        let layers = self.finest()?.headers().cloned().collect();
        let reference = self.reference.as_ref().map(|reference| reference.headers().map(Box::new)).transpose()?;
        let is_delta = self.over.is_some();
        Ok(Headers { dtype: self.dtype, isa: self.file.isa, layers, level: self.finest_level(), reference, is_delta })
    }

    /// Returns the weights of one whole tile row, given by its rows, as bytes of its dtype. Runs on this thread only.
    pub(crate) fn tile_row(&self, headers: &Headers, rows: Range<u64>) -> Result<Vec<u8>, FileError> {
        let level = self.level(rows.start).min(headers.level);
        let bytes = (rows.end - rows.start).saturating_mul(self.stride() as u64);
        self.file.within_memory(self.number, bytes.saturating_add(self.working_bytes()), self.limit)?;
        let mut out = vec![0; bytes as usize];
        // A tensor from headers has the decoder of the finest level, which also decodes the coarser ones.
        self.decode_tile_row(&self.base, level, rows, &mut out).map(|()| out)
    }

    /// Writes the weights of one whole tile row, given by its rows, to `out`, as bytes of its dtype. `decoder` is that of
    /// the finest level. Runs on this thread only.
    pub(crate) fn tile_row_into(
        &self,
        decoder: &TileDecoder,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        self.file.within_memory(self.number, (out.len() as u64).saturating_add(self.working_bytes()), self.limit)?;
        self.decode_tile_row(decoder, self.level(rows.start), rows, out)
    }

    fn decode_tile_row(
        &self,
        decoder: &TileDecoder,
        level: u8,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<(), FileError> {
        let columns = 0..self.matrix.cols();
        let units = self.file.reader.fetch(&self.units_meeting(level, &rows, &columns))?;
        let reading = Reading { decoder, level, units: &units };
        let decoded = self.row_of_tiles(&reading, rows, columns, out, self.stride());
        self.file.settled(decoded)
    }

    /// Returns the bytes of a row of its matrix.
    fn stride(&self) -> usize {
        self.matrix.cols() as usize * self.dtype.size()
    }

    /// Advises that rows of the matrix will not be read again soon, so that their units can leave memory.
    pub(crate) fn release(&self, rows: Range<u64>) {
        let reader = &self.file.reader;
        for unit in reader.units_of_band(self.number, rows, 0..self.matrix.cols()).unwrap_or_default() {
            reader.release_unit(unit);
        }
    }
}
