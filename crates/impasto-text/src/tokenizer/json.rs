//! Reads `tokenizer.json`. The vocabulary and the merges of a BPE model, which are nearly all of it, go straight to their
//! tables.

use std::borrow::Cow;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

use super::bpe::{Bpe, MergeRule, Merges, Settings};
use super::vocabulary::Vocabulary;

/// An id may be this many times the number of tokens; tables of scattered ids would waste memory.
pub const SPARSE: usize = 4;
/// An id up to this is never too large.
pub const SMALL_ID: usize = 1 << 16;

/// The parts of a `tokenizer.json`. Truncation and padding are left out: they are for training batches and would
/// silently truncate a text.
#[derive(Deserialize)]
pub struct Parts<'a> {
    pub version: Option<String>,
    #[serde(borrow)]
    pub added_tokens: Option<&'a RawValue>,
    #[serde(borrow)]
    pub normalizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pub pre_tokenizer: Option<&'a RawValue>,
    #[serde(borrow)]
    pub post_processor: Option<&'a RawValue>,
    #[serde(borrow)]
    pub decoder: Option<&'a RawValue>,
    #[serde(borrow)]
    pub model: &'a RawValue,
}

/// A BPE model as `tokenizer.json` has it.
#[derive(Deserialize, Serialize)]
pub struct BpeModel<'a> {
    /// `BPE`; older files leave it out.
    #[serde(rename = "type")]
    kind: Option<String>,
    dropout: Option<f32>,
    unk_token: Option<String>,
    continuing_subword_prefix: Option<String>,
    end_of_word_suffix: Option<String>,
    fuse_unk: Option<bool>,
    byte_fallback: Option<bool>,
    ignore_merges: Option<bool>,
    #[serde(borrow, skip_serializing)]
    vocab: Option<&'a RawValue>,
    #[serde(borrow, skip_serializing)]
    merges: Option<&'a RawValue>,
}

impl BpeModel<'_> {
    /// Returns the settings; `None` if [`Bpe`] cannot do this. Random merges, prefixes and suffixes are left to the
    /// library.
    pub fn settings(&self) -> Option<Settings> {
        let is_none = |text: &Option<String>| text.as_ref().is_none_or(String::is_empty);
        let supported = self.kind.as_ref().is_none_or(|kind| kind == "BPE")
            && self.dropout.is_none_or(|dropout| dropout == 0.0)
            && is_none(&self.continuing_subword_prefix)
            && is_none(&self.end_of_word_suffix);
        supported.then(|| Settings {
            unk_token: self.unk_token.clone(),
            fuse_unk: self.fuse_unk == Some(true),
            byte_fallback: self.byte_fallback == Some(true),
            ignore_merges: self.ignore_merges == Some(true),
        })
    }
}

/// Reads a BPE model; `None` if the library has to run it.
///
/// # Errors
/// If it is a BPE model, but an invalid one.
pub fn bpe(model: &RawValue) -> serde_json::Result<Option<Bpe>> {
    let Ok(model) = serde_json::from_str::<BpeModel>(model.get()) else { return Ok(None) };
    let (Some(settings), Some((vocab, merges))) = (model.settings(), model.vocab.zip(model.merges)) else {
        return Ok(None);
    };
    let Some(vocabulary) = vocabulary(vocab)? else { return Ok(None) };
    let merges = serde_json::Deserializer::from_str(merges.get()).deserialize_seq(MergesOf(&vocabulary))?;
    Ok(Some(Bpe::new(vocabulary, merges, settings)))
}

/// Reads a vocabulary; `None` if its ids are too far apart for a table, or a token is empty.
fn vocabulary(json: &RawValue) -> serde_json::Result<Option<Vocabulary>> {
    let Texts { text, tokens } = serde_json::from_str(json.get())?;
    let ids = tokens.iter().map(|&(id, ..)| id as usize + 1).max().unwrap_or(0);
    if ids > SMALL_ID.max(tokens.len() * SPARSE) || tokens.iter().any(|&(_, start, end)| start == end) {
        return Ok(None);
    }
    let mut spans = vec![(0, 0); ids];
    for &(id, start, end) in &tokens {
        let place = &mut spans[id as usize];
        if *place != (0, 0) {
            return Err(serde_json::Error::custom(format!("vocab: two tokens have the id {id}")));
        }
        *place = (start, end);
    }
    // Most files have the tokens in the order of their ids already.
    let mut ordered = String::with_capacity(text.len());
    let ends = spans.into_iter().map(|(start, end)| {
        ordered.push_str(&text[start as usize..end as usize]);
        ordered.len() as u32
    });
    let ends = ends.collect();
    Vocabulary::new(ordered, ends).map(Some).map_err(|rule| serde_json::Error::custom(format!("vocab: {rule}")))
}

/// Texts of tokens, one after another, and (id, start, end) of each.
struct Texts {
    text: String,
    tokens: Vec<(u32, u32, u32)>,
}

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("an object of tokens and ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = Texts { text: String::new(), tokens: Vec::new() };
                while let Some(Text(token)) = map.next_key()? {
                    let start = texts.text.len() as u32;
                    texts.text.push_str(&token);
                    let end = u32::try_from(texts.text.len()).map_err(|_| A::Error::custom("4 GiB of tokens"))?;
                    texts.tokens.push((map.next_value()?, start, end));
                }
                Ok(texts)
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// A list of merges: pairs, or strings of two tokens with a space between.
struct MergesOf<'a>(&'a Vocabulary);

impl<'de> Visitor<'de> for MergesOf<'_> {
    type Value = Merges;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("a list of merges")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Merges, A::Error> {
        let mut rules = Vec::new();
        let mut merged = String::new();
        while let Some(merge) = list.next_element_seed(Merge)? {
            let Some((left, right)) = merge else { continue };
            let rank = rules.len();
            merged.clear();
            merged.push_str(&left);
            merged.push_str(&right);
            let find = |token: &str| self.0.id(token).ok_or_else(|| A::Error::custom(MergeRule { rank }));
            rules.push([find(&left)?, find(&right)?, find(&merged)?]);
        }
        Ok(Merges::new(rules))
    }
}

/// One merge; `None` for a line with the version of the list.
struct Merge;

impl<'de> DeserializeSeed<'de> for Merge {
    type Value = Option<(Cow<'de, str>, Cow<'de, str>)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Merge {
    type Value = Option<(Cow<'de, str>, Cow<'de, str>)>;

    fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str("two tokens")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut pair: A) -> Result<Self::Value, A::Error> {
        let (left, right) = (pair.next_element::<Text>()?, pair.next_element::<Text>()?);
        match (left, right, pair.next_element::<serde::de::IgnoredAny>()?) {
            (Some(Text(left)), Some(Text(right)), None) => Ok(Some((left, right))),
            _ => Err(A::Error::custom("a merge is not of two tokens")),
        }
    }

    fn visit_str<E: serde::de::Error>(self, line: &str) -> Result<Self::Value, E> {
        if line.starts_with("#version") {
            return Ok(None);
        }
        match line.split_once(' ') {
            Some((left, right)) if !right.contains(' ') => Ok(Some((left.to_owned().into(), right.to_owned().into()))),
            _ => Err(E::custom(format!("merge {line:?} is not of two tokens"))),
        }
    }
}
