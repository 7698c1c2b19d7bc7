//! A command that is killed at any time leaves the previous output file, or the complete new one.
#![cfg(unix)]

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::layers::LAYERED;
use crate::support::{Workplace, impasto, tiny};

/// Number of times at which each command is killed, spread over slightly more than its duration.
const POINTS: u32 = 50;
/// Number of commands that run at the same time.
const LANES: u32 = 2;
const OLD: &[u8] = b"the old file";

/// Runs the command, whose last argument is the output file, and kills it after a fraction of its duration. Returns
/// whether it was done by then.
fn kill(at: &Workplace, args: &[&str], point: u32, takes: Duration, whole: &[u8]) -> bool {
    let name = format!("{}-{point}", args[0]);
    let old = point.is_multiple_of(2).then_some(OLD);
    if let Some(old) = old {
        fs::write(at.path(&name), old).expect("writes");
    }
    let mut command = impasto(args);
    command.arg("-q").arg("-o").arg(&name).current_dir(at.path("")).env("TMPDIR", at.path("tmp"));
    let begun = Instant::now();
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
    std::thread::sleep((takes * point * 11 / (POINTS * 10)).saturating_sub(begun.elapsed()));
    child.kill().expect("kills"); // SIGKILL
    child.wait().expect("ends");
    let left = fs::read(at.path(&name)).ok();
    let done = left.as_deref() == Some(whole);
    assert!(done || left.as_deref() == old, "{args:?} at point {point} left a partial file");
    done
}

/// Kills a command at all points.
fn kill_everywhere(at: &Workplace, args: &[&str]) {
    let begun = Instant::now();
    at.run(&[args, &["-o", "whole"]].concat()).ok();
    let takes = begun.elapsed();
    let whole = fs::read(at.path("whole")).expect("reads");
    let lane = |lane: u32| (lane..POINTS).step_by(LANES as usize).map(|point| kill(at, args, point, takes, &whole));
    let done: usize = std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|n| scope.spawn(move || lane(n).filter(|done| *done).count())).collect();
        lanes.into_iter().map(|lane| lane.join().expect("every point holds")).sum()
    });
    println!("{}: {done} of {POINTS} were done when killed; one takes {takes:?}", args[0]);
    // The first point is right after the start.
    assert!(done < POINTS as usize);
}

#[test]
fn a_killed_encoding_leaves_no_half_file() {
    let at = Workplace::new();
    fs::create_dir(at.path("tmp")).expect("a folder");
    kill_everywhere(&at, &["encode", &tiny(), "--bpw", "4", "--uncalibrated"]);
}

#[test]
fn a_killed_truncation_leaves_no_half_file() {
    let at = Workplace::new();
    fs::create_dir(at.path("tmp")).expect("a folder");
    fs::write(at.path("layered"), &*LAYERED).expect("writes");
    kill_everywhere(&at, &["truncate", "layered", "--layer", "2"]);
}
