//! The compiled form of a `tokenizer.json` (SPEC 15): the same tokenizer, a third as large and read ten times as fast.
//!
//! Of a BPE model it keeps the texts of the tokens in the order of their ids, and for each merge its result and the
//! length of its left token. The other parts stay JSON.

use impasto_core::varint::{self, unzigzag, zigzag};
use serde_json::{Map, Value};

use super::Tokenizer;
use super::bpe::{Bpe, MergeRule, Merges};
use super::json::{BpeModel, Parts};
use super::limits::bounded;
use super::pipeline::{AnyModel, Pipeline, assemble};
use super::vocabulary::Vocabulary;

type Result<T, E = tokenizers::Error> = std::result::Result<T, E>;

/// Version of the form.
const VERSION: u64 = 1;
/// Least size of a `tokenizer.json` for which its compiled form is worth its bytes in a file. Smaller ones are read within
/// 30 ms.
const WORTH: usize = 4 << 20;

/// A text of many scripts, with unusual spaces, combined and invisible characters, digits and line ends.
const ODD: &str = "  I'll pay 1234567.89€\r\n\r\n\t…\u{a0}\u{3000}\u{200b}\u{feff}don't WE'VE\n \n  \u{0}\u{7f}\u{85}\u{fffd} x=1;//\
    Straße ﬁ ﬀ Å A\u{30a} e\u{301}\u{323} हिन्दी 한국어 \u{1112}\u{1161}\u{11ab} 日本語、中文。 العربية עברית ไทย ქართული Ω≠Ω ½²③ ﷺ 👩‍👩‍👧‍👦🇩🇪🏽 \u{10ffff}▁▁ ▁a Ġ<0x0A>";

/// Why there is no compiled form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotCompiled {
    /// Its `tokenizer.json` is read fast enough.
    Small,
    /// The model is not BPE, or has settings that the form cannot hold.
    Model,
    /// `tokenizer.json` is invalid.
    Invalid(String),
    /// It gives other tokens than the library `tokenizers`.
    Differs,
}

/// Returns the compiled form of a `tokenizer.json`, if it gives the tokens of the library `tokenizers` on every sample.
///
/// # Errors
/// If there is no such form.
pub fn compile(json: &[u8], samples: &[&str]) -> Result<Vec<u8>, NotCompiled> {
    if json.len() < WORTH {
        return Err(NotCompiled::Small);
    }
    let invalid = |error: String| NotCompiled::Invalid(error);
    let made = bounded(json.len(), || write(json)).map_err(invalid)?.ok_or(NotCompiled::Model)?;
    let tokenizer = Tokenizer::from_compiled(&made).map_err(|error| invalid(error.to_string()))?;
    let reference = bounded(json.len(), || {
        let mut reference = tokenizers::Tokenizer::from_bytes(json)?;
        reference.with_padding(None);
        reference.with_truncation(None)?;
        Ok(reference)
    });
    let reference = reference.map_err(invalid)?;
    let added = reference.get_added_tokens_decoder();
    let added = added.values().map(|token| format!("{0} a{0}{0}", token.content)).collect::<String>();
    let texts = samples.iter().copied().chain([ODD, &added]);
    match texts.into_iter().all(|text| agrees(&tokenizer, &reference, text)) && same_tokens(&tokenizer, &reference) {
        true => Ok(made),
        false => Err(NotCompiled::Differs),
    }
}

/// Whether all ids have the tokens of the library.
fn same_tokens(tokenizer: &Tokenizer, reference: &tokenizers::Tokenizer) -> bool {
    let ids = 0..reference.get_vocab_size(true) as u32;
    let token = |id| reference.id_to_token(id);
    let same = |id| {
        token(id) == tokenizer.0.id_to_token(id)
            && token(id).map(|t| tokenizer.token_to_id(&t)) == token(id).map(|t| reference.token_to_id(&t))
    };
    ids.clone().all(same) && tokenizer.vocab_size() == reference.get_vocab_size(true)
}

/// Whether a tokenizer does to a text what the library does.
fn agrees(tokenizer: &Tokenizer, reference: &tokenizers::Tokenizer, text: &str) -> bool {
    // Ours first: unlike the library, it is bounded.
    let own = tokenizer.encode(text, true).and_then(|ids| Ok((tokenizer.decode(&ids, false)?, ids)));
    let Ok((own_decoded, own)) = own else { return false };
    let ids = bounded(text.len(), || Ok(reference.encode_fast(text, true)?.get_ids().to_vec()));
    let decoded = ids.clone().and_then(|ids| bounded(text.len(), || reference.decode(&ids, false)));
    ids == Ok(own) && decoded == Ok(own_decoded)
}

/// Returns the compiled form; `None` if the model is not one that it can hold.
fn write(json: &[u8]) -> Result<Option<Vec<u8>>> {
    let parts: Parts = serde_json::from_slice(json)?;
    let Some(bpe) = super::json::bpe(parts.model)? else { return Ok(None) };
    let settings = settings(&parts)?;
    let Bpe { vocabulary, merges, .. } = &bpe;
    let (mut lengths, mut text, mut results, mut lefts) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for id in 0..vocabulary.ids() {
        let token = vocabulary.text(id).unwrap_or_default();
        varint::write(&mut lengths, token.len() as u64);
        text.extend_from_slice(token.as_bytes());
    }
    let mut next = 0;
    for &[left, _, result] in merges.rules() {
        varint::write(&mut results, zigzag(result as i32 - next).into());
        next = result as i32 + 1;
        varint::write(&mut lefts, vocabulary.text(left).unwrap_or_default().len() as u64);
    }
    let mut out = Vec::new();
    let counts = [settings.len(), vocabulary.ids() as usize, text.len(), merges.rules().len()];
    [VERSION].into_iter().chain(counts.map(|n| n as u64)).for_each(|n| varint::write(&mut out, n));
    for field in [settings.into_bytes(), lengths, text, results, lefts] {
        out.extend(field);
    }
    Ok(Some(out))
}

/// Returns all that is not in the tables, without white space.
fn settings(parts: &Parts) -> serde_json::Result<String> {
    let mut settings = Map::new();
    if let Some(version) = &parts.version {
        settings.insert("version".into(), version.as_str().into());
    }
    let model = serde_json::to_value(serde_json::from_str::<BpeModel>(parts.model.get())?)?;
    let Parts { added_tokens, normalizer, pre_tokenizer, post_processor, decoder, .. } = *parts;
    let of_library = [
        ("added_tokens", added_tokens),
        ("normalizer", normalizer),
        ("pre_tokenizer", pre_tokenizer),
        ("post_processor", post_processor),
        ("decoder", decoder),
    ];
    for (name, part) in of_library {
        if let Some(part) = part {
            settings.insert(name.into(), serde_json::from_str::<Value>(part.get())?);
        }
    }
    settings.insert("model".into(), model);
    serde_json::to_string(&settings)
}

/// Reads a compiled form.
///
/// # Errors
/// If it is invalid or of another version.
pub fn read(bytes: &[u8]) -> Result<Pipeline> {
    let mut rest = bytes;
    if varint::read(&mut rest)? != VERSION {
        return Err("another version".into());
    }
    let mut count = || varint::read(&mut rest).map(|n| usize::try_from(n).unwrap_or(usize::MAX));
    let (settings, ids, text, merges) = (count()?, count()?, count()?, count()?);
    let settings = std::str::from_utf8(take(&mut rest, settings)?)?;
    let ends = ends(&mut rest, ids)?;
    let text = std::str::from_utf8(take(&mut rest, text)?)?.to_owned();
    let vocabulary = Vocabulary::new(text, ends)?;
    let merges = read_merges(&mut rest, merges, &vocabulary)?;
    if !rest.is_empty() {
        return Err("bytes after the end".into());
    }
    let parts: Parts = serde_json::from_str(settings)?;
    let model = serde_json::from_str::<BpeModel>(parts.model.get())?;
    let settings = model.settings().ok_or("a model that is not BPE, or has a prefix, a suffix or dropout")?;
    assemble(&parts, AnyModel::Bpe(Bpe::new(vocabulary, merges, settings)))
}

fn take<'a>(rest: &mut &'a [u8], length: usize) -> Result<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(length).ok_or("it is cut")?;
    *rest = after;
    Ok(taken)
}

/// Reads the lengths of the texts of `ids` tokens; returns their ends.
fn ends(rest: &mut &[u8], ids: usize) -> Result<Vec<u32>> {
    // Every length takes a byte at least, so this bounds the memory.
    let mut ends = Vec::with_capacity(ids.min(rest.len()));
    let mut end = 0u32;
    for _ in 0..ids {
        let length = u32::try_from(varint::read(rest)?).ok();
        end = length.and_then(|length| end.checked_add(length)).ok_or("4 GiB of tokens")?;
        ends.push(end);
    }
    Ok(ends)
}

fn read_merges(rest: &mut &[u8], count: usize, vocabulary: &Vocabulary) -> Result<Merges> {
    let broken = |rank| MergeRule { rank };
    // Until its tokens are known, the left one is its length.
    let mut rules = Vec::with_capacity(count.min(rest.len()));
    let mut next = 0i32;
    for rank in 0..count {
        let step = u32::try_from(varint::read(rest)?).map_err(|_| broken(rank))?;
        let result = next.checked_add(unzigzag(step)).ok_or(broken(rank))?;
        rules.push([0, 0, result as u32]);
        next = result.checked_add(1).ok_or(broken(rank))?;
    }
    for [left, ..] in &mut rules {
        *left = u32::try_from(varint::read(rest)?).unwrap_or(u32::MAX);
    }
    find_tokens(&mut rules, vocabulary)?;
    Ok(Merges::new(rules))
}

/// Finds the left and the right token of each merge. This is most of the time of reading, so it is shared by two threads.
fn find_tokens(rules: &mut [[u32; 3]], vocabulary: &Vocabulary) -> Result<(), MergeRule> {
    let find = |from: usize, rules: &mut [[u32; 3]]| {
        rules.iter_mut().enumerate().try_for_each(|(i, [left, right, result])| {
            let texts = vocabulary.text(*result).and_then(|text| text.split_at_checked(*left as usize));
            let ids = texts.and_then(|(left, right)| vocabulary.id(left).zip(vocabulary.id(right)));
            (*left, *right) = ids.ok_or(MergeRule { rank: from + i })?;
            Ok(())
        })
    };
    let middle = rules.len() / 2;
    let (first, second) = rules.split_at_mut(middle);
    let (helped, second) = std::thread::scope(|scope| {
        let helper = std::thread::Builder::new().spawn_scoped(scope, || find(0, first));
        let second = find(middle, second);
        (helper.ok().and_then(|helper| helper.join().ok()), second)
    });
    // Where no thread can start, the first half is left to do.
    helped.unwrap_or_else(|| find(0, &mut rules[..middle])).and(second)
}
