//! Levels that are coded by run lengths (SPEC 17.8), chosen by error and cost: the best way from each level that is not 0 to
//! the next.

use impasto_codec::transform::levels::{MOST, Means};
use impasto_codec::transform::prices::Prices;
use impasto_codec::transform::runs::{self, Position};
use impasto_codec::transform::scan::Form;

use super::quantize::Quantizer;

/// A coefficient of at least this many steps never becomes 0.
const KEPT: f32 = 2.5;
/// Most levels that become 0 one after the other, of those that would not by rounding.
const DROPPED: usize = 24;

/// A coefficient whose level may be other than 0.
#[derive(Clone, Copy)]
struct Node {
    /// Its place in the scan.
    at: usize,
    /// Its magnitude.
    size: f32,
    /// The sum of the squares before it.
    energy: f64,
    /// Its nearest level.
    nearest: u32,
    /// For each choice of its level, the nearest one or one less: the least cost up to it, and the node and the choice
    /// before.
    paths: [(f64, Option<(usize, usize)>); 2],
}

/// Working memory.
#[derive(Default)]
pub struct Workspace(Vec<Node>);

impl Quantizer {
    /// Like [`Quantizer::quantize`], for levels by runs.
    pub fn quantize_runs(
        &self,
        form: Form,
        means: &Means,
        prices: (&Prices, &runs::Prices),
        coefficients: &[f32],
        levels: &mut Vec<i32>,
        Workspace(nodes): &mut Workspace,
    ) -> f32 {
        let (scan, means, (sizes, runs)) = (form.scan(), means.of(form), prices);
        let (area, count) = (form.logs[0] + form.logs[1], scan.len());
        levels.clear();
        levels.resize(coefficients.len(), 0);
        nodes.clear();
        let mut energy = 0.0f64;
        for (at, &place) in scan.iter().enumerate() {
            let size = coefficients[usize::from(place)].abs();
            let nearest = (size + 0.5).min(MOST as f32) as u32;
            if nearest > 0 {
                nodes.push(Node { at, size, energy, nearest, paths: [(f64::INFINITY, None); 2] });
            }
            energy += f64::from(size * size);
        }
        let lambda = f64::from(if self.by_cost { self.lambda } else { 0.0 });
        let choices = if self.by_cost { 2 } else { 1 };
        for i in 0..nodes.len() {
            let node = nodes[i];
            // The levels before it are about the nearest ones.
            let before = [1, 2].map(|n| if i >= n { nodes[i - n].nearest } else { 0 });
            let mean = means.map(|means| means[usize::from(scan[node.at])]);
            let context = Position { at: node.at, count, before }.of_level(mean);
            let start = Position { at: 0, count, before: [0; 2] };
            let mut best = (node.energy + lambda * f64::from(runs.run(start, node.at)), None);
            for j in (i.saturating_sub(DROPPED)..i).rev() {
                let from = nodes[j];
                let skipped = node.energy - from.energy - f64::from(from.size * from.size);
                for choice in 0..choices.min(from.nearest as usize) {
                    let level = from.nearest - choice as u32;
                    let position = Position { at: from.at + 1, count, before: [level, 0] };
                    let bits = runs.end(area, position, false) + runs.run(position, node.at - from.at - 1);
                    let cost = from.paths[choice].0 + skipped + lambda * f64::from(bits);
                    if cost < best.0 {
                        best = (cost, Some((j, choice)));
                    }
                }
                if from.size >= KEPT {
                    break;
                }
            }
            for choice in 0..choices.min(node.nearest as usize) {
                let level = node.nearest - choice as u32;
                let bits = 1.0 + sizes.magnitude(context, false, level - 1);
                let error = f64::from((node.size - level as f32).powi(2));
                nodes[i].paths[choice] = (best.0 + error + lambda * f64::from(bits), best.1);
            }
        }
        let (mut cost, mut at) = (if self.by_cost { energy } else { f64::INFINITY }, None);
        for (i, node) in nodes.iter().enumerate() {
            let rest = energy - node.energy - f64::from(node.size * node.size);
            for choice in 0..choices.min(node.nearest as usize) {
                let position = Position { at: node.at + 1, count, before: [node.nearest - choice as u32, 0] };
                let sum = node.paths[choice].0 + rest + lambda * f64::from(runs.end(area, position, true));
                if sum < cost {
                    (cost, at) = (sum, Some((i, choice)));
                }
            }
        }
        while let Some((i, choice)) = at {
            let (node, place) = (nodes[i], usize::from(scan[nodes[i].at]));
            let level = (node.nearest - choice as u32) as i32;
            levels[place] = if coefficients[place] < 0.0 { -level } else { level };
            at = node.paths[choice].1;
        }
        if nodes.is_empty() { energy as f32 } else { cost as f32 }
    }
}

#[cfg(test)]
mod tests {
    use impasto_codec::transform::arithmetic::{Price, Probability};
    use impasto_codec::transform::basis::Kind;
    use impasto_codec::transform::tree::SLOTS;

    use super::*;

    fn noise(n: usize, deviation: f32) -> Vec<f32> {
        let mut state = 5u64;
        let mut uniform = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
        };
        (0..n).map(|_| (0..6).map(|_| uniform()).sum::<f32>() * 1.4 * deviation).collect()
    }

    fn chosen(quantizer: Quantizer, values: &[f32]) -> (Vec<i32>, f32) {
        let probabilities = [Probability::HALF; SLOTS];
        let (prices, by_run) = (Prices::new(&probabilities), runs::Prices::new(&probabilities));
        let (form, mut levels) = (Form::new([3, 3], [Kind::Dct; 2]), Vec::new());
        let work = &mut Workspace::default();
        let cost = quantizer.quantize_runs(form, &Means::new(), (&prices, &by_run), values, &mut levels, work);
        (levels, cost)
    }

    /// Without cost, levels are the nearest. With it, no choice of levels next to them is better, at exact prices.
    #[test]
    fn levels_are_the_best() {
        let plain = Quantizer { dependent: false, by_cost: false, lambda: 0.1 };
        for deviation in [0.3, 0.7, 1.5, 5.0, 300.0] {
            let values = noise(64, deviation);
            let (nearest, _) = chosen(plain, &values);
            assert!(values.iter().zip(&nearest).all(|(v, &level)| (v - level as f32).abs() <= 0.5));
            let quantizer = Quantizer { by_cost: true, ..plain };
            let (levels, cost) = chosen(quantizer, &values);
            let form = Form::new([3, 3], [Kind::Dct; 2]);
            let exact = |levels: &[i32]| {
                let error: f32 = values.iter().zip(levels).map(|(v, &level)| (v - level as f32).powi(2)).sum();
                let probabilities = [Probability::HALF; SLOTS];
                let mut price = Price::new(&probabilities);
                if levels.iter().any(|&level| level != 0) {
                    runs::levels(&mut price, form, &Means::new(), &mut levels.to_vec()).expect("a price");
                }
                error + 0.1 * price.bits as f32 / 65536.0
            };
            assert!(exact(&levels) <= exact(&nearest) + 1e-3, "{deviation}");
            assert!((exact(&levels) - cost).abs() < 0.05 * cost + 0.1, "{deviation}: {} {cost}", exact(&levels));
            for i in 0..64 {
                let mut other = levels.clone();
                other[i] -= other[i].signum();
                assert!(exact(&other) > exact(&levels) - 0.15, "{deviation}: {i} {} {}", exact(&other), exact(&levels));
            }
        }
        let (levels, cost) = chosen(Quantizer { by_cost: true, lambda: 1e6, ..plain }, &noise(64, 2.0));
        assert!(levels.iter().all(|&level| level == 0) && cost > 0.0);
    }
}
