//! Dot products of rows of weights with activations, in every format and with every instruction set.
//!
//! Each uses [`LANES`] partial sums by position, whose halves are added until one sum is left. So it depends neither on the
//! instruction set nor on what is computed beside it.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod format;

use impasto_core::Isa;

pub(super) use format::{Format, widen};

/// Number of partial sums of a dot product, fixed so that all instruction sets add in the same order.
const LANES: usize = 16;

/// Sums that are reduced together.
#[cfg(target_arch = "x86_64")]
const REDUCED: usize = 8;

/// Writes the dot product of each row of `x` with each row of `w` to `out`: rows of `x` x rows of `w`. All rows have `inputs`
/// elements.
///
/// # Panics
/// Unless the rows are whole, and `out` has one element for each product.
pub(super) fn products<W: Format>(isa: Isa, w: &[W], x: &[f32], inputs: usize, out: &mut [f32]) {
    let inputs = inputs.max(1);
    let (rows, tokens) = (w.len() / inputs, x.len() / inputs);
    assert!(w.len() == rows * inputs && x.len() == tokens * inputs && out.len() == tokens * rows, "whole rows");
    if rows == 0 {
        return;
    }
    // As many sums at a time as there are registers for, and then the tokens that are left.
    let tiles = &mut Tiles { w, x, inputs, rows, out };
    match isa.or_scalar() {
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 if is_x86_feature_detected!("fma") => {
            // SAFETY: `or_scalar` returned this variant, so the processor supports AVX-512; the guard checks FMA.
            unsafe { avx512::run(tiles) }
        }
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if is_x86_feature_detected!("fma") && is_x86_feature_detected!("f16c") => {
            // SAFETY: as above, for AVX2; the guard checks FMA and F16C.
            unsafe { avx2::run(tiles) }
        }
        _ => tiles.run(|[w], [x]| [[portable(w, x)]], |[w], [x]| [[portable(w, x)]]),
    }
}

/// Products that are left to compute.
struct Tiles<'a, W> {
    w: &'a [W],
    x: &'a [f32],
    inputs: usize,
    rows: usize,
    out: &'a mut [f32],
}

impl<W> Tiles<'_, W> {
    /// Computes those of `N` tokens with `R` rows of weights at a time by `many`, and with the rows that are left by `one`, for as
    /// many tokens as `N` goes into.
    #[inline(always)]
    fn run<const R: usize, const N: usize>(
        &mut self,
        many: impl Fn([&[W]; R], [&[f32]; N]) -> [[f32; N]; R],
        one: impl Fn([&[W]; 1], [&[f32]; N]) -> [[f32; N]; 1],
    ) {
        let Tiles { w, inputs, rows, .. } = *self;
        let count = self.x.len() / inputs / N * N;
        let (x, x_left) = self.x.split_at(count * inputs);
        let (out, out_left) = std::mem::take(&mut self.out).split_at_mut(count * rows);
        for (x, out) in x.chunks_exact(N * inputs).zip(out.chunks_exact_mut(N * rows)) {
            let x: [&[f32]; N] = std::array::from_fn(|token| &x[token * inputs..(token + 1) * inputs]);
            let mut write = |first: usize, sums: &[[f32; N]]| {
                for (row, sums) in (first..).zip(sums) {
                    sums.iter().enumerate().for_each(|(token, sum)| out[token * rows + row] = *sum);
                }
            };
            let whole = rows / R * R;
            for row in (0..whole).step_by(R) {
                write(row, &many(std::array::from_fn(|r| &w[(row + r) * inputs..(row + r + 1) * inputs]), x));
            }
            for row in whole..rows {
                write(row, &one([&w[row * inputs..(row + 1) * inputs]], x));
            }
        }
        (self.x, self.out) = (x_left, out_left);
    }
}

fn portable<W: Format>(w: &[W], x: &[f32]) -> f32 {
    let mut sums = [0.0f32; LANES];
    for (w, x) in w.chunks(LANES).zip(x.chunks(LANES)) {
        for (sum, (w, x)) in sums.iter_mut().zip(w.iter().zip(x)) {
            *sum = w.widened().mul_add(*x, *sum);
        }
    }
    let mut half = LANES / 2;
    while half > 0 {
        let (low, high) = sums.split_at_mut(half);
        low.iter_mut().zip(high).for_each(|(a, b)| *a += *b);
        half /= 2;
    }
    sums[0]
}

/// Returns the length of all rows.
///
/// # Panics
/// If they have not the same.
#[cfg(target_arch = "x86_64")]
fn length<W, const R: usize, const N: usize>(w: [&[W]; R], x: [&[f32]; N]) -> usize {
    let length = w.first().map_or(0, |w| w.len());
    assert!(w.iter().all(|w| w.len() == length) && x.iter().all(|x| x.len() == length), "rows of one length");
    length
}

/// Returns at most [`LANES`] elements, padded with zeros.
#[cfg(target_arch = "x86_64")]
fn padded<T: Copy + Default>(elements: &[T]) -> [T; LANES] {
    let mut padded = [T::default(); LANES];
    padded[..elements.len()].copy_from_slice(elements);
    padded
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::{bf16, f16};
    use impasto_core::rng::SplitMix64;

    /// Rows and tokens that no tile divides.
    const ROWS: usize = 13;
    const TOKENS: usize = 11;

    #[test]
    fn every_isa_gives_the_same_bits_for_many_tokens_and_for_one() {
        fn check<W: Format>(of: impl Fn(f32) -> W) {
            let mut rng = SplitMix64::new(3);
            for length in [1, 15, 16, 17, 576, 1001] {
                let mut random = |n: usize| (0..n).map(|_| rng.next_f64() as f32 - 0.5).collect::<Vec<f32>>();
                let (w, x): (Vec<W>, _) =
                    (random(ROWS * length).into_iter().map(&of).collect(), random(TOKENS * length));
                let mut scalar = [0.0; ROWS * TOKENS];
                products(Isa::Scalar, &w, &x, length, &mut scalar);
                for (x, sums) in x.chunks(length).zip(scalar.chunks(ROWS)) {
                    for (w, sum) in w.chunks(length).zip(sums) {
                        let terms = w.iter().zip(x).map(|(w, x)| f64::from(w.widened()) * f64::from(*x));
                        assert!((f64::from(*sum) - terms.sum::<f64>()).abs() < 1e-5);
                    }
                }
                let bits = |values: &[f32]| values.iter().map(|v| v.to_bits()).collect::<Vec<u32>>();
                let widened: Vec<f32> = w.iter().map(|w| w.widened()).collect();
                for isa in Isa::available() {
                    let (mut out, mut wide) = ([0.0; ROWS * TOKENS], vec![0.0; w.len()]);
                    products(isa, &w, &x, length, &mut out);
                    widen(isa, &w, &mut wide);
                    assert_eq!(bits(&out), bits(&scalar), "{isa}");
                    // Fewer tokens at a time.
                    for tokens in 1..TOKENS {
                        for (x, many) in x.chunks(tokens * length).zip(out.chunks(tokens * ROWS)) {
                            let mut few = vec![0.0; many.len()];
                            products(isa, &w, x, length, &mut few);
                            assert_eq!(bits(&few), bits(many), "{isa}");
                        }
                    }
                    assert_eq!(bits(&wide), bits(&widened), "{isa}");
                }
            }
        }
        check(|x| x);
        check(bf16::from_f32);
        check(f16::from_f32);
    }
}
