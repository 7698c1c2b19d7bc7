//! Checks the documents against the repository: paths exist, links resolve, the map of crates matches the manifests,
//! and every command line parses.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use clap::error::ErrorKind;

use crate::args::Args;

/// Collects all errors, and counts the checks to notice when there is nothing to check.
struct Findings {
    wrong: Vec<String>,
    seen: usize,
}

impl Findings {
    fn new() -> Findings {
        Findings { wrong: Vec::new(), seen: 0 }
    }

    fn check(&mut self, is_good: bool, message: impl FnOnce() -> String) {
        self.seen += 1;
        if !is_good {
            self.wrong.push(message());
        }
    }

    fn end(self, least: usize) {
        assert!(self.wrong.is_empty(), "\n{}", self.wrong.join("\n"));
        assert!(self.seen >= least, "only {} things were checked", self.seen);
    }
}

/// A Markdown file.
struct Page {
    /// Path relative to the repository.
    path: PathBuf,
    text: String,
}

/// Text between backticks, or a line of a code block.
struct Code {
    text: String,
    in_block: bool,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = root().join(path);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

const FOLDERS: [&str; 7] = ["crates/", "docs/", "tools/", "conformance/", "fuzz/", "python/", "assets/"];

/// All files whose names end with one of `ends`, except build output.
fn files(ends: &[&str]) -> Vec<Page> {
    fn walk(folder: &Path, ends: &[&str], pages: &mut Vec<Page>) {
        for entry in fs::read_dir(root().join(folder)).expect("a folder") {
            let entry = entry.expect("an entry");
            let path = folder.join(entry.file_name());
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.path().is_dir() {
                if name != "target" {
                    walk(&path, ends, pages);
                }
            } else if ends.iter().any(|end| name.ends_with(end)) {
                pages.push(Page::open(&path));
            }
        }
    }
    let mut pages = Vec::new();
    FOLDERS.iter().for_each(|folder| walk(Path::new(folder), ends, &mut pages));
    pages
}

/// All Markdown files.
fn pages() -> Vec<Page> {
    let mut pages = files(&[".md"]);
    pages.push(Page::open(Path::new("README.md")));
    pages
}

impl Page {
    fn open(path: &Path) -> Page {
        Page { path: path.to_owned(), text: read(path) }
    }

    /// Returns the lines of code blocks (fenced, or indented by four spaces), and the rest of the text. Diagrams
    /// (`text` fences) are in neither.
    fn blocks(&self) -> (Vec<&str>, String) {
        let (mut blocks, mut prose, mut fence) = (Vec::new(), String::new(), None);
        for line in self.text.lines() {
            match (line.trim_start().strip_prefix("```"), fence) {
                (Some(_), Some(_)) => fence = None,
                (Some(language), None) => fence = Some(language),
                (None, Some("text")) => {}
                (None, None) if !line.starts_with("    ") => prose.extend([line, "\n"]),
                (None, _) => blocks.push(line),
            }
        }
        assert!(fence.is_none(), "{}: a code block does not end", self.path.display());
        (blocks, prose)
    }

    /// All code, with continuation lines joined.
    fn code(&self) -> Vec<Code> {
        let (lines, prose) = self.blocks();
        let block = |text: &str| Code { text: text.trim().to_owned(), in_block: true };
        let mut all: Vec<Code> = lines.join("\n").replace("\\\n", " ").lines().map(block).collect();
        for paragraph in prose.split("\n\n") {
            let parts: Vec<&str> = paragraph.split('`').collect();
            assert!(parts.len() % 2 == 1, "{}: an odd backtick in {paragraph:?}", self.path.display());
            let spans = parts.iter().skip(1).step_by(2);
            all.extend(spans.map(|span| Code { text: span.replace('\n', " "), in_block: false }));
        }
        all
    }

    /// The targets of links and images.
    fn links(&self) -> Vec<String> {
        let (_, prose) = self.blocks();
        let targets = prose.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        targets.map(str::to_owned).collect()
    }

    /// The anchors of headings, as GitHub generates them.
    fn anchors(&self) -> BTreeSet<String> {
        let (_, prose) = self.blocks();
        let headings = prose.lines().filter(|line| line.starts_with('#'));
        let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
        let anchor = |line: &str| line.trim_start_matches('#').trim().to_lowercase().chars().filter(kept).collect();
        headings.map(|line| -> String { anchor(line) }).map(|anchor| anchor.replace(' ', "-")).collect()
    }
}

/// Splits a line like a shell: at spaces outside quotes, up to a comment.
fn words(line: &str) -> Vec<String> {
    let (mut words, mut word, mut quote) = (Vec::new(), None::<String>, None);
    for c in line.chars() {
        match (quote, c) {
            (None, '#') if word.is_none() => break,
            (None, ' ') => words.extend(word.take()),
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (Some(q), c) if q == c => quote = None,
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

/// A script that the documents name but that is not in the repository: it prepares the real models for measurements.
const ELSEWHERE: &str = "prepare_models.py";

/// Checks paths that start at the repository root, and names of source files, which may omit their folders.
#[test]
fn paths_in_documents_exist() {
    let sources = files(&[".rs", ".py"]);
    let mut findings = Findings::new();
    for page in pages() {
        for word in page.code().iter().flat_map(|code| words(&code.text)) {
            let word = word.trim_end_matches(['.', ',', ';', ':', ')']);
            let is_there = if FOLDERS.iter().any(|folder| word.starts_with(folder)) {
                root().join(word).exists()
            } else if (word.ends_with(".rs") || word.ends_with(".py")) && word != ELSEWHERE {
                sources.iter().any(|source| source.path.ends_with(word))
            } else {
                continue;
            };
            findings.check(is_there, || format!("{}: {word} does not exist", page.path.display()));
        }
    }
    findings.end(80);
}

#[test]
fn paths_in_scripts_exist() {
    let mut findings = Findings::new();
    for script in files(&[".py", ".sh"]) {
        let is_in_path = |c: char| c.is_ascii_alphanumeric() || "_-./$".contains(c);
        for word in script.text.split(|c| !is_in_path(c)) {
            let word = word.trim_matches(['.', '/']);
            // fuzz/run.sh names sources relative to crates/.
            let path =
                if word.starts_with("impasto") && word.contains("/src") { &format!("crates/{word}") } else { word };
            let is_path = FOLDERS.iter().any(|folder| path.starts_with(folder)) && !path.contains('$');
            if is_path {
                let exists = root().join(path).exists();
                findings.check(exists, || format!("{}: {path} does not exist", script.path.display()));
            }
        }
    }
    findings.end(40);
}

/// In sections of ARCHITECTURE whose heading names crates, a single word in backticks is a module of one of them.
#[test]
fn modules_exist() {
    fn is_module(folder: &Path, name: &str) -> bool {
        let mut entries = fs::read_dir(folder).expect("a folder").map(|entry| entry.expect("an entry").path());
        entries.any(|path| path.file_stem().is_some_and(|stem| stem == name) || path.is_dir() && is_module(&path, name))
    }
    let text = read("docs/ARCHITECTURE.md");
    let mut findings = Findings::new();
    for section in text.split("\n#").skip(1) {
        let (heading, body) = section.split_once('\n').expect("a heading");
        let crates: Vec<&str> = heading.split('`').skip(1).step_by(2).collect();
        if crates.is_empty() {
            continue;
        }
        for word in body.split('`').skip(1).step_by(2) {
            if word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_') {
                let is_there = |name: &&str| is_module(&root().join("crates").join(name).join("src"), word);
                findings.check(crates.iter().any(is_there), || format!("no module {word} in {crates:?}"));
            }
        }
    }
    findings.end(10);
}

#[test]
fn links_resolve() {
    let mut findings = Findings::new();
    for page in pages() {
        for link in page.links() {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let folder = page.path.parent().expect("a folder");
            let target = if file.is_empty() { page.path.clone() } else { folder.join(file) };
            let exists = root().join(&target).exists();
            let leads = exists && (anchor.is_empty() || Page::open(&target).anchors().contains(anchor));
            findings.check(leads, || format!("{}: {link} does not resolve", page.path.display()));
        }
    }
    findings.end(20);
}

/// The crates of the workspace, each with its dependencies within the workspace, except for tests.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let folders =
        fs::read_dir(root().join("crates")).expect("crates").map(|entry| entry.expect("an entry").file_name());
    let names: Vec<String> = folders.map(|name| name.to_string_lossy().into_owned()).collect();
    let needs = |name: &String| {
        let manifest = read(format!("crates/{name}/Cargo.toml"));
        let (mut needs, mut is_inside) = (Vec::new(), false);
        for line in manifest.lines() {
            if line.starts_with('[') {
                is_inside = line.ends_with("dependencies]") && !line.contains("dev-") && !line.contains("build-");
            }
            let key = line.split(['.', '=', ' ']).next().unwrap_or_default();
            if is_inside && names.iter().any(|name| name == key) {
                needs.push(key.to_owned());
            }
        }
        (name.clone(), needs)
    };
    names.iter().map(needs).collect()
}

#[test]
fn the_map_of_crates_is_true() {
    let text = read("docs/ARCHITECTURE.md");
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `impasto")?.split('`').next());
    let order: Vec<String> = rows.map(|rest| format!("impasto{rest}")).collect();
    let dependencies = dependencies();
    assert_eq!(order.iter().collect::<BTreeSet<_>>(), dependencies.keys().collect(), "the table of crates");
    let picture = text.split("```text").nth(1).and_then(|rest| rest.split("```").next()).expect("a picture");
    let lines = picture.lines().enumerate();
    let drawn: BTreeMap<&str, usize> = lines
        .flat_map(|(at, line)| line.split_whitespace().map(move |word| (word, at)))
        .filter(|(word, _)| word.starts_with("impasto"))
        .collect();
    let names: BTreeSet<&str> = order.iter().map(String::as_str).collect();
    assert_eq!(drawn.keys().copied().collect::<BTreeSet<_>>(), names, "the picture of crates");
    let place = |name: &String| order.iter().position(|other| other == name);
    for (name, needs) in &dependencies {
        for need in needs {
            let is_above = place(need) < place(name) && drawn[need.as_str()] < drawn[name.as_str()];
            assert!(is_above, "{name} depends on {need}, which is not above it in ARCHITECTURE");
        }
    }
    assert!(dependencies.values().map(Vec::len).sum::<usize>() > 10, "manifests without dependencies");
}

/// Command lines in code blocks are complete. Those in text may omit arguments, but their options must exist.
#[test]
fn commands_parse() {
    let stand_in = |word: String| match word.as_str() {
        "COMMAND" => "encode".to_owned(),
        "S" => "80MB".to_owned(),
        "N" => "1".to_owned(),
        "T" => "q8_0".to_owned(),
        _ => word,
    };
    let mut findings = Findings::new();
    for page in pages() {
        for code in page.code().into_iter().filter(|code| code.text.starts_with("impasto ")) {
            let words = words(&code.text).into_iter().take_while(|word| word != ">" && word != "|").map(stand_in);
            let error = Args::try_parse_from(words).err();
            let is_partial = |kind| {
                matches!(
                    kind,
                    ErrorKind::DisplayHelp
                        | ErrorKind::MissingRequiredArgument
                        | ErrorKind::MissingSubcommand
                        | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
                )
            };
            let is_good = error.as_ref().is_none_or(|error| !code.in_block && is_partial(error.kind()));
            let message = || error.map(|error| error.to_string()).unwrap_or_default();
            findings.check(is_good, || format!("{}: {}\n{}", page.path.display(), code.text, message()));
        }
    }
    findings.end(40);
}

/// Commands such as `cargo test -p CRATE --test NAME` name existing crates, tests, benches and examples.
#[test]
fn cargo_commands_name_what_there_is() {
    let dependencies = dependencies();
    let mut findings = Findings::new();
    for code in pages().iter().flat_map(Page::code) {
        let words: Vec<String> = words(&code.text).into_iter().skip_while(|word| word != "cargo").collect();
        let after = |option: &str| words.iter().skip_while(|word| *word != option).nth(1);
        let Some(name) = after("-p") else { continue };
        let folder = root().join("crates").join(name);
        let is_target = |(option, place): (&str, &str)| {
            after(option).is_none_or(|target| {
                let path = folder.join(place).join(target);
                path.with_extension("rs").exists() || path.join("main.rs").exists()
            })
        };
        let are_there = [("--test", "tests"), ("--bench", "benches"), ("--example", "examples")].map(is_target);
        let is_good = dependencies.contains_key(name) && are_there == [true; 3];
        findings.check(is_good, || format!("not everything in {} exists", code.text));
    }
    findings.end(5);
}
