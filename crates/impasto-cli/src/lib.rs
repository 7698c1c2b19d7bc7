//! The command `impasto` as a library: its main function, and its jobs for programs that are no command line.
//!
//! Only the Python package uses it. Programs in Rust use the crate `impasto`.

mod args;
mod card;
mod commands;
mod cut;
#[cfg(test)]
mod docs;
mod drafts;
mod exit;
mod incoming;
pub mod library;
mod licenses;
#[cfg(feature = "fetch")]
mod link;
mod live;
mod memory;
mod model;
mod output;
mod progress;
mod running;
mod signals;
mod stages;
mod template;

use std::ffi::OsString;

use anyhow::Context;
use args::{Args, Command};
use clap::Parser;
use impasto_core::Isa;
use impasto_text::TemplateWorker;

pub use exit::{Code, code_of};
pub use output::message;
pub use progress::{Step, Watcher};
pub use template::{set_worker, worker};

/// Runs the command with these arguments, the first of which is its name. Returns the exit code of the process.
///
/// `worker` is the program that chat templates run in: one that calls this function with the argument `template-worker`.
/// Signals are handled for the whole process, so no other thread may have started.
pub fn main(arguments: Vec<OsString>, worker: TemplateWorker) -> u8 {
    if template::is_wanted(&arguments) {
        return TemplateWorker::serve();
    }
    template::set_worker(worker);
    signals::watch();
    let args = match Args::try_parse_from(arguments) {
        Ok(args) => args,
        Err(error) => {
            // As clap does: nobody may be there to read it.
            let _ = error.print();
            return error.exit_code().try_into().unwrap_or(Code::Usage as u8);
        }
    };
    let code = match run(&args) {
        Ok(code) => code,
        Err(error) if output::is_broken_pipe(&error) => Code::Success,
        Err(error) => {
            eprintln!("impasto: {}", output::message(&error));
            exit::code_of(&error)
        }
    };
    code as u8
}

fn run(args: &Args) -> anyhow::Result<exit::Code> {
    Isa::from_environment().context(Isa::VARIABLE)?; // Later readers ignore an invalid value.
    match &args.command {
        Command::Encode(command) => commands::encode::run(args, command),
        Command::Merge(command) => commands::shards::merge(args, command),
        Command::Calibrate(command) => commands::calibrate::run(args, command),
        Command::Quantize(command) => commands::quantize::run(args, command),
        Command::Decode(command) => commands::decode::run(args, command),
        #[cfg(feature = "fetch")]
        Command::Fetch(command) => commands::fetch::run(args, command),
        Command::Truncate(command) => commands::truncate::run(args, command),
        Command::Flatten(command) => commands::rebase::flatten(args, command),
        Command::Rebase(command) => commands::rebase::rebase(args, command),
        Command::Inspect(command) => commands::inspect::run(args, command),
        Command::Verify(command) => commands::verify::run(args, command),
        Command::Run(command) => commands::run::run(args, command),
        Command::Chat(command) => commands::chat::run(args, command),
        #[cfg(feature = "serve")]
        Command::Serve(command) => commands::serve::run(args, command),
        Command::Eval { what } => commands::eval::run(args, what),
        Command::Analyze { what } => commands::analyze::run(args, what),
        Command::Bench { what } => commands::bench::run(args, what),
        Command::Bake(command) => commands::bake::run(args, command),
        Command::Demo => commands::demo::run(args),
        Command::Completions { shell } => commands::completions(*shell),
    }
}
