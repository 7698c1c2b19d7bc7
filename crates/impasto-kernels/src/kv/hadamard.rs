//! The rotation of heads before they are rounded to a few bits.

/// Returns the width of the blocks in which a head is rotated: the largest power of two that divides `dim`.
pub(super) fn width(dim: usize) -> usize {
    1 << dim.trailing_zeros()
}

/// Rotates each block of a head by the orthonormal Walsh-Hadamard matrix. The rotation is its own inverse.
///
/// Rotating both keys and queries does not change their products. It spreads an outlier over the whole block, so that
/// the elements are nearly Gaussian, which suits quantization to a few bits (QuaRot, arXiv 2404.00456, section 4).
pub(super) fn rotate(head: &mut [f32]) {
    let width = width(head.len());
    if width < 2 {
        return;
    }
    let scale = 1.0 / (width as f32).sqrt();
    for block in head.chunks_exact_mut(width) {
        // Steps within 16 elements work on vectors, too.
        let small = if width >= LANES {
            block.as_chunks_mut::<LANES>().0.iter_mut().for_each(within);
            LANES
        } else {
            1
        };
        let mut half = small;
        while half < width {
            for pair in block.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            half *= 2;
        }
        block.iter_mut().for_each(|x| *x *= scale);
    }
}

/// Elements that are rotated together.
const LANES: usize = 16;

/// The steps within sixteen elements.
fn within(x: &mut [f32; LANES]) {
    step::<1>(x);
    step::<2>(x);
    step::<4>(x);
    step::<8>(x);
}

/// Computes the sums and differences of elements `HALF` apart.
fn step<const HALF: usize>(x: &mut [f32; LANES]) {
    let old = *x;
    for (i, x) in x.iter_mut().enumerate() {
        let sign = if i & HALF == 0 { 1.0 } else { -1.0 };
        *x = old[i ^ HALF] + sign * old[i];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::rng::SplitMix64;

    #[test]
    fn is_its_own_inverse_and_keeps_products() {
        let mut rng = SplitMix64::new(8);
        for dim in [1, 2, 5, 6, 64, 80, 96, 128] {
            let mut random = || -> Vec<f32> { (0..dim).map(|_| rng.next_f64() as f32 - 0.5).collect() };
            let (a, b) = (random(), random());
            let rotated = |x: &[f32]| {
                let mut x = x.to_vec();
                rotate(&mut x);
                x
            };
            let dot = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f32>();
            assert!((dot(&a, &b) - dot(&rotated(&a), &rotated(&b))).abs() < 1e-5);
            assert!(rotated(&rotated(&a)).iter().zip(&a).all(|(x, a)| (x - a).abs() < 1e-6));
        }
        let mut one = [0.0; 96];
        one[40] = 1.0;
        rotate(&mut one);
        assert!(one[32..64].iter().all(|x| (x.abs() - 32f32.sqrt().recip()).abs() < 1e-7));
        assert!(one[..32].iter().chain(&one[64..]).all(|&x| x == 0.0));
    }
}
