//! Token ids against transformers, and text decoded one token at a time.

use impasto_text::{StreamDecoder, Tokenizer};

/// An asset of the tiny model of this repository.
pub fn asset(name: &str) -> Vec<u8> {
    std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/tiny/").to_owned() + name).unwrap()
}

fn tiny() -> Tokenizer {
    Tokenizer::from_asset(Some(&asset("tokenizer.json"))).unwrap()
}

#[test]
fn token_ids_are_those_of_transformers() {
    let tokenizer = tiny();
    let cases = include_bytes!("../golden/tokenizer.json");
    let cases: Vec<serde_json::Value> = serde_json::from_slice(cases).unwrap();
    for case in &cases {
        let text = case["text"].as_str().unwrap();
        let ids: Vec<u32> = serde_json::from_value(case["ids"].clone()).unwrap();
        assert_eq!(tokenizer.encode(text, false).unwrap(), ids, "{text}");
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
        // One token at a time gives the same text, in whole characters.
        for seed in [&[][..], &ids] {
            let mut stream = tokenizer.stream(seed);
            let mut shown = String::new();
            for &id in &ids {
                let piece = stream.push(id).unwrap();
                assert!(!piece.contains('\u{fffd}'), "{piece:?}");
                shown.push_str(&piece);
            }
            shown.push_str(&stream.finish().unwrap());
            assert_eq!(shown, text.replace("<|endoftext|>", ""));
        }
    }
}

#[test]
fn broken_characters_are_shown_at_last() {
    let tokenizer = tiny();
    let crab = tokenizer.encode("🦀", false).unwrap();
    assert!(crab.len() > 1, "the test needs a character of several tokens");
    let mut stream = tokenizer.stream(&[]);
    assert_eq!(stream.push(crab[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    // A run of them is not held back forever, and valid text after it is shown.
    let mut stream = tokenizer.stream(&[]);
    let run: Vec<String> = (0..40).map(|_| stream.push(crab[0]).unwrap()).collect();
    assert!(run.concat().chars().count() >= 24);
    let mut after = String::new();
    for id in tokenizer.encode(" and so on", false).unwrap() {
        after.push_str(&stream.push(id).unwrap());
    }
    assert!(after.ends_with(" and so on"), "{after:?}");
}

/// A tokenizer in the style of SentencePiece: a few words, and single bytes for everything else.
fn byte_fallback() -> Tokenizer {
    let bytes = (0..=255).map(|byte| format!("<0x{byte:02X}>"));
    let words = ["\u{2581}", "a", "b", "\u{2581}a"].map(String::from);
    let vocab: serde_json::Map<_, _> = bytes.chain(words).zip((0..).map(serde_json::Value::from)).collect();
    let json = serde_json::json!({
        "version": "1.0",
        "normalizer": { "type": "Replace", "pattern": { "String": " " }, "content": "\u{2581}" },
        "decoder": { "type": "Sequence", "decoders": [
            { "type": "Replace", "pattern": { "String": "\u{2581}" }, "content": " " },
            { "type": "ByteFallback" },
            { "type": "Fuse" },
            { "type": "Strip", "content": " ", "start": 1, "stop": 0 },
        ] },
        "model": { "type": "BPE", "byte_fallback": true, "vocab": vocab, "merges": ["\u{2581} a"] },
    });
    Tokenizer::from_json(json.to_string().as_bytes()).unwrap()
}

#[test]
fn a_stream_begins_between_characters() {
    let tokenizer = byte_fallback();
    let text = "a 灯台の光b🦀灯 é台ba";
    let ids = tokenizer.encode(text, false).unwrap();
    assert_eq!(ids.len(), 2 + 12 + 1 + 4 + 3 + 1 + 2 + 3 + 2, "the test needs a token for each byte");
    // End the prompt after each character in turn.
    for (end, _) in text.char_indices() {
        let prompt = tokenizer.encode(&text[..end], false).unwrap();
        assert_eq!(prompt, ids[..prompt.len()]);
        let mut stream = tokenizer.stream(&prompt);
        let mut shown: String = ids[prompt.len()..].iter().map(|&id| stream.push(id).unwrap()).collect();
        shown.push_str(&stream.finish().unwrap());
        assert_eq!(shown, text[end..], "after {:?}", &text[..end]);
    }
    // A prompt that ends in invalid text does not block the stream.
    let mut stream = tokenizer.stream(&[0x80; 9]);
    let shown: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert!(shown.ends_with("ba"), "{shown:?}");
}

#[test]
fn the_bytes_of_tokens_are_those_of_the_text() {
    for tokenizer in [tiny(), byte_fallback()] {
        let text = "a 灯台 b🦀 é\n\tthe \u{fffd} a";
        let ids = tokenizer.encode(text, false).unwrap();
        let bytes: Vec<u8> = ids.iter().flat_map(|&id| tokenizer.token_bytes(id).unwrap()).collect();
        assert_eq!(String::from_utf8_lossy(&bytes), text);
        assert!(ids.iter().any(|&id| tokenizer.token_text(id).unwrap() == "\u{fffd}"), "a part of a character");
        assert_eq!(tokenizer.token_bytes(u32::MAX), None);
    }
    let tokenizer = tiny();
    let special = tokenizer.token_to_id("<|endoftext|>").unwrap();
    assert!(tokenizer.is_special(special) && !tokenizer.is_special(tokenizer.token_to_id("a").unwrap()));
    assert_eq!(tokenizer.token_bytes(special).unwrap(), b"<|endoftext|>");
}

#[test]
fn a_stream_may_own_its_tokenizer_and_show_special_tokens() {
    let tokenizer = std::sync::Arc::new(tiny());
    let ids = tokenizer.encode("a<|endoftext|>b", false).unwrap();
    let text = |stream: StreamDecoder<std::sync::Arc<Tokenizer>>| {
        let mut stream = stream;
        let text: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
        text + &stream.finish().unwrap()
    };
    assert_eq!(text(StreamDecoder::new(tokenizer.clone(), &[])), "ab");
    assert_eq!(text(StreamDecoder::new(tokenizer.clone(), &ids).with_special()), "a<|endoftext|>b");
}
