//! Writing a file while the model already runs.

use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{Builder, JoinHandle};

use super::Packs;
use crate::load::LoadWarning;
use crate::weights::Weights;

/// A thread that writes a file. Dropping this waits for it, so that a short run leaves a whole file behind.
pub(crate) struct Writing(Mutex<Option<JoinHandle<()>>>);

impl Writing {
    /// Begins. Failures are reported.
    pub(crate) fn begin(packs: Packs, content: [u8; 32], weights: Arc<Weights>, warnings: Vec<LoadWarning>) -> Writing {
        let report = packs.report;
        let write = move || {
            if let Err(error) = packs.write(&content, &weights, &warnings) {
                (packs.report)(&format!("packed weights are not kept: {error}"));
            }
        };
        let thread = Builder::new().name("packs".into()).spawn(write);
        let thread = thread.inspect_err(|error| report(&format!("packed weights are not kept: no thread: {error}")));
        Writing(Mutex::new(thread.ok()))
    }

    /// Waits for the end.
    pub(crate) fn wait(&self) {
        let thread = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        // A panic of that thread was printed, and concerns nobody else.
        drop(thread.map(JoinHandle::join));
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        self.wait();
    }
}
