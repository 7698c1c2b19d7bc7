//! How the numbers of one head lie in a page.
//!
//! ```text
//! page  = head 0 | head 1 | ...              each begins at a cache line
//! head  = numbers | a bfloat16 scale for each token (integers only)
//! keys:   dim rows of PAGE numbers: products with a query run along the tokens
//! values: PAGE rows of dim numbers (padded to whole groups): sums of values run along the head
//! ```
//! Both are matrices whose rows a kernel reads as they lie, multiplies by one number of another matrix, and adds up. Rows
//! are whole groups of 32 numbers. Of four bits, byte i of a group has number i below and number i + 16 above.

use half::slice::HalfFloatSliceExt;
use half::{bf16, f16};

use super::pages::PAGE;
use super::{KvError, KvFormat, hadamard, lines::LINE};

/// Numbers of a group.
pub(super) const GROUP: usize = 32;

/// Keys or values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Keys,
    Values,
}

/// The keys or the values of one head in a page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Plane {
    pub(super) format: KvFormat,
    side: Side,
    dim: usize,
}

impl Plane {
    /// The plane of heads `dim` wide, if neither their width nor their number is beyond any model's, so that no size
    /// overflows.
    pub(super) fn new(format: KvFormat, side: Side, heads: usize, dim: usize) -> Result<Self, KvError> {
        const MOST: usize = 1 << 24;
        let fits = (1..=MOST).contains(&dim) && (1..=MOST).contains(&heads);
        if fits { Ok(Self { format, side, dim }) } else { Err(KvError::Shape { heads, dim }) }
    }

    /// Rows and columns of the matrix of numbers.
    pub(super) fn shape(&self) -> (usize, usize) {
        match self.side {
            Side::Keys => (self.dim, PAGE),
            Side::Values => (PAGE, self.dim.next_multiple_of(GROUP)),
        }
    }

    /// Bytes from a row to the next.
    pub(super) fn row_bytes(&self) -> usize {
        self.shape().1 * self.format.bits() / 8
    }

    fn number_bytes(&self) -> usize {
        self.shape().0 * self.row_bytes()
    }

    /// Bytes of a head.
    pub(super) fn head_bytes(&self) -> usize {
        let scales = if self.format.has_scale() { PAGE * size_of::<bf16>() } else { 0 };
        (self.number_bytes() + scales).next_multiple_of(LINE)
    }

    /// Numbers and scales (none where the format has none) of one head in a page.
    pub(super) fn head<'a>(&self, page: &'a [u8], head: usize) -> (&'a [u8], &'a [u8]) {
        let bytes = &page[head * self.head_bytes()..][..self.head_bytes()];
        let (numbers, rest) = bytes.split_at(self.number_bytes());
        (numbers, if self.format.has_scale() { &rest[..PAGE * size_of::<bf16>()] } else { &[] })
    }

    /// Where a token's first number is, and how far it is from one to the next.
    fn path(&self, token: usize) -> (usize, usize) {
        match self.side {
            Side::Keys => (token, PAGE),
            Side::Values => (token * self.shape().1, 1),
        }
    }

    /// Stores a token's head, `dim` numbers; `work` has room for as many.
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

    /// A token's head as it is stored.
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

/// Byte and shift of a number of four bits.
fn nibble(at: usize) -> (usize, usize) {
    (at / GROUP * (GROUP / 2) + at % (GROUP / 2), at % GROUP / (GROUP / 2) * 4)
}

/// Number `at` as a float, its scale aside.
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

/// The nearest numbers of binary16 (the largest one for finite numbers beyond) of up to a group of floats.
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

/// 1.5 * 2^23: added to a small number, it leaves the nearest integer (ties to even) in the last bits.
const ROUND: f32 = 12_582_912.0;

/// `x + ROUND`: its last bits are those of the integer nearest `x`.
fn rounded(x: f32) -> f32 {
    x + ROUND
}

fn inverse(scale: bf16) -> f32 {
    if scale == bf16::ZERO { 0.0 } else { 1.0 / scale.to_f32() }
}

/// The number of largest magnitude; not a number if any is not finite, so that it shows in what is computed from it.
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

/// The scale of least square error among some: the extreme number at -8 (the scale may be negative), or a little outside.
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
