//! Registers of sixteen rows.
//!
//! Kernels are written once, over [`Lanes`], and give the same bits with every instruction set: sums of integers are
//! exact, and operations on floats follow IEEE 754.
//!
//! A value of a type that implements [`Lanes`] is a *token*: it can only be created on a processor that supports the
//! instructions, so its methods are safe to call.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod scalar;

use scalar::Scalar;
#[cfg(target_arch = "x86_64")]
use {avx2::Avx2, avx512::Avx512};

use crate::packed::Kernel;
use crate::packed::cell::{Line, QUAD, STRIP, VECTORS};
use crate::packed::kernel::Kind;

/// Operations on sixteen rows. Memory operands may have any alignment.
pub(super) trait Lanes: Copy {
    /// Sixteen 32-bit integers, or sixteen times four bytes.
    type Ints: Copy;
    /// Sixteen floats.
    type Floats: Copy;
    /// The largest number of tokens whose sums stay in registers.
    const PANEL: usize;
    /// The number of strips that are multiplied together by a panel: 1 or 2.
    const STRIPS: usize;
    /// Whether [`Lanes::wide_dot`] subtracts 128 from its unsigned bytes.
    const CENTRED: bool;

    /// Runs an algorithm in a function that is compiled for these instructions.
    fn run<A: OnLanes>(self, algorithm: A) -> A::Output;

    fn ints(self, x: i32) -> Self::Ints;
    fn floats(self, x: f32) -> Self::Floats;
    fn load(self, from: &Line) -> Self::Ints;
    fn store(self, to: &mut Line, v: Self::Ints);
    fn load_floats(self, from: &Line) -> Self::Floats;
    fn store_floats(self, to: &mut Line, v: Self::Floats);
    /// Converts binary16.
    fn halves(self, from: &[u8; 2 * STRIP]) -> Self::Floats;
    /// Converts signed bytes.
    fn signed(self, from: &[u8; STRIP]) -> Self::Floats;
    /// Converts unsigned bytes: their low halves, or their high halves.
    fn nibbles(self, from: &[u8; STRIP], high: bool) -> Self::Floats;
    /// Converts exponents plus 128 to powers of two.
    fn powers(self, from: &[u8; STRIP]) -> Self::Floats;
    /// Unpacks a cell, which has `width` lines, 1 to 8.
    fn unpack(self, cell: &[Line], width: u8) -> [Self::Ints; VECTORS];
    /// Returns the entries of a table whose indices are the bytes of `v`, which are below 16.
    fn look_up(self, table: &[u8; 16], v: Self::Ints) -> Self::Ints;
    /// Adds the products of four unsigned bytes below 64 and four activations to the integer of each row.
    fn dot(self, sum: Self::Ints, u: Self::Ints, q: &[i8; QUAD]) -> Self::Ints;
    /// Like [`Lanes::dot`], for any unsigned bytes. No activation is -128.
    fn wide_dot(self, sum: Self::Ints, u: Self::Ints, q: &[i8; QUAD]) -> Self::Ints;
    fn add(self, a: Self::Ints, b: Self::Ints) -> Self::Ints;
    fn to_floats(self, v: Self::Ints) -> Self::Floats;
    fn mul(self, a: Self::Floats, b: Self::Floats) -> Self::Floats;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::Floats, b: Self::Floats, c: Self::Floats) -> Self::Floats;
}

/// An algorithm that is written once and compiled for each instruction set by [`Lanes::run`].
pub(super) trait OnLanes {
    type Output;

    /// Runs the algorithm. It and the functions that it calls must be inlined (`#[inline(always)]`) to be compiled for
    /// the instructions.
    fn run<L: Lanes>(self, lanes: L) -> Self::Output;
}

/// Runs an algorithm with the instructions of a kernel.
#[inline]
pub(super) fn run<A: OnLanes>(kernel: Kernel, algorithm: A) -> A::Output {
    #[cfg(target_arch = "x86_64")]
    match kernel.0 {
        Kind::Scalar => {}
        Kind::Avx2 => {
            if let Some(lanes) = Avx2::detect() {
                return lanes.run(algorithm);
            }
        }
        Kind::Avx512 => {
            if let Some(lanes) = Avx512::detect() {
                return lanes.run(algorithm);
            }
        }
    }
    _ = kernel;
    Scalar.run(algorithm)
}

/// Returns [`Lanes::PANEL`] of the lanes that [`run`] uses.
pub(super) fn panel(kernel: Kernel) -> usize {
    struct Panel;
    impl OnLanes for Panel {
        type Output = usize;
        #[inline(always)]
        fn run<L: Lanes>(self, _: L) -> usize {
            L::PANEL
        }
    }
    run(kernel, Panel)
}

/// Defines a token for the instructions in `$features`, and its [`Lanes`]: `run`, and all other operations from
/// intrinsics.
///
/// This is the only unsafe code of the lanes. It is sound because
/// - a token is only created by `detect`, on a processor that has the features, and every method requires a token;
/// - every pointer passed to an intrinsic comes from a reference to an array, inside which all bytes lie that the
///   intrinsic reads or writes, and the intrinsic accepts any alignment; or it goes to `unpack`, after a check that the
///   cell is whole.
#[cfg(target_arch = "x86_64")]
macro_rules! lanes {
    (
        $(#[$meta:meta])*
        $name:ident, $features:literal, $($feature:tt)&&+;
        type Ints = $ints:ty;
        type Floats = $floats:ty;
        $(const $constant:ident: $of:ty = $value:literal;)*
        $(fn $op:ident($($arg:ident: $type:ty),*) $(-> $result:ty)? $body:block)*
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy)]
        pub(super) struct $name(());

        impl $name {
            /// Returns the token, if this processor has the features.
            #[inline]
            pub(super) fn detect() -> Option<$name> {
                ($(is_x86_feature_detected!($feature))&&+).then_some($name(()))
            }
        }

        impl Lanes for $name {
            type Ints = $ints;
            type Floats = $floats;
            $(const $constant: $of = $value;)*

            #[inline]
            fn run<A: OnLanes>(self, algorithm: A) -> A::Output {
                #[target_feature(enable = $features)]
                fn compiled<A: OnLanes>(lanes: $name, algorithm: A) -> A::Output {
                    algorithm.run(lanes)
                }
                // SAFETY: `detect` checked the features.
                unsafe { compiled(self, algorithm) }
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
