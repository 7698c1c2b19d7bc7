//! Special tokens, and the tokens that are added around a text.

use serde_json::Value as Json;

use crate::Asset;
use crate::gguf::Metadata;
use crate::gguf::hf::GENERATION_CONFIG;
use crate::gguf::hf::json::Object;
use crate::gguf::hf::rules::TranslationRule;
use crate::gguf::hf::special::{ADD_BOS, ADD_EOS, BOS, EOS, EOT, PAD, UNK};

use super::tokens::Tokens;

/// Writes the ids of special tokens. A token in `tokenizer_config.json` has precedence over an id in `config.json`.
pub(super) fn write(
    assets: &[Asset],
    tokenizer: &Object,
    tokenizer_config: Option<&Object>,
    config: &Object,
    tokens: &Tokens,
    metadata: &mut Metadata,
) -> Result<(), TranslationRule> {
    let (before, after) = template(tokenizer.get("post_processor").unwrap_or(&Json::Null))?;
    let named = |key: &str| {
        let token = tokenizer_config?.get(key)?;
        // A token is either its text or an object with its text.
        tokens.id(token.as_str().or_else(|| token["content"].as_str())?)
    };
    let id_of = |text: Option<&str>| text.and_then(|text| tokens.id(text));
    let known = |id: &u32| tokens.has(*id);
    let role = |name: &str| {
        named(&format!("{name}_token")).or(config.ids(&format!("{name}_token_id")).into_iter().find(known))
    };
    let bos = role("bos").or(id_of(before));
    let eos = role("eos").or(id_of(after));
    for (text, id, place) in [(before, bos, "before"), (after, eos, "after")] {
        if text.is_some() && id_of(text) != id {
            let what = format!(
                "\"{}\" is added {place} each text, but it is not the special token for that",
                text.unwrap_or_default()
            );
            return Err(TranslationRule::unsupported(what));
        }
    }
    let mut set = |key: &str, id: Option<u32>| id.into_iter().for_each(|id| metadata.insert(key, id));
    set(BOS, bos);
    set(EOS, eos);
    set(UNK, role("unk").or(id_of(unknown(tokenizer)?.as_deref())));
    set(PAD, role("pad"));
    let generation = Object::of(assets, GENERATION_CONFIG)?;
    let ends = generation.map(|generation| generation.ids("eos_token_id")).unwrap_or_default();
    set(EOT, ends.into_iter().chain(config.ids("eos_token_id")).filter(known).find(|&id| Some(id) != eos));
    metadata.insert(ADD_BOS, before.is_some());
    metadata.insert(ADD_EOS, after.is_some());
    Ok(())
}

fn unknown(tokenizer: &Object) -> Result<Option<String>, TranslationRule> {
    let model = tokenizer.object("model")?;
    model.map_or(Ok(None), |model| Ok(model.str("unk_token")?.map(str::to_owned)))
}

/// Returns the tokens that a post-processor adds before and after a text.
fn template(processor: &Json) -> Result<(Option<&str>, Option<&str>), TranslationRule> {
    let unsupported = || TranslationRule::unsupported(format!("post_processor {processor}"));
    match processor["type"].as_str() {
        None | Some("ByteLevel") => Ok((None, None)),
        Some("Sequence") => {
            let mut found = (None, None);
            for step in processor["processors"].as_array().ok_or_else(unsupported)? {
                match template(step)? {
                    (None, None) => {}
                    around => found = around,
                }
            }
            Ok(found)
        }
        Some("TemplateProcessing") => {
            let steps = processor["single"].as_array().ok_or_else(unsupported)?;
            let text = steps.iter().position(|step| step.get("Sequence").is_some()).ok_or_else(unsupported)?;
            let (before, after) = (steps.get(..text), steps.get(text + 1..));
            Ok((token(before, &unsupported)?, token(after, &unsupported)?))
        }
        Some(_) => Err(unsupported()),
    }
}

/// Returns the special token of these steps, of which there may be at most one.
fn token<'a>(
    steps: Option<&'a [Json]>,
    unsupported: &dyn Fn() -> TranslationRule,
) -> Result<Option<&'a str>, TranslationRule> {
    match steps {
        None | Some([]) => Ok(None),
        Some([step]) => step["SpecialToken"]["id"].as_str().map(Some).ok_or_else(unsupported),
        Some(_) => Err(unsupported()),
    }
}
