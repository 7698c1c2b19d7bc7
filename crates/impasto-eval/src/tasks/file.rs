//! Reads tasks in JSON lines.

use std::io::{BufRead, Read};
use std::path::Path;

use serde::Deserialize;

use super::{LineRule, TaskError};

/// Largest number of bytes in a line; bounds the memory for any file.
pub const MAX_LINE: usize = 1 << 20;

/// A question with its choices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// The question, including any text that the task puts before it ("Question: ").
    pub query: String,
    /// The choices: at least two, none of them empty.
    pub choices: Vec<String>,
    /// Index of the correct choice.
    pub gold: usize,
    /// Line number in the file, from 1.
    pub line: usize,
}

/// A list of questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Task {
    /// The file's name without folder and extension.
    pub name: String,
    /// The file name, for errors.
    pub file: String,
    /// The questions, in file order.
    pub items: Vec<Item>,
}

#[derive(Deserialize)]
struct Raw {
    query: String,
    choices: Vec<String>,
    gold: u64,
}

impl Task {
    /// Reads JSON lines with the fields `query`, `choices` and `gold` (other fields are ignored), up to `limit` items.
    /// Blank lines are skipped. `file` names the source in errors.
    ///
    /// # Errors
    /// [`TaskError::Line`] at the first line that violates a [`LineRule`], [`TaskError::Empty`] if there are no items,
    /// [`TaskError::Io`] from `reader`.
    pub fn read(file: &str, mut reader: impl BufRead, limit: Option<usize>) -> Result<Self, TaskError> {
        let mut items = Vec::new();
        let mut bytes = Vec::new();
        for line in 1.. {
            if limit.is_some_and(|limit| items.len() >= limit) {
                break;
            }
            bytes.clear();
            let read = reader.by_ref().take(MAX_LINE as u64 + 1).read_until(b'\n', &mut bytes);
            if read.map_err(|source| TaskError::Io { file: file.into(), source })? == 0 {
                break;
            }
            if !bytes.trim_ascii().is_empty() {
                items.push(parse(&bytes, line).map_err(|rule| TaskError::Line { file: file.into(), line, rule })?);
            }
        }
        if items.is_empty() {
            return Err(TaskError::Empty { file: file.into() });
        }
        let name = Path::new(file).file_stem().map_or_else(|| file.into(), |stem| stem.to_string_lossy().into_owned());
        Ok(Self { name, file: file.into(), items })
    }
}

fn parse(bytes: &[u8], line: usize) -> Result<Item, LineRule> {
    if bytes.len() > MAX_LINE {
        return Err(LineRule::TooLong { limit: MAX_LINE });
    }
    // The parser sees only this line, so its line number would be misleading.
    let bad = |e: serde_json::Error| LineRule::Json(e.to_string().replace(" at line 1 column ", " at byte "));
    let Raw { query, choices, gold } = serde_json::from_slice(bytes.trim_ascii_end()).map_err(bad)?;
    if query.trim().is_empty() {
        return Err(LineRule::EmptyQuery);
    }
    if choices.len() < 2 {
        return Err(LineRule::FewChoices(choices.len()));
    }
    if let Some(empty) = choices.iter().position(|choice| choice.trim().is_empty()) {
        return Err(LineRule::EmptyChoice(empty));
    }
    match usize::try_from(gold) {
        Ok(index) if index < choices.len() => Ok(Item { query, choices, gold: index, line }),
        _ => Err(LineRule::Gold { gold, choices: choices.len() }),
    }
}

#[cfg(test)]
mod tests {
    use std::io::BufReader;

    use super::*;

    fn read(text: &str) -> Result<Task, TaskError> {
        Task::read("some/quiz.jsonl", text.as_bytes(), None)
    }

    const GOOD: &str = r#"{"query": "Question: 1 + 1?", "choices": ["2", "3"], "gold": 0, "source": "primer"}"#;

    #[test]
    fn items_in_order() {
        let text = format!("{GOOD}\n\n{}\r\n{GOOD}", GOOD.replace("\"gold\": 0", "\"gold\": 1"));
        let task = read(&text).unwrap();
        assert_eq!(task.name, "quiz");
        let found: Vec<_> = task.items.iter().map(|i| (i.line, i.gold, i.choices.len())).collect();
        assert_eq!(found, [(1, 0, 2), (3, 1, 2), (4, 0, 2)]);
        assert_eq!(task.items[0].query, "Question: 1 + 1?");
        let first = Task::read("q", format!("{GOOD}\nnonsense").as_bytes(), Some(1)).unwrap();
        assert_eq!(first.items.len(), 1, "lines after the limit are not read");
    }

    #[test]
    fn each_rule_is_named_with_its_line() {
        for (bad, says) in [
            ("{", "not an item with `query`, `choices` and `gold`: EOF while parsing an object at byte 1"),
            (r#"{"query": "a", "choices": ["b", "c"]}"#, "missing field `gold` at byte 37"),
            (r#"{"choices": ["b", "c"], "gold": 0}"#, "missing field `query`"),
            (r#"{"query": "a", "gold": 0}"#, "missing field `choices`"),
            (r#"{"query": "a", "choices": ["b", 7], "gold": 0}"#, "expected a string"),
            (r#"{"query": "a", "choices": ["b", "c"], "gold": -1}"#, "invalid value: integer `-1`"),
            (r#"{"query": "a", "choices": ["b", "c"], "gold": 0.5}"#, "invalid type: floating point"),
            (r#"{"query": "a", "choices": ["b", "c"], "gold": 0} x"#, "trailing characters"),
            (r#"{"query": " ", "choices": ["b", "c"], "gold": 0}"#, "the query is empty"),
            (r#"{"query": "a", "choices": [], "gold": 0}"#, "0 choices, but at least 2 are required"),
            (r#"{"query": "a", "choices": ["b"], "gold": 0}"#, "1 choices"),
            (r#"{"query": "a", "choices": ["b", "\t"], "gold": 0}"#, "choice 1 is empty"),
            (r#"{"query": "a", "choices": ["b", "c"], "gold": 2}"#, "gold = 2 is not one of the 2 choices"),
            (r#"{"query": "a", "choices": ["b", "c"], "gold": 18446744073709551615}"#, "gold = 18446744073709551615"),
        ] {
            let error = read(&format!("{GOOD}\n{bad}\n")).unwrap_err().to_string();
            assert!(error.starts_with("some/quiz.jsonl, line 2: ") && error.contains(says), "{error} / {says}");
        }
        let error = Task::read("q", &b"{\"query\": \"\xff\"}"[..], None).unwrap_err().to_string();
        assert!(error.starts_with("q, line 1: not an item") && error.contains("unicode"), "{error}");
        for none in ["", "\n \n"] {
            assert_eq!(read(none).unwrap_err().to_string(), "some/quiz.jsonl: no items");
        }
    }

    #[test]
    fn a_line_without_end_is_refused_early() {
        // The input is endless: without the limit, this would never return.
        let endless = BufReader::new(std::io::repeat(b'a'));
        let error = Task::read("q", endless, None).unwrap_err();
        assert!(
            matches!(error, TaskError::Line { line: 1, rule: LineRule::TooLong { limit: MAX_LINE }, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_reader_that_fails() {
        struct Broken;
        impl Read for Broken {
            fn read(&mut self, _: &mut [u8]) -> std::io::Result<usize> {
                Err(std::io::Error::other("the disk is gone"))
            }
        }
        let error = Task::read("q", BufReader::new(Broken), None).unwrap_err();
        assert_eq!(error.to_string(), "q: the disk is gone");
    }
}
