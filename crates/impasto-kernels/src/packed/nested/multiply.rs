//! Products at a layer of a nested matrix.

use std::ops::Range;

use super::super::cell::{Line, VECTORS};
use super::super::kernel::STRIPS;
use super::super::multiply::{Call, Each, Product, Worker};
use super::super::{Activations, Kernel, Pool, SHARE, Scratch};
use super::NestedMatrix;

impl NestedMatrix {
    /// Computes the product at a layer, as [`PackedMatrix::multiply`](super::super::PackedMatrix::multiply) computes it
    /// for a matrix with the integers of that layer. A layer above the finest is the finest.
    ///
    /// # Panics
    /// If `x` or `out` has the wrong size, or `stride` is less than `outputs()`.
    #[allow(clippy::too_many_arguments, reason = "the inputs, the output and the working memory of a product")]
    pub fn multiply(
        &self,
        layer: usize,
        kernel: Kernel,
        activations: Activations,
        x: &[f32],
        tokens: usize,
        out: &mut [f32],
        stride: usize,
        scratch: &mut Scratch,
        pool: &Pool,
    ) {
        let planes = self.planes_at(layer);
        if planes.is_empty() && self.forms.iter().all(|form| form.is_plain()) {
            return self.base.multiply(kernel, activations, x, tokens, out, stride, scratch, pool);
        }
        let has_offset = (0..self.forms.len()).any(|group| self.finest(planes, group).offset() != 0.0);
        let most_shares = (self.bytes_at(layer) / SHARE).clamp(1, self.base.strips[self.base.groups.len()].max(1));
        let call = Call { kernel, activations, x, tokens, stride, has_offset, most_shares };
        self.base.multiply_strips(&call, out, scratch, pool, |product, index, strips, worker, each| {
            self.multiply_opened(layer, product, index, strips, worker, each);
        });
    }

    /// Opens strips of a row group, a few at a time, and multiplies them by all tokens.
    fn multiply_opened(
        &self,
        layer: usize,
        product: &Product,
        index: usize,
        strips: Range<usize>,
        worker: &mut Worker,
        each: &mut Each,
    ) {
        let planes = self.planes_at(layer);
        let (isa, offset) = (product.kernel.isa(), self.finest(planes, index).offset());
        let lines = self.widths.len() * VECTORS;
        let mut opened = std::mem::take(&mut worker.opened);
        opened.iter_mut().for_each(|buffer| buffer.resize(buffer.len().max(lines), Line::default()));
        let [one, other] = opened.each_mut().map(|buffer| &mut buffer[..lines]);
        for first in strips.clone().step_by(STRIPS) {
            let one = self.open(planes, index, first, isa, one);
            if first + 1 < strips.end {
                let other = self.open(planes, index, first + 1, isa, other);
                product.multiply_few(&[one, other], offset, worker, each);
            } else {
                product.multiply_few(&[one], offset, worker, each);
            }
        }
        worker.opened = opened;
    }
}
