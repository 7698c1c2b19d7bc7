//! Text generation with the tiny model of this repository.

use std::ops::ControlFlow;

use crate::support::Folder;
use impasto_model::sampling::SamplingParams;
use impasto_model::{ModelError, Want};
use impasto_runtime::{GenerateOptions, Model, RunOptions, RuntimeError, StopReason};
use impasto_text::TextError;

fn tiny() -> Model {
    Model::load(&Folder::tiny(), &RunOptions::float()).unwrap()
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

/// In a conversation, the end-of-sequence token of the tokenizer ends a turn too.
#[test]
fn a_turn_ends_where_the_tokenizer_says() {
    let mut table = Folder::tiny().table();
    let mut ends = |eos: &str| {
        let config = format!(r#"{{"eos_token": {eos}, "chat_template": "{{{{ messages[0].content }}}}"}}"#);
        table.assets.insert("tokenizer_config.json".into(), config.into_bytes());
        let model = Model::load(&table, &RunOptions::float()).unwrap();
        assert_eq!((model.eos(), &model.generate_options().eos[..]), (&[0][..], &[0][..]));
        (model.chat_options(&model.chat_template().unwrap()).eos, model.tokenizer().unwrap().token_to_id("a").unwrap())
    };
    let (eos, a) = ends(r#"{"content": "a"}"#);
    assert_eq!(eos, [0, a]);
    for same in ["null", r#""<|endoftext|>""#, r#""no such token""#] {
        assert_eq!(ends(same).0, [0], "{same}");
    }
}

#[test]
fn ways_to_end() {
    let model = tiny();
    let prompt = model.tokenizer().unwrap().encode("Once upon a time", true).unwrap();
    let go_on = &mut |_: &str| ControlFlow::Continue(());
    let base = GenerateOptions { max_tokens: 20, ..model.generate_options() };
    let free = model.generate(&prompt, &base, go_on).unwrap();

    // A stop string from the middle of the text that spans two tokens.
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
    // A full context still predicts one more token.
    assert_eq!((full.stop, full.tokens.len()), (StopReason::ContextFull, 4));
    assert_eq!(full.tokens, free.tokens[..4]);

    let refused = |prompt: &[u32], options: &GenerateOptions| {
        narrow.generate(prompt, options, &mut |_| ControlFlow::Continue(())).unwrap_err()
    };
    assert!(matches!(refused(&[], &base), RuntimeError::Model(ModelError::EmptyPrompt)));
    assert!(matches!(refused(&[1 << 20], &base), RuntimeError::Model(ModelError::TokenId { .. })));
    assert!(matches!(refused(&[1; 50], &base), RuntimeError::Model(ModelError::ContextOverflow { tokens: 50, .. })));
    let bad = GenerateOptions { stop: vec![String::new()], ..base.clone() };
    assert!(matches!(refused(&prompt, &bad), RuntimeError::Text(TextError::BadOption { name: "stop", .. })));
    let bad = GenerateOptions { sampling: SamplingParams { top_p: 2.0, ..Default::default() }, ..base };
    assert!(matches!(refused(&prompt, &bad), RuntimeError::Model(ModelError::BadOption { name: "top-p", .. })));
}
