//! The kernels of attention: products with stored matrices, and online softmax.

use std::marker::PhantomData;

use impasto_core::Isa;

use super::KvFormat;
use super::lanes::{Kernel, Lanes, Token, WIDTH};
use super::lines::LINE;
use super::pages::PAGE;
use super::plane::GROUP;
use super::softmax::{Softmax, softmax};

/// Conversion of stored numbers to floats.
trait Source {
    /// Size of a group in bytes.
    const GROUP_BYTES: usize;

    /// Loads a group of 32 numbers.
    fn load<L: Lanes>(lanes: L, group: &[u8]) -> [L::V; 2];
}

/// Returns `N` bytes from `at` on. With constant arguments, the check is optimized away.
#[inline(always)]
fn part<const N: usize>(group: &[u8], at: usize) -> &[u8; N] {
    group[at..].first_chunk().expect("a whole group")
}

macro_rules! sources {
    ($($name:ident, $bytes:literal, ($lanes:ident, $group:ident): $load:expr;)*) => { $(
        struct $name;
        impl Source for $name {
            const GROUP_BYTES: usize = $bytes;

            #[inline(always)]
            fn load<L: Lanes>($lanes: L, $group: &[u8]) -> [L::V; 2] {
                $load
            }
        }
    )* };
}

sources! {
    F32, 128, (lanes, group): [lanes.load_f32(part(group, 0)), lanes.load_f32(part(group, 64))];
    F16, 64, (lanes, group): [lanes.load_f16(part(group, 0)), lanes.load_f16(part(group, 32))];
    Int8, 32, (lanes, group): [lanes.load_i8(part(group, 0)), lanes.load_i8(part(group, 16))];
    Int4, 16, (lanes, group): lanes.load_i4(part(group, 0));
}

/// The product `c = factor c + a b`, or `c = a b` without factors. a is rows x depth; b is depth x columns, as stored;
/// c is rows x columns, with one factor per row.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) a: &'a [f32],
    pub(super) a_stride: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) b: &'a [u8],
    /// Bytes between the rows of b.
    pub(super) b_stride: usize,
    /// A multiple of 32, and also the stride of c.
    pub(super) columns: usize,
    pub(super) factors: Option<&'a [f32]>,
    /// Data to prefetch, in rows like those of b, because it is read next. May be empty.
    pub(super) ahead: &'a [u8],
}

impl Product<'_> {
    /// Returns whether all matrices are inside their slices. The kernels index nothing outside of them.
    fn fits(&self, group_bytes: usize, c: &[f32]) -> bool {
        let span = |rows: usize, stride: usize, width: usize| if rows == 0 { 0 } else { (rows - 1) * stride + width };
        let b_row = self.columns / GROUP * group_bytes;
        self.columns.is_multiple_of(GROUP)
            && self.a_stride >= self.depth
            && self.b_stride >= b_row
            && span(self.rows, self.a_stride, self.depth) <= self.a.len()
            && span(self.depth, self.b_stride, b_row) <= self.b.len()
            && self.rows * self.columns <= c.len()
            && self.factors.is_none_or(|f| self.rows <= f.len())
    }
}

/// Computes rows `row` to `row + R`, in the columns of N groups from `group` on.
#[inline(always)]
fn tile<L: Lanes, S: Source, const R: usize, const N: usize>(
    lanes: L,
    p: &Product,
    c: &mut [f32],
    row: usize,
    group: usize,
) {
    let width = N * S::GROUP_BYTES;
    let mut a = [&p.a[..0]; R];
    for (r, a) in a.iter_mut().enumerate() {
        *a = &p.a[(row + r) * p.a_stride..][..p.depth];
    }
    let b = &p.b[group * S::GROUP_BYTES..];
    let ahead = p.ahead.as_ptr().wrapping_add(group * S::GROUP_BYTES);
    let fetch = row == 0 && !p.ahead.is_empty();
    let mut sums = [[[lanes.splat(0.0); 2]; N]; R];
    // Without this assertion, bounds checks in the loop, which runs once per row of b, took a third of the time of
    // attention.
    assert!(p.depth == 0 || (p.depth - 1) * p.b_stride + width <= b.len(), "b has its rows");
    for i in 0..p.depth {
        if fetch {
            for line in (0..width).step_by(LINE) {
                lanes.prefetch(ahead.wrapping_add(i * p.b_stride + line));
            }
        }
        // SAFETY: row i ends within b, as asserted.
        let b = unsafe { b.get_unchecked(i * p.b_stride..i * p.b_stride + width) };
        // A loop, because a closure would not be compiled for these instructions.
        let mut v = [[lanes.splat(0.0); 2]; N];
        for (n, v) in v.iter_mut().enumerate() {
            *v = S::load(lanes, &b[n * S::GROUP_BYTES..][..S::GROUP_BYTES]);
        }
        for (r, sums) in sums.iter_mut().enumerate() {
            // SAFETY: each of these slices has `depth` elements.
            let x = lanes.splat(unsafe { *a[r].get_unchecked(i) });
            for (sums, v) in sums.iter_mut().zip(&v) {
                sums[0] = lanes.fma(x, v[0], sums[0]);
                sums[1] = lanes.fma(x, v[1], sums[1]);
            }
        }
    }
    for (r, sums) in sums.iter().enumerate() {
        let c = &mut c[(row + r) * p.columns + group * GROUP..][..N * GROUP];
        for (to, &sum) in c.as_chunks_mut::<WIDTH>().0.iter_mut().zip(sums.as_flattened()) {
            let sum = match p.factors {
                Some(factors) => lanes.fma(lanes.splat(factors[row + r]), lanes.load(to), sum),
                None => sum,
            };
            lanes.store(to, sum);
        }
    }
}

/// Computes all rows in the columns of N groups, at most `most` rows at a time.
#[inline(always)]
fn rows<L: Lanes, S: Source, const N: usize>(lanes: L, p: &Product, c: &mut [f32], group: usize, most: usize) {
    let mut row = 0;
    while row < p.rows {
        let here = (p.rows - row).min(most);
        match here {
            1 => tile::<L, S, 1, N>(lanes, p, c, row, group),
            2 => tile::<L, S, 2, N>(lanes, p, c, row, group),
            3 => tile::<L, S, 3, N>(lanes, p, c, row, group),
            4 => tile::<L, S, 4, N>(lanes, p, c, row, group),
            5 => tile::<L, S, 5, N>(lanes, p, c, row, group),
            _ => tile::<L, S, 6, N>(lanes, p, c, row, group),
        }
        row += here.min(6);
    }
}

/// A product into `c`, rows x columns.
struct Multiply<'a, 'b, S> {
    p: &'a Product<'b>,
    c: &'a mut [f32],
    source: PhantomData<S>,
}

impl<S: Source> Kernel for Multiply<'_, '_, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let Self { p, c, .. } = self;
        let groups = p.columns / GROUP;
        let mut group = 0;
        while group < groups {
            // With few registers, two groups at a time are only faster for a single row.
            if group + 2 <= groups && (L::ROWS >= 4 || p.rows == 1) {
                rows::<L, S, 2>(lanes, p, c, group, L::ROWS);
                group += 2;
            } else {
                rows::<L, S, 1>(lanes, p, c, group, if L::ROWS >= 4 { 6 } else { 2 });
                group += 1;
            }
        }
    }
}

/// Conversion of stored numbers to floats.
struct Widen<'a, S> {
    numbers: &'a [u8],
    out: &'a mut [f32],
    source: PhantomData<S>,
}

impl<S: Source> Kernel for Widen<'_, S> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        let groups = self.numbers.chunks_exact(S::GROUP_BYTES);
        for (out, group) in self.out.as_chunks_mut::<GROUP>().0.iter_mut().zip(groups) {
            let v = S::load(lanes, group);
            for (to, v) in out.as_chunks_mut().0.iter_mut().zip(v) {
                lanes.store(to, v);
            }
        }
    }
}

/// Conversion of the scores of a page to weights.
struct Weigh<'a, 'b>(&'a mut Softmax<'b>);

impl Kernel for Weigh<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Lanes>(self, lanes: L) {
        softmax(lanes, self.0);
    }
}

/// The kernels for an instruction set.
#[derive(Clone, Copy)]
pub(super) struct Kernels(Token);

/// Returns the size of a group of numbers in bytes.
fn group_bytes(format: KvFormat) -> usize {
    match format {
        KvFormat::F32 => F32::GROUP_BYTES,
        KvFormat::F16 => F16::GROUP_BYTES,
        KvFormat::Int8 => Int8::GROUP_BYTES,
        KvFormat::Int4 => Int4::GROUP_BYTES,
    }
}

impl Kernels {
    /// Returns the kernels for an instruction set, or the portable ones if the processor does not support it.
    pub(super) fn of(isa: Isa) -> Kernels {
        Kernels(Token::of(isa))
    }

    /// Computes a product whose matrix b has format `format` into `c`, rows x columns.
    pub(super) fn product(self, format: KvFormat, p: &Product, c: &mut [f32]) {
        fn run<S: Source>(token: Token, p: &Product, c: &mut [f32]) {
            token.run(Multiply::<S> { p, c, source: PhantomData });
        }
        assert!(p.fits(group_bytes(format), c), "matrices within their slices");
        match format {
            KvFormat::F32 => run::<F32>(self.0, p, c),
            KvFormat::F16 => run::<F16>(self.0, p, c),
            KvFormat::Int8 => run::<Int8>(self.0, p, c),
            KvFormat::Int4 => run::<Int4>(self.0, p, c),
        }
    }

    /// Converts stored numbers to floats: as many whole groups as `out` holds.
    pub(super) fn widen(self, format: KvFormat, numbers: &[u8], out: &mut [f32]) {
        fn run<S: Source>(token: Token, numbers: &[u8], out: &mut [f32]) {
            token.run(Widen::<S> { numbers, out, source: PhantomData });
        }
        assert!(out.len() / GROUP * group_bytes(format) <= numbers.len(), "as many numbers");
        match format {
            KvFormat::F32 => run::<F32>(self.0, numbers, out),
            KvFormat::F16 => run::<F16>(self.0, numbers, out),
            KvFormat::Int8 => run::<Int8>(self.0, numbers, out),
            KvFormat::Int4 => run::<Int4>(self.0, numbers, out),
        }
    }

    /// Converts the scores of a page to weights.
    pub(super) fn softmax(self, s: &mut Softmax) {
        let scales = |scales: &[u8]| scales.is_empty() || scales.len() >= 2 * PAGE;
        let rows = s.seen.len();
        assert!(scales(s.key_scales) && scales(s.value_scales) && s.scores.len() >= rows * PAGE);
        assert!(s.max.len() >= rows && s.factors.len() >= rows && s.sums.len() >= rows * WIDTH);
        self.0.run(Weigh(s));
    }
}
