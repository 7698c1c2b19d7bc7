//! Vectors of sixteen floats.
//!
//! Kernels are written once, over [`Lanes`]. Every operation follows IEEE 754 and is performed in the same order with
//! every instruction set, so all of them give the same bits.
//!
//! A value of a type that implements [`Lanes`] is a *token*: it can only be created on a processor that supports the
//! instructions, so its methods are safe to call. To add an instruction set, add one such type (next to `avx2` and
//! `avx512`) and its arm in [`Token::of`].

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use impasto_core::Isa;

use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use {avx2::Avx2, avx512::Avx512};

/// Floats per vector.
pub(super) const WIDTH: usize = 16;

/// Operations on vectors of sixteen floats. Memory operands may have any alignment.
pub(super) trait Lanes: Copy {
    /// A vector of sixteen floats.
    type V: Copy;
    /// The largest number of rows of a tile of 64 columns whose sums stay in registers (measured). Where this is 1, a
    /// tile of 32 columns can have two rows.
    const ROWS: usize;

    /// Runs a kernel in a function that is compiled for these instructions.
    fn run<K: Kernel>(self, kernel: K) -> K::Output;

    fn splat(self, x: f32) -> Self::V;
    fn load(self, from: &[f32; 16]) -> Self::V;
    fn store(self, to: &mut [f32; 16], v: Self::V);
    /// Loads 16 binary32, in native byte order.
    fn load_f32(self, from: &[u8; 64]) -> Self::V;
    /// Loads 16 binary16.
    fn load_f16(self, from: &[u8; 32]) -> Self::V;
    /// Loads 16 bfloat16.
    fn load_bf16(self, from: &[u8; 32]) -> Self::V;
    /// Loads 16 signed bytes.
    fn load_i8(self, from: &[u8; 16]) -> Self::V;
    /// Loads 16 bytes as two vectors: the low four bits of each minus 8, and the high four bits minus 8.
    fn load_i4(self, from: &[u8; 16]) -> [Self::V; 2];
    fn add(self, a: Self::V, b: Self::V) -> Self::V;
    fn sub(self, a: Self::V, b: Self::V) -> Self::V;
    fn mul(self, a: Self::V, b: Self::V) -> Self::V;
    fn div(self, a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// Returns `a` where it is larger, else `b`; hence `b` where either is NaN.
    fn max(self, a: Self::V, b: Self::V) -> Self::V;
    /// Returns `a` where it is smaller, else `b`; hence `b` where either is NaN.
    fn min(self, a: Self::V, b: Self::V) -> Self::V;
    /// Rounds to the nearest integer, ties to even.
    fn round(self, a: Self::V) -> Self::V;
    /// Returns 2^n, for integers n from -126 to 127.
    fn power_of_two(self, n: Self::V) -> Self::V;
    /// Returns `v`, with 0 where `x < limit`.
    fn zero_below(self, x: Self::V, limit: Self::V, v: Self::V) -> Self::V;
    /// Returns `v`, with minus infinity in lanes outside `from..to`; both bounds are at most 16.
    fn keep(self, v: Self::V, from: usize, to: usize) -> Self::V;
    /// Prefetches the cache line of an address. It is a hint, so any address is allowed.
    fn prefetch(self, at: *const u8);
    /// Returns the largest lane.
    fn largest(self, v: Self::V) -> f32;
}

/// An algorithm that is written once and compiled for each instruction set by [`Lanes::run`].
pub(super) trait Kernel {
    type Output;

    /// Runs the algorithm. It and the functions that it calls must be inlined (`#[inline(always)]`) to be compiled for
    /// the instructions.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Proof that this processor supports an implementation of [`Lanes`].
#[derive(Clone, Copy)]
pub(super) enum Token {
    Scalar(Scalar),
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Token {
    /// Returns the lanes for an instruction set, or the portable ones if the processor does not support it.
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

/// Defines a token for the instructions in `$features`, and its [`Lanes`]: `run`, and all other operations from
/// intrinsics.
///
/// This is the only unsafe code of the lanes. It is sound because
/// - a token is only created by `detect`, on a processor that has the features, and every method requires a token;
/// - every pointer passed to an intrinsic comes from a reference to an array of as many bytes as the intrinsic reads or
///   writes, and the intrinsic accepts any alignment; or it goes to a prefetch, which never faults.
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
            /// Returns the token, if this processor has the features.
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
                // SAFETY: `detect` checked the features.
                unsafe { compiled(self, kernel) }
            }

            $(
                #[inline(always)]
                fn $op(self, $($arg: $type),*) $(-> $result)? {
                    // SAFETY: `detect` checked the features; pointers are to whole arrays (see above).
                    unsafe { $body }
                }
            )*
        }
    };
}
#[cfg(target_arch = "x86_64")]
use lanes;
