//! Instruction sets that kernels may use.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use thiserror::Error;

/// An instruction set that kernels are written for. Every kernel gives bit-identical results with each of them. (Products
/// of float matrices by `gemm-f32` are not among them: they choose their own instructions.)
///
/// Displayed and parsed as `scalar`, `avx2`, `avx512`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Portable code: the reference for the others.
    Scalar,
    /// x86-64 with AVX2 and POPCNT.
    Avx2,
    /// x86-64 with AVX-512 F, BW, DQ and VL. Kernels that need more of it check for that.
    Avx512,
}

/// Defines a function that is compiled once for each [`Isa`] and takes the [`Isa`] to use as its first argument.
/// Intended for loops over slices that the compiler vectorizes. Functions that the body calls use the same instructions
/// only if they are inlined.
///
/// ```
/// use impasto_core::{Isa, at_each_isa};
///
/// at_each_isa! {
///     /// Doubles every value.
///     pub fn double(x: &mut [f32]) {
///         x.iter_mut().for_each(|x| *x *= 2.0);
///     }
/// }
///
/// let mut x = [1.0, 2.5];
/// double(Isa::best(), &mut x);
/// assert_eq!(x, [2.0, 5.0]);
/// ```
#[macro_export]
macro_rules! at_each_isa {
    ($(#[$meta:meta])* $visible:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block) => {
        $(#[$meta])*
        $visible fn $name(isa: $crate::isa::Isa, $($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) $(-> $result)? { portable($($arg),*) }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $result)? { portable($($arg),*) }

            match isa.or_scalar() {
                #[cfg(target_arch = "x86_64")]
                // SAFETY: `or_scalar` returns this variant only if the processor supports these instructions.
                $crate::isa::Isa::Avx512 => unsafe { avx512($($arg),*) },
                #[cfg(target_arch = "x86_64")]
                // SAFETY: as above.
                $crate::isa::Isa::Avx2 => unsafe { avx2($($arg),*) },
                _ => portable($($arg),*),
            }
        }
    };
}
/// Error: the environment variable names an instruction set that cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum IsaError {
    /// There is no instruction set of that name.
    #[error("{:?} is not an instruction set: choose scalar, avx2 or avx512", .0)]
    Unknown(String),
    /// This processor does not support it.
    #[error("this processor lacks {}; its best is {}", .0, Isa::highest())]
    Lacking(Isa),
}

impl Isa {
    /// All instruction sets, from the narrowest to the widest.
    pub const ALL: [Isa; 3] = [Isa::Scalar, Isa::Avx2, Isa::Avx512];

    /// The environment variable that [`Isa::from_environment`] reads.
    pub const VARIABLE: &str = "IMPASTO_CPU";

    /// Returns the instruction sets that this processor supports, from the narrowest to the widest.
    pub fn available() -> Vec<Isa> {
        Self::ALL.into_iter().filter(|isa| isa.is_available()).collect()
    }

    /// Returns whether this processor supports it. (The standard library caches the answer; a call costs a few loads.)
    pub fn is_available(self) -> bool {
        match self {
            Isa::Scalar => true,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => is_x86_feature_detected!("avx2") && is_x86_feature_detected!("popcnt"),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => {
                is_x86_feature_detected!("avx512f")
                    && is_x86_feature_detected!("avx512bw")
                    && is_x86_feature_detected!("avx512dq")
                    && is_x86_feature_detected!("avx512vl")
                    && is_x86_feature_detected!("popcnt")
            }
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => false,
        }
    }

    /// Returns `self`, or [`Isa::Scalar`] if the processor does not support `self`. Kernels call this before they
    /// dispatch.
    pub fn or_scalar(self) -> Isa {
        if self.is_available() { self } else { Isa::Scalar }
    }

    /// Returns the widest instruction set that this processor supports.
    pub fn highest() -> Isa {
        Self::ALL.into_iter().rev().find(|isa| isa.is_available()).unwrap_or(Isa::Scalar)
    }

    /// Returns the instruction set named by the environment variable `IMPASTO_CPU`; the widest available if it is unset
    /// or empty.
    ///
    /// # Errors
    /// If the name is unknown, or this processor does not support that instruction set. A program should check this
    /// once, at startup.
    pub fn from_environment() -> Result<Isa, IsaError> {
        match std::env::var_os(Self::VARIABLE) {
            Some(name) if !name.is_empty() => Self::named(&name.to_string_lossy()),
            _ => Ok(Self::highest()),
        }
    }

    fn named(name: &str) -> Result<Isa, IsaError> {
        let isa: Isa = name.parse()?;
        if isa.is_available() { Ok(isa) } else { Err(IsaError::Lacking(isa)) }
    }

    /// Returns the result of [`Isa::from_environment`], read once per process; the widest available if that is an
    /// error.
    pub fn best() -> Isa {
        static BEST: OnceLock<Isa> = OnceLock::new();
        *BEST.get_or_init(|| Self::from_environment().unwrap_or(Self::highest()))
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
        })
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        let found = Self::ALL.into_iter().find(|isa| isa.to_string() == name);
        found.ok_or_else(|| IsaError::Unknown(name.to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        for isa in Isa::ALL {
            assert_eq!(isa.to_string().parse(), Ok(isa));
            let lacking = Err(IsaError::Lacking(isa));
            assert_eq!(Isa::named(&isa.to_string()), if isa.is_available() { Ok(isa) } else { lacking });
        }
        let error = Isa::named("AVX\n512").expect_err("not a name");
        assert_eq!(error.to_string(), r#""AVX\n512" is not an instruction set: choose scalar, avx2 or avx512"#);
        assert!(IsaError::Lacking(Isa::Avx512).to_string().contains("lacks avx512; its best is "));
    }

    #[test]
    fn the_highest_is_available() {
        assert_eq!(Isa::available().first(), Some(&Isa::Scalar));
        assert_eq!(Isa::available().last(), Some(&Isa::highest()));
        assert!(Isa::best().is_available());
    }
}
