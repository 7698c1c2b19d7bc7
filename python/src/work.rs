//! Long work. The interpreter is free meanwhile, Ctrl-C is noticed, and a callback in Python is told the steps.

use std::ops::ControlFlow;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::Context;
use impasto_cli::{Step, Watcher};
use pyo3::prelude::*;
use pyo3::types::PyBool;

use crate::errors::exception;

/// How often the interpreter is asked whether Ctrl-C was pressed.
const TICK: Duration = Duration::from_millis(50);

/// A step of a job.
#[pyclass(frozen, get_all, module = "impasto")]
pub struct Progress {
    stage: &'static str,
    done: u64,
    total: u64,
    message: String,
}

#[pymethods]
impl Progress {
    fn __repr__(&self) -> String {
        format!(
            "Progress(stage={:?}, done={}, total={}, message={:?})",
            self.stage, self.done, self.total, self.message
        )
    }
}

/// Sends each step to the thread of the interpreter, and waits for its answer.
struct Asking(Sender<(Step, Sender<ControlFlow<()>>)>);

impl Watcher for Asking {
    fn step(&self, step: Step) -> ControlFlow<()> {
        let (reply, answer) = mpsc::channel();
        // Without anybody who listens, the job is of no use.
        match self.0.send((step, reply)).ok().and_then(|()| answer.recv().ok()) {
            Some(answer) => answer,
            None => ControlFlow::Break(()),
        }
    }
}

/// Waits for a message without the interpreter.
fn wait<T: Send>(py: Python<'_>, receiver: &Mutex<Receiver<T>>) -> Result<T, RecvTimeoutError> {
    py.detach(|| receiver.lock().unwrap_or_else(PoisonError::into_inner).recv_timeout(TICK))
}

/// Does a job in a thread of its own. `progress` is called with each step, in this thread; the job is cancelled when it returns
/// `False` or raises, and on Ctrl-C.
pub fn watched<T: Send>(
    py: Python<'_>,
    progress: Option<&Bound<'_, PyAny>>,
    job: impl FnOnce(&dyn Watcher) -> anyhow::Result<T> + Send,
) -> PyResult<T> {
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        let receiver = Mutex::new(receiver);
        let spawned = thread::Builder::new().name("job".to_owned()).spawn_scoped(scope, move || job(&Asking(sender)));
        let thread = spawned.context("cannot start threads").map_err(exception)?;
        let mut raised = None;
        let mut goes_on = true;
        loop {
            match wait(py, &receiver) {
                Ok((step, reply)) => {
                    if let Some(callback) = progress.filter(|_| goes_on && raised.is_none()) {
                        match tell(callback, step) {
                            Ok(answer) => goes_on = answer,
                            Err(error) => raised = Some(error),
                        }
                    }
                    let is_wanted = goes_on && raised.is_none();
                    // A job that does not wait for the answer needs none.
                    let _ = reply.send(if is_wanted { ControlFlow::Continue(()) } else { ControlFlow::Break(()) });
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if raised.is_none() {
                raised = py.check_signals().err();
            }
        }
        let done = py.detach(|| thread.join());
        let done = done.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        raised.map_or_else(|| done.map_err(exception), Err)
    })
}

/// Calls a callback. Returns whether the job goes on.
fn tell(callback: &Bound<'_, PyAny>, step: Step) -> PyResult<bool> {
    let Step { stage, done, of: total, message } = step;
    let answer = callback.call1((Progress { stage, done, total, message },))?;
    Ok(!answer.is(PyBool::new(callback.py(), false)))
}

/// Does work that only reads, in a thread of its own. On Ctrl-C nobody waits for it.
pub fn abandonable<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> PyResult<T> {
    let (sender, receiver) = mpsc::channel();
    let receiver = Mutex::new(receiver);
    let work = move || {
        let _ = sender.send(work());
    };
    thread::Builder::new().name("work".to_owned()).spawn(work).context("cannot start threads").map_err(exception)?;
    next(py, &receiver)?.unwrap_or_else(|| Err(anyhow::anyhow!("the work ended without a result"))).map_err(exception)
}

/// Waits for the next message; `None` if there will be none. On Ctrl-C that is an exception.
pub fn next<T: Send>(py: Python<'_>, receiver: &Mutex<Receiver<T>>) -> PyResult<Option<T>> {
    loop {
        match wait(py, receiver) {
            Ok(message) => return Ok(Some(message)),
            Err(RecvTimeoutError::Timeout) => py.check_signals()?,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
        }
    }
}
