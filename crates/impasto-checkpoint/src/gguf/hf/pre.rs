//! Pre-tokenizers of `gpt2` vocabularies: their names in GGUF and their form in `tokenizer.json`.
//!
//! The names, and which of them are synonyms, are from llama.cpp (`llama-vocab.cpp`); the expressions are from the
//! models' own `tokenizer.json`. Unknown names are refused, since a wrong pre-tokenizer silently produces wrong tokens.
//! This includes `default`, which converters write for unknown pre-tokenizers.

use serde_json::{Value as Json, json};

use super::rules::TranslationRule;

/// A pre-tokenizer and its related settings.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Pre {
    /// Names in GGUF; the first one is used for writing.
    names: &'static [&'static str],
    /// How text is split.
    pieces: Pieces,
    /// Whether text is first normalized to Unicode NFC.
    pub composes: bool,
    /// Whether a piece that is a token is used without merges.
    pub ignores_merges: bool,
    /// Whether texts start with the BOS token by default.
    pub adds_bos: bool,
}

/// How text is split into the pieces that merges work on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pieces {
    /// By the expression of GPT-2, which is built into the library tokenizers.
    Gpt2,
    /// Into single digits, then like GPT-2.
    DigitsThenGpt2,
    /// By an expression.
    Expression(&'static str),
}

use Pieces::*;

/// Llama 3 and cl100k: numbers in groups of three digits.
const NUMBERS_IN_THREES: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Qwen 2: single digits.
const SINGLE_DIGITS: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// Mistral's tekken: words by case, single digits.
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// o200k, Phi 4 mini: words by case, numbers in groups of three digits.
const O200K: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

const fn pre(names: &'static [&'static str], pieces: Pieces) -> Pre {
    Pre { names, pieces, composes: false, ignores_merges: false, adds_bos: false }
}

const KNOWN: [Pre; 7] = [
    Pre {
        ignores_merges: true,
        adds_bos: true,
        ..pre(&["llama-bpe", "llama3", "llama-v3"], Expression(NUMBERS_IN_THREES))
    },
    // Includes Phi 4.
    pre(&["dbrx", "smaug-bpe"], Expression(NUMBERS_IN_THREES)),
    Pre { composes: true, ..pre(&["qwen2", "deepseek-r1-qwen"], Expression(SINGLE_DIGITS)) },
    Pre { ignores_merges: true, adds_bos: true, ..pre(&["tekken"], Expression(TEKKEN)) },
    pre(&["gpt-4o"], Expression(O200K)),
    pre(&["smollm", "starcoder", "refact"], DigitsThenGpt2),
    pre(&["gpt-2", "phi-2"], Gpt2),
];

impl Pre {
    /// Returns the pre-tokenizer with a name in GGUF.
    pub fn of_gguf(name: Option<&str>) -> Result<&'static Pre, TranslationRule> {
        let Some(name) = name else {
            return Err(TranslationRule::unsupported("the file does not name its pre-tokenizer (an old conversion)"));
        };
        let unknown = || TranslationRule::unsupported(format!("pre-tokenizer \"{name}\" is not known"));
        KNOWN.iter().find(|pre| pre.names.contains(&name)).ok_or_else(unknown)
    }

    /// Returns the pre-tokenizer of a `tokenizer.json`.
    pub fn of_json(
        normalizer: &Json,
        pre_tokenizer: &Json,
        ignores_merges: bool,
    ) -> Result<&'static Pre, TranslationRule> {
        let unknown = |what: &str, json: &Json| {
            TranslationRule::unsupported(format!("there is no known GGUF name for the {what} {json}"))
        };
        let composes = match normalizer {
            Json::Null => false,
            _ if normalizer["type"] == "NFC" => true,
            _ => return Err(unknown("normalizer", normalizer)),
        };
        // llama.cpp never normalizes, so a model without NFC can use the name of a pre-tokenizer with it.
        let fits = |pre: &&Pre| {
            pieces_of(pre_tokenizer) == Some(pre.pieces)
                && pre.ignores_merges == ignores_merges
                && (pre.composes || !composes)
        };
        KNOWN.iter().find(fits).ok_or_else(|| unknown("pre_tokenizer", pre_tokenizer))
    }

    /// Returns the name to write to GGUF.
    pub fn name(&self) -> &'static str {
        self.names[0]
    }

    /// Returns the `normalizer` of `tokenizer.json`.
    pub fn normalizer(&self) -> Json {
        if self.composes { json!({"type": "NFC"}) } else { Json::Null }
    }

    /// Returns the `pre_tokenizer` of `tokenizer.json`.
    pub fn pre_tokenizer(&self) -> Json {
        let bytes = |use_regex: bool| byte_level(false, use_regex);
        match self.pieces {
            Gpt2 => bytes(true),
            DigitsThenGpt2 => sequence([json!({"type": "Digits", "individual_digits": true}), bytes(true)]),
            Expression(expression) => sequence([
                json!({"type": "Split", "pattern": {"Regex": expression}, "behavior": "Isolated", "invert": false}),
                bytes(false),
            ]),
        }
    }
}

/// Returns the step that maps bytes to characters, for a pre-tokenizer or a decoder.
pub(super) fn byte_level(add_prefix_space: bool, use_regex: bool) -> Json {
    json!({"type": "ByteLevel", "add_prefix_space": add_prefix_space, "trim_offsets": true, "use_regex": use_regex})
}

fn sequence<const N: usize>(steps: [Json; N]) -> Json {
    json!({"type": "Sequence", "pretokenizers": steps.to_vec()})
}

/// Returns how a `pre_tokenizer` splits text, or `None` if it is unknown. `trim_offsets` has no effect on tokens.
fn pieces_of(pre_tokenizer: &Json) -> Option<Pieces> {
    let steps: Vec<&Json> = match &pre_tokenizer["pretokenizers"] {
        Json::Array(steps) => steps.iter().collect(),
        _ => vec![pre_tokenizer],
    };
    let (last, before) = steps.split_last()?;
    // Older tokenizers lack this field, and its default is true.
    let by_gpt2 = last["use_regex"].as_bool().unwrap_or(true);
    if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
        return None;
    }
    match before {
        [] if by_gpt2 => Some(Gpt2),
        [digits] if by_gpt2 && digits["type"] == "Digits" && digits["individual_digits"] == true => {
            Some(DigitsThenGpt2)
        }
        [split] if !by_gpt2 && split["type"] == "Split" && keeps_matches(split) => {
            let expression = split["pattern"]["Regex"].as_str()?;
            let expressions = [NUMBERS_IN_THREES, SINGLE_DIGITS, TEKKEN, O200K];
            expressions.into_iter().find(|known| *known == expression).map(Expression)
        }
        _ => None,
    }
}

/// Returns whether each match becomes a piece. The expressions match every part of a text, so there is nothing between
/// matches.
fn keeps_matches(split: &Json) -> bool {
    split["behavior"] == "Isolated" || split["behavior"] == "Removed" && split["invert"] == true
}

#[cfg(test)]
mod tests {
    use super::{KNOWN, Pre};

    #[test]
    fn each_pre_tokenizer_is_known_again_from_its_json() {
        for pre in &KNOWN {
            let found = Pre::of_json(&pre.normalizer(), &pre.pre_tokenizer(), pre.ignores_merges).unwrap();
            assert_eq!(found, pre);
            assert!(pre.names.iter().all(|name| Pre::of_gguf(Some(name)).unwrap() == pre));
        }
        assert!(Pre::of_gguf(Some("default")).unwrap_err().to_string().contains("\"default\" is not known"));
        assert!(Pre::of_gguf(None).is_err());
    }
}
