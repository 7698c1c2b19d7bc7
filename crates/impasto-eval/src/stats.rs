//! Means with standard errors, and quantiles.

use serde::{Deserialize, Serialize};

/// A value and its standard error. The error assumes independent tokens, so it is slightly too small: tokens of one
/// window are correlated.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The value.
    pub value: f64,
    /// Its standard error; 0 for a single sample.
    pub error: f64,
}

impl Estimate {
    /// Returns the mean of `samples` and its standard error, sqrt(variance / n) with the unbiased variance.
    pub fn mean(samples: &[f64]) -> Self {
        let n = samples.len() as f64;
        let value = samples.iter().sum::<f64>() / n;
        let squares = samples.iter().map(|x| (x - value) * (x - value)).sum::<f64>();
        let error = if samples.len() > 1 { (squares / (n - 1.0) / n).sqrt() } else { 0.0 };
        Self { value, error }
    }

    /// Returns exp of the estimate. The error is by the delta method: the error of x times the slope e^x.
    pub(super) fn exp(self) -> Self {
        let value = self.value.exp();
        Self { value, error: value * self.error }
    }
}

/// Returns the `q` quantile of sorted samples, linearly interpolated; 0 if there are none.
pub(super) fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let at = q.clamp(0.0, 1.0) * last as f64;
    let (low, part) = (at.floor() as usize, at.fract());
    let high = sorted[(low + 1).min(last)];
    sorted[low] + part * (high - sorted[low])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mean_and_error() {
        let m = Estimate::mean(&[1.0, 2.0, 3.0, 6.0]);
        assert_eq!(m.value, 3.0);
        assert!((m.error - (14.0f64 / 3.0 / 4.0).sqrt()).abs() < 1e-15);
        let e = m.exp();
        assert!((e.error / e.value - m.error).abs() < 1e-15);
        assert_eq!(Estimate::mean(&[2.0]), Estimate { value: 2.0, error: 0.0 });
    }

    #[test]
    fn quantiles() {
        let sorted = [0.0, 1.0, 2.0, 3.0, 10.0];
        assert_eq!(quantile(&sorted, 0.5), 2.0);
        assert_eq!(quantile(&sorted, 0.875), 6.5);
        assert_eq!((quantile(&sorted, 0.0), quantile(&sorted, 1.0)), (0.0, 10.0));
        assert_eq!(quantile(&[], 0.5), 0.0);
    }
}
