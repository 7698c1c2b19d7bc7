//! The forms in which models write calls.

use crate::ChatTemplate;

/// The form in which a model writes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": "f", "arguments": {"a": 1}}</tool_call>`: Hermes, Qwen 2.5 and 3, SmolLM 3.
    Hermes,
    /// `{"name": "f", "parameters": {"a": 1}}` at the start of the answer or after `<|python_tag|>`; further ones after `;`:
    /// Llama 3.1 to 3.3.
    Llama,
    /// `[TOOL_CALLS][{"name": "f", "arguments": {"a": 1}}]`, or `[TOOL_CALLS]f{"a": 1}`: Mistral. The marker is a special
    /// token, so the text must be decoded with special tokens.
    Mistral,
    /// `<tool_call><function=f><parameter=a>1</parameter></function></tool_call>`: Qwen 3 Coder.
    Xml,
}

impl ToolFormat {
    /// Tells from a template how its model writes calls. `None` if it does not take tools, or the form is not known.
    pub fn of(template: &ChatTemplate) -> Option<Self> {
        Self::of_text(template.text())
    }

    /// [`Self::of`] for the text of a template.
    pub fn of_text(template: &str) -> Option<Self> {
        let has = |part| template.contains(part);
        let is_llama = || has("<|python_tag|>") || (has("\"parameters\": ") && has("{\"name\": "));
        match () {
            () if !has("tools") => None,
            () if has("[TOOL_CALLS]") => Some(Self::Mistral),
            () if has("<function=") && has("<parameter=") => Some(Self::Xml),
            () if has("<tool_call>") => Some(Self::Hermes),
            () if is_llama() => Some(Self::Llama),
            () => None,
        }
    }
}

/// Whether the model of a template writes what it thinks between `<think>` and `</think>`.
pub fn has_reasoning(template: &ChatTemplate) -> bool {
    template.text().contains("</think>")
}
