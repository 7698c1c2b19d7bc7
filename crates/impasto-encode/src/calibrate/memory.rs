//! The memory that calibration takes.

use impasto_model::config::DecoderConfig;

use super::{TOGETHER, damping};

/// Numbers that a thread packs for a product: as many as fit the second-level cache of a processor, of 2 MiB at most on those
/// that are common.
const PACKED: u128 = 1 << 19;

/// Returns an estimate of the memory that calibration takes, in bytes, without mapped files and the tokenizer. It is an
/// upper bound of what is allocated, for blocks of the same size.
///
/// `windows` are the numbers of windows of `window` tokens: all of them, those for the gradients, and those that are
/// held out. Memory holds the embedding and the output projection throughout, and in turn, in 32-bit floats:
///
/// - forward: a block, the residual streams, the covariances of a sublayer, and either the activations of a piece, or
///   the held-out inputs and the factor of a covariance in 64-bit floats;
/// - output projection: streams and gradients, with two blocks of logits;
/// - backward: a block, streams and gradients, and the activations of a piece with their gradients;
///
/// and what products pack.
pub fn memory(config: &DecoderConfig, window: usize, windows: [usize; 3], threads: usize) -> u64 {
    let wide = |n: usize| n as u128;
    let [all, backwards, held] = windows.map(|count| wide(count) * wide(window));
    let (hidden, attention) = (wide(config.hidden_size), wide(config.query_width()));
    let inner = wide(config.intermediate_size).max(attention);
    let vocab = wide(config.vocab_size);
    let ends = vocab * hidden * if config.tie_word_embeddings { 1 } else { 2 };
    let weights = config.weight_bytes().map_or(u128::MAX, wide) / 4;
    let block = weights.saturating_sub(ends).div_ceil(wide(config.blocks.len().max(1)));
    // Tokens of a piece (`impasto_model::decoder::Walk`), and the widest values of a sublayer, with copies that products
    // and transposes make.
    let piece = wide(window.max(2048)).min(all.max(wide(window)));
    let values = piece * (3 * hidden + 4 * inner) + block;
    let scores = 2 * wide(threads) * 128 * wide(window);

    // Those of all windows, and of a part of them.
    let sums = 2 * (hidden * hidden + inner * inner);
    let factor = 2 * (inner + held.min(wide(damping::TOKENS))) * inner;
    let forward = block + all * hidden + sums + (values + scores).max(held * (hidden + inner) * 2 + factor);
    let head = 2 * backwards * hidden + 2 * vocab.max(1 << 24).min(vocab * wide(window)) + 2 * wide(window) * hidden;
    let backward = block + 2 * backwards * hidden + 2 * (values + scores);
    let parts = backwards.div_ceil(wide(window.max(1)) * wide(TOGETHER)) + 1;
    let fisher = 2 * parts * (2 * vocab + wide(config.blocks.len()) * (4 * hidden + 2 * attention + 3 * inner));
    let values = ends + fisher + wide(threads) * PACKED + forward.max(head).max(backward);
    u64::try_from(values.saturating_mul(4)).unwrap_or(u64::MAX)
}

/// Returns an estimate of the memory that joining the portions of a calibration takes, in bytes: for one group of inputs at a time, two
/// sums, the held-out rows with their sum, and the factor of a covariance in 64-bit floats; and all sums of gradients, with their sum.
///
/// `groups` are the inputs of each group and its held-out rows, `gradients` the number of sums of all portions.
pub fn joining(groups: impl IntoIterator<Item = (usize, usize)>, gradients: u64) -> u64 {
    let of_group = |(n, rows): (usize, usize)| {
        let (n, rows) = (n as u128, rows as u128);
        n.saturating_mul(3 * n + 2 * rows + 2 * (n + rows))
    };
    let largest = groups.into_iter().map(of_group).max().unwrap_or(0);
    let values = largest.saturating_add(4 * u128::from(gradients));
    u64::try_from(values.saturating_mul(4)).unwrap_or(u64::MAX)
}
