//! Adam (Kingma and Ba, arXiv 1412.6980).

const DECAYS: [f64; 2] = [0.9, 0.99];
const EPSILON: f64 = 1e-12;
/// Share of the steps in which the rate rises.
const WARM_UP: f64 = 0.1;

/// The moments of some parameters.
pub struct Adam {
    moments: Vec<[f64; 2]>,
    steps: i32,
}

impl Adam {
    pub fn new(parameters: usize) -> Adam {
        Adam { moments: vec![[0.0; 2]; parameters], steps: 0 }
    }

    /// Moves parameters against their gradient, each by about `rate`. A parameter whose gradient was always 0 stays.
    pub fn step(&mut self, parameters: &mut [f64], gradient: &[f64], rate: f64) {
        self.steps += 1;
        let [first, second] = DECAYS.map(|decay| 1.0 - decay.powi(self.steps));
        for ((x, &g), [mean, square]) in parameters.iter_mut().zip(gradient).zip(&mut self.moments) {
            *mean += (1.0 - DECAYS[0]) * (g - *mean);
            *square += (1.0 - DECAYS[1]) * (g * g - *square);
            *x -= rate * (*mean / first) / ((*square / second).sqrt() + EPSILON);
        }
    }
}

/// Returns the share of the rate of learning that a step has: it rises, and then falls like a cosine to a tenth.
pub fn schedule(step: usize, steps: usize) -> f64 {
    let (at, warm_up) = ((step as f64 + 0.5) / steps.max(1) as f64, WARM_UP);
    if at < warm_up {
        return at / warm_up;
    }
    let turn = std::f64::consts::PI * (at - warm_up) / (1.0 - warm_up);
    0.1 + 0.45 * (1.0 + turn.cos())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_minimum_of_a_bowl() {
        let (mut x, mut adam, scales) = ([3.0, -2.0, 0.5], Adam::new(3), [1.0, 100.0, 0.0]);
        for step in 0..400 {
            let gradient: Vec<f64> = x.iter().zip(scales).map(|(x, scale)| scale * x).collect();
            adam.step(&mut x, &gradient, 0.05 * schedule(step, 400));
        }
        assert!(x[0].abs() < 0.01 && x[1].abs() < 0.01, "{x:?}");
        assert_eq!(x[2], 0.5, "without a gradient");
    }

    #[test]
    fn the_rate_rises_and_falls() {
        let rates: Vec<f64> = (0..100).map(|step| schedule(step, 100)).collect();
        let most = rates.iter().position(|&rate| rate > 0.99).expect("a step at the full rate");
        assert!(rates[..most].is_sorted() && rates[most + 1..].is_sorted_by(|a, b| a >= b));
        assert!(rates.iter().all(|rate| (0.04..=1.0).contains(rate)));
        assert!(schedule(0, 1) > 0.3);
    }
}
