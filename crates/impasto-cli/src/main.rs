//! The command `impasto`.

mod args;
mod card;
mod commands;
mod cut;
#[cfg(test)]
mod docs;
mod drafts;
mod exit;
mod incoming;
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

use anyhow::Context;
use args::{Args, Command};
use clap::Parser;
use impasto_core::Isa;
use impasto_text::TemplateWorker;

fn main() -> std::process::ExitCode {
    if template::is_wanted() {
        return TemplateWorker::serve();
    }
    signals::watch();
    let args = Args::parse();
    match run(&args) {
        Ok(code) => code.into(),
        Err(error) if output::is_broken_pipe(&error) => exit::Code::Success.into(),
        Err(error) => {
            eprintln!("impasto: {}", output::message(&error));
            exit::code_of(&error).into()
        }
    }
}

fn run(args: &Args) -> anyhow::Result<exit::Code> {
    Isa::from_environment().context(Isa::VARIABLE)?; // Later readers ignore an invalid value.
    match &args.command {
        Command::Encode(command) => commands::encode::run(args, command),
        Command::Merge(command) => commands::shards::merge(args, command),
        Command::Calibrate(command) => commands::calibrate::run(args, command),
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
