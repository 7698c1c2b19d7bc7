//! `impasto eval tasks` on the tiny model.

use crate::support::{Workplace, tiny};
use serde_json::Value;

/// Questions in the style of the tiny model's stories. Each choice of the third item is one token.
const QUIZ: &str = r#"{"query": "Question: Tom was sad. What did his mom do?", "choices": ["She gave him a big hug.", "Quarterly revenue rose by nine percent."], "gold": 0}
{"query": "Question: What is the color of the sky?", "choices": ["Tectonic plates of zinc.", "Blue.", "It is dxqv."], "gold": 1}

{"query": "Question: Lily had a red", "choices": ["ball", "the"], "gold": 0}
"#;

fn quiz() -> Workplace {
    let at = Workplace::new();
    at.write("quiz.jsonl", QUIZ);
    at
}

#[test]
fn a_model_alone_and_beside_a_reference() {
    let at = quiz();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    let args = ["eval", "tasks", "a.impasto", "--tasks", "quiz.jsonl"];
    let alone = at.run(&args).ok();
    assert!(alone.out.starts_with("quiz, 3 items ") && alone.out.contains("a.impasto "), "{}", alone.out);
    assert!(alone.err.is_empty() && !alone.out.contains("paired"), "{alone:?}");

    let json = at.run(&[&args[..], &["--json"]].concat()).json();
    let task = &json["tasks"][0];
    assert_eq!((&json["reference"], &task["comparison"]), (&Value::Null, &Value::Null));
    assert_eq!((task["task"].as_str(), task["items"].as_u64()), (Some("quiz"), Some(3)));
    // Of three items, at least one is answered correctly.
    let right = task["model"]["acc"]["value"].as_f64().expect("a number") * 3.0;
    assert!((right - right.round()).abs() < 1e-9 && right > 0.5, "{json}");

    // A lossless file is the original model: the difference is 0, with an error of 0.
    let tiny = tiny();
    let reference = [&args[..], &["--reference", &tiny]].concat();
    let text = at.run(&reference).ok().out;
    assert!(text.contains("paired difference") && text.contains("100.00% +- 0.00%"), "{text}");
    let json = at.run(&[&reference[..], &["--json"]].concat()).json();
    let compared = &json["tasks"][0]["comparison"];
    assert_eq!(compared["reference"], json["tasks"][0]["model"]);
    for rule in ["acc", "acc_norm"] {
        let pair = |what: &str, part: &str| compared[what][rule][part].as_f64();
        assert_eq!((pair("difference", "value"), pair("difference", "error")), (Some(0.0), Some(0.0)), "{json}");
        assert_eq!((pair("same", "value"), pair("same", "error")), (Some(1.0), Some(0.0)), "{json}");
    }
}

#[test]
fn several_files_and_a_limit() {
    let at = quiz();
    at.write("other.jsonl", QUIZ);
    let args = ["eval", "tasks", &tiny(), "--tasks", "quiz.jsonl", "other.jsonl", "--limit", "2", "--json"];
    let once = at.run(&args).json();
    let names: Vec<_> = once["tasks"].as_array().expect("tasks").iter().map(|t| (&t["task"], &t["items"])).collect();
    assert_eq!(names, [(&"quiz".into(), &2.into()), (&"other".into(), &2.into())]);
    assert_eq!(once["tasks"][0]["model"], once["tasks"][1]["model"]);
    let threads = at.run(&[&args[..], &["--threads", "1"]].concat()).json();
    assert_eq!(at.run(&args).json(), once, "the same every time");
    assert_eq!(threads["tasks"][0]["items"], once["tasks"][0]["items"]);
}

#[test]
fn what_is_wrong_is_said_with_file_and_line() {
    let at = quiz();
    let model = tiny();
    let run = |file: &str| at.run(&["eval", "tasks", &model, "--tasks", file]);
    run("missing").fails(1, "missing: No such file");
    at.write("empty", "\n");
    run("empty").fails(3, "empty: no items");
    at.write("cut", &QUIZ[..QUIZ.len() / 2]);
    run("cut").fails(3, "cut, line 2: not an item with `query`, `choices` and `gold`");
    at.write("gold", &QUIZ.replace("\"gold\": 1", "\"gold\": 3"));
    run("gold").fails(3, "gold, line 2: gold = 3 is not one of the 3 choices");
    at.write("long", &QUIZ.replace("Lily", &"Lily and Tom ".repeat(3000)));
    run("long").fails(3, "long, line 4: ");
    at.write("line", &QUIZ.replace("Lily", &"Lily".repeat(1 << 20)));
    run("line").fails(3, "line, line 4: longer than 1048576 bytes");
    // An invalid file is reported before the model is loaded.
    at.run(&["eval", "tasks", "no-model", "--tasks", "quiz.jsonl", "gold"]).fails(3, "gold, line 2");
    at.run(&["eval", "tasks", "no-model", "--tasks", "quiz.jsonl"]).fails(1, "no-model");
    for args in [&["--tasks", "quiz.jsonl", "--limit", "0"][..], &[]] {
        let failed = at.run(&[&["eval", "tasks", &model], args].concat());
        assert_eq!((failed.code, failed.out.as_str()), (Some(2), ""), "{}", failed.err);
    }
}
