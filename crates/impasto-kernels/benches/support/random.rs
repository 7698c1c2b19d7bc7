//! Random numbers for benchmarks and examples.

/// SplitMix64.
pub struct Rng(pub u64);

impl Rng {
    /// Returns 64 random bits.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns an approximately normal variable of variance 1: a scaled sum of 8 random bytes.
    pub fn normal(&mut self) -> f64 {
        let sum: u32 = self.next().to_le_bytes().map(u32::from).iter().sum();
        (f64::from(sum) - 1020.0) / 209.0
    }
}
