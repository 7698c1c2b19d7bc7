//! A model with everything that rides along.

use std::ops::ControlFlow;

use crate::chat::{ChatTemplate, TEMPLATE_FILE, TOKENIZER_CONFIG};
use crate::config::{CONFIG, DecoderConfig, eos_token_ids};
use crate::decoder::Decoder;
use crate::generate::{GenerateOptions, Generation, generate};
use crate::tokenizer::Tokenizer;
use crate::{ModelError, Result, WeightSource};

/// How a model is loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RunOptions {
    /// Threads; 0 takes all processors.
    pub threads: usize,
    /// A context shorter than the configuration's, to bound the key/value cache.
    pub max_context: Option<usize>,
    /// Most bytes that the weights may take, checked before any is loaded; no limit when `None`.
    pub memory_limit: Option<u64>,
}

/// A model, its tokenizer and its chat template.
pub struct Model {
    network: Decoder,
    tokenizer: Option<Tokenizer>,
    tokenizer_config: Option<Vec<u8>>,
    template_file: Option<Vec<u8>>,
    eos: Vec<u32>,
}

impl Model {
    /// Loads a model. Only `config.json` and the weights are needed to run on token ids; text also needs
    /// `tokenizer.json`.
    ///
    /// # Errors
    /// No or a bad `config.json`, a model above the memory limit, an architecture this runtime does not run, weights that
    /// do not fit it, a tokenizer that is there but does not parse.
    pub fn load(source: &dyn WeightSource, options: &RunOptions) -> Result<Self> {
        let why = "a model cannot be run without it";
        let json = source.asset(CONFIG).ok_or(ModelError::MissingAsset { name: CONFIG, why })?;
        let config = DecoderConfig::from_json(&json)?;
        if let (Some(limit), Some(bytes)) = (options.memory_limit, config.weight_bytes())
            && bytes as u64 > limit
        {
            return Err(ModelError::MemoryLimit { bytes: bytes as u64, limit });
        }
        let eos = eos_token_ids(source)?;
        let tokenizer = match Tokenizer::from_source(source) {
            Ok(tokenizer) => Some(tokenizer),
            Err(ModelError::MissingAsset { .. }) => None,
            Err(error) => return Err(error),
        };
        let mut network = Decoder::load(source, config, options.threads)?;
        if let Some(tokens) = options.max_context {
            network.limit_context(tokens);
        }
        let (tokenizer_config, template_file) = (source.asset(TOKENIZER_CONFIG), source.asset(TEMPLATE_FILE));
        Ok(Self { network, tokenizer, tokenizer_config, template_file, eos })
    }

    /// The network.
    pub fn network(&self) -> &Decoder {
        &self.network
    }

    /// The network, to have its weights replaced.
    pub fn network_mut(&mut self) -> &mut Decoder {
        &mut self.network
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`ModelError::MissingAsset`] when the model came without one.
    pub fn tokenizer(&self) -> Result<&Tokenizer> {
        self.tokenizer.as_ref().ok_or_else(Tokenizer::missing)
    }

    /// The chat template, parsed when asked for: one that does not parse keeps nobody from plain text.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::from_assets`].
    pub fn chat_template(&self) -> Result<ChatTemplate> {
        ChatTemplate::from_assets(self.tokenizer_config.as_deref(), self.template_file.as_deref())
    }

    /// Token ids that end a text.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Greedy generation that ends at the model's own end-of-text tokens.
    pub fn generate_options(&self) -> GenerateOptions {
        GenerateOptions { eos: self.eos.clone(), ..GenerateOptions::default() }
    }

    /// Continues `prompt`; see [`generate`].
    ///
    /// # Errors
    /// Those of [`generate`] and [`Self::tokenizer`].
    pub fn generate(
        &self,
        prompt: &[u32],
        options: &GenerateOptions,
        on_text: &mut dyn FnMut(&str) -> ControlFlow<()>,
    ) -> Result<Generation> {
        generate(&self.network, self.tokenizer()?, prompt, options, on_text)
    }

    /// Bytes of the weights in memory.
    pub fn memory_bytes(&self) -> usize {
        self.network.memory_bytes()
    }
}
