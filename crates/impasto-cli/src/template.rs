//! The process that runs chat templates: this command, started again with an argument of its own.

use std::ffi::OsStr;
use std::path::PathBuf;

use impasto_text::TemplateWorker;

/// The argument. It is no command for users.
const WORK: &str = "template-worker";

/// Whether this process is to run a template.
pub fn is_wanted() -> bool {
    std::env::args_os().nth(1).as_deref() == Some(OsStr::new(WORK))
}

/// The command that runs templates.
pub fn worker() -> TemplateWorker {
    TemplateWorker::new(this_program(), [WORK])
}

/// On Linux, a path that stays that of the running program when its file is replaced or removed.
fn this_program() -> PathBuf {
    match std::env::current_exe() {
        Ok(_) if cfg!(target_os = "linux") => PathBuf::from("/proc/self/exe"),
        Ok(path) => path,
        Err(_) => std::env::args_os().next().map_or_else(|| "impasto".into(), PathBuf::from),
    }
}
