//! `impasto bench`.

mod decode;
mod run;
mod upgrade;

use crate::args::{Args, Bench};
use crate::exit::Code;

pub fn run(args: &Args, what: &Bench) -> anyhow::Result<Code> {
    match what {
        Bench::Decode { file, repeat } => decode::run(args, file, *repeat),
        Bench::Run(command) => run::run(args, command),
        Bench::Upgrade(command) => upgrade::run(args, command),
    }
}
