//! The kernels of attention: products with stored matrices, and softmax as it goes along.

use impasto_core::Isa;

use super::KvFormat;

#[cfg(test)]
use super::exp::{exp, tanh};
use super::lanes::scalar::Scalar;
use super::lanes::{Lanes, WIDTH};
#[cfg(target_arch = "x86_64")]
use super::lanes::{avx2::Avx2, avx512::Avx512};
use super::lines::LINE;
use super::pages::PAGE;
use super::plane::GROUP;
use super::softmax::{Softmax, softmax};

/// How rows of stored numbers become floats.
trait Source {
    /// Bytes of a group.
    const GROUP_BYTES: usize;

    /// A group of 32 numbers.
    ///
    /// # Safety
    /// The processor has the features; the group's bytes can be read.
    unsafe fn load<L: Lanes>(at: *const u8) -> [L::V; 2];
}

macro_rules! sources {
    ($($name:ident, $bytes:literal, $at:ident: $load:expr;)*) => { $(
        struct $name;
        impl Source for $name {
            const GROUP_BYTES: usize = $bytes;

            #[inline(always)]
            unsafe fn load<L: Lanes>($at: *const u8) -> [L::V; 2] {
                // SAFETY: the caller's processor has the features, and the bytes are there.
                unsafe { $load }
            }
        }
    )* };
}

sources! {
    F32, 128, at: [L::load(at.cast()), L::load(at.cast::<f32>().add(WIDTH))];
    F16, 64, at: [L::load_f16(at), L::load_f16(at.add(2 * WIDTH))];
    Int8, 32, at: [L::load_i8(at), L::load_i8(at.add(WIDTH))];
    Int4, 16, at: L::load_i4(at);
}

/// `c = factor c + a b`: a is rows x depth, b depth x columns as stored, c rows x columns with one factor for each row;
/// without factors, `c = a b`.
#[derive(Clone, Copy)]
pub(super) struct Product<'a> {
    pub(super) a: &'a [f32],
    pub(super) a_stride: usize,
    pub(super) rows: usize,
    pub(super) depth: usize,
    pub(super) b: &'a [u8],
    /// Bytes from a row of b to the next.
    pub(super) b_stride: usize,
    /// A multiple of 32; also the stride of c.
    pub(super) columns: usize,
    pub(super) factors: Option<&'a [f32]>,
    /// What will be read next, in rows like those of b: it is fetched along the way. May be empty.
    pub(super) ahead: &'a [u8],
}

impl Product<'_> {
    /// Whether all of it is within its slices.
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

/// Rows `row` to `row + R` and columns of N groups from group `group` on.
///
/// # Safety
/// The processor has the features; the product fits, and has these rows and columns.
#[inline(always)]
unsafe fn tile<L: Lanes, S: Source, const R: usize, const N: usize>(
    p: &Product,
    c: *mut f32,
    row: usize,
    group: usize,
) {
    // SAFETY: a's rows and depth, b's depth and groups, and c's rows and columns are within their slices (`fits`).
    unsafe {
        let mut sums = [[[L::splat(0.0); 2]; N]; R];
        let a = p.a.as_ptr().add(row * p.a_stride);
        let b = p.b.as_ptr().add(group * S::GROUP_BYTES);
        let ahead = p.ahead.as_ptr().wrapping_add(group * S::GROUP_BYTES);
        let fetch = row == 0 && !p.ahead.is_empty();
        for i in 0..p.depth {
            if fetch {
                for line in (0..N * S::GROUP_BYTES).step_by(LINE) {
                    L::prefetch(ahead.wrapping_add(i * p.b_stride + line));
                }
            }
            let mut v = [[L::splat(0.0); 2]; N];
            for (n, v) in v.iter_mut().enumerate() {
                *v = S::load::<L>(b.add(i * p.b_stride + n * S::GROUP_BYTES));
            }
            for (r, sums) in sums.iter_mut().enumerate() {
                let x = L::splat(*a.add(r * p.a_stride + i));
                for (sums, v) in sums.iter_mut().zip(&v) {
                    sums[0] = L::fma(x, v[0], sums[0]);
                    sums[1] = L::fma(x, v[1], sums[1]);
                }
            }
        }
        for (r, sums) in sums.iter().enumerate() {
            let c = c.add((row + r) * p.columns + group * GROUP);
            for (n, sums) in sums.iter().enumerate() {
                for (half, &sum) in sums.iter().enumerate() {
                    let at = c.add(n * GROUP + half * WIDTH);
                    let sum = match p.factors {
                        Some(factors) => L::fma(L::splat(*factors.as_ptr().add(row + r)), L::load(at), sum),
                        None => sum,
                    };
                    L::store(at, sum);
                }
            }
        }
    }
}

/// All rows of N groups of columns, at most `most` rows at a time.
///
/// # Safety
/// As [`tile`].
#[inline(always)]
unsafe fn rows<L: Lanes, S: Source, const N: usize>(p: &Product, c: *mut f32, group: usize, most: usize) {
    let mut row = 0;
    while row < p.rows {
        let here = (p.rows - row).min(most);
        // SAFETY: there are that many rows, and the caller has the groups.
        unsafe {
            match here {
                1 => tile::<L, S, 1, N>(p, c, row, group),
                2 => tile::<L, S, 2, N>(p, c, row, group),
                3 => tile::<L, S, 3, N>(p, c, row, group),
                4 => tile::<L, S, 4, N>(p, c, row, group),
                5 => tile::<L, S, 5, N>(p, c, row, group),
                _ => tile::<L, S, 6, N>(p, c, row, group),
            }
        }
        row += here.min(6);
    }
}

/// # Safety
/// The processor has the features; the product fits into `c`.
#[inline(always)]
unsafe fn product<L: Lanes, S: Source>(p: &Product, c: *mut f32) {
    let groups = p.columns / GROUP;
    let mut group = 0;
    // SAFETY: the groups are there.
    unsafe {
        while group < groups {
            // A isa of few registers takes two groups only where there is a single row.
            if group + 2 <= groups && (L::ROWS >= 4 || p.rows == 1) {
                rows::<L, S, 2>(p, c, group, L::ROWS);
                group += 2;
            } else {
                rows::<L, S, 1>(p, c, group, if L::ROWS >= 4 { 6 } else { 2 });
                group += 1;
            }
        }
    }
}

/// # Safety
/// The processor has the features; there are `out.len() / 32` groups from `numbers` on.
#[inline(always)]
unsafe fn widen<L: Lanes, S: Source>(numbers: *const u8, out: &mut [f32]) {
    for (group, out) in out.chunks_exact_mut(GROUP).enumerate() {
        // SAFETY: the group is there; a chunk holds 32 floats.
        unsafe {
            let v = S::load::<L>(numbers.add(group * S::GROUP_BYTES));
            L::store(out.as_mut_ptr(), v[0]);
            L::store(out.as_mut_ptr().add(WIDTH), v[1]);
        }
    }
}

/// A function for each format.
type ByFormat<F> = [F; 4];

/// The kernels of a isa.
pub(super) struct Kernels {
    product: ByFormat<unsafe fn(&Product, *mut f32)>,
    widen: ByFormat<unsafe fn(*const u8, &mut [f32])>,
    softmax: unsafe fn(&mut Softmax),
    /// exp of floats whose number is a multiple of 16, in place.
    #[cfg(test)]
    pub(super) exp: unsafe fn(*mut f32, usize),
    /// tanh, likewise.
    #[cfg(test)]
    pub(super) tanh: unsafe fn(*mut f32, usize),
}

/// Group bytes by format.
const GROUP_BYTES: ByFormat<usize> = [F32::GROUP_BYTES, F16::GROUP_BYTES, Int8::GROUP_BYTES, Int4::GROUP_BYTES];

/// `f` on `len` floats, sixteen at a time.
#[cfg(test)]
macro_rules! in_place {
    ($f:ident, $lanes:ty, $x:ident, $len:ident) => {
        for i in (0..$len).step_by(WIDTH) {
            // SAFETY: the caller's processor has the features, and sixteen floats from i on are there.
            unsafe { <$lanes>::store($x.add(i), $f::<$lanes>(<$lanes>::load($x.add(i)))) }
        }
    };
}

/// The kernels of one isa as functions that have its features.
macro_rules! kernels {
    ($name:ident, $lanes:ty $(, $features:literal)?) => {
        static $name: Kernels = {
            $(#[target_feature(enable = $features)])?
            unsafe fn product_of<S: Source>(p: &Product, c: *mut f32) {
                // SAFETY: as the caller has it.
                unsafe { product::<$lanes, S>(p, c) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn widen_of<S: Source>(numbers: *const u8, out: &mut [f32]) {
                // SAFETY: as the caller has it.
                unsafe { widen::<$lanes, S>(numbers, out) }
            }
            $(#[target_feature(enable = $features)])?
            unsafe fn softmax_of(s: &mut Softmax) {
                // SAFETY: as the caller has it.
                unsafe { softmax::<$lanes>(s) }
            }
            #[cfg(test)]
            $(#[target_feature(enable = $features)])?
            unsafe fn exp_of(x: *mut f32, len: usize) {
                in_place!(exp, $lanes, x, len)
            }
            #[cfg(test)]
            $(#[target_feature(enable = $features)])?
            unsafe fn tanh_of(x: *mut f32, len: usize) {
                in_place!(tanh, $lanes, x, len)
            }
            Kernels {
                product: [product_of::<F32>, product_of::<F16>, product_of::<Int8>, product_of::<Int4>],
                widen: [widen_of::<F32>, widen_of::<F16>, widen_of::<Int8>, widen_of::<Int4>],
                softmax: softmax_of,
                #[cfg(test)]
                exp: exp_of,
                #[cfg(test)]
                tanh: tanh_of,
            }
        };
    };
}

kernels!(SCALAR, Scalar);
#[cfg(target_arch = "x86_64")]
kernels!(AVX2, Avx2, "avx2,fma,f16c");
#[cfg(target_arch = "x86_64")]
kernels!(AVX512, Avx512, "avx512f,avx512bw,avx512dq,avx512vl");

impl Kernels {
    /// The kernels of a isa, or the portable ones where the processor lacks it.
    pub(super) fn of(isa: Isa) -> &'static Kernels {
        match isa.or_scalar() {
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => &AVX512,
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 if is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => &AVX2,
            _ => &SCALAR,
        }
    }

    /// The product, its b of `format`, into `c`, rows x columns.
    pub(super) fn product(&self, format: KvFormat, p: &Product, c: &mut [f32]) {
        assert!(p.fits(GROUP_BYTES[format as usize], c), "matrices within their slices");
        // SAFETY: `of` saw to the features; the product fits.
        unsafe { self.product[format as usize](p, c.as_mut_ptr()) }
    }

    /// Stored numbers as floats; as many whole groups as `out` holds.
    pub(super) fn widen(&self, format: KvFormat, numbers: &[u8], out: &mut [f32]) {
        assert!(out.len() / GROUP * GROUP_BYTES[format as usize] <= numbers.len(), "as many numbers");
        // SAFETY: `of` saw to the features; the groups are there.
        unsafe { self.widen[format as usize](numbers.as_ptr(), out) }
    }

    /// Scores of a page become weights.
    pub(super) fn softmax(&self, s: &mut Softmax) {
        let scales = |scales: &[u8]| scales.is_empty() || scales.len() >= 2 * PAGE;
        let rows = s.seen.len();
        assert!(scales(s.key_scales) && scales(s.value_scales) && s.scores.len() >= rows * PAGE);
        assert!(s.max.len() >= rows && s.factors.len() >= rows && s.sums.len() >= rows * WIDTH);
        // SAFETY: `of` saw to the features; the lengths are checked.
        unsafe { (self.softmax)(s) }
    }
}
