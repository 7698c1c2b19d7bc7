//! Runs the texts of all requests together, on a thread of its own.
//!
//! ```text
//! submit --> queue (clients take turns) --> running sequences --step--> events
//!                                             |  one pass for all of a model: a token each of those that write,
//!                                             |  a chunk each of those whose prompt is being evaluated
//!                                             +--> kept keys and values, for prompts with the same beginning
//! ```
//!
//! A pass gives the same bits for a sequence, whatever runs beside it, so its tokens do not depend on that.

mod job;
mod prefixes;
mod queue;
mod scheduler;
mod scoring;
mod sequence;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use job::{EndReason, EngineError, Event, Job, Scored};
pub use prefixes::{Prefixes, Tag};
use queue::FairQueue;
use scheduler::Scheduler;
pub(crate) use sequence::is_memory;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the tokens of a text must match.
pub trait Constraint: Send {
    /// Returns the tokens that may come next, one bit each, 32 in a word, the lowest first.
    ///
    /// # Errors
    /// A message if no text can match any more.
    fn mask(&mut self) -> Result<&[u32], String>;

    /// Appends a token, which was allowed.
    ///
    /// # Errors
    /// A message if it cannot be.
    fn commit(&mut self, token: u32) -> Result<(), String>;

    /// Returns whether the text matches and nothing can follow.
    fn is_complete(&self) -> bool;
}

/// Limits of the engine.
#[derive(Clone, Copy, Debug)]
pub struct EngineOptions {
    /// The most texts that are written at the same time.
    pub parallel: usize,
    /// The most jobs that wait.
    pub queue: usize,
}

/// What the engine has done and is doing.
#[derive(Debug, Default)]
pub struct Stats {
    /// Texts that are being written.
    pub running: AtomicUsize,
    /// Texts that wait for memory for their keys and values.
    pub parked: AtomicUsize,
    /// Passes.
    pub passes: AtomicU64,
    /// Tokens that were evaluated, of prompts and of texts.
    pub evaluated: AtomicU64,
    /// Tokens that were written.
    pub written: AtomicU64,
    /// Tokens that drafts proposed.
    pub proposed: AtomicU64,
    /// Those of them that became part of texts.
    pub kept: AtomicU64,
    /// Jobs that were given up because nobody waits for them.
    pub cancelled: AtomicU64,
    /// Nanoseconds of passes.
    pub nanoseconds: AtomicU64,
}

/// Runs jobs until it is dropped.
pub struct Engine {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    options: EngineOptions,
    inbox: Mutex<Inbox>,
    wake: Condvar,
    stats: Stats,
    /// The turn of work that is not a job, and the places to wait for it.
    turn: Arc<Semaphore>,
    places: Semaphore,
}

#[derive(Default)]
struct Inbox {
    waiting: FairQueue<Job>,
    /// No new jobs are accepted.
    is_ending: bool,
    /// Those that are there are given up.
    is_over: bool,
}

/// How often the engine looks for jobs that wait and are given up.
const IDLE: Duration = Duration::from_millis(500);

impl Engine {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(options: EngineOptions) -> std::io::Result<Engine> {
        let (inbox, stats) = (Mutex::default(), Stats::default());
        let places = Semaphore::new(options.queue.saturating_add(1).min(Semaphore::MAX_PERMITS));
        let turn = Arc::new(Semaphore::new(1));
        let shared = Arc::new(Shared { options, inbox, wake: Condvar::new(), stats, turn, places });
        let of_thread = shared.clone();
        let thread = std::thread::Builder::new().name("engine".to_owned());
        let thread = thread.spawn(move || Scheduler::new(of_thread).run())?;
        Ok(Engine { shared, thread: Some(thread) })
    }

    /// Appends jobs to the queue: all, or none.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`], [`EngineError::TooMany`], [`EngineError::Ending`].
    pub fn submit(&self, jobs: Vec<Job>) -> Result<(), EngineError> {
        let mut inbox = self.shared.lock();
        if inbox.is_ending {
            return Err(EngineError::Ending);
        }
        // Jobs that need not wait are not limited by the queue.
        let free = self.shared.options.parallel.saturating_sub(self.stats().running.load(Ordering::Relaxed));
        let EngineOptions { parallel, queue } = self.shared.options;
        if jobs.len() > queue.saturating_add(parallel) {
            return Err(EngineError::TooMany(jobs.len()));
        }
        if inbox.waiting.len() + jobs.len() > queue.saturating_add(free) {
            return Err(EngineError::QueueFull(inbox.waiting.len()));
        }
        jobs.into_iter().for_each(|job| inbox.waiting.push(job.client, job));
        self.shared.wake.notify_all();
        Ok(())
    }

    /// Waits for the turn of work that is not a job, such as embeddings: one request at a time, beside the passes. The turn ends
    /// when what is returned is dropped.
    ///
    /// # Errors
    /// [`EngineError::QueueFull`], [`EngineError::Ending`].
    pub async fn turn(&self) -> Result<OwnedSemaphorePermit, EngineError> {
        if self.shared.lock().is_ending {
            return Err(EngineError::Ending);
        }
        let queue = self.shared.options.queue;
        let _place = self.shared.places.try_acquire().map_err(|_| EngineError::QueueFull(queue))?;
        self.shared.turn.clone().acquire_owned().await.map_err(|_| EngineError::Ending)
    }

    /// What it has done.
    pub fn stats(&self) -> &Stats {
        &self.shared.stats
    }

    /// Number of jobs that wait.
    pub fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// Returns whether nothing runs and nothing waits.
    pub fn is_idle(&self) -> bool {
        let is_free = self.shared.turn.available_permits() > 0;
        is_free && self.waiting() == 0 && self.stats().running.load(Ordering::Relaxed) == 0
    }

    /// Accepts no more jobs; those that are there are finished.
    pub fn end(&self) {
        self.shared.lock().is_ending = true;
        self.shared.wake.notify_all();
    }

    /// The limits.
    pub fn options(&self) -> EngineOptions {
        self.shared.options
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        {
            let mut inbox = self.shared.lock();
            (inbox.is_ending, inbox.is_over) = (true, true);
        }
        self.shared.wake.notify_all();
        if let Some(thread) = self.thread.take() {
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the jobs to start beside `running` texts; waits for one if there are none of either. `None` if all is over.
    fn next(&self, running: usize) -> Option<Vec<Job>> {
        let mut inbox = self.lock();
        loop {
            for job in inbox.waiting.remove(|job| !job.events.is_closed() && job.deadline > Instant::now()) {
                self.stats.cancelled.fetch_add(1, Ordering::Relaxed);
                let _ = job.events.send(Event::Failed(EngineError::Deadline));
            }
            if inbox.is_over || inbox.is_ending && running == 0 && inbox.waiting.is_empty() {
                for job in inbox.waiting.remove(|_| false) {
                    let _ = job.events.send(Event::Failed(EngineError::Ending));
                }
                return None;
            }
            let mut jobs = Vec::new();
            let mut texts = running;
            while texts < self.options.parallel
                && let Some(job) =
                    inbox.waiting.pop_if(|job| texts == 0 || texts + job.choices.len() <= self.options.parallel)
            {
                texts += job.choices.len().max(1);
                jobs.push(job);
            }
            if running > 0 || !jobs.is_empty() {
                // Others see that they run before they see that they do not wait.
                self.stats.running.store(texts, Ordering::Relaxed);
                return Some(jobs);
            }
            let (again, _) = self.wake.wait_timeout(inbox, IDLE).unwrap_or_else(PoisonError::into_inner);
            inbox = again;
        }
    }
}
