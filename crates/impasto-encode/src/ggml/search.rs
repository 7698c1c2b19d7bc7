//! The search for the scale and the minimum of a group.
//!
//! Candidates come from the range of the group, and each is then fitted to the integers that it leads to, by least squares. Rows are
//! 16 at a time, each with candidates of its own.

use super::levels::Levels;
use crate::feedback::{Row, WIDTH};

/// Where candidates put the weight that is furthest from 0, or the range of a group: so many levels beyond the last one.
const BEYOND: [f32; 9] = [-1.2, -0.75, -0.3, 0.15, 0.6, 1.05, 1.5, 1.95, 2.4];
/// Fits of a scale and a minimum to the integers that they lead to.
const FITS: usize = 2;

/// Scales and minimums of 16 rows: a weight is `scale * level + minimum`.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scales {
    pub scale: Row<f32>,
    pub minimum: Row<f32>,
}

/// What a minimum may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Minimum {
    /// There is none.
    None,
    /// Any.
    Free,
    /// 0 or below.
    Below,
}

/// The best candidates of each row, best first.
#[derive(Clone, Copy, Debug)]
pub struct Best<const K: usize> {
    found: [Scales; K],
    errors: [Row<f32>; K],
}

impl<const K: usize> Best<K> {
    fn new() -> Self {
        Best { found: [Scales::default(); K], errors: [[f32::INFINITY; WIDTH]; K] }
    }

    /// Returns the candidates.
    pub fn found(&self) -> &[Scales; K] {
        &self.found
    }

    fn add(&mut self, new: &Scales, errors: &Row<f32>) {
        for (lane, &error) in errors.iter().enumerate() {
            let is_known = |at: usize| {
                self.found[at].scale[lane] == new.scale[lane] && self.found[at].minimum[lane] == new.minimum[lane]
            };
            let Some(at) = (0..K).find(|&at| error < self.errors[at][lane]) else { continue };
            if (0..at).any(is_known) {
                continue;
            }
            let last = (at..K).find(|&at| is_known(at)).unwrap_or(K - 1);
            for place in (at..last).rev() {
                self.found[place + 1].scale[lane] = self.found[place].scale[lane];
                self.found[place + 1].minimum[lane] = self.found[place].minimum[lane];
                self.errors[place + 1][lane] = self.errors[place][lane];
            }
            (self.found[at].scale[lane], self.found[at].minimum[lane]) = (new.scale[lane], new.minimum[lane]);
            self.errors[at][lane] = error;
        }
    }
}

/// Returns `1 / x`, or 0 for 0 and for what has no finite inverse.
#[inline(always)]
pub fn inverse(x: f32) -> f32 {
    let inverse = 1.0 / x;
    if inverse.is_finite() { inverse } else { 0.0 }
}

/// Returns the inverse of each scale.
#[inline(always)]
pub fn inverses(scale: &Row<f32>) -> Row<f32> {
    std::array::from_fn(|lane| inverse(scale[lane]))
}

/// Finds the best scales of a group under plain rounding. `targets` are its weights, one row for each column, and `weights`
/// what their squared errors count. `stored` is what becomes of a scale or a minimum when it is written.
#[inline(always)]
pub fn search<const K: usize>(
    levels: impl Levels,
    minimum: Minimum,
    targets: &[Row<f32>],
    weights: &[f32],
    stored: impl Fn(f32) -> f32,
) -> Best<K> {
    let mut best = Best::new();
    let mut add = |candidate: Scales| {
        let candidate = Scales { scale: candidate.scale.map(&stored), minimum: candidate.minimum.map(&stored) };
        best.add(&candidate, &error(levels, &candidate, targets, weights));
    };
    let (first, last) = levels.ends();
    if minimum == Minimum::None {
        let extreme = extremes(targets);
        for end in [first, last] {
            for beyond in BEYOND {
                let level = end + beyond * levels.step() * end.signum();
                let scale = extreme.map(|extreme| extreme / level);
                let scales = Scales { scale, minimum: [0.0; WIDTH] };
                add(fitted(levels, minimum, &scales, targets, weights));
            }
        }
    } else {
        let (mut least, mut most) = ([f32::INFINITY; WIDTH], [f32::NEG_INFINITY; WIDTH]);
        for row in targets {
            for lane in 0..WIDTH {
                least[lane] = least[lane].min(row[lane]);
                most[lane] = most[lane].max(row[lane]);
            }
        }
        if minimum == Minimum::Below {
            least = least.map(|least| least.min(0.0));
        }
        for beyond in BEYOND {
            let scale = std::array::from_fn(|lane| (most[lane] - least[lane]) / (last + beyond * levels.step()));
            let mut scales = Scales { scale, minimum: least };
            for _ in 0..FITS {
                scales = fitted(levels, minimum, &scales, targets, weights);
            }
            add(scales);
        }
    }
    best
}

/// Returns the weight of each row that is furthest from 0.
#[inline(always)]
fn extremes(targets: &[Row<f32>]) -> Row<f32> {
    let mut extremes = [0.0f32; WIDTH];
    for row in targets {
        for lane in 0..WIDTH {
            extremes[lane] = if row[lane].abs() > extremes[lane].abs() { row[lane] } else { extremes[lane] };
        }
    }
    extremes
}

/// Returns the error of plain rounding.
#[inline(always)]
pub fn error(levels: impl Levels, scales: &Scales, targets: &[Row<f32>], weights: &[f32]) -> Row<f32> {
    let (Scales { scale, minimum }, inverse) = (scales, inverses(&scales.scale));
    let mut errors = [0.0; WIDTH];
    for (row, weight) in targets.iter().zip(weights) {
        for lane in 0..WIDTH {
            let level = levels.nearest((row[lane] - minimum[lane]) * inverse[lane]);
            let error = row[lane] - (scale[lane] * level + minimum[lane]);
            errors[lane] += weight * error * error;
        }
    }
    errors
}

/// Returns the scales that are best for the integers that these lead to.
#[inline(always)]
pub fn fitted(levels: impl Levels, minimum: Minimum, scales: &Scales, targets: &[Row<f32>], weights: &[f32]) -> Scales {
    let inverse = inverses(&scales.scale);
    let (mut of_squares, mut of_products) = ([0.0; WIDTH], [0.0; WIDTH]);
    let (mut of_levels, mut of_targets, mut all) = ([0.0; WIDTH], [0.0; WIDTH], 0.0);
    for (row, &weight) in targets.iter().zip(weights) {
        all += weight;
        for lane in 0..WIDTH {
            let level = levels.nearest((row[lane] - scales.minimum[lane]) * inverse[lane]);
            let weighted = weight * level;
            of_squares[lane] += weighted * level;
            of_products[lane] += weighted * row[lane];
            of_levels[lane] += weighted;
            of_targets[lane] += weight * row[lane];
        }
    }
    let mut made = *scales;
    for lane in 0..WIDTH {
        let alone = of_products[lane] / of_squares[lane];
        if minimum == Minimum::None {
            if alone.is_finite() && alone != 0.0 {
                made.scale[lane] = alone;
            }
            continue;
        }
        let (squares, products) = (of_squares[lane], of_products[lane]);
        let (levels, targets) = (of_levels[lane], of_targets[lane]);
        let determinant = all * squares - levels * levels;
        let scale = (all * products - levels * targets) / determinant;
        let least = (squares * targets - levels * products) / determinant;
        if !(scale.is_finite() && least.is_finite() && scale > 0.0) {
            continue;
        }
        if minimum == Minimum::Below && least > 0.0 {
            if alone.is_finite() && alone > 0.0 {
                (made.scale[lane], made.minimum[lane]) = (alone, 0.0);
            }
            continue;
        }
        (made.scale[lane], made.minimum[lane]) = (scale, least);
    }
    made
}
