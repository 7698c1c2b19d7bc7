//! Decisions about a tensor before it is coded: mode, tensor header, tiles.

use impasto_codec::exact::signs_of_row;
use impasto_codec::sink::Counts;
use impasto_codec::tile::encode_bytes;
use impasto_codec::tile::syntax::{ExactRow, Sums, exact_row, float_row};
use impasto_codec::{Body, IndexArray, Kind, LowRank, TensorHeader};
use impasto_container::expansion::RATIO;
use impasto_container::{Matrix, MatrixError};
use impasto_core::{DType, FloatLayout, Format, Isa, Place};
use rayon::prelude::*;

use crate::lattice::Grid;
use crate::layers::exact::{exact_class, exact_plane, header};
use crate::matrix::MatrixView;
use crate::rate::Rate;
use crate::scales::Scales;
use crate::shapes::best_shape;
use crate::tiles::{LEAST_TARGET, TARGET_BYTES, delta_tile_shape, empty_tile_shape, tile_shape};
use crate::tools::TENSOR_LEVEL;

/// Bytes of each part of a tensor that is compressed to estimate its rate.
const SAMPLE: usize = 128 << 10;
/// Approximate bits per weight of a refinement, for a factor of 2 to 3.
const REFINEMENT_BITS: f64 = 1.5;
/// Fewest units of a refinement over the whole file.
const STEPS: u64 = 256;
/// Approximate bytes of the unit of a tile that codes to almost nothing, padded.
const EMPTY_UNIT: u64 = 32;
/// Rows that are counted together.
const CHUNK: usize = 64;
/// About so many elements of a tensor are counted to fit its tables, but at least one row in [`MOST_PARTS`].
const SAMPLED: usize = 1 << 17;
const MOST_PARTS: usize = 16;
/// Fewest bits per weight that the size of tiles with transforms is made for, so that what codes them
/// fits the memory of a tile.
const LEAST_BITS: f64 = 2.0;
/// Bits per weight that the size of tiles is made for that are coded as in JPEG, in 1000ths: one size at all rates.
const JPEG_MILLIBITS: u64 = 4000;
/// Width of a class, a quarter of an octave, in the unit of [`Scales`].
const CLASS: i32 = 1 << 14;

/// The mode of a tensor, with what it requires.
pub enum Coding {
    /// Stored or compressed with Zstandard.
    Bytes,
    /// Exact floats under scale classes.
    Float(TensorHeader),
    /// Exact floats over those of the base.
    Delta(TensorHeader),
    /// Lattice integers; their classes and tables are chosen once all integers are known.
    Lattice(Grid),
    /// Integers of a format, likewise.
    Format(Format),
    /// Lattice integers or transforms, whichever are cheaper, tile by tile.
    Transform(Grid),
    /// Blocks as in JPEG.
    Jpeg(Grid, TensorHeader),
}

impl Coding {
    /// Returns whether it depends on a global step.
    pub fn has_steps(&self) -> bool {
        matches!(self, Coding::Lattice(_) | Coding::Transform(_) | Coding::Jpeg(..))
    }

    /// Replaces its steps, if it has some.
    pub fn set_grid(&mut self, grid: Grid) {
        match self {
            Coding::Lattice(own) => *own = grid.on(own.trellis),
            Coding::Transform(own) => *own = grid,
            Coding::Jpeg(own, header) => (*header, *own) = (grid.header(), grid),
            Coding::Bytes | Coding::Float(_) | Coding::Delta(_) | Coding::Format(_) => {}
        }
    }
}

/// How a tensor will be coded.
pub struct Plan {
    /// The mode.
    pub coding: Coding,
    /// The matrix and its tiles.
    pub tiles: Matrix,
    /// Forecast of its size in bytes, including tensor header, lane states and padding.
    pub bytes: u64,
    /// Number of the tensor that its tiles may be predicted from; it has the same tiles.
    pub reference: Option<usize>,
    /// Whether its weights are coded over those of the base.
    pub is_over: bool,
}

impl Plan {
    /// Creates a plan. `bits` is the forecast of the elements, `header_bytes` that of the tensor header.
    fn new(matrix: &MatrixView, coding: Coding, bits: u64, header_bytes: u64) -> Result<Plan, MatrixError> {
        let millibits = bits.saturating_mul(1000) / matrix.len().max(1) as u64;
        Plan::with_tiles_for(millibits, TARGET_BYTES, matrix, coding, bits, header_bytes)
    }

    /// Like [`Plan::new`], with tiles for units of `target` bytes at `millibits` / 1000 bits per element.
    fn with_tiles_for(
        millibits: u64,
        target: u64,
        matrix: &MatrixView,
        coding: Coding,
        bits: u64,
        header_bytes: u64,
    ) -> Result<Plan, MatrixError> {
        let (rows, columns) = (matrix.rows as u64, matrix.columns as u64);
        let (tile_rows, tile_columns) =
            tile_shape(rows, columns, millibits, matrix.dtype, target, matrix.unit() as u64);
        let tiles = Matrix::new(rows, columns, tile_rows, tile_columns)?;
        // A tensor header is padded to 16 bytes, by 8 on average. A tile has its lengths, padding, and lane states,
        // which carry three bytes less than they take.
        let has_header = !matches!(coding, Coding::Bytes);
        let header_bytes = if has_header { header_bytes + 8 } else { 0 };
        let has_lanes = has_header && !matches!(coding, Coding::Jpeg(..));
        let tile_bytes = if has_lanes { 9 + 32 * 3 + 8 } else { 8 };
        let bytes = bits.div_ceil(8) + header_bytes + u64::from(tiles.tile_count()) * tile_bytes;
        Ok(Plan { coding, tiles, bytes, reference: None, is_over: matrix.over.is_some() })
    }

    /// Plans a tensor that is stored or compressed with Zstandard. The size of its tiles follows from its rate, which
    /// is estimated from parts of its beginning, middle and end.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn bytes(matrix: &MatrixView) -> Result<Plan, MatrixError> {
        let (size, elements) = (matrix.dtype.size(), matrix.len());
        let part = SAMPLE / size;
        if elements <= 2 * part {
            return Plan::new(matrix, Coding::Bytes, (elements * size) as u64 * 8, 0);
        }
        let middle = elements / 2;
        let parts = [0..part, middle..middle + part, elements - part..elements];
        let sample = parts.map(|part| matrix.elements(part)).concat();
        let coded = encode_bytes(&sample, matrix.dtype, TENSOR_LEVEL).map_or(sample.len(), |(_, unit)| unit.len());
        let bits = (elements * size) as u128 * 8 * coded as u128 / sample.len() as u128;
        Plan::new(matrix, Coding::Bytes, bits as u64, 0)
    }

    /// Returns the plan, with smaller tiles if it is that of a tensor that codes to almost nothing, so that it expands no
    /// more than readers allow (SPEC 11.3).
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn paying(self, matrix: &MatrixView) -> Result<Plan, MatrixError> {
        let raw = matrix.len() as u64 * matrix.dtype.size() as u64;
        if raw <= self.bytes.saturating_mul(RATIO / 2) || !matches!(self.coding, Coding::Bytes) {
            return Ok(self);
        }
        let (rows, columns) = (matrix.rows as u64, matrix.columns as u64);
        let (tile_rows, tile_columns) = empty_tile_shape(rows, columns, matrix.dtype);
        let tiles = Matrix::new(rows, columns, tile_rows, tile_columns)?;
        Ok(Plan { tiles, bytes: self.bytes + u64::from(tiles.tile_count()) * EMPTY_UNIT, ..self })
    }

    /// Plans a tensor whose floats are kept exactly.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn float(matrix: &MatrixView, layout: FloatLayout, scales: &Scales) -> Result<Plan, MatrixError> {
        let bias = (1 << (layout.exponent - 1)) - 1;
        // The class is 4 (log2 of the scale + bias): SPEC 7.4.
        let (row_classes, column_classes) = classes(scales, 4 * bias * CLASS);
        let counts = count(matrix, layout, &row_classes, &column_classes);
        let (shape, bits) = best_shape(&counts);
        let header = TensorHeader {
            shape,
            plane: layout.raw_bits() as u8,
            row_classes: IndexArray::new(row_classes),
            column_classes: IndexArray::new(column_classes),
            body: Body::Float,
        };
        let header_bytes = header.to_bytes().len() as u64;
        Plan::new(matrix, Coding::Float(header), bits, header_bytes)
    }

    /// Plans a tensor with a format, with a forecast of its rate.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn format(matrix: &MatrixView, format: Format, rate: Rate) -> Result<Plan, MatrixError> {
        let bits = (rate.bits * matrix.len() as f64) as u64;
        Plan::new(matrix, Coding::Format(format), bits, rate.header_bytes as u64)
    }

    /// Plans a tensor whose tiles are on a lattice or have transforms, with a forecast of its rate.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn transform(matrix: &MatrixView, grid: Grid, rate: Rate) -> Result<Plan, MatrixError> {
        let (bits, header_bytes) = ((rate.bits * matrix.len() as f64) as u64, rate.header_bytes as u64);
        let millibits = (rate.bits.max(LEAST_BITS) * 1000.0) as u64;
        Plan::with_tiles_for(millibits, TARGET_BYTES, matrix, Coding::Transform(grid), bits, header_bytes)
    }

    /// Plans a tensor whose tiles are coded as in JPEG, with a forecast of its rate.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn jpeg(matrix: &MatrixView, grid: Grid, rate: Rate) -> Result<Plan, MatrixError> {
        let (bits, header_bytes) = ((rate.bits * matrix.len() as f64) as u64, rate.header_bytes as u64);
        let header = grid.header();
        let coding = Coding::Jpeg(grid, header);
        Plan::with_tiles_for(JPEG_MILLIBITS, TARGET_BYTES, matrix, coding, bits, header_bytes)
    }

    /// Returns the place of the tile in the middle of a matrix whose tiles are coded as in JPEG.
    pub fn jpeg_tile(matrix: &MatrixView) -> Place {
        let (rows, columns) = (matrix.rows as u64, matrix.columns as u64);
        let (height, width) =
            tile_shape(rows, columns, JPEG_MILLIBITS, matrix.dtype, TARGET_BYTES, matrix.unit() as u64);
        let part = |length: u64, tile: u64| {
            let start = length / tile / 2 * tile;
            start as usize..(start + tile).min(length) as usize
        };
        Place { rows: part(rows, height.min(rows)), columns: part(columns, width.min(columns)) }
    }

    /// Plans a tensor on a lattice, with a forecast of its rate.
    ///
    /// `refined` is the number of weights of a file with refinements, whose units are the smallest. If that does not
    /// make them too small, tiles are chosen such that there are at least [`STEPS`] units per refinement, to meet sizes
    /// between layers.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn lattice(matrix: &MatrixView, grid: Grid, rate: Rate, refined: Option<u64>) -> Result<Plan, MatrixError> {
        let (thinnest, target) = match refined {
            None => (rate.bits, TARGET_BYTES),
            Some(weights) => {
                let all = weights as f64 * REFINEMENT_BITS / 8.0;
                (rate.bits.min(REFINEMENT_BITS), (all as u64 / STEPS).clamp(LEAST_TARGET, TARGET_BYTES))
            }
        };
        let bits = rate.bits * matrix.len() as f64;
        let (bits, header_bytes) = (bits as u64, rate.header_bytes as u64);
        Plan::with_tiles_for((thinnest * 1000.0) as u64, target, matrix, Coding::Lattice(grid), bits, header_bytes)
    }
}

impl Plan {
    /// Plans a tensor that is kept exactly, over elements that are predicted from the base: its own or, with `low_rank`, those to
    /// which this part was added. `tiles` are the rows and columns of the tiles of the base. `scales` are those of the differences.
    ///
    /// # Errors
    /// If the format cannot hold the division into tiles.
    pub fn delta(
        matrix: &MatrixView,
        layout: FloatLayout,
        predicted: &[u8],
        low_rank: Option<LowRank>,
        scales: &Scales,
        tiles: (u64, u64),
    ) -> Result<Plan, MatrixError> {
        let body = low_rank.map_or(Body::Exact, Body::ExactOver);
        let with_plane = |plane: u8| {
            let (row_classes, column_classes) = classes(scales, exact_class(layout, plane) * CLASS);
            header(plane, row_classes, column_classes, body.clone(), |counts, sums, r| {
                let n = matrix.columns * matrix.dtype.size();
                let (mut signs, predicted) = (Vec::new(), &predicted[r * n..(r + 1) * n]);
                signs_of_row(Isa::best(), layout, predicted, &mut signs);
                exact_row(counts, layout, plane, sums, ExactRow { z: &signs, predicted, elements: &matrix.row(r) });
            })
        };
        // The more weights are unchanged, the more raw bits cost; the larger the differences, the less.
        let most = exact_plane(layout);
        let (mut header, mut bits) = with_plane(most);
        for plane in [most / 2, 0].into_iter().filter(|&plane| plane < most) {
            let (other, fewer) = with_plane(plane);
            if fewer < bits {
                (header, bits) = (other, fewer);
            }
        }
        let header_bytes = header.to_bytes().len() as u64;
        let (rows, columns) = (matrix.rows as u64, matrix.columns as u64);
        let (tile_rows, tile_columns) = delta_tile_shape(rows, columns, tiles);
        let tiles = Matrix::new(rows, columns, tile_rows, tile_columns)?;
        let bytes = bits.div_ceil(8) + header_bytes + u64::from(tiles.tile_count()) * (9 + 32 * 3 + 8);
        Ok(Plan { coding: Coding::Delta(header), tiles, bytes, reference: None, is_over: true })
    }
}

/// Returns class indices of rows and columns, each rounded, whose sum is about `4 log2(scale)` plus `offset`. The
/// offset is in the unit of [`Scales`].
fn classes(scales: &Scales, offset: i32) -> (Vec<i16>, Vec<i16>) {
    let class = |log: i32, offset: i32| (log + offset + CLASS / 2).div_euclid(CLASS) as i16;
    (scales.rows.iter().map(|&l| class(l, offset)).collect(), scales.columns.iter().map(|&l| class(l, 0)).collect())
}

/// Counts the symbols of a sample of the rows; of all rows, unless there are many elements.
fn count(matrix: &MatrixView, layout: FloatLayout, rows: &[i16], columns: &[i16]) -> Counts {
    let columns: Vec<i32> = columns.iter().map(|&c| i32::from(c)).collect();
    let parts = (matrix.len() / SAMPLED).clamp(1, MOST_PARTS);
    let chunk = |i: usize| {
        let mut counts = Counts::new(Kind::Float);
        for (r, &row) in rows.iter().enumerate().skip(i * CHUNK).take(CHUNK).step_by(parts) {
            float_row(&mut counts, layout, Sums { row: row.into(), columns: &columns }, &matrix.row(r));
        }
        counts
    };
    let empty = || Counts::new(Kind::Float);
    let counts = (0..matrix.rows.div_ceil(CHUNK)).into_par_iter().map(chunk).reduce(empty, Counts::merged);
    if parts > 1 { counts.of_sample(parts as u64) } else { counts }
}

/// Returns whether a tensor of this dtype can be coded on a lattice.
pub fn has_lattice(dtype: DType) -> bool {
    matches!(dtype, DType::F32 | DType::F16 | DType::Bf16)
}
