//! Our BPE and the compiled form against the library `tokenizers`.

use impasto_text::Tokenizer;
use impasto_text::tokenizer::{NotCompiled, compile};
use proptest::prelude::*;
use serde_json::{Value, json};

/// Enough spaces in front of a `tokenizer.json` for a compiled form to be worth it.
fn padded(json: &Value) -> Vec<u8> {
    let mut bytes = vec![b' '; 4 << 20];
    bytes.extend(json.to_string().into_bytes());
    bytes
}

fn added(content: &str, id: u32, flags: &[&str]) -> Value {
    let has = |flag| flags.contains(&flag);
    json!({
        "id": id, "content": content, "single_word": has("single_word"), "lstrip": has("lstrip"),
        "rstrip": has("rstrip"), "normalized": has("normalized"), "special": has("special"),
    })
}

/// The byte-level model of the tiny model of this repository, with other settings and steps.
fn byte_level(normalizer: Value, pre_tokenizer: Value, ignore_merges: bool) -> Value {
    let mut tokenizer: Value = serde_json::from_slice(&crate::streams::asset("tokenizer.json")).unwrap();
    let tokens = [
        added("<|user|>", 4096, &["special", "lstrip"]),
        added("<|end|>", 4097, &["special", "rstrip"]),
        added("once", 4098, &["single_word"]),
        added("É", 4099, &["normalized"]),
    ];
    tokenizer["added_tokens"].as_array_mut().unwrap().extend(tokens);
    tokenizer["normalizer"] = normalizer;
    tokenizer["pre_tokenizer"] = pre_tokenizer;
    tokenizer["model"]["ignore_merges"] = ignore_merges.into();
    tokenizer["model"]["continuing_subword_prefix"] = "".into();
    tokenizer
}

/// A model with byte fallback, of all pairs and some longer runs of a few characters. An unknown token is `<unk>`.
fn byte_fallback(normalizer: Value, pre_tokenizer: Value, bytes: usize, fuse_unk: bool) -> Value {
    let mut tokens: Vec<String> = ["<unk>", "<s>", "</s>"].map(String::from).to_vec();
    tokens.extend((0..bytes).map(|byte| format!("<0x{byte:02X}>")));
    let characters = ["\u{2581}", "a", "b", "n", "é", "灯", "\n"].map(String::from);
    tokens.extend(characters.clone());
    let mut merges = Vec::new();
    let mut last: Vec<String> = characters.to_vec();
    for length in 2..5 {
        let mut longer = Vec::new();
        for (i, left) in last.iter().enumerate() {
            for (j, right) in characters.iter().enumerate() {
                if (i * 7 + j * 3 + length) % 5 < 2 {
                    merges.push(json!([left, right]));
                    longer.push(format!("{left}{right}"));
                }
            }
        }
        tokens.extend(longer.clone());
        last = longer;
    }
    let vocab: serde_json::Map<_, _> = tokens.into_iter().zip((0..).map(Value::from)).collect();
    json!({
        "version": "1.0",
        "added_tokens": [added("<unk>", 0, &["special"]), added("<s>", 1, &["special"]), added("</s>", 2, &["special"])],
        "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
        },
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "\u{2581}"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 0},
        ]},
        "model": {
            "type": "BPE", "unk_token": "<unk>", "fuse_unk": fuse_unk, "byte_fallback": true,
            "vocab": vocab, "merges": merges,
        },
    })
}

/// One tokenizer of each form that models have.
fn forms() -> Vec<(&'static str, Value)> {
    let bytes =
        |regex| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let split = |pattern: &str| {
        let pattern = json!({"Regex": pattern});
        let split = json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    let llama = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
    let replace = json!({"type": "Replace", "pattern": {"String": " "}, "content": "\u{2581}"});
    let prepend = json!({"type": "Prepend", "prepend": "\u{2581}"});
    let space = json!({"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": false});
    let metaspace = json!({"type": "Metaspace", "replacement": "\u{2581}", "prepend_scheme": "first", "split": false});
    let mut legacy = byte_fallback(Value::Null, metaspace.clone(), 256, false);
    for merge in legacy["model"]["merges"].as_array_mut().unwrap() {
        *merge = format!("{} {}", merge[0].as_str().unwrap(), merge[1].as_str().unwrap()).into();
    }
    vec![
        ("GPT-2", byte_level(Value::Null, bytes(true), false)),
        (
            "SmolLM2",
            byte_level(Value::Null, json!({"type": "Sequence", "pretokenizers": [digits, bytes(true)]}), false),
        ),
        ("Llama 3", byte_level(Value::Null, split(llama), true)),
        ("Qwen", byte_level(json!({"type": "NFC"}), split(llama), false)),
        ("Gemma", byte_fallback(replace.clone(), space, 256, true)),
        (
            "Llama 2",
            byte_fallback(json!({"type": "Sequence", "normalizers": [prepend, replace]}), Value::Null, 256, true),
        ),
        ("Mistral", legacy),
        ("few bytes", byte_fallback(Value::Null, metaspace.clone(), 200, false)),
        ("few bytes, unknown ones fused", byte_fallback(Value::Null, metaspace, 200, true)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn the_tokens_are_those_of_the_library(
        texts in prop::collection::vec("([ -~\n]|[ab▁n灯é\u{301}]|\\PC|<s>|<\\|user\\|>| once |É){0,30}", 3)
    ) {
        thread_local!(static FORMS: Vec<(&'static str, tokenizers::Tokenizer, [Tokenizer; 2])> = forms().iter().map(|(name, json)| {
            let bytes = padded(json);
            let compiled = compile(&bytes, &["an"]).unwrap_or_else(|why| panic!("{name}: {why:?}"));
            let library = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
            (*name, library, [Tokenizer::from_json(&bytes).unwrap(), Tokenizer::from_compiled(&compiled).unwrap()])
        }).collect());
        FORMS.with(|forms| for (name, library, ours) in forms {
            for text in &texts {
                for special in [false, true] {
                    let ids = library.encode_fast(text.as_str(), special).unwrap().get_ids().to_vec();
                    for tokenizer in ours {
                        assert_eq!(tokenizer.encode(text, special).unwrap(), ids, "{name}: {text:?}");
                        let decoded = library.decode(&ids, !special).unwrap();
                        assert_eq!(tokenizer.decode(&ids, !special).unwrap(), decoded, "{name}: {ids:?}");
                    }
                }
            }
        });
    }
}

#[test]
fn every_token_and_its_id_are_kept() {
    for (name, json) in forms() {
        let bytes = padded(&json);
        let library = tokenizers::Tokenizer::from_bytes(&bytes).unwrap();
        let compiled = Tokenizer::from_compiled(&compile(&bytes, &[]).unwrap()).unwrap();
        assert_eq!(compiled.vocab_size(), library.get_vocab_size(true), "{name}");
        for (token, id) in library.get_vocab(true) {
            assert_eq!(compiled.token_to_id(&token), Some(id), "{name}: {token:?}");
        }
    }
}

#[test]
fn what_has_no_compiled_form_says_why() {
    let (_, gpt2) = forms().remove(0);
    assert_eq!(compile(gpt2.to_string().as_bytes(), &[]), Err(NotCompiled::Small));
    let mut words = gpt2.clone();
    words["model"] = json!({"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"});
    assert_eq!(compile(&padded(&words), &[]), Err(NotCompiled::Model));
    let mut prefix = gpt2.clone();
    prefix["model"]["dropout"] = 0.5.into();
    assert_eq!(compile(&padded(&prefix), &[]), Err(NotCompiled::Model));
    let mut broken = gpt2;
    broken["model"]["merges"] = json!([["a", "nowhere"]]);
    assert!(matches!(compile(&padded(&broken), &[]), Err(NotCompiled::Invalid(_))));
}

/// A small form, to be damaged everywhere.
fn small() -> Vec<u8> {
    let json = json!({
        "version": "1.0",
        // The form leaves it out, and so must the comparison with the library.
        "truncation": {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0},
        "added_tokens": [added("<s>", 6, &["special"])],
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "é": 2, "ab": 3, "abé": 5}, "merges": ["a b", "ab é"]},
    });
    compile(&padded(&json), &[]).unwrap()
}

#[test]
fn a_damaged_form_is_an_error_or_another_tokenizer() {
    let good = small();
    let tokenizer = Tokenizer::from_compiled(&good).unwrap();
    assert_eq!(tokenizer.encode("abé<s>ba", false).unwrap(), [5, 5, 1, 0], "the added token has the id of the library");
    let use_it = |bytes: &[u8]| match Tokenizer::from_compiled(bytes) {
        Ok(tokenizer) => {
            let ids = tokenizer.encode("abé<s> ba", true).unwrap_or_default();
            assert!(ids.iter().all(|&id| id < 64), "{ids:?}");
            drop(tokenizer.decode(&[0, 1, 2, 3, 4, 5, 6, 7, u32::MAX], false));
            true
        }
        Err(error) => {
            assert!(error.to_string().starts_with("tokenizer.json#compiled: "), "{error}");
            false
        }
    };
    assert!((0..good.len()).all(|length| !use_it(&good[..length])), "a cut form");
    assert!(!use_it(&[&good[..], &[0]].concat()), "a longer form");
    let mut refused = 0;
    for at in 0..good.len() {
        for value in [0, 1, 2, 0x7F, 0x80, 0xFF, good[at] ^ 1, good[at] ^ 0x20, good[at].wrapping_add(1)] {
            let mut bytes = good.clone();
            bytes[at] = value;
            refused += usize::from(!use_it(&bytes));
        }
    }
    assert!(refused > good.len(), "{refused}");
    // Counts of far more than there is.
    for at in 1..5 {
        let mut bytes = good.clone();
        bytes.splice(at..=at, [0xFF, 0xFF, 0xFF, 0xFF, 0x7F]);
        assert!(!use_it(&bytes));
    }
}
