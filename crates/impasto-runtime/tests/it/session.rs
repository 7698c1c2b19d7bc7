//! Sessions: alone, in batches and on several threads, with the reference and with the fast network.

use std::ops::ControlFlow;
use std::sync::Arc;

use crate::support::Folder;
use impasto_model::sampling::{Sampler, SamplingParams};
use impasto_model::{CausalLm, ModelError, Session};
use impasto_runtime::{KvFormat, KvLayout, Model, Residence, RunOptions, StopReason};

const PROMPTS: [&str; 3] = ["Once upon a time", "The wizard said that", "A dog"];

fn networks() -> Vec<Model> {
    let kv = KvLayout::uniform(KvFormat::F32);
    let options = |residence| RunOptions { residence, threads: 2, kv: kv.clone(), ..RunOptions::default() };
    let load = |residence| Model::load(&Folder::tiny(), &options(residence)).unwrap();
    vec![load(Residence::Float), load(Residence::Packed)]
}

fn ids(model: &Model, text: &str) -> Vec<u32> {
    model.tokenizer().unwrap().encode(text, true).unwrap()
}

fn session<'m>(model: &'m Model, prompt: &[u32], temperature: f32) -> Session<&'m dyn CausalLm> {
    let mut session = model.session(SamplingParams { temperature, seed: 7, ..Default::default() }).unwrap();
    session.extend(prompt).unwrap();
    session
}

fn steps<M: std::ops::Deref<Target: CausalLm>>(session: &mut Session<M>, count: usize) -> Vec<u32> {
    (0..count).map(|_| session.step().unwrap().token).collect()
}

fn close(a: &[f32], b: &[f32]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-3)
}

#[test]
fn steps_are_what_generate_writes() {
    for model in networks() {
        let prompt = ids(&model, PROMPTS[0]);
        let options = impasto_runtime::GenerateOptions { max_tokens: 20, ..model.generate_options() };
        let whole = model.generate(&prompt, &options, &mut |_| ControlFlow::Continue(())).unwrap();
        assert_eq!(steps(&mut session(&model, &prompt, 0.0), 20), whole.tokens);
        let mut stream = model.stream(&prompt, &options).unwrap();
        let pieces: Vec<String> = stream.by_ref().map(Result::unwrap).collect();
        assert_eq!(pieces.concat(), whole.text);
        assert_eq!((stream.next().is_none(), stream.stop()), (true, Some(&StopReason::MaxTokens)));
        assert_eq!(stream.finish().tokens, whole.tokens);
    }
}

#[test]
fn a_prompt_runs_in_pieces_and_can_be_broken_off() {
    for model in networks() {
        let prompt: Vec<u32> = (0..700).map(|i| i * 131 % 4096).collect();
        let mut whole = session(&model, &prompt, 0.0);
        let expected = steps(&mut whole, 3);
        let mut pieces = session(&model, &prompt, 0.0);
        let mut heard = Vec::new();
        let broken = pieces.prefill(&mut |at| {
            heard.push((at.done, at.total));
            ControlFlow::Break(())
        });
        assert!(broken.unwrap().is_break());
        assert_eq!((heard, pieces.pending()), (vec![(512, 700)], 188));
        assert_eq!(pieces.evaluate(100).unwrap(), 88);
        assert!(pieces.prefill(&mut |_| ControlFlow::Continue(())).unwrap().is_continue());
        assert_eq!(pieces.pending(), 0);
        assert_eq!(steps(&mut pieces, 3), expected);

        let mut stream = model.stream(&prompt, &model.generate_options()).unwrap();
        stream.prefill(&mut |_| ControlFlow::Break(())).unwrap();
        assert!(stream.next().is_none());
        assert_eq!(stream.finish().stop, StopReason::Cancelled);
    }
}

#[test]
fn forks_and_tokens_taken_back() {
    for model in networks() {
        let prompt = ids(&model, PROMPTS[0]);
        let mut first = session(&model, &prompt, 1.0);
        steps(&mut first, 70);
        let mut fork = first.fork().unwrap();
        // The sampler has the same state.
        assert_eq!(steps(&mut fork, 8), steps(&mut first, 8));
        fork.set_sampling(SamplingParams { temperature: 1.0, seed: 8, ..Default::default() }).unwrap();
        let before = first.tokens().to_vec();
        assert_ne!(steps(&mut fork, 30), steps(&mut first, 30));
        assert_eq!(first.tokens()[..before.len()], before);
        // Back to a length whose logits are still known, and to one whose logits are not.
        let logits = first.logits().unwrap().to_vec();
        let len = first.tokens().len();
        let last = first.step().unwrap().token;
        first.truncate(len);
        assert!(first.logits().unwrap() == logits, "the logits are still known");
        first.extend(&[last]).unwrap();
        first.logits().unwrap();
        first.truncate(len);
        assert!(close(first.logits().unwrap(), &logits));
        // A prompt that starts with the same tokens.
        first.restart(&before).unwrap();
        assert_eq!((first.tokens(), first.pending()), (&before[..], 0));
        first.restart(&prompt[1..]).unwrap();
        assert_eq!((first.tokens(), first.pending()), (&prompt[1..], prompt.len() - 1));
    }
}

#[test]
fn drafts_are_verified_in_one_pass() {
    for model in networks() {
        let prompt = ids(&model, PROMPTS[1]);
        let vocab = model.network().vocab_size();
        let mut plain = session(&model, &prompt, 0.0);
        let mut rows = Vec::new();
        let tokens: Vec<u32> = (0..5)
            .map(|_| {
                rows.extend_from_slice(plain.logits().unwrap());
                plain.step().unwrap().token
            })
            .collect();
        // With the prompt pending, evaluated, and evaluated with outdated logits.
        for case in 0..3 {
            let mut drafting = session(&model, &prompt, 0.0);
            if case > 0 {
                drafting.logits().unwrap();
            }
            if case == 2 {
                drafting.step().unwrap();
                drafting.logits().unwrap();
                drafting.truncate(prompt.len());
            }
            let logits = drafting.verify(&tokens[..4]).unwrap();
            assert!(close(&logits, &rows), "case {case}");
            assert_eq!(drafting.pending(), 0);
            assert_eq!(drafting.step().unwrap().token, tokens[4]);
            drafting.truncate(prompt.len() + 2);
            assert_eq!(drafting.step().unwrap().token, tokens[2], "case {case}");
            let len = drafting.tokens().len();
            assert!(matches!(drafting.verify(&[vocab as u32]), Err(ModelError::TokenId { .. })));
            assert_eq!(drafting.tokens().len(), len);
        }
    }
}

#[test]
fn probabilities_are_reported() {
    let model = &networks()[1];
    let mut session = session(model, &ids(model, PROMPTS[0]), 0.0);
    session.report_logprobs(Some(3));
    let step = session.step().unwrap();
    assert_eq!((step.top.len(), Some(step.top[0].1)), (3, step.logprob));
    assert_eq!(step.top[0].0, step.token);
    assert!(step.top.is_sorted_by(|a, b| a.1 >= b.1) && step.top[0].1 < 0.0);
    assert_eq!(session.probabilities().unwrap().len(), 1);
    session.set_sampling(SamplingParams { temperature: 0.7, top_k: 9, ..Default::default() }).unwrap();
    assert!(session.probabilities().unwrap().len() >= 9);
}

#[test]
fn together_is_as_alone() {
    for model in networks() {
        let alone: Vec<Vec<u32>> =
            PROMPTS.iter().map(|text| steps(&mut session(&model, &ids(&model, text), 0.9), 12)).collect();
        let mut sessions: Vec<_> = PROMPTS.iter().map(|text| session(&model, &ids(&model, text), 0.9)).collect();
        // One sequence is ahead of the others, one starts later.
        let mut written = vec![Vec::new(); 3];
        written[1].extend(steps(&mut sessions[1], 4));
        for round in 0..12 {
            let mut together: Vec<(usize, &mut Session<_>)> = sessions.iter_mut().enumerate().collect();
            together.retain(|(i, _)| written[*i].len() < 12 && (round > 2 || *i != 2));
            let (which, mut running): (Vec<usize>, Vec<&mut Session<_>>) = together.into_iter().unzip();
            for (i, step) in which.into_iter().zip(Session::step_many(&mut running).unwrap()) {
                written[i].push(step.token);
            }
        }
        written[2].extend(steps(&mut sessions[2], 3));
        assert_eq!(written, alone);
        // A long prompt in pieces together with a short one.
        let (mut long, mut short) = (session(&model, &[9; 90], 0.0), session(&model, &[5, 6], 0.0));
        let mut rounds = 0;
        while Session::evaluate_many(&mut [&mut long, &mut short], 40).unwrap() {
            rounds += 1;
        }
        assert_eq!((rounds, long.pending(), short.pending()), (2, 0, 0));
    }
}

#[test]
fn sessions_run_on_threads_of_their_own() {
    for model in networks() {
        let prompts: Vec<Vec<u32>> = PROMPTS.iter().map(|text| ids(&model, text)).collect();
        let alone: Vec<Vec<u32>> = prompts.iter().map(|prompt| steps(&mut session(&model, prompt, 0.9), 40)).collect();
        let shared: Arc<dyn CausalLm> = model.shared_network();
        drop(model);
        let threads: Vec<_> = prompts
            .into_iter()
            .map(|prompt| {
                let sampling = SamplingParams { temperature: 0.9, seed: 7, ..Default::default() };
                let mut session = Session::new(shared.clone(), sampling).unwrap();
                session.extend(&prompt).unwrap();
                std::thread::spawn(move || steps(&mut session, 40))
            })
            .collect();
        for (thread, expected) in threads.into_iter().zip(alone) {
            assert_eq!(thread.join().unwrap(), expected);
        }
    }
}

#[test]
fn a_scheduler_evaluates_and_then_draws() {
    for model in networks() {
        let prompts: Vec<Vec<u32>> = PROMPTS.iter().map(|text| ids(&model, text)).collect();
        let mut sessions: Vec<_> = prompts.iter().map(|prompt| session(&model, prompt, 0.9)).collect();
        assert!(matches!(sessions[0].draw(None), Err(ModelError::NoLogits)));
        let drawn: Vec<Vec<u32>> = (0..12).fold(vec![Vec::new(); 3], |mut drawn, _| {
            let mut all: Vec<_> = sessions.iter_mut().collect();
            while Session::evaluate_many(&mut all, 3).unwrap() {}
            for (session, drawn) in all.into_iter().zip(&mut drawn) {
                assert!(session.has_logits());
                drawn.push(session.draw(None).unwrap().token);
                assert!(!session.has_logits() && session.pending() == 1);
            }
            drawn
        });
        for (prompt, drawn) in prompts.iter().zip(drawn) {
            assert_eq!(steps(&mut session(&model, prompt, 0.9), 12), drawn);
        }
        sessions[0].truncate(3);
        assert!(matches!(sessions[0].draw(None), Err(ModelError::NoLogits)));
    }
}

#[test]
fn masks_and_penalties_limit_what_is_drawn() {
    let model = &networks()[1];
    let prompt = ids(model, PROMPTS[0]);
    // Tokens 64 to 95.
    let mask = [0, 0, u32::MAX];
    for temperature in [0.0, 1.0] {
        let mut session = session(model, &prompt, temperature);
        assert!((0..10).all(|_| (64..96).contains(&session.step_within(Some(&mask)).unwrap().token)));
        assert!(matches!(session.step_within(Some(&[0; 4])), Err(ModelError::NoneAllowed)));
        assert_eq!(session.tokens().len(), prompt.len() + 10, "an error adds no token");
    }
    // A token that was generated is far less likely to come again; one of the prompt is not.
    let mut sampler =
        Sampler::new(SamplingParams { frequency_penalty: 2.0, presence_penalty: 2.0, ..Default::default() }).unwrap();
    sampler.set_logit_bias(vec![(70, 20.0)]).unwrap();
    let mut session = session(model, &prompt, 0.0);
    session.set_sampler(sampler);
    let tokens = steps(&mut session, 40);
    let count = tokens.iter().filter(|&&token| token == 70).count();
    assert!(tokens[0] == 70 && (2..40).contains(&count), "{tokens:?}");
}

#[test]
fn what_cannot_go_on_says_so() {
    let [one, other]: [Model; 2] = networks().try_into().ok().unwrap();
    let mut empty = session(&one, &[], 0.0);
    assert!(matches!(empty.step(), Err(ModelError::EmptyPrompt)));
    assert!(matches!(Session::step_many(&mut [&mut empty]), Err(ModelError::EmptyPrompt)));
    let (mut a, mut b) = (session(&one, &[1], 0.0), session(&other, &[1], 0.0));
    assert!(matches!(Session::step_many(&mut [&mut a, &mut b]), Err(ModelError::ForeignCache)));
    assert_eq!((a.tokens().len(), b.tokens().len()), (1, 1));
    let short = RunOptions { max_context: Some(4), ..RunOptions::default() };
    let short = Model::load(&Folder::tiny(), &short).unwrap();
    let mut full = session(&short, &[1, 2, 3], 0.0);
    assert!(matches!(full.extend(&[1, 2]), Err(ModelError::ContextOverflow { tokens: 5, context: 4 })));
    assert_eq!((full.remaining(), full.tokens().len()), (2, 3));
    steps(&mut full, 2);
    assert_eq!(full.remaining(), 0);
    assert!(matches!(full.step(), Err(ModelError::ContextOverflow { .. })));
    full.truncate(2);
    assert_eq!(steps(&mut full, 1).len(), 1);
}
