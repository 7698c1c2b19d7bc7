//! Eigenvectors of small symmetric matrices.

/// Most rounds of Jacobi's method; it converges in fewer.
const ROUNDS: usize = 30;

/// Returns the eigenvalues of a symmetric matrix of side `n`, the largest first, and their eigenvectors, one after the other,
/// by Jacobi's method: rotations of two sides, each of which makes an entry 0.
pub fn eigenvectors(matrix: &[f64], n: usize) -> (Vec<f64>, Vec<f32>) {
    let (mut a, mut vectors) = (matrix.to_vec(), vec![0.0; n * n]);
    (0..n).for_each(|i| vectors[i * n + i] = 1.0);
    let all: f64 = a.iter().map(|x| x * x).sum();
    for _ in 0..ROUNDS {
        let off: f64 = (0..n * n).filter(|i| i / n != i % n).map(|i| a[i] * a[i]).sum();
        if off <= 1e-18 * all {
            break;
        }
        for (p, q) in (0..n).flat_map(|p| (p + 1..n).map(move |q| (p, q))) {
            if a[p * n + q] == 0.0 {
                continue;
            }
            let theta = (a[q * n + q] - a[p * n + p]) / (2.0 * a[p * n + q]);
            let t = theta.signum() / (theta.abs() + (theta * theta + 1.0).sqrt());
            let c = 1.0 / (t * t + 1.0).sqrt();
            let s = t * c;
            for k in 0..n {
                let (x, y) = (a[k * n + p], a[k * n + q]);
                (a[k * n + p], a[k * n + q]) = (c * x - s * y, s * x + c * y);
            }
            for k in 0..n {
                let (x, y) = (a[p * n + k], a[q * n + k]);
                (a[p * n + k], a[q * n + k]) = (c * x - s * y, s * x + c * y);
                let (x, y) = (vectors[p * n + k], vectors[q * n + k]);
                (vectors[p * n + k], vectors[q * n + k]) = (c * x - s * y, s * x + c * y);
            }
        }
    }
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| a[j * n + j].total_cmp(&a[i * n + i]));
    let sorted = order.iter().flat_map(|&i| &vectors[i * n..(i + 1) * n]).map(|&x| x as f32).collect();
    (order.iter().map(|&i| a[i * n + i]).collect(), sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use impasto_core::rng::SplitMix64;

    #[test]
    fn eigenvectors_diagonalize() {
        for n in [4, 32] {
            let mut random = SplitMix64::new(n as u64);
            let half: Vec<f64> = (0..n * n).map(|_| random.next_f64() - 0.5).collect();
            let product = |i: usize| (0..n).map(|k| half[i / n * n + k] * half[i % n * n + k]).sum::<f64>();
            let matrix: Vec<f64> = (0..n * n).map(product).collect();
            let (values, vectors) = eigenvectors(&matrix, n);
            assert!(values.is_sorted_by(|a, b| a >= b));
            for (value, vector) in values.iter().zip(vectors.chunks_exact(n)) {
                let image = |i: usize| (0..n).map(|k| matrix[i * n + k] * f64::from(vector[k])).sum::<f64>();
                assert!((0..n).all(|i| (image(i) - value * f64::from(vector[i])).abs() < 1e-4 * values[0]));
                assert!((vector.iter().map(|x| x * x).sum::<f32>() - 1.0).abs() < 1e-5);
            }
        }
        let (_, vectors) = eigenvectors(&[0.0; 16], 4);
        assert!(vectors.iter().all(|x| x.is_finite()));
    }
}
