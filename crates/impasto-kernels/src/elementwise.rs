//! Operations of a transformer block other than products, most of them in place. The rows are distributed over the
//! pool.

use crate::Pool;
use crate::parts::Parts;

/// The smallest number of values per task.
const TASK: usize = 1 << 13;
/// Number of partial sums.
const LANES: usize = 16;

/// Calls `work` with the number and the values of each row of `out`. Rows have `width` values.
fn rows(out: &mut [f32], width: usize, pool: &Pool, work: impl Fn(usize, &mut [f32]) + Sync) {
    let count = out.len() / width;
    let together = (TASK / width).max(1);
    let out = Parts::new(out);
    pool.run(count.div_ceil(together), &|_, task| {
        for row in task * together..((task + 1) * together).min(count) {
            // SAFETY: each row belongs to one task, which takes it once.
            work(row, unsafe { out.part(row * width..(row + 1) * width) });
        }
    });
}

/// Writes RMSNorm (Zhang and Sennrich, arXiv 1910.07467) of each row of `x` to `out`. Rows have `weight.len()` values.
pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32], pool: &Pool) {
    let width = weight.len();
    rows(out, width, pool, |row, out| {
        out.copy_from_slice(&x[row * width..(row + 1) * width]);
        rms_norm_row(out, weight, eps);
    });
}

/// Applies [`rms_norm`] in place.
pub fn rms_norm_in_place(x: &mut [f32], weight: &[f32], eps: f32, pool: &Pool) {
    rows(x, weight.len(), pool, |_, x| rms_norm_row(x, weight, eps));
}

fn rms_norm_row(x: &mut [f32], weight: &[f32], eps: f32) {
    let mut sums = [0.0f64; LANES];
    let (whole, rest) = x.as_chunks::<LANES>();
    for part in whole {
        sums.iter_mut().zip(part).for_each(|(sum, x)| *sum += f64::from(x * x));
    }
    sums.iter_mut().zip(rest).for_each(|(sum, x)| *sum += f64::from(x * x));
    let mean = sums.iter().sum::<f64>() / weight.len() as f64;
    let scale = 1.0 / (mean as f32 + eps).sqrt();
    x.iter_mut().zip(weight).for_each(|(x, w)| *x = w * (*x * scale));
}

/// SiLU: x / (1 + exp(-x)).
pub fn silu(x: f32) -> f32 {
    x / (1.0 + (-x).exp())
}

/// GELU in its tanh approximation (Hendrycks and Gimpel, arXiv 1606.08415).
pub fn gelu_tanh(x: f32) -> f32 {
    const SCALE: f32 = std::f32::consts::FRAC_2_SQRT_PI * std::f32::consts::FRAC_1_SQRT_2;
    0.5 * x * (1.0 + (SCALE * (x + 0.044715 * (x * x * x))).tanh())
}

/// Gated linear unit (Shazeer, arXiv 2002.05202): `gate = activation(gate) * up`, for rows of `width` values.
pub fn gated(gate: &mut [f32], up: &[f32], width: usize, activation: impl Fn(f32) -> f32 + Sync, pool: &Pool) {
    rows(gate, width, pool, |row, gate| {
        let up = &up[row * width..(row + 1) * width];
        gate.iter_mut().zip(up).for_each(|(g, u)| *g = activation(*g) * u);
    });
}

/// Applies rotary position embeddings (Su et al., arXiv 2104.09864) to rows of `width` values.
///
/// A row consists of heads of `head_dim` elements. The first `dim` elements of each head are rotated, element i paired
/// with element i + dim / 2. `table` has dim / 2 pairs of cosine and sine for each row.
pub fn rope(x: &mut [f32], width: usize, head_dim: usize, dim: usize, table: &[(f32, f32)], pool: &Pool) {
    let half = dim / 2;
    rows(x, width, pool, |row, x| {
        let angles = &table[row * half..(row + 1) * half];
        for head in x.chunks_exact_mut(head_dim) {
            let (low, high) = head[..dim].split_at_mut(half);
            for ((a, b), (cos, sin)) in low.iter_mut().zip(high).zip(angles) {
                (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
            }
        }
    });
}

/// Soft cap: `x = cap * tanh(x / cap)`.
pub fn softcap(x: &mut [f32], cap: f32) {
    x.iter_mut().for_each(|x| *x = (*x / cap).tanh() * cap);
}

/// Adds `y` to `x`.
pub fn add(x: &mut [f32], y: &[f32]) {
    x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
}
