//! All models of a server. Each layer of a file is loaded when a request names it, and given up when its memory is needed.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{MAIN_SEPARATOR, Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, UNIX_EPOCH};

use impasto::Cut;
use impasto_model::speculation::DraftLength;
use impasto_runtime::{Drafting, KvMemory, RunOptions, layer_that_drafts};
use serde::Serialize;
use utoipa::ToSchema;

use super::loaded::{Loaded, Quality};
use super::name::{Wanted, split};
use super::open::{LoadError, Opener, Opening};
use crate::engine::is_memory;

/// How long a load waits for another layer to be free.
const SOON: Duration = Duration::from_secs(1);

/// How models are loaded.
#[derive(Clone, Debug)]
pub struct CatalogOptions {
    /// How they are opened.
    pub opener: Opener,
    /// How they run. Limits of memory are those below.
    pub run: RunOptions,
    /// The most memory for the weights of all models together, in bytes.
    pub memory_limit: u64,
    /// The memory for the keys and values of all texts together.
    pub kv_memory: KvMemory,
    /// What proposes tokens.
    pub drafts: Drafts,
    /// The share of texts that is compared with a finer layer.
    pub watched: f64,
}

/// What proposes the next tokens of texts that have no temperature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drafts {
    /// Whether earlier text does.
    pub lookup: bool,
    /// Which coarser layers do.
    pub layers: DraftLayers,
    /// How long drafts are.
    pub length: DraftLength,
}

/// Which coarser layers of a model are in memory beside it, to propose tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DraftLayers {
    /// None.
    #[default]
    None,
    /// The one of this number, from 1, if the model is finer.
    One(usize),
    /// The one that is expected to pay, if there is one: [`layer_that_drafts`].
    Auto,
}

impl Default for Drafts {
    fn default() -> Drafts {
        Drafts { lookup: false, layers: DraftLayers::None, length: DraftLength::Adaptive(0) }
    }
}

impl Drafts {
    /// The layers in memory beside the last of those of a file with these cumulative sizes. Those between are there too, unless
    /// that is exact: in several steps, integers take less memory than in one.
    fn below(self, sizes: &[u64], is_exact: bool) -> Vec<usize> {
        let layer = sizes.len();
        match self.layers {
            DraftLayers::None => vec![],
            DraftLayers::One(one) if is_exact => (one < layer).then_some(one).into_iter().collect(),
            DraftLayers::One(one) => (one..layer).collect(),
            DraftLayers::Auto => layer_that_drafts(sizes, is_exact).into_iter().collect(),
        }
    }

    /// How a model with so many coarser layers in memory drafts.
    fn drafting(self, coarser: usize) -> Drafting {
        match (self.lookup, coarser) {
            (false, 0) => Drafting::None,
            (true, 0) => Drafting::Lookup,
            (false, _) => Drafting::Layer(0),
            (true, _) => Drafting::Auto,
        }
    }
}

/// Why a model cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CatalogError {
    /// There is no model of this name.
    #[error("there is no model {name:?}; there are {}", .known.join(", "))]
    Unknown {
        /// The name.
        name: String,
        /// The names of all models.
        known: Vec<String>,
    },
    /// Two models have the same name.
    #[error("two models have the name {0:?}; give one another, as in name=file.impasto")]
    Twice(String),
    /// The file does not have this layer.
    #[error("{model} has the layers 1 to {layers}, and no layer {layer}")]
    NoLayer {
        /// The model.
        model: String,
        /// The layer.
        layer: usize,
        /// The number of layers.
        layers: usize,
    },
    /// Even the first layer has more bits per weight.
    #[error("{model}: its first layer has {least} bits per weight")]
    NoBits {
        /// The model.
        model: String,
        /// The bits per weight of the first layer.
        least: String,
    },
    /// The layer is not there yet.
    #[error("{model}: layer {layer} has not arrived")]
    NotThere {
        /// The model.
        model: String,
        /// The layer.
        layer: usize,
    },
    /// There is not enough memory.
    #[error("{model}: {reason}; other models are in use")]
    NoMemory {
        /// The model.
        model: String,
        /// How much it needs.
        reason: String,
    },
    /// It cannot be loaded.
    #[error("{model}: {reason}")]
    Load {
        /// The model.
        model: String,
        /// Why.
        reason: String,
    },
}

/// All models.
pub struct Catalog {
    entries: Vec<Entry>,
    options: CatalogOptions,
    /// Held while a model is loaded: one at a time.
    loading: Arc<tokio::sync::Mutex<()>>,
    loads: AtomicU64,
    unloads: AtomicU64,
}

struct Entry {
    id: String,
    path: PathBuf,
    /// Seconds since 1970 of the file's last change.
    created: u64,
    opening: Opening,
    /// The model while its file arrives.
    live: Option<Arc<Loaded>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// The layers in memory.
    slots: BTreeMap<usize, Arc<Loaded>>,
    /// The layer that is being loaded.
    loading: Option<usize>,
    /// Why it could not be loaded last.
    error: Option<String>,
}

/// What a model is, and how much of it is in memory.
#[derive(Clone)]
pub struct Summary {
    /// Its name.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// Whether any layer is in memory.
    pub state: ModelState,
    /// Why it could not be loaded, or does not become finer.
    pub error: Option<String>,
    /// Bytes of the file.
    pub file_bytes: u64,
    /// Bytes of it that are there.
    pub arrived_bytes: u64,
    /// The model that it is a delta of.
    pub base: Option<String>,
    /// Whether it has a chat template, if that is known.
    pub chat: Option<bool>,
    /// The most tokens of a text, if that is known.
    pub context: Option<usize>,
    /// Its layers, the coarsest first.
    pub layers: Vec<LayerState>,
    /// The finest layer in memory.
    pub loaded: Option<Arc<Loaded>>,
}

/// Whether a model is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ModelState {
    /// It is.
    Loaded,
    /// It is being loaded.
    Loading,
    /// It is not.
    Unloaded,
    /// It is not there yet.
    Arriving,
    /// It could not be loaded.
    Failed,
}

/// A layer of a model.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct LayerState {
    /// Its number, from 1.
    pub layer: usize,
    /// The name to ask for it by.
    pub id: String,
    /// Bytes of the file up to it.
    pub bytes: u64,
    /// The same in bits per weight; 0 if it is not known.
    pub bits_per_weight: f64,
    /// Its KL divergence from the original in nats per token, if it was measured.
    pub kld: Option<f32>,
    /// Whether it is in memory.
    pub state: ModelState,
}

impl Catalog {
    /// Looks at the models, each a name and a path. None is loaded.
    ///
    /// # Errors
    /// If one cannot be opened, or two have the same name.
    pub fn new(models: Vec<(String, PathBuf)>, options: CatalogOptions) -> Result<Catalog, CatalogError> {
        let mut entries: Vec<Entry> = Vec::new();
        for (id, path) in models {
            if entries.iter().any(|entry| entry.id == id) {
                return Err(CatalogError::Twice(id));
            }
            let opening = options.opener.look(&path)?;
            entries.push(Entry { created: changed(&path), id, path, opening, live: None, state: Mutex::default() });
        }
        let (loads, unloads) = (AtomicU64::new(0), AtomicU64::new(0));
        Ok(Catalog { entries, options, loading: Arc::default(), loads, unloads })
    }

    /// Adds a model whose file arrives at `path`.
    ///
    /// # Errors
    /// [`CatalogError::Twice`].
    pub fn add_live(&mut self, path: PathBuf, opening: Opening, live: Arc<Loaded>) -> Result<(), CatalogError> {
        let id = live.id.clone();
        if self.entries.iter().any(|entry| entry.id == id) {
            return Err(CatalogError::Twice(id));
        }
        let created = changed(&path);
        self.entries.push(Entry { id, path, created, opening, live: Some(live), state: Mutex::default() });
        Ok(())
    }

    /// Returns a model by name, after loading it if it is not in memory. Without a name, it is the first one.
    ///
    /// # Errors
    /// [`CatalogError`].
    pub async fn get(self: &Arc<Self>, name: Option<&str>) -> Result<Arc<Loaded>, CatalogError> {
        let (index, layer) = self.find(name)?;
        if let Some(loaded) = self.present(index, layer) {
            return Ok(loaded);
        }
        let turn = self.loading.clone().lock_owned().await;
        if let Some(loaded) = self.present(index, layer) {
            return Ok(loaded);
        }
        // Loading goes on, and keeps its turn, when the client goes.
        let catalog = self.clone();
        let loading = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            catalog.load_shown(index, layer)
        });
        let model = || self.entries[index].id.clone();
        loading.await.unwrap_or_else(|_| Err(unexpected(model())))
    }

    /// Loads a layer, and shows that and how it ends in the state of the model.
    fn load_shown(&self, index: usize, layer: usize) -> Result<Arc<Loaded>, CatalogError> {
        let entry = &self.entries[index];
        entry.lock().loading = Some(layer);
        // A bug in a decoder must not end the server.
        let loaded = catch_unwind(AssertUnwindSafe(|| self.load(index, layer)));
        let loaded = loaded.unwrap_or_else(|_| Err(unexpected(entry.id.clone())));
        let loaded = loaded.map_err(|error| self.told(error));
        let mut state = entry.lock();
        state.loading = None;
        state.error = loaded.as_ref().err().map(ToString::to_string);
        loaded
    }

    /// Logs why a model cannot be loaded, and returns what clients are told of that.
    fn told(&self, error: CatalogError) -> CatalogError {
        tracing::warn!(%error, "a model cannot be loaded");
        match error {
            CatalogError::Load { model, reason } => CatalogError::Load { model, reason: self.without_folders(&reason) },
            error => error,
        }
    }

    /// Removes folders from a message: clients must not learn where files are.
    fn without_folders(&self, message: &str) -> String {
        let folders = self.entries.iter().filter_map(|entry| entry.path.parent());
        let folders = folders.map(|folder| format!("{}{MAIN_SEPARATOR}", folder.display()));
        let message = folders
            .filter(|folder| folder.len() > 1)
            .fold(message.to_owned(), |text, folder| text.replace(&folder, ""));
        // Bases may be elsewhere.
        let last = |word: &str| match word.starts_with('/') {
            true => word.rsplit('/').next().unwrap_or_default().to_owned(),
            false => word.to_owned(),
        };
        message.split(' ').map(last).collect::<Vec<_>>().join(" ")
    }

    /// Returns the number of the entry and the layer that a name means.
    fn find(&self, name: Option<&str>) -> Result<(usize, usize), CatalogError> {
        let name = name.unwrap_or_else(|| self.entries.first().map_or("", |entry| &entry.id));
        let position = |id: &str| self.entries.iter().position(|entry| entry.id == id);
        let whole = |index: usize| (index, self.entries[index].opening.layers.len());
        if let Some(index) = position(name) {
            return Ok(whole(index));
        }
        let known = || self.entries.iter().map(|entry| entry.id.clone()).collect();
        let unknown = || CatalogError::Unknown { name: name.to_owned(), known: known() };
        let (model, wanted) = split(name).ok_or_else(unknown)?;
        let index = position(model).ok_or_else(unknown)?;
        let (entry, layers) = (&self.entries[index], self.entries[index].opening.layers.len());
        let layer = match wanted {
            Wanted::Layer(layer) if layer <= layers => layer,
            Wanted::Layer(layer) => return Err(CatalogError::NoLayer { model: model.to_owned(), layer, layers }),
            Wanted::BitsPerWeight(bits) => {
                let fitting = (1..=layers).take_while(|&layer| entry.bits(layer) <= bits).last();
                let least = || format!("{:.2}", entry.bits(1));
                fitting.ok_or_else(|| CatalogError::NoBits { model: model.to_owned(), least: least() })?
            }
        };
        Ok((index, layer))
    }

    /// Returns a layer that is in memory.
    fn present(&self, index: usize, layer: usize) -> Option<Arc<Loaded>> {
        let entry = &self.entries[index];
        let live =
            entry.live.as_ref().filter(|live| layer == entry.opening.layers.len() || layer == live.quality().layer);
        let loaded = live.cloned().or_else(|| entry.lock().slots.get(&layer).cloned())?;
        loaded.touch();
        Some(loaded)
    }

    /// Loads a layer, after giving up others that are not used if its memory is needed.
    fn load(&self, index: usize, layer: usize) -> Result<Arc<Loaded>, CatalogError> {
        let entry = &self.entries[index];
        let model = entry.label(layer);
        if !entry.is_there(layer) {
            return Err(CatalogError::NotThere { model: entry.id.clone(), layer });
        }
        let begun = std::time::Instant::now();
        let quality = Quality { layer, layers: entry.opening.layers.len(), bits_per_weight: entry.bits(layer) };
        let cut = (layer < quality.layers).then_some(Cut::Layer(layer));
        let base = self.base_of(entry).filter(|_| cut.is_none());
        let base = base.map(|base| self.whole(base)).transpose()?;
        let coarser = if base.is_none() {
            let sizes: Vec<u64> = entry.opening.layers[..layer].iter().map(|(bytes, ..)| *bytes).collect();
            self.options.drafts.below(&sizes, entry.opening.is_exact && layer == quality.layers)
        } else {
            vec![]
        };
        let loaded = loop {
            let left = self.options.memory_limit.saturating_sub(self.memory_bytes());
            let (memory_limit, kv_memory) = (Some(left), Some(self.options.kv_memory.clone()));
            let options = RunOptions { memory_limit, kv_memory, ..self.options.run.clone() };
            let opener = &self.options.opener;
            let result = match &base {
                Some((path, base)) => opener.load_over(base.model(), path, &entry.path),
                None => opener.load(&entry.path, &coarser, cut.as_ref(), &options),
            };
            match result {
                Ok(model) => break model,
                Err(LoadError::Memory(_)) if self.give_up_one_soon() => {}
                Err(LoadError::Memory(reason)) => return Err(CatalogError::NoMemory { model, reason }),
                Err(LoadError::Other(reason)) => return Err(CatalogError::Load { model, reason }),
            }
        };
        let loaded = Arc::new(Loaded::whole(entry.id.clone(), quality, loaded, base.map(|(_, base)| base)));
        let drafting = self.options.drafts.drafting(coarser.len());
        if let Err(error) = loaded.draft(drafting, self.options.drafts.length) {
            tracing::warn!(model, %error, "no drafts");
        }
        // Only files of this format have a reference.
        loaded.watch(if entry.opening.root.is_some() { self.options.watched } else { 0.0 });
        let (bytes, seconds) = (loaded.memory_bytes(), begun.elapsed().as_secs_f64());
        tracing::info!(model, layer, bytes, seconds, "loaded");
        entry.lock().slots.insert(layer, loaded.clone());
        self.loads.fetch_add(1, Ordering::Relaxed);
        Ok(loaded)
    }

    /// The number of the entry that an entry is a delta of, if it is served as well.
    fn base_of(&self, entry: &Entry) -> Option<usize> {
        let base = entry.opening.base.as_ref()?;
        self.entries.iter().position(|other| other.opening.root.as_ref() == Some(base) && other.live.is_none())
    }

    /// Returns all of a model, and its path.
    fn whole(&self, index: usize) -> Result<(&Path, Arc<Loaded>), CatalogError> {
        let layer = self.entries[index].opening.layers.len();
        let loaded = match self.present(index, layer) {
            Some(loaded) => loaded,
            None => self.load(index, layer)?,
        };
        Ok((&self.entries[index].path, loaded))
    }

    /// [`Self::give_up_one`], after waiting a moment if there is none: a text that has ended is dropped after its last pass.
    fn give_up_one_soon(&self) -> bool {
        let begun = std::time::Instant::now();
        loop {
            if self.give_up_one() {
                return true;
            }
            let is_any = self.entries.iter().any(|entry| !entry.lock().slots.is_empty());
            if !is_any || begun.elapsed() > SOON {
                return false;
            }
            std::thread::sleep(SOON / 20);
        }
    }

    /// Gives up the layer that was not used for the longest time, and that nobody uses. Returns whether there was one.
    fn give_up_one(&self) -> bool {
        let mut best: Option<(u64, usize, usize)> = None;
        for (index, entry) in self.entries.iter().enumerate() {
            for (&layer, loaded) in &entry.lock().slots {
                let candidate = (loaded.used(), index, layer);
                if Arc::strong_count(loaded) == 1 && best.is_none_or(|best| candidate < best) {
                    best = Some(candidate);
                }
            }
        }
        let Some((_, index, layer)) = best else { return false };
        let entry = &self.entries[index];
        let unused = entry.lock().slots.remove(&layer);
        if unused.is_some() {
            tracing::info!(model = entry.label(layer), "unloaded");
            self.unloads.fetch_add(1, Ordering::Relaxed);
        }
        unused.is_some()
    }

    /// Bytes of the weights of all models.
    pub fn memory_bytes(&self) -> u64 {
        let bytes = |entry: &Entry| {
            let live = entry.live.as_ref().map_or(0, |live| live.memory_bytes());
            live + entry.lock().slots.values().map(|loaded| loaded.memory_bytes()).sum::<u64>()
        };
        self.entries.iter().map(bytes).sum()
    }

    /// The memory for keys and values.
    pub fn kv_memory(&self) -> &KvMemory {
        &self.options.kv_memory
    }

    /// How often a layer was loaded and unloaded.
    pub fn loads(&self) -> [u64; 2] {
        [&self.loads, &self.unloads].map(|count| count.load(Ordering::Relaxed))
    }

    /// The models in memory, but for those whose files arrive.
    pub(crate) fn loaded(&self) -> Vec<Weak<Loaded>> {
        let weak = |entry: &Entry| entry.lock().slots.values().map(Arc::downgrade).collect::<Vec<_>>();
        self.entries.iter().flat_map(weak).collect()
    }

    /// Does work that takes memory of keys and values. If there is not enough, those that are kept for later prompts are given up, one
    /// after the other.
    ///
    /// # Errors
    /// Those of the work.
    pub(crate) fn with_room<T>(&self, mut work: impl FnMut() -> impasto_model::Result<T>) -> impasto_model::Result<T> {
        loop {
            match work() {
                Err(error) if is_memory(&error) && self.give_up_prefix() => {}
                result => return result,
            }
        }
    }

    fn give_up_prefix(&self) -> bool {
        let live = self.entries.iter().filter_map(|entry| entry.live.clone());
        let all = live.chain(self.loaded().into_iter().filter_map(|model| model.upgrade()));
        all.into_iter().any(|model| model.prefixes().give_up_one())
    }

    /// The KL divergence of a layer from the original, if its file says it.
    pub(crate) fn kld_of(&self, id: &str, layer: usize) -> Option<f32> {
        let entry = self.entries.iter().find(|entry| entry.id == id)?;
        entry.opening.layers.get(layer.checked_sub(1)?)?.1
    }

    /// Opens the weights of a layer of a model again, or of all layers.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn reopen(
        &self,
        id: &str,
        layer: Option<usize>,
    ) -> Result<Box<dyn impasto_model::WeightSource + Send>, CatalogError> {
        let (index, whole) = self.find(Some(id))?;
        let cut = layer.filter(|&layer| layer < whole).map(Cut::Layer);
        let weights = self.options.opener.weights(&self.entries[index].path, cut.as_ref());
        weights.map_err(|error| match error {
            LoadError::Memory(reason) | LoadError::Other(reason) => CatalogError::Load { model: id.to_owned(), reason },
        })
    }

    /// The options that models are loaded with.
    pub(crate) fn options(&self) -> &CatalogOptions {
        &self.options
    }

    /// Says what all models are.
    pub fn summaries(&self) -> Vec<Summary> {
        self.entries.iter().map(|entry| self.summary(entry)).collect()
    }

    fn summary(&self, entry: &Entry) -> Summary {
        let state = entry.lock();
        let live = entry.live.as_ref();
        let serving = live.map(|live| live.quality().layer);
        let layer = |layer: usize| LayerState {
            layer,
            id: entry.label(layer),
            bytes: entry.opening.layers[layer - 1].0,
            bits_per_weight: entry.bits(layer),
            kld: entry.opening.layers[layer - 1].1,
            state: if state.slots.contains_key(&layer) || serving == Some(layer) {
                ModelState::Loaded
            } else if state.loading == Some(layer) {
                ModelState::Loading
            } else if entry.is_there(layer) {
                ModelState::Unloaded
            } else {
                ModelState::Arriving
            },
        };
        let layers: Vec<LayerState> = (1..=entry.opening.layers.len()).map(layer).collect();
        let loaded = live.or_else(|| state.slots.values().next_back()).cloned();
        let error = live
            .and_then(|live| live.error())
            .map(|error| self.without_folders(&error))
            .or_else(|| state.error.clone());
        let of_model = match (&loaded, state.loading, &error) {
            (Some(_), ..) => ModelState::Loaded,
            (None, Some(_), _) => ModelState::Loading,
            (None, None, Some(_)) => ModelState::Failed,
            (None, None, None) => ModelState::Unloaded,
        };
        let file_bytes = entry.opening.bytes;
        Summary {
            id: entry.id.clone(),
            created: entry.created,
            state: of_model,
            error,
            file_bytes,
            arrived_bytes: live.and_then(|live| live.arrived()).unwrap_or(file_bytes),
            base: self.base_of(entry).map(|base| self.entries[base].id.clone()),
            chat: loaded.as_ref().map(|loaded| loaded.template().is_ok()).or(entry.opening.chat),
            context: loaded.as_ref().map(|loaded| loaded.model().network().max_context()).or(entry.opening.context),
            layers,
            loaded,
        }
    }
}

impl Entry {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The name of a layer.
    fn label(&self, layer: usize) -> String {
        format!("{}:{layer}", self.id)
    }

    fn bits(&self, layer: usize) -> f64 {
        layer.checked_sub(1).and_then(|index| self.opening.bits().get(index).copied()).unwrap_or(0.0)
    }

    /// Whether all of a layer is there.
    fn is_there(&self, layer: usize) -> bool {
        match &self.live {
            Some(live) => layer <= live.quality().layer,
            None => layer == self.opening.layers.len() || self.opening.layers[layer - 1].2,
        }
    }
}

/// A panic, which was reported.
fn unexpected(model: String) -> CatalogError {
    CatalogError::Load { model, reason: "loading failed in an unexpected way; see the log".to_owned() }
}

/// Returns when a file was changed last.
fn changed(path: &Path) -> u64 {
    let time = std::fs::metadata(path).and_then(|file| file.modified()).ok();
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}
