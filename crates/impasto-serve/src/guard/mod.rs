//! Guardrails: texts that were written are compared with what the finest layer would have said, when nothing else runs.
//!
//! ```text
//! texts that ended --a share--> samples --idle--> compare: KL divergence, agreement, error of each block --> metrics
//!                                                   |
//!            mean over a window above the threshold +--> promote the blocks that err most, by one layer
//!                                still above after that --> all weights become those of the finest layer
//!                                calm for long enough   --> back to what was asked for; longer after each relapse
//! ```

mod audit;
mod judge;
mod reference;
mod repair;
#[cfg(test)]
mod tests;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use audit::{Audit, Sample, Samples};
pub use judge::{Judge, Verdict};
use reference::References;

use crate::api::App;
use crate::models::Loaded;

/// How often the guard looks for samples.
const POLL: Duration = Duration::from_millis(100);

/// What the guardrails have done to a model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct GuardState {
    /// The profile that it runs in.
    pub profile: Profile,
    /// Blocks that were promoted.
    pub promoted: usize,
}

/// How a model runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// As it was loaded.
    #[default]
    AsRequested,
    /// Some blocks have finer weights.
    Promoted,
    /// All have the finest.
    Conservative,
}

impl Profile {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Profile::AsRequested => "as requested",
            Profile::Promoted => "promoted",
            Profile::Conservative => "conservative",
        }
    }
}

/// Watches the texts of a server until it is dropped.
pub struct Guard {
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Guard {
    /// Starts the thread.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(app: Arc<App>) -> std::io::Result<Guard> {
        let is_over = Arc::new(AtomicBool::new(false));
        let of_thread = is_over.clone();
        let watch = move || {
            let mut references = References::default();
            while !of_thread.load(Ordering::Relaxed) {
                std::thread::park_timeout(POLL);
                let is_busy = || of_thread.load(Ordering::Relaxed) || !app.engine.is_idle();
                for model in app.catalog.loaded() {
                    // Only while it is compared: one that nobody uses may be unloaded.
                    let Some(model) = model.upgrade() else { continue };
                    let result = catch_unwind(AssertUnwindSafe(|| check(&app, &model, &mut references, &is_busy)));
                    if result.is_err() {
                        references = References::default();
                        model.samples().finish();
                    }
                }
            }
        };
        let thread = std::thread::Builder::new().name("guard".to_owned()).spawn(watch)?;
        Ok(Guard { is_over, thread: Some(thread) })
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // A panic there was reported there.
            let _ = thread.join();
        }
    }
}

/// Deals with the next sample of a model, unless there is other work.
fn check(app: &App, model: &Arc<Loaded>, references: &mut References, is_busy: &dyn Fn() -> bool) {
    if is_busy() {
        return;
    }
    let sample = model.samples().take();
    if let Some(sample) = sample {
        deal_with(app, model, sample, references, is_busy);
        model.samples().finish();
    }
}

/// Compares a sample of a model, and does what follows from it.
fn deal_with(app: &App, model: &Arc<Loaded>, sample: Sample, references: &mut References, is_busy: &dyn Fn() -> bool) {
    let name = format!("{}:{}", model.id, model.quality().layer);
    let reference = match references.of(&app.catalog, model) {
        Ok(reference) => reference,
        Err(reason) => return tracing::warn!(model = name, reason, "cannot compare with a finer layer"),
    };
    let compare = || audit::compare(model, &reference, &sample, is_busy);
    let audit = match app.catalog.with_room(compare) {
        Ok(Some(audit)) => audit,
        // Other work has come: the sample waits.
        Ok(None) => return model.samples().put_back(sample),
        Err(error) => return tracing::warn!(model = name, %error, "cannot compare with a finer layer"),
    };
    app.metrics.compared(&name, audit.kld, audit.agreement, &audit.errors);
    let threshold = threshold(app, model);
    // The lock is not held while weights are read: others ask for the state.
    let (verdict, judge) = {
        let mut judge = model.judge();
        let verdict = judge.hear(&audit, threshold, app.options.guard.window, Instant::now());
        (verdict, judge.clone())
    };
    let (mean, catalog) = (judge.mean(), &app.catalog);
    let done = match &verdict {
        Verdict::Stay => return,
        Verdict::Promote(blocks) => {
            tracing::warn!(model = name, kld = mean, threshold, ?blocks, "promoting the blocks that err most");
            repair::promote(catalog, model, &judge, blocks)
        }
        Verdict::FallBack => {
            tracing::error!(model = name, kld = mean, threshold, "falling back to the conservative profile");
            repair::all(catalog, model, model.quality().layers)
        }
        Verdict::Restore => {
            tracing::info!(model = name, kld = mean, threshold, "calm for long enough: back to what was asked for");
            repair::all(catalog, model, model.quality().layer)
        }
    };
    let state = {
        let mut judge = model.judge();
        judge.notes(&verdict, done.is_ok());
        judge.state()
    };
    match done {
        Ok(()) => model.weights_changed(),
        Err(error) => tracing::error!(model = name, error, "cannot exchange weights"),
    }
    let profile = match state.profile {
        Profile::AsRequested => 0,
        Profile::Promoted => 1,
        Profile::Conservative => 2,
    };
    app.metrics.promoted(&name, state.promoted, profile);
}

/// The KL divergence above which a model is repaired: as the options say, or several times what its file says of the layer.
fn threshold(app: &App, model: &Loaded) -> f64 {
    /// How many times what the file says.
    const TIMES: f64 = 4.0;
    /// The least: below this, divergence is no fault.
    const LEAST: f64 = 0.1;
    /// If the file says nothing.
    const UNKNOWN: f64 = 1.0;
    let of_file = || app.catalog.kld_of(&model.id, model.quality().layer);
    app.options.guard.threshold.unwrap_or_else(|| of_file().map_or(UNKNOWN, |kld| (TIMES * f64::from(kld)).max(LEAST)))
}
