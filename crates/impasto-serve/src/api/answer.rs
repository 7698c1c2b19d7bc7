//! From the text of an answer to its parts: text, reasoning, calls of functions.

use std::hash::{BuildHasher, Hasher, RandomState};

use impasto_text::{ToolEvent, ToolParser};

use super::chat::{Delta, DeltaCall, DeltaFunction};
use super::generation::Finish;
use super::prompt::Prompted;

/// Letters and digits of the ids of calls.
const ALPHABET: &[u8] = b"0123456789abcdefghijklmnopqrstuvwxyz";
/// Their number: what templates of Mistral want.
const ID: usize = 9;

/// The parts of one answer, as its text comes.
pub struct Answer {
    parser: ToolParser,
    /// Whether the answer ends with its first call.
    is_single: bool,
    is_over: bool,
}

impl Answer {
    /// Begins an answer.
    pub fn new(prompted: &Prompted) -> Answer {
        let parser = ToolParser::new(prompted.format).with_tools(&prompted.tools);
        let parser = match prompted.reasoning {
            Some(open) => parser.with_reasoning(open),
            None => parser,
        };
        Answer { parser, is_single: prompted.is_single, is_over: false }
    }

    /// Appends text.
    pub fn push(&mut self, text: &str) -> Vec<Delta> {
        let events = self.parser.push(text);
        self.deltas(events)
    }

    /// Ends the answer.
    pub fn finish(&mut self) -> Vec<Delta> {
        let events = self.parser.finish();
        self.deltas(events)
    }

    /// Whether nothing more is wanted.
    pub fn is_over(&self) -> bool {
        self.is_over
    }

    /// Why the answer ended.
    pub fn reason(&self, finish: Finish) -> Finish {
        if self.parser.calls() > 0 && finish == Finish::Stop { Finish::ToolCalls } else { finish }
    }

    fn deltas(&mut self, events: Vec<ToolEvent>) -> Vec<Delta> {
        let mut deltas = Vec::new();
        for event in events {
            if self.is_over {
                break;
            }
            deltas.push(match event {
                ToolEvent::Text(text) => Delta { content: Some(text), ..Delta::default() },
                ToolEvent::Reasoning(text) => Delta { reasoning_content: Some(text), ..Delta::default() },
                ToolEvent::Begin { index, name } => {
                    let function = DeltaFunction { name: Some(name), arguments: String::new() };
                    call(DeltaCall { index, id: Some(id()), r#type: Some("function"), function })
                }
                ToolEvent::Arguments { index, delta } => {
                    let function = DeltaFunction { name: None, arguments: delta };
                    call(DeltaCall { index, id: None, r#type: None, function })
                }
                ToolEvent::End { .. } => {
                    self.is_over = self.is_single;
                    continue;
                }
            });
        }
        deltas
    }
}

fn call(call: DeltaCall) -> Delta {
    Delta { tool_calls: vec![call], ..Delta::default() }
}

/// Returns a new id.
fn id() -> String {
    let mut random = RandomState::new().build_hasher().finish();
    let mut id = String::new();
    for _ in 0..ID {
        id.push(char::from(ALPHABET[(random % 36) as usize]));
        random /= 36;
    }
    id
}
