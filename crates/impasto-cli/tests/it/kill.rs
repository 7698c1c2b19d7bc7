//! A command that is killed at any time leaves the previous output file, or the complete new one. A signal that it can
//! catch leaves no temporary files either.
#![cfg(unix)]

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
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
    // The next run in the same folder takes away what the killed ones could not.
    at.run(&[args, &["-o", "whole"]].concat()).ok();
    assert_eq!(hidden(&at.path("")), [] as [&str; 0]);
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

#[test]
fn a_killed_delta_leaves_no_half_file() {
    let at = Workplace::new();
    fs::create_dir(at.path("tmp")).expect("a folder");
    at.run(&["encode", &tiny(), "-o", "base.impasto", "--bpw", "4", "--uncalibrated"]).ok();
    kill_everywhere(&at, &["encode", &tiny(), "--base", "base.impasto"]);
}

/// The hidden files and folders in a folder, at any depth.
fn hidden(folder: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(folder) else { return vec![] };
    let inside = |entry: fs::DirEntry| {
        let name = entry.file_name().to_string_lossy().into_owned();
        let own = name.starts_with('.').then_some(name);
        own.into_iter().chain(hidden(&entry.path())).collect::<Vec<_>>()
    };
    entries.flatten().flat_map(inside).collect()
}

/// Starts a command in the folder.
fn start(at: &Workplace, mut command: Command) -> Child {
    command.current_dir(at.path("")).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts")
}

/// Restores the default actions of signals. The caller of the tests may ignore some, as shells do for background jobs.
fn with_default_signals(mut command: Command) -> Command {
    let restore = || {
        for signal in [libc::SIGINT, libc::SIGTERM, libc::SIGHUP] {
            // SAFETY: the default is a valid action of these signals.
            unsafe { libc::signal(signal, libc::SIG_DFL) };
        }
        Ok(())
    };
    // SAFETY: `signal` is all that is called between fork and exec, and it is async-signal-safe.
    unsafe { command.pre_exec(restore) };
    command
}

/// Waits until the command has a temporary file or folder, and sends it a signal. Returns whether it had one.
fn signal(at: &Workplace, child: &mut Child, name: &str) -> bool {
    while hidden(&at.path("")).is_empty() {
        if child.try_wait().expect("a process").is_some() {
            return false;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", name, &id]).status().expect("starts").success());
    true
}

#[test]
fn a_signal_leaves_no_temporary_files() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "whole"]).ok();
    let model = tiny();
    for (args, must_be_caught) in [
        (&["encode", &model, "-o", "new/deep/a", "--bpw", "4"][..], true),
        (&["encode", &model, "-o", "new/deep/a", "--bpw", "4", "--uncalibrated"], true),
        (&["decode", "whole", "-o", "new/deep/folder"], false),
    ] {
        for (name, number) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
            let mut child = start(&at, with_default_signals(impasto(args)));
            let caught = signal(&at, &mut child, name);
            let status = child.wait().expect("ends");
            assert_eq!(hidden(&at.path("")), [] as [&str; 0], "{args:?} {name}");
            if status.success() {
                // It was done before the signal came.
                assert!(!must_be_caught, "{args:?} {name}");
                fs::remove_dir_all(at.path("new")).expect("removes");
                continue;
            }
            assert!(caught && status.signal() == Some(number), "{args:?} {name}: {status:?}");
            // Decoding may have been about to move its files.
            assert!(!must_be_caught || at.left() == ["whole"], "{args:?} {name}: {:?}", at.left());
            let _ = fs::remove_dir_all(at.path("new"));
        }
    }
}

/// A run takes nothing away from another that lives.
#[test]
fn a_running_command_keeps_its_temporary_files() {
    let at = Workplace::new();
    let model = tiny();
    let mut child = start(&at, impasto(&["encode", &model, "-o", "slow", "--bpw", "4", "--uncalibrated"]));
    while hidden(&at.path("")).is_empty() {
        assert!(child.try_wait().expect("a process").is_none(), "it has temporary files before it ends");
        std::thread::sleep(Duration::from_millis(1));
    }
    at.run(&["encode", &model, "-o", "fast"]).ok();
    assert!(child.wait().expect("ends").success());
    at.run(&["verify", "slow"]).ok();
    assert_eq!(at.left(), ["fast", "slow"]);
}

/// What the caller ignores stays ignored, as nohup expects.
#[test]
fn an_ignored_signal_does_not_end_the_command() {
    let at = Workplace::new();
    let mut command = Command::new("sh");
    let shell = r#"trap "" HUP; exec "$0" encode "$1" -o a --bpw 4 --uncalibrated"#;
    command.args(["-c", shell, env!("CARGO_BIN_EXE_impasto"), &tiny()]);
    let mut child = start(&at, command);
    assert!(signal(&at, &mut child, "HUP"));
    assert!(child.wait().expect("ends").success());
    at.run(&["verify", "a"]).ok();
}
