//! The forward transform of a block, in binary32: a decoder does not need it.

use impasto_codec::transform::basis::Kind;
use impasto_codec::transform::learned::Bases;
use impasto_core::{Isa, at_each_isa};

at_each_isa! {
    /// Adds up `2^logs[0]` rows of `2^logs[1]` values, times the entries of a transposed matrix.
    fn of_columns(logs: [u32; 2], matrix: &[f32], values: &[f32], out: &mut [f32]) {
        let [height, width] = logs.map(|log| 1usize << log);
        for (row, factors) in values.chunks_exact(width).zip(matrix.chunks_exact(height)) {
            for (to, &factor) in out.chunks_exact_mut(width).zip(factors) {
                to.iter_mut().zip(row).for_each(|(to, value)| *to += factor * value);
            }
        }
    }
}

at_each_isa! {
    /// Likewise, columns.
    fn of_rows(logs: [u32; 2], matrix: &[f32], values: &[f32], out: &mut [f32]) {
        let width = 1usize << logs[1];
        for (to, row) in out.chunks_exact_mut(width).zip(values.chunks_exact(width)) {
            for (&value, factors) in row.iter().zip(matrix.chunks_exact(width)) {
                to.iter_mut().zip(factors).for_each(|(to, factor)| *to += value * factor);
            }
        }
    }
}

/// Replaces `out` by the coefficients of the columns of a block of `2^logs[0]` rows of `2^logs[1]` values.
pub fn columns(bases: &Bases, kind: Kind, logs: [u32; 2], values: &[f32], out: &mut Vec<f32>) {
    let matrix = &bases.of(0, kind, logs[0]).transposed;
    transform(kind, values, out, |out| of_columns(Isa::best(), logs, matrix, values, out));
}

/// Likewise, of the rows.
pub fn rows(bases: &Bases, kind: Kind, logs: [u32; 2], values: &[f32], out: &mut Vec<f32>) {
    let matrix = &bases.of(1, kind, logs[1]).transposed;
    transform(kind, values, out, |out| of_rows(Isa::best(), logs, matrix, values, out));
}

/// Replaces `out` by the values, if that is the transform, or by what `add` adds to as many zeros.
fn transform(kind: Kind, values: &[f32], out: &mut Vec<f32>, add: impl FnOnce(&mut [f32])) {
    out.clear();
    if kind == Kind::Identity {
        return out.extend_from_slice(values);
    }
    out.resize(values.len(), 0.0);
    add(out);
}

#[cfg(test)]
mod tests {
    use impasto_codec::transform::basis::{Workspace, inverse};

    use super::*;

    #[test]
    fn is_undone_by_the_inverse() {
        for (n, kind) in Kind::ALL.into_iter().enumerate() {
            let (logs, kinds) = ([2 + n as u32 % 4, 5 - n as u32 % 3], [kind, Kind::ALL[(n + 1) % 4]]);
            let values: Vec<f32> =
                (0..1 << (logs[0] + logs[1])).map(|i: i32| ((i * 37 + i * i) % 1000) as f32).collect();
            let (bases, mut between, mut out) = (Bases::default(), Vec::new(), Vec::new());
            columns(&bases, kinds[0], logs, &values, &mut between);
            rows(&bases, kinds[1], logs, &between, &mut out);
            let coefficients: Vec<i64> = out.iter().map(|&c| c.round() as i64).collect();
            let mut work = Workspace::default();
            let back = inverse(&bases, kinds, logs, &coefficients, &mut work);
            assert!(back.iter().zip(&values).all(|(b, v)| (*b as f32 - v).abs() < 4.0), "{kinds:?} {logs:?}");
        }
    }
}
