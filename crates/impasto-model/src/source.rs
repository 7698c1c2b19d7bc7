//! Sources of weights.

use std::ops::Range;
use std::sync::Arc;

use impasto_core::DType;

/// The error of a source.
pub type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A source of a model's weights and assets: a checkpoint, an `.impasto` file, or a test. Threads read from it at the same
/// time.
pub trait WeightSource: Sync {
    /// Returns the shape of the tensor `name`, outermost dimension first, or `None` if there is no such tensor.
    fn shape(&self, name: &str) -> Option<Vec<u64>>;

    /// Returns the names of all tensors. A source that leaves out some, as this default does all, only loses the check
    /// that the network uses them.
    fn tensor_names(&self) -> Vec<String> {
        Vec::new()
    }

    /// Returns whether the tensors `a` and `b` have the same shape and values.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn is_same(&self, a: &str, b: &str) -> Result<bool, Failure> {
        Ok(self.shape(a) == self.shape(b) && self.load_f32(a)? == self.load_f32(b)?)
    }

    /// Returns the values of the tensor `name` in row-major order, widened or rounded to binary32.
    ///
    /// # Errors
    /// If the tensor is absent, damaged or unreadable.
    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure>;

    /// Returns the bytes of an asset, or `None` if there is no such asset. Requested names are `config.json`,
    /// `tokenizer.json`, `tokenizer_config.json`, `generation_config.json` and `chat_template.jinja`, and
    /// `tokenizer.json#compiled`, which a source may have in addition.
    fn asset(&self, name: &str) -> Option<Vec<u8>>;

    /// Returns why there is no asset `name`, in one line, if the source knows.
    fn why_absent(&self, name: &str) -> Option<String> {
        _ = name;
        None
    }

    /// Returns the matrix `name` as integers on a scalar lattice, if it is one.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn lattice(&self, name: &str) -> Result<Option<Box<dyn LatticeTensor + '_>>, Failure> {
        _ = name;
        Ok(None)
    }

    /// Returns the matrix `name` if its elements are 16-bit floats.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn halves(&self, name: &str) -> Result<Option<Box<dyn HalfTensor + '_>>, Failure> {
        _ = name;
        Ok(None)
    }

    /// Returns the blocks of the matrix `name`, as they are stored, if they are of a dtype that has a form
    /// ([`Form::of`](impasto_core::blocks::apart::Form::of)).
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn load_blocks(&self, name: &str) -> Result<Option<Blocks>, Failure> {
        _ = name;
        Ok(None)
    }

    /// Returns what is the same for two sources exactly if all their weights are; `None` if the source does not know.
    fn identity(&self) -> Option<[u8; 32]> {
        None
    }

    /// Returns what is the same for two sources exactly if they give the same weights, in this process or another; `None` if the
    /// source does not know. A part of a file has another than the whole.
    fn content(&self) -> Option<[u8; 32]> {
        None
    }

    /// Returns a number that is higher if more of the tensor `name` is there: for sources that grow.
    fn extent_of(&self, name: &str) -> u64 {
        _ = name;
        0
    }

    /// Returns the weights that these are a delta of, if they are one.
    fn base(&self) -> Option<&dyn WeightSource> {
        None
    }

    /// Returns the name of the matrix of the base that the matrix `name` is the same as, or differs from, if there is one.
    fn name_in_base(&self, name: &str) -> Option<String> {
        _ = name;
        None
    }

    /// Returns how the matrix `name` differs from that of the base, if this takes much less memory than the matrix.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn difference(&self, name: &str) -> Result<Option<Difference<'_>>, Failure> {
        _ = name;
        Ok(None)
    }

    /// Returns whether the asset `name` is that of the base.
    fn is_asset_of_base(&self, name: &str) -> bool {
        _ = name;
        false
    }

    /// Returns the matrix `name` in coded form, to be decoded in every product, if the source supports it.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn coded(&self, name: &str) -> Result<Option<Arc<dyn CodedTensor>>, Failure> {
        _ = name;
        Ok(None)
    }
}

/// A matrix of 16-bit floats.
pub trait HalfTensor: Send + Sync {
    /// Their dtype: [`DType::Bf16`] or [`DType::F16`].
    fn dtype(&self) -> DType;

    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2];

    /// Ranges of rows that are read together, in order; they cover all rows.
    fn tile_rows(&self) -> Vec<Range<usize>>;

    /// Writes the bits of the tile row with index `tile_row` to `out`: rows x inputs, row-major.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`]; `out` has another length.
    fn read(&self, tile_row: usize, out: &mut [u16]) -> Result<(), Failure>;
}

/// The blocks of a matrix, row by row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocks {
    /// Their dtype.
    pub dtype: DType,
    /// Their bytes.
    pub bytes: Vec<u8>,
}

/// A matrix on a scalar lattice: W\[r\]\[c\] = row step x column step x (z + offset / 256 away from 0), with integers z
/// (SPEC 10.3).
pub trait LatticeTensor: Send + Sync {
    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2];

    /// The step of each column.
    fn column_steps(&self) -> &[f32];

    /// The width of the integers of each column, in quarter octaves relative to any base. Columns are sorted by it.
    fn column_widths(&self) -> &[i32];

    /// Ranges of rows that are read together, in order; they cover all rows.
    fn tile_rows(&self) -> Vec<Range<usize>>;

    /// The rank of the matrix that is added to that of the integers; 0 if there is none.
    fn rank(&self) -> usize {
        0
    }

    /// That matrix, if there is one.
    fn low_rank(&self) -> Option<LowRankFactors> {
        None
    }

    /// Reads the tile row with index `tile_row`.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn read(&self, tile_row: usize, out: &mut LatticeRows) -> Result<(), Failure>;
}

/// How a matrix differs from one of a base: it is the sum of that and of the matrices that are here. It has as many columns, and may
/// have more rows, in which that of the base is 0.
#[derive(Default)]
pub struct Difference<'a> {
    /// Integers on a lattice.
    pub lattice: Option<Box<dyn LatticeTensor + 'a>>,
    /// A matrix of low rank.
    pub low_rank: Option<LowRankFactors>,
    /// A few weights.
    pub sparse: Option<SparseRows>,
}

/// A matrix of few weights that are not 0.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SparseRows {
    /// Where the entries of each row end.
    pub ends: Vec<usize>,
    /// The column of each entry.
    pub columns: Vec<u16>,
    /// The weight of each entry.
    pub values: Vec<f32>,
}

/// A matrix of low rank: the sum over k of left\[r\]\[k\] x scale\[k\] x right\[k\]\[c\] (SPEC 19). Factors are 2047 at most.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LowRankFactors {
    /// Outputs x rank.
    pub left: Vec<i16>,
    /// One per term.
    pub scales: Vec<f32>,
    /// Rank x inputs.
    pub right: Vec<i16>,
}

/// A tile row of a [`LatticeTensor`].
#[derive(Clone, Debug, Default, PartialEq)]
pub struct LatticeRows {
    /// The integers, rows x inputs.
    pub integers: Vec<i32>,
    /// The step of each row, times that of the tensor.
    pub row_steps: Vec<f32>,
    /// The width of the integers of each row, in quarter octaves relative to any base.
    pub row_widths: Vec<i32>,
    /// Offset of a weight from its integer, away from zero, in 256ths of a step.
    pub offset: u8,
}

/// A matrix that stays entropy-coded in memory.
pub trait CodedTensor: Send + Sync {
    /// Outputs and inputs.
    fn shape(&self) -> [usize; 2];

    /// Bytes in memory, including decoding tables.
    fn memory_bytes(&self) -> usize;

    /// Ranges of rows that are decoded together, in order; they cover all rows.
    fn tile_rows(&self) -> &[Range<usize>];

    /// Replaces the contents of `out` by the weights of the tile row with index `tile_row`: rows x inputs. Several
    /// threads may read at once.
    ///
    /// # Errors
    /// As [`WeightSource::load_f32`].
    fn read(&self, tile_row: usize, out: &mut Vec<f32>) -> Result<(), Failure>;
}
