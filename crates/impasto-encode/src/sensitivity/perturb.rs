//! The measured perturbation: how far the predictions of the network move when one tensor has its coded weights.
//!
//! The residual streams of the original are kept before each sublayer, so that a tensor costs only the part of the network behind
//! it.

use impasto_model::config::DecoderConfig;
use impasto_model::decoder::{Decoder, Frame, Predictions, Walk};
use impasto_model::{ModelError, WeightSource};

use crate::calibrate::Rows;
use crate::error::EncodeError;

/// The original network on a text, and a copy whose weights change.
pub struct Perturbation<'a> {
    pub decoder: &'a mut Decoder,
    original: Frame,
    tokens: &'a [u32],
    window: usize,
    /// Before each sublayer, by block, and at the end.
    walks: Vec<Vec<Walk>>,
    end: Walk,
    /// The inputs of the output projection of the original.
    inputs: Vec<f32>,
}

impl<'a> Perturbation<'a> {
    /// Runs the original on `tokens`, whole windows.
    pub fn new(
        decoder: &'a mut Decoder,
        weights: &dyn WeightSource,
        config: DecoderConfig,
        threads: usize,
        tokens: &'a [u32],
        window: usize,
    ) -> Result<Self, ModelError> {
        let original = Frame::load(weights, config, threads)?;
        let mut walk = Walk::new(&original, tokens, window)?;
        let mut walks = Vec::new();
        for block in decoder.blocks() {
            let mut of_block = Vec::new();
            for sublayer in 0..block.sublayers.len() {
                of_block.push(walk.clone());
                walk.advance(decoder.frame(), block, sublayer, None);
            }
            walks.push(of_block);
        }
        let mut rows = Rows::default();
        walk.finish(&original, &mut rows);
        let inputs = rows.0.into_values().next().unwrap_or_default();
        Ok(Perturbation { decoder, original, tokens, window, walks, end: walk, inputs })
    }

    /// Returns whether the network has a linear layer or embedding of this name.
    pub fn has(&self, name: &str) -> bool {
        self.decoder.weights(name).is_ok()
    }

    /// Returns the KL divergence from the original in nats per token, in each window, when `error` is added to the weights of a
    /// linear layer or embedding.
    pub fn measure(&mut self, name: &str, error: &[f32]) -> Result<Vec<f64>, EncodeError> {
        let weights = self.decoder.weights(name)?.to_vec();
        let changed: Vec<f32> = weights.iter().zip(error).map(|(w, e)| w + e).collect();
        self.decoder.set_weights(name, &changed)?;
        let found = self.divergences(name);
        self.decoder.set_weights(name, &weights)?;
        let window = self.window as f64;
        Ok(found?.into_iter().map(|nats| nats / window).collect())
    }

    fn divergences(&self, name: &str) -> Result<Vec<f64>, EncodeError> {
        let (frame, blocks) = (self.decoder.frame(), self.decoder.blocks());
        let place = blocks.iter().enumerate().find_map(|(at, block)| {
            let sublayer = (0..block.sublayers.len()).find(|&s| block.linears_of(s).any(|layer| layer.name == name))?;
            Some((at, sublayer))
        });
        let (mut walk, first, mut sublayer) = match place {
            Some((block, sublayer)) => (self.walks[block][sublayer].clone(), block, sublayer),
            None if name == frame.embedding() => (Walk::new(frame, self.tokens, self.window)?, 0, 0),
            None => (self.end.clone(), blocks.len(), 0),
        };
        for block in &blocks[first..] {
            (sublayer..block.sublayers.len()).for_each(|sublayer| walk.advance(frame, block, sublayer, None));
            sublayer = 0;
        }
        let teacher = Predictions { frame: &self.original, inputs: &self.inputs };
        Ok(walk.divergences(frame, &teacher)?)
    }
}
