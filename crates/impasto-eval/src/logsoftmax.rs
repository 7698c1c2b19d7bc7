//! Log probabilities of a row of logits, in binary64.

use impasto_model::{ModelError, Result};

/// Returns ln(sum(exp(logits))). The largest logit is factored out to prevent overflow.
///
/// # Errors
/// [`ModelError::NonFinite`] unless the result is finite.
pub(super) fn log_sum_exp(logits: &[f32]) -> Result<f64> {
    let max = f64::from(logits.iter().copied().fold(f32::NEG_INFINITY, f32::max));
    let sum: f64 = logits.iter().map(|&x| (f64::from(x) - max).exp()).sum();
    let value = max + sum.ln();
    if value.is_finite() { Ok(value) } else { Err(ModelError::NonFinite(String::new())) }
}

/// Returns -ln p(target).
pub(super) fn nll(logits: &[f32], target: u32, log_sum: f64) -> Result<f64> {
    let (id, vocab) = (target, logits.len());
    let logit = logits.get(id as usize).ok_or(ModelError::TokenId { id, position: 0, vocab })?;
    Ok(log_sum - f64::from(*logit))
}

/// Returns KL(p || q) of the two softmaxes, in nats. If rounding makes the sum negative, returns 0.
pub(super) fn divergence(p: &[f32], p_log_sum: f64, q: &[f32], q_log_sum: f64) -> f64 {
    let term = |(&p, &q): (&f32, &f32)| {
        let log_p = f64::from(p) - p_log_sum;
        let probability = log_p.exp();
        // A token with p = 0 contributes nothing, whatever q is (0 ln 0 = 0).
        if probability == 0.0 { 0.0 } else { probability * (log_p - (f64::from(q) - q_log_sum)) }
    };
    p.iter().zip(q).map(term).sum::<f64>().max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn by_hand() {
        let p = [0.5f32.ln(), 0.25f32.ln(), 0.25f32.ln()];
        let q = [0.25f32.ln() + 7.0, 0.5f32.ln() + 7.0, 0.25f32.ln() + 7.0];
        let (lp, lq) = (log_sum_exp(&p).unwrap(), log_sum_exp(&q).unwrap());
        assert!((nll(&p, 1, lp).unwrap() - 4f64.ln()).abs() < 1e-6);
        assert!((divergence(&p, lp, &q, lq) - 0.25 * 2f64.ln()).abs() < 1e-6);
        assert_eq!(divergence(&p, lp, &p, lp), 0.0);
        assert!(nll(&p, 3, lp).is_err());
    }

    #[test]
    fn huge_and_unusable_logits() {
        assert_eq!(log_sum_exp(&[3e38, 0.0]).unwrap(), f64::from(3e38f32));
        let ruled_out = [f32::NEG_INFINITY, 0.0];
        let lse = log_sum_exp(&ruled_out).unwrap();
        assert_eq!(divergence(&ruled_out, lse, &[0.0, 0.0], 2f64.ln()), 2f64.ln());
        assert!(log_sum_exp(&[f32::NAN, 0.0]).is_err());
        assert!(log_sum_exp(&[f32::INFINITY, 0.0]).is_err());
        assert!(log_sum_exp(&[f32::NEG_INFINITY]).is_err());
    }
}
