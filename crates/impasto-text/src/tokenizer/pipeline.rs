//! A tokenizer from the parts of `tokenizer.json`, by the library `tokenizers`. Only BPE, sequences of steps and patterns
//! are our own.

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use tokenizers::models::{ModelWrapper, TrainerWrapper};
use tokenizers::{AddedToken, Model, PostProcessorWrapper, Result, Token, TokenizerImpl};

use super::bpe::Bpe;
use super::json::{self, Parts};
use super::steps::{Decoders, Normalizers, PreTokenizers, decoders, normalizers, pre_tokenizers};
use super::template;

/// A complete tokenizer.
pub type Pipeline = TokenizerImpl<AnyModel, Normalizers, PreTokenizers, PostProcessorWrapper, Decoders>;

/// Version of `tokenizer.json`.
const VERSION: &str = "1.0";

/// Most bytes of all added tokens.
const MAX_ADDED_BYTES: usize = 4 << 20;
/// Longest word of a WordPiece model in characters; its time grows with the square of it.
const MAX_WORD: usize = 1000;

/// An entry of `added_tokens`. Its `id` is not used: as in the library, the vocabulary or the position gives the id.
#[derive(Deserialize)]
struct Added {
    #[serde(rename = "id")]
    _id: u32,
    content: String,
    single_word: bool,
    lstrip: bool,
    rstrip: bool,
    normalized: bool,
    special: bool,
}

impl From<Added> for AddedToken {
    fn from(added: Added) -> Self {
        let Added { _id, content, single_word, lstrip, rstrip, normalized, special } = added;
        AddedToken { content, single_word, lstrip, rstrip, normalized, special }
    }
}

/// Builds the tokenizer of a `tokenizer.json`.
///
/// # Errors
/// If a part is invalid.
pub fn from_json(json: &[u8]) -> Result<Pipeline> {
    let parts: Parts = serde_json::from_slice(json)?;
    let model = match json::bpe(parts.model)? {
        Some(bpe) => AnyModel::Bpe(bpe),
        None => AnyModel::Library(library_model(parts.model)?),
    };
    assemble(&parts, model)
}

/// Reads a model that the library runs.
fn library_model(json: &RawValue) -> Result<ModelWrapper> {
    let model = serde_json::from_str(json.get()).map_err(|error| format!("model: {error}"))?;
    match &model {
        ModelWrapper::WordPiece(model) if model.max_input_chars_per_word > MAX_WORD => {
            let characters = model.max_input_chars_per_word;
            Err(format!("model: max_input_chars_per_word = {characters}, of at most {MAX_WORD}").into())
        }
        _ => Ok(model),
    }
}

/// Builds the tokenizer from a model and the other parts.
///
/// # Errors
/// If a part is invalid.
pub fn assemble(parts: &Parts, model: AnyModel) -> Result<Pipeline> {
    if let Some(version) = parts.version.as_ref().filter(|&version| version != VERSION) {
        return Err(format!("version {version:?} is not {VERSION:?}").into());
    }
    let mut pipeline = Pipeline::new(model);
    pipeline.with_normalizer(step("normalizer", parts.normalizer, normalizers)?)?;
    pipeline.with_pre_tokenizer(step("pre_tokenizer", parts.pre_tokenizer, pre_tokenizers)?);
    let post_processor = |json: &Value| {
        template::check(json)?;
        PostProcessorWrapper::deserialize(json).map_err(Into::into)
    };
    pipeline.with_post_processor(step("post_processor", parts.post_processor, post_processor)?);
    pipeline.with_decoder(step("decoder", parts.decoder, decoders)?);
    pipeline.add_tokens(added_tokens(parts.added_tokens)?)?;
    Ok(pipeline)
}

/// Reads a step, if there is one.
fn step<T>(name: &str, json: Option<&RawValue>, read: impl FnOnce(&Value) -> Result<T>) -> Result<Option<T>> {
    let of = |json: &RawValue| read(&serde_json::from_str(json.get())?);
    json.map(|json| of(json).map_err(|error| format!("{name}: {error}").into())).transpose()
}

fn added_tokens(json: Option<&RawValue>) -> Result<Vec<AddedToken>> {
    let added: Option<Vec<Added>> = json
        .map(|json| serde_json::from_str(json.get()))
        .transpose()
        .map_err(|error| format!("added_tokens: {error}"))?;
    let added = added.unwrap_or_default();
    let bytes: usize = added.iter().map(|token| token.content.len()).sum();
    if bytes > MAX_ADDED_BYTES {
        return Err(format!("added_tokens: {bytes} bytes of tokens, of at most {MAX_ADDED_BYTES}").into());
    }
    Ok(added.into_iter().map(Into::into).collect())
}

/// A model: BPE, or one of the library.
#[derive(Debug)]
pub enum AnyModel {
    Bpe(Bpe),
    Library(ModelWrapper),
}

impl Model for AnyModel {
    type Trainer = TrainerWrapper;

    fn tokenize(&self, word: &str) -> Result<Vec<Token>> {
        match self {
            Self::Bpe(bpe) => {
                let (mut tokens, mut at) = (Vec::new(), 0);
                bpe.tokenize(word, &mut |id, length| {
                    // The text of a token is only for showing.
                    tokens.push(Token::new(id, String::new(), (at, at + length)));
                    at += length;
                })?;
                Ok(tokens)
            }
            Self::Library(model) => model.tokenize(word),
        }
    }

    fn token_to_id(&self, token: &str) -> Option<u32> {
        match self {
            Self::Bpe(bpe) => bpe.vocabulary.id(token),
            Self::Library(model) => model.token_to_id(token),
        }
    }

    fn id_to_token(&self, id: u32) -> Option<String> {
        match self {
            Self::Bpe(bpe) => bpe.vocabulary.text(id).map(str::to_owned),
            Self::Library(model) => model.id_to_token(id),
        }
    }

    fn get_vocab(&self) -> HashMap<String, u32> {
        match self {
            Self::Bpe(bpe) => {
                let ids = 0..bpe.vocabulary.ids();
                ids.filter_map(|id| Some((bpe.vocabulary.text(id)?.to_owned(), id))).collect()
            }
            Self::Library(model) => model.get_vocab(),
        }
    }

    fn get_vocab_size(&self) -> usize {
        match self {
            Self::Bpe(bpe) => bpe.vocabulary.len(),
            Self::Library(model) => model.get_vocab_size(),
        }
    }

    fn save(&self, folder: &Path, prefix: Option<&str>) -> Result<Vec<PathBuf>> {
        match self {
            Self::Bpe(_) => Err("a tokenizer that is in use is not saved".into()),
            Self::Library(model) => model.save(folder, prefix),
        }
    }

    fn get_trainer(&self) -> TrainerWrapper {
        match self {
            Self::Bpe(_) => tokenizers::models::bpe::BpeTrainer::default().into(),
            Self::Library(model) => model.get_trainer(),
        }
    }
}
