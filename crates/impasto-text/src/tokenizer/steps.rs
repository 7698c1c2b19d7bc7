//! The steps of a tokenizer. Sequences and patterns are run here, within bounds; every other step is one of the library
//! `tokenizers`, and adds a bounded amount to a text.

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokenizers::normalizer::SplitDelimiterBehavior;
use tokenizers::pattern::{Invert, Pattern as _};
use tokenizers::{
    Decoder, DecoderWrapper, NormalizedString, Normalizer, NormalizerWrapper, PreTokenizedString, PreTokenizer,
    PreTokenizerWrapper, Result,
};

use super::limits;
use super::pattern::Pattern;

/// Most steps of one kind, and deepest nesting of sequences.
const MAX_STEPS: usize = 64;
const MAX_DEPTH: usize = 4;
/// Longest string of a step in bytes.
const MAX_STRING: usize = 1 << 12;
/// Most steps that map bytes to characters, each of which may double the text.
const MAX_BYTE_LEVEL: usize = 2;
/// Longest replacement of a character in a `Precompiled` map.
const MAX_REPLACEMENT: usize = 64;

/// A step, or several.
#[derive(Debug)]
pub enum Steps<Own, Library> {
    Sequence(Vec<Self>),
    Own(Own),
    Library(Library),
}

/// Replaces the matches of a pattern.
#[derive(Debug)]
pub struct Replace {
    pattern: Pattern,
    content: String,
}

/// Splits a text at the matches of a pattern.
#[derive(Debug)]
pub struct Split {
    pattern: Pattern,
    behavior: SplitDelimiterBehavior,
    invert: bool,
}

pub type Normalizers = Steps<Replace, NormalizerWrapper>;
pub type PreTokenizers = Steps<Split, PreTokenizerWrapper>;
pub type Decoders = Steps<Replace, DecoderWrapper>;

impl Replace {
    fn new(json: &Value) -> Result<Self> {
        let content = String::deserialize(&json["content"]).map_err(|error| format!("content: {error}"))?;
        Ok(Self { pattern: Pattern::new(&json["pattern"], content.len())?, content })
    }
}

impl Split {
    fn new(json: &Value) -> Result<Self> {
        let behavior = Deserialize::deserialize(&json["behavior"]).map_err(|error| format!("behavior: {error}"))?;
        let invert = bool::deserialize(&json["invert"]).map_err(|error| format!("invert: {error}"))?;
        Ok(Self { pattern: Pattern::new(&json["pattern"], 0)?, behavior, invert })
    }
}

/// Reads steps. `list` is the key of the steps of a sequence, and `own` the type of the step that is ours.
fn read<Own, Library: DeserializeOwned>(
    json: &Value,
    list: &str,
    own: (&str, fn(&Value) -> Result<Own>),
    depth: usize,
) -> Result<Steps<Own, Library>> {
    let kind = json["type"].as_str().ok_or("a step without a type")?;
    if kind == "Sequence" {
        let steps = json[list].as_array().ok_or_else(|| format!("a sequence without {list}"))?;
        if depth == MAX_DEPTH {
            return Err(format!("sequences in sequences, more than {MAX_DEPTH} deep").into());
        }
        return steps.iter().map(|step| read(step, list, own, depth + 1)).collect::<Result<_>>().map(Steps::Sequence);
    }
    if kind == own.0 {
        return own.1(json).map(Steps::Own);
    }
    check_strings(json)?;
    if kind == "Precompiled" {
        check_charsmap(json)?;
    }
    Library::deserialize(json).map(Steps::Library).map_err(|error| format!("{kind}: {error}").into())
}

fn check_strings(step: &Value) -> Result<()> {
    let values = step.as_object().into_iter().flatten();
    let long = values.filter(|&(key, _)| key != "precompiled_charsmap");
    match long.filter_map(|(_, value)| value.as_str()).find(|text| text.len() > MAX_STRING) {
        Some(text) => Err(format!("a string of {} bytes, of at most {MAX_STRING}", text.len()).into()),
        None => Ok(()),
    }
}

/// Checks a map of SentencePiece: the size of its trie, then the trie, then replacements that end in a zero byte.
fn check_charsmap(step: &Value) -> Result<()> {
    let wrong = |why: &str| tokenizers::Error::from(format!("precompiled_charsmap: {why}"));
    let map = step["precompiled_charsmap"].as_str().ok_or_else(|| wrong("not a string"))?;
    let map = base64::decode(map).map_err(|error| wrong(&error.to_string()))?;
    let (size, rest) = map.split_first_chunk().ok_or_else(|| wrong("it is cut"))?;
    let size = usize::try_from(u32::from_le_bytes(*size)).unwrap_or(usize::MAX);
    let replacements = rest.get(size..).ok_or_else(|| wrong("it is cut"))?;
    match replacements.split(|&byte| byte == 0).all(|replacement| replacement.len() <= MAX_REPLACEMENT) {
        true => Ok(()),
        false => Err(wrong(&format!("a replacement of more than {MAX_REPLACEMENT} bytes"))),
    }
}

impl<Own, Library> Steps<Own, Library> {
    /// Number of steps for which `is` holds.
    fn count(&self, is: &impl Fn(&Library) -> bool) -> usize {
        match self {
            Self::Sequence(steps) => steps.iter().map(|step| step.count(is)).sum(),
            Self::Own(_) => 0,
            Self::Library(step) => usize::from(is(step)),
        }
    }

    fn len(&self) -> usize {
        match self {
            Self::Sequence(steps) => steps.iter().map(Self::len).sum(),
            _ => 1,
        }
    }

    fn checked(self) -> Result<Self> {
        match self.len() {
            ..=MAX_STEPS => Ok(self),
            n => Err(format!("{n} steps, of at most {MAX_STEPS}").into()),
        }
    }
}

/// Reads a `normalizer`.
///
/// # Errors
/// If it is invalid, or exceeds a bound.
pub fn normalizers(json: &Value) -> Result<Normalizers> {
    read(json, "normalizers", ("Replace", Replace::new), 0).and_then(Steps::checked)
}

/// Reads a `pre_tokenizer`.
///
/// # Errors
/// As [`normalizers`].
pub fn pre_tokenizers(json: &Value) -> Result<PreTokenizers> {
    let steps: PreTokenizers = read(json, "pretokenizers", ("Split", Split::new), 0)?;
    let grows = |step: &PreTokenizerWrapper| matches!(step, PreTokenizerWrapper::ByteLevel(_));
    match steps.count(&grows) {
        ..=MAX_BYTE_LEVEL => steps.checked(),
        n => Err(format!("{n} steps ByteLevel, of at most {MAX_BYTE_LEVEL}").into()),
    }
}

/// Reads a `decoder`.
///
/// # Errors
/// As [`normalizers`].
pub fn decoders(json: &Value) -> Result<Decoders> {
    read(json, "decoders", ("Replace", Replace::new), 0).and_then(Steps::checked)
}

impl Normalizer for Normalizers {
    fn normalize(&self, text: &mut NormalizedString) -> Result<()> {
        limits::check_time()?;
        match self {
            Self::Sequence(steps) => steps.iter().try_for_each(|step| step.normalize(text)),
            Self::Own(Replace { pattern, content }) => text.replace(pattern, content),
            Self::Library(step) => {
                let before = text.get().len();
                step.normalize(text)?;
                limits::grow(text.get().len().saturating_sub(before))
            }
        }
    }
}

impl PreTokenizer for PreTokenizers {
    fn pre_tokenize(&self, text: &mut PreTokenizedString) -> Result<()> {
        limits::check_time()?;
        match self {
            Self::Sequence(steps) => steps.iter().try_for_each(|step| step.pre_tokenize(text)),
            Self::Own(Split { pattern, behavior, invert: false }) => {
                text.split(|_, part| part.split(pattern, *behavior))
            }
            Self::Own(Split { pattern, behavior, invert: true }) => {
                text.split(|_, part| part.split(Invert(pattern), *behavior))
            }
            Self::Library(step) => step.pre_tokenize(text),
        }
    }
}

impl Decoder for Decoders {
    fn decode_chain(&self, tokens: Vec<String>) -> Result<Vec<String>> {
        limits::check_time()?;
        match self {
            Self::Sequence(steps) => steps.iter().try_fold(tokens, |tokens, step| step.decode_chain(tokens)),
            Self::Own(replace) => tokens.iter().map(|token| replace.decode(token)).collect(),
            Self::Library(step) => {
                let length = |tokens: &[String]| tokens.iter().map(String::len).sum::<usize>();
                let before = length(&tokens);
                let tokens = step.decode_chain(tokens)?;
                limits::grow(length(&tokens).saturating_sub(before))?;
                Ok(tokens)
            }
        }
    }
}

impl Replace {
    fn decode(&self, token: &str) -> Result<String> {
        let pieces = (&self.pattern).find_matches(token)?;
        let text = |((start, end), is_match)| if is_match { &self.content } else { &token[start..end] };
        Ok(pieces.into_iter().map(text).collect())
    }
}
