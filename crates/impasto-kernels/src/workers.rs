//! Working memory of the workers for products.

use std::sync::{Mutex, MutexGuard, PoisonError, TryLockError};

use impasto_core::Isa;

use crate::packed::cell::Line;

/// Buffers for each worker of a pool. They grow when they are first used and are kept.
pub struct Workers {
    /// The instruction set that products use.
    isa: Isa,
    each: Vec<Mutex<Buffers>>,
    /// For callers that multiply at the same time, since each of them is worker 0 of its own product.
    spare: Mutex<Vec<Buffers>>,
    /// Copies of activations, for products that are not being computed.
    lines: Mutex<Vec<Vec<Line>>>,
}

/// Buffers of one worker.
#[derive(Default)]
pub(crate) struct Buffers {
    /// Weights of some rows, decoded to binary32.
    pub(crate) weights: Vec<f32>,
    /// Weights of some rows, converted to binary32. They begin at a cache line, as vectors are read fastest.
    pub(crate) widened: Vec<Line>,
    /// Outputs of some rows.
    pub(crate) outputs: Vec<f32>,
}

impl Workers {
    /// Creates buffers for a pool of `threads` threads.
    pub fn new(threads: usize, isa: Isa) -> Self {
        Workers {
            isa,
            each: (0..threads).map(|_| Mutex::default()).collect(),
            spare: Mutex::default(),
            lines: Mutex::default(),
        }
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
        let mut buffers = lock(&self.spare).pop().unwrap_or_default();
        let result = work(&mut buffers);
        lock(&self.spare).push(buffers);
        result
    }

    /// Calls `work` with `x`, or with a copy that begins at a cache line. A vector that crosses lines takes two reads.
    pub(crate) fn aligned<R>(&self, x: &[f32], work: impl FnOnce(&[f32]) -> R) -> R {
        if x.as_ptr().addr().is_multiple_of(align_of::<Line>()) {
            return work(x);
        }
        let mut lines = lock(&self.lines).pop().unwrap_or_default();
        let copy = floats(&mut lines, x.len());
        copy.copy_from_slice(x);
        let result = work(copy);
        lock(&self.lines).push(lines);
        result
    }
}

/// Returns `count` floats in lines, of which there will be enough.
pub(crate) fn floats(lines: &mut Vec<Line>, count: usize) -> &mut [f32] {
    let least = (count * size_of::<f32>()).div_ceil(size_of::<Line>());
    lines.resize(lines.len().max(least), Line::default());
    &mut bytemuck::cast_slice_mut(lines)[..count]
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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

    #[test]
    fn activations_are_aligned() {
        let workers = Workers::new(1, Isa::best());
        let x: Vec<f32> = (0..100).map(|i| i as f32).collect();
        for at in 0..20 {
            workers.aligned(&x[at..], |aligned| {
                assert_eq!(aligned, &x[at..]);
                assert!(aligned.as_ptr().addr().is_multiple_of(64));
            });
        }
        assert_eq!(workers.lines.lock().unwrap().len(), 1);
    }
}
