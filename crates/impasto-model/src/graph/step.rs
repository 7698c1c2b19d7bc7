//! The steps of a sublayer, and what carries them out.

use crate::config::Activation;

/// A matrix on its way through a sublayer, tokens x `width`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value {
    /// Its number in the sublayer; 0 is the residual stream. Each is made by one step.
    pub id: usize,
    /// Where it can lie: values of one slot are never needed at the same time. Slot 0 is the residual stream alone. Where a
    /// step's input and output share a slot it works in place.
    pub slot: usize,
    /// Columns.
    pub width: usize,
}

/// The attention of a block: causal, heads in groups, softmax of scaled products.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Attention {
    /// Query heads; a multiple of `kv`.
    pub query: usize,
    /// Key and value heads.
    pub kv: usize,
    /// Width of a head.
    pub dim: usize,
    /// Factor on the products of queries and keys.
    pub scale: f32,
    /// Cap c on these: c tanh(x / c).
    pub softcap: Option<f32>,
    /// Tokens that a query sees, its own among them; `None` for all before it.
    pub window: Option<usize>,
}

impl Attention {
    /// First token that the query at `position` sees.
    pub fn first(&self, position: usize) -> usize {
        self.window.map_or(0, |window| (position + 1).saturating_sub(window))
    }
}

/// Rotary positions (Su et al., arXiv 2104.09864) of heads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Index of their frequencies in [`DecoderConfig::ropes`](crate::config::DecoderConfig::ropes).
    pub rope: usize,
    /// Elements of a head that are turned, from the first on; element i together with element i + dim / 2.
    pub dim: usize,
    /// Width of a head.
    pub head: usize,
}

/// A step: what it reads, what it makes of it, and the weights that it needs, linear layers as `L` and vectors as `V`.
#[derive(Clone, Debug, PartialEq)]
pub enum Step<L, V> {
    /// y = RMSNorm(x) (Zhang and Sennrich, arXiv 1910.07467): each piece of a row that is as wide as `weight`, over its root
    /// mean square (of which `eps` is added to the square), times the weight.
    Norm {
        /// Input.
        x: Value,
        /// Output.
        y: Value,
        /// A weight for each element of a piece: of a row, or of a head.
        weight: V,
        /// Added to the mean square.
        eps: f32,
    },
    /// y_i = W_i x + b_i: layers that share an input.
    Linear {
        /// Input.
        x: Value,
        /// The layers.
        layers: Vec<L>,
        /// An output for each layer.
        y: Vec<Value>,
    },
    /// The columns of x, as wide as each y, in order.
    Split {
        /// Input.
        x: Value,
        /// Outputs; their widths add up to that of x.
        y: Vec<Value>,
    },
    /// The heads of x turned by their positions.
    Rotate {
        /// Input.
        x: Value,
        /// Output.
        y: Value,
        /// How they are turned.
        by: Rotation,
    },
    /// What the queries see: values weighed by the softmax of products with keys, those of earlier tokens among them.
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
        /// What it gates.
        up: Value,
        /// Output.
        y: Value,
        /// The nonlinearity.
        activation: Activation,
    },
    /// x is added to the residual stream.
    Add {
        /// Input.
        x: Value,
    },
}

impl<L, V> Step<L, V> {
    /// The values that it reads; [`Step::Add`] also changes the residual stream.
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

    /// The values that it makes.
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
    ) -> Result<Step<M, W>, E> {
        Ok(match self {
            &Self::Norm { x, y, ref weight, eps } => Step::Norm { x, y, weight: vector(weight)?, eps },
            Self::Linear { x, layers, y } => {
                let layers = layers.iter().map(linear).collect::<Result<_, E>>()?;
                Step::Linear { x: *x, layers, y: y.clone() }
            }
            Self::Split { x, y } => Step::Split { x: *x, y: y.clone() },
            &Self::Rotate { x, y, by } => Step::Rotate { x, y, by },
            &Self::Attend { q, k, v, y, how } => Step::Attend { q, k, v, y, how },
            &Self::Gate { gate, up, y, activation } => Step::Gate { gate, up, y, activation },
            &Self::Add { x } => Step::Add { x },
        })
    }
}

/// Kernels that carry out steps, and the memory of the values between them. Each method is the [`Step`] of its name.
///
/// Tokens, their positions and the keys and values before them are the backend's own affair: it is made for a pass.
pub trait Backend {
    /// A linear layer with its weights.
    type Linear;
    /// A vector of weights.
    type Vector;
    /// What keeps a step from being carried out.
    type Error;

    /// [`Step::Norm`].
    ///
    /// # Errors
    /// The backend's own, and so below.
    fn norm(&mut self, x: Value, weight: &Self::Vector, eps: f32, y: Value) -> Result<(), Self::Error>;

    /// [`Step::Linear`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn linear(&mut self, x: Value, layers: &[Self::Linear], y: &[Value]) -> Result<(), Self::Error>;

    /// [`Step::Split`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn split(&mut self, x: Value, y: &[Value]) -> Result<(), Self::Error>;

    /// [`Step::Rotate`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn rotate(&mut self, x: Value, by: Rotation, y: Value) -> Result<(), Self::Error>;

    /// [`Step::Attend`], `qkv` being queries, keys and values.
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn attend(&mut self, qkv: [Value; 3], how: &Attention, y: Value) -> Result<(), Self::Error>;

    /// [`Step::Gate`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn gate(&mut self, gate: Value, up: Value, activation: Activation, y: Value) -> Result<(), Self::Error>;

    /// [`Step::Add`].
    ///
    /// # Errors
    /// See [`Backend::norm`].
    fn add(&mut self, x: Value) -> Result<(), Self::Error>;
}

/// Carries out `steps`, which may be a part of a sublayer.
///
/// # Errors
/// The first of `backend`.
pub fn run<'s, B: Backend>(
    steps: impl IntoIterator<Item = &'s Step<B::Linear, B::Vector>>,
    backend: &mut B,
) -> Result<(), B::Error>
where
    B::Linear: 's,
    B::Vector: 's,
{
    steps.into_iter().try_for_each(|step| match step {
        Step::Norm { x, y, weight, eps } => backend.norm(*x, weight, *eps, *y),
        Step::Linear { x, layers, y } => backend.linear(*x, layers, y),
        Step::Split { x, y } => backend.split(*x, y),
        Step::Rotate { x, y, by } => backend.rotate(*x, *by, *y),
        Step::Attend { q, k, v, y, how } => backend.attend([*q, *k, *v], how, *y),
        Step::Gate { gate, up, y, activation } => backend.gate(*gate, *up, *activation, *y),
        Step::Add { x } => backend.add(*x),
    })
}
