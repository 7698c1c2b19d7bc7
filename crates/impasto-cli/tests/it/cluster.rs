//! The scripts of `contrib/cluster`, each with two shards at once. One whose scheduler is not there is skipped.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::{Ran, Workplace, tiny};

const OPTIONS: [&str; 3] = ["--bpw", "4", "--uncalibrated"];

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contrib/cluster").join(name).canonicalize().expect("a script")
}

/// Whether a command succeeds; if not, says that the test is skipped.
fn is_there(program: &str, args: &[&str]) -> bool {
    let works = Command::new(program).args(args).output().is_ok_and(|output| output.status.success());
    if !works {
        println!("skipped: `{program} {}` does not work here", args.join(" "));
    }
    works
}

/// Runs a script, and compares the file with that of one machine.
fn encode(mut command: Command) {
    let at = Workplace::new();
    at.run(&[&["encode", &tiny(), "-o", "one.impasto", "-q"], &OPTIONS[..]].concat()).ok();
    let output = at.path("many.impasto");
    command.arg(tiny()).arg(&output).arg("2").args(OPTIONS);
    command.env("IMPASTO", env!("CARGO_BIN_EXE_impasto")).current_dir(at.path(""));
    Ran::of(command.output().expect("starts")).ok();
    assert!(fs::read(output).expect("reads") == fs::read(at.path("one.impasto")).expect("reads"));
    assert!(at.path("many.impasto.shards/2-of-2.scales").exists(), "there were shards");
}

#[test]
fn gnu_parallel() {
    if is_there("parallel", &["--version"]) {
        let mut command = Command::new(script("parallel.sh"));
        command.env("PARALLEL", "--jobs 2");
        encode(command);
    }
}

#[test]
fn slurm() {
    if is_there("sbatch", &["--version"]) && is_there("sinfo", &["--noheader"]) {
        let mut command = Command::new(script("slurm-array.sh"));
        command.env("SBATCH_OPTIONS", "--output=/dev/null");
        encode(command);
    }
}

#[test]
fn ray() {
    let python = std::env::var("IMPASTO_RAY_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    if is_there(&python, &["-c", "import ray"]) {
        let mut command = Command::new(&python);
        command.arg(script("ray_encode.py"));
        encode(command);
    }
}
