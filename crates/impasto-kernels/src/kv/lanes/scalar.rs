//! Portable lanes: the twin of the others.

use half::{bf16, f16};

use super::{Lanes, WIDTH};

/// One float after the other.
pub(in super::super) struct Scalar;

type V = [f32; WIDTH];

fn each(f: impl Fn(usize) -> f32) -> V {
    std::array::from_fn(f)
}

/// `N` bytes for each lane.
unsafe fn bytes<const N: usize>(at: *const u8) -> [[u8; N]; WIDTH] {
    // SAFETY: the caller has `N * WIDTH` bytes there; bytes have no alignment.
    unsafe { at.cast::<[[u8; N]; WIDTH]>().read() }
}

impl Lanes for Scalar {
    type V = V;
    const ROWS: usize = 1;

    unsafe fn splat(x: f32) -> V {
        [x; WIDTH]
    }

    unsafe fn load(at: *const f32) -> V {
        // SAFETY: the caller has 16 floats there.
        unsafe { at.cast::<V>().read_unaligned() }
    }

    unsafe fn store(at: *mut f32, v: V) {
        // SAFETY: the caller has room for 16 floats there.
        unsafe { at.cast::<V>().write_unaligned(v) }
    }

    unsafe fn load_f16(at: *const u8) -> V {
        // SAFETY: the caller has 16 numbers of two bytes there.
        unsafe { bytes::<2>(at) }.map(|b| f16::from_ne_bytes(b).to_f32())
    }

    unsafe fn load_bf16(at: *const u8) -> V {
        // SAFETY: as above.
        unsafe { bytes::<2>(at) }.map(|b| bf16::from_ne_bytes(b).to_f32())
    }

    unsafe fn load_i8(at: *const u8) -> V {
        // SAFETY: the caller has 16 bytes there.
        unsafe { bytes::<1>(at) }.map(|[b]| f32::from(b as i8))
    }

    unsafe fn load_i4(at: *const u8) -> [V; 2] {
        // SAFETY: the caller has 16 bytes there.
        let bytes = unsafe { bytes::<1>(at) };
        [bytes.map(|[b]| f32::from(b & 15) - 8.0), bytes.map(|[b]| f32::from(b >> 4) - 8.0)]
    }

    unsafe fn add(a: V, b: V) -> V {
        each(|i| a[i] + b[i])
    }

    unsafe fn sub(a: V, b: V) -> V {
        each(|i| a[i] - b[i])
    }

    unsafe fn mul(a: V, b: V) -> V {
        each(|i| a[i] * b[i])
    }

    unsafe fn div(a: V, b: V) -> V {
        each(|i| a[i] / b[i])
    }

    unsafe fn fma(a: V, b: V, c: V) -> V {
        each(|i| a[i].mul_add(b[i], c[i]))
    }

    unsafe fn max(a: V, b: V) -> V {
        each(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    unsafe fn min(a: V, b: V) -> V {
        each(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    unsafe fn round(a: V) -> V {
        each(|i| a[i].round_ties_even())
    }

    unsafe fn power_of_two(n: V) -> V {
        each(|i| f32::from_bits((n[i] as i32).wrapping_add(127).cast_unsigned() << 23))
    }

    unsafe fn zero_below(x: V, limit: V, v: V) -> V {
        each(|i| if x[i] < limit[i] { 0.0 } else { v[i] })
    }

    unsafe fn keep(v: V, from: usize, to: usize) -> V {
        each(|i| if (from..to).contains(&i) { v[i] } else { f32::NEG_INFINITY })
    }

    unsafe fn prefetch(_: *const u8) {}

    unsafe fn largest(v: V) -> f32 {
        v.into_iter().fold(f32::NEG_INFINITY, f32::max)
    }
}
