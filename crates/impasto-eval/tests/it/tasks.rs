//! Log-likelihoods of answers against transformers (tools/make_task_goldens.py). IMPASTO_MODELS is a folder of models,
//! IMPASTO_TASKS a folder with arc_easy.jsonl and piqa.jsonl. Tests whose files are missing are skipped with a message.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use crate::support::Folder;
use impasto_eval::tasks::{Subject, Task};
use impasto_runtime::{Model, RunOptions};
use serde_json::Value;

const SMOL: &str = "smollm2-135m-continuous";

fn goldens() -> Value {
    serde_json::from_str(include_str!("../golden/tasks.json")).unwrap()
}

fn folder(variable: &str, name: &str) -> Option<PathBuf> {
    let path = std::env::var_os(variable).map(|dir| Path::new(&dir).join(name)).filter(|path| path.exists());
    if path.is_none() {
        println!("SKIPPED: set {variable} to the folder that holds {name}");
    }
    path
}

/// Every log-likelihood must be within 1e-3 nats of the expected one. `expected` has a list per item.
fn compare(model: &Model, task: &Task, expected: &Value) {
    let subject = Subject::new(model.network(), model.tokenizer().unwrap(), model.eos()).unwrap();
    let expected = expected.as_array().unwrap();
    assert_eq!(task.items.len(), expected.len());
    let mut worst = 0.0f64;
    for (item, expected) in task.items.iter().zip(expected) {
        let found = subject.log_likelihoods(item).unwrap();
        let expected: Vec<f64> = expected.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
        assert_eq!(found.len(), expected.len());
        for (found, expected) in found.iter().zip(&expected) {
            worst = worst.max((found - expected).abs());
            assert!((found - expected).abs() < 1e-3, "{}: {found} {expected}", item.query);
        }
    }
    println!("{}: {} items, at most {worst:.1e} nats apart", task.name, expected.len());
}

fn own(goldens: &Value) -> Task {
    let lines: Vec<String> = goldens["items"].as_array().unwrap().iter().map(Value::to_string).collect();
    Task::read("own", lines.join("\n").as_bytes(), None).unwrap()
}

#[test]
fn tiny_as_transformers() {
    let goldens = goldens();
    let model = Model::load(&Folder::tiny(), &RunOptions::float()).unwrap();
    compare(&model, &own(&goldens), &goldens["models"]["tiny"]);
}

#[test]
fn smollm2_as_transformers() {
    let goldens = goldens();
    let Some(path) = folder("IMPASTO_MODELS", SMOL) else { return };
    let model = Model::load(&Folder::open(path), &RunOptions::float()).unwrap();
    compare(&model, &own(&goldens), &goldens["models"][SMOL]);
    for (name, expected) in goldens["files"].as_object().unwrap() {
        let Some(path) = folder("IMPASTO_TASKS", &format!("{name}.jsonl")) else { continue };
        let reader = BufReader::new(File::open(path).unwrap());
        let task = Task::read(name, reader, expected.as_array().map(Vec::len)).unwrap();
        compare(&model, &task, expected);
    }
}
