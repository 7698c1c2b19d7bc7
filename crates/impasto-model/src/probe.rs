//! Looking at the linear layers of a model while it runs, forwards and backwards.

/// Watches the inputs of linear layers, as calibration does.
pub trait Probe: Send {
    /// The linear layers `names`, which share one input, are about to take `x`: rows of `width` values, one a token.
    ///
    /// Tokens come in pieces of some hundred. For each piece the calls follow the order of the network, that of
    /// `Decoder::linears`, and they are the same for every number of threads; the call comes from inside the model's
    /// thread pool, one at a time. The output projection is shown the wanted positions alone. Tokens that are run again,
    /// because LongRoPE changes their positions, are not shown again.
    ///
    /// A `Walk` shows pieces of whole windows, and all of them before it goes on to the next sublayer.
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize);
}

/// Watches gradients, too: those of a loss by the outputs of linear layers, as `Decoder::backward` and `WalkBack` find
/// them.
///
/// From the first of these come all inputs, in the order of [`Probe::linear`] (the whole window in one piece), then all
/// gradients, from the output projection back to the embedding; from the second gradients alone. A gradient's row holds
/// the effect on the loss at its own position and at all later ones. The calls come from inside the model's thread pool,
/// one at a time, in an order that does not depend on the number of threads.
pub trait GradientProbe: Probe {
    /// The diagonal Fisher information of the output projection `name`: for rows of `outputs` logits, one row a position,
    /// the mean of the squared gradient over labels from the model's own distribution, which is known in closed form:
    /// p (1 - p), times the squared slope of the cap where logits are capped. It does not depend on the labels of the run.
    /// Positions come in order, some hundred at a time.
    fn head(&mut self, name: &str, fisher: &[f32], outputs: usize);

    /// The gradient by the output of the linear layer `name` of a block: rows of `outputs` values, one a token of the
    /// window or of a piece of whole windows. Layers that share an input come in the order of `Decoder::linears`, the
    /// inputs in the opposite order.
    fn linear_gradient(&mut self, name: &str, gradient: &[f32], outputs: usize);

    /// The gradient by the row of the embedding matrix that each of `tokens` took: rows of `width` values.
    fn embedding_gradient(&mut self, tokens: &[u32], gradient: &[f32], width: usize);
}

/// A linear layer: y = W x.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearInfo<'a> {
    /// Name of the tensor W.
    pub name: &'a str,
    /// Rows of W.
    pub outputs: usize,
    /// Columns of W.
    pub inputs: usize,
    /// Which input of the network it takes: layers of one number share it. The numbers count up from 0.
    pub input: usize,
}
