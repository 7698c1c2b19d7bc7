//! Tests of files that are damaged or contradict themselves; those of calibrations are with the command.

use super::*;

fn info(held_back_tokens: u64) -> Info {
    let (model, text) = ("m".to_owned(), "t".to_owned());
    let (groups, linears) = (BTreeMap::new(), BTreeMap::new());
    Info { version: 3, model, text, window: 4, tokens: 12, gradient_tokens: 4, held_back_tokens, groups, linears }
}

/// The file of the only portion: a group of 3 inputs in one part and, if tokens are held out, a held-out part of 2 tokens.
fn file(info: Info, parts: usize, change: impl FnOnce(&mut Recorded)) -> Vec<u8> {
    file_of(info, parts, change, true)
}

fn file_of(info: Info, parts: usize, change: impl FnOnce(&mut Recorded), with_gradients: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("s");
    let mut spill = Spill::beside(&path).expect("a file");
    let mut push = |n: usize| spill.push([&vec![0.5; n][..]]).expect("room");
    let held = (info.held_back_tokens > 0).then(|| (2, 2, [push(6), push(6)]));
    let of_parts = vec![(0, 8, push(6))];
    let mut group = Recorded { names: vec!["a".into()], inputs: 3, kind: None, parts: of_parts, held };
    change(&mut group);
    let mut fisher = Fisher::new(2);
    fisher.outputs.insert("a".into(), vec![1.0; 4]);
    let portion = Portion::new(1, 1).expect("a portion");
    let of_portion = PortionSums::new(&path, portion, info, parts);
    let written = of_portion.path.clone();
    let gradients: Vec<_> = with_gradients.then_some((0, fisher)).into_iter().collect();
    of_portion.write(vec![group], &gradients, ("e", "h"), &mut spill).expect("writes");
    std::fs::read(written).expect("reads")
}

#[test]
fn damage_is_an_error() {
    let whole = file(info(4), 2, |_| ());
    assert_eq!(fuzz_sums(&whole).expect("a good file"), 1);
    for length in 0..whole.len() {
        assert!(fuzz_sums(&whole[..length]).is_err(), "{length}");
    }
    let mut damaged = whole;
    for at in 0..damaged.len() {
        damaged[at] ^= 0x41;
        // Padding may be anything.
        let _ = fuzz_sums(&damaged);
        damaged[at] ^= 0x41;
    }
}

/// Hashes are right, and what the file says is wrong.
#[test]
fn contradictions_are_errors() {
    let says = |file: Vec<u8>| fuzz_sums(&file).expect_err("an error").to_string();
    let parts = "sums: its parts are not those of its shard";
    assert_eq!(says(file(info(4), 3, |_| ())), parts, "one is missing");
    assert_eq!(says(file(info(0), 1, |group| group.parts[0].0 = 1)), parts);
    assert_eq!(says(file(info(0), 1, |group| group.parts[0].1 = 13)), parts, "more tokens than there are");
    assert_eq!(says(file(info(4), 2, |group| group.held.iter_mut().for_each(|held| held.1 = 1))), parts);
    let nothing = "sums: its parts are not those of a calibration";
    assert_eq!(
        says(file(info(4), 1, |group| group.parts.clear())),
        nothing,
        "a matrix without a sum may be of any size"
    );
    let no_gradients = file_of(info(4), 2, |_| (), false);
    assert_eq!(says(no_gradients), "sums: it has no gradients", "the vocabulary may be of any size");
    assert_eq!(says(file(Info { tokens: u64::MAX, ..info(0) }, 1, |_| ())), nothing);
}
