//! Memory of each worker for products.

use std::sync::{Mutex, PoisonError};

use impasto_core::Isa;

/// A buffer set for each worker of a pool. They grow when they are first used and are then there.
pub struct Workers {
    /// The instructions that products use.
    isa: Isa,
    each: Vec<Mutex<Buffers>>,
}

/// What a worker needs while it multiplies.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Weights of some rows, widened or decoded.
    pub(crate) weights: Vec<f32>,
    /// Outputs of some rows.
    pub(crate) outputs: Vec<f32>,
}

impl Workers {
    /// Buffers for a pool of `threads`.
    pub fn new(threads: usize, isa: Isa) -> Self {
        Workers { isa, each: (0..threads).map(|_| Mutex::default()).collect() }
    }

    /// The instructions that products use.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// Calls `work` with the buffers of `worker`. Nobody waits: a worker does one thing at a time.
    pub(crate) fn with<R>(&self, worker: usize, work: impl FnOnce(&mut Buffers) -> R) -> R {
        work(&mut self.each[worker].lock().unwrap_or_else(PoisonError::into_inner))
    }
}
