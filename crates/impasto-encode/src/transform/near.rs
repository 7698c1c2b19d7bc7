//! Transforms of predictions, without the predicted block: a prediction is a sum of products of a column and a row, so its
//! transform is the sum of the products of their transforms. Rounding is left out, so this serves estimates.

use impasto_codec::transform::UNIT;
use impasto_codec::transform::basis::Kind;
use impasto_codec::transform::learned::Bases;
use impasto_codec::transform::samples::{Area, Prediction, Samples};

use super::forward;

/// The neighbours of a block, in steps.
#[derive(Default)]
pub struct Near {
    /// Logarithms of its height and width.
    pub logs: [u32; 2],
    top: Vec<f32>,
    left: Vec<f32>,
    corner: f32,
}

/// A product of a column and a row.
type Product = [Vec<f32>; 2];

impl Near {
    /// Reads the neighbours of an area.
    pub fn read(&mut self, samples: &Samples, area: Area, predicted: &mut Vec<i64>) {
        let width = area.sides()[1];
        let steps = |x: &i64| *x as f32 * UNIT;
        self.logs = area.logs;
        self.top.clear();
        self.left.clear();
        samples.predict(Prediction::Top, area, predicted);
        self.top.extend(predicted[..width].iter().map(steps));
        samples.predict(Prediction::Left, area, predicted);
        self.left.extend(predicted.iter().step_by(width).map(steps));
        samples.predict(Prediction::Sum, area, predicted);
        self.corner = self.top[0] + self.left[0] - steps(&predicted[0]);
    }

    /// Subtracts the transform of a prediction from coefficients, row-major.
    pub fn subtract(&self, bases: &Bases, prediction: Prediction, kinds: [Kind; 2], coefficients: &mut [f32]) {
        let (mut column, mut row) = (Vec::new(), Vec::new());
        for [of_rows, of_columns] in self.products(prediction) {
            // A single column is transformed as a row, which is the faster one.
            forward::rows(bases, kinds[0], [0, self.logs[0]], &of_rows, &mut column);
            forward::rows(bases, kinds[1], [0, self.logs[1]], &of_columns, &mut row);
            for (to, &factor) in coefficients.chunks_exact_mut(row.len()).zip(&column).filter(|(_, f)| **f != 0.0) {
                to.iter_mut().zip(&row).for_each(|(to, value)| *to -= factor * value);
            }
        }
    }

    /// Returns the products that a prediction is the sum of.
    fn products(&self, prediction: Prediction) -> Vec<Product> {
        let [height, width] = self.logs.map(|log| 1usize << log);
        let (top, left) = (&self.top, &self.left);
        let flat = |side: usize, value: f32| vec![value; side];
        let scaled = |values: &[f32], factor: f32| values.iter().map(|value| value * factor).collect::<Vec<_>>();
        // From almost 1 to 0, and from almost 0 to 1; halves of these.
        let falling = |side: usize| (0..side).map(|i| (side - 1 - i) as f32 / (2 * side) as f32).collect::<Vec<_>>();
        let rising = |side: usize, of: f32| (1..=side).map(|i| of * i as f32 / (2 * side) as f32).collect::<Vec<_>>();
        match prediction {
            // One by another tile has no such form.
            Prediction::Zero | Prediction::CoLocated(_) => vec![],
            Prediction::Dc => {
                let mean = (top.iter().sum::<f32>() + left.iter().sum::<f32>()) / (height + width) as f32;
                vec![[flat(height, 1.0), flat(width, mean)]]
            }
            Prediction::Top => vec![[flat(height, 1.0), top.clone()]],
            Prediction::Left => vec![[left.clone(), flat(width, 1.0)]],
            Prediction::Planar => vec![
                [falling(height), top.clone()],
                [rising(height, left[height - 1]), flat(width, 1.0)],
                [left.clone(), falling(width)],
                [flat(height, 1.0), rising(width, top[width - 1])],
            ],
            Prediction::Sum => vec![
                [flat(height, 1.0), top.clone()],
                [left.iter().map(|value| value - self.corner).collect(), flat(width, 1.0)],
            ],
            Prediction::Linear(factors) => {
                let [of_top, of_left] = factors.map(|factor| f32::from(factor) / 16.0);
                vec![[flat(height, 1.0), scaled(top, of_top)], [scaled(left, of_left), flat(width, 1.0)]]
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The difference from a transform of the predicted block is rounding.
    #[test]
    fn products_add_up_to_the_prediction() {
        let mut samples = Samples::new(16, 24);
        for (i, value) in samples.values.iter_mut().enumerate() {
            *value = (i as i32 * 7919 % 5000) - 2500;
        }
        let (bases, mut predicted, mut near) = (Bases::default(), Vec::new(), Near::default());
        for (at, logs) in [([4, 8], [2, 3]), ([0, 8], [3, 2]), ([8, 0], [3, 4]), ([0, 0], [2, 2])] {
            let area = Area { at, logs };
            near.read(&samples, area, &mut predicted);
            for prediction in Prediction::ALL.into_iter().chain([Prediction::Linear([-17, 30])]) {
                samples.predict(prediction, area, &mut predicted);
                let wanted: Vec<f32> = predicted.iter().map(|&x| x as f32 * UNIT).collect();
                for kinds in [[Kind::Identity; 2], [Kind::Dct; 2], [Kind::Dst, Kind::Hadamard]] {
                    let (mut between, mut coefficients) = (Vec::new(), Vec::new());
                    forward::columns(&bases, kinds[0], logs, &wanted, &mut between);
                    forward::rows(&bases, kinds[1], logs, &between, &mut coefficients);
                    near.subtract(&bases, prediction, kinds, &mut coefficients);
                    let square: f32 = coefficients.iter().map(|c| c * c).sum();
                    assert!(square < 1e-4 * wanted.len() as f32, "{prediction:?} {kinds:?} {area:?}: {square}");
                }
            }
        }
    }
}
