//! Packed weights that are kept for the next start.

use std::fs;
use std::process::Stdio;

use crate::support::{Ran, Workplace, impasto, tiny};

const RUN: [&str; 8] = ["run", "a.impasto", "-p", "Once", "-n", "8", "--temperature", "0"];

fn with_model() -> Workplace {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    at
}

fn packs(at: &Workplace, folder: &str) -> Vec<String> {
    let entries = fs::read_dir(at.path(folder)).expect("a folder");
    entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect()
}

#[test]
fn a_folder_is_filled_ahead_or_by_the_first_run() {
    let at = with_model();
    let without = at.run(&RUN).ok().out;
    let baked = at.run(&["bake", "a.impasto", "-o", "baked", "--json"]).json();
    let path = at.path(baked["pack"].as_str().expect("a path"));
    assert_eq!(baked["bytes"].as_u64(), fs::metadata(&path).ok().map(|found| found.len()));
    assert!(baked["matrices"].as_u64() > Some(10), "{baked}");
    let cached = |folder: &str| {
        let bench = ["bench", "run", "a.impasto", "-p", "0", "-n", "1", "-r", "1", "--json", "--cache", folder];
        let rows = at.run(&bench).json();
        rows[0]["load"]["cached"].as_bool().expect("a flag")
    };
    assert!(cached("baked"));
    let run = |options: &[&str]| at.run(&[&RUN[..], options].concat()).ok();
    let ran = run(&["--cache", "cache"]);
    assert!(ran.out == without && !ran.err.contains("note"), "{ran:?}");
    assert_eq!(packs(&at, "cache"), packs(&at, "baked"));
    assert!(cached("cache") && run(&["--cache", "cache"]).out == without);
    // Damage is told, unless the command is to be quiet, and repaired.
    for quiet in [false, true] {
        let mut bytes = fs::read(&path).expect("read");
        bytes[5000] ^= 1;
        fs::write(&path, bytes).expect("written");
        let ran = run(if quiet { &["--cache", "baked", "-q"] } else { &["--cache", "baked"] });
        assert!(ran.out == without, "{ran:?}");
        assert!(if quiet { ran.err.is_empty() } else { ran.err.contains("are damaged") }, "{ran:?}");
        assert!(cached("baked"));
    }
    // A limit below its size, and a place where nothing can be written.
    let small = run(&["--cache", "small", "--cache-limit", "100KB"]);
    assert!(small.out == without && small.err.contains("not kept") && small.err.contains("100000"), "{small:?}");
    let nowhere = run(&["--cache", "a.impasto/cache"]);
    assert!(nowhere.out == without && nowhere.err.contains("a.impasto/cache"), "{nowhere:?}");
    let mut command = impasto(&RUN);
    let ran =
        Ran::of(command.current_dir(at.path("")).env("IMPASTO_CACHE", "of-variable").output().expect("starts")).ok();
    assert!(ran.out == without && packs(&at, "of-variable").len() == 1, "{ran:?}");
}

#[test]
fn processes_do_not_disturb_each_other() {
    let at = with_model();
    let expected = at.run(&RUN).ok().out;
    for _ in 0..2 {
        let start = || {
            let mut command = impasto(&[&RUN[..], &["--cache", "cache"]].concat());
            command.current_dir(at.path("")).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts")
        };
        let running: Vec<_> = (0..4).map(|_| start()).collect();
        for child in running {
            let ran = Ran::of(child.wait_with_output().expect("ends")).ok();
            assert!(ran.out == expected && !ran.err.contains("note"), "{ran:?}");
        }
        let names = packs(&at, "cache");
        assert!(matches!(&names[..], [name] if name.ends_with(".pack")), "{names:?}");
    }
}

#[test]
fn what_keeps_no_packed_weights_is_said() {
    let at = with_model();
    at.run(&[&RUN[..], &["--cache", "c", "--residence", "coded"]].concat()).fails(2, "--residence packed");
    at.run(&[&RUN[..], &["--cache-limit", "1GB"]].concat()).fails(2, "--cache-limit needs --cache");
    at.run(&["bake", &tiny(), "-o", "c"]).fails(3, "are no deltas");
    at.run(&["bake", "a.impasto", "-o", "a.impasto/c"]).fails(1, "a.impasto/c");
    let checkpoint = at.run(&["run", &tiny(), "-p", "Once", "-n", "1", "--cache", "c"]).ok();
    assert!(checkpoint.err.contains("are no deltas") && !at.path("c").exists(), "{checkpoint:?}");
}
