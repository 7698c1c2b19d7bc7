//! Small systems of linear equations.

/// Factors a symmetric positive definite matrix of side `n`, `A = L L^T`, in place; its lower triangle becomes `L`. A pivot that is
/// not positive is taken for infinite, so that its unknown becomes 0.
pub fn factor(a: &mut [f64], n: usize) {
    for j in 0..n {
        let row = |a: &[f64], i: usize, j: usize| (0..j).map(|k| a[i * n + k] * a[j * n + k]).sum::<f64>();
        let pivot = a[j * n + j] - row(a, j, j);
        a[j * n + j] = if pivot > 0.0 { pivot.sqrt() } else { f64::INFINITY };
        for i in j + 1..n {
            a[i * n + j] = (a[i * n + j] - row(a, i, j)) / a[j * n + j];
        }
    }
}

/// Replaces `b` by the solution `x` of `L L^T x = b`.
pub fn solve(l: &[f64], b: &mut [f64]) {
    let n = b.len();
    for i in 0..n {
        let known: f64 = (0..i).map(|k| l[i * n + k] * b[k]).sum();
        b[i] = (b[i] - known) / l[i * n + i];
    }
    for i in (0..n).rev() {
        let known: f64 = (i + 1..n).map(|k| l[k * n + i] * b[k]).sum();
        b[i] = (b[i] - known) / l[i * n + i];
    }
}

#[cfg(test)]
mod tests {
    use impasto_core::rng::SplitMix64;

    use super::*;

    #[test]
    fn solves() {
        for n in [1, 3, 16] {
            let mut random = SplitMix64::new(n as u64);
            let half: Vec<f64> = (0..n * n).map(|_| random.next_f64() - 0.5).collect();
            let entry = |i: usize| {
                let product: f64 = (0..n).map(|k| half[i / n * n + k] * half[i % n * n + k]).sum();
                product + if i / n == i % n { 0.1 } else { 0.0 }
            };
            let a: Vec<f64> = (0..n * n).map(entry).collect();
            let x: Vec<f64> = (0..n).map(|_| random.next_f64()).collect();
            let mut b: Vec<f64> = a.chunks_exact(n).map(|row| row.iter().zip(&x).map(|(a, x)| a * x).sum()).collect();
            let mut l = a;
            factor(&mut l, n);
            solve(&l, &mut b);
            assert!(b.iter().zip(&x).all(|(b, x)| (b - x).abs() < 1e-9));
        }
        let (mut none, mut b) = ([0.0; 4], [1.0, 2.0]);
        factor(&mut none, 2);
        solve(&none, &mut b);
        assert_eq!(b, [0.0, 0.0]);
    }
}
