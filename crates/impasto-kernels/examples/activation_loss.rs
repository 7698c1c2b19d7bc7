//! The error of quantizing activations to 8 bits, by the size of the block that shares a scale: the signal-to-noise
//! ratio of products with random weights.
//!
//! Activations have heavy tails (Student's t with 4 degrees of freedom). In `loud`, one channel in 200 is 30 times as
//! loud as the others, as in residual streams. 4-bit weights have about 20 dB, so 35 dB and more are negligible in
//! comparison.

#[path = "../benches/support/random.rs"]
mod random;

use impasto_kernels::packed::ACTIVATION_BLOCK;
use random::Rng;

/// Returns a variable with Student's t distribution of 4 degrees of freedom.
fn heavy(rng: &mut Rng) -> f64 {
    let square = (0..4).map(|_| rng.normal().powi(2)).sum::<f64>() / 4.0;
    rng.normal() / square.sqrt()
}

fn main() {
    const COLUMNS: usize = 2048;
    const TOKENS: usize = 64;
    const ROWS: usize = 32;
    for (name, loud) in [("heavy", 1.0), ("loud", 30.0)] {
        let mut rng = Rng(1);
        let channels: Vec<f64> =
            (0..COLUMNS).map(|_| if rng.next().is_multiple_of(200) { loud } else { 1.0 }).collect();
        let tokens: Vec<Vec<f64>> =
            (0..TOKENS).map(|_| channels.iter().map(|c| c * heavy(&mut rng)).collect()).collect();
        let weights: Vec<Vec<f64>> = (0..ROWS).map(|_| (0..COLUMNS).map(|_| rng.normal()).collect()).collect();
        for block in [32, 64, 128, 256, 512, COLUMNS] {
            let (mut signal, mut noise) = (0.0, 0.0);
            for x in &tokens {
                let rounded: Vec<f64> = x.chunks(block).flat_map(round).collect();
                for w in &weights {
                    let dot = |x: &[f64]| w.iter().zip(x).map(|(w, x)| w * x).sum::<f64>();
                    signal += dot(x).powi(2);
                    noise += (dot(&rounded) - dot(x)).powi(2);
                }
            }
            let mark = if block == ACTIVATION_BLOCK { "  <- ACTIVATION_BLOCK" } else { "" };
            println!("{name}: blocks of {block:4}: {:.1} dB{mark}", 10.0 * (signal / noise).log10());
        }
    }
}

/// Rounds a block to 8 bits and converts it back.
fn round(block: &[f64]) -> Vec<f64> {
    let scale = block.iter().fold(0.0f64, |most, x| most.max(x.abs())) / 127.0;
    block.iter().map(|x| (x / scale).round_ties_even() * scale).collect()
}
