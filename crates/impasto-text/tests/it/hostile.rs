//! Assets with single values replaced: each loads or gives an error, and none panics.

use crate::tamper::tamper;
use impasto_text::{ChatOptions, ChatTemplate, Message, Tokenizer};
use serde_json::{Value, json};

#[test]
fn tokenizer() {
    // Single bytes and a few merges are enough, and load quickly.
    let mut good: Value = serde_json::from_slice(&crate::streams::asset("tokenizer.json")).unwrap();
    let vocab = good["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|_, id| id.as_u64().unwrap() < 270);
    let merges = good["model"]["merges"].as_array_mut().unwrap();
    merges.truncate(3);
    let vocab = good["model"]["vocab"].as_object_mut().unwrap();
    vocab.retain(|token, id| id.as_u64().unwrap() > 254 || token.len() == 1 || token == "<|endoftext|>");
    let mut refused = 0;
    tamper(&good, &mut |tokenizer| match Tokenizer::from_json(&serde_json::to_vec(tokenizer).unwrap()) {
        Ok(tokenizer) => {
            if let Ok(ids) = tokenizer.encode("Hello <|endoftext|> world é", true) {
                let _ = tokenizer.decode(&ids, true);
                let mut stream = tokenizer.stream(&[]);
                ids.iter().for_each(|&id| drop(stream.push(id)));
            }
        }
        Err(_) => refused += 1,
    });
    assert!(refused > 100);
}

#[test]
fn chat_template() {
    let good = json!({
        "bos_token": {"content": "<s>"},
        "eos_token": "</s>",
        "chat_template": [{"name": "default", "template": "{{ bos_token }}{{ messages[0].content }}"}]
    });
    let mut refused = 0;
    let load = |config: &Value| ChatTemplate::from_assets(Some(&serde_json::to_vec(config).unwrap()), None, None);
    tamper(&good, &mut |config| match load(config) {
        Ok(template) => drop(template.render(&[Message::new("user", "hi")], &ChatOptions::default())),
        Err(_) => refused += 1,
    });
    assert!(refused > 10);
}
