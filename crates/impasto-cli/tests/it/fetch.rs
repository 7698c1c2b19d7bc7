//! `impasto fetch` against a local server, also when it is killed.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use impasto_container::{Limits, Reader, UnitHealth};

use crate::layers::LAYERED;
use crate::server::{Reply, Server};
use crate::support::{Ran, Workplace, impasto, tiny};

/// A command in the folder, whose environment leads nowhere else.
fn command(at: &Workplace, args: &[&str]) -> Command {
    let mut command = impasto(args);
    command.current_dir(at.path("")).env("XDG_CACHE_HOME", at.path("cache")).env("HOME", at.path(""));
    for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
        command.env_remove(name).env_remove(name.to_uppercase());
    }
    for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME", "HF_ENDPOINT", "IMPASTO_BASES"] {
        command.env_remove(name);
    }
    command
}

fn run(at: &Workplace, args: &[&str]) -> Ran {
    Ran::of(command(at, args).output().expect("starts"))
}

/// Checks that a file is the beginning of `data`, and that all units that are there are good. Returns its length.
fn is_prefix(at: &Workplace, name: &str, data: &[u8]) -> usize {
    let Ok(file) = fs::read(at.path(name)) else { return 0 };
    assert!(data.starts_with(&file), "{} bytes are not the beginning of the file", file.len());
    let reader = Reader::open(&file[..], name, &Limits::default()).expect("a file that opens");
    let health = |unit| reader.verify_unit(unit).expect("it is read");
    assert!((0..reader.units().len() as u32).all(|unit| health(unit) != UnitHealth::Damaged));
    file.len()
}

#[test]
fn a_budget_and_then_the_rest() {
    let at = Workplace::new();
    let server = Server::of(&LAYERED);
    let url = server.url("/m.impasto?signature=secret");
    let shown = at.run(&["inspect", &url, "--json"]);
    assert_ne!(shown.code, Some(0), "other commands read no addresses");

    let first = run(&at, &["fetch", &url, "-o", "new/f", "--layer", "1", "--json"]).json();
    assert_eq!((&first["layers"], &first["layers_of"], &first["whole"]), (&1.into(), &3.into(), &false.into()));
    assert_eq!(first["url"], server.url("/m.impasto"));
    let base = first["bytes"].as_u64().expect("bytes");
    assert_eq!(base as usize, is_prefix(&at, "new/f", &LAYERED));
    let story = ["run", "new/f", "-p", "Once", "-n", "4", "--raw", "-q"];
    at.run(&story).ok();

    let budget = format!("{}", base + 300_000);
    let more = run(&at, &["fetch", &url, "-o", "new/f", "--budget", &budget, "--json"]).json();
    let bytes = more["bytes"].as_u64().expect("bytes");
    assert!(bytes > base && bytes <= base + 300_000 && more["bytes_before"] == base, "{more}");
    let text = run(&at, &["fetch", &url, "-o", "new/f"]).ok();
    assert!(text.out.contains("3 of 3 layers") && text.out.contains("received") && text.err.is_empty(), "{text:?}");
    assert_eq!(fs::read(at.path("new/f")).expect("it"), *LAYERED);
    at.run(&["verify", "new/f"]).ok();
}

#[test]
fn refusals() {
    let at = Workplace::new();
    let server = Server::start(|asked| match asked.path.as_str() {
        "/m" => Reply::file(&LAYERED, asked),
        _ => Reply::status(401),
    });
    let fails = |args: &[&str], code, says: &str| {
        let ran = run(&at, &[&["fetch", "-o", "f", "--tries", "1"], args].concat());
        ran.fails(code, says);
        assert!(!ran.err.contains("secret"), "{}", ran.err);
        assert!(!at.path("f").exists());
    };
    let url = server.url("/m");
    fails(&[&url, "--budget", "100KB"], 6, "bytes are too few: the base takes");
    fails(&[&url, "--layer", "9"], 2, "there is no layer 9: the file has 3");
    fails(&[&url, "--layer", "attn=2"], 2, "one number");
    fails(&["m.impasto"], 2, "an address begins with");
    fails(&["https://user:secret@h/m"], 2, "--token-file");
    fails(&[&url, "--header", "no header secret"], 2, "Name: value");
    fails(&["http://127.0.0.1:9/m"], 1, "cannot connect");
    at.write("token", "very-secret\n");
    fails(&[&server.url("/private?secret"), "--token-file", "token", "--header", "X-Key: secret"], 1, "answered 401");
    fails(&["http://192.0.2.1/m", "--token-file", "token"], 2, "not sent over http");
    fails(&[&url, "--token-file", "gone"], 1, "gone");
    fails(&[&url, "--ca-file", "token"], 2, "no certificate");
    let asked = server.asked();
    let private = asked.iter().find(|asked| asked.path.starts_with("/private")).expect("it was asked for");
    assert_eq!(private.header("authorization"), Some("Bearer very-secret"));
    at.write("f", "notes");
    run(&at, &["fetch", &url, "-o", "f"]).fails(1, "--force");
    run(&at, &["fetch", &url, "-o", "f", "--force"]).ok();
}

#[test]
fn the_proxy_of_the_environment() {
    let at = Workplace::new();
    let proxy = Server::start(|asked| match asked.path.as_str() {
        "models.invalid:80" => Reply::status(200),
        _ => Reply::file(&LAYERED, asked),
    });
    let fetch = |no_proxy: &str, name: &str| {
        let mut command = command(&at, &["fetch", "http://models.invalid/m", "-o", name, "--tries", "1"]);
        Ran::of(command.env("http_proxy", proxy.url("")).env("no_proxy", no_proxy).output().expect("starts"))
    };
    fetch("", "f").ok();
    assert_eq!(is_prefix(&at, "f", &LAYERED), LAYERED.len());
    let before = proxy.asked().len();
    assert_eq!(fetch("models.invalid", "g").code, Some(1));
    assert_eq!(proxy.asked().len(), before);
    // A token for this machine does not pass a proxy.
    at.write("token", "secret");
    let server = Server::of(&LAYERED);
    let mut command = command(&at, &["fetch", &server.url("/m"), "-o", "g", "--tries", "1", "--token-file", "token"]);
    Ran::of(command.env("http_proxy", proxy.url("")).output().expect("starts")).ok();
    assert_eq!(proxy.asked().len(), before);
}

#[test]
fn a_delta_and_its_base() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "served-base", "--bpw", "4", "--uncalibrated"]).ok();
    at.run(&["encode", &tiny(), "--base", "served-base", "-o", "served-delta", "--mirror", "files/base"]).ok();
    let [base, delta] = ["served-base", "served-delta"].map(|name| fs::read(at.path(name)).expect("it"));
    let (served, copy) = (base.clone(), delta.clone());
    let server = Server::start(move |asked| match asked.path.as_str() {
        "/d/delta" => Reply::file(&copy, asked),
        "/d/files/base" => Reply::file(&served, asked),
        _ => Reply::status(404),
    });
    let folder = Workplace::new();
    let url = server.url("/d/delta");
    let alone = run(&folder, &["fetch", &url, "-o", "delta"]).ok();
    assert!(alone.err.contains("a delta of") && alone.err.contains("--bases fetches it from: files/base"), "{alone:?}");
    assert!(server.asked().iter().all(|asked| asked.path == "/d/delta"), "nothing else is asked for");
    run(&folder, &["verify", "delta"]).fails(5, "needs that file");
    let both = run(&folder, &["fetch", &url, "-o", "delta", "--bases", "--json"]).json();
    assert_eq!(both["bases"][0]["fetched"], true);
    let root = both["bases"][0]["root"].as_str().expect("a root");
    assert_eq!(fs::read(folder.path(&format!("cache/impasto/bases/{root}.impasto"))).expect("it"), base);
    run(&folder, &["verify", "delta"]).ok();
    let before = server.asked().len();
    let again = run(&folder, &["fetch", &url, "-o", "delta", "--bases"]).ok();
    assert!(again.out.contains("there already") && again.err.is_empty(), "{again:?}");
    assert_eq!(server.asked().len(), before + 1);
}

/// A server that needs about this long for the whole file.
fn throttled(time: Duration) -> Server {
    let pieces = (LAYERED.len() / 4 / 20_000 + 1) as u32;
    Server::start(move |asked| {
        let reply = Reply::file(&LAYERED, asked);
        if asked.number == 0 { reply } else { reply.paced(20_000, time / pieces) }
    })
}

/// Whatever moment a fetch is killed at, what it leaves can be used and continued.
#[cfg(unix)]
#[test]
fn a_killed_fetch_is_continued() {
    const POINTS: u32 = 100;
    let at = Workplace::new();
    let server = throttled(Duration::from_millis(200));
    let url = server.url("/m");
    let (mut whole, mut before, mut partial) = (0, 0, 0);
    for point in 0..POINTS {
        let mut child = command(&at, &["fetch", &url, "-o", "f", "-q"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starts");
        // At first it is killed soon, in the end late.
        std::thread::sleep(Duration::from_millis(3 + u64::from(point * 7 % POINTS)));
        child.kill().expect("kills"); // SIGKILL
        child.wait().expect("ends");
        let length = is_prefix(&at, "f", &LAYERED);
        // The next fetch takes away at most the part of a unit.
        assert!(length + 400_000 > before, "{length} after {before}");
        partial += usize::from(length > 0 && length < LAYERED.len());
        before = length;
        if length == LAYERED.len() {
            whole += 1;
            before = 0;
            fs::remove_file(at.path("f")).expect("removes");
        }
    }
    run(&at, &["fetch", &url, "-o", "f"]).ok();
    assert_eq!(fs::read(at.path("f")).expect("it"), *LAYERED);
    // Temporary files of those that were killed are gone.
    let left: Vec<String> = at.left().into_iter().filter(|name| name != "cache").collect();
    assert_eq!(left, ["f"]);
    println!("{whole} of {POINTS} completed the file, {partial} left a part of it");
    assert!(partial > POINTS as usize / 4 && whole < POINTS as usize);
}

/// Ctrl-C leaves a part that can be used, and says so.
#[cfg(unix)]
#[test]
fn an_interrupted_fetch_says_what_is_there() {
    use std::os::unix::process::ExitStatusExt;
    let at = Workplace::new();
    // Long enough that a busy machine does not fetch all before the signal.
    let server = throttled(Duration::from_secs(60));
    let child = command(&at, &["fetch", &server.url("/m"), "-o", "f"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("starts");
    while fs::metadata(at.path("f")).is_ok_and(|file| file.len() > 100_000).eq(&false) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let id = child.id().to_string();
    assert!(Command::new("kill").args(["-s", "INT", &id]).status().expect("starts").success());
    let output = child.wait_with_output().expect("ends");
    assert_eq!(output.status.signal(), Some(2), "{output:?}");
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("f holds") && text.contains("the same command continues it"), "{text}");
    assert!(is_prefix(&at, "f", &LAYERED) < LAYERED.len());
}
