//! New orders of hidden units and attention heads, which the network absorbs.
//!
//! The hidden units of an MLP have no order of their own: if the rows of gate and up and the columns of down change places
//! together, the network computes the same function, up to the rounding of sums. The same holds for query heads that
//! share a key/value head, and for these groups of heads. So a file may have them in another order than the checkpoint: an
//! order costs no bytes, and no reader has to know of it.
//!
//! Which tensors belong together is read from the description of the network
//! ([`Hidden`]). Statistics keep the order of the checkpoint; they are reordered when they
//! are used.

mod order;
mod sort;

use std::collections::BTreeMap;

use impasto_model::config::DecoderConfig;
use impasto_model::graph::{self, Hidden};
use impasto_model::{ModelError, WeightSource};

use crate::error::EncodeError;
use crate::statistics::Statistics;
pub use order::TensorOrder;
pub(crate) use order::reordered;
use sort::Sorter;

/// What hidden units and heads are ordered by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReorderBy {
    /// The sum of the weights of a unit: its rows and columns in all matrices, each matrix scaled to the same mean square.
    Sum,
    /// The sum of their squares.
    Norm,
    /// Their share of the first principal component of all units.
    Spectral,
    /// A chain: after each unit, the one that is nearest to it of those that are left.
    Chain,
    /// How much a unit is active: the mean square of its values on the calibration text. The most active units come last,
    /// where error feedback begins, so that all others can correct their errors (*act-order* in GPTQ).
    Activation,
}

/// What a reordering changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reordered {
    /// What units are ordered by.
    pub by: ReorderBy,
    /// MLPs whose hidden units changed places.
    pub mlps: usize,
    /// Attention sublayers whose heads changed places.
    pub attentions: usize,
    /// Tensors whose rows or columns changed places.
    pub tensors: usize,
}

/// New orders of the hidden units and heads of a model, as orders of the rows and columns of its tensors.
#[derive(Clone, Debug, PartialEq)]
pub struct Reordering {
    report: Reordered,
    /// By name in transformers.
    tensors: BTreeMap<String, TensorOrder>,
}

impl Reordering {
    /// Orders the hidden units and heads of a model. Unless they are ordered by activation, the weights of one sublayer at
    /// a time are in memory, as binary32.
    ///
    /// # Errors
    /// If the model is of no supported architecture, or a tensor is missing, has another shape or no float values; if
    /// statistics are needed and missing, or memory would exceed `memory_limit`; if no order is free.
    pub fn new(
        weights: &dyn WeightSource,
        by: ReorderBy,
        statistics: Option<&Statistics>,
        memory_limit: Option<u64>,
    ) -> Result<Reordering, EncodeError> {
        let why = "reordering follows the description of a network that it gives";
        let json = weights.asset("config.json").ok_or(ModelError::MissingAsset { name: "config.json", why })?;
        let network = graph::describe_source(weights, &mut DecoderConfig::from_json(&json)?)?;
        let sorter = Sorter::new(weights, by, statistics, memory_limit)?;
        let report = Reordered { by, mlps: 0, attentions: 0, tensors: 0 };
        let mut reordering = Reordering { report, tensors: BTreeMap::new() };
        let hidden = network.blocks.iter().flat_map(|block| &block.sublayers).filter_map(|sublayer| sublayer.hidden());
        let mut is_any = false;
        for hidden in hidden {
            is_any = true;
            let units = sorter.order(&hidden)?;
            if units.is_sorted() {
                continue;
            }
            *if hidden.is_attention { &mut reordering.report.attentions } else { &mut reordering.report.mlps } += 1;
            reordering.place(&hidden, &units)?;
        }
        reordering.report.tensors = reordering.tensors.len();
        if is_any { Ok(reordering) } else { Err(EncodeError::NothingToReorder) }
    }

    /// Sets the orders of the tensors that make and take hidden units. Unit `i` is to be the one that is at `units[i]`.
    fn place(&mut self, hidden: &Hidden, units: &[u32]) -> Result<(), EncodeError> {
        let per_group = hidden.units / hidden.groups.max(1);
        let groups: Vec<u32> = units.chunks(per_group.max(1)).map(|group| group[0] / per_group as u32).collect();
        let elements = |units: &[u32]| {
            let width = hidden.width as u32;
            units.iter().flat_map(|&unit| unit * width..(unit + 1) * width).collect::<Vec<u32>>()
        };
        for maker in &hidden.makers {
            let (layer, places) = (maker.layer, elements(if maker.is_shared { &groups } else { units }));
            self.tensor(&layer.name, |order| order.move_rows(layer.outputs, maker.first, &places))?;
            if layer.bias {
                self.tensor(&layer.bias_name(), |order| order.move_columns(layer.outputs, maker.first, &places))?;
            }
        }
        let places = elements(units);
        let mut takers = hidden.takers.iter();
        takers.try_for_each(|layer| self.tensor(&layer.name, |order| order.move_columns(layer.inputs, 0, &places)))
    }

    fn tensor(&mut self, name: &str, set: impl FnOnce(&mut TensorOrder) -> bool) -> Result<(), EncodeError> {
        if set(self.tensors.entry(name.to_owned()).or_default()) {
            return Ok(());
        }
        let rule = "it belongs to two parts of the network, whose units would get different orders";
        Err(EncodeError::Tensor { tensor: name.to_owned(), rule })
    }

    /// Returns the order of a tensor, by its name in transformers; `None` if it stays as it is.
    pub fn tensor_order(&self, name: &str) -> Option<&TensorOrder> {
        self.tensors.get(name)
    }

    /// Returns the orders of all tensors that change, by name in transformers.
    pub fn tensors(&self) -> impl Iterator<Item = (&str, &TensorOrder)> {
        self.tensors.iter().map(|(name, order)| (name.as_str(), order))
    }

    /// Returns what the reordering changes.
    pub fn report(&self) -> Reordered {
        self.report
    }
}

impl ReorderBy {
    /// Returns the name that the command and its JSON use.
    pub fn name(self) -> &'static str {
        match self {
            ReorderBy::Sum => "sum",
            ReorderBy::Norm => "norm",
            ReorderBy::Spectral => "spectral",
            ReorderBy::Chain => "chain",
            ReorderBy::Activation => "activation",
        }
    }
}
