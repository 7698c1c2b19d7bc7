//! Chat templates.

use serde_json::Value as Json;

use crate::Asset;
use crate::gguf::Metadata;
use crate::gguf::hf::json::Object;
use crate::gguf::hf::rules::TranslationRule;
use crate::gguf::hf::tokenizer::CHAT;
use crate::gguf::hf::{CHAT_TEMPLATE, TOKENIZER_CONFIG, find};

/// The names of the templates other than the default.
const NAMES: &str = "tokenizer.chat_templates";

/// Writes the template of `chat_template.jinja` or, without that, those of `tokenizer_config.json`.
pub(super) fn write(
    assets: &[Asset],
    tokenizer_config: Option<&Object>,
    metadata: &mut Metadata,
) -> Result<(), TranslationRule> {
    if let Some(template) = find(assets, CHAT_TEMPLATE) {
        let text = std::str::from_utf8(template).map_err(|error| TranslationRule::asset(CHAT_TEMPLATE, error))?;
        metadata.insert(CHAT, text);
        return Ok(());
    }
    match tokenizer_config.and_then(|config| config.get("chat_template")) {
        None => {}
        Some(Json::String(template)) => metadata.insert(CHAT, template.as_str()),
        Some(Json::Array(list)) => {
            let mut names = Vec::new();
            for entry in list {
                let (Some(name), Some(template)) = (entry["name"].as_str(), entry["template"].as_str()) else {
                    return Err(TranslationRule::asset(TOKENIZER_CONFIG, "a chat_template without name or template"));
                };
                if name == "default" {
                    metadata.insert(CHAT, template);
                } else {
                    metadata.insert(format!("{CHAT}.{name}"), template);
                    names.push(name.to_owned());
                }
            }
            if !names.is_empty() {
                metadata.insert(NAMES, names);
            }
        }
        Some(_) => return Err(TranslationRule::asset(TOKENIZER_CONFIG, "chat_template is neither text nor a list")),
    }
    Ok(())
}
