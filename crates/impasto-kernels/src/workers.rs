//! Working memory of the workers for products.

use std::sync::{Mutex, PoisonError, TryLockError};

use impasto_core::Isa;

/// Buffers for each worker of a pool. They grow when they are first used and are kept.
pub struct Workers {
    /// The instruction set that products use.
    isa: Isa,
    each: Vec<Mutex<Buffers>>,
    /// For callers that multiply at the same time, since each of them is worker 0 of its own product.
    spare: Mutex<Vec<Buffers>>,
}

/// Buffers of one worker.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Weights of some rows, converted or decoded to binary32.
    pub(crate) weights: Vec<f32>,
    /// Outputs of some rows.
    pub(crate) outputs: Vec<f32>,
}

impl Workers {
    /// Creates buffers for a pool of `threads` threads.
    pub fn new(threads: usize, isa: Isa) -> Self {
        Workers { isa, each: (0..threads).map(|_| Mutex::default()).collect(), spare: Mutex::default() }
    }

    /// Returns the instruction set that products use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `work` with the buffers of `worker`, or with spare ones if those are in use, without waiting for them.
    pub(crate) fn with<R>(&self, worker: usize, work: impl FnOnce(&mut Buffers) -> R) -> R {
        match self.each[worker].try_lock() {
            Ok(mut buffers) => return work(&mut buffers),
            Err(TryLockError::Poisoned(buffers)) => return work(&mut buffers.into_inner()),
            Err(TryLockError::WouldBlock) => (),
        }
        let spare = || self.spare.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffers = spare().pop().unwrap_or_default();
        let result = work(&mut buffers);
        spare().push(buffers);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits() {
        let workers = Workers::new(1, Isa::best());
        // The nested calls would deadlock if they waited for the buffers.
        let inner = workers.with(0, |outer| {
            outer.weights.push(1.0);
            workers.with(0, |inner| {
                inner.weights.push(2.0);
                workers.with(0, |third| third.weights.len())
            })
        });
        assert_eq!(inner, 0);
        assert_eq!(workers.with(0, |buffers| buffers.weights.clone()), [1.0]);
        assert_eq!(workers.spare.lock().unwrap().len(), 2);
    }
}
