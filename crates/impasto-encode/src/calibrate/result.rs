//! Turns sums into the file of statistics.

use std::collections::BTreeMap;
use std::path::Path;

use super::Settled;
use super::spill::Spill;
use super::sums::Fisher;
use crate::error::EncodeError;
use crate::statistics::{self, Group, Info, Linear};

/// Computes means, sensitivities and row weights, and writes them. `ends` are the names of the embedding and the output
/// projection.
pub fn write(
    path: &Path,
    mut info: Info,
    groups: BTreeMap<String, Settled>,
    fisher: &Fisher,
    ends: (&str, &str),
    spill: &mut Spill,
) -> Result<Info, EncodeError> {
    let (embedding, head) = ends;
    let mean_over = |sums: &[f64]| sums.iter().map(|sum| sum / info.gradient_tokens as f64).collect::<Vec<f64>>();
    let embedded = mean_over(&fisher.embedding);
    let (mut rows, mut linears) = (BTreeMap::new(), BTreeMap::new());
    for (input, group) in &groups {
        // A covariance of inputs that are always 0 contains no information.
        let used = group.mean_square > 0.0;
        for name in &group.names {
            let Some(sums) = fisher.outputs.get(name) else { continue };
            let mut weights = mean_over(sums);
            let sensitivity = mean_of(&weights) / 2.0;
            let mut damping = if used { group.damping } else { 0.0 };
            if name == embedding && used && sensitivity > 0.0 {
                // Errors of a tied matrix matter twice: in the logits, through the covariance, and in the embedding,
                // directly.
                let ratio = mean_of(&embedded) / mean_of(&weights);
                damping += ratio / group.mean_square.max(f64::MIN_POSITIVE);
                if ratio > 0.0 && embedded.len() == weights.len() {
                    weights.iter_mut().zip(&embedded).for_each(|(w, f)| *w = (*w + f / ratio) / 2.0);
                }
            }
            rows.insert(name.clone(), relative(&weights));
            let linear =
                Linear { input: used.then(|| input.clone()), damping, sensitivity, tokens: group.tokens as u64 };
            linears.insert(name.clone(), linear);
        }
        if !used {
            continue;
        }
        let group = Group {
            inputs: group.inputs as u64,
            tokens: group.tokens as u64,
            damping: group.damping,
            held_back: group.held_back,
        };
        info.groups.insert(input.clone(), group);
    }
    if head != embedding {
        rows.insert(embedding.to_owned(), relative(&embedded));
        let sensitivity = mean_of(&embedded) / 2.0;
        let linear = Linear { input: None, damping: 0.0, sensitivity, tokens: info.tokens };
        linears.insert(embedding.to_owned(), linear);
    }
    if let Some((name, _)) = linears.iter().find(|(_, l)| !(l.sensitivity.is_finite() && l.damping.is_finite())) {
        return Err(EncodeError::NotFinite { what: "gradients", name: name.clone() });
    }
    info.linears = linears;

    statistics::write(path, &info, &rows, |name, sink| match groups.get(name) {
        Some(group) => spill.bytes(group.covariance, sink),
        None => Ok(()),
    })?;
    Ok(info)
}

fn mean_of(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

/// Divides values by their mean.
fn relative(values: &[f64]) -> Vec<f32> {
    let mean = mean_of(values).max(f64::MIN_POSITIVE);
    values.iter().map(|v| (v / mean) as f32).collect()
}
