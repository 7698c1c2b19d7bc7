//! The parts of a block that are not products of matrices. Rows are shared out over the current Rayon pool.

use rayon::prelude::*;

/// `x += y`.
pub(super) fn add(x: &mut [f32], y: &[f32]) {
    for (x, y) in x.iter_mut().zip(y) {
        *x += y;
    }
}

/// RMSNorm (Zhang and Sennrich, arXiv 1910.07467): each row over its root mean square, times `weight`.
pub(super) fn rms_norm(x: &[f32], weight: &[f32], eps: f32) -> Vec<f32> {
    let width = weight.len();
    let mut out = vec![0.0; x.len()];
    out.par_chunks_mut(width).zip(x.par_chunks(width)).for_each(|(out, x)| {
        let mean = x.iter().map(|v| f64::from(v * v)).sum::<f64>() / width as f64;
        let scale = 1.0 / (mean as f32 + eps).sqrt();
        for ((out, x), w) in out.iter_mut().zip(x).zip(weight) {
            *out = w * (x * scale);
        }
    });
    out
}

/// SwiGLU (Shazeer, arXiv 2002.05202): `gate = silu(gate) * up`, rows `width` wide.
pub(super) fn swiglu(gate: &mut [f32], up: &[f32], width: usize) {
    gate.par_chunks_mut(width).zip(up.par_chunks(width)).for_each(|(gate, up)| {
        for (g, u) in gate.iter_mut().zip(up) {
            *g = *g / (1.0 + (-*g).exp()) * u;
        }
    });
}

/// Cosine and sine of each rotary angle, for `tokens` positions from `past` on: tokens x head_dim/2 pairs.
pub(super) fn rope_table(past: usize, tokens: usize, head_dim: usize, theta: f64) -> Vec<(f32, f32)> {
    // Frequency and angle are rounded to binary32 as in transformers; at long context the angle's rounding is visible.
    let frequency = |i: usize| 1.0 / (theta as f32).powf((2 * i) as f32 / head_dim as f32);
    let frequencies: Vec<f32> = (0..head_dim / 2).map(frequency).collect();
    let angles = (past..past + tokens).flat_map(|p| frequencies.iter().map(move |f| p as f32 * f));
    angles.map(|a| (a.cos(), a.sin())).collect()
}

/// Rotary positions (Su et al., arXiv 2104.09864): in each head, element i is paired with element i + head_dim/2.
pub(super) fn rope(x: &mut [f32], head_dim: usize, heads: usize, table: &[(f32, f32)]) {
    let half = head_dim / 2;
    x.par_chunks_mut(heads * head_dim).zip(table.par_chunks(half)).for_each(|(row, angles)| {
        for head in row.chunks_exact_mut(head_dim) {
            let (low, high) = head.split_at_mut(half);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rms_norm_by_hand() {
        let out = rms_norm(&[3.0, 4.0, 0.0, 0.0], &[1.0, 2.0], 0.0);
        let rms = 12.5f32.sqrt();
        assert!((out[0] - 3.0 / rms).abs() < 1e-6 && (out[1] - 8.0 / rms).abs() < 1e-6);
        assert!(out[2].is_nan(), "a zero row with no eps has no norm");
        assert_eq!(rms_norm(&[0.0, 0.0], &[1.0, 1.0], 1e-5), [0.0, 0.0]);
    }

    #[test]
    fn rotation_keeps_norms_and_depends_on_distance_alone() {
        let (q, k) = ([0.3f32, -1.2, 0.7, 2.0], [1.0f32, 0.4, -0.6, 0.1]);
        let dot_at = |pq: usize, pk: usize| {
            let (mut q, mut k) = (q, k);
            rope(&mut q, 4, 1, &rope_table(pq, 1, 4, 100.0));
            rope(&mut k, 4, 1, &rope_table(pk, 1, 4, 100.0));
            q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>()
        };
        assert!((dot_at(9, 4) - dot_at(25, 20)).abs() < 1e-5);
        assert!((dot_at(7, 7) - q.iter().zip(k).map(|(a, b)| a * b).sum::<f32>()).abs() < 1e-5);
        assert!((dot_at(9, 4) - dot_at(9, 3)).abs() > 1e-2);
    }

    #[test]
    fn swiglu_limits() {
        let mut gate = [0.0, 100.0, -100.0];
        swiglu(&mut gate, &[5.0, 2.0, 3.0], 3);
        assert_eq!(gate[0], 0.0);
        assert_eq!(gate[1], 200.0);
        assert!(gate[2].abs() < 1e-30);
    }
}
