//! The estimators, and those that need no run of the network.

use impasto_model::row_products;
use serde::Serialize;

use super::coded::Coded;
use crate::formats::Selector;
use crate::statistics::Statistics;

/// How the sensitivity of a tensor to the error `D` of its weights is estimated. `x` are inputs of its layer and `g` gradients of its
/// outputs; means are over tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Estimator {
    /// The square of the error over the mean square of the weights: all tensors are alike.
    Magnitude,
    /// The same, with the priors of mixtures in use (llama.cpp's K quants): a bit more for values, down projections and embeddings, and
    /// a bit more in the first and the last eighth of the blocks.
    Structure,
    /// The square of the first-order change of the loss on the text: as `quadratic`, with the labels of the text instead of those
    /// that the model draws (the empirical Fisher information).
    Gradient,
    /// The trace of the Fisher information of the weights times the mean square error (HAWQ-V2, arXiv 1911.03852, which takes the
    /// Hessian).
    Trace,
    /// The diagonal of the Fisher information of the weights (OBD; SqueezeLLM, arXiv 2306.07629).
    Fisher,
    /// The square of the output error, `tr(D H D^T)` with the covariance `H` of the inputs (GPTQ, arXiv 2210.17323).
    Covariance,
    /// The covariance of the inputs, and for each output the mean square of its gradient, as if independent: what the encoder uses.
    Kronecker,
    /// The covariance of the inputs and that of the gradients, as if independent: `tr(G D H D^T)` (YAQA, arXiv 2505.22988, sketch A).
    Yaqa,
    /// The Fisher information in the direction of the error, of each token alone: the mean of `(g . D x)^2`.
    Token,
    /// The same of whole windows: the mean of `(sum g . D x)^2`. No approximation but the second order, and noisy: one number from each
    /// window.
    Quadratic,
    /// What the statistics say that the encoder is given.
    Statistics,
}

impl Estimator {
    /// All estimators.
    pub const ALL: [Estimator; 11] = [
        Estimator::Magnitude,
        Estimator::Structure,
        Estimator::Gradient,
        Estimator::Trace,
        Estimator::Fisher,
        Estimator::Covariance,
        Estimator::Kronecker,
        Estimator::Yaqa,
        Estimator::Token,
        Estimator::Quadratic,
        Estimator::Statistics,
    ];

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Estimator::Magnitude => "magnitude",
            Estimator::Structure => "structure",
            Estimator::Gradient => "gradient",
            Estimator::Trace => "trace",
            Estimator::Fisher => "fisher",
            Estimator::Covariance => "covariance",
            Estimator::Kronecker => "kronecker",
            Estimator::Yaqa => "yaqa",
            Estimator::Token => "token",
            Estimator::Quadratic => "quadratic",
            Estimator::Statistics => "statistics",
        }
    }
}

/// What one more bit per weight divides an error by.
const BIT: f64 = 4.0;

/// Returns how much finer than others a tensor is by the priors, given its name in transformers and the number of blocks.
fn prior(name: &str, blocks: usize) -> f64 {
    let more = match Selector::of(name) {
        Selector::V | Selector::Down | Selector::Embeddings => BIT,
        _ => 1.0,
    };
    let at_end = block_of(name).is_some_and(|block| block < blocks / 8 || block >= blocks - blocks / 8);
    if at_end { more * BIT } else { more }
}

/// Returns the index of the block that a tensor is in: the first number in its name.
pub fn block_of(name: &str) -> Option<usize> {
    name.split('.').find_map(|part| part.parse().ok())
}

/// Returns what can be said of a tensor without running the network, which has so many blocks.
pub fn without_run(name: &str, coded: &Coded, blocks: usize, statistics: Option<&Statistics>) -> Vec<(Estimator, f64)> {
    let relative = coded.square() / coded.mean_square.max(f64::MIN_POSITIVE);
    let mut found = vec![(Estimator::Magnitude, relative), (Estimator::Structure, relative * prior(name, blocks))];
    found.extend(statistics.and_then(|statistics| of_statistics(name, coded, statistics)).into_iter().flatten());
    found
}

/// Returns the square of the output error, and the divergence that the statistics forecast.
fn of_statistics(name: &str, coded: &Coded, statistics: &Statistics) -> Option<Vec<(Estimator, f64)>> {
    let linear = statistics.info().linears.get(name)?;
    let n = coded.columns.max(1);
    let own: Vec<f64> =
        coded.error.chunks_exact(n).map(|row| row.iter().map(|&e| f64::from(e).powi(2)).sum()).collect();
    let (squares, damping) = match &linear.input {
        None => (None, 1.0),
        Some(group) => {
            let (inputs, covariance) = statistics.covariance(group).filter(|(inputs, _)| *inputs == n)?;
            (
                Some(row_squares(&coded.error, &symmetric(covariance, inputs), n)),
                linear.damping * statistics.mean_square(group)?,
            )
        }
    };
    let weights = statistics.rows(name).filter(|rows| rows.len() == own.len());
    let row = |r: usize| {
        let square = squares.as_ref().map_or(0.0, |squares| squares[r]) + damping * own[r];
        square * weights.as_ref().map_or(1.0, |weights| f64::from(weights[r]))
    };
    let forecast = linear.sensitivity * (0..own.len()).map(row).sum::<f64>();
    let covariance = squares.map(|squares| (Estimator::Covariance, squares.iter().sum()));
    Some(covariance.into_iter().chain([(Estimator::Statistics, forecast)]).collect())
}

/// Copies the lower triangle to the upper one.
fn symmetric(mut matrix: Vec<f32>, n: usize) -> Vec<f32> {
    for i in 0..n {
        (0..i).for_each(|j| matrix[j * n + i] = matrix[i * n + j]);
    }
    matrix
}

/// Returns `e H e^T` for each row `e` of `errors`, of `n` columns.
fn row_squares(errors: &[f32], covariance: &[f32], n: usize) -> Vec<f64> {
    /// Rows whose products are in memory at a time.
    const ROWS: usize = 4096;
    let part = |errors: &[f32]| {
        let products = row_products(errors, covariance, n);
        let rows = errors.chunks_exact(n).zip(products.chunks_exact(n));
        rows.map(|(e, p)| e.iter().zip(p).map(|(&e, &p)| f64::from(e) * f64::from(p)).sum()).collect::<Vec<f64>>()
    };
    errors.chunks(ROWS * n).flat_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn priors_are_bits() {
        let of = |name: &str| prior(name, 16);
        assert_eq!(of("model.layers.5.self_attn.q_proj.weight"), 1.0);
        assert_eq!(of("model.layers.5.mlp.down_proj.weight"), 4.0);
        assert_eq!(of("model.layers.14.self_attn.v_proj.weight"), 16.0);
        assert_eq!(of("model.embed_tokens.weight"), 4.0);
        assert_eq!(block_of("model.embed_tokens.weight"), None);
    }

    #[test]
    fn squares_of_rows() {
        let covariance = symmetric(vec![2.0, 0.0, 0.5, 3.0], 2);
        assert_eq!(covariance, [2.0, 0.5, 0.5, 3.0]);
        assert_eq!(row_squares(&[1.0, 0.0, 1.0, -2.0], &covariance, 2), [2.0, 2.0 - 2.0 + 12.0]);
    }
}
