//! Calibration and encoding keep to their memory limits. This test has its own process, so that nothing else allocates.

#[path = "../../impasto-core/tests/support/heap.rs"]
mod heap;

use std::ops::ControlFlow;
use std::path::Path;

use heap::peak;
use impasto::calibrate::{CalibrateOptions, Calibrated, Statistics, calibrate};
use impasto::encode::{EncodeError, Options, Target, encode_calibrated};
use impasto::{Checkpoint, CheckpointWeights};

#[test]
fn limits_are_kept_and_not_far_above_what_is_taken() {
    let folder = tempfile::tempdir().expect("a folder");
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../assets/tiny");
    let checkpoint = Checkpoint::open(&tiny).expect("tiny");
    let statistics = folder.path().join("statistics.safetensors");
    let measure = |windows: usize, limit: u64| {
        let tokens: Vec<u32> = (0..windows as u32 * 128).map(|i| (i * i * 7 + i / 3) % 4093).collect();
        let options = CalibrateOptions { window: 128, threads: 2, memory_limit: Some(limit), ..Default::default() };
        let (weights, hash) = (CheckpointWeights::new(&checkpoint), blake3::hash(b"text"));
        let mut watch = |_| ControlFlow::Continue(());
        calibrate(&checkpoint, &weights, &tokens, &options, &hash, &statistics, &mut watch).map(|_| ())
    };
    for windows in [1, 20] {
        let Err(EncodeError::Memory { needed, least, .. }) = measure(windows, 1) else { panic!("a byte is enough") };
        assert!(matches!(measure(windows, needed - 1), Err(EncodeError::Memory { .. })));
        let (done, taken) = peak(|| measure(windows, needed));
        done.expect("the limit is enough");
        let taken = taken as u64;
        println!("calibration, {windows} windows: {taken} of {needed} bytes");
        assert!(taken <= needed && needed < 3 * taken, "{windows} windows take {taken} bytes, not {needed}");
        assert!(least <= needed && (windows > 1 || least == needed));
    }

    let statistics = Statistics::open(&statistics).expect("statistics");
    let path = folder.path().join("tiny.impasto");
    let calibrated = Calibrated { statistics: &statistics, sequential: None };
    let encode = |limit: Option<u64>| {
        let target = Target::BitsPerWeight(4.0);
        let options = Options { threads: 2, memory_limit: limit, ..Options::new(target) };
        encode_calibrated(&checkpoint, &path, &options, Some(&calibrated), &|_| ControlFlow::Continue(()))?;
        Ok::<_, EncodeError>(std::fs::read(&path).expect("a file"))
    };
    let without = encode(None).expect("no limit");
    let Err(EncodeError::TensorMemory { needed, .. }) = encode(Some(1)) else { panic!("a byte is enough") };
    assert!(matches!(encode(Some(needed - 1)), Err(EncodeError::TensorMemory { .. })));
    let (coded, taken) = peak(|| encode(Some(needed)));
    let taken = taken as u64;
    // Assets are not counted: each is held as it is and coded.
    let assets: u64 = checkpoint.assets().iter().map(|asset| asset.bytes.len() as u64).sum();
    println!("encoding: {taken} of {needed} bytes, assets {assets}");
    assert!(taken <= needed + 2 * assets && needed < 6 * taken, "{taken} bytes, not {needed}");
    assert!(coded.expect("the limit is enough") == without, "a limit changed the file");
}
