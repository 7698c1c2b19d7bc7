//! A model with its tokenizer and chat template.

use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Instant;

use impasto_kernels::kv::KvLayout;
use impasto_kernels::packed::Activations;
use impasto_model::config::{CONFIG, DecoderConfig, eos_token_ids};
use impasto_model::decoder::Decoder;
use impasto_model::graph;
use impasto_model::sampling::SamplingParams;
use impasto_model::{CausalLm, ModelError, Session, WeightSource};
use impasto_text::chat::{TEMPLATE_FILE, TOKENIZER_CONFIG};
use impasto_text::{ChatTemplate, TemplateWorker, TextError, Tokenizer, tokenizer};

use crate::{
    GenerateOptions, Generation, KvMemory, LoadTimes, LoadWarning, Packs, Residence, Result, Runtime, RuntimeOptions,
    Stream, generate, stream,
};

/// Options for loading and running a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct RunOptions {
    /// Number of threads; 0 means one per processor.
    pub threads: usize,
    /// Limit to the context, in tokens, below that of the configuration; bounds the key/value cache.
    pub max_context: Option<usize>,
    /// Memory limit in bytes, for the weights and, separately, for all keys and values. It is checked before memory is
    /// allocated. `None` means no limit.
    pub memory_limit: Option<u64>,
    /// The form of the weights in memory.
    pub residence: Residence,
    /// The precision of the inputs of packed matrices.
    pub activations: Activations,
    /// The formats of keys and values; residence `Float` ignores it.
    pub kv: KvLayout,
    /// Where packed weights are kept for later loads, if they are; the other residences ignore it.
    pub packs: Option<Packs>,
    /// The count of the bytes of keys and values, if models share one; its limit then takes the place of the memory limit for these.
    /// Residence `Float` ignores it.
    pub kv_memory: Option<KvMemory>,
    /// The command that runs the chat template in a process of its own. `None` runs it in this process, which a hostile
    /// template can end; see [`impasto_text::chat`].
    pub template_worker: Option<TemplateWorker>,
}

impl RunOptions {
    /// Returns the options of the reference: binary32 throughout.
    pub fn float() -> Self {
        Self { residence: Residence::Float, ..Self::default() }
    }
}

/// A model, its tokenizer and its chat template.
pub struct Model {
    network: Network,
    tokenizer: Option<Arc<Tokenizer>>,
    tokenizer_config: Option<Vec<u8>>,
    template_file: Option<Vec<u8>>,
    template_worker: Option<TemplateWorker>,
    /// Why there is no tokenizer or no chat template, if the source knows.
    absent: [Option<String>; 2],
    eos: Vec<u32>,
    notes: Vec<String>,
    times: LoadTimes,
}

/// A network in one of the residences.
enum Network {
    Float(Arc<Decoder>),
    Runtime(Arc<Runtime>),
}

impl Model {
    /// Loads a model. Token ids need only `config.json` and the weights; text also needs `tokenizer.json`.
    ///
    /// # Errors
    /// A missing or invalid `config.json`, a model above the memory limit, an unsupported architecture, weights that do
    /// not match the configuration, an invalid tokenizer.
    pub fn load(source: &dyn WeightSource, options: &RunOptions) -> Result<Self> {
        Model::load_layers(&[source], options)
    }

    /// Loads several layers of the same weights, the coarsest first, such as cuts of one file: see
    /// [`Runtime::load_layers`]. Everything but the weights is that of the finest, the last.
    ///
    /// # Errors
    /// [`ModelError::Layers`] if layers cannot be in memory together; those of [`Model::load`].
    pub fn load_layers(layers: &[&dyn WeightSource], options: &RunOptions) -> Result<Self> {
        let source = *layers.last().ok_or(ModelError::Layers("there are none"))?;
        let check = |config: &DecoderConfig| match (options.residence, options.memory_limit, config.weight_bytes()) {
            (Residence::Float, Some(limit), Some(bytes)) if bytes as u64 > limit => {
                Err(ModelError::MemoryLimit { bytes: bytes as u64, limit })
            }
            _ => Ok(()),
        };
        let network = |config: DecoderConfig| {
            check(&config)?;
            Network::load(layers, config, options)
        };
        Model::load_with(source, options.threads != 1, options.template_worker.clone(), None, network)
    }

    /// Loads a delta of this model, which shares what is the same in memory: see [`Runtime::load_over`]. The options are those
    /// of this model.
    ///
    /// # Errors
    /// [`ModelError::OtherBase`] if this model has not all weights of the base of `source`, some were exchanged, or it runs in
    /// binary32; those of [`Model::load`].
    pub fn load_over(&self, source: &dyn WeightSource) -> Result<Self> {
        let runtime = self.runtime().ok_or(ModelError::OtherBase)?;
        let tokenizer = self.tokenizer.clone().filter(|_| source.is_asset_of_base(tokenizer::FILE));
        let network = |config: DecoderConfig| {
            let mut network = runtime.load_over(source, config)?;
            network.limit_context(self.network().max_context());
            Ok(Network::Runtime(Arc::new(network)))
        };
        Model::load_with(source, self.threads() != 1, self.template_worker.clone(), tokenizer, network)
    }

    /// Loads a model, with a tokenizer that is in memory or its own, and the network that `load` returns for its
    /// configuration.
    fn load_with(
        source: &dyn WeightSource,
        parallel: bool,
        template_worker: Option<TemplateWorker>,
        tokenizer: Option<Arc<Tokenizer>>,
        load: impl FnOnce(DecoderConfig) -> Result<Network>,
    ) -> Result<Self> {
        let begun = Instant::now();
        let why = "a model cannot run without it";
        let json = source.asset(CONFIG).ok_or_else(|| match source.why_absent(CONFIG) {
            Some(reason) => ModelError::BadAsset { name: CONFIG, reason },
            None => ModelError::MissingAsset { name: CONFIG, why },
        })?;
        let config = DecoderConfig::from_json(&json)?;
        let eos = eos_token_ids(source)?;
        let tied = config.tie_word_embeddings;
        let own = || match &tokenizer {
            Some(tokenizer) => Ok(Some(tokenizer.clone())),
            None => Tokenizer::load(|name| source.asset(name)).map(|own| own.map(Arc::new)),
        };
        let ((tokenizer, assets), network) =
            beside(parallel, || (own(), begun.elapsed().as_secs_f64()), || load(config));
        let (tokenizer, network) = (tokenizer?, network?);
        let (tokenizer_config, template_file) = (source.asset(TOKENIZER_CONFIG), source.asset(TEMPLATE_FILE));
        let why_no_tokenizer = tokenizer.is_none().then(|| source.why_absent(tokenizer::FILE)).flatten();
        let why_no_template = template_file.is_none().then(|| source.why_absent(TEMPLATE_FILE)).flatten();
        let absent = [why_no_tokenizer, why_no_template];
        let times = match &network {
            Network::Float(_) => LoadTimes::default(),
            Network::Runtime(runtime) => runtime.load_times(),
        };
        let times = LoadTimes { seconds: begun.elapsed().as_secs_f64(), assets, ..times };
        let notes = Vec::new();
        let mut model =
            Self { network, tokenizer, tokenizer_config, template_file, template_worker, absent, eos, notes, times };
        if tied && !model.config().tie_word_embeddings {
            model.notes.push(graph::OWN_OUTPUT.into());
        }
        Ok(model)
    }

    /// The network.
    pub fn network(&self) -> &dyn CausalLm {
        match &self.network {
            Network::Float(decoder) => &**decoder,
            Network::Runtime(runtime) => &**runtime,
        }
    }

    /// The network, shared: for sessions that outlive a borrow of the model.
    pub fn shared_network(&self) -> Arc<dyn CausalLm> {
        match &self.network {
            Network::Float(decoder) => decoder.clone(),
            Network::Runtime(runtime) => runtime.clone(),
        }
    }

    /// Creates an empty sequence of tokens.
    ///
    /// # Errors
    /// Sampling options out of range; no memory for the cache.
    pub fn session(&self, sampling: SamplingParams) -> Result<Session<&dyn CausalLm>> {
        Ok(Session::new(self.network(), sampling)?)
    }

    /// The reference decoder, if the residence is `Float`.
    pub fn decoder(&self) -> Option<&Decoder> {
        match &self.network {
            Network::Float(decoder) => Some(decoder),
            Network::Runtime(_) => None,
        }
    }

    /// The reference decoder, mutably, to replace its weights. Also `None` while the network is shared.
    pub fn decoder_mut(&mut self) -> Option<&mut Decoder> {
        match &mut self.network {
            Network::Float(decoder) => Arc::get_mut(decoder),
            Network::Runtime(_) => None,
        }
    }

    /// The fast network, if the residence is `Packed` or `Coded`.
    pub fn runtime(&self) -> Option<&Runtime> {
        match &self.network {
            Network::Float(_) => None,
            Network::Runtime(runtime) => Some(runtime),
        }
    }

    /// The fast network, shared.
    pub fn shared_runtime(&self) -> Option<Arc<Runtime>> {
        match &self.network {
            Network::Float(_) => None,
            Network::Runtime(runtime) => Some(runtime.clone()),
        }
    }

    /// The configuration.
    pub fn config(&self) -> &DecoderConfig {
        match &self.network {
            Network::Float(decoder) => decoder.config(),
            Network::Runtime(runtime) => runtime.config(),
        }
    }

    /// The form of the weights in memory.
    pub fn residence(&self) -> Residence {
        match &self.network {
            Network::Float(_) => Residence::Float,
            Network::Runtime(runtime) => runtime.residence(),
        }
    }

    /// Number of threads that the network runs on.
    pub fn threads(&self) -> usize {
        match &self.network {
            Network::Float(decoder) => decoder.frame().pool().current_num_threads(),
            Network::Runtime(runtime) => runtime.threads(),
        }
    }

    /// How long loading took.
    pub fn load_times(&self) -> LoadTimes {
        self.times
    }

    /// What the model does other than its configuration says, one line each.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Warnings about matrices that could not be packed and take more memory.
    pub fn warnings(&self) -> &[LoadWarning] {
        self.runtime().map_or(&[], Runtime::warnings)
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`TextError::MissingAsset`] if the source has none, or [`TextError::BadAsset`] if it also knows why.
    pub fn tokenizer(&self) -> Result<&Tokenizer, TextError> {
        self.tokenizer.as_deref().ok_or_else(|| self.no_tokenizer())
    }

    /// The tokenizer, shared.
    ///
    /// # Errors
    /// Those of [`Self::tokenizer`].
    pub fn shared_tokenizer(&self) -> Result<Arc<Tokenizer>, TextError> {
        self.tokenizer.clone().ok_or_else(|| self.no_tokenizer())
    }

    fn no_tokenizer(&self) -> TextError {
        let [why, _] = &self.absent;
        match why.clone() {
            Some(reason) => TextError::BadAsset { name: tokenizer::FILE, reason },
            None => Tokenizer::missing(),
        }
    }

    /// Parses the chat template. An invalid template is therefore not an error for plain text.
    ///
    /// # Errors
    /// Those of [`ChatTemplate::from_assets`], and [`TextError::BadAsset`] if the source has none and knows why.
    pub fn chat_template(&self) -> Result<ChatTemplate, TextError> {
        if let [_, Some(reason)] = self.absent.clone() {
            return Err(TextError::BadAsset { name: TEMPLATE_FILE, reason });
        }
        let (config, file) = (self.tokenizer_config.as_deref(), self.template_file.as_deref());
        ChatTemplate::from_assets(config, file, self.template_worker.as_ref())
    }

    /// The end-of-sequence token ids of the configuration.
    pub fn eos(&self) -> &[u32] {
        &self.eos
    }

    /// Returns options for greedy generation that ends at the model's end-of-sequence tokens.
    pub fn generate_options(&self) -> GenerateOptions {
        GenerateOptions { eos: self.eos.clone(), ..GenerateOptions::default() }
    }

    /// Returns options for greedy generation of an answer in a conversation. It ends like those of
    /// [`Self::generate_options`], and at the end-of-sequence token of the tokenizer: `generation_config.json` may be
    /// that of a base model, which does not know the end of a turn.
    pub fn chat_options(&self, template: &ChatTemplate) -> GenerateOptions {
        let mut options = self.generate_options();
        let turn = template.eos_token().zip(self.tokenizer.as_deref());
        let turn = turn.and_then(|(token, tokenizer)| tokenizer.token_to_id(token));
        options.eos.extend(turn.filter(|id| !self.eos.contains(id)));
        options
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
        generate(self.network(), self.tokenizer()?, prompt, options, on_text)
    }

    /// Continues `prompt` as a stream of pieces of text.
    ///
    /// # Errors
    /// Those of [`stream`](crate::stream) and [`Self::tokenizer`].
    pub fn stream(&self, prompt: &[u32], options: &GenerateOptions) -> Result<Stream<'_, &dyn CausalLm>> {
        stream(self.network(), self.tokenizer()?, prompt, options)
    }

    /// Bytes of the weights in memory.
    pub fn memory_bytes(&self) -> usize {
        match &self.network {
            Network::Float(decoder) => decoder.memory_bytes(),
            Network::Runtime(runtime) => runtime.memory_bytes(),
        }
    }
}

/// Computes `first` and `second`, on a thread of its own for `first` if `parallel` and one can be started.
fn beside<A: Send, B>(parallel: bool, first: impl Fn() -> A + Sync, second: impl FnOnce() -> B) -> (A, B) {
    std::thread::scope(|scope| {
        let thread = parallel.then(|| std::thread::Builder::new().spawn_scoped(scope, &first).ok()).flatten();
        let Some(thread) = thread else { return (first(), second()) };
        let second = second();
        (thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)), second)
    })
}

impl Network {
    fn load(layers: &[&dyn WeightSource], config: DecoderConfig, options: &RunOptions) -> Result<Self> {
        let shorter = options.max_context;
        if let (Residence::Float, [source]) = (options.residence, layers) {
            let mut decoder = Decoder::load(*source, config, options.threads)?;
            shorter.into_iter().for_each(|tokens| decoder.limit_context(tokens));
            return Ok(Network::Float(Arc::new(decoder)));
        }
        let options = RuntimeOptions {
            residence: options.residence,
            activations: options.activations,
            kv: options.kv.clone(),
            threads: options.threads,
            packs: options.packs.clone(),
            kv_memory: options.kv_memory.clone(),
            memory_limit: options.memory_limit.map_or(usize::MAX, |limit| usize::try_from(limit).unwrap_or(usize::MAX)),
        };
        let mut runtime = Runtime::load_layers(layers, config, &options)?;
        shorter.into_iter().for_each(|tokens| runtime.limit_context(tokens));
        Ok(Network::Runtime(Arc::new(runtime)))
    }
}
