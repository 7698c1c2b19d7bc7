//! A network as data: which tensors it has and what it computes with them, step by step.
//!
//! This is the one description of an architecture. It is made once, from the configuration ([`describe`]), and everything
//! else follows it: loading asks it for names and shapes, the reference and a fast runtime [`run`] its steps with kernels
//! of their own ([`Backend`]), calibration runs them one sublayer at a time, and the backward pass goes through them in
//! reverse.
//!
//! ```text
//! Network -> Ends: embedding, last norm, output projection
//!         -> Block -> Sublayer -> Step, Step, ..., Add      x = x + f(x), x being the residual stream
//! ```
//!
//! A sublayer (Vaswani et al., arXiv 1706.03762) is a straight line of [`Step`]s over numbered [`Value`]s, each made by one
//! step. All types are generic over what stands in the place of a linear layer and of a vector of weights: their
//! specification ([`LinearSpec`], [`VectorSpec`]) in the description, the weights themselves in a network that was loaded
//! ([`Block::try_map`]). So a loaded network is its own description, and the two cannot disagree.
//!
//! # Another architecture
//!
//! One that is made of these steps in another order (norms elsewhere, attention and MLP side by side, another gate) is a
//! row of `config/family.rs` and, where it differs in a new way, a branch of `build.rs`. One that needs something else adds
//! a variant of [`Step`] and a method of [`Backend`]; the compiler then names every place that must know it:
//!
//! * *Mixture of experts*: a step that holds a router and, for each expert, a gated MLP: it routes each token to a few of
//!   them. As `L` and `V` occur in it like in any step, loading, packing and calibration find its layers.
//! * *Convolutions and state-space layers*: a step each, in a sublayer in the place of attention. What they keep of a
//!   sequence goes beside keys and values into the network's [`KvStorage`](crate::cache::KvStorage), which is asked for by
//!   block.
//! * *Latent attention*: linear layers and norms that are there already make queries, keys and values out of the latent
//!   value; [`Attention`] gets a width of values that is not that of keys.
//!
//! A backend on another device implements [`Backend`] in its own crate: values are its buffers ([`Value::slot`]), and it
//! loads its weights by [`Block::try_map`].

mod analysis;
mod build;
mod load;
mod step;

pub use build::describe;
pub use load::{Loader, check_shape, names, tensor};
pub use step::{Attention, Backend, Rotation, Step, Value, run};

/// A network, its linear layers as `L` and its vectors of weights as `V`.
#[derive(Clone, Debug, PartialEq)]
pub struct Network<L = LinearSpec, V = VectorSpec> {
    /// What stands around the blocks.
    pub ends: Ends<L, V>,
    /// The blocks, in order.
    pub blocks: Vec<Block<L, V>>,
}

/// What stands around the blocks of a network.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends<L = LinearSpec, V = VectorSpec> {
    /// The embedding, vocabulary x hidden size: row t is the residual stream that token t begins with.
    pub embedding: L,
    /// Factor on embeddings, in binary32 as transformers has it for a model in binary32.
    pub scale: Option<f32>,
    /// The weights of the norm behind the last block.
    pub norm: V,
    /// Added to the mean square in that norm.
    pub eps: f32,
    /// The output projection, from normalised streams to logits; `None` when it is the embedding again.
    pub output: Option<L>,
    /// Cap c on the logits: c tanh(x / c).
    pub softcap: Option<f32>,
}

/// A transformer block.
#[derive(Clone, Debug, PartialEq)]
pub struct Block<L = LinearSpec, V = VectorSpec> {
    /// Its number in the network.
    pub index: usize,
    /// Inputs of linear layers in all blocks before it.
    pub first_input: usize,
    /// What it does to the residual stream, one after another.
    pub sublayers: Vec<Sublayer<L, V>>,
}

/// A part of a block that reads the residual stream and adds to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Sublayer<L = LinearSpec, V = VectorSpec> {
    /// The steps, in order; the last is an [`Step::Add`].
    pub steps: Vec<Step<L, V>>,
}

/// A linear layer, y = W x + b.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LinearSpec {
    /// Name of the tensor W, outputs x inputs. It ends in `weight`.
    pub name: String,
    /// Rows of W.
    pub outputs: usize,
    /// Columns of W.
    pub inputs: usize,
    /// Whether there is a b, as a tensor of the same name but for its end, which is `bias`.
    pub bias: bool,
}

/// A vector of weights.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VectorSpec {
    /// Name of the tensor.
    pub name: String,
    /// Its elements.
    pub width: usize,
    /// Whether weights are one more than what is stored.
    pub plus_one: bool,
}

impl LinearSpec {
    /// Name of the tensor b.
    pub fn bias_name(&self) -> String {
        format!("{}bias", self.name.strip_suffix("weight").unwrap_or(&self.name))
    }

    /// Numbers that it holds.
    fn len(&self) -> u128 {
        self.outputs as u128 * (self.inputs as u128 + u128::from(self.bias))
    }
}

impl<L, V> Ends<L, V> {
    /// The output projection: the embedding again where that is tied.
    pub fn projection(&self) -> &L {
        self.output.as_ref().unwrap_or(&self.embedding)
    }

    /// The linear layers, the embedding last.
    pub fn layers(&self) -> impl Iterator<Item = &L> {
        self.output.iter().chain([&self.embedding])
    }

    /// The linear layers, to be changed.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut L> {
        self.output.iter_mut().chain([&mut self.embedding])
    }

    /// The same with other things in the places of linear layers and vectors.
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
        self.steps.iter().filter_map(|step| match step {
            Step::Linear { layers, .. } => Some(layers.as_slice()),
            _ => None,
        })
    }

    /// Index of the last step of linear layers.
    pub fn last_linear(&self) -> Option<usize> {
        self.steps.iter().rposition(|step| matches!(step, Step::Linear { .. }))
    }
}

impl<L, V> Block<L, V> {
    /// The linear layers in the order in which they run.
    pub fn layers(&self) -> impl Iterator<Item = &L> {
        self.sublayers.iter().flat_map(Sublayer::groups).flatten()
    }

    /// The linear layers, to be changed.
    pub fn layers_mut(&mut self) -> impl Iterator<Item = &mut L> {
        let steps = self.sublayers.iter_mut().flat_map(|sublayer| &mut sublayer.steps);
        steps.flat_map(|step| match step {
            Step::Linear { layers, .. } => layers.as_mut_slice(),
            _ => &mut [],
        })
    }

    /// The vectors of weights in the order in which they are used.
    pub fn vectors(&self) -> impl Iterator<Item = &V> {
        let steps = self.sublayers.iter().flat_map(|sublayer| &sublayer.steps);
        steps.filter_map(|step| match step {
            Step::Norm { weight, .. } => Some(weight),
            _ => None,
        })
    }

    /// The inputs of linear layers: how many.
    pub fn inputs(&self) -> usize {
        self.sublayers.iter().map(|sublayer| sublayer.groups().count()).sum()
    }

    /// The same with other things in the places of linear layers and vectors: how weights are loaded.
    ///
    /// # Errors
    /// Those of `linear` and `vector`.
    pub fn try_map<M, W, E>(
        &self,
        mut linear: impl FnMut(&L) -> Result<M, E>,
        mut vector: impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Block<M, W>, E> {
        let mut sublayer = |sublayer: &Sublayer<L, V>| {
            let steps = sublayer.steps.iter().map(|step| step.try_map(&mut linear, &mut vector));
            Ok(Sublayer { steps: steps.collect::<Result<_, E>>()? })
        };
        let sublayers = self.sublayers.iter().map(&mut sublayer).collect::<Result<_, E>>()?;
        Ok(Block { index: self.index, first_input: self.first_input, sublayers })
    }
}

impl Network {
    /// Numbers in all tensors.
    pub fn len(&self) -> u128 {
        let layers = self.blocks.iter().flat_map(Block::layers).chain(self.ends.layers()).map(LinearSpec::len);
        let vectors = self.blocks.iter().flat_map(Block::vectors).chain([&self.ends.norm]);
        layers.sum::<u128>() + vectors.map(|vector| vector.width as u128).sum::<u128>()
    }

    /// Whether it has no weights at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
