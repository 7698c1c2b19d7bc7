//! Text in, text out, with the tiny model of the repository.

use std::ops::ControlFlow;

use crate::support::{Folder, golden};
use impasto_model::generate::{GenerateOptions, StopReason};
use impasto_model::sampling::SamplingParams;
use impasto_model::tokenizer::Tokenizer;
use impasto_model::{Model, ModelError, RunOptions, Want};

fn tiny() -> Model {
    Model::load(&Folder::tiny(), &RunOptions::float()).unwrap()
}

#[test]
fn token_ids_are_those_of_transformers() {
    let tokenizer = Tokenizer::from_source(&Folder::tiny()).unwrap();
    let cases = std::fs::read(golden().join("tokenizer.json")).unwrap();
    let cases: Vec<serde_json::Value> = serde_json::from_slice(&cases).unwrap();
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
    let tokenizer = Tokenizer::from_source(&Folder::tiny()).unwrap();
    let crab = tokenizer.encode("🦀", false).unwrap();
    assert!(crab.len() > 1, "the test needs a character of several tokens");
    let mut stream = tokenizer.stream(&[]);
    assert_eq!(stream.push(crab[0]).unwrap(), "");
    assert_eq!(stream.finish().unwrap(), "\u{fffd}");
    // A run of them is not held back for ever, and good text after it comes through.
    let mut stream = tokenizer.stream(&[]);
    let run: Vec<String> = (0..40).map(|_| stream.push(crab[0]).unwrap()).collect();
    assert!(run.concat().chars().count() >= 24);
    let mut after = String::new();
    for id in tokenizer.encode(" and so on", false).unwrap() {
        after.push_str(&stream.push(id).unwrap());
    }
    assert!(after.ends_with(" and so on"), "{after:?}");
}

/// A tokenizer of sentencepiece's kind: a few words, and bytes for all else.
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
    // The prompt ends after each character in turn.
    for (end, _) in text.char_indices() {
        let prompt = tokenizer.encode(&text[..end], false).unwrap();
        assert_eq!(prompt, ids[..prompt.len()]);
        let mut stream = tokenizer.stream(&prompt);
        let mut shown: String = ids[prompt.len()..].iter().map(|&id| stream.push(id).unwrap()).collect();
        shown.push_str(&stream.finish().unwrap());
        assert_eq!(shown, text[end..], "after {:?}", &text[..end]);
    }
    // A prompt that is broken itself does not stop the stream.
    let mut stream = tokenizer.stream(&[0x80; 9]);
    let shown: String = ids.iter().map(|&id| stream.push(id).unwrap()).collect();
    assert!(shown.ends_with("ba"), "{shown:?}");
}

#[test]
fn greedy_text_is_the_argmax_of_each_step() {
    let model = tiny();
    let prompt = model.tokenizer().unwrap().encode("Once upon a time", true).unwrap();
    let options = GenerateOptions { max_tokens: 24, ..model.generate_options() };
    let mut streamed = String::new();
    let made = model
        .generate(&prompt, &options, &mut |piece| {
            streamed.push_str(piece);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(made.stop, StopReason::MaxTokens);
    assert_eq!((made.tokens.len(), made.prompt_tokens), (24, prompt.len()));
    assert_eq!(made.text, streamed);
    let mut context = prompt;
    for &token in &made.tokens {
        let mut cache = model.network().new_cache(0).unwrap();
        let logits = model.network().forward(&mut cache, &context, Want::LastOnly).unwrap();
        assert_eq!(impasto_model::sampling::argmax(&logits), Some(token));
        context.push(token);
    }
    println!("Once upon a time{}", made.text);
}

#[test]
fn the_seed_decides_the_text() {
    let model = tiny();
    let prompt = model.tokenizer().unwrap().encode("The wizard", true).unwrap();
    let run = |seed, threads: usize| {
        let model = Model::load(&Folder::tiny(), &RunOptions { threads, ..RunOptions::float() }).unwrap();
        let sampling = SamplingParams { temperature: 1.0, top_p: 0.95, seed, ..Default::default() };
        let options = GenerateOptions { max_tokens: 16, sampling, ..model.generate_options() };
        model.generate(&prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap().tokens
    };
    assert_eq!(run(1, 1), run(1, 1));
    assert_ne!(run(1, 1), run(2, 1));
}

#[test]
fn ways_to_end() {
    let model = tiny();
    let prompt = model.tokenizer().unwrap().encode("Once upon a time", true).unwrap();
    let go_on = &mut |_: &str| ControlFlow::Continue(());
    let base = GenerateOptions { max_tokens: 20, ..model.generate_options() };
    let free = model.generate(&prompt, &base, go_on).unwrap();

    // A stop string from the middle of the text, across a border of tokens.
    let second = model.tokenizer().unwrap().decode(&free.tokens[..2], true).unwrap();
    let at = second.len() - 1;
    let stop: String = free.text.chars().skip(second[..at].chars().count()).take(4).collect();
    let options = GenerateOptions { stop: vec!["never seen".into(), stop.clone()], ..base.clone() };
    let cut = model.generate(&prompt, &options, go_on).unwrap();
    assert_eq!(cut.stop, StopReason::StopString(stop.clone()));
    assert_eq!(cut.text, free.text[..free.text.find(&stop).unwrap()]);

    let eos = free.tokens[5];
    let first = free.tokens.iter().position(|&t| t == eos).unwrap();
    let options = GenerateOptions { eos: vec![eos], ..base.clone() };
    let ended = model.generate(&prompt, &options, go_on).unwrap();
    assert_eq!((ended.stop, &ended.tokens[..]), (StopReason::Eos(eos), &free.tokens[..first]));

    let mut pieces = 0;
    let cancelled = model.generate(&prompt, &base, &mut |_| {
        pieces += 1;
        if pieces == 3 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    });
    assert_eq!(cancelled.unwrap().stop, StopReason::Cancelled);
    assert_eq!(pieces, 3);

    let none = model.generate(&prompt, &GenerateOptions { max_tokens: 0, ..base.clone() }, go_on).unwrap();
    assert_eq!((none.stop, none.text.as_str()), (StopReason::MaxTokens, ""));

    let narrow = RunOptions { threads: 0, max_context: Some(prompt.len() + 3), ..RunOptions::float() };
    let narrow = Model::load(&Folder::tiny(), &narrow).unwrap();
    let full = narrow.generate(&prompt, &base, go_on).unwrap();
    // The last token of a full context still has a successor.
    assert_eq!((full.stop, full.tokens.len()), (StopReason::ContextFull, 4));
    assert_eq!(full.tokens, free.tokens[..4]);

    let refused = |prompt: &[u32], options: &GenerateOptions| {
        narrow.generate(prompt, options, &mut |_| ControlFlow::Continue(())).unwrap_err()
    };
    assert!(matches!(refused(&[], &base), ModelError::EmptyPrompt));
    assert!(matches!(refused(&[1 << 20], &base), ModelError::TokenId { .. }));
    assert!(matches!(refused(&[1; 50], &base), ModelError::ContextOverflow { tokens: 50, .. }));
    let bad = GenerateOptions { stop: vec![String::new()], ..base.clone() };
    assert!(matches!(refused(&prompt, &bad), ModelError::BadOption { name: "stop", .. }));
    let bad = GenerateOptions { sampling: SamplingParams { top_p: 2.0, ..Default::default() }, ..base };
    assert!(matches!(refused(&prompt, &bad), ModelError::BadOption { name: "top-p", .. }));
}
