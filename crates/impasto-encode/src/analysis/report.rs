//! The result of an analysis.

use std::ops::Range;

use serde::Serialize;

/// Version of the serialized form of [`Analysis`]; it grows when a field changes its meaning or disappears.
pub const SCHEMA: u32 = 1;

/// What tools of mode transform earn on tensors. All rates of a tensor are bits per weight at the error that it has with all
/// tools.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Analysis {
    /// [`SCHEMA`].
    pub schema: u32,
    /// The rate that the step was set for.
    pub bits_per_weight: f64,
    /// The global step, relative to the root mean square of each tensor.
    pub relative_step: f64,
    /// Names of the tools that were looked at: together, they are *all*.
    pub tools: Vec<&'static str>,
    /// In the order of the file.
    pub tensors: Vec<TensorAnalysis>,
}

/// What tools earn on a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TensorAnalysis {
    /// Its name.
    pub name: String,
    /// The name of its dtype in the file.
    pub dtype: &'static str,
    /// Its shape.
    pub shape: Vec<u64>,
    /// Rows and columns of the matrix that it is coded as.
    pub matrix: [usize; 2],
    /// The step of its lattice.
    pub step: f32,
    /// Weights that were looked at.
    pub sampled: usize,
    /// Rates; `None` if mode transform cannot code the tensor at this step, because of weights of more than a million steps.
    pub rates: Option<Rates>,
    /// How much of the sampled weights each choice takes.
    pub shares: Shares,
    /// Share of the sampled weights in tiles that take mode transform.
    pub transform_share: f64,
    /// Weights that tools were looked at on, one by one.
    pub sampled_by_tool: usize,
    /// What each tool earns.
    pub tools: Vec<ToolAnalysis>,
    /// Its low-rank part, if it has one that pays. All other fields are those of the tensor without.
    pub low_rank: Option<LowRankAnalysis>,
    /// The tiles that were looked at.
    pub tiles: Vec<TileAnalysis>,
}

/// Rates in bits per weight at equal error.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Rates {
    /// On the lattice.
    pub lattice: f64,
    /// In mode transform, with no tool but RDOQ.
    pub none: f64,
    /// With all tools.
    pub all: f64,
    /// Mean squared error with all tools, in squared steps.
    pub error: f64,
    /// Microseconds per weight of a search with all tools.
    pub all_microseconds: f64,
    /// Without any but RDOQ.
    pub none_microseconds: f64,
}

impl Rates {
    /// Bits per weight that mode transform saves over the lattice.
    pub fn gain(&self) -> f64 {
        self.lattice - self.all
    }
}

/// What a tool earns on a tensor.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct ToolAnalysis {
    /// Its name.
    pub name: &'static str,
    /// Bits per weight that it costs to leave it out of all tools.
    pub left_out: f64,
    /// Bits per weight that it saves where no other tool is on but those of `company`.
    pub alone: f64,
    /// Tools without which it would mean nothing; they are on with it and without it.
    pub company: Vec<&'static str>,
    /// Microseconds per weight of a search without it.
    pub left_out_microseconds: f64,
    /// Of a search with it and its company.
    pub alone_microseconds: f64,
}

/// The low-rank part of a tensor (SPEC 19).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LowRankAnalysis {
    /// Its number of terms.
    pub rank: usize,
    /// Bits per weight that it saves on the lattice at the same step, its factors paid.
    pub saved: f64,
}

/// A choice and the share of the weights that it takes.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Share {
    /// Name of the choice.
    pub name: String,
    /// From 0 to 1.
    pub share: f64,
}

/// Shares of the choices of blocks; each list adds up to 1, the largest share first.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Shares {
    /// Predictions; `zero` is none.
    pub predictions: Vec<Share>,
    /// Transforms of the columns of blocks; `nothing` is where all coefficients are 0.
    pub columns: Vec<Share>,
    /// Transforms of the rows of blocks, likewise.
    pub rows: Vec<Share>,
    /// Sizes of blocks, as rows x columns.
    pub blocks: Vec<Share>,
}

/// A tile that was looked at.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TileAnalysis {
    /// Rows of the matrix that it covers.
    pub rows: Range<usize>,
    /// Columns.
    pub columns: Range<usize>,
    /// Bits per weight on the lattice, at the step of the tensor.
    pub lattice: f64,
    /// Bits per weight in mode transform with all tools.
    pub transform: f64,
    /// Whether `D + lambda R` is less in mode transform than on the lattice.
    pub takes_transform: bool,
    /// Tools that it is coded with as a whole.
    pub ways: Vec<&'static str>,
    /// Its weights over their steps, row-major, with rows and columns in the order in which they are coded.
    #[serde(skip)]
    pub values: Vec<f32>,
    /// Its blocks with all tools.
    #[serde(skip)]
    pub blocks: Vec<BlockChoice>,
}

/// The choices of a block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockChoice {
    /// Row and column of its first weight in the tile.
    pub at: [usize; 2],
    /// Rows and columns of weights.
    pub sides: [usize; 2],
    /// Its prediction.
    pub prediction: &'static str,
    /// The transforms of its columns and of its rows; `nothing` if all its coefficients are 0.
    pub transforms: [&'static str; 2],
}

/// Means over tensors, weighted by their numbers of weights.
#[derive(Clone, Debug, PartialEq)]
pub struct Means {
    /// Weights of the tensors.
    pub weights: u64,
    /// Mean rates; the error is a mean, too.
    pub rates: Rates,
    /// What each tool earns.
    pub tools: Vec<ToolMeans>,
}

/// Means of what a tool earns.
#[derive(Clone, Debug, PartialEq)]
pub struct ToolMeans {
    /// Its name.
    pub name: &'static str,
    /// Mean of [`ToolAnalysis::left_out`].
    pub left_out: f64,
    /// Mean of [`ToolAnalysis::alone`].
    pub alone: f64,
    /// Mean of [`ToolAnalysis::left_out_microseconds`].
    pub left_out_microseconds: f64,
    /// Index of the tensor on which leaving it out costs most.
    pub most_on: usize,
}

impl TensorAnalysis {
    /// Number of weights.
    pub fn weights(&self) -> u64 {
        self.shape.iter().product()
    }

    /// Returns whether mode transform saves as much over the lattice as the encoder wants, to use it.
    pub fn earns(&self) -> bool {
        self.rates.is_some_and(|rates| rates.gain() >= crate::transform::LEAST_MEASURED)
    }
}

impl Analysis {
    /// Returns means over the tensors that have rates; `None` if there is none.
    pub fn means(&self) -> Option<Means> {
        let found: Vec<_> = self.tensors.iter().enumerate().filter_map(|(i, t)| Some((i, t, t.rates?))).collect();
        let weights: u64 = found.iter().map(|(_, tensor, _)| tensor.weights()).sum();
        let mean = |value: &dyn Fn(&TensorAnalysis, &Rates) -> f64| {
            let sum: f64 = found.iter().map(|(_, tensor, rates)| value(tensor, rates) * tensor.weights() as f64).sum();
            sum / weights.max(1) as f64
        };
        let rates = Rates {
            lattice: mean(&|_, rates| rates.lattice),
            none: mean(&|_, rates| rates.none),
            all: mean(&|_, rates| rates.all),
            error: mean(&|_, rates| rates.error),
            all_microseconds: mean(&|_, rates| rates.all_microseconds),
            none_microseconds: mean(&|_, rates| rates.none_microseconds),
        };
        let tool = |(n, &name): (usize, &&'static str)| ToolMeans {
            name,
            left_out: mean(&|tensor, _| tensor.tools[n].left_out),
            alone: mean(&|tensor, _| tensor.tools[n].alone),
            left_out_microseconds: mean(&|tensor, _| tensor.tools[n].left_out_microseconds),
            most_on: found
                .iter()
                .max_by(|a, b| a.1.tools[n].left_out.total_cmp(&b.1.tools[n].left_out))
                .map_or(0, |(i, ..)| *i),
        };
        let tools = self.tools.iter().enumerate().map(tool).collect();
        (!found.is_empty()).then_some(Means { weights, rates, tools })
    }
}
