//! Which instructions the kernels may use.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use thiserror::Error;

/// An instruction level. Every kernel gives the same bytes at every level.
///
/// Shown and parsed as `scalar`, `avx2`, `avx512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Portable code: the reference that the others are compared with.
    Scalar,
    /// x86-64 with AVX2 and POPCNT.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ, VL and VBMI.
    Avx512,
}

/// Defines a function that is compiled once for each level and takes the level as its first argument: for loops over slices that a compiler
/// vectorises by itself. What the body calls must be inlined to have the level's instructions.
macro_rules! at_each_level {
    ($(#[$meta:meta])* $visible:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $visible fn $name(level: $crate::level::Level, $($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) $(-> $result)? { portable($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $result)? { portable($($arg),*) }

            match level.or_scalar() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: the processor has the level, and so its features.
                $crate::level::Level::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::level::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => portable($($arg),*),
            }
        }
    };
}
pub(crate) use at_each_level;

/// The environment asks for a level that there is not.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum LevelError {
    /// No level has that name.
    #[error("{:?} is no instruction level: there are scalar, avx2 and avx512", .0)]
    Unknown(String),
    /// This processor lacks the level.
    #[error("this processor lacks the instruction level {}; it has {}", .0, Level::highest())]
    Lacking(Level),
}

impl Level {
    /// All levels, from the lowest.
    pub const ALL: [Level; 3] = [Level::Scalar, Level::Avx2, Level::Avx512];

    /// The environment variable that [`Level::from_environment`] reads.
    pub const VARIABLE: &str = "IMPASTO_CPU";

    /// The levels that this processor has, from the lowest.
    pub fn available() -> Vec<Level> {
        Self::ALL.into_iter().filter(|l| l.is_available()).collect()
    }

    /// Does this processor have it? (The answer is kept by the standard library; asking again costs a few loads.)
    pub fn is_available(self) -> bool {
        match self {
            Level::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
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
            Level::Avx2 | Level::Avx512 => false,
        }
    }

    /// The level, or the portable one where the processor lacks it: what a kernel asks before it runs.
    pub fn or_scalar(self) -> Level {
        if self.is_available() { self } else { Level::Scalar }
    }

    /// The highest level that this processor has.
    pub fn highest() -> Level {
        Self::ALL.into_iter().rev().find(|l| l.is_available()).unwrap_or(Level::Scalar)
    }

    /// The level that the environment variable `IMPASTO_CPU` names; the highest available one where it is unset or empty.
    ///
    /// # Errors
    /// If it names no level, or one that this processor lacks. A program checks this once, at its start.
    pub fn from_environment() -> Result<Level, LevelError> {
        match std::env::var_os(Self::VARIABLE) {
            Some(name) if !name.is_empty() => Self::named(&name.to_string_lossy()),
            _ => Ok(Self::highest()),
        }
    }

    fn named(name: &str) -> Result<Level, LevelError> {
        let level: Level = name.parse()?;
        if level.is_available() { Ok(level) } else { Err(LevelError::Lacking(level)) }
    }

    /// [`Level::from_environment`], read once for the process; the highest available one where that is an error.
    pub fn best() -> Level {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::from_environment().unwrap_or(Self::highest()))
    }
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Level::Scalar => "scalar",
            Level::Avx2 => "avx2",
            Level::Avx512 => "avx512",
        })
    }
}

impl FromStr for Level {
    type Err = LevelError;

    fn from_str(name: &str) -> Result<Level, LevelError> {
        let found = Self::ALL.into_iter().find(|level| level.to_string() == name);
        found.ok_or_else(|| LevelError::Unknown(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for level in Level::ALL {
            assert_eq!(level.to_string().parse(), Ok(level));
            let lacking = Err(LevelError::Lacking(level));
            assert_eq!(Level::named(&level.to_string()), if level.is_available() { Ok(level) } else { lacking });
        }
        let error = Level::named("AVX\n512").expect_err("no level");
        assert_eq!(error.to_string(), r#""AVX\n512" is no instruction level: there are scalar, avx2 and avx512"#);
        assert!(LevelError::Lacking(Level::Avx512).to_string().contains("lacks the instruction level avx512; it has "));
    }

    #[test]
    fn the_highest_is_available() {
        assert_eq!(Level::available().first(), Some(&Level::Scalar));
        assert_eq!(Level::available().last(), Some(&Level::highest()));
        assert!(Level::best().is_available());
    }
}
