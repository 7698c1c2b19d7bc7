//! Programs that people use, with the server. Python packages are those of IMPASTO_CLIENTS or else
//! IMPASTO_PYTHON, npm packages those in the folder
//! IMPASTO_NODE_MODULES, aider that of the Python IMPASTO_AIDER if that is set, and Chromium is CHROMIUM or in the path. What is missing is
//! skipped, unless IMPASTO_REQUIRE_CLIENTS is set.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use impasto::{Checkpoint, CheckpointWeights};
use impasto_eval::tasks::{Subject, Task};
use impasto_runtime::{Model, RunOptions};

use crate::serve::{PLAIN, Serving, chatting, crates};
use crate::support::{Ran, Workplace};

/// Says that a test is skipped, or fails if clients must be there.
fn missing(what: &str) {
    assert!(std::env::var_os("IMPASTO_REQUIRE_CLIENTS").is_none(), "{what} is missing");
    println!("SKIPPED: {what} is missing");
}

/// Python, if it has these packages.
fn python(packages: &[&str]) -> Option<PathBuf> {
    let named = ["IMPASTO_CLIENTS", "IMPASTO_PYTHON"].iter().find_map(std::env::var_os);
    let python = PathBuf::from(named.unwrap_or_else(|| "python3".into()));
    let find = "import sys, importlib.util as u; sys.exit(any(u.find_spec(name) is None for name in sys.argv[1:]))";
    let found = Command::new(&python).args(["-c", find]).args(packages).stderr(Stdio::null()).status();
    found.is_ok_and(|status| status.success()).then_some(python)
}

/// The folder of npm packages, if Node and they are there.
fn node_modules(packages: &[&str]) -> Option<PathBuf> {
    let folder = PathBuf::from(std::env::var_os("IMPASTO_NODE_MODULES")?);
    let node = Command::new("node").arg("--version").stdout(Stdio::null()).status();
    let is_there = node.is_ok_and(|status| status.success()) && packages.iter().all(|name| folder.join(name).exists());
    is_there.then_some(folder)
}

fn script(name: &str) -> PathBuf {
    crates("impasto-cli/tests/clients").join(name)
}

/// Runs a client, which must succeed. Returns what it printed.
fn run(command: &mut Command, serving: &Serving) -> String {
    let ran = Ran::of(command.stdin(Stdio::null()).output().expect("starts"));
    assert_eq!(ran.code, Some(0), "{}\n{}\n{}", ran.out, ran.err, serving.log());
    ran.out
}

const KEY: &str = "a-key-of-the-tests";

/// A server for chats, with a key and embeddings.
fn chat_server(at: &Workplace) -> Serving {
    chatting(at, "tiny", PLAIN);
    at.write("keys", KEY);
    Serving::start(at, &["tiny", "--api-key-file", "keys", "--embeddings", "mean"])
}

#[test]
fn openai_for_python() {
    let Some(python) = python(&["openai"]) else { return missing("openai for Python") };
    let at = Workplace::new();
    let serving = chat_server(&at);
    let mut command = Command::new(python);
    run(command.arg(script("openai_python.py")).args([&serving.address, "tiny", KEY]), &serving);
}

#[test]
fn openai_for_node() {
    let Some(modules) = node_modules(&["openai"]) else { return missing("openai for Node") };
    let at = Workplace::new();
    let serving = chat_server(&at);
    let mut command = Command::new("node");
    command.arg(script("openai_node.mjs")).args([&serving.address, "tiny", KEY]).env("IMPASTO_NODE_MODULES", modules);
    run(&mut command, &serving);
}

#[test]
fn llm_chats() {
    let Some(python) = python(&["llm"]) else { return missing("llm") };
    let at = Workplace::new();
    let serving = chat_server(&at);
    let entry =
        format!("- model_id: here\n  model_name: tiny\n  api_base: {}/v1\n  api_key_name: here\n", serving.address);
    at.write("extra-openai-models.yaml", &entry);
    at.write("keys.json", &format!("{{\"here\": \"{KEY}\"}}"));
    let ask = |more: &[&str]| {
        let mut command = Command::new(&python);
        command.args(["-m", "llm"]).args(more).env("LLM_USER_PATH", at.path("."));
        run(&mut command, &serving)
    };
    let answer = ask(&["-m", "here", "Tell me of a dog", "-o", "max_tokens", "12", "-o", "temperature", "0"]);
    assert!(!answer.trim().is_empty());
    // The conversation goes on from the log of `llm`.
    assert!(!ask(&["-c", "And a cat?", "-o", "max_tokens", "12"]).trim().is_empty());
    let requests = || {
        serving
            .log()
            .lines()
            .filter(|line| line.contains("/v1/chat/completions") && line.contains("\"status\":200"))
            .count()
    };
    while requests() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}

#[test]
fn aider_edits() {
    let python = std::env::var_os("IMPASTO_AIDER").map(PathBuf::from).or_else(|| python(&["aider"]));
    let Some(python) = python else { return missing("aider") };
    let at = Workplace::new();
    let serving = chat_server(&at);
    at.write("hello.py", "print('hello')\n");
    let mut command = Command::new(python);
    command.args(["-m", "aider", "--model", "openai/tiny", "--openai-api-base", &format!("{}/v1", serving.address)]);
    command.args(["--openai-api-key", KEY, "--message", "Say hello.", "--no-git", "--yes-always", "--no-check-update"]);
    command.args([
        "--no-show-model-warnings",
        "--no-analytics",
        "--map-tokens",
        "0",
        "--edit-format",
        "ask",
        "--no-pretty",
    ]);
    command
        .arg("hello.py")
        .current_dir(at.path("."))
        .env("HOME", at.path("."))
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True");
    let out = run(&mut command, &serving);
    let is_answered = |line: &str| line.contains("/v1/chat/completions") && line.contains("\"status\":200");
    assert!(serving.log().lines().any(is_answered), "{out}\n{}", serving.log());
}

/// `contrib/lm_eval/evaluate.py`, which runs lm-evaluation-harness, with a cache of its own. `None` if the harness is missing.
fn evaluate(at: &Workplace) -> Option<Command> {
    let Some(python) = python(&["lm_eval", "transformers"]) else {
        missing("lm-evaluation-harness");
        return None;
    };
    let mut command = Command::new(python);
    command.arg(contrib("lm_eval/evaluate.py")).env("HF_HOME", at.path("cache"));
    Some(command)
}

fn contrib(name: &str) -> PathBuf {
    crates("../contrib").join(name)
}

/// Every local task of `contrib/lm_eval` is asked and judged.
#[test]
fn lm_evaluation_harness_runs_all_local_tasks() {
    let at = Workplace::new();
    let Some(mut command) = evaluate(&at) else { return };
    let serving = chat_server(&at);
    let data = at.path("data");
    std::fs::create_dir(&data).expect("a folder");
    for entry in contrib("lm_eval/samples").read_dir().expect("a folder") {
        let from = entry.expect("an entry").path();
        std::fs::copy(&from, data.join(from.file_name().expect("a name"))).expect("copies");
    }
    let make = contrib("lm_eval/needle.py");
    let words: String = (0..4000).map(|i| format!("Line {i} of a long text. ")).collect();
    at.write("long.txt", &words);
    let mut needles = Command::new(command.get_program());
    needles.arg(make).arg("--text").arg(at.path("long.txt")).arg("--tokenizer").arg(at.path("tiny"));
    needles.args(["--lengths", "64,128", "--depths", "0,0.5,1", "--each", "1", "-o"]).arg(data.join("needle.jsonl"));
    run(&mut needles, &serving);
    let tasks = "arc_easy,gsm8k,hellaswag,mmlu,needle,piqa,safety";
    command.args(["run", "--tasks", tasks, "--server", &serving.address, "--model", "tiny", "--max-length", "256"]);
    command.arg("--data").arg(&data).arg("--tokenizer").arg(at.path("tiny")).arg("-o").arg(at.path("out.json"));
    command.env("OPENAI_API_KEY", KEY);
    run(&mut command, &serving);
    let out: serde_json::Value =
        serde_json::from_slice(&std::fs::read(at.path("out.json")).expect("a file")).expect("JSON");
    for (task, items) in
        [("arc_easy", 4), ("gsm8k", 2), ("hellaswag", 2), ("mmlu", 4), ("needle", 6), ("piqa", 3), ("safety", 4)]
    {
        let scored = out["tasks"][task].as_array().expect("items");
        assert_eq!(scored.len(), items, "{task}");
        for item in scored {
            assert!(matches!(item["measures"]["acc"].as_f64(), Some(0.0 | 1.0)), "{task}: {item}");
            assert_ne!(item["answer"].is_string(), item["log_likelihoods"].is_array(), "{task}: {item}");
        }
    }
    let mut compare = Command::new(command.get_program());
    compare.arg(contrib("lm_eval/evaluate.py")).arg("compare").args([at.path("out.json"), at.path("out.json")]);
    let same = run(compare.args(["--promise", "0.5"]), &serving);
    assert!(same.lines().any(|line| line.starts_with("needle") && line.contains("length 128")), "{same}");
    assert!(same.lines().filter(|line| line.contains("points: undecided; about")).count() >= 7, "{same}");
}

/// Accuracies and log-likelihoods through the server are those that `impasto eval tasks` computes.
#[test]
fn lm_evaluation_harness_sees_what_the_library_computes() {
    let at = Workplace::new();
    let Some(mut command) = evaluate(&at) else { return };
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    // The model and the tasks are no clients: there are machines without them.
    let (Some(models), Some(tasks)) = (folder("IMPASTO_MODELS"), folder("IMPASTO_TASKS")) else {
        return println!("SKIPPED: IMPASTO_MODELS or IMPASTO_TASKS is not set");
    };
    let checkpoint = models.join("smollm2-135m-continuous");
    if !checkpoint.exists() {
        return println!("SKIPPED: SmolLM2 is missing");
    }
    let from = checkpoint.display().to_string();
    let serving = Serving::start(&at, &[&format!("smol={from}")]);
    let limit = 10;
    command.args(["run", "--tasks", "arc_easy,piqa", "--server", &serving.address, "--model", "smol"]);
    command.args(["--limit", "10", "--tokenizer", &from, "--data"]).arg(&tasks).arg("-o").arg(at.path("out.json"));
    run(&mut command, &serving);
    let theirs: serde_json::Value =
        serde_json::from_slice(&std::fs::read(at.path("out.json")).expect("a file")).expect("JSON");
    let source = Checkpoint::open(&checkpoint).expect("a checkpoint");
    let model = Model::load(&CheckpointWeights::new(&source), &RunOptions::default()).expect("a model");
    let subject =
        Subject::new(model.network(), model.tokenizer().expect("a tokenizer"), model.eos()).expect("a subject");
    for name in ["arc_easy", "piqa"] {
        let task = tasks.join(name).with_extension("jsonl").display().to_string();
        let args = ["eval", "tasks", &from, "--residence", "packed", "--activations", "int8"];
        let ours = at.run(&[&args[..], &["--tasks", &task, "--limit", "10", "--json"]].concat()).json();
        let theirs = theirs["tasks"][name].as_array().expect("items");
        assert_eq!(theirs.len(), limit);
        for rule in ["acc", "acc_norm"] {
            let right = theirs.iter().filter(|item| item["measures"][rule] == 1.0).count();
            assert_eq!(ours["tasks"][0]["model"][rule]["value"], right as f64 / limit as f64, "{name} {rule}");
        }
        let file = std::fs::File::open(&task).expect("a file");
        let items = Task::read(&task, std::io::BufReader::new(file), Some(limit)).expect("a task").items;
        for (item, theirs) in items.iter().zip(theirs) {
            let ours = subject.log_likelihoods(item).expect("numbers");
            let theirs = theirs["log_likelihoods"].as_array().expect("numbers");
            assert_eq!(ours.len(), theirs.len());
            for (ours, theirs) in ours.into_iter().zip(theirs.iter().map(|x| x.as_f64().expect("a number"))) {
                // Python adds in its own way from 3.12 on.
                assert!((ours - theirs).abs() <= 1e-12 * ours.abs(), "{name}: {ours} {theirs}");
            }
        }
    }
}

/// The tests of the web page in a browser, against the real server.
#[test]
fn the_web_page_in_a_browser() {
    let Some(modules) = node_modules(&["playwright-core", "axe-core"]) else {
        return missing("playwright-core or axe-core");
    };
    let chromium =
        Command::new("sh").args(["-c", "command -v \"${CHROMIUM:-chromium}\""]).stdout(Stdio::null()).status();
    if !chromium.is_ok_and(|status| status.success()) {
        return missing("Chromium");
    }
    let at = Workplace::new();
    chatting(&at, "model", PLAIN);
    at.run(&["encode", "model", "-o", "tiny.impasto", "--layers", "2.5,4", "--uncalibrated"]).ok();
    let serving = Serving::start(&at, &["tiny.impasto"]);
    // Node looks for packages beside the files that import them.
    let page = crates("impasto-serve/web");
    let copied = Command::new("cp").arg("-r").arg(page).arg(at.path("web")).status().expect("copies");
    assert!(copied.success());
    std::os::unix::fs::symlink(modules, at.path("web/tests/node_modules")).expect("a link");
    let mut command = Command::new("node");
    command
        .args(["--test", "server.test.js"])
        .current_dir(at.path("web/tests"))
        .env("IMPASTO_SERVER", &serving.address);
    run(&mut command, &serving);
}
