//! Chat templates of strangers, as a user meets them.

use std::fs;
use std::io::Write;
use std::process::Stdio;
use std::time::{Duration, Instant};

use crate::support::{Ran, Workplace, impasto, tiny};

/// The tiny model with a chat template.
fn model(at: &Workplace, template: &str) {
    fs::create_dir_all(at.path("model")).expect("a folder");
    for entry in fs::read_dir(tiny()).expect("the tiny model") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, at.path("model").join(path.file_name().expect("a name"))).expect("copies");
    }
    fs::write(at.path("model/chat_template.jinja"), template).expect("writes");
}

fn chat(at: &Workplace, model: &str) -> Ran {
    let mut command = impasto(&["chat", model, "-n", "4", "-q"]);
    command.current_dir(at.path(".")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    // A command that refuses the template does not read its input.
    let _ = child.stdin.take().expect("a pipe").write_all(b"hello\n");
    Ran::of(child.wait_with_output().expect("ends"))
}

const TIME: &str = "{% for i in range(100000) %}{% set x = range(100000)|list|sort %}{% endfor %}";

/// Whatever a template tries, the command says which limit it met, and lives.
#[cfg(unix)]
#[test]
fn a_hostile_template_is_an_error() {
    let at = Workplace::new();
    let long = format!("{{{{ {}a }}}}", "not ".repeat(10_000));
    for (template, says) in [
        (
            "{% set n = namespace(s='ab') %}{% for i in range(60) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
            "more memory than the limit of 64 MiB",
        ),
        ("{{ 'a\nb'|indent(100000000000) }}", "more memory than the limit of 64 MiB"),
        ("{% set n = namespace() %}{% set n.n = n %}{{ n }}", "recurses deeper than the limit of 16 MiB"),
        // On a very slow machine, the clock may be first.
        (TIME, "the limit of"),
        (&long, "the tag that starts with"),
        ("{% for %}", "syntax error"),
        ("{{ raise_exception('\u{1b}[31mred\u{9b}\n') }}", "red"),
    ] {
        model(&at, template);
        let begun = Instant::now();
        let ran = chat(&at, "model");
        ran.fails(3, "chat template: ");
        assert!(ran.err.contains(says), "{template}: {}", ran.err);
        assert!(!ran.err.contains(['\u{1b}', '\u{9b}']), "{:?}", ran.err);
        assert!(begun.elapsed() < Duration::from_secs(60), "{template}");
    }
    at.run(&["run", "model", "-p", "x"]).fails(3, "chat template: ");
    at.run(&["run", "model", "-p", "x", "--raw", "-n", "1"]).ok();
    model(&at, TIME);
    // Nothing runs it at encode.
    at.run(&["encode", "model", "-o", "a"]).ok();
    chat(&at, "a").fails(3, "the limit of");
}

/// A command whose file is replaced while it runs still finds itself.
#[cfg(target_os = "linux")]
#[test]
fn the_program_may_be_replaced() {
    let at = Workplace::new();
    model(&at, "{{ messages[0].content }}");
    fs::copy(env!("CARGO_BIN_EXE_impasto"), at.path("copy")).expect("copies");
    let mut command = std::process::Command::new(at.path("copy"));
    command.args(["chat", "model", "-n", "4"]).current_dir(at.path("."));
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("starts");
    let mut input = child.stdin.take().expect("a pipe");
    fs::remove_file(at.path("copy")).expect("removes");
    input.write_all(b"hello\n").expect("writes");
    drop(input);
    Ran::of(child.wait_with_output().expect("ends")).ok();
}
