//! The layout of the numbers of a head within a page.
//!
//! ```text
//! page  = head 0 | head 1 | ...              each aligned to a cache line
//! head  = numbers | one bfloat16 scale per token (integers only)
//! keys:   dim rows of PAGE numbers: a product with a query runs along the tokens
//! values: PAGE rows of dim numbers (padded to whole groups): a sum of values runs along the head
//! ```
//! Both are matrices whose rows a kernel reads as stored, multiplies by one element of another matrix, and sums. Rows
//! consist of whole groups of 32 numbers. In int4, byte i of a group has number i in its low bits and number i + 16 in
//! its high bits.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::pages::PAGE;
use super::{KvError, KvFormat, hadamard, lines::LINE};

/// Numbers per group.
pub(super) const GROUP: usize = 32;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Keys,
    Values,
}

/// The layout of the keys or the values of one head in a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane {
    pub(super) format: KvFormat,
    side: Side,
    dim: usize,
}

impl Plane {
    /// Creates the layout for heads of width `dim`. The number and the width of heads are limited, so that no size
    /// overflows.
    pub(super) fn new(format: KvFormat, side: Side, heads: usize, dim: usize) -> Result<Self, KvError> {
        const MOST: usize = 1 << 24;
        let fits = (1..=MOST).contains(&dim) && (1..=MOST).contains(&heads);
        if fits { Ok(Self { format, side, dim }) } else { Err(KvError::Shape { heads, dim }) }
    }

    /// Returns the rows and columns of the matrix of numbers.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self.side {
            Side::Keys => (self.dim, PAGE),
            Side::Values => (PAGE, self.dim.next_multiple_of(GROUP)),
        }
    }

    /// Returns the bytes between rows.
    pub(super) fn row_bytes(&self) -> usize {
        self.shape().1 * self.format.bits() / 8
    }

    fn number_bytes(&self) -> usize {
        self.shape().0 * self.row_bytes()
    }

    /// Returns the size of a head in bytes.
    pub(super) fn head_bytes(&self) -> usize {
        let scales = if self.format.has_scale() { PAGE * size_of::<bf16>() } else { 0 };
        (self.number_bytes() + scales).next_multiple_of(LINE)
    }

    /// Returns the numbers and the scales of a head in a page; the scales are empty if the format has none.
    pub(super) fn head<'a>(&self, page: &'a [u8], head: usize) -> (&'a [u8], &'a [u8]) {
        let bytes = &page[head * self.head_bytes()..][..self.head_bytes()];
        let (numbers, rest) = bytes.split_at(self.number_bytes());
        (numbers, if self.format.has_scale() { &rest[..PAGE * size_of::<bf16>()] } else { &[] })
    }

    /// Returns the index of a token's first number, and the distance between its numbers.
    fn path(&self, token: usize) -> (usize, usize) {
        match self.side {
            Side::Keys => (token, PAGE),
            Side::Values => (token * self.shape().1, 1),
        }
    }

    /// Stores a token's head of `dim` numbers. `work` has at least `dim` elements.
    pub(super) fn write(&self, page: &mut [u8], head: usize, token: usize, x: &[f32], work: &mut [f32]) {
        let bytes = &mut page[head * self.head_bytes()..][..self.head_bytes()];
        let (numbers, scales) = bytes.split_at_mut(self.number_bytes());
        let mut put_scale = |scale: bf16| scales[2 * token..][..2].copy_from_slice(&scale.to_ne_bytes());
        let (mut at, step) = self.path(token);
        match self.format {
            KvFormat::F32 => {
                let numbers = numbers.as_chunks_mut().0;
                for x in x {
                    numbers[at] = x.to_ne_bytes();
                    at += step;
                }
            }
            KvFormat::F16 => {
                let numbers = numbers.as_chunks_mut().0;
                for x in x.chunks(GROUP) {
                    for code in &to_f16(x)[..x.len()] {
                        numbers[at] = code.to_ne_bytes();
                        at += step;
                    }
                }
            }
            KvFormat::Int8 => {
                let scale = scale8(x);
                let inverse = inverse(scale);
                put_scale(scale);
                for x in x {
                    numbers[at] = rounded((x * inverse).clamp(-127.0, 127.0)).to_bits() as u8;
                    at += step;
                }
            }
            KvFormat::Int4 => {
                let work = &mut work[..x.len()];
                work.copy_from_slice(x);
                hadamard::rotate(work);
                let scale = scale4(work);
                let inverse = inverse(scale);
                put_scale(scale);
                for x in work {
                    let (byte, shift) = nibble(at);
                    let code = (rounded((*x * inverse).clamp(-8.0, 7.0)).to_bits() as u8).wrapping_add(8) & 15;
                    numbers[byte] = numbers[byte] & !(15 << shift) | code << shift;
                    at += step;
                }
            }
        }
    }

    /// Reads a token's head as it is stored.
    pub(super) fn read(&self, page: &[u8], head: usize, token: usize, out: &mut [f32]) {
        let (numbers, scales) = self.head(page, head);
        let scale = match scales {
            [] => 1.0,
            scales => bf16::from_ne_bytes([scales[2 * token], scales[2 * token + 1]]).to_f32(),
        };
        let (mut at, step) = self.path(token);
        for out in out.iter_mut() {
            *out = scale * number(self.format, numbers, at);
            at += step;
        }
        if self.format == KvFormat::Int4 {
            hadamard::rotate(out);
        }
    }
}

/// Returns the byte and the shift of a 4-bit number.
fn nibble(at: usize) -> (usize, usize) {
    (at / GROUP * (GROUP / 2) + at % (GROUP / 2), at % GROUP / (GROUP / 2) * 4)
}

/// Returns number `at` as a float, without its scale.
pub(super) fn number(format: KvFormat, numbers: &[u8], at: usize) -> f32 {
    match format {
        KvFormat::F32 => f32::from_ne_bytes(numbers[4 * at..][..4].try_into().unwrap_or_default()),
        KvFormat::F16 => f16::from_ne_bytes([numbers[2 * at], numbers[2 * at + 1]]).to_f32(),
        KvFormat::Int8 => f32::from(numbers[at] as i8),
        KvFormat::Int4 => {
            let (byte, shift) = nibble(at);
            f32::from(numbers[byte] >> shift & 15) - 8.0
        }
    }
}

/// Converts up to a group of floats to the nearest binary16; finite numbers beyond its range become its largest number.
fn to_f16(x: &[f32]) -> [f16; GROUP] {
    const MOST: f32 = 65504.0;
    let mut within = [0.0; GROUP];
    for (to, &x) in within.iter_mut().zip(x) {
        *to = if x.is_finite() { x.clamp(-MOST, MOST) } else { x };
    }
    let mut out = [f16::ZERO; GROUP];
    out.convert_from_f32_slice(&within);
    out
}

/// 1.5 * 2^23: adding it to a small number leaves the nearest integer (ties to even) in the lowest bits.
const ROUND: f32 = 12_582_912.0;

/// Returns `x + ROUND`, whose lowest bits are those of the integer nearest to `x`.
fn rounded(x: f32) -> f32 {
    x + ROUND
}

fn inverse(scale: bf16) -> f32 {
    if scale == bf16::ZERO { 0.0 } else { 1.0 / scale.to_f32() }
}

/// Returns the number of largest magnitude; NaN if any number is not finite, so that the results show it.
fn extreme(x: &[f32]) -> f32 {
    let mut most = 0.0f32;
    let mut finite = true;
    for &x in x {
        finite &= x.is_finite();
        most = if x.abs() > most.abs() { x } else { most };
    }
    if finite { most } else { f32::NAN }
}

fn scale8(x: &[f32]) -> bf16 {
    bf16::from_f32(extreme(x).abs() / 127.0)
}

fn round4(x: f32) -> f32 {
    rounded(x.clamp(-8.0, 7.0)) - ROUND
}

/// Returns the scale of least squared error among a few candidates, which map the number of largest magnitude to -7 to
/// -9.5 (the scale may be negative).
fn scale4(x: &[f32]) -> bf16 {
    const LEVELS: [f32; 6] = [-7.0, -7.5, -8.0, -8.5, -9.0, -9.5];
    let most = extreme(x);
    let mut best = (f32::INFINITY, bf16::from_f32(most / LEVELS[2]));
    if !most.is_finite() || best.1 == bf16::ZERO {
        return best.1;
    }
    for level in LEVELS {
        let scale = bf16::from_f32(most / level);
        let (step, inverse) = (scale.to_f32(), inverse(scale));
        let squared = |x: f32| (x - step * round4(x * inverse)).powi(2);
        let mut sums = [0.0f32; 8];
        let (whole, rest) = x.as_chunks::<8>();
        for x in whole {
            sums.iter_mut().zip(x).for_each(|(sum, &x)| *sum += squared(x));
        }
        let error = sums.iter().sum::<f32>() + rest.iter().map(|&x| squared(x)).sum::<f32>();
        if error < best.0 {
            best = (error, scale);
        }
    }
    best.1
}
