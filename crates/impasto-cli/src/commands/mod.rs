//! The commands.

pub mod analyze;
pub mod bake;
pub mod bench;
pub mod calibrate;
pub mod chat;
pub mod decode;
pub mod demo;
pub mod encode;
pub mod eval;
#[cfg(feature = "fetch")]
pub mod fetch;
pub mod inspect;
mod judge;
mod measure;
pub mod quantize;
pub mod rebase;
mod recover;
mod resident;
pub mod run;
#[cfg(feature = "serve")]
pub mod serve;
pub mod shards;
pub mod truncate;
pub mod verify;

use anyhow::Context;
use clap::CommandFactory;

use crate::args::Args;
use crate::exit::Code;

/// `impasto completions`.
pub fn completions(shell: clap_complete::Shell) -> anyhow::Result<Code> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Args::command(), "impasto", &mut script);
    crate::output::print(&String::from_utf8_lossy(&script))?;
    Ok(Code::Success)
}

/// Runs `work` on a pool with the requested number of threads.
fn with_threads<T: Send>(args: &Args, work: impl FnOnce() -> T + Send) -> anyhow::Result<T> {
    let pool = rayon::ThreadPoolBuilder::new().num_threads(args.threads).build().context("cannot start threads")?;
    Ok(pool.install(work))
}
