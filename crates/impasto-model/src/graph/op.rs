//! The operations of a sublayer, and the backend that runs them.

use crate::config::Activation;

/// A matrix that a sublayer computes: tokens x `width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Index in the sublayer; 0 is the residual stream. Each value is computed by one operation.
    pub id: usize,
    /// Index of the buffer for the value: values with the same slot are never needed at the same time. Slot 0 is the
    /// residual stream alone. An operation whose input and output share a slot works in place.
    pub slot: usize,
    /// Columns.
    pub width: usize,
}

/// The parameters of causal attention with grouped heads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Number of query heads; a multiple of `kv`.
    pub query: usize,
    /// Number of key/value heads.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// Soft cap c on these products: c tanh(x / c).
    pub softcap: Option<f32>,
    /// Size of the sliding window in tokens, including the query's own; `None` for full attention.
    pub window: Option<usize>,
}

impl Attention {
    /// First token that the query at `position` attends to.
    pub fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Rotary position embedding (Su et al., arXiv 2104.09864) of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Index of the frequencies in [`DecoderConfig::ropes`](crate::config::DecoderConfig::ropes).
    pub rope: usize,
    /// Number of leading elements of a head that are rotated; element i together with element i + dim / 2.
    pub dim: usize,
    /// Width of a head.
    pub head: usize,
}

/// An operation: its inputs, its outputs and its weights, with linear layers of type `L` and vectors of type `V`.
#[derive(Clone, Debug, PartialEq)]
pub enum Op<L, V> {
    /// y = RMSNorm(x) (Zhang and Sennrich, arXiv 1910.07467). Each piece of a row, as wide as `weight`, is divided by
    /// the square root of its mean square plus `eps`, and multiplied by `weight`.
    Norm {
        /// Input.
        x: Value,
        /// Output.
        y: Value,
        /// One weight per element of a piece, which is a row or a head.
        weight: V,
        /// Added to the mean square.
        eps: f32,
    },
    /// y_i = W_i x + b_i, for layers that share an input.
    Linear {
        /// Input.
        x: Value,
        /// The layers.
        layers: Vec<L>,
        /// One output per layer.
        y: Vec<Value>,
    },
    /// Splits the columns of x into the outputs y, in order.
    Split {
        /// Input.
        x: Value,
        /// Outputs; their widths add up to that of x.
        y: Vec<Value>,
    },
    /// Rotates the heads of x by their positions.
    Rotate {
        /// Input.
        x: Value,
        /// Output.
        y: Value,
        /// The rotation.
        by: Rotation,
    },
    /// Attention: the softmax of query-key products, times the values, over these tokens and earlier ones.
    Attend {
        /// Queries, tokens x (query heads * dim).
        q: Value,
        /// Keys, tokens x (kv heads * dim).
        k: Value,
        /// Values, tokens x (kv heads * dim).
        v: Value,
        /// Output, as wide as the queries.
        y: Value,
        /// Heads, scale and window.
        how: Attention,
    },
    /// A gated linear unit (Shazeer, arXiv 2002.05202): y = activation(gate) * up.
    Gate {
        /// The gate.
        gate: Value,
        /// The factor on the activated gate.
        up: Value,
        /// Output.
        y: Value,
        /// The activation function.
        activation: Activation,
    },
    /// Adds x to the residual stream.
    Add {
        /// Input.
        x: Value,
    },
}

impl<L, V> Op<L, V> {
    /// The values that the operation reads. [`Op::Add`] also changes the residual stream.
    pub fn inputs(&self) -> impl Iterator<Item = Value> {
        let [a, b, c] = match *self {
            Self::Attend { q, k, v, .. } => [Some(q), Some(k), Some(v)],
            Self::Gate { gate, up, .. } => [Some(gate), Some(up), None],
            Self::Norm { x, .. }
            | Self::Linear { x, .. }
            | Self::Split { x, .. }
            | Self::Rotate { x, .. }
            | Self::Add { x } => [Some(x), None, None],
        };
        [a, b, c].into_iter().flatten()
    }

    /// The values that the operation computes.
    pub fn outputs(&self) -> &[Value] {
        match self {
            Self::Linear { y, .. } | Self::Split { y, .. } => y,
            Self::Norm { y, .. } | Self::Rotate { y, .. } | Self::Attend { y, .. } | Self::Gate { y, .. } => {
                std::slice::from_ref(y)
            }
            Self::Add { .. } => &[],
        }
    }

    pub(super) fn try_map<M, W, E>(
        &self,
        linear: &mut impl FnMut(&L) -> Result<M, E>,
        vector: &mut impl FnMut(&V) -> Result<W, E>,
    ) -> Result<Op<M, W>, E> {
        Ok(match self {
            &Self::Norm { x, y, ref weight, eps } => Op::Norm { x, y, weight: vector(weight)?, eps },
            Self::Linear { x, layers, y } => {
                let layers = layers.iter().map(linear).collect::<Result<_, E>>()?;
                Op::Linear { x: *x, layers, y: y.clone() }
            }
            Self::Split { x, y } => Op::Split { x: *x, y: y.clone() },
            &Self::Rotate { x, y, by } => Op::Rotate { x, y, by },
            &Self::Attend { q, k, v, y, how } => Op::Attend { q, k, v, y, how },
            &Self::Gate { gate, up, y, activation } => Op::Gate { gate, up, y, activation },
            &Self::Add { x } => Op::Add { x },
        })
    }
}

/// Runs operations and stores their values. Each method runs the [`Op`] of the same name.
///
/// A backend is created for one pass; it also has the tokens, their positions, and the earlier keys and values.
pub trait Backend {
    /// A linear layer with its weights.
    type Linear;
    /// A vector of weights.
    type Vector;
    /// The error of an operation.
    type Error;

    /// [`Op::Norm`].
    ///
    /// # Errors
    /// Those of the backend.
    fn norm(&mut self, x: Value, weight: &Self::Vector, eps: f32, y: Value) -> Result<(), Self::Error>;

    /// [`Op::Linear`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn linear(&mut self, x: Value, layers: &[Self::Linear], y: &[Value]) -> Result<(), Self::Error>;

    /// [`Op::Split`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn split(&mut self, x: Value, y: &[Value]) -> Result<(), Self::Error>;

    /// [`Op::Rotate`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn rotate(&mut self, x: Value, by: Rotation, y: Value) -> Result<(), Self::Error>;

    /// [`Op::Attend`]; `qkv` is queries, keys and values.
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn attend(&mut self, qkv: [Value; 3], how: &Attention, y: Value) -> Result<(), Self::Error>;

    /// [`Op::Gate`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn gate(&mut self, gate: Value, up: Value, activation: Activation, y: Value) -> Result<(), Self::Error>;

    /// [`Op::Add`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn add(&mut self, x: Value) -> Result<(), Self::Error>;
}

/// Runs `ops`, which may be part of a sublayer.
///
/// # Errors
/// The first error of `backend`.
pub fn run<'s, B: Backend>(
    ops: impl IntoIterator<Item = &'s Op<B::Linear, B::Vector>>,
    backend: &mut B,
) -> Result<(), B::Error>
where
    B::Linear: 's,
    B::Vector: 's,
{
    ops.into_iter().try_for_each(|op| match op {
        Op::Norm { x, y, weight, eps } => backend.norm(*x, weight, *eps, *y),
        Op::Linear { x, layers, y } => backend.linear(*x, layers, y),
        Op::Split { x, y } => backend.split(*x, y),
        Op::Rotate { x, y, by } => backend.rotate(*x, *by, *y),
        Op::Attend { q, k, v, y, how } => backend.attend([*q, *k, *v], how, *y),
        Op::Gate { gate, up, y, activation } => backend.gate(*gate, *up, *activation, *y),
        Op::Add { x } => backend.add(*x),
    })
}
