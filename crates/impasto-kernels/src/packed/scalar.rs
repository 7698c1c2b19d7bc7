//! The portable kernels, which are the reference for the others.

use super::activations::{FloatPanel, Panel};
use super::cell::{self, BLOCK_GROUPS, CELL, GROUP, QUAD, STRIP, VECTORS};
use super::fixes::{Fixes, sum_floats};
use super::row_group::Strip;

/// Calls `each` with the group and the integers of each cell of a strip, in the order of their bytes.
fn for_each_cell(strip: Strip, mut each: impl FnMut(usize, &[i16; CELL])) {
    let (mut values, mut integers) = ([0; CELL], [0; CELL]);
    let mut lines = strip.cells;
    for (group, &width) in strip.widths.iter().enumerate() {
        let (cell, rest) = lines.split_at(usize::from(width));
        cell::unpack(cell, width, &mut values);
        for (z, &value) in integers.iter_mut().zip(&values) {
            *z = i16::from(value) - cell::bias(width) as i16;
        }
        each(group, &integers);
        lines = rest;
    }
}

/// Computes the sums of a strip for `TOKENS` tokens, before the multiplication by row steps. For each block of columns,
/// in order, the integer sum times the scale of the activations is added in binary32, fused.
///
/// `offset` is in steps; `fixes` are those of the strip.
pub(super) fn int8<const TOKENS: usize>(
    strip: Strip,
    panel: Panel,
    offset: f32,
    fixes: &Fixes,
    out: &mut [[f32; STRIP]],
) {
    let quads = panel.quads.as_chunks::<TOKENS>().0;
    let out: &mut [[f32; STRIP]; TOKENS] = out.first_chunk_mut().expect("room for all tokens");
    out.fill([0.0; STRIP]);
    let mut sums = [([0i32; STRIP], [0i32; STRIP]); TOKENS];
    for_each_cell(strip, |group, integers| {
        for (quads, integers) in quads[group * VECTORS..].iter().zip(integers.as_chunks::<64>().0) {
            for ((sums, signs), quad) in sums.iter_mut().zip(quads) {
                let dot = |z: &[i16; QUAD]| z.iter().zip(quad).map(|(&z, &q)| i32::from(z) * i32::from(q)).sum::<i32>();
                for (row, z) in integers.as_chunks::<QUAD>().0.iter().enumerate() {
                    sums[row] += dot(z);
                    if offset != 0.0 {
                        signs[row] += dot(&z.map(i16::signum));
                    }
                }
            }
        }
        if group % BLOCK_GROUPS == BLOCK_GROUPS - 1 || group == strip.widths.len() - 1 {
            let block = group / BLOCK_GROUPS;
            for (token, (sums, signs)) in sums.iter_mut().enumerate() {
                let at = block * TOKENS + token;
                for (row, out) in out[token].iter_mut().enumerate() {
                    let mut sum = (sums[row] + fixes.sums[at][row]) as f32;
                    if offset != 0.0 {
                        sum = ((signs[row] + fixes.signs[at][row]) as f32).mul_add(offset, sum);
                    }
                    *out = sum.mul_add(panel.scales[at], *out);
                }
                (*sums, *signs) = ([0; STRIP], [0; STRIP]);
            }
        }
    });
}

/// Like [`int8`], with activations in binary32. Columns with the same index modulo 4 are summed in order, fused; the
/// result is ((s0 + s1) + (s2 + s3)) + outliers.
pub(super) fn float<const TOKENS: usize>(strip: Strip, panel: FloatPanel, offset: f32, out: &mut [[f32; STRIP]]) {
    let mut sums = [[[0.0f32; STRIP]; QUAD]; TOKENS];
    for_each_cell(strip, |group, integers| {
        for (column, x) in panel.values[group * GROUP * TOKENS..].chunks_exact(TOKENS).take(GROUP).enumerate() {
            for (sums, &x) in sums.iter_mut().zip(x) {
                for (row, sum) in sums[column % QUAD].iter_mut().enumerate() {
                    let z = integers[column / QUAD * 64 + row * QUAD + column % QUAD];
                    let weight = f32::from(z.signum()).mul_add(offset, f32::from(z));
                    *sum = weight.mul_add(x, *sum);
                }
            }
        }
    });
    let fixes = sum_floats::<TOKENS>(strip, panel, offset);
    for ((out, sums), fixes) in out.iter_mut().zip(&sums).zip(&fixes) {
        for (row, out) in out.iter_mut().enumerate() {
            *out = ((sums[0][row] + sums[1][row]) + (sums[2][row] + sums[3][row])) + fixes[row];
        }
    }
}
