//! Callbacks can cancel an encoding or a calibration; nothing is left behind.

use std::fs;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::support::{few_of_tiny, listing, tiny};
use impasto::calibrate::{CalibrateOptions, calibrate};
use impasto::encode::{EncodeError, Extent, Layers, Options, Target, encode};
use impasto::{Checkpoint, CheckpointWeights};

/// Returns a callback that continues `left` times.
fn steps(left: usize) -> impl Fn() -> ControlFlow<()> {
    let heard = AtomicUsize::new(0);
    move || {
        if heard.fetch_add(1, Ordering::Relaxed) < left { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
    }
}

#[test]
fn a_cancelled_encoding_leaves_the_old_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.impasto");
    fs::write(&path, b"old").expect("writes");
    let before = listing(folder.path());
    let model = few_of_tiny();
    let checkpoint = Checkpoint::open(&model.path).expect("a checkpoint");
    let lossy = Options::new(Target::BitsPerWeight(4.0));
    let below = vec![Extent::BitsPerWeight(3.0)];
    let layered = Options { layers: Layers { below, ..Layers::default() }, ..lossy.clone() };
    for options in [&Options::new(Target::Lossless), &lossy, &layered] {
        for left in [0, 1, 9] {
            let go_on = steps(left);
            let ended = encode(&checkpoint, &path, options, &|_| go_on());
            assert!(matches!(ended, Err(EncodeError::Cancelled)), "after {left} steps");
            assert_eq!(fs::read(&path).expect("a file"), b"old");
            assert_eq!(listing(folder.path()), before);
        }
    }
}

#[test]
fn a_cancelled_calibration_leaves_the_old_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("statistics.safetensors");
    fs::write(&path, b"old").expect("writes");
    let before = listing(folder.path());
    let checkpoint = Checkpoint::open(&tiny()).expect("tiny");
    let weights = CheckpointWeights::new(&checkpoint);
    let options = CalibrateOptions { window: 16, ..CalibrateOptions::default() };
    let tokens: Vec<u32> = (1..65).collect();
    // During the forward pass over six blocks, the output projection, the backward pass, and before the file is
    // written.
    for left in [0, 3, 6, 8, 13] {
        let go_on = steps(left);
        let hash = blake3::hash(b"text");
        let ended = calibrate(&checkpoint, &weights, &tokens, &options, &hash, &path, &mut |_| go_on());
        assert!(matches!(ended, Err(EncodeError::Cancelled)), "after {left} steps");
        assert_eq!(fs::read(&path).expect("a file"), b"old");
        assert_eq!(listing(folder.path()), before);
    }
}
