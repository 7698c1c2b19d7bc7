//! Weights to integers of the lattice.

use impasto_codec::DType;
use impasto_codec::lattice::{quantize, reconstruct_row};

use crate::matrix::weights;

/// Rounds the weights of a tensor to multiples of its step.
#[derive(Clone, Copy)]
pub struct Rounder {
    inverse: f32,
    /// The largest integer whose weight is finite: beyond it, rounding up would make an infinity of a large weight.
    most: i32,
}

impl Rounder {
    /// For weights of `dtype` (F32, F16 or BF16) and a step, finite and above 0.
    pub fn new(dtype: DType, step: f32) -> Rounder {
        let largest = match dtype {
            DType::F16 => 65504.0,
            DType::Bf16 => f32::from_bits(0x7F7F_0000),
            _ => f32::MAX,
        };
        let mut most = (largest / step).round() as i32;
        while most > 0 && !is_finite(dtype, most, step) {
            most -= 1;
        }
        Rounder { inverse: 1.0 / step, most }
    }

    /// The integer nearest to a weight.
    pub fn round(&self, weight: f32) -> i32 {
        quantize(weight, self.inverse).clamp(-self.most, self.most)
    }
}

/// Does a decoder make a finite weight of `z`?
fn is_finite(dtype: DType, z: i32, step: f32) -> bool {
    let (mut bytes, mut weight) = ([0; 4], Vec::new());
    let bytes = &mut bytes[..dtype.size()];
    reconstruct_row(dtype, &[z], &[1.0], step, bytes);
    weights(dtype, bytes, &mut weight);
    weight.iter().all(|w| w.is_finite())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_finite_weight_becomes_infinite() {
        for (dtype, largest) in
            [(DType::F16, 65504.0), (DType::Bf16, f32::from_bits(0x7F7F_0000)), (DType::F32, f32::MAX)]
        {
            for fraction in [0.2f32, 0.3, 0.66, 1.0, 1.5, 4.0, 1e-5, 1e-9] {
                let step = largest.min(8e37) * fraction;
                let rounder = Rounder::new(dtype, step);
                for w in [largest, -largest, largest * 0.99] {
                    let z = rounder.round(w);
                    assert!(is_finite(dtype, z, step), "{dtype:?} {step} {w}");
                    let off = (f64::from(z) * f64::from(step) - f64::from(w)).abs();
                    let saturated = z.unsigned_abs() >= i32::MAX as u32;
                    assert!(
                        saturated || off <= f64::from(step) + f64::from(largest) * 1e-6,
                        "{dtype:?} {step} {w} {z}"
                    );
                }
            }
            assert_eq!(Rounder::new(dtype, 0.5).round(-3.2), -6);
        }
    }
}
