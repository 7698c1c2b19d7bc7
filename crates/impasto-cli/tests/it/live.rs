//! Models that run while their file arrives, as a user runs them.

use std::io::Write;
use std::time::Duration;

use crate::support::{Workplace, tiny};

/// Encodes the tiny model in layers.
fn layered(at: &Workplace) -> Vec<u8> {
    at.run(&["encode", &tiny(), "-o", "whole.impasto", "--layers", "2.5,4,lossless", "--uncalibrated"]).ok();
    std::fs::read(at.path("whole.impasto")).expect("a file")
}

const RUN: [&str; 6] = ["-p", "Once upon a time", "--raw", "-n", "24", "--stream"];

#[test]
fn a_file_runs_while_it_arrives() {
    let at = Workplace::new();
    let bytes = layered(&at);
    let inspected = at.run(&["inspect", "whole.impasto", "--json"]).json();
    let first = inspected["layers"][0]["bytes"].as_u64().expect("bytes") as usize;
    let mut arriving = std::fs::File::create(at.path("arriving.impasto")).expect("a file");
    arriving.write_all(&bytes[..first / 2]).expect("written");
    let rest = bytes[first / 2..].to_vec();
    // It comes in pieces; the command starts before the first layer is there.
    let writer = std::thread::spawn(move || {
        for piece in rest.chunks(50_000) {
            std::thread::sleep(Duration::from_millis(10));
            arriving.write_all(piece).expect("written");
        }
    });
    let ran = at.run(&[&["run", "arriving.impasto"][..], &RUN, &["--json"]].concat()).json();
    writer.join().expect("written");
    let parts = ran["stream"]["parts"].as_array().expect("parts");
    let number = |part: &serde_json::Value, key: &str| part[key].as_u64().expect("a number");
    assert!(parts.iter().all(|part| number(part, "stages") == 3 && number(part, "arrived") >= number(part, "bytes")));
    let stages: Vec<u64> = parts.iter().map(|part| number(part, "stage")).collect();
    assert!(stages.is_sorted_by(|a, b| a < b) && (1..=3).contains(&stages[0]), "{ran}");
    let tokens: u64 = parts.iter().map(|part| number(part, "tokens")).sum();
    let generated = ran["generation"]["tokens"].as_array().expect("tokens").len() as u64;
    assert!(tokens == generated || tokens == generated + 1, "the last may end the text: {ran}");
    assert_eq!(
        (&ran["stream"]["kv_upgrade"], &ran["stream"]["error"]),
        (&"recompute".into(), &serde_json::Value::Null)
    );
}

#[test]
fn a_file_that_is_there_runs_as_always() {
    let at = Workplace::new();
    layered(&at);
    let plain = at.run(&["run", "whole.impasto", "-p", "Once upon a time", "--raw", "-n", "24", "-q"]).ok().out;
    for how in ["keep", "recompute", "layers=2", "residual"] {
        let ran = at.run(&[&["run", "whole.impasto"][..], &RUN, &["--kv-upgrade", how]].concat()).ok();
        assert_eq!(ran.out, plain, "{how}");
        assert!(ran.err.contains("from stage 3 of 3"), "{}", ran.err);
    }
    let run = |more: &[&str]| at.run(&[&["run", "whole.impasto", "-p", "Once"][..], more].concat());
    assert_eq!(run(&["--stream", "--layer", "1"]).code, Some(2));
    assert_eq!(run(&["--kv-upgrade", "keep"]).code, Some(2));
    assert_eq!(run(&["--stream", "--kv-upgrade", "layers"]).code, Some(2));
    run(&["--stream", "--residence", "float"]).fails(2, "packed and coded only");
    at.write("not.impasto", &"words ".repeat(50));
    at.run(&["run", "not.impasto", "-p", "Once", "--stream"]).fails(3, "not.impasto");
}

#[test]
fn upgrades_are_measured() {
    let at = Workplace::new();
    layered(&at);
    at.write("text", &"Once upon a time there was a small house by the sea. ".repeat(20));
    let bench =
        ["bench", "upgrade", "whole.impasto", "--text", "text", "--past", "40", "--next", "10", "--windows", "2"];
    let rows = at.run(&[&bench[..], &["--kv-upgrade", "keep,layers=3,recompute", "--json"]].concat()).json();
    let kld = |row: usize| rows[row]["kld"]["value"].as_f64().expect("a number");
    assert!(kld(0) > kld(1) && kld(1) > kld(2) && kld(2) < 1e-6, "{rows}");
    let table = at.run(&bench).ok().out;
    assert!(table.contains("residual") && table.lines().count() == 8, "{table}");
    at.run(&[&bench[..7], &["--next", "100000"]].concat()).fails(3, "text");
}
