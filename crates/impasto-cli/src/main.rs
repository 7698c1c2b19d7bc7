//! The command `impasto`.

use std::process::ExitCode;

fn main() -> ExitCode {
    impasto_cli::main(std::env::args_os().collect(), impasto_cli::worker()).into()
}
