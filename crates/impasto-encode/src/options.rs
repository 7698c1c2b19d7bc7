//! Options and progress of an encoding.

use std::ops::ControlFlow;
use std::sync::Arc;

use impasto_codec::Trellis;

use crate::drift::Sequential;
use crate::formats::Formats;
use crate::layers::Layers;
use crate::low_rank::Residual;
use crate::metric::Floors;
use crate::over::BaseFile;
use crate::prune::Pruning;
use crate::reorder::Reordering;
use crate::statistics::Statistics;
use crate::transform::{Effort, Tools};

/// Tensors with fewer weights are stored or compressed with Zstandard, since a tensor header would not pay.
pub const LEAST_WEIGHTS: usize = 4096;

/// How much of the weights to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Every bit.
    Lossless,
    /// A file of at most this many bytes, and at least 99.5% of them.
    Size(u64),
    /// The same in bits of the file over all weights (tied tensors count once).
    BitsPerWeight(f64),
    /// The smallest file whose KL divergence from the original is at most this, in nats per token, for a file without layers:
    /// [`encode_to_quality`](crate::encode_to_quality).
    Kld(f64),
    /// What [`Options::formats`] keeps; every bit of tensors without a format.
    Formats,
}

/// How a lossy file is coded as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Preset {
    /// Each tensor and tile with the tool that suits it best.
    #[default]
    Best,
    /// As JPEG codes a picture: every tensor that can be coded with loss in blocks of 8 x 8, with a DCT, by run lengths,
    /// after its rows and columns are put in an order in which neighbours are alike, if that pays. There is no search and
    /// no calibration.
    Jpeg,
}

/// Options of an encoding.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much to keep.
    pub target: Target,
    /// Number of threads; 0 means one per core. The file does not depend on it.
    pub threads: usize,
    /// rANS segments per tile, 1 to 16.
    pub segments: usize,
    /// Floors of precision against statistics.
    pub floors: Floors,
    /// Formats of engines that tensors get. Those without one are on a lattice of their own, as fine as the size allows. There is
    /// one lossy layer of a tensor with a format, in the base.
    pub formats: Formats,
    /// Layers below and above the lossy one that has the size `target`.
    pub layers: Layers,
    /// Tools of mode transform that may be used in a lossy file without layers. If the size jumps over `target` because of
    /// them, none is used.
    pub tools: Tools,
    /// How much time the search among these tools may take.
    pub effort: Effort,
    /// How a lossy file is coded; [`Preset::Jpeg`] has tools of its own.
    pub preset: Preset,
    /// What is coded beside the lattice; without layers, unless it is [`Residual::Auto`], and never below an exact layer.
    pub residual: Residual,
    /// What the integers of a column of a tensor on the lattice follow, in the lossy layers of a file in which no weights are
    /// pruned. Tensors in a format and those that are coded as in JPEG follow nothing.
    pub trellis: Option<Trellis>,
    /// Whether integers on the lattice are kept within the widths that they have in memory (packed), for a lossy file without
    /// layers or a trellis. The weights take less memory, and the file is larger at the same quality.
    pub fit_widths: bool,
    /// New orders of hidden units and attention heads, for a lossy file without an exact layer.
    pub reordering: Option<Arc<Reordering>>,
    /// Which weights become 0, for a lossy file without an exact layer.
    pub pruning: Option<Pruning>,
    /// The file that the new one is a delta of; `None` for a file of its own.
    pub base: Option<Arc<dyn BaseFile>>,
    /// The compiled form of `tokenizer.json`, to be kept next to it: readers load it faster (SPEC 3.4.5).
    pub compiled_tokenizer: Option<Vec<u8>>,
    /// Approximate limit on memory, in bytes, without assets and mapped files; `None` for no limit. The file does not
    /// depend on it.
    pub memory_limit: Option<u64>,
}

impl Options {
    /// Returns the default options for a target.
    pub fn new(target: Target) -> Options {
        Options {
            target,
            threads: 0,
            segments: 1,
            floors: Floors::default(),
            formats: Formats::default(),
            layers: Layers::default(),
            tools: Tools::ALL,
            effort: Effort::default(),
            preset: Preset::default(),
            residual: Residual::default(),
            trellis: None,
            fit_widths: false,
            reordering: None,
            pruning: None,
            base: None,
            compiled_tokenizer: None,
            memory_limit: None,
        }
    }

    /// Returns whether the file has a size, which the steps of its tensors follow from.
    pub(crate) fn has_size(&self) -> bool {
        matches!(self.target, Target::Size(_) | Target::BitsPerWeight(_))
    }

    /// Returns whether the file restores every bit of the checkpoint.
    pub(crate) fn is_exact(&self) -> bool {
        self.target == Target::Lossless || self.layers.exact
    }
}

/// Progress of an encoding.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Searching for the step that gives the requested size: number of the pass.
    Measuring(usize),
    /// Measuring the quality at a step: number of the step.
    Judging(usize),
    /// Running the text through coded blocks: index of the block, and number of blocks.
    Drift(usize, usize),
    /// Coding a tensor: its name, tensors done, tensors in all.
    Coding(&'a str, usize, usize),
}

/// A callback that is called before each stage; it cancels the job by returning `Break`.
pub type Watch<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// The results of calibrating a model on a text.
pub struct Calibrated<'a> {
    /// Its statistics.
    pub statistics: &'a Statistics,
    /// If present, covariances are measured again after coded blocks (drift correction).
    pub sequential: Option<Sequential<'a>>,
}
