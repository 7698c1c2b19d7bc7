//! Sums over tokens.

use std::collections::BTreeMap;

use impasto_model::{GradientProbe, LinearInfo, ModelError, Probe, add_gram};
use rayon::prelude::*;

/// Outputs whose sums are computed by one task.
const OUTPUTS: usize = 256;

/// Allocates `count` zeros, or returns [`ModelError::Memory`].
pub fn zeros<T: Clone + Default>(count: Option<usize>, what: &'static str) -> Result<Vec<T>, ModelError> {
    let bytes = count.map_or(u64::MAX, |count| (count as u64).saturating_mul(size_of::<T>() as u64));
    let mut values = Vec::new();
    let count = count.filter(|&count| values.try_reserve_exact(count).is_ok());
    values.resize(count.ok_or(ModelError::Memory { what, bytes })?, T::default());
    Ok(values)
}

/// Linear layers that share an input, and the sum of `x x^T` over its tokens.
pub struct Group {
    /// Names of the layers; the first one is the name of the group.
    pub names: Vec<String>,
    /// Number of inputs, n.
    pub inputs: usize,
    /// n x n, row-major; only the lower triangle is used.
    pub sum: Vec<f32>,
    /// Number of tokens.
    pub tokens: usize,
}

/// The groups of some layers.
pub struct Sums(pub Vec<Group>);

impl Sums {
    /// Creates empty sums for these layers; layers with the same input must be adjacent.
    ///
    /// # Errors
    /// If memory for the sums cannot be allocated.
    pub fn of<'a>(layers: impl IntoIterator<Item = LinearInfo<'a>>) -> Result<Sums, ModelError> {
        let mut groups: Vec<(usize, Group)> = Vec::new();
        for LinearInfo { name, inputs, input, .. } in layers {
            match groups.last_mut() {
                Some((last, group)) if *last == input => group.names.push(name.to_owned()),
                _ => {
                    let sum = zeros(inputs.checked_mul(inputs), "the covariance of a layer's inputs")?;
                    groups.push((input, Group { names: vec![name.to_owned()], inputs, sum, tokens: 0 }));
                }
            }
        }
        Ok(Sums(groups.into_iter().map(|(_, group)| group).collect()))
    }
}

impl Group {
    /// Adds the sum over so many other tokens.
    pub fn add(&mut self, sum: &[f32], tokens: usize) {
        self.sum.par_iter_mut().zip(sum).for_each(|(all, part)| *all += part);
        self.tokens += tokens;
    }
}

impl Sums {
    /// Creates empty sums for the same layers.
    ///
    /// # Errors
    /// If memory for the sums cannot be allocated.
    pub fn alike(&self) -> Result<Sums, ModelError> {
        let alike = |Group { names, inputs, sum, .. }: &Group| {
            let sum = zeros(Some(sum.len()), "the covariance of a layer's inputs")?;
            Ok(Group { names: names.clone(), inputs: *inputs, sum, tokens: 0 })
        };
        self.0.iter().map(alike).collect::<Result<_, _>>().map(Sums)
    }

    /// Makes all sums empty.
    pub fn clear(&mut self) {
        for group in &mut self.0 {
            group.sum.fill(0.0);
            group.tokens = 0;
        }
    }

    /// Adds other sums for the same layers.
    pub fn add(&mut self, other: &Sums) {
        self.0.iter_mut().zip(&other.0).for_each(|(all, part)| all.add(&part.sum, part.tokens));
    }
}

impl Probe for Sums {
    fn linear(&mut self, names: &[&str], x: &[f32], width: usize) {
        let Some(group) =
            self.0.iter_mut().find(|group| group.names.first().map(String::as_str) == names.first().copied())
        else {
            return;
        };
        add_gram(&mut group.sum, x, width);
        group.tokens += x.len() / width.max(1);
    }
}

/// The inputs themselves, tokens x inputs, by the name of the first layer that takes them.
#[derive(Default)]
pub struct Rows(pub BTreeMap<String, Vec<f32>>);

impl Probe for Rows {
    fn linear(&mut self, names: &[&str], x: &[f32], _: usize) {
        if let Some(first) = names.first() {
            self.0.entry((*first).to_owned()).or_default().extend_from_slice(x);
        }
    }
}

/// Sums of squared gradients.
pub struct Fisher {
    /// By layer, for each output; for the output projection, its exact Fisher information.
    pub outputs: BTreeMap<String, Vec<f64>>,
    /// By token of the vocabulary: the mean over the width of the embedding.
    pub embedding: Vec<f64>,
}

/// Adds `term` of each entry of `rows` to the sum of its column, in the order of the rows.
fn add_columns(sums: &mut [f64], rows: &[f32], term: impl Fn(f64) -> f64 + Sync) {
    let width = sums.len().max(1);
    sums.par_chunks_mut(OUTPUTS).enumerate().for_each(|(part, sums)| {
        for row in rows.chunks_exact(width) {
            let row = &row[part * OUTPUTS..][..sums.len()];
            sums.iter_mut().zip(row).for_each(|(sum, &x)| *sum += term(f64::from(x)));
        }
    });
}

impl Fisher {
    /// Creates sums for a vocabulary of this size.
    pub fn new(vocabulary: usize) -> Fisher {
        Fisher { outputs: BTreeMap::new(), embedding: vec![0.0; vocabulary] }
    }

    /// Adds sums of parts, in this order.
    pub fn sum<'a>(vocabulary: usize, parts: impl IntoIterator<Item = &'a Fisher>) -> Fisher {
        let mut all = Fisher::new(vocabulary);
        let add = |all: &mut [f64], part: &[f64]| all.iter_mut().zip(part).for_each(|(all, part)| *all += part);
        for part in parts {
            add(&mut all.embedding, &part.embedding);
            part.outputs.iter().for_each(|(name, sums)| add(all.of(name, sums.len()), sums));
        }
        all
    }

    fn of(&mut self, name: &str, outputs: usize) -> &mut [f64] {
        self.outputs.entry(name.to_owned()).or_insert_with(|| vec![0.0; outputs])
    }
}

impl Probe for Fisher {
    /// Inputs are recorded in the forward pass only.
    fn linear(&mut self, _: &[&str], _: &[f32], _: usize) {}
}

impl GradientProbe for Fisher {
    fn head(&mut self, name: &str, fisher: &[f32], outputs: usize) {
        add_columns(self.of(name, outputs), fisher, |f| f);
    }

    fn linear_gradient(&mut self, name: &str, gradient: &[f32], outputs: usize) {
        add_columns(self.of(name, outputs), gradient, |g| g * g);
    }

    fn embedding_gradient(&mut self, tokens: &[u32], gradient: &[f32], width: usize) {
        for (&token, row) in tokens.iter().zip(gradient.chunks_exact(width.max(1))) {
            let square: f64 = row.iter().map(|&g| f64::from(g) * f64::from(g)).sum();
            if let Some(sum) = self.embedding.get_mut(token as usize) {
                *sum += square / width as f64;
            }
        }
    }
}
