//! Sixteen floats at a time.
//!
//! Kernels are written once, over [`Lanes`]; every operation is one of IEEE 754, done in the same order at every
//! isa, so that all levels give the same bits.

#[cfg(target_arch = "x86_64")]
pub(super) mod avx2;
#[cfg(target_arch = "x86_64")]
pub(super) mod avx512;
pub(super) mod scalar;

/// Floats of a vector.
pub(super) const WIDTH: usize = 16;

/// Operations on vectors of sixteen floats.
///
/// # Safety
/// Of every function: the processor has the isa's features. Of those with a pointer: what is named there can be read
/// or written; there is no condition on alignment.
pub(super) trait Lanes {
    /// Sixteen floats.
    type V: Copy;
    /// Rows that a tile of 64 columns may have, so that its sums stay in registers (measured; of 32 columns, two where
    /// this is one).
    const ROWS: usize;

    unsafe fn splat(x: f32) -> Self::V;
    /// 16 floats.
    unsafe fn load(at: *const f32) -> Self::V;
    /// 16 floats.
    unsafe fn store(at: *mut f32, v: Self::V);
    /// 16 of binary16.
    unsafe fn load_f16(at: *const u8) -> Self::V;
    /// 16 of bfloat16.
    unsafe fn load_bf16(at: *const u8) -> Self::V;
    /// 16 signed bytes.
    unsafe fn load_i8(at: *const u8) -> Self::V;
    /// 16 bytes: of each the lower four bits less 8, and the upper less 8.
    unsafe fn load_i4(at: *const u8) -> [Self::V; 2];
    unsafe fn add(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn sub(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn mul(a: Self::V, b: Self::V) -> Self::V;
    unsafe fn div(a: Self::V, b: Self::V) -> Self::V;
    /// `a * b + c`, rounded once.
    unsafe fn fma(a: Self::V, b: Self::V, c: Self::V) -> Self::V;
    /// `a` where it is larger, else `b`: so `b` where either is not a number.
    unsafe fn max(a: Self::V, b: Self::V) -> Self::V;
    /// As [`max`](Self::max).
    unsafe fn min(a: Self::V, b: Self::V) -> Self::V;
    /// To the nearest integer, ties to even.
    unsafe fn round(a: Self::V) -> Self::V;
    /// 2^n of integers n from -126 to 127.
    unsafe fn power_of_two(n: Self::V) -> Self::V;
    /// `v`, but 0 where `x < limit`.
    unsafe fn zero_below(x: Self::V, limit: Self::V, v: Self::V) -> Self::V;
    /// `v` in lanes from `from` on and before `to`, minus infinity in the others.
    unsafe fn keep(v: Self::V, from: usize, to: usize) -> Self::V;
    /// Asks for the line of an address to be brought near; any address will do.
    unsafe fn prefetch(at: *const u8);
    /// The largest lane.
    unsafe fn largest(v: Self::V) -> f32;
}
