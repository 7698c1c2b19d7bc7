//! The process that runs chat templates: this command, started again with an argument of its own.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::sync::OnceLock;

use impasto_text::TemplateWorker;

/// The argument. It is no command for users.
const WORK: &str = "template-worker";

/// The worker of this process, if it is another program than this one.
static WORKER: OnceLock<TemplateWorker> = OnceLock::new();

/// Whether this process is to run a template.
pub fn is_wanted(arguments: &[OsString]) -> bool {
    arguments.get(1).map(OsString::as_os_str) == Some(OsStr::new(WORK))
}

/// Sets the program that runs templates. The first one that is set stays.
pub fn set_worker(worker: TemplateWorker) {
    let _ = WORKER.set(worker);
}

/// The program that runs templates: the one that was set, or this one.
pub fn worker() -> TemplateWorker {
    WORKER.get().cloned().unwrap_or_else(|| TemplateWorker::new(this_program(), [WORK]))
}

/// On Linux, a path that stays that of the running program when its file is replaced or removed.
fn this_program() -> PathBuf {
    match std::env::current_exe() {
        Ok(_) if cfg!(target_os = "linux") => PathBuf::from("/proc/self/exe"),
        Ok(path) => path,
        Err(_) => std::env::args_os().next().map_or_else(|| "impasto".into(), PathBuf::from),
    }
}
