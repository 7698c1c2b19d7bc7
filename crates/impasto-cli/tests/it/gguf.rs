//! GGUF as input and output, as a user runs it.

use std::fs;

use crate::support::{Workplace, tiny};

#[test]
fn a_gguf_comes_back() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    let made = at.run(&["decode", "a.impasto", "--to", "gguf", "-o", "x.gguf"]).ok();
    assert!(made.out.contains("x.gguf: 1 files") && made.out.contains("new files"), "{}", made.out);
    let gguf = fs::read(at.path("x.gguf")).expect("a GGUF");
    assert!(gguf.starts_with(b"GGUF"));

    let encoded = at.run(&["encode", "x.gguf", "-o", "b.impasto"]).ok();
    assert!(encoded.err.is_empty(), "every asset is generated, so there is no note: {}", encoded.err);
    at.run(&["verify", "b.impasto"]).ok();
    // The original format is restored, into a folder or under a given name.
    let decoded = at.run(&["decode", "b.impasto", "-o", "out"]).ok();
    assert!(decoded.out.contains("byte for byte"), "{}", decoded.out);
    assert!(fs::read(at.path("out/x.gguf")).expect("a GGUF") == gguf);
    at.run(&["decode", "b.impasto", "--to", "gguf", "-o", "out/y.gguf"]).ok();
    assert!(fs::read(at.path("out/y.gguf")).expect("a GGUF") == gguf);
    // All are the same model.
    let prompt = ["-q", "-p", "Once upon a time", "-n", "12"];
    let told = |model: &str| at.run(&[&["run", model, "--raw"], &prompt[..]].concat()).ok().out;
    let story = told(&tiny());
    for model in ["x.gguf", "a.impasto", "b.impasto"] {
        assert_eq!(told(model), story, "{model}");
    }
}

#[test]
fn a_quantized_gguf_is_made_kept_and_run() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    let made = at.run(&["--json", "decode", "a.impasto", "--to", "gguf", "--type", "q8_0", "-o", "x.gguf"]).json();
    assert_eq!(made["identical"].as_bool(), Some(false));
    let gguf = fs::read(at.path("x.gguf")).expect("a GGUF");
    let original = fs::metadata(format!("{}/model.safetensors", tiny())).expect("the tiny model").len();
    assert!((gguf.len() as u64) < original * 6 / 10, "8 bits and a bit, not 16: {}", gguf.len());

    let encoded = at.run(&["--json", "encode", "x.gguf", "-o", "b.impasto"]).json();
    assert!(encoded["bytes"].as_u64().is_some_and(|bytes| bytes < gguf.len() as u64), "{encoded}");
    let kept = |t: &serde_json::Value| t["dtype"] == "Q8_0";
    assert!(encoded["tensors"].as_array().is_some_and(|tensors| tensors.iter().any(kept)), "{encoded}");
    let decoded = at.run(&["--json", "decode", "b.impasto", "-o", "y.gguf"]).json();
    assert_eq!(decoded["identical"].as_bool(), Some(true));
    assert!(fs::read(at.path("y.gguf")).expect("a GGUF") == gguf);
    assert!(at.run(&["run", "b.impasto", "-p", "Once upon a time", "-n", "4"]).ok().out.len() > 4);
}

#[test]
fn a_type_is_for_a_gguf() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    let alone = at.run(&["decode", "a.impasto", "--type", "q8_0", "-o", "x.gguf"]);
    assert!(alone.code == Some(2) && alone.err.contains("--to"), "{alone:?}");
    let other = at.run(&["decode", "a.impasto", "--to", "safetensors", "--type", "q8_0", "-o", "x"]);
    other.fails(2, "--type is for --to gguf");
    at.run(&["encode", &format!("{}/model.safetensors", tiny()), "-o", "bare.impasto"]).ok();
    at.run(&["decode", "bare.impasto", "--to", "gguf", "-o", "x.gguf"]).fails(3, "config.json");
    assert_eq!(at.left(), ["a.impasto", "bare.impasto"]);
}

/// Where a GGUF has no tokenizer because its pre-tokenizer is not known, the error says so, with the path of the file.
#[test]
fn the_reason_for_a_missing_tokenizer_is_shown() {
    let at = Workplace::new();
    at.run(&["encode", &tiny(), "-o", "a.impasto"]).ok();
    at.run(&["decode", "a.impasto", "--to", "gguf", "-o", "x.gguf"]).ok();
    let mut gguf = fs::read(at.path("x.gguf")).expect("a GGUF");
    let key = b"tokenizer.ggml.pre";
    let place = gguf.windows(key.len()).position(|bytes| bytes == key).expect("the key");
    // The type and the length of the string follow the key.
    let name = &mut gguf[place + key.len() + 12..][..5];
    assert_eq!(name, b"gpt-2");
    name.copy_from_slice(b"gpt-9");
    fs::write(at.path("y.gguf"), gguf).expect("writes");
    let reason = "y.gguf: tokenizer.json: pre-tokenizer \"gpt-9\" is not known";
    fs::write(at.path("text"), "Once upon a time").expect("writes");
    at.run(&["run", "y.gguf", "-p", "Once", "-n", "1"]).fails(3, reason);
    at.run(&["chat", "y.gguf"]).fails(3, reason);
    at.run(&["encode", "y.gguf", "-o", "y.impasto"]).ok();
    at.run(&["run", "y.impasto", "-p", "Once", "-n", "1"]).fails(3, &reason.replace("y.gguf", "y.impasto"));
    at.run(&["eval", "ppl", "y.gguf", "--text", "text"]).fails(3, reason);
    at.run(&["eval", "kld", "x.gguf", "--reference", "y.gguf", "--text", "text"]).fails(3, reason);
}

/// A GGUF with one F32 tensor of two ones, of an unknown architecture.
fn strange_gguf() -> Vec<u8> {
    let text = |text: &str| [&(text.len() as u64).to_le_bytes(), text.as_bytes()].concat();
    let (f32_type, string_type) = (0u32.to_le_bytes(), 8u32.to_le_bytes());
    let mut bytes = [&b"GGUF"[..], &3u32.to_le_bytes(), &1u64.to_le_bytes(), &1u64.to_le_bytes()].concat();
    bytes.extend([text("general.architecture"), string_type.to_vec(), text("strange\u{1b}[31m")].concat());
    bytes.extend([text("w"), 1u32.to_le_bytes().to_vec(), 2u64.to_le_bytes().to_vec(), f32_type.to_vec()].concat());
    bytes.extend(0u64.to_le_bytes());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes.extend([1f32.to_le_bytes(), 1f32.to_le_bytes()].concat());
    bytes.resize(bytes.len().next_multiple_of(32), 0);
    bytes
}

/// What a GGUF lacks is reported, and its weights are still stored.
#[test]
fn notes_say_what_is_missing() {
    let at = Workplace::new();
    fs::write(at.path("x.gguf"), strange_gguf()).expect("writes");
    let encoded = at.run(&["encode", "x.gguf", "-o", "a.impasto"]).ok();
    assert!(encoded.err.lines().count() > 0, "a note");
    for line in encoded.err.lines() {
        assert!(line.starts_with("note: ") && !line.contains('\u{1b}'), "{line:?}");
    }
    assert!(encoded.err.contains("strange"), "{}", encoded.err);
    let encoded = at.run(&["encode", "x.gguf", "-o", "a.impasto", "--json"]).json();
    assert!(encoded["notes"].as_array().is_some_and(|notes| !notes.is_empty()), "{encoded}");
    at.run(&["decode", "a.impasto", "-o", "y.gguf"]).ok();
    assert!(fs::read(at.path("y.gguf")).expect("a GGUF") == strange_gguf());
}
