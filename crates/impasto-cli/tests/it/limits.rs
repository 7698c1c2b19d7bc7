//! Limits of the system: a system error with the system's reason, or fewer threads, and no file left behind.
#![cfg(target_os = "linux")]

use std::fs;
use std::io;
use std::os::unix::process::CommandExt;

use crate::support::{Ran, Workplace, impasto, tiny};

/// A user without the rights of the administrator, whom the limit on processes does not bind.
const NOBODY: u32 = 65534;

/// Runs the command with a limit of the system.
fn limited(at: &Workplace, resource: libc::__rlimit_resource_t, limit: u64, args: &[&str]) -> Ran {
    let mut command = impasto(args);
    command.current_dir(at.path("")).env("RUST_BACKTRACE", "0");
    // SAFETY: `geteuid` has no conditions.
    if resource == libc::RLIMIT_NPROC && unsafe { libc::geteuid() } == 0 {
        command.uid(NOBODY).gid(NOBODY);
    }
    let set = move || {
        let limits = libc::rlimit { rlim_cur: limit, rlim_max: limit };
        // SAFETY: `limits` is valid.
        match unsafe { libc::setrlimit(resource, &raw const limits) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // SAFETY: `setrlimit` is all that is called between fork and exec, and it is async-signal-safe.
    unsafe { command.pre_exec(set) };
    Ran::of(command.output().expect("starts"))
}

#[test]
fn a_file_above_the_limit_of_size() {
    let at = Workplace::new();
    let model = tiny();
    at.run(&["encode", &model, "-o", "whole"]).ok();
    for (args, code) in [
        (&["encode", &model, "-o", "a"][..], 1),
        (&["encode", &model, "-o", "a", "--layers", "2.5,4", "--uncalibrated"], 1),
        (&["encode", &model, "-o", "a", "--bpw", "4", "--calibration-tokens", "512"], 1),
        (&["decode", "whole", "-o", "b"], 1),
        (&["decode", "whole", "-o", "b", "--to", "gguf"], 1),
    ] {
        let ran = limited(&at, libc::RLIMIT_FSIZE, 100_000, args);
        ran.fails(code, "File too large");
        assert_eq!(at.left(), ["whole"], "{args:?}");
    }
}

/// The tiny model, a file of it and a folder to write to, which another user can reach.
fn for_anybody(at: &Workplace) {
    use std::os::unix::fs::PermissionsExt;
    at.run(&["encode", &tiny(), "-o", "whole"]).ok();
    fs::create_dir(at.path("model")).expect("a folder");
    for entry in fs::read_dir(tiny()).expect("the tiny model") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, at.path("model").join(path.file_name().expect("a name"))).expect("copies");
    }
    fs::write(at.path("text"), "It was a nice day. ".repeat(300)).expect("writes");
    fs::create_dir(at.path("out")).expect("a folder");
    for folder in ["", "out", "model"] {
        fs::set_permissions(at.path(folder), fs::Permissions::from_mode(0o777)).expect("sets");
    }
}

/// Where no thread can start, commands run on one thread or give the reason of the system.
#[test]
fn no_thread_can_start() {
    let at = Workplace::new();
    for_anybody(&at);
    for args in [
        &["inspect", "whole"][..],
        &["verify", "whole"],
        &["encode", "model", "-o", "out/a"],
        &["encode", "model", "-o", "out/b", "--bpw", "4", "--calibration-tokens", "512"],
        &["decode", "whole", "-o", "out/c"],
        &["run", "whole", "-p", "x", "-n", "2"],
        &["run", "model", "-p", "x", "-n", "2", "--residence", "float"],
        &["run", "whole", "-p", "x", "-n", "2", "--residence", "coded"],
        &["bench", "decode", "whole"],
        &["eval", "ppl", "whole", "--text", "text", "--ctx", "64", "--windows", "1"],
        &["calibrate", "model", "--text", "text", "-o", "out/s"],
    ] {
        let ran = limited(&at, libc::RLIMIT_NPROC, 0, args);
        if ran.code == Some(0) {
            continue;
        }
        ran.fails(1, "cannot start threads: Resource temporarily unavailable");
        assert_eq!(fs::read_dir(at.path("out")).expect("a folder").count(), 0, "{args:?}");
    }
}

/// Where memory runs out, commands succeed or end with a system error.
#[test]
fn memory_runs_out() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "whole"]).ok();
    let model = tiny();
    for mebibytes in [36, 44, 52, 64] {
        for args in [
            &["inspect", "whole"][..],
            &["verify", "whole"],
            &["encode", &model, "-o", "a"],
            &["encode", &model, "-o", "a", "--bpw", "4", "--uncalibrated"],
            &["run", &model, "-p", "x", "-n", "2"],
        ] {
            let ran = limited(&at, libc::RLIMIT_AS, mebibytes << 20, args);
            // Below what its code and libraries take, the system does not start it.
            let started = ran.code.is_some_and(|code| code != 127);
            assert!(!started || matches!(ran.code, Some(0 | 1)), "{mebibytes} {args:?}: {ran:?}");
            // An abort counts, too: its handler exits.
            assert!(!ran.err.contains("memory allocation of") || ran.code == Some(1), "{mebibytes} {args:?}: {ran:?}");
            assert!(!ran.err.contains("panicked"), "{mebibytes} {args:?}: {ran:?}");
            assert!(at.left().iter().all(|name| !name.starts_with('.')), "{args:?}: {:?}", at.left());
        }
    }
}
