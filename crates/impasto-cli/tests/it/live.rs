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

#[cfg(feature = "fetch")]
mod from_an_address {
    use std::time::Duration;

    use super::RUN;
    use crate::layers::LAYERED;
    use crate::server::{Reply, Server};
    use crate::support::{Ran, Workplace, impasto};

    fn run(at: &Workplace, url: &str, more: &[&str]) -> Ran {
        let mut command = impasto(&[&["run", url][..], &RUN, more].concat());
        command.current_dir(at.path("")).env("XDG_CACHE_HOME", at.path("cache"));
        for name in ["http_proxy", "https_proxy", "all_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        Ran::of(command.output().expect("starts"))
    }

    #[test]
    fn a_model_runs_from_a_slow_server() {
        let at = Workplace::new();
        let server = Server::start(|asked| Reply {
            pace: Some((64 << 10, Duration::from_millis(5))),
            ..Reply::file(&LAYERED, asked)
        });
        let url = server.url("/m.impasto?signature=secret");
        let ran = run(&at, &url, &["--json", "--save", "saved.impasto"]).json();
        let parts = ran["stream"]["parts"].as_array().expect("parts");
        assert!(!parts.is_empty() && parts.iter().all(|part| part["stages"] == 3), "{ran}");
        let saved = std::fs::read(at.path("saved.impasto")).expect("a file");
        assert!(LAYERED.starts_with(&saved), "what came is the beginning of the file");
        // What came is not fetched again, and the rest is.
        let whole = run(&at, &url, &["--save", "saved.impasto", "--kv-upgrade", "keep"]).ok();
        assert!(!whole.err.contains("secret") && whole.err.contains("stage"), "{}", whole.err);
        // Without a name, it goes to the cache, under one of its own.
        run(&at, &url, &["-q"]).ok();
        let cached: Vec<_> = std::fs::read_dir(at.path("cache/impasto/files")).expect("a folder").collect();
        assert_eq!(cached.len(), 1, "{cached:?}");
    }

    #[test]
    fn refusals() {
        let at = Workplace::new();
        let server = Server::start(|_| Reply::status(404));
        let url = server.url("/m?secret");
        let gone = run(&at, &url, &["--save", "s", "--tries", "1"]);
        assert!(gone.code == Some(1) && gone.err.contains("404") && !gone.err.contains("secret"), "{gone:?}");
        let plain = |words: &[&str]| at.run(&[&["run", "-p", "Once"][..], words].concat());
        plain(&[&url]).fails(2, "--stream");
        at.write("m.impasto", "no model");
        plain(&["m.impasto", "--stream", "--save", "s"]).fails(2, "need an address");
        plain(&["m.impasto", "--tries", "3"]).fails(2, "need --stream");
        assert_eq!(plain(&["m.impasto", "--save", "s"]).code, Some(2));
        assert!(!at.path("s").exists());
    }
}
