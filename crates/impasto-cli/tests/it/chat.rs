//! `impasto chat` with piped input.

use std::io::Write;
use std::process::Stdio;

use crate::support::{Ran, Workplace, impasto, tiny};

/// The tiny model with a template that shows the role of each message.
fn model(at: &Workplace) {
    std::fs::create_dir(at.path("model")).expect("a folder");
    for entry in std::fs::read_dir(tiny()).expect("the tiny model") {
        let path = entry.expect("an entry").path();
        std::fs::copy(&path, at.path("model").join(path.file_name().expect("a name"))).expect("copies");
    }
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:";
    std::fs::write(at.path("model").join("chat_template.jinja"), template).expect("writes");
}

fn chat(at: &Workplace, options: &[&str], input: &[u8]) -> Ran {
    chat_with(at, "model", options, input)
}

fn chat_with(at: &Workplace, model: &str, options: &[&str], input: &[u8]) -> Ran {
    let mut command = impasto(&[&["chat", model, "-n", "6"], options].concat());
    let command = command.current_dir(at.path(".")).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("starts");
    child.stdin.take().expect("a pipe").write_all(input).expect("writes");
    Ran::of(child.wait_with_output().expect("ends"))
}

#[test]
fn a_talk_goes_on_where_it_was() {
    let at = Workplace::new();
    model(&at);
    let said = |input: &str| -> Vec<serde_json::Value> {
        let ran = chat(&at, &["--json"], input.as_bytes()).ok();
        serde_json::Deserializer::from_str(&ran.out).into_iter().map(|value| value.expect("JSON")).collect()
    };
    let two = said("Tell me\\\nof a dog\nand a cat\n");
    assert_eq!(two.len(), 2);
    let prompt = |answer: &serde_json::Value| answer["generation"]["prompt_tokens"].as_u64().expect("a number");
    assert!(prompt(&two[1]) > prompt(&two[0]) + 4, "the second prompt contains the first answer");
    // Removed messages have no effect.
    let undone =
        said("Tell me\\\nof a dog\nof a ball\n/undo\nand a cat\n/reset\nTell me\\\nof a dog\n/exit\nno more\n");
    assert_eq!(undone.len(), 4);
    for (ours, theirs) in [(&undone[0], &two[0]), (&undone[2], &two[1]), (&undone[3], &two[0])] {
        assert_eq!(ours["generation"]["text"], theirs["generation"]["text"]);
    }
    let system = said("/system You are a dog.\nTell me\\\nof a dog\n");
    assert!(prompt(&system[0]) > prompt(&two[0]));
    // Empty lines are ignored.
    assert!(said("\n\n").is_empty() && said("").is_empty());
}

/// With `--stream`, a file that is there gives the same answers, and says that it is whole once.
#[test]
fn a_talk_with_a_file_that_arrives() {
    let at = Workplace::new();
    model(&at);
    at.run(&["encode", "model", "-o", "m.impasto", "--layers", "3,lossless", "--uncalibrated"]).ok();
    let input = b"Tell me of a dog\nand a cat\n";
    let plain = chat_with(&at, "m.impasto", &[], input).ok();
    let live = chat_with(&at, "m.impasto", &["--stream"], input).ok();
    assert_eq!(live.out, plain.out);
    assert_eq!(live.err.matches("[stage 2 of 2, ").count(), 1, "{}", live.err);
    let json = chat_with(&at, "m.impasto", &["--stream", "--json"], input).ok().out;
    let answers = serde_json::Deserializer::from_str(&json).into_iter().map(|value| value.expect("JSON"));
    let answers: Vec<serde_json::Value> = answers.collect();
    assert!(answers.iter().all(|answer| answer["stream"]["parts"][0]["first_token"] == 0), "{answers:?}");
}

#[test]
fn a_talk_changes_its_layer() {
    let at = Workplace::new();
    model(&at);
    at.run(&["encode", "model", "-o", "m.impasto", "--layers", "2.5,4,lossless", "--uncalibrated"]).ok();
    let answers = |options: &[&str], input: &str| {
        let ran = chat_with(&at, "m.impasto", &[&["--json"], options].concat(), input.as_bytes()).ok();
        let answers = serde_json::Deserializer::from_str(&ran.out).into_iter::<serde_json::Value>();
        let answers: Vec<String> =
            answers.map(|answer| answer.expect("JSON")["generation"]["text"].to_string()).collect();
        (answers, ran.err)
    };
    let mixed = "attn=3,mlp=2,1";
    let kept = answers(&["--keep-layers"], &format!("Hello\n/reset\n/layer 1\nHello\n/reset\n/layer {mixed}\nHello\n"));
    for (layer, answer) in [&[][..], &["--layer", "1"], &["--layer", mixed]].into_iter().zip(&kept.0) {
        assert_eq!(answers(layer, "Hello\n").0, std::slice::from_ref(answer), "{layer:?}");
    }
    assert_eq!(kept.0.len(), 3);
    assert!(kept.0[0] != kept.0[1] && kept.0[1] != kept.0[2], "{:?}", kept.0);
    let begun = answers(&["--keep-layers", "--layer", mixed, "--draft-layer", "1"], "Hello\n").0;
    assert_eq!(begun, kept.0[2..]);
    assert!(answers(&["--keep-layers"], "/layer 4\nHello\n").1.contains("layer 4"));
    assert!(answers(&["--keep-layers"], "/layer x\nHello\n").1.contains("not a layer number"));
    assert!(answers(&[], "/layer 1\nHello\n").1.contains("--keep-layers"));
    let budget = chat_with(&at, "m.impasto", &["--keep-layers", "--budget", "1MB"], b"Hello\n");
    assert!(budget.code == Some(2) && budget.err.contains("--budget"), "{budget:?}");
}

#[test]
fn what_cannot_be_said() {
    let at = Workplace::new();
    model(&at);
    let plain = chat(&at, &["--quiet"], b"hello\n").ok();
    assert!(plain.out.ends_with('\n') && plain.err.is_empty(), "{plain:?}");
    let broken = chat(&at, &[], b"hello \xff\n");
    assert!(broken.code == Some(3) && broken.err.contains("UTF-8"), "{broken:?}");
    let unknown = chat(&at, &[], b"/dance\n").ok();
    assert!(unknown.err.contains("/dance"), "{unknown:?}");
    let long = chat(&at, &["--context", "8"], "a very long line of words that goes on and on\n".as_bytes());
    assert!(long.code == Some(3) && long.err.contains("context of 8"), "{long:?}");
    std::fs::remove_file(at.path("model/chat_template.jinja")).expect("removes");
    let without = chat(&at, &[], b"hello\n");
    assert!(without.code == Some(3) && without.err.contains("chat template"), "{without:?}");
}
