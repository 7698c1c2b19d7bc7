//! Sixteen floats at a time.
//!
//! Kernels are written once, over [`Lanes`]. Every operation is one of IEEE 754, done in the same order with every
//! instruction set, so that all of them give the same bits.
//!
//! A value of a type that implements [`Lanes`] is a *token*: it can only be made where the processor has the
//! instructions, so its methods are safe to call. All that a new instruction set needs is one such type
//! (`avx2`, `avx512`; NEON would be a third) and its arm in [`Token::of`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use impasto_core::Isa;

use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use {avx2::Avx2, avx512::Avx512};

/// Floats of a vector.
pub(super) const WIDTH: usize = 16;

/// Operations on vectors of sixteen floats. There is no condition on alignment.
pub(super) trait Lanes: Copy {
    /// Sixteen floats.
    type V: Copy;
    /// Rows that a tile of 64 columns may have, so that its sums stay in registers (measured; of 32 columns, two where
    /// this is one).
    const ROWS: usize;

    /// Runs a kernel in a function that is compiled for these instructions.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; 16]) -> Self::V;
    fn store(self, to: &mut [f32; 16], v: Self::V);
    /// 16 of binary32, in the byte order of the processor.
    fn load_f32(self, from: &[u8; 64]) -> Self::V;
    /// 16 of binary16.
    fn load_f16(self, from: &[u8; 32]) -> Self::V;
    /// 16 of bfloat16.
    fn load_bf16(self, from: &[u8; 32]) -> Self::V;
    /// 16 signed bytes.
    fn load_i8(self, from: &[u8; 16]) -> Self::V;
    /// 16 bytes: of each the lower four bits less 8, and the upper less 8.
    fn load_i4(self, from: &[u8; 16]) -> [Self::V; 2];
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a` where it is larger, else `b`: so `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a` where it is smaller, else `b`: so `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// 2^n of integers n from -126 to 127.
    fn power_of_two(self, n: Self::V) -> Self::V;
    /// `v`, but 0 where `x < limit`.
    fn zero_below(self, x: Self::V, limit: Self::V, v: Self::V) -> Self::V;
    /// `v` in lanes from `from` on and before `to`, minus infinity in the others; both are at most 16.
    fn keep(self, v: Self::V, from: usize, to: usize) -> Self::V;
    /// Asks for the cache line of an address. This is a hint, so any address will do.
    fn prefetch(self, at: *const u8);
    /// The largest lane.
    fn largest(self, v: Self::V) -> f32;
}

/// Work that is written once and compiled for each instruction set by [`Lanes::run`].
pub(super) trait Kernel {
    type Output;

    /// The work. It must be inlined (`#[inline(always)]`), and so must what it calls, to use the instructions.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// The proof that this processor has some [`Lanes`].
#[derive(Clone, Copy)]
pub(super) enum Token {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Token {
    /// The lanes of an instruction set, or portable ones where the processor lacks it.
    pub(super) fn of(isa: Isa) -> Token {
        #[cfg(target_arch = "x86_64")]
        if let (Isa::Avx512, Some(lanes)) = (isa.or_scalar(), Avx512::detect()) {
            return Token::Avx512(lanes);
        } else if let (Isa::Avx2, Some(lanes)) = (isa.or_scalar(), Avx2::detect()) {
            return Token::Avx2(lanes);
        }
        _ = isa;
        Token::Scalar(Scalar)
    }

    /// Runs a kernel on these lanes.
    #[inline]
    pub(super) fn run<K: Kernel>(self, kernel: K) -> K::Output {
        match self {
            Token::Scalar(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx2(lanes) => lanes.run(kernel),
            #[cfg(target_arch = "x86_64")]
            Token::Avx512(lanes) => lanes.run(kernel),
        }
    }
}

/// Defines a token for the instructions that `$features` names, and its [`Lanes`]: `run` and, from intrinsics, all other
/// operations.
///
/// This is the only unsafe code of the lanes. It is sound since
/// - a token is only made by `detect`, on a processor that has the features, and every method takes one;
/// - every pointer that an operation hands to an intrinsic comes from a reference to an array of as many bytes as the
///   intrinsic reads or writes, by an instruction that takes any alignment, or goes to a prefetch, which never faults.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    (
        $(#[$meta:meta])*
        $name:ident, $features:literal, $($feature:tt)&&+;
        type V = $v:ty;
        const ROWS: usize = $rows:literal;
        $(fn $op:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block)*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(in super::super) struct $name(());

        impl $name {
            /// The token, if this processor has the features.
            pub(super) fn detect() -> Option<$name> {
                ($(is_x86_feature_detected!($feature))&&+).then_some($name(()))
            }
        }

        impl Lanes for $name {
            type V = $v;
            const ROWS: usize = $rows;

            #[inline]
            fn run<K: Kernel>(self, kernel: K) -> K::Output {
                #[target_feature(enable = $features)]
                fn compiled<K: Kernel>(lanes: $name, kernel: K) -> K::Output {
                    kernel.run(lanes)
                }
                // SAFETY: `detect` found the features.
                unsafe { compiled(self, kernel) }
            }

            $(
                #[inline(always)]
                fn $op(self, $($arg: $type),*) $(-> $result)? {
                    // SAFETY: `detect` found the features; pointers are those of whole arrays (see above).
                    unsafe { $body }
                }
            )*
        }
    };
}
#[cfg(target_arch = "x86_64")]
use lanes;
