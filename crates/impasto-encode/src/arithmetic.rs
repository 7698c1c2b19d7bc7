//! Logarithms and powers that give the same bits on every machine: they use only operations that IEEE 754 rounds
//! exactly.
//!
//! The encoder derives integers from them, and the file must not depend on the processor or the C library.

use impasto_codec::tables::log2_q16;

/// Returns `log2(x)` in units of 2^-16, rounded down, or `None` unless `x` is finite and positive.
pub fn log2_fixed(x: f64) -> Option<i32> {
    if !(x.is_finite() && x > 0.0) {
        return None;
    }
    // Scaling by 2^64 is exact and makes subnormals normal.
    let (x, shifted) = if x < f64::MIN_POSITIVE { (x * 18_446_744_073_709_551_616.0, 64) } else { (x, 0) };
    let exponent = (x.to_bits() >> 52) as i32 - 1023;
    let mantissa = (x.to_bits() & ((1 << 52) - 1)) | 1 << 52;
    let fraction = log2_q16(mantissa) as i32 - (52 << 16);
    Some(((exponent - shifted) << 16) + fraction)
}

/// Returns `log2(x)`, rounded down to a multiple of 2^-16, or 0 unless `x` is finite and positive.
pub fn log2(x: f64) -> f64 {
    f64::from(log2_fixed(x).unwrap_or(0)) / 65536.0
}

/// Returns `2^x` with a relative error of about 1e-9; `x` is clamped to -500..=500.
pub fn exp2(x: f64) -> f64 {
    let whole = x.clamp(-500.0, 500.0).floor();
    let t = (x.clamp(-500.0, 500.0) - whole) * std::f64::consts::LN_2;
    // The Taylor series of exp(t) on [0, ln 2), to the 13th power; its remainder is below 1e-13.
    let series = (1..14).rev().fold(1.0, |sum, n| 1.0 + t / f64::from(n) * sum);
    series * f64::from_bits(((1023 + whole as i64) as u64) << 52)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_c_library() {
        for i in 0..4000 {
            let x = exp2(f64::from(i) / 13.0 - 150.0);
            assert!((x / (f64::from(i) / 13.0 - 150.0).exp2() - 1.0).abs() < 1e-9);
            let log = log2_fixed(x).expect("finite");
            assert!((f64::from(log) / 65536.0 - x.log2()).abs() < 1e-4, "{x}");
        }
        assert_eq!(log2_fixed(f64::from_bits(1)), Some(-1074 << 16));
        assert_eq!(log2_fixed(0.0), None);
        assert_eq!(log2_fixed(f64::INFINITY), None);
    }
}
