//! Code lengths in fixed point, so that every choice by cost is the same on every machine.

use super::{TABLE_BITS, TOTAL};

/// One bit, in units of 2^-16 bit.
pub const COST_ONE: u64 = 1 << 16;

/// Returns `log2(n)` in units of 2^-16, with integer arithmetic only. `n` must be at least 1.
///
/// The result may be up to 3 units too small. Each squaring of the mantissa yields one binary digit of the logarithm.
pub const fn log2_q16(n: u64) -> u64 {
    assert!(n > 0);
    let whole = 63 - n.leading_zeros();
    // The mantissa in [1, 2) with 31 fraction bits.
    let mut m = if whole <= 31 { n << (31 - whole) } else { n >> (whole - 31) };
    let mut result = whole as u64;
    let mut digit = 0;
    while digit < 16 {
        m = (m * m) >> 31;
        result <<= 1;
        if m >= 1 << 32 {
            m >>= 1;
            result |= 1;
        }
        digit += 1;
    }
    result
}

/// Returns the cost of a symbol of frequency `f` out of 2048, in units of 2^-16 bit; `None` if `f` is 0, so that the
/// table cannot code it.
pub fn symbol_cost(f: u16) -> Option<u64> {
    /// By frequency, since fitting tables asks for many costs.
    static COSTS: [u32; TOTAL as usize + 1] = {
        let mut costs = [0; TOTAL as usize + 1];
        let mut f = 1;
        while f < costs.len() {
            costs[f] = (TABLE_BITS << 16) - log2_q16(f as u64) as u32;
            f += 1;
        }
        costs
    };
    (f > 0).then(|| COSTS[usize::from(f)].into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_floating_point() {
        for n in (1..5000u64).chain([1 << 40, u64::MAX]) {
            let exact = (n as f64).log2() * 65536.0;
            assert!((log2_q16(n) as f64 - exact).abs() < 3.0, "{n}");
        }
        assert_eq!(symbol_cost(2048), Some(0));
        assert_eq!(symbol_cost(1024), Some(COST_ONE));
        assert_eq!(symbol_cost(0), None);
    }
}
