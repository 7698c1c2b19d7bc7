//! The compiled form of a tokenizer in a file (SPEC 3.4.5).

use std::fs;
use std::path::Path;

use impasto::encode::{Options, Target, encode};
use impasto::export::{Form, export};
use impasto::{Checkpoint, File, FileWeights};
use impasto_container::unit::unit_hash;
use impasto_model::WeightSource;
use impasto_text::Tokenizer;
use impasto_text::tokenizer::{COMPILED, FILE, compile};

use crate::support::layered::Layered;

/// A `tokenizer.json` that is large enough for a compiled form.
fn json() -> Vec<u8> {
    let json = r#"{"model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}}"#;
    [&vec![b' '; 5 << 20], json.as_bytes()].concat()
}

fn assets(file: &Path) -> FileWeights<impasto_container::MmapSource> {
    FileWeights::new(File::open(file).unwrap()).unwrap()
}

fn load(weights: &impl WeightSource) -> Vec<u32> {
    let tokenizer = Tokenizer::load(|name| weights.asset(name)).unwrap().expect("a tokenizer");
    tokenizer.encode("abba", false).unwrap()
}

#[test]
fn a_model_has_it_and_an_export_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("model");
    fs::create_dir(&model).unwrap();
    let header = r#"{"w":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}"#;
    let weights = [&(header.len() as u64).to_le_bytes(), header.as_bytes(), &[7]].concat();
    fs::write(model.join("model.safetensors"), weights).unwrap();
    fs::write(model.join(FILE), json()).unwrap();
    let checkpoint = Checkpoint::open(&model).unwrap();
    let form = compile(&json(), &["abba"]).unwrap();
    let options = |form: &[u8]| Options { compiled_tokenizer: Some(form.to_vec()), ..Options::new(Target::Lossless) };
    let file = folder.path().join("a.impasto");

    encode(&checkpoint, &file, &options(&form), &|_| std::ops::ControlFlow::Continue(())).unwrap();
    let weights = assets(&file);
    assert_eq!(weights.asset(COMPILED), Some(form));
    assert_eq!(weights.asset(FILE), Some(json()), "read when it is asked for");
    assert_eq!(load(&weights), [2, 1, 0]);
    let out = folder.path().join("out");
    fs::create_dir(&out).unwrap();
    export(&File::open(&file).unwrap(), &out, None, Form::Original, false, &|_| ()).unwrap();
    let mut names: Vec<_> = fs::read_dir(&out).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["model.safetensors", FILE]);

    // A form that cannot be read is as good as none.
    encode(&checkpoint, &file, &options(b"another version"), &|_| std::ops::ControlFlow::Continue(())).unwrap();
    assert_eq!(load(&assets(&file)), [2, 1, 0]);
}

#[test]
fn the_form_of_another_tokenizer_is_ignored() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.impasto");
    let form = compile(&json(), &[]).unwrap();
    let other = br#"{"model": {"type": "BPE", "vocab": {"b": 0, "a": 1}, "merges": []}}"#;
    let good = unit_hash(other);
    let mut bad = good;
    bad[15] ^= 1;
    let cases = [
        ([&good[..], &form].concat(), true),
        ([&bad[..], &form].concat(), false),
        (form.clone(), false),
        (good[..15].to_vec(), false),
    ];
    for (bytes, is_used) in cases {
        let mut file = Layered::default();
        file.asset(FILE, other);
        file.asset(COMPILED, &bytes);
        file.write(&path);
        let weights = assets(&path);
        assert_eq!(weights.asset(COMPILED).is_some(), is_used);
        assert_eq!(load(&weights), if is_used { vec![2, 1, 0] } else { vec![1, 0, 0, 1] });
    }
    // Without a tokenizer.json it belongs to nothing.
    let mut file = Layered::default();
    file.asset(COMPILED, &form);
    file.write(&path);
    assert_eq!(assets(&path).asset(COMPILED), None);
}

/// The files of the conformance set hold one tokenizer. One of them has the form of another.
#[test]
fn the_conformance_set_has_both() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../conformance/files");
    for (name, has_form) in [("15-compiled-tokenizer", true), ("3.4.5-form-of-another-tokenizer", false)] {
        let weights = assets(&folder.join(format!("{name}.impasto")));
        assert_eq!(weights.asset(COMPILED).is_some(), has_form, "{name}");
        let json = Tokenizer::from_json(&weights.asset(FILE).expect("there")).unwrap();
        let loaded = Tokenizer::load(|name| weights.asset(name)).unwrap().expect("a tokenizer");
        for (text, ids) in [("eeé ée", vec![6, 2, 8]), ("<s>é", vec![9, 2]), (" e", vec![3, 1])] {
            assert_eq!(loaded.encode(text, false).unwrap(), ids, "{name}: {text}");
            assert_eq!(json.encode(text, false).unwrap(), ids, "{name}: {text}");
        }
    }
}
