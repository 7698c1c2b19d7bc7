//! Forecasts of the divergence that the error of a tensor causes, from the inputs of its layer and the gradients of its outputs.
//!
//! With inputs `x_t` of a layer, gradients `g_t` of its outputs (of the loss of a window, summed over positions, with labels drawn from
//! the model) and the error `D` of its weights, outputs err by `e_t = D x_t`. To the second order, the divergence of a window is half of
//! the mean, over labels, of the square of the sum of `g_t . e_t`: the Fisher information in the direction of `D`. The other
//! estimators approximate this.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use impasto_model::{GradientProbe, Probe, row_products};

use super::Estimator;
use super::coded::Coded;

/// Sums over the tokens of a shard, for one tensor.
#[derive(Default)]
struct Sums {
    tokens: f64,
    /// Of the squares of output errors.
    covariance: f64,
    /// Of the products of the squared norms of gradient and input.
    trace: f64,
    /// Of the Fisher information of each weight times its squared error.
    fisher: f64,
    /// Of the squares of each output's gradient and error.
    gradients: Vec<f64>,
    errors: Vec<f64>,
    /// Of the square of the gradient of one token times the error of another, over all pairs of a window, per token.
    pairs: f64,
    /// Of the square of gradient times error of each token, and of the sum over a window.
    tokenwise: f64,
    quadratic: f64,
    /// As `quadratic`, with the labels of the text, and how many these are.
    gradient: f64,
    labelled: f64,
}

/// What estimators say of each tensor, by its name.
pub type Estimates = BTreeMap<String, Vec<(Estimator, f64)>>;

/// Collects the sums of a shard.
pub struct Forecasts<'a> {
    /// By name in transformers.
    coded: &'a BTreeMap<String, Coded>,
    /// The inputs of the layers whose gradients are to come.
    inputs: HashMap<String, Arc<[f32]>>,
    sums: BTreeMap<String, Sums>,
    /// Whether labels are those of the text.
    pub is_labelled: bool,
}

impl<'a> Forecasts<'a> {
    /// Creates empty sums.
    pub fn new(coded: &'a BTreeMap<String, Coded>) -> Self {
        Forecasts { coded, inputs: HashMap::new(), sums: BTreeMap::new(), is_labelled: false }
    }

    /// Returns the estimates of each tensor: forecasts of its divergence in nats per token, or what is proportional to it.
    pub fn estimates(&self) -> Estimates {
        let of = |(name, sums): (&String, &Sums)| {
            let (coded, n) = (&self.coded[name], sums.tokens.max(1.0));
            let mean = coded.square() / coded.error.len().max(1) as f64;
            let kronecker: f64 = sums.gradients.iter().zip(&sums.errors).map(|(g, e)| g * e / (n * n)).sum();
            let mut found = vec![
                (Estimator::Covariance, sums.covariance / n),
                (Estimator::Trace, mean * sums.trace / n / 2.0),
                (Estimator::Fisher, sums.fisher / n / 2.0),
                (Estimator::Kronecker, kronecker / 2.0),
                (Estimator::Yaqa, sums.pairs / n / 2.0),
                (Estimator::Token, sums.tokenwise / n / 2.0),
                (Estimator::Quadratic, sums.quadratic / n / 2.0),
            ];
            if sums.labelled > 0.0 {
                found.push((Estimator::Gradient, sums.gradient / sums.labelled / 2.0));
            }
            (name.clone(), found)
        };
        self.sums.iter().map(of).collect()
    }
}

impl Probe for Forecasts<'_> {
    fn linear(&mut self, names: &[&str], x: &[f32], _: usize) {
        let wanted: Vec<&&str> = names.iter().filter(|name| self.coded.contains_key(**name)).collect();
        if wanted.is_empty() {
            return;
        }
        let x: Arc<[f32]> = x.into();
        for name in wanted {
            self.inputs.insert((*name).to_owned(), x.clone());
        }
    }
}

fn squares(x: &[f32]) -> Vec<f32> {
    x.iter().map(|x| x * x).collect()
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| f64::from(a) * f64::from(b)).sum()
}

fn add_square_columns(sums: &mut Vec<f64>, rows: &[f32], width: usize) {
    sums.resize(width, 0.0);
    for row in rows.chunks_exact(width) {
        sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += f64::from(x).powi(2));
    }
}

impl GradientProbe for Forecasts<'_> {
    fn head(&mut self, _: &str, _: &[f32], _: usize) {}

    fn linear_gradient(&mut self, name: &str, gradient: &[f32], outputs: usize) {
        let Some((x, coded)) = self.inputs.remove(name).zip(self.coded.get(name)) else { return };
        let sums = self.sums.entry(name.to_owned()).or_default();
        let columns = coded.columns;
        if x.is_empty() || x.len() / columns != gradient.len() / outputs {
            return;
        }
        let errors = row_products(&x, &coded.error, columns);
        let tokens = (gradient.len() / outputs) as f64;
        let along: Vec<f64> =
            gradient.chunks_exact(outputs).zip(errors.chunks_exact(outputs)).map(|(g, e)| dot(g, e)).collect();
        let all: f64 = along.iter().sum();
        if self.is_labelled {
            sums.gradient += all * all;
            sums.labelled += tokens;
            return;
        }
        sums.tokens += tokens;
        sums.tokenwise += along.iter().map(|x| x * x).sum::<f64>();
        sums.quadratic += all * all;
        sums.covariance += dot(&errors, &errors);
        let rows = gradient.chunks_exact(outputs).zip(x.chunks_exact(columns));
        sums.trace += rows.map(|(g, x)| dot(g, g) * dot(x, x)).sum::<f64>();
        let of_weights = row_products(&squares(&x), &squares(&coded.error), columns);
        sums.fisher += dot(&of_weights, &squares(gradient));
        add_square_columns(&mut sums.gradients, gradient, outputs);
        add_square_columns(&mut sums.errors, &errors, outputs);
        let pairs = row_products(gradient, &errors, outputs);
        sums.pairs += dot(&pairs, &pairs) / tokens;
    }

    fn embedding_gradient(&mut self, _: &[u32], _: &[f32], _: usize) {}
}
