//! Where a model comes from.

use std::ops::Range;
use std::sync::Arc;

/// Why a source cannot give a tensor: its own words.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// Where a model's weights and assets come from: a checkpoint, an `.impasto` file, a test.
pub trait WeightSource {
    /// Shape of the tensor `name`, outermost dimension first, or `None` when there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<u64>>;

    /// Values of the tensor `name` in row-major order, widened or rounded to binary32.
    ///
    /// # Errors
    /// Whatever keeps the source from giving the tensor: absent, damaged, unreadable.
    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure>;

    /// Bytes of an asset that rides along with the weights, or `None`. The names asked for are `config.json`,
    /// `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`.
    fn asset(&self, name: &str) -> Option<Vec<u8>>;

    /// The matrix `name` as integers on a scalar lattice, if that is what it is.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn lattice(&self, name: &str) -> Result<Option<Box<dyn LatticeTensor + '_>>, Failure> {
        _ = name;
        Ok(None)
    }

    /// The tensor `name` if its elements are 16-bit floats.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn load_half(&self, name: &str) -> Result<Option<Halves>, Failure> {
        _ = name;
        Ok(None)
    }

    /// The matrix `name` as it is coded, to be decoded whenever it is used, if the source keeps it so.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn coded(&self, name: &str) -> Result<Option<Arc<dyn CodedTensor>>, Failure> {
        _ = name;
        Ok(None)
    }
}

/// 16-bit floats, by their bits, row-major.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Halves {
    /// bfloat16.
    Bf16(Vec<u16>),
    /// binary16.
    F16(Vec<u16>),
}

/// A matrix on a scalar lattice: W\[r\]\[c\] = row step x column step x (z + offset / 256 away from 0), z integers
/// (SPEC 10.3).
pub trait LatticeTensor: Sync {
    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2];

    /// The step of each column.
    fn column_steps(&self) -> &[f32];

    /// How wide the integers of each column are, in quarter octaves over any base: what columns are sorted by.
    fn column_widths(&self) -> &[i32];

    /// Rows that are read together, in order; together all rows.
    fn bands(&self) -> Vec<Range<usize>>;

    /// Reads band number `band`.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn read(&self, band: usize, out: &mut LatticeBand) -> Result<(), Failure>;
}

/// Some rows of a [`LatticeTensor`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatticeBand {
    /// The integers, rows x inputs.
    pub integers: Vec<i32>,
    /// The step of each row, that of the tensor included.
    pub row_steps: Vec<f32>,
    /// How wide the integers of each row are, in quarter octaves over any base.
    pub row_widths: Vec<i32>,
    /// How far beyond its integer a weight lies, in 256ths of a step.
    pub offset: u8,
}

/// A matrix that stays entropy-coded in memory.
pub trait CodedTensor: Send + Sync {
    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2];

    /// Bytes that it takes in memory, what it is decoded with included.
    fn memory_bytes(&self) -> usize;

    /// Rows that are decoded together, in order; together all rows.
    fn tile_rows(&self) -> &[Range<usize>];

    /// The weights of tile row number `tile_row`: rows x inputs, in `out` in place of what it holds. Several threads may read at once.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn read(&self, tile_row: usize, out: &mut Vec<f32>) -> Result<(), Failure>;
}
