//! Which instructions the kernels may use.

use std::sync::OnceLock;

/// An instruction level. Every kernel gives the same bytes at every level.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Portable code: the reference that the others are compared with.
    Scalar,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VBMI.
    Avx512,
}

impl Level {
    /// The levels that this processor has.
    pub fn available() -> Vec<Level> {
        [Level::Scalar, Level::Avx512].into_iter().filter(|l| l.is_available()).collect()
    }

    /// Does this processor have it? (The answer is kept by the standard library; asking again costs a few loads.)
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("avx512vbmi")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Level::Avx512 => false,
        }
    }

    /// The level, or the portable one where the processor lacks it: what a kernel asks before it runs.
    pub fn or_scalar(self) -> Level {
        if self.is_available() { self } else { Level::Scalar }
    }

    /// The highest available level; with `IMPASTO_CPU=scalar` in the environment, the portable one.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| {
            let scalar = std::env::var_os("IMPASTO_CPU").is_some_and(|wanted| wanted == "scalar");
            if scalar { Level::Scalar } else { Level::Avx512.or_scalar() }
        })
    }
}
