//! The threads that decode tensors. A process that was forked has none of the threads of its parent, and starts its own.

use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use rayon::ThreadPool;

/// The pool, and the process that started it.
static POOL: Mutex<Option<(u32, Arc<ThreadPool>)>> = Mutex::new(None);

/// Does work whose parallel parts run in the pool.
pub fn install<T: Send>(work: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
    pool()?.install(work)
}

fn pool() -> anyhow::Result<Arc<ThreadPool>> {
    let mut pool = POOL.lock().unwrap_or_else(PoisonError::into_inner);
    let process = std::process::id();
    if let Some((_, threads)) = pool.as_ref().filter(|(of, _)| *of == process) {
        return Ok(threads.clone());
    }
    let threads = rayon::ThreadPoolBuilder::new().build().context("cannot start threads")?;
    let threads = Arc::new(threads);
    // To drop the pool of the parent would be to wait for threads that are not there.
    std::mem::forget(pool.replace((process, threads.clone())));
    Ok(threads)
}
