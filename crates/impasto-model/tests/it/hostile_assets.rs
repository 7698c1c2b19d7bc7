//! Assets with single values replaced: every one loads or is refused, none crashes.

use crate::support::{Family, Folder};
use impasto_model::chat::{ChatOptions, ChatTemplate, Message};
use impasto_model::config::DecoderConfig;
use impasto_model::tokenizer::Tokenizer;
use serde_json::{Value, json};

/// Calls `with` on `root` with each value in it, the containers too, replaced by each of a list of odd ones.
fn tamper(root: &Value, with: &mut dyn FnMut(&Value)) {
    let mut pointers = Vec::new();
    collect(root, String::new(), &mut pointers);
    let odd = [
        json!(null),
        json!([]),
        json!({}),
        json!(-1),
        json!(u64::MAX),
        json!(1e308),
        json!(""),
        json!("é{%"),
        json!(true),
    ];
    for pointer in pointers {
        for value in &odd {
            let mut copy = root.clone();
            *copy.pointer_mut(&pointer).unwrap() = value.clone();
            with(&copy);
        }
    }
}

fn collect(value: &Value, at: String, out: &mut Vec<String>) {
    out.push(at.clone());
    let escape = |key: &str| key.replace('~', "~0").replace('/', "~1");
    match value {
        Value::Object(map) => map.iter().for_each(|(k, v)| collect(v, format!("{at}/{}", escape(k)), out)),
        Value::Array(list) => list.iter().enumerate().for_each(|(i, v)| collect(v, format!("{at}/{i}"), out)),
        _ => (),
    }
}

#[test]
fn config() {
    let tiny: Value = serde_json::from_slice(&Folder::tiny().table().assets["config.json"]).unwrap();
    for good in Family::all().iter().map(Family::config).chain([tiny]) {
        let mut refused = 0;
        tamper(&good, &mut |config| {
            let read = DecoderConfig::from_json(&serde_json::to_vec(config).unwrap());
            refused += usize::from(read.is_err());
            if let Ok(config) = read {
                assert!(config.weight_bytes().is_some());
                for rope in &config.ropes {
                    assert!([1, usize::MAX].iter().all(|&n| rope.frequencies(n).iter().all(|f| f.is_finite())));
                }
            }
        });
        assert!(refused > 90, "{}: {refused}", good["model_type"]);
    }
}

#[test]
fn tokenizer() {
    // A vocabulary of the single bytes and a few merges is enough, and quick to load.
    let mut good: Value = serde_json::from_slice(&Folder::tiny().table().assets["tokenizer.json"]).unwrap();
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
    tamper(&good, &mut |config| match ChatTemplate::from_assets(Some(&serde_json::to_vec(config).unwrap()), None) {
        Ok(template) => drop(template.render(&[Message::new("user", "hi")], &ChatOptions::default())),
        Err(_) => refused += 1,
    });
    assert!(refused > 10);
}
