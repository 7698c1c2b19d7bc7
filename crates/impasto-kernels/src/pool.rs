//! A thread pool that runs the tasks of one product at a time.
//!
//! A token of a small model takes about two hundred products of a few microseconds each. Therefore workers spin for a
//! while before they sleep, nothing is allocated, and a caller never waits for a worker that has not started.

use std::cell::UnsafeCell;
use std::hint::spin_loop;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError, TryLockError};
use std::thread::JoinHandle;

use crate::KernelError;

/// Iterations of spinning before a worker sleeps: about 100 microseconds.
const SPINS: u32 = 1 << 12;

/// Bits of `state`: number of workers that have joined the job.
const JOINED: u64 = (1 << 16) - 1;
/// Bit of `state`: whether workers can still join the job.
const OPEN: u64 = 1 << 16;
/// The increment of the job number in `state`, which takes all bits from here up.
const JOB: u64 = 1 << 17;

/// The largest number of threads of a pool.
const MOST: usize = 1024;

/// A function of the worker and the task.
type Task<'a> = dyn Fn(usize, usize) + Sync + 'a;

/// State shared by the threads.
struct Shared {
    /// Number of the job, whether it is open, and the number of workers that have joined it.
    state: AtomicU64,
    /// Function and number of tasks of the job. Written only while no job is open and no worker has joined; read only
    /// by workers that have joined.
    job: UnsafeCell<(Option<*const Task<'static>>, usize)>,
    /// The next task that no thread has taken.
    next: AtomicUsize,
    /// Whether a task panicked on a worker.
    panicked: AtomicBool,
    /// Whether the pool is being dropped.
    over: AtomicBool,
    /// Number of workers that sleep or are about to.
    sleepers: AtomicU32,
    lock: Mutex<()>,
    wake: Condvar,
}

// SAFETY: `job` is the only field that is not Sync. The protocol described above separates its writer from its readers,
// and the pointee is Sync.
unsafe impl Sync for Shared {}
// SAFETY: as above. The pointer is only dereferenced while `Pool::run`, which borrows the pointee, waits.
unsafe impl Send for Shared {}

/// A pool of threads for products, including the thread of the caller.
pub struct Pool {
    shared: Arc<Shared>,
    /// Held by the caller whose job the workers run.
    caller: Mutex<()>,
    workers: Vec<JoinHandle<()>>,
    /// The process that started them.
    process: u32,
}

impl Pool {
    /// Creates a pool of `threads` threads, including the caller; 0 means one per processor.
    ///
    /// # Errors
    /// [`KernelError::Threads`] if threads cannot be started.
    pub fn new(threads: usize) -> Result<Self, KernelError> {
        let all = || std::thread::available_parallelism().map_or(1, usize::from);
        let threads = if threads == 0 { all() } else { threads }.min(MOST);
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: UnsafeCell::new((None, 0)),
            next: AtomicUsize::new(0),
            panicked: AtomicBool::new(false),
            over: AtomicBool::new(false),
            sleepers: AtomicU32::new(0),
            lock: Mutex::new(()),
            wake: Condvar::new(),
        });
        let mut pool = Pool { shared, caller: Mutex::new(()), workers: Vec::new(), process: std::process::id() };
        for worker in 1..threads {
            let shared = pool.shared.clone();
            let thread = std::thread::Builder::new().name(format!("impasto-{worker}"));
            let started = thread.spawn(move || shared.work(worker)).map_err(|e| KernelError::Threads(e.to_string()))?;
            pool.workers.push(started);
        }
        Ok(pool)
    }

    /// Returns the number of threads, including the caller.
    pub fn threads(&self) -> usize {
        self.workers.len() + 1
    }

    /// Calls `task(worker, i)` once for each `i` below `tasks`, and returns when all are done. Calls with the same
    /// worker (a number below [`Pool::threads`]; the caller is worker 0) never overlap within a job. Tasks are taken in
    /// order.
    ///
    /// Several threads may call at the same time. While the workers run one caller's job, other callers run theirs
    /// alone: each is worker 0 of its own job, so memory for workers must belong to the job, not to the pool. No caller
    /// waits for another's job. The workers join the next job that is submitted when they are free, so concurrent
    /// passes share them product by product.
    ///
    /// # Panics
    /// If a task panics.
    pub fn run(&self, tasks: usize, task: &Task<'_>) {
        let alone = || (0..tasks).for_each(|i| task(0, i));
        if tasks < 2 || self.workers.is_empty() {
            return alone();
        }
        let _caller = match self.caller.try_lock() {
            Ok(caller) => caller,
            // A task panicked, but its job ended properly.
            Err(TryLockError::Poisoned(caller)) => caller.into_inner(),
            Err(TryLockError::WouldBlock) => return alone(),
        };
        let shared = &*self.shared;
        // SAFETY: this changes only the lifetime. `Open` is dropped before the borrow of `task` ends, and after that no
        // worker uses the pointer.
        let pointer = unsafe { std::mem::transmute::<*const Task<'_>, *const Task<'static>>(task) };
        // SAFETY: the lock is held, and the previous job is closed and all workers have left it (`Open`), so no worker
        // reads the cell.
        unsafe { *shared.job.get() = (Some(pointer), tasks) };
        shared.next.store(0, Ordering::Relaxed);
        shared.panicked.store(false, Ordering::Relaxed);
        let open = Open::new(shared);
        shared.take(0, task, tasks);
        drop(open);
        if shared.panicked.load(Ordering::Relaxed) {
            panic!("a task of the pool panicked");
        }
    }
}

impl Pool {
    /// Like [`Pool::run`], for tasks that can fail. All tasks run; the error of the first failed task, by number, is
    /// returned.
    ///
    /// # Errors
    /// Errors of `task`.
    ///
    /// # Panics
    /// If a task panics.
    pub fn try_run<E: Send>(
        &self,
        tasks: usize,
        task: &(dyn Fn(usize, usize) -> Result<(), E> + Sync),
    ) -> Result<(), E> {
        let failed: Mutex<Option<(usize, E)>> = Mutex::new(None);
        self.run(tasks, &|worker, i| {
            if let Err(error) = task(worker, i) {
                let mut failed = failed.lock().unwrap_or_else(PoisonError::into_inner);
                if failed.as_ref().is_none_or(|(first, _)| i < *first) {
                    *failed = Some((i, error));
                }
            }
        });
        failed.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), |(_, error)| Err(error))
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        if self.process != std::process::id() {
            // A process that was forked does not have the threads of its parent.
            self.workers.drain(..).for_each(std::mem::forget);
            return;
        }
        self.shared.over.store(true, Ordering::SeqCst);
        self.shared.wake_all();
        for worker in self.workers.drain(..) {
            // Workers catch the panics of tasks and do not panic themselves.
            let _ = worker.join();
        }
    }
}

/// An open job. Dropping it closes the job and waits for the workers that have joined.
struct Open<'a>(&'a Shared);

impl<'a> Open<'a> {
    fn new(shared: &'a Shared) -> Self {
        let old = shared.state.load(Ordering::Relaxed);
        shared.state.store((old & !(JOINED | OPEN)).wrapping_add(JOB) | OPEN, Ordering::SeqCst);
        if shared.sleepers.load(Ordering::SeqCst) > 0 {
            shared.wake_all();
        }
        Open(shared)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.state.fetch_and(!OPEN, Ordering::AcqRel);
        let mut rounds = 0u32;
        while self.0.state.load(Ordering::Acquire) & JOINED != 0 {
            rounds += 1;
            // With more threads than processors, the worker may need the processor of this thread.
            if rounds.is_multiple_of(SPINS) { std::thread::yield_now() } else { spin_loop() }
        }
    }
}

impl Shared {
    /// Runs tasks until none is left.
    fn take(&self, worker: usize, task: &Task<'_>, tasks: usize) {
        loop {
            let i = self.next.fetch_add(1, Ordering::Relaxed);
            if i >= tasks {
                return;
            }
            task(worker, i);
        }
    }

    fn wake_all(&self) {
        drop(self.lock.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_all();
    }

    /// The main loop of a worker.
    fn work(&self, worker: usize) {
        let mut last = 0;
        while let Some(state) = self.await_job(last) {
            if self.state.compare_exchange_weak(state, state + 1, Ordering::AcqRel, Ordering::Relaxed).is_err() {
                continue;
            }
            last = state / JOB;
            // SAFETY: the worker joined while the job was open, so its caller waits until the worker leaves.
            let (task, tasks) = unsafe { *self.job.get() };
            // SAFETY: as above, the caller keeps the function alive until the worker leaves.
            if let Some(task) = task.map(|task| unsafe { &*task })
                && catch_unwind(AssertUnwindSafe(|| self.take(worker, task, tasks))).is_err()
            {
                self.panicked.store(true, Ordering::Relaxed);
            }
            self.state.fetch_sub(1, Ordering::Release);
        }
    }

    /// Waits until a job other than `last` is open and returns the state; `None` if the pool is being dropped.
    fn await_job(&self, last: u64) -> Option<u64> {
        let open = || {
            let state = self.state.load(Ordering::SeqCst);
            (state & OPEN != 0 && state / JOB != last).then_some(state)
        };
        loop {
            for _ in 0..SPINS {
                if let Some(state) = open() {
                    return Some(state);
                }
                spin_loop();
            }
            // `sleepers` is incremented before the state is read again, and a caller reads `sleepers` after it has set
            // the state, so at least one of them notices the other.
            self.sleepers.fetch_add(1, Ordering::SeqCst);
            let mut guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            while open().is_none() && !self.over.load(Ordering::SeqCst) {
                guard = self.wake.wait(guard).unwrap_or_else(PoisonError::into_inner);
            }
            drop(guard);
            self.sleepers.fetch_sub(1, Ordering::SeqCst);
            if self.over.load(Ordering::SeqCst) {
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Barrier;
    use std::time::Duration;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 3, 8] {
            let pool = Pool::new(threads).unwrap();
            assert_eq!(pool.threads(), threads);
            for round in 0..2000usize {
                let tasks = round % 23;
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                pool.run(tasks, &|worker, i| {
                    assert!(worker < threads);
                    counts[i].fetch_add(1, Ordering::Relaxed);
                });
                assert!(counts.iter().all(|count| count.load(Ordering::Relaxed) == 1));
                if round % 500 == 0 {
                    // Long enough for the workers to sleep.
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
        }
    }

    #[test]
    fn a_job_inside_a_job_and_from_two_threads() {
        let pool = Pool::new(3).unwrap();
        let count = AtomicUsize::new(0);
        let job = || pool.run(10, &|_, _| pool.run(10, &|_, _| _ = count.fetch_add(1, Ordering::Relaxed)));
        std::thread::scope(|scope| {
            scope.spawn(job);
            scope.spawn(job);
        });
        assert_eq!(count.load(Ordering::Relaxed), 200);
    }

    #[test]
    fn callers_share_the_workers_and_never_wait_for_each_other() {
        let pool = Pool::new(3).unwrap();
        // This job does not end before the jobs of another thread have ended.
        let (entered, over) = (Barrier::new(2), AtomicBool::new(false));
        std::thread::scope(|scope| {
            scope.spawn(|| {
                pool.run(2, &|_, i| {
                    if i == 0 {
                        entered.wait();
                        while !over.load(Ordering::Acquire) {
                            std::thread::yield_now();
                        }
                    }
                });
            });
            entered.wait();
            for _ in 0..100 {
                let sum = AtomicUsize::new(0);
                pool.run(10, &|worker, i| {
                    assert_eq!(worker, 0, "the workers are at another job");
                    sum.fetch_add(i, Ordering::Relaxed);
                });
                assert_eq!(sum.load(Ordering::Relaxed), 45);
            }
            over.store(true, Ordering::Release);
        });
        // Several callers, each with its own memory for the workers of its jobs.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let own: Vec<Mutex<usize>> = (0..pool.threads()).map(|_| Mutex::default()).collect();
                    for _ in 0..500 {
                        pool.run(7, &|worker, i| *own[worker].try_lock().expect("its tasks never overlap") += i);
                    }
                    assert_eq!(own.iter().map(|n| *n.lock().unwrap()).sum::<usize>(), 500 * 21);
                });
            }
        });
    }

    #[test]
    fn the_first_error_is_given() {
        let pool = Pool::new(3).unwrap();
        for _ in 0..50 {
            assert_eq!(pool.try_run(20, &|_, i| if i % 7 == 6 { Err(i) } else { Ok(()) }), Err(6));
            assert_eq!(pool.try_run(20, &|_, _| Ok::<_, ()>(())), Ok(()));
        }
    }

    #[test]
    fn a_panic_reaches_the_caller_and_the_pool_lives_on() {
        let pool = Pool::new(4).unwrap();
        for bad in 0..40 {
            let failed = catch_unwind(AssertUnwindSafe(|| pool.run(40, &|_, i| assert_ne!(i, bad))));
            assert!(failed.is_err());
            let count = AtomicUsize::new(0);
            pool.run(40, &|_, _| _ = count.fetch_add(1, Ordering::Relaxed));
            assert_eq!(count.load(Ordering::Relaxed), 40);
        }
        // The workers still take part: two tasks that wait for each other finish.
        let both = Barrier::new(2);
        pool.run(2, &|_, _| _ = both.wait());
    }
}
