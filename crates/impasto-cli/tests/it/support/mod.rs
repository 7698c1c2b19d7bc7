//! Runs the command in a temporary folder.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The command with arguments.
pub fn impasto(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_impasto"));
    command.args(args);
    command
}

/// The path of the tiny model.
pub fn tiny() -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny").display().to_string()
}

/// A temporary folder.
pub struct Workplace(TempDir);

impl Workplace {
    pub fn new() -> Workplace {
        Workplace(tempfile::tempdir().expect("a folder"))
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    pub fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).expect("writes");
    }

    /// Names of all files in the folder, including temporary ones.
    pub fn left(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.0.path()).expect("a folder");
        let mut names: Vec<String> =
            entries.map(|e| e.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::of(impasto(args).current_dir(self.0.path()).output().expect("starts"))
    }
}

/// The result of a command.
#[derive(Debug)]
pub struct Ran {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn of(output: Output) -> Ran {
        let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
        // On a busy machine, a command may take so long that it says how far it is, such as "30s calibrating".
        let is_progress = |line: &&str| {
            let time = line.split_once(' ').map_or("", |(time, _)| time);
            let number = time.strip_suffix(['s', 'm']).unwrap_or("");
            !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit())
        };
        let err = text(output.stderr);
        let err = err.split_inclusive('\n').filter(|line| !is_progress(line)).collect();
        Ran { code: output.status.code(), out: text(output.stdout), err }
    }

    /// Checks that it succeeded.
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "{} {}", self.out, self.err);
        self
    }

    /// Checks that it succeeded, and parses its JSON output.
    pub fn json(self) -> serde_json::Value {
        serde_json::from_str(&self.ok().out).expect("JSON on stdout")
    }

    /// Checks that it failed with this exit code and one line on stderr that contains `says`, without output.
    pub fn fails(&self, code: i32, says: &str) {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert!(self.out.is_empty(), "{self:?}");
        assert!(self.err.starts_with("impasto: ") && self.err.ends_with('\n'), "{self:?}");
        assert_eq!(self.err.lines().count(), 1, "{self:?}");
        assert!(self.err.contains(says) && !self.err.contains("panicked"), "{self:?} does not say {says:?}");
        // No SPEC reference is repeated.
        let message = self.err.trim_end();
        assert!(!message.contains("(SPEC") || message.matches("(SPEC").count() == 1, "{self:?}");
    }
}
