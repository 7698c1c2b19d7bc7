//! The description of a network as data: its tensors, and the operations that it computes with them.
//!
//! This is the only description of an architecture. It is built once, from the configuration ([`describe`]), and
//! everything else follows it: loading takes names and shapes from it, the reference and the fast runtime [`run`] its
//! operations with their own kernels ([`Backend`]), calibration runs them one sublayer at a time, and the backward pass
//! takes them in reverse.
//!
//! ```text
//! Network -> Ends: embedding, last norm, output projection
//!         -> Block -> Sublayer -> Op, Op, ..., Add      x = x + f(x), x being the residual stream
//! ```
//!
//! A sublayer (Vaswani et al., arXiv 1706.03762) is a sequence of [`Op`]s over numbered [`Value`]s, each computed by
//! one operation. All types are generic over the type of a linear layer and that of a weight vector: specifications
//! ([`LinearSpec`], [`VectorSpec`]) in a description, the weights themselves in a loaded network ([`Block::try_map`]).
//! A loaded network is therefore its own description, and the two cannot disagree.
//!
//! # Adding an architecture
//!
//! An architecture with the same operations in another order (norms elsewhere, attention and MLP in parallel, another
//! gate) needs a row in `config/family.rs` and, if its blocks are built in a new way, a branch in `build.rs`. An
//! architecture with a new operation adds a variant of [`Op`] and a method of [`Backend`]; the compiler then reports
//! every place that must handle it:
//!
//! * *Mixture of experts*: an operation with a router and, for each expert, a gated MLP; it routes each token to a few
//!   experts. If the operation has its layers as `L` and `V`, as all do, then loading, packing and calibration find
//!   them.
//! * *Convolutions and state-space layers*: an operation each, in a sublayer in place of attention. Their state is
//!   stored with keys and values in the network's [`KvStorage`](crate::cache::KvStorage), by block.
//! * *Latent attention*: existing linear layers and norms compute queries, keys and values from the latent value;
//!   [`Attention`] gets a width of values that differs from that of keys.
//!
//! A backend on another device implements [`Backend`] in its own crate: values are its buffers ([`Value::slot`]), and
//! it loads its weights with [`Block::try_map`].

mod analysis;
mod build;
mod hidden;
mod load;
mod op;
mod source;

pub use build::describe;
pub use hidden::{Hidden, Maker};
pub use load::{Loader, check_shape, tensor};
pub use op::{Attention, Backend, Op, Rotation, Value, run};
pub use source::{OWN_OUTPUT, describe_source, tensor_names};

/// A network, with linear layers of type `L` and weight vectors of type `V`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network<L = LinearSpec, V = VectorSpec> {
    /// Everything outside the blocks.
    pub ends: Ends<L, V>,
    /// The blocks, in order.
    pub blocks: Vec<Block<L, V>>,
}

/// The part of a network outside its blocks.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends<L = LinearSpec, V = VectorSpec> {
    /// The embedding, vocabulary x hidden size: row t is the initial residual stream of token t.
    pub embedding: L,
    /// Factor on the embeddings, rounded to binary32 as in transformers.
    pub scale: Option<f32>,
    /// The weights of the norm after the last block.
    pub norm: V,
    /// Added to the mean square in that norm.
    pub eps: f32,
    /// The output projection, from normalized residual streams to logits; `None` if it is the embedding matrix.
    pub output: Option<L>,
    /// Soft cap c on the logits: c tanh(x / c).
    pub softcap: Option<f32>,
}

/// A transformer block.
#[derive(Clone, Debug, PartialEq)]
pub struct Block<L = LinearSpec, V = VectorSpec> {
    /// Index in the network.
    pub index: usize,
    /// Number of inputs of linear layers in all earlier blocks.
    pub first_input: usize,
    /// The sublayers, in order.
    pub sublayers: Vec<Sublayer<L, V>>,
}

/// A part of a block that reads the residual stream and adds to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sublayer<L = LinearSpec, V = VectorSpec> {
    /// The operations, in order; the last is an [`Op::Add`].
    pub ops: Vec<Op<L, V>>,
}

/// A linear layer, y = W x + b.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSpec {
    /// Name of the tensor W, outputs x inputs. It ends with `weight`.
    pub name: String,
    /// Rows of W.
    pub outputs: usize,
    /// Columns of W.
    pub inputs: usize,
    /// Whether there is a bias b. Its tensor has the same name, with `bias` in place of `weight`.
    pub bias: bool,
}

/// A vector of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorSpec {
    /// Name of the tensor.
    pub name: String,
    /// Number of elements.
    pub width: usize,
    /// Whether the weights are the stored values plus one.
    pub plus_one: bool,
}

impl LinearSpec {
    /// Name of the tensor b.
    pub fn bias_name(&self) -> String {
        format!("{}bias", self.name.strip_suffix("weight").unwrap_or(&self.name))
    }

    /// Number of values.
    fn len(&self) -> u128 {
        self.outputs as u128 * (self.inputs as u128 + u128::from(self.bias))
    }
}

impl<L, V> Ends<L, V> {
    /// The output projection (the embedding matrix if they are tied).
    pub fn projection(&self) -> &L {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The linear layers, the embedding last.
    pub fn layers(&self) -> impl Iterator<Item = &L> {
        self.output.iter().chain([&self.embedding])
    }

    /// The linear layers, mutably.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut L> {
        self.output.iter_mut().chain([&mut self.embedding])
    }

    /// Maps all linear layers and vectors.
    ///
    /// # Errors
    /// Those of `linear` and `vector`.
    pub fn try_map<M, W, E>(
        &self,
        mut linear: impl FnMut(&L) -> Result<M, E>,
        mut vector: impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Ends<M, W>, E> {
        Ok(Ends {
            embedding: linear(&self.embedding)?,
            scale: self.scale,
            norm: vector(&self.norm)?,
            eps: self.eps,
            output: self.output.as_ref().map(linear).transpose()?,
            softcap: self.softcap,
        })
    }
}

impl<L, V> Sublayer<L, V> {
    /// The linear layers, grouped by the input that they share, in the order in which they run.
    pub fn groups(&self) -> impl Iterator<Item = &[L]> {
        self.ops.iter().filter_map(|op| match op {
            Op::Linear { layers, .. } => Some(layers.as_slice()),
            _ => None,
        })
    }

    /// Number of values that it reads and computes for a token: the residual stream, and the outputs of all operations.
    pub fn values_per_token(&self) -> usize {
        let stream = self.ops.iter().flat_map(Op::inputs).find(|value| value.id == 0).map_or(0, |value| value.width);
        stream + self.ops.iter().flat_map(Op::outputs).map(|value| value.width).sum::<usize>()
    }

    /// The vectors of weights, in the order in which they are used.
    pub fn norms(&self) -> impl Iterator<Item = &V> {
        self.ops.iter().filter_map(|op| match op {
            Op::Norm { weight, .. } => Some(weight),
            _ => None,
        })
    }

    /// Index of the last operation of linear layers.
    pub fn last_linear(&self) -> Option<usize> {
        self.ops.iter().rposition(|op| matches!(op, Op::Linear { .. }))
    }
}

impl<L, V> Block<L, V> {
    /// The linear layers in the order in which they run.
    pub fn layers(&self) -> impl Iterator<Item = &L> {
        self.sublayers.iter().flat_map(Sublayer::groups).flatten()
    }

    /// The linear layers, mutably.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut L> {
        let ops = self.sublayers.iter_mut().flat_map(|sublayer| &mut sublayer.ops);
        ops.flat_map(|op| match op {
            Op::Linear { layers, .. } => layers.as_mut_slice(),
            _ => &mut [],
        })
    }

    /// The vectors of weights in the order in which they are used.
    pub fn vectors(&self) -> impl Iterator<Item = &V> {
        self.sublayers.iter().flat_map(Sublayer::norms)
    }

    /// The vectors of weights, mutably.
    pub fn vectors_mut(&mut self) -> impl Iterator<Item = &mut V> {
        let ops = self.sublayers.iter_mut().flat_map(|sublayer| &mut sublayer.ops);
        ops.filter_map(|op| match op {
            Op::Norm { weight, .. } => Some(weight),
            _ => None,
        })
    }

    /// Number of inputs of linear layers. Layers that share an input count once.
    pub fn inputs(&self) -> usize {
        self.sublayers.iter().map(|sublayer| sublayer.groups().count()).sum()
    }

    /// Maps all linear layers and vectors; this is how weights are loaded.
    ///
    /// # Errors
    /// Those of `linear` and `vector`.
    pub fn try_map<M, W, E>(
        &self,
        mut linear: impl FnMut(&L) -> Result<M, E>,
        mut vector: impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Block<M, W>, E> {
        let mut sublayer = |sublayer: &Sublayer<L, V>| {
            let ops = sublayer.ops.iter().map(|op| op.try_map(&mut linear, &mut vector));
            Ok(Sublayer { ops: ops.collect::<Result<_, E>>()? })
        };
        let sublayers = self.sublayers.iter().map(&mut sublayer).collect::<Result<_, E>>()?;
        Ok(Block { index: self.index, first_input: self.first_input, sublayers })
    }
}

impl Network {
    /// The vectors of weights, in the order in which they are used.
    pub fn vectors(&self) -> impl Iterator<Item = &VectorSpec> {
        self.blocks.iter().flat_map(Block::vectors).chain([&self.ends.norm])
    }

    /// Number of values in all tensors.
    pub fn len(&self) -> u128 {
        let layers = self.blocks.iter().flat_map(Block::layers).chain(self.ends.layers()).map(LinearSpec::len);
        layers.sum::<u128>() + self.vectors().map(|vector| vector.width as u128).sum::<u128>()
    }

    /// Names of all tensors.
    pub fn tensor_names(&self) -> impl Iterator<Item = String> {
        let layers = self.blocks.iter().flat_map(Block::layers).chain(self.ends.layers());
        let of_layer = |layer: &LinearSpec| [Some(layer.name.clone()), layer.bias.then(|| layer.bias_name())];
        layers.flat_map(of_layer).flatten().chain(self.vectors().map(|vector| vector.name.clone()))
    }

    /// Whether the network has no weights.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
