//! Observers of linear layers while a model runs, forward and backward.

/// Receives the inputs of linear layers, for calibration.
pub trait Probe: Send {
    /// Called before the linear layers `names`, which share an input, run on `x`: rows of `width` values, one per
    /// token.
    ///
    /// Tokens come in pieces of some hundreds. For each piece, the calls are in the order of `Decoder::linears`,
    /// whatever the number of threads. They come from inside the model's thread pool, one at a time. For the output
    /// projection, only the requested positions are passed. Tokens that are evaluated again, because LongRoPE changes
    /// their positions, are not passed again.
    ///
    /// A `Walk` passes pieces of whole windows, and all pieces before it advances to the next sublayer.
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize);
}

/// Also receives gradients of the loss with respect to the outputs of linear layers, from `Decoder::backward` or
/// `WalkBack`.
///
/// `Decoder::backward` first passes all inputs, in the order of [`Probe::linear`] (the whole window in one piece), then
/// all gradients, from the output projection back to the embedding. `WalkBack` passes only gradients. A row of a
/// gradient is the effect on the loss at its own position and all later ones. The calls come from inside the model's
/// thread pool, one at a time, in an order that does not depend on the number of threads.
pub trait GradientProbe: Probe {
    /// The diagonal Fisher information of the output projection `name`: rows of `outputs` logits, one row per position.
    /// It is the mean squared gradient over labels from the model's own distribution, in closed form: p (1 - p), times
    /// the squared slope of the soft cap if there is one. It does not depend on the labels of the run. Positions come
    /// in order, some hundreds at a time.
    fn head(&mut self, name: &str, fisher: &[f32], outputs: usize);

    /// The gradient of the output of the linear layer `name` of a block: rows of `outputs` values, one per token of the
    /// window or piece. Layers that share an input come in the order of `Decoder::linears`, inputs in reverse order.
    fn linear_gradient(&mut self, name: &str, gradient: &[f32], outputs: usize);

    /// The derivatives of the loss with respect to the natural logarithms of factors on the rows of the weight `name` of a
    /// block: for each row, the sum over the tokens of the window of gradient times output, without the bias. Only
    /// `Decoder::distill` calls it.
    fn row_gradient(&mut self, name: &str, gradient: &[f64]) {
        let _ = (name, gradient);
    }

    /// The derivatives of the loss with respect to the natural logarithms of factors on the weights of a norm: for each
    /// weight, the sum over the tokens of the window (and over the heads, if a norm is of heads) of gradient times output.
    /// Norms are numbered as in `Decoder::norm`. Only `Decoder::distill` calls it.
    fn norm_gradient(&mut self, number: usize, gradient: &[f64]) {
        let _ = (number, gradient);
    }

    /// The gradient of the embeddings of `tokens`: rows of `width` values, one per token.
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
    /// Index of its input in the network; layers with the same index share their input. Indices count from 0.
    pub input: usize,
}
