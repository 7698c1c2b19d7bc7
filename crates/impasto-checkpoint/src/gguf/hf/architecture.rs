//! The architectures that have a name in both formats.

/// An architecture of the Llama family.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Architecture {
    /// Llama 2 and 3, SmolLM, Mistral.
    Llama,
    /// Qwen 2 and 2.5: biases on q, k and v.
    Qwen2,
    /// Qwen 3: norms on q and k.
    Qwen3,
    /// Gemma 1.
    Gemma,
    /// Gemma 2: norms before and after each sublayer, soft caps.
    Gemma2,
    /// The text part of Gemma 3: norms before and after each sublayer, local and global attention.
    Gemma3,
    /// Phi 3 and 4: fused projections.
    Phi3,
    /// SmolLM 3: no rotary positions in every fourth block.
    SmolLm3,
}

use Architecture::*;

/// For each architecture: its name in GGUF, and the `model_type` and class in its `config.json`.
const NAMES: [(Architecture, &str, &str, &str); 8] = [
    (Llama, "llama", "llama", "LlamaForCausalLM"),
    (Qwen2, "qwen2", "qwen2", "Qwen2ForCausalLM"),
    (Qwen3, "qwen3", "qwen3", "Qwen3ForCausalLM"),
    (Gemma, "gemma", "gemma", "GemmaForCausalLM"),
    (Gemma2, "gemma2", "gemma2", "Gemma2ForCausalLM"),
    (Gemma3, "gemma3", "gemma3_text", "Gemma3ForCausalLM"),
    (Phi3, "phi3", "phi3", "Phi3ForCausalLM"),
    (SmolLm3, "smollm3", "smollm3", "SmolLM3ForCausalLM"),
];

/// Mistral is a Llama, sometimes with a sliding window. Both are called `llama` in GGUF.
pub(super) const MISTRAL: (&str, &str) = ("mistral", "MistralForCausalLM");

impl Architecture {
    /// Returns the architecture with this name in GGUF (`general.architecture`).
    pub fn from_gguf(name: &str) -> Option<Architecture> {
        NAMES.iter().find(|row| row.1 == name).map(|row| row.0)
    }

    /// Returns the architecture with this `model_type` in `config.json`.
    pub fn from_model_type(model_type: &str) -> Option<Architecture> {
        let model_type = if model_type == MISTRAL.0 { "llama" } else { model_type };
        NAMES.iter().find(|row| row.2 == model_type).map(|row| row.0)
    }

    /// Returns its name in GGUF, which is also the prefix of its keys.
    pub fn gguf_name(self) -> &'static str {
        self.row().1
    }

    /// Returns its `model_type` and its class in `config.json`.
    pub(super) fn hf_names(self) -> (&'static str, &'static str) {
        (self.row().2, self.row().3)
    }

    /// Returns whether this is Gemma 1, 2 or 3.
    pub(super) fn is_gemma(self) -> bool {
        matches!(self, Gemma | Gemma2 | Gemma3)
    }

    /// Returns whether the two halves of a q or k head are interleaved in GGUF, for its rotation of adjacent rows.
    pub(super) fn interleaves_heads(self) -> bool {
        matches!(self, Llama | SmolLm3)
    }

    fn row(self) -> &'static (Architecture, &'static str, &'static str, &'static str) {
        &NAMES[self as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::{Architecture, NAMES};

    #[test]
    fn the_table_is_in_the_order_of_the_enum() {
        for row in NAMES {
            assert_eq!(row.0.gguf_name(), row.1);
            assert_eq!(Architecture::from_gguf(row.1), Some(row.0));
            assert_eq!(Architecture::from_model_type(row.2), Some(row.0));
        }
        assert_eq!(Architecture::from_model_type("mistral"), Some(Architecture::Llama));
    }
}
