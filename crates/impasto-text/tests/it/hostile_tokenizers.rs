//! Tokenizers that make the library fail, or take memory or time without end: each is an error that names
//! `tokenizer.json`, soon.

#[path = "../../src/tokenizer/processor_time.rs"]
mod processor_time;

use std::time::Duration;

use impasto_text::Tokenizer;
use processor_time::processor_time;
use serde_json::{Value, json};

/// Processor time. Far more than any of these takes, and less than each would without bounds.
const SOON: Duration = Duration::from_secs(20);

fn tokenizer(parts: Value) -> Value {
    let mut tokenizer = json!({
        "version": "1.0",
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2, "\u{e9}": 3, "[": 4}, "merges": ["a b"]},
    });
    tokenizer.as_object_mut().unwrap().extend(parts.as_object().unwrap().clone());
    tokenizer
}

/// Loads a tokenizer and uses it on a text; returns the error of the first step that fails.
fn error_of(json: &Value, text: &str) -> Option<String> {
    let begun = processor_time();
    let run = || {
        let tokenizer = Tokenizer::from_json(json.to_string().as_bytes())?;
        tokenizer.encode(text, true)?;
        tokenizer.decode(&[0, 1, 2, 3].repeat(text.len() / 4), false)
    };
    let error = run().err().map(|error| error.to_string());
    let taken = processor_time() - begun;
    assert!(taken < SOON, "{taken:?}: {error:?}");
    error
}

/// Checks that a tokenizer is refused, on load or on a text, and that the message holds `rule`.
fn refused(parts: Value, text: &str, rule: &str) {
    let json = tokenizer(parts);
    let error = error_of(&json, text).unwrap_or_else(|| panic!("not refused: {rule}"));
    assert!(error.starts_with("tokenizer.json: ") && error.contains(rule), "{error:?} does not say {rule:?}");
    assert!(!error.contains('\n'), "{error:?}");
}

#[test]
fn panics_of_the_library_are_errors() {
    let model = json!({"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"], "continuing_subword_prefix": "##"});
    refused(json!({"model": model}), "ab", "the library tokenizers fails on it");
    refused(json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "!"}}), "ab", "precompiled_charsmap");
    refused(
        json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "////fwAA"}}),
        "ab",
        "precompiled_charsmap: it is cut",
    );
    // A trie of one unit that points outside.
    refused(
        json!({"normalizer": {"type": "Precompiled", "precompiled_charsmap": "BAAAAP////8AAAAA"}}),
        "ab",
        "fails on it",
    );
}

#[test]
fn other_panics_stay_panics() {
    panics_of_the_library_are_errors();
    assert!(std::panic::catch_unwind(|| panic!("as ever")).is_err());
}

/// 10^5 tokens of 2^20 bytes, in the vocabulary and added to it.
#[test]
fn long_tokens_are_not_gathered_without_end() {
    let long = "a".repeat(1 << 20);
    let model = json!({"type": "BPE", "vocab": {"b": 0, long.clone(): 1}, "merges": []});
    let added = json!([{"id": 2, "content": format!("{long}b"), "single_word": false, "lstrip": false, "rstrip": false,
        "normalized": false, "special": false}]);
    let json = tokenizer(json!({"model": model, "added_tokens": added})).to_string();
    let tokenizer = Tokenizer::from_json(json.as_bytes()).expect("a tokenizer");
    for id in [1, 2] {
        let error = tokenizer.decode(&vec![id; 100_000], false).expect_err("10^11 bytes").to_string();
        assert!(error.contains("more than 32 times as long"), "{error}");
    }
    assert_eq!(tokenizer.decode(&[0; 1000], false).expect("short").matches('b').count(), 1000);
}

#[test]
fn steps_that_make_a_text_ever_longer_are_refused() {
    let longer = |times: usize| {
        let double = json!({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"});
        json!({"type": "Sequence", "normalizers": vec![double; times]})
    };
    refused(json!({"normalizer": longer(40)}), "aaaa", "more than 32 times as long");
    let jump = json!({"type": "Replace", "pattern": {"Regex": ""}, "content": "a".repeat(1 << 20)});
    refused(json!({"normalizer": jump.clone()}), &"b".repeat(1 << 14), "more than 32 times as long");
    refused(json!({"decoder": jump}), &"b".repeat(1 << 14), "more than 32 times as long");
    let prepend = json!({"type": "Prepend", "prepend": "a".repeat(4000)});
    let added = json!([{
        "id": 5, "content": "b", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true,
    }]);
    // Each piece between added tokens is normalized for itself.
    refused(json!({"normalizer": prepend, "added_tokens": added}), &"ab".repeat(1 << 12), "more than 32 times as long");
    let bytes = json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": false});
    refused(
        json!({"pre_tokenizer": {"type": "Sequence", "pretokenizers": vec![bytes.clone(); 30]}}),
        "é",
        "30 steps ByteLevel",
    );
    refused(
        json!({"normalizer": {"type": "Sequence", "normalizers": vec![json!({"type": "ByteLevel"}); 30]}}),
        "éé",
        "32 times",
    );
    let between = json!({"type": "BPEDecoder", "suffix": ""});
    refused(
        json!({"decoder": {"type": "Sequence", "decoders": vec![between; 40]}}),
        "abab",
        "more than 32 times as long",
    );
    let mapped = [&[4, 0, 0, 0, 0, 0, 0, 0][..], &[b'a'; 100], &[0]].concat();
    let map = json!({"type": "Precompiled", "precompiled_charsmap": base64::encode(mapped)});
    refused(json!({"normalizer": map}), "ab", "a replacement of more than 64 bytes");
    let repeated = json!({"type": "TemplateProcessing", "single": "$A $A", "pair": "$A $B", "special_tokens": {}});
    refused(json!({"post_processor": repeated.clone()}), "ab", "a template that repeats the text");
    let nested = json!({"type": "Sequence", "processors": [{"type": "Sequence", "processors": [repeated]}]});
    refused(json!({"post_processor": nested}), "ab", "a template that repeats the text");
}

#[test]
fn patterns_that_take_for_ever_are_refused() {
    let split = |pattern: &str| json!({"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": false});
    let text = "a".repeat(2000);
    // Each match takes too many steps, or each takes few enough and there are many.
    refused(json!({"pre_tokenizer": split(r"(?=(a+)+b)a|(a*)*\1c")}), &text, "too many steps");
    let long = "a".repeat(60_000);
    refused(json!({"pre_tokenizer": split(r"(?=(?:a{0,18}){0,4}(?=b))b|a")}), &long, "take");
    // No match, and a look at the rest of the text from each place.
    refused(json!({"pre_tokenizer": split(r"(?=(?:a+)+b)a|(?!a)c")}), &"a".repeat(300_000), "take");
    let replace = json!({"type": "Replace", "pattern": {"Regex": r"(a*)*\1c"}, "content": ""});
    refused(json!({"normalizer": replace.clone()}), &text, "too many steps");
    refused(json!({"pre_tokenizer": split(&"a?".repeat(5000))}), "ab", "a pattern of 10000 bytes");
    refused(json!({"pre_tokenizer": split(r"((\p{L}{100}){100}){100}")}), "ab", "pre_tokenizer: pattern");
    refused(json!({"pre_tokenizer": split("(")}), "ab", "pre_tokenizer: pattern");
}

#[test]
fn too_many_steps_and_too_much_of_anything_are_refused() {
    let digits = json!({"type": "Digits", "individual_digits": true});
    let many = json!({"type": "Sequence", "pretokenizers": vec![digits.clone(); 65]});
    refused(json!({"pre_tokenizer": many}), "ab", "65 steps, of at most 64");
    let deep = |n| (0..n).fold(digits.clone(), |inner, _| json!({"type": "Sequence", "pretokenizers": [inner]}));
    refused(json!({"pre_tokenizer": deep(30)}), "ab", "more than 4 deep");
    refused(json!({"normalizer": {"type": "Prepend", "prepend": "a".repeat(5000)}}), "ab", "a string of 5000 bytes");
    let token = |content: String| json!({"id": 9, "content": content, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true});
    refused(json!({"added_tokens": [token("a".repeat(5 << 20))]}), "ab", "added_tokens: 5242880 bytes");
    let word = json!({"type": "WordPiece", "unk_token": "a", "continuing_subword_prefix": "##", "max_input_chars_per_word": 1e9 as u64, "vocab": {"a": 0}});
    refused(json!({"model": word}), "ab", "max_input_chars_per_word");
    let ids = |ids: usize| {
        let (special, text) =
            (json!({"SpecialToken": {"id": "[", "type_id": 0}}), json!({"Sequence": {"id": "A", "type_id": 0}}));
        json!({"type": "TemplateProcessing", "single": [special, text.clone()], "pair": [text],
            "special_tokens": {"[": {"id": "[", "ids": vec![4; ids], "tokens": vec!["["; ids]}}})
    };
    refused(json!({"post_processor": ids(10_000)}), "ab", "more than 64 pieces");
    assert_eq!(error_of(&tokenizer(json!({"post_processor": ids(3)})), "abab"), None);
}

#[test]
fn vocabularies_that_do_not_fit_together_are_refused() {
    let model = |vocab: Value, merges: Value| json!({"model": {"type": "BPE", "vocab": vocab, "merges": merges}});
    refused(model(json!({"a": 0, "b": 0}), json!([])), "ab", "two tokens have the id 0");
    refused(model(json!({"a": 1_u64 << 32}), json!([])), "ab", "4294967296");
    refused(model(json!({"a": -1}), json!([])), "ab", "-1");
    refused(model(json!({"a": 0, "b": 1}), json!(["a b"])), "ab", "merge 0 is not of two tokens");
    refused(model(json!({"a": 0, "b": 1}), json!(["a b c"])), "ab", "merge \"a b c\"");
    refused(model(json!({"a": 0, "b": 1}), json!([["a"]])), "ab", "merge");
    refused(model(json!({"a": 0, "b": 1}), json!({"a": "b"})), "ab", "merges");
    let twice = r#"{"model": {"type": "BPE", "vocab": {"a": 0, "a": 1}, "merges": []}}"#;
    let error = Tokenizer::from_json(twice.as_bytes()).err().unwrap().to_string();
    assert!(error.contains("\"a\" has two ids"), "{error}");
    // Ids that are far apart are the library's.
    let far = tokenizer(model(json!({"a": 7, "b": 4_000_000_000_u32}), json!([])));
    let far = Tokenizer::from_json(far.to_string().as_bytes()).unwrap();
    assert_eq!(far.encode("ab", false).unwrap(), [7, 4_000_000_000]);
}
