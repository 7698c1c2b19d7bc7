//! `--draft-layer`: the same text, and errors where there is nothing to draft with.

use std::fs;

use crate::layers::LAYERED;
use crate::support::{Workplace, tiny};

fn place() -> Workplace {
    let at = Workplace::new();
    fs::write(at.path("a.impasto"), &*LAYERED).expect("writes");
    at
}

const STORY: [&str; 8] = ["run", "a.impasto", "-p", "Once upon a time", "-n", "40", "--raw", "--json"];

#[test]
fn drafts_do_not_change_the_text() {
    let at = place();
    for cut in [&[][..], &["--layer", "2"]] {
        let alone = at.run(&[&STORY[..], cut].concat()).json();
        assert!(alone["generation"]["speculation"].is_null());
        for drafts in [
            &["--draft-layer", "1"][..],
            &["--draft-layer", "1", "--draft-tokens", "3"],
            &["--draft-layer", "auto"],
            &["--draft-layer", "ngram"],
        ] {
            let found = at.run(&[&STORY[..], cut, drafts].concat()).json();
            assert_eq!(found["generation"]["text"], alone["generation"]["text"], "{drafts:?}");
            assert_eq!(found["generation"]["speculation"]["tokens"], 40, "{drafts:?}");
        }
    }
    let more = at.run(&[&STORY[..], &["--layer", "2", "--draft-layer", "none"]].concat()).json();
    assert!(more["generation"]["speculation"].is_null());
    let chat = at.run(&[&STORY[..5], &["6", "--draft-layer", "1", "--raw"]].concat()).ok();
    assert!(chat.err.contains("tokens per draft and pass"), "{}", chat.err);
}

#[test]
fn bench_reports_drafts() {
    let at = place();
    let bench = ["bench", "run", "a.impasto", "-p", "0", "-n", "12", "-d", "8", "-r", "2", "--layer", "2", "--json"];
    let rows = at.run(&[&bench[..], &["--draft-layer", "1", "--draft-tokens", "3"]].concat()).json();
    let row = &rows[0];
    assert_eq!(row["speculation"]["tokens"], 24);
    assert!(row["tokens_per_pass"].as_f64().is_some_and(|tokens| tokens >= 1.0), "{row}");
    assert!(row["acceptance"].as_f64().is_some_and(|share| (0.0..=1.0).contains(&share)), "{row}");
    let alone = at.run(&bench).json();
    assert!(alone[0]["speculation"].is_null());
    assert!(row["weight_bytes"].as_u64() > alone[0]["weight_bytes"].as_u64());
    at.write("text.txt", "Once upon a time there was a dog. It was a good dog, and it was a happy dog, too.");
    let text = at.run(&[&bench[..], &["--draft-layer", "ngram", "--text", "text.txt"]].concat()).json();
    assert!(text[0]["speculation"]["tokens"] == 24);
    at.run(&[&bench[..], &["--text", "none.txt"]].concat()).fails(1, "none.txt");
}

#[test]
fn what_cannot_draft_is_said() {
    let at = place();
    at.run(&["encode", &tiny(), "-o", "flat.impasto"]).ok();
    let flat = ["run", "flat.impasto", "-p", "x", "--raw"];
    at.run(&[&flat[..], &["--draft-layer", "1"]].concat()).fails(2, "needs a file with layers");
    let checkpoint = ["run", &tiny(), "-p", "x", "--raw", "--draft-layer", "1"];
    at.run(&checkpoint).fails(2, ".impasto files only");
    at.run(&[&STORY[..], &["--draft-layer", "1", "--stream"]].concat()).fails(2, "without --stream");
    at.run(&[&STORY[..], &["--draft-layer", "3"]].concat()).fails(2, "a layer below the one in use");
    at.run(&[&STORY[..], &["--layer", "1", "--draft-layer", "1"]].concat()).fails(2, "a layer below the one in use");
    for (bad, says) in
        [(["--draft-layer", "soon"], "not auto, ngram, none"), (["--draft-tokens", "3"], "--draft-layer")]
    {
        let refused = at.run(&[&STORY[..], &bad].concat());
        assert!(refused.code == Some(2) && refused.err.contains(says), "{refused:?}");
    }
    at.run(&[&STORY[..], &["--draft-layer", "1", "--residence", "coded"]].concat())
        .fails(3, "only those of residence packed");
}
