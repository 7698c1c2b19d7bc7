//! Requests, their progress and their results; fetching in a thread of its own.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use impasto_container::{Base, GrowingSource, Header, Limits};

use crate::address::{Address, environment};
use crate::error::FetchError;
use crate::extent::Extent;
use crate::get::Getter;
use crate::job;
use crate::options::Options;
use crate::part::Part;
use crate::wait::Cancel;

/// What is fetched, and where to.
#[derive(Clone, Debug)]
pub struct Request {
    /// The address of the file.
    pub address: Address,
    /// The file to write. If the beginning of the same file is there, it is continued.
    pub file: PathBuf,
    /// How much of it.
    pub extent: Extent,
    /// The root that the file must have.
    pub root: Option<[u8; 32]>,
    /// Whether another file that is there is replaced.
    pub force: bool,
    /// Limits for opening the file. What it expands to does not matter for fetching it.
    pub limits: Limits,
    /// How to fetch.
    pub options: Options,
}

impl Request {
    /// Requests a whole file, with the default options.
    pub fn new(address: Address, file: impl Into<PathBuf>) -> Request {
        let limits = Limits { allow_expansion: true, ..Limits::default() };
        let (file, options) = (file.into(), Options::default());
        Request { address, file, extent: Extent::Whole, root: None, force: false, limits, options }
    }
}

impl Request {
    /// The same request without headers and token.
    pub(crate) fn without_secrets(self) -> Request {
        Request { options: Options { headers: vec![], token: None, ..self.options }, ..self }
    }
}

/// What a file will be.
#[derive(Clone, Debug)]
pub struct Goal {
    /// Units that will be there.
    pub units: u32,
    /// Bytes of the file then.
    pub bytes: u64,
    /// The header of the file.
    pub header: Header,
}

/// The result of fetching.
#[derive(Clone, Debug)]
pub struct Done {
    /// The address, without secrets.
    pub url: String,
    /// The root of the file.
    pub root: [u8; 32],
    /// Units that are there.
    pub units: u32,
    /// Units of the whole file.
    pub units_of: u32,
    /// Bytes that are there.
    pub bytes: u64,
    /// Bytes of the whole file.
    pub bytes_of: u64,
    /// Bytes that were there before, or that are header and manifest.
    pub bytes_before: u64,
    /// Layers of the file that are complete.
    pub layers: usize,
    /// Layers of the whole file.
    pub layers_of: usize,
    /// The file that this one is a delta of, if it is one.
    pub base: Option<Base>,
    /// Bytes received in answers.
    pub received: u64,
    /// Requests sent.
    pub requests: u64,
    /// Tries after failures.
    pub retries: u64,
    /// How long it took.
    pub time: Duration,
}

/// Is told what happens. Its methods are called from several threads, and should return soon.
pub trait Watch: Send + Sync {
    /// Header and manifest are there.
    fn begun(&self, _goal: &Goal) {}

    /// The first `units` units are there and verified: `bytes` bytes of the file.
    fn arrived(&self, _units: u32, _bytes: u64) {}

    /// A request failed, and is sent again after a wait.
    fn retrying(&self, _error: &FetchError, _wait: Duration) {}
}

/// Watches nothing.
impl Watch for () {}

/// How far a file has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// What it will be, once header and manifest are there.
    pub goal: Option<Goal>,
    /// Units that are there.
    pub units: u32,
    /// Bytes that are there.
    pub bytes: u64,
    /// Whether nothing more will come.
    pub is_over: bool,
}

/// What a job shares with those who wait for it.
pub struct Shared {
    watch: Arc<dyn Watch>,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    progress: Progress,
    growing: Option<Arc<GrowingSource>>,
    /// Whether the file has been given to a reader.
    is_read: bool,
}

impl Shared {
    fn new(watch: Arc<dyn Watch>) -> Shared {
        Shared { watch, state: Mutex::default(), changed: Condvar::new() }
    }

    /// Notes that header and manifest are there.
    pub fn begun(&self, part: &Part, goal: Goal) {
        let mut state = self.lock();
        state.progress =
            Progress { goal: Some(goal.clone()), units: part.units(), bytes: part.length(), is_over: false };
        state.growing = Some(part.growing().clone());
        drop(state);
        self.changed.notify_all();
        self.watch.begun(&goal);
        self.watch.arrived(part.units(), part.length());
    }

    /// Notes that a unit was appended.
    pub fn arrived(&self, part: &Part) {
        let mut state = self.lock();
        (state.progress.units, state.progress.bytes) = (part.units(), part.length());
        drop(state);
        self.changed.notify_all();
        self.watch.arrived(part.units(), part.length());
    }

    /// Returns whether somebody reads the file already.
    pub fn is_read(&self) -> bool {
        self.lock().is_read
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Marks a job as over, however it ends.
struct Over<'a>(&'a Shared);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.lock().progress.is_over = true;
        self.0.changed.notify_all();
    }
}

fn work(request: &Request, shared: &Shared, cancel: &Cancel) -> Result<Done, FetchError> {
    let _over = Over(shared);
    cancel.check()?;
    let remote = request.address.remote(&request.options, &environment)?;
    let getter = Getter::new(remote, request.options.clone(), cancel.clone(), shared.watch.clone());
    job::run(request, &getter, shared)
}

/// Fetches a file in this thread (and others, while it lasts).
///
/// # Errors
/// If the file cannot be fetched, or only a part of it: what has been verified stays, and a later call continues there.
pub fn fetch(request: &Request, watch: Arc<dyn Watch>, cancel: &Cancel) -> Result<Done, FetchError> {
    work(request, &Shared::new(watch), cancel)
}

/// A file that is being fetched in a thread of its own. Dropping it cancels the work.
pub struct Fetch {
    shared: Arc<Shared>,
    cancel: Cancel,
    thread: Option<JoinHandle<Result<Done, FetchError>>>,
}

impl Fetch {
    /// Begins to fetch.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub fn start(request: Request, watch: Arc<dyn Watch>) -> Result<Fetch, FetchError> {
        let (shared, cancel) = (Arc::new(Shared::new(watch)), Cancel::default());
        let (of_thread, cancelled) = (shared.clone(), cancel.clone());
        let thread = thread::Builder::new()
            .name("fetch".to_owned())
            .spawn(move || work(&request, &of_thread, &cancelled))
            .map_err(|error| FetchError::Threads { reason: error.to_string() })?;
        Ok(Fetch { shared, cancel, thread: Some(thread) })
    }

    /// Returns how far it has come.
    pub fn progress(&self) -> Progress {
        self.shared.lock().progress.clone()
    }

    /// Waits until `enough` holds, the work is over, or a time has passed. Returns how far it has come.
    pub fn wait(&self, time: Duration, enough: impl Fn(&Progress) -> bool) -> Progress {
        let waits = |state: &mut State| !state.progress.is_over && !enough(&state.progress);
        let waited = self.shared.changed.wait_timeout_while(self.shared.lock(), time, waits);
        waited.unwrap_or_else(PoisonError::into_inner).0.progress.clone()
    }

    /// Waits until header and manifest are there, and returns the file as a source that grows. `None` if the work is over before.
    pub fn source(&self) -> Option<Arc<GrowingSource>> {
        let waits = |state: &mut State| !state.progress.is_over && state.growing.is_none();
        let waited = self.shared.changed.wait_while(self.shared.lock(), waits);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        state.is_read = state.growing.is_some();
        state.growing.clone()
    }

    /// Returns what cancels the work.
    pub fn canceller(&self) -> Cancel {
        self.cancel.clone()
    }

    /// Waits for the end.
    ///
    /// # Errors
    /// As for [`fetch`].
    pub fn join(mut self) -> Result<Done, FetchError> {
        let panicked = || FetchError::Threads { reason: "the thread that fetches ended too early".to_owned() };
        self.thread.take().map_or_else(|| Err(panicked()), |thread| thread.join().unwrap_or_else(|_| Err(panicked())))
    }
}

impl Drop for Fetch {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            self.cancel.cancel();
            let _ = thread.join();
        }
    }
}
