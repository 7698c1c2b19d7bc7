//! All models of a server. Each layer of a file is loaded when a request names it, and given up when its memory is needed.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::UNIX_EPOCH;

use impasto::Cut;
use impasto_runtime::{KvMemory, RunOptions};
use serde::Serialize;

use super::loaded::{Loaded, Quality};
use super::name::{Wanted, split};
use super::open::{LoadError, Opener, Opening};

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
    #[error("{model}: its first layer has {least:.2} bits per weight")]
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
    loading: tokio::sync::Mutex<()>,
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
#[derive(Clone, Debug, Serialize)]
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
    /// Its layers, the coarsest first.
    pub layers: Vec<LayerState>,
    /// The finest layer in memory.
    #[serde(skip)]
    pub loaded: Option<Arc<Loaded>>,
}

/// Whether a model is in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
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
#[derive(Clone, Debug, Serialize)]
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
        Ok(Catalog { entries, options, loading: tokio::sync::Mutex::new(()), loads, unloads })
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
        let _loading = self.loading.lock().await;
        if let Some(loaded) = self.present(index, layer) {
            return Ok(loaded);
        }
        self.entries[index].lock().loading = Some(layer);
        let catalog = self.clone();
        let loaded = tokio::task::spawn_blocking(move || catalog.load(index, layer)).await;
        let loaded = loaded.unwrap_or_else(|_| {
            let model = self.entries[index].id.clone();
            Err(CatalogError::Load { model, reason: "loading failed in an unexpected way; see the log".to_owned() })
        });
        let mut state = self.entries[index].lock();
        state.loading = None;
        state.error = loaded.as_ref().err().map(ToString::to_string);
        loaded
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
            Wanted::Whole => layers,
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
        let live = entry.live.as_ref().filter(|live| layer == entry.opening.layers.len() || layer == live.quality().layer);
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
        let quality =
            Quality { layer, layers: entry.opening.layers.len(), bits_per_weight: entry.bits(layer) };
        let cut = (layer < quality.layers).then_some(Cut::Layer(layer));
        let base = self.base_of(entry).filter(|_| cut.is_none());
        let base = base.map(|base| self.whole(base)).transpose()?;
        let loaded = loop {
            let left = self.options.memory_limit.saturating_sub(self.memory_bytes());
            let (memory_limit, kv_memory) = (Some(left), Some(self.options.kv_memory.clone()));
            let options = RunOptions { memory_limit, kv_memory, ..self.options.run.clone() };
            let opener = &self.options.opener;
            let result = match &base {
                Some((path, base)) => opener.load_over(base.model(), path, &entry.path),
                None => opener.load(&entry.path, cut.as_ref(), &options),
            };
            match result {
                Ok(model) => break model,
                Err(LoadError::Memory(_)) if self.give_up_one() => {}
                Err(LoadError::Memory(reason)) => return Err(CatalogError::NoMemory { model, reason }),
                Err(LoadError::Other(reason)) => return Err(CatalogError::Load { model, reason }),
            }
        };
        let loaded = Arc::new(Loaded::whole(entry.id.clone(), quality, loaded, base.map(|(_, base)| base)));
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

    /// Opens the weights of a layer of a model again.
    ///
    /// # Errors
    /// If they cannot be read.
    pub(crate) fn reopen(
        &self,
        id: &str,
        layer: usize,
    ) -> Result<Box<dyn impasto_model::WeightSource + Send>, CatalogError> {
        let (index, whole) = self.find(Some(id))?;
        let cut = (layer < whole).then_some(Cut::Layer(layer));
        let weights = self.options.opener.weights(&self.entries[index].path, cut.as_ref());
        weights.map_err(|error| match error {
            LoadError::Memory(reason) | LoadError::Other(reason) => {
                CatalogError::Load { model: id.to_owned(), reason }
            }
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
        let error = live.and_then(|live| live.error()).or_else(|| state.error.clone());
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
        let bytes = layer.checked_sub(1).and_then(|index| self.opening.layers.get(index)).map_or(0, |layer| layer.0);
        if self.opening.weights == 0 { 0.0 } else { bytes as f64 * 8.0 / self.opening.weights as f64 }
    }

    /// Whether all of a layer is there.
    fn is_there(&self, layer: usize) -> bool {
        match &self.live {
            Some(live) => layer <= live.quality().layer,
            None => layer == self.opening.layers.len() || self.opening.layers[layer - 1].2,
        }
    }
}

/// Returns when a file was changed last.
fn changed(path: &Path) -> u64 {
    let time = std::fs::metadata(path).and_then(|file| file.modified()).ok();
    time.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |since| since.as_secs())
}
