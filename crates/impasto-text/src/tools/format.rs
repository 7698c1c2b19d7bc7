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
            () if !has("tools") || has("<arg_key>") => None,
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_tell_the_form() {
        for (template, expected) in [
            (
                "{% if tools %}return within <tool_call></tool_call>: {\"name\": <name>}{% endif %}",
                Some(ToolFormat::Hermes),
            ),
            ("{{ tools }} <tool_call>\n<function=example>\n<parameter=example>\n", Some(ToolFormat::Xml)),
            (
                "{% if tools %}Respond in the format {\"name\": function name, \"parameters\": dictionary}",
                Some(ToolFormat::Llama),
            ),
            ("{% if tools and builtin %}{{ '<|python_tag|>' + name }}", Some(ToolFormat::Llama)),
            ("{{ '[AVAILABLE_TOOLS]' + tools }}{{ '[TOOL_CALLS] [' }}", Some(ToolFormat::Mistral)),
            ("{{ tools }}<tool_call>{{ name }}<arg_key>{{ key }}</arg_key>", None),
            ("{% for m in messages %}<|im_start|>{{ m.role }}", None),
        ] {
            assert_eq!(ToolFormat::of_text(template), expected, "{template}");
        }
        let template = ChatTemplate::new("{{ tools }}<think></think><tool_call>", Default::default(), None).unwrap();
        assert!(has_reasoning(&template) && ToolFormat::of(&template) == Some(ToolFormat::Hermes));
    }
}
