//! Pseudo-random weights, and tensor headers for them.

use impasto_codec::{Body, IndexArray, Shape, Steps, TensorHeader};
use impasto_core::{DType, FloatLayout};

/// Pseudo-random numbers (xorshift, Marsaglia 2003), from integers only so that they are the same on every machine.
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn below(&mut self, n: u64) -> i64 {
        (self.next() % n) as i64
    }

    pub fn bytes(&mut self, n: usize) -> Vec<u8> {
        (0..n).map(|_| (self.next() >> 32) as u8).collect()
    }

    /// Returns an approximately normal number with standard deviation 64: a sum of eight uniform ones.
    pub fn bell(&mut self) -> i64 {
        (0..8).map(|_| self.below(79) - 39).sum()
    }

    /// Returns integers for a lattice in which row `r` has class `class(r)`.
    pub fn integers(&mut self, sides: (usize, usize), class: impl Fn(usize) -> i64) -> Vec<i32> {
        let mut row = |r: usize| {
            // 2^((class - 15) / 4), linear within an octave (SPEC 7.4).
            let (octave, quarter) = ((class(r) - 15).div_euclid(4), (class(r) - 15).rem_euclid(4));
            let scale = (4 + quarter) << (octave + 16);
            (0..sides.1).map(|_| ((self.bell() * scale) >> 24) as i32).collect::<Vec<_>>()
        };
        (0..sides.0).flat_map(&mut row).collect()
    }
}

/// Returns the bits of a binary32 value in a dtype; truncated for 8-bit dtypes.
pub fn bits_of(dtype: DType, value: f32) -> u32 {
    match dtype {
        DType::F32 => value.to_bits(),
        DType::F16 => u32::from(half::f16::from_f32(value).to_bits()),
        DType::Bf16 => u32::from(half::bf16::from_f32(value).to_bits()),
        DType::F8E5M2 => u32::from(half::f16::from_f32(value).to_bits() >> 8),
        _ => u32::from(half::f16::from_f32(value / 256.0).to_bits() >> 7 & 0x7F) | value.to_bits() >> 31 << 7,
    }
}

/// Packs bit patterns as bytes.
pub fn pack(dtype: DType, patterns: &[u32]) -> Vec<u8> {
    patterns.iter().flat_map(|p| p.to_le_bytes().into_iter().take(dtype.size())).collect()
}

/// Returns a tensor header of kind float for values of about 2^`octave`.
pub fn float_header(dtype: DType, shape: Shape, octave: i16, sides: (usize, usize)) -> TensorHeader {
    let layout = dtype.float_layout().unwrap_or(FloatLayout { exponent: 8, mantissa: 7 });
    let center = 4 * ((1 << (layout.exponent - 1)) - 1 + octave);
    let row_classes = IndexArray::new((0..sides.0).map(|r| center + (r % 3) as i16 - 1).collect());
    let column_classes = IndexArray::new((0..sides.1).map(|c| (c % 7) as i16 / 3).collect());
    TensorHeader { shape, plane: layout.raw_bits() as u8, row_classes, column_classes, body: Body::Float }
}

/// Returns a tensor header of kind lattice without row and column steps.
pub fn lattice_header(shape: Shape, plane: u8, step: f32, row_classes: Vec<i16>) -> TensorHeader {
    let body = Body::Lattice(Steps::new(step));
    let row_classes = IndexArray::new(row_classes);
    TensorHeader { shape, plane, row_classes, column_classes: IndexArray::Constant(0), body }
}

/// Returns `n` floats with standard deviation 2^`octave`.
pub fn bell_floats(dtype: DType, octave: i32, n: usize, random: &mut Random) -> Vec<u32> {
    let scale = f32::from_bits(((127 + octave - 6) as u32) << 23);
    (0..n).map(|_| bits_of(dtype, random.bell() as f32 * scale)).collect()
}
