//! Tensors of a file in the forms that the runtime takes: as integers, or coded as in the file.

use std::ops::Range;
use std::sync::Arc;

use impasto_codec::tile::TileDecoder;
use impasto_codec::{IndexArray, LowRank, TensorHeader};
use impasto_container::{Object, Source};
use impasto_core::{
    DType,
    lattice::{row_scale, scale},
    values,
};
use impasto_model::{CodedTensor, Failure, LatticeRows, LatticeTensor, LowRankFactors};

use crate::error::FileError;
use crate::file::File;
use crate::tensor::{Headers, Recent, Tensor};

/// A tensor on a lattice, read as integers.
pub struct Integers<'a, S> {
    tensor: Tensor<'a, S>,
    decoder: Arc<TileDecoder>,
    shape: [usize; 2],
    column_steps: Vec<f32>,
    column_widths: Vec<i32>,
}

impl<'a, S: Source> Integers<'a, S> {
    /// Opens the integers of `tensor`; `None` if it is not on a lattice or not a matrix.
    pub fn new(tensor: Tensor<'a, S>) -> Result<Option<Self>, FileError> {
        if tensor.is_lattice() { Integers::of(tensor) } else { Ok(None) }
    }

    /// Opens the integers that `tensor` adds to that of the base; `None` if it does not, or is not a matrix.
    pub fn added(tensor: Tensor<'a, S>) -> Result<Option<Self>, FileError> {
        if tensor.adds_integers() { Integers::of(tensor) } else { Ok(None) }
    }

    fn of(tensor: Tensor<'a, S>) -> Result<Option<Self>, FileError> {
        let Some(shape) = matrix_shape(&tensor) else { return Ok(None) };
        let decoder = tensor.finest()?;
        let Some((header, steps)) = decoder.header().and_then(|header| Some((header, header.steps()?))) else {
            return Ok(None);
        };
        let all = 0..shape[1];
        let column_steps = match &steps.columns {
            Some(columns) => columns.slice(all.clone()).into_iter().map(scale).collect(),
            None => vec![1.0; shape[1]],
        };
        let column_widths = header.column_classes.slice(all);
        Ok(Some(Integers { tensor, decoder, shape, column_steps, column_widths }))
    }
}

impl<S> Integers<'_, S> {
    /// Returns the low-rank part of the tensor header.
    fn part(&self) -> Option<&LowRank> {
        self.decoder.header()?.steps()?.low_rank.as_ref()
    }
}

impl<S: Source> LatticeTensor for Integers<'_, S> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn column_steps(&self) -> &[f32] {
        &self.column_steps
    }

    fn column_widths(&self) -> &[i32] {
        &self.column_widths
    }

    fn tile_rows(&self) -> Vec<Range<usize>> {
        tile_rows(&self.tensor)
    }

    fn rank(&self) -> usize {
        self.part().map_or(0, LowRank::rank)
    }

    fn low_rank(&self) -> Option<LowRankFactors> {
        Some(factors(self.part()?, self.shape))
    }

    fn read(&self, tile_row: usize, out: &mut LatticeRows) -> Result<(), Failure> {
        let (tensor, rows) = (&self.tensor, rows_of(&self.tensor, tile_row));
        tensor.integers(&self.decoder, tile_row as u64, &mut out.integers)?;
        let headers: Vec<&TensorHeader> = self.decoder.headers().collect();
        let level = usize::from(tensor.level(rows.start as u64));
        let base = headers.first().and_then(|header| Some((header, header.steps()?)));
        // An exact layer above the level has no step, but `new` checked that no band reaches one.
        let finer = headers.get(level).and_then(|header| Some((header.step()?, header.multipliers())));
        let Some(((header, steps), ((step, offset), multipliers))) = base.zip(finer) else {
            return Err("a tile row has no step".into());
        };
        let of_row = |array: Option<&IndexArray>, row| array.map_or(0, |array| array.get(row));
        let row_step = |row| step * row_scale(of_row(steps.rows.as_ref(), row), of_row(multipliers, row));
        (out.row_steps, out.offset) = (rows.clone().map(row_step).collect(), offset);
        out.row_widths = header.row_classes.slice(rows.clone());
        tensor.release(rows.start as u64..rows.end as u64);
        Ok(())
    }
}

/// Returns the factors of the low-rank part of a matrix.
pub fn factors(part: &LowRank, [rows, columns]: [usize; 2]) -> LowRankFactors {
    let factors = |array: &IndexArray, n: usize| array.slice(0..n).into_iter().map(|x| x as i16).collect::<Vec<_>>();
    let of_rows: Vec<Vec<i16>> = part.terms.iter().map(|term| factors(&term.rows, rows)).collect();
    LowRankFactors {
        left: (0..rows).flat_map(|row| of_rows.iter().map(move |factors| factors[row])).collect(),
        scales: part.terms.iter().map(|term| term.scale).collect(),
        right: part.terms.iter().flat_map(|term| factors(&term.columns, columns)).collect(),
    }
}

/// A tensor that stays coded in its file. Its tensor headers are read once.
pub struct Coded<S> {
    file: Arc<File<S>>,
    number: u32,
    shape: [usize; 2],
    headers: Headers,
    recent: Arc<Recent>,
    tile_rows: Vec<Range<usize>>,
}

impl<S: Source> Coded<S> {
    /// Opens object `number` of `file`; `None` if it is not a matrix of floats. The tensors of a file share the
    /// `recent` decoders.
    pub fn new(file: &Arc<File<S>>, number: u32, recent: &Arc<Recent>) -> Result<Option<Self>, FileError> {
        // What is identical to a tensor of the base stays coded there, unless it is read at a lower level than that.
        let (file, number) = &file.home(number);
        let number = *number;
        if file.reader().objects().get(number as usize).is_some_and(Object::is_identical) {
            return Ok(None);
        }
        let tensor = file.object(number)?;
        let float = matches!(tensor.dtype(), DType::F32 | DType::F16 | DType::Bf16);
        let Some(shape) = matrix_shape(&tensor).filter(|_| float) else { return Ok(None) };
        let (headers, tile_rows) = (tensor.headers()?, tile_rows(&tensor));
        Ok(Some(Coded { file: file.clone(), number, shape, headers, recent: recent.clone(), tile_rows }))
    }
}

impl<S: Source> CodedTensor for Coded<S> {
    fn shape(&self) -> [usize; 2] {
        self.shape
    }

    fn memory_bytes(&self) -> usize {
        let reader = self.file.reader();
        let [rows, columns] = self.shape.map(|n| n as u64);
        let units = reader.units_of_band(self.number, 0..rows, 0..columns).unwrap_or_default();
        let lengths = units.into_iter().filter_map(|unit| reader.unit_range(unit));
        self.headers.memory_bytes() + lengths.map(|range| (range.end - range.start) as usize).sum::<usize>()
    }

    fn tile_rows(&self) -> &[Range<usize>] {
        &self.tile_rows
    }

    fn read(&self, tile_row: usize, out: &mut Vec<f32>) -> Result<(), Failure> {
        let tensor = Tensor::of_headers(&self.file, self.number, &self.headers, &self.recent)?;
        let rows = rows_of(&tensor, tile_row);
        let bytes = tensor.tile_row(&self.headers, rows.start as u64..rows.end as u64)?;
        out.clear();
        values::to_f32(tensor.dtype(), &bytes, out);
        Ok(())
    }
}

/// Returns the outputs and inputs of a tensor that is coded as the matrix that it is.
pub fn matrix_shape<S: Source>(tensor: &Tensor<'_, S>) -> Option<[usize; 2]> {
    let &[rows, columns] = tensor.shape() else { return None };
    let matrix = tensor.matrix();
    let same = (matrix.rows(), matrix.cols()) == (rows, columns) && rows > 0 && columns > 0;
    Some([usize::try_from(rows).ok()?, usize::try_from(columns).ok()?]).filter(|_| same)
}

/// Returns the rows of each tile row.
pub fn tile_rows<S: Source>(tensor: &Tensor<'_, S>) -> Vec<Range<usize>> {
    let height = tensor.matrix().tile_rows().max(1);
    (0..tensor.matrix().rows().div_ceil(height) as usize).map(|band| rows_of(tensor, band)).collect()
}

/// Returns the rows of tile row `band`.
pub fn rows_of<S: Source>(tensor: &Tensor<'_, S>, band: usize) -> Range<usize> {
    let (rows, height) = (tensor.matrix().rows() as usize, tensor.matrix().tile_rows().max(1) as usize);
    let first = band.saturating_mul(height).min(rows);
    first..first.saturating_add(height).min(rows)
}

/// Returns the number of a tensor, or of its original if it is tied.
pub fn number<S: Source>(file: &File<S>, name: &str) -> Option<u32> {
    let found = file.reader().find_tensor(name)?;
    file.reader().objects().get(found as usize).and_then(Object::tensor)?;
    Some(file.reader().resolve(found))
}
