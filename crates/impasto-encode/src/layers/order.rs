//! The order of units: by quality gained for each byte, over the whole model.
//!
//! A step of a band is worth what it takes from the model's error over what it takes of the file. Steps of one band come
//! in their order: one that gains more a byte than the step before it counts together with that (the convex hull of the
//! band's rate and distortion, as in JPEG 2000's EBCOT: Taubman, IEEE Trans. Image Processing 9(7), 2000).

/// One step of one band: all its units of one layer.
#[derive(Clone, Debug, PartialEq)]
pub struct Step {
    /// What it takes from the error of the model; what counts is the ratio between steps.
    pub gain: f64,
    /// Bytes of its units.
    pub bytes: u64,
}

/// The order of all steps of all bands, best first: number of the band, number of the step in it.
pub fn order(bands: &[Vec<Step>]) -> Vec<(usize, usize)> {
    let mut all: Vec<(f64, usize, usize)> = Vec::new();
    for (band, steps) in bands.iter().enumerate() {
        let slopes = hull(steps);
        all.extend(slopes.into_iter().enumerate().map(|(step, slope)| (slope, band, step)));
    }
    // Steps of one band never climb, so that equal slopes leave them in their order.
    all.sort_by(|a, b| b.0.total_cmp(&a.0).then((a.2, a.1).cmp(&(b.2, b.1))));
    all.into_iter().map(|(_, band, step)| (band, step)).collect()
}

/// The slope of each step on the convex hull: never more than that of the step before.
fn hull(steps: &[Step]) -> Vec<f64> {
    // Runs of steps that count together: gain, bytes, how many.
    let mut runs: Vec<(f64, f64, usize)> = Vec::new();
    for step in steps {
        let gain = if step.gain.is_finite() { step.gain } else { 0.0 };
        let mut run = (gain, step.bytes.max(1) as f64, 1);
        while let Some(&before) = runs.last() {
            if before.0 * run.1 > run.0 * before.1 {
                break;
            }
            runs.pop();
            run = (before.0 + run.0, before.1 + run.1, before.2 + run.2);
        }
        runs.push(run);
    }
    runs.iter().flat_map(|&(gain, bytes, count)| std::iter::repeat_n(gain / bytes, count)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn step(gain: f64, bytes: u64) -> Step {
        Step { gain, bytes }
    }

    #[test]
    fn best_first() {
        let bands = [vec![step(8.0, 2), step(1.0, 2)], vec![step(9.0, 3), step(3.0, 3)]];
        assert_eq!(order(&bands), [(0, 0), (1, 0), (1, 1), (0, 1)]);
        let late = [vec![step(1.0, 10), step(20.0, 10)], vec![step(5.0, 5)]];
        assert_eq!(order(&late), [(0, 0), (0, 1), (1, 0)], "a step that waits for a better one counts with it");
    }

    proptest! {
        #[test]
        fn every_step_once_and_in_order(bands in prop::collection::vec(prop::collection::vec((-1.0..100.0f64, 0u64..99), 0..6), 0..20)) {
            let bands: Vec<Vec<Step>> = bands.iter().map(|b| b.iter().map(|&(g, n)| step(g, n)).collect()).collect();
            let mut next = vec![0; bands.len()];
            for (band, step) in order(&bands) {
                prop_assert_eq!(next[band], step);
                next[band] += 1;
            }
            prop_assert!(next.iter().zip(&bands).all(|(&n, b)| n == b.len()));
        }
    }
}
