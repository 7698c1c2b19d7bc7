//! Separates the text of a model into answer, reasoning and calls, while it arrives.

use serde_json::Value;

use super::ToolFormat;
use super::body::{Body, Step};
use super::json::JsonBody;
use super::xml::XmlBody;

/// A part of a model's text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ToolEvent {
    /// Text of the answer.
    Text(String),
    /// Text that the model thinks before it answers.
    Reasoning(String),
    /// A call begins.
    Begin {
        /// Its position among the calls of the text.
        index: usize,
        /// Name of the function.
        name: String,
    },
    /// More of the arguments of a call.
    Arguments {
        /// Its position.
        index: usize,
        /// A part of the text of a JSON object.
        delta: String,
    },
    /// A call ends.
    End {
        /// Its position.
        index: usize,
    },
}

/// Reads a model's text piece by piece. However it is cut into pieces, the events are the same, but for where texts are cut.
///
/// Text is returned as soon as it cannot be part of a call. A call is returned when it is complete and valid, so there is one
/// [`ToolEvent::Arguments`] for each; what only looks like a call is text. White space next to a call or to reasoning is
/// dropped. The time is proportional to the length of the text.
///
/// ```
/// use impasto_text::tools::{ToolEvent, ToolFormat, ToolParser};
/// let mut parser = ToolParser::new(Some(ToolFormat::Hermes));
/// assert_eq!(parser.push("Let me see. <tool"), [ToolEvent::Text("Let me see.".into())]);
/// let events = parser.push("_call>{\"name\": \"time\", \"arguments\": {}}</tool_call>");
/// assert_eq!(events[0], ToolEvent::Begin { index: 0, name: "time".into() });
/// assert!(parser.finish().is_empty());
/// ```
pub struct ToolParser {
    format: Option<ToolFormat>,
    tools: Vec<Value>,
    has_reasoning: bool,
    is_reasoning: bool,
    place: Place,
    /// White space, then a part of a marker, or a marker and a part of a call.
    held: String,
    /// Bytes of white space at the start of `held`.
    space: usize,
    body: Option<Body>,
    calls: usize,
    events: Vec<ToolEvent>,
}

/// Where in a text the parser is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At the start.
    Start,
    /// After text.
    Inside,
    /// After a call, or at one of the ends of the reasoning.
    After,
}

/// What follows a marker.
#[derive(Clone, Copy)]
enum Then {
    /// A call as a JSON object.
    Json,
    /// The same, of which the marker is a part.
    JsonAlready,
    /// What Mistral writes.
    Mistral,
    /// A call in tags.
    Xml,
    /// The same, of which the marker is a part.
    XmlAlready,
    /// Nothing; the marker is dropped.
    Nothing,
    /// Reasoning.
    Reasoning,
    /// The answer.
    Answer,
}

type Marker = (&'static str, Then);

impl ToolParser {
    /// Creates a parser for the form in which a model writes calls; `None` for a text without calls.
    pub fn new(format: Option<ToolFormat>) -> Self {
        Self {
            format,
            tools: Vec::new(),
            has_reasoning: false,
            is_reasoning: false,
            place: Place::Start,
            held: String::new(),
            space: 0,
            body: None,
            calls: 0,
            events: Vec::new(),
        }
    }

    /// Gives the descriptions of the functions, as in the OpenAI API. [`ToolFormat::Xml`] needs them to tell texts from numbers.
    pub fn with_tools(self, tools: &[Value]) -> Self {
        Self { tools: tools.to_vec(), ..self }
    }

    /// Separates reasoning between `<think>` and `</think>` at the start of the text. If it is open, the prompt ended with
    /// `<think>`, so the text begins inside.
    pub fn with_reasoning(self, open: bool) -> Self {
        let place = if open { Place::After } else { Place::Start };
        Self { has_reasoning: true, is_reasoning: open, place, ..self }
    }

    /// Number of calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Reads a piece of the text.
    pub fn push(&mut self, piece: &str) -> Vec<ToolEvent> {
        piece.chars().for_each(|c| self.read(c));
        std::mem::take(&mut self.events)
    }

    /// Ends the text. A call that is not complete is text.
    pub fn finish(&mut self) -> Vec<ToolEvent> {
        self.body = None;
        self.write(self.held.len());
        std::mem::take(&mut self.events)
    }

    fn read(&mut self, c: char) {
        self.held.push(c);
        match self.body.as_mut().map(|body| body.push(c, &self.tools)) {
            None => self.find_marker(),
            Some(Step::More) => {}
            Some(Step::Done(calls)) => {
                self.body = None;
                self.drop_held();
                for call in calls {
                    let index = self.calls;
                    self.calls += 1;
                    self.events.push(ToolEvent::Begin { index, name: call.name });
                    self.events.push(ToolEvent::Arguments { index, delta: call.arguments });
                    self.events.push(ToolEvent::End { index });
                }
            }
            Some(Step::Not) => {
                self.body = None;
                // The last character may begin a marker.
                self.write(self.held.len() - c.len_utf8());
                self.find_marker();
            }
        }
    }

    /// Looks for a marker in what is held. Writes what cannot be a part of one.
    fn find_marker(&mut self) {
        loop {
            let rest = &self.held[self.space..];
            self.space += rest.len() - rest.trim_start().len();
            let rest = &self.held[self.space..];
            let Some(first) = rest.chars().next() else { return };
            let found = self.markers().find(|(marker, _)| marker.starts_with(rest));
            match found {
                None => self.write(self.space + first.len_utf8()),
                Some((marker, _)) if rest.len() < marker.len() => return,
                Some((marker, then)) => return self.begin(marker, then),
            }
        }
    }

    fn begin(&mut self, marker: &str, then: Then) {
        let mut body = match then {
            Then::Json => Body::Json(JsonBody::call(true)),
            Then::JsonAlready => Body::Json(JsonBody::call(false)),
            Then::Mistral => Body::Mistral(Default::default()),
            Then::Xml | Then::XmlAlready => Body::Xml(XmlBody::default()),
            Then::Nothing | Then::Reasoning | Then::Answer => {
                self.is_reasoning = matches!(then, Then::Reasoning);
                self.has_reasoning &= matches!(then, Then::Nothing);
                return self.drop_held();
            }
        };
        if matches!(then, Then::JsonAlready | Then::XmlAlready) {
            marker.chars().for_each(|c| drop(body.push(c, &self.tools)));
        }
        self.body = Some(body);
    }

    /// The markers that may come next.
    fn markers(&self) -> impl Iterator<Item = Marker> + use<> {
        let reasoning: &[Marker] = match (self.is_reasoning, self.has_reasoning && self.place == Place::Start) {
            (true, _) => &[("</think>", Then::Answer)],
            (false, true) => &[("<think>", Then::Reasoning)],
            (false, false) => &[],
        };
        let format = self.format.filter(|_| !self.is_reasoning);
        let always: &[Marker] = match format {
            None => &[],
            Some(ToolFormat::Hermes) => &[("<tool_call>", Then::Json)],
            Some(ToolFormat::Llama) => &[("<|python_tag|>", Then::Json)],
            Some(ToolFormat::Mistral) => &[("[TOOL_CALLS]", Then::Mistral)],
            Some(ToolFormat::Xml) => &[("<tool_call>", Then::Xml), ("<function=", Then::XmlAlready)],
        };
        let here: &[Marker] = match (format, self.place) {
            (Some(ToolFormat::Llama), Place::After) if self.calls > 0 => &[("{", Then::JsonAlready), (";", Then::Json)],
            (Some(ToolFormat::Llama), Place::Start | Place::After) => &[("{", Then::JsonAlready)],
            (Some(ToolFormat::Hermes | ToolFormat::Xml), Place::After) if self.calls > 0 => {
                &[("</tool_call>", Then::Nothing)]
            }
            _ => &[],
        };
        reasoning.iter().chain(always).chain(here).copied()
    }

    fn drop_held(&mut self) {
        self.held.clear();
        self.space = 0;
        self.place = Place::After;
    }

    /// Writes the first bytes of what is held.
    fn write(&mut self, bytes: usize) {
        let rest = self.held.split_off(bytes);
        let text = std::mem::replace(&mut self.held, rest);
        self.space = 0;
        let text = if self.place == Place::After { text.trim_start() } else { &text };
        if text.is_empty() {
            return;
        }
        self.place = Place::Inside;
        match (self.events.last_mut(), self.is_reasoning) {
            (Some(ToolEvent::Text(before)), false) | (Some(ToolEvent::Reasoning(before)), true) => {
                before.push_str(text)
            }
            (_, false) => self.events.push(ToolEvent::Text(text.to_owned())),
            (_, true) => self.events.push(ToolEvent::Reasoning(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests;
