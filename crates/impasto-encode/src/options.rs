//! What an encoding is asked for, what it is given, and what it says meanwhile.

use std::ops::ControlFlow;

use crate::drift::Sequential;
use crate::layers::Layers;
use crate::metric::Floors;
use crate::statistics::Statistics;

/// Fewer weights than this are not worth a tensor header: they are stored or go under Zstandard.
pub const LEAST_WEIGHTS: usize = 4096;

/// How much of the weights to keep.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Target {
    /// Every bit.
    Lossless,
    /// At most so many bytes of file, and at least 99.5% of them.
    Size(u64),
    /// The same in bits of file over all weights (tied tensors counted once).
    BitsPerWeight(f64),
}

/// Options of an encoding.
#[derive(Clone, Debug)]
pub struct Options {
    /// How much to keep.
    pub target: Target,
    /// Threads; 0 for as many as the machine has. The bytes do not depend on it.
    pub threads: usize,
    /// rANS segments of a tile, 1 to 16.
    pub segments: usize,
    /// How far statistics are believed.
    pub floors: Floors,
    /// Layers below and above the lossy one that `target` is the size of.
    pub layers: Layers,
}

impl Options {
    /// The usual options for a target.
    pub fn new(target: Target) -> Options {
        Options { target, threads: 0, segments: 1, floors: Floors::default(), layers: Layers::default() }
    }

    /// Does the file give every bit back?
    pub(crate) fn is_exact(&self) -> bool {
        self.target == Target::Lossless || self.layers.exact
    }
}

/// What an encoding is doing, for those who watch.
#[derive(Clone, Copy, Debug)]
pub enum Progress<'a> {
    /// Looking for the step that gives the wanted size: pass number.
    Measuring(usize),
    /// Running the text through coded blocks: the block's number from 0, and how many there are.
    Drift(usize, usize),
    /// Coding a tensor: its name, tensors done, tensors in all.
    Coding(&'a str, usize, usize),
}

/// Who watches: hears what is done next, and may end it.
pub type Watch<'a> = &'a (dyn Fn(Progress) -> ControlFlow<()> + Sync);

/// What a text says of a model.
pub struct Calibrated<'a> {
    /// Its statistics.
    pub statistics: &'a Statistics,
    /// To let each block see inputs from coded blocks.
    pub sequential: Option<Sequential<'a>>,
}
