//! Portable lanes, which are the reference for the others.

use half::f16;
use impasto_core::blocks::apart::power;

use super::{Lanes, OnLanes};
use crate::packed::cell::{self, CELL, Line, QUAD, STRIP, VECTORS};

/// Sixteen rows in an array.
#[derive(Clone, Copy)]
pub(super) struct Scalar;

type Ints = [[u8; 4]; STRIP];
type Floats = [f32; STRIP];

fn each<T>(f: impl Fn(usize) -> T) -> [T; STRIP] {
    std::array::from_fn(f)
}

impl Lanes for Scalar {
    type Ints = Ints;
    type Floats = Floats;
    const PANEL: usize = 2;
    const STRIPS: usize = 1;
    const CENTRED: bool = false;

    fn run<A: OnLanes>(self, algorithm: A) -> A::Output {
        algorithm.run(self)
    }

    fn ints(self, x: i32) -> Ints {
        [x.to_ne_bytes(); STRIP]
    }

    fn floats(self, x: f32) -> Floats {
        [x; STRIP]
    }

    fn load(self, from: &Line) -> Ints {
        bytemuck::cast(from.0)
    }

    fn store(self, to: &mut Line, v: Ints) {
        to.0 = bytemuck::cast(v);
    }

    fn load_floats(self, from: &Line) -> Floats {
        bytemuck::cast(from.0)
    }

    fn store_floats(self, to: &mut Line, v: Floats) {
        to.0 = bytemuck::cast(v);
    }

    fn halves(self, from: &[u8; 2 * STRIP]) -> Floats {
        let parts = from.as_chunks::<2>().0;
        each(|i| f16::from_ne_bytes(parts[i]).to_f32())
    }

    fn signed(self, from: &[u8; STRIP]) -> Floats {
        from.map(|b| f32::from(b as i8))
    }

    fn nibbles(self, from: &[u8; STRIP], high: bool) -> Floats {
        from.map(|b| f32::from(if high { b >> 4 } else { b & 15 }))
    }

    fn powers(self, from: &[u8; STRIP]) -> Floats {
        from.map(power)
    }

    fn unpack(self, cell: &[Line], width: u8) -> [Ints; VECTORS] {
        let mut values = [0; CELL];
        cell::unpack(cell, width, &mut values);
        bytemuck::cast(values)
    }

    fn look_up(self, table: &[u8; 16], v: Ints) -> Ints {
        v.map(|bytes| bytes.map(|b| table[usize::from(b)]))
    }

    fn dot(self, sum: Ints, u: Ints, q: &[i8; QUAD]) -> Ints {
        self.wide_dot(sum, u, q)
    }

    fn wide_dot(self, sum: Ints, u: Ints, q: &[i8; QUAD]) -> Ints {
        each(|row| {
            let products = u[row].iter().zip(q).map(|(&u, &q)| i32::from(u) * i32::from(q));
            (i32::from_ne_bytes(sum[row]) + products.sum::<i32>()).to_ne_bytes()
        })
    }

    fn add(self, a: Ints, b: Ints) -> Ints {
        each(|i| (i32::from_ne_bytes(a[i]) + i32::from_ne_bytes(b[i])).to_ne_bytes())
    }

    fn to_floats(self, v: Ints) -> Floats {
        v.map(|bytes| i32::from_ne_bytes(bytes) as f32)
    }

    fn mul(self, a: Floats, b: Floats) -> Floats {
        each(|i| a[i] * b[i])
    }

    fn fma(self, a: Floats, b: Floats, c: Floats) -> Floats {
        each(|i| a[i].mul_add(b[i], c[i]))
    }
}
