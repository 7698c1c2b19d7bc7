//! Activations in the form that the kernels take.

use impasto_core::at_each_isa;

use crate::packed::activations::{round, scale};
use crate::packed::cell::{GROUP, QUAD, VECTORS};

/// Quantized activations of the tokens of a panel: q = round(x / s), ties to even, with s = max|x| / 127 over 32
/// columns.
///
/// If 32 columns contain an infinity or a NaN, their scale is NaN, and so are the results.
#[derive(Clone, Copy)]
pub(super) struct Panel<'a> {
    /// For each quad of columns, the activations of each token.
    pub quads: &'a [[i8; QUAD]],
    /// For each group, minus the bias times the sum of each token's activations: the first term of their products.
    pub starts: &'a [i32],
    /// For each group, the sum of each token's activations times their scale.
    pub sums: &'a [f32],
    /// For each 32 columns, the scale of each token.
    pub scales: &'a [f32],
}

/// A [`Panel`] to be written.
pub(super) struct PanelMut<'a> {
    /// Number of tokens, including padding.
    pub tokens: usize,
    /// Columns of a group: 16 or 32.
    pub group: usize,
    pub bias: i32,
    pub quads: &'a mut [[i8; QUAD]],
    pub starts: &'a mut [i32],
    pub sums: &'a mut [f32],
    pub scales: &'a mut [f32],
}

at_each_isa! {
    /// Quantizes one token of a panel.
    pub(super) fn quantize(panel: &mut PanelMut<'_>, token: usize, x: &[f32]) {
        match panel.group {
            GROUP => quantize_groups::<GROUP>(panel, token, x),
            _ => quantize_groups::<16>(panel, token, x),
        }
    }
}

/// [`quantize`] for groups of `G` columns.
#[inline(always)]
fn quantize_groups<const G: usize>(panel: &mut PanelMut<'_>, token: usize, x: &[f32]) {
    let PanelMut { tokens, bias, .. } = *panel;
    for (number, x) in x.as_chunks::<GROUP>().0.iter().enumerate() {
        let (scale, inverse) = scale(x);
        let mut q = [0i8; GROUP];
        for (q, x) in q.iter_mut().zip(x) {
            *q = round(x * inverse);
        }
        panel.scales[number * tokens + token] = scale;
        for (sub, q) in q.as_chunks::<G>().0.iter().enumerate() {
            let sum: i32 = q.iter().map(|&q| i32::from(q)).sum();
            let at = (number * (GROUP / G) + sub) * tokens + token;
            panel.starts[at] = -bias * sum;
            panel.sums[at] = sum as f32 * scale;
        }
        let quads = &mut panel.quads[number * VECTORS * tokens..][..VECTORS * tokens];
        for (to, from) in quads.iter_mut().skip(token).step_by(tokens).zip(q.as_chunks::<QUAD>().0) {
            *to = *from;
        }
    }
}

impl PanelMut<'_> {
    /// Makes a token of zeros: padding.
    pub(super) fn clear(&mut self, token: usize) {
        let tokens = self.tokens;
        let of_token = |i: usize| i % tokens == token;
        self.quads.iter_mut().enumerate().filter(|(i, _)| of_token(*i)).for_each(|(_, q)| *q = [0; QUAD]);
        self.starts.iter_mut().enumerate().filter(|(i, _)| of_token(*i)).for_each(|(_, start)| *start = 0);
        for values in [&mut *self.sums, &mut *self.scales] {
            values.iter_mut().enumerate().filter(|(i, _)| of_token(*i)).for_each(|(_, value)| *value = 0.0);
        }
    }
}
