use super::*;
use crate::feedback::{Feedback, Pruner, round_rows};
use crate::lattice::{Costs, Grid, Integers, Rounder, Rows, round};
use crate::matrix::MatrixView;
use crate::scales::fit;
use impasto_core::DType;

const COLUMNS: usize = 150;
const ROWS: usize = 39;

/// About Gaussian numbers of variance 1.
fn noise(n: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 40) as f32 / (1 << 24) as f32 - 0.5
    };
    (0..n).map(|_| (0..12).map(|_| next()).sum()).collect()
}

/// The covariance of inputs of different sizes that share a few causes.
fn correlated(n: usize) -> Vec<f32> {
    let (causes, own) = (noise(n * 8, 3), noise(n, 4));
    let size = |i: usize| (own[i]).exp();
    let entry = |i: usize, j: usize| {
        let shared: f32 = (0..8).map(|k| causes[i * 8 + k] * causes[j * 8 + k]).sum();
        (shared + if i == j { 1.0 } else { 0.0 }) * size(i) * size(j)
    };
    (0..n * n).map(|x| entry(x / n, x % n)).collect()
}

fn feedback() -> Feedback {
    Feedback::new(&correlated(COLUMNS), COLUMNS, 0.01).expect("definite")
}

/// Prunes weights on a fine grid. Returns the integers and the squared error of the outputs.
fn pruned(pruning: &str, weights: &[f32], feedback: &Feedback) -> (Vec<i32>, f64) {
    let scores = Scores::new(&pruning.parse().expect("valid"), feedback, &[]);
    let grid = Grid::new(1e-3);
    let rounder = Rounder::new(DType::F32, &grid, ROWS, COLUMNS, None);
    let mut z = vec![0; weights.len()];
    let mut square = 0.0;
    for first in (0..ROWS).step_by(16) {
        let part = first * COLUMNS..(first + 16).min(ROWS) * COLUMNS;
        round_rows(feedback, &weights[part.clone()], first, 1.0, &rounder, Some(&scores), &mut z[part.clone()]);
        let error: Vec<f32> = weights[part.clone()].iter().zip(&z[part]).map(|(w, &z)| w - z as f32 * 1e-3).collect();
        square += feedback.square(&error);
    }
    (z, square)
}

#[test]
fn spellings() {
    for good in ["magnitude:50%", "wanda:2:4", "sparsegpt:12.5%", "sparsegpt:63:64"] {
        assert_eq!(good.parse::<Pruning>().map(|pruning| pruning.to_string()), Ok(good.into()));
    }
    for (bad, rule) in [
        ("wanda", "a criterion and a pattern"),
        ("50%", "a criterion and a pattern"),
        ("obs:50%", "none of magnitude, wanda, sparsegpt"),
        ("wanda:50", "a share such as 50%, or N:M"),
        ("wanda:0%", "above 0%"),
        ("wanda:100%", "below 100%"),
        ("wanda:NaN%", "above 0%"),
        ("wanda:0:4", "N is from 1 to M - 1"),
        ("wanda:4:4", "N is from 1 to M - 1"),
        ("wanda:2:65", "M at most 64"),
        ("wanda:2:300", "N:M such as 2:4"),
        ("wanda:2:4:8", "N:M such as 2:4"),
    ] {
        let error = bad.parse::<Pruning>().expect_err(bad);
        assert!(error.contains(rule), "{bad}: {error}");
    }
}

#[test]
fn as_many_weights_as_the_pattern_says() {
    let (weights, feedback) = (noise(ROWS * COLUMNS, 9), feedback());
    for criterion in ["magnitude", "wanda", "sparsegpt"] {
        for (kept, of) in [(2, 4), (1, 4), (4, 8), (5, 7)] {
            let (z, _) = pruned(&format!("{criterion}:{kept}:{of}"), &weights, &feedback);
            for group in z.chunks_exact(COLUMNS).flat_map(|row| row.chunks(of)) {
                let count = group.iter().filter(|&&z| z != 0).count();
                // A weight that is kept is nearly never within half a step of 0.
                assert!(count <= kept && count + 1 >= kept.min(group.len()), "{criterion} {kept}:{of}: {group:?}");
            }
        }
        for share in [0.25, 0.5, 0.9] {
            let (z, _) = pruned(&format!("{criterion}:{}%", share * 100.0), &weights, &feedback);
            let zeros = z.iter().filter(|&&z| z == 0).count() as f64 / z.len() as f64;
            assert!((zeros - share).abs() < 0.004, "{criterion} {share}: {zeros}");
        }
    }
    let (z, _) = pruned("wanda:50%", &weights, &feedback);
    assert!(
        z.chunks_exact(COLUMNS).all(|row| row.iter().filter(|&&z| z == 0).count().abs_diff(75) <= 1),
        "in each row"
    );
}

/// What is known of the inputs makes the error smaller: their norms, and then how they go together.
#[test]
fn better_criteria_have_smaller_errors() {
    let (weights, feedback) = (noise(ROWS * COLUMNS, 9), feedback());
    for pattern in ["50%", "25%", "2:4", "4:8"] {
        let error = |criterion: &str| pruned(&format!("{criterion}:{pattern}"), &weights, &feedback).1;
        let (magnitude, wanda, sparsegpt) = (error("magnitude"), error("wanda"), error("sparsegpt"));
        assert!(sparsegpt < 0.9 * wanda && wanda < 0.9 * magnitude, "{pattern}: {magnitude} {wanda} {sparsegpt}");
    }
}

/// Without a covariance there is nothing but magnitudes.
#[test]
fn without_inputs_all_criteria_are_one() {
    let weights = noise(ROWS * COLUMNS, 2);
    let by = |pruning| pruned(pruning, &weights, &Feedback::none(COLUMNS)).0;
    let expected = by("magnitude:2:4");
    assert!(by("wanda:2:4") == expected && by("sparsegpt:2:4") == expected);
    for (z, w) in expected.chunks_exact(2).zip(weights.chunks_exact(2)).take(1) {
        assert!(z.iter().zip(w).all(|(&z, w)| z == 0 || z == (w / 1e-3).round_ties_even() as i32));
    }
}

#[test]
fn zeros_stay_zeros() {
    let mut rows = [[0.0; 16], [1.0; 16]];
    rows[1][3] = -0.0;
    let mut bits = [7; 2];
    KeepZeros.choose(0..16, 5..7, &rows, &[[9.0; 16]; 2], &mut bits);
    assert_eq!((bits, KeepZeros.group(5)), ([0xFFFF, 1 << 3], 5));
}

/// A pruned matrix takes one bit for each weight that is or is not 0, and what the others take alone.
#[test]
fn the_rate_is_that_of_the_mask_and_of_the_rest() {
    let (rows, columns) = (256, 512);
    let weights = noise(rows * columns, 77);
    let bytes: Vec<u8> = weights.iter().flat_map(|w| w.to_le_bytes()).collect();
    let matrix = MatrixView::plain(&bytes, DType::F32, rows, columns);
    let (scales, feedback, costs) = (fit(&matrix), Feedback::none(columns), Costs::typical());
    // What is kept has 2, 8 and 16 steps in a standard deviation. The last one needs low bits or escapes.
    for (step, most) in [(0.5, 1.02), (0.12, 1.02), (0.06, 1.06)] {
        let grid = Grid::new(step);
        let scores = Scores::new(&"magnitude:50%".parse().expect("valid"), &feedback, &[]);
        let integers = round(&matrix, &scales, &feedback, &grid, (&costs, None), Some(&scores), Rows::All);
        let bits = integers.rate(&grid.body(), &costs).bits;
        let entropy = entropy(&integers);
        assert!(bits < most * entropy, "step {step}: {bits} bits, entropy {entropy}");
    }
}

/// The entropy of integers, in bits.
fn entropy(integers: &Integers) -> f64 {
    let mut counts = std::collections::BTreeMap::new();
    integers.z.iter().for_each(|z| *counts.entry(z).or_insert(0.0) += 1.0);
    let n = integers.z.len() as f64;
    counts.values().map(|&count: &f64| -count / n * (count / n).log2()).sum()
}
