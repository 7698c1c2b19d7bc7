//! Predictions with factors, fitted to a block by least squares.

use impasto_codec::transform::UNIT;
use impasto_codec::transform::samples::{Area, Prediction, Samples};

/// Returns the linear prediction that leaves the least square of an area, whose wanted samples are given in steps; `None` if
/// its factors are those of another prediction, or its neighbours are 0.
pub fn linear(samples: &Samples, area: Area, target: &[f32]) -> Option<Prediction> {
    let width = area.sides()[1];
    let mut predicted = Vec::new();
    samples.predict(Prediction::Top, area, &mut predicted);
    let top: Vec<f32> = predicted[..width].iter().map(|&x| x as f32 * UNIT).collect();
    samples.predict(Prediction::Left, area, &mut predicted);
    let left: Vec<f32> = predicted.iter().step_by(width).map(|&x| x as f32 * UNIT).collect();
    // Sums of products: of the neighbours with themselves and each other, and with what is wanted.
    let (mut tt, mut ll, mut tl, mut t, mut l) = (0.0f32, 0.0f32, 0.0f32, 0.0f32, 0.0f32);
    for (row, left) in target.chunks_exact(width).zip(&left) {
        for (x, top) in row.iter().zip(&top) {
            (tt, ll, tl) = (tt + top * top, ll + left * left, tl + top * left);
            (t, l) = (t + top * x, l + left * x);
        }
    }
    let determinant = tt * ll - tl * tl;
    let factors = if determinant > 1e-3 * tt * ll {
        [(t * ll - l * tl) / determinant, (l * tt - t * tl) / determinant]
    } else if tt > 0.0 {
        [t / tt, 0.0]
    } else {
        return None;
    };
    let factors = factors.map(sixteenths);
    let is_other = matches!(factors, [0, 0] | [16, 0] | [0, 16]);
    (!is_other).then_some(Prediction::Linear(factors))
}

/// Returns the prediction by co-located samples that leaves the least square of an area; `None` if its factor is 0.
pub fn co_located(samples: &Samples, area: Area, target: &[f32]) -> Option<Prediction> {
    let mut predicted = Vec::new();
    samples.predict(Prediction::CoLocated(16), area, &mut predicted);
    let (mut xx, mut xy) = (0.0f32, 0.0f32);
    for (&x, y) in predicted.iter().zip(target) {
        let x = x as f32 * UNIT;
        (xx, xy) = (xx + x * x, xy + x * y);
    }
    let factor = if xx > 0.0 { sixteenths(xy / xx) } else { 0 };
    (factor != 0).then_some(Prediction::CoLocated(factor))
}

/// Returns a factor as it is coded.
fn sixteenths(factor: f32) -> i8 {
    (factor * 16.0).round().clamp(-32.0, 31.0) as i8
}
