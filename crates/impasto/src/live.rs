//! Models that run while their file arrives, and become finer meanwhile.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use impasto_container::Source;
use impasto_model::ModelError;
use impasto_runtime::{Model, Refiner, RunOptions, Runtime, RuntimeError};

use crate::arriving::{Arriving, Stage};
use crate::error::FileError;
use crate::weights::FileWeights;

/// How often the source is asked what has arrived.
const POLL: Duration = Duration::from_millis(20);

/// Why a live model cannot run, or has stopped becoming finer.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    /// The file.
    #[error(transparent)]
    File(#[from] FileError),
    /// The model.
    #[error(transparent)]
    Run(#[from] RuntimeError),
    /// The network.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// A delta needs its base, which is another file.
    #[error("{file}: a delta of another file cannot run while it arrives; run it when it is there")]
    Delta {
        /// Name of the file.
        file: String,
    },
    /// Weights of residence `float` cannot be exchanged.
    #[error("a model becomes finer while it runs in the residences packed and coded only")]
    Residence,
}

/// A model whose linear layers are exchanged for finer ones, on a thread of its own, whenever another stage of its file is there.
/// Dropping it ends the thread.
pub struct Live {
    model: Model,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    state: Mutex<State>,
    is_over: AtomicBool,
}

struct State {
    stage: Stage,
    error: Option<LiveError>,
    /// The most bytes of weights that were in memory in two forms.
    most_bytes: usize,
}

impl Live {
    /// Loads the model as it is at a stage of its file, and begins to refine it.
    ///
    /// # Errors
    /// [`LiveError`]; see [`Model::load`].
    pub fn start<S>(arriving: Arriving<S>, stage: Stage, options: &RunOptions) -> Result<Live, LiveError>
    where
        S: Source + Clone + 'static,
    {
        let file = arriving.open(&stage)?;
        if file.base().is_some() {
            return Err(LiveError::Delta { file: file.reader().name().to_owned() });
        }
        let weights = FileWeights::new(file)?;
        if let Some(packs) = &options.packs {
            (packs.report)("packed weights are not kept of a file that is arriving");
        }
        let model = Model::load(&weights, &RunOptions { packs: None, ..options.clone() })?;
        let runtime = model.shared_runtime().ok_or(LiveError::Residence)?;
        let refiner = Refiner::new(&runtime, &weights);
        let state = Mutex::new(State { stage, error: None, most_bytes: 0 });
        let shared = Arc::new(Shared { state, is_over: AtomicBool::new(false) });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("refine".to_owned()).spawn(move || {
            if let Err(error) = of_thread.refine(&arriving, &runtime, refiner) {
                of_thread.lock().error = Some(error);
            }
        });
        let thread = thread.map_err(|error| ModelError::Threads(error.to_string()))?;
        Ok(Live { model, shared, thread: Some(thread) })
    }

    /// The model.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Returns the stage that all weights have at least.
    pub fn stage(&self) -> Stage {
        self.shared.lock().stage
    }

    /// Returns the most bytes of weights that have been in memory in an old and a new form at the same time.
    pub fn most_bytes(&self) -> usize {
        self.shared.lock().most_bytes
    }

    /// Returns why the model does not become finer any more, if it is because of an error.
    pub fn error(&self) -> Option<String> {
        self.shared.lock().error.as_ref().map(ToString::to_string)
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Refines until the file is whole, or the model is dropped.
    fn refine<S>(&self, arriving: &Arriving<S>, runtime: &Runtime, mut refiner: Refiner) -> Result<(), LiveError>
    where
        S: Source + Clone + 'static,
    {
        loop {
            let have = self.lock().stage;
            if have.is_last() || self.is_over.load(Ordering::Relaxed) {
                return Ok(());
            }
            let Some(stage) = arriving.stage()?.filter(|stage| stage.number > have.number) else {
                std::thread::park_timeout(POLL);
                continue;
            };
            let weights = FileWeights::new(arriving.open(&stage)?)?;
            let done = refiner.refine(runtime, &weights, &mut || match self.is_over.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            })?;
            let mut state = self.lock();
            state.most_bytes = state.most_bytes.max(done.most_bytes);
            if done.left == 0 {
                state.stage = stage;
            }
        }
    }
}
