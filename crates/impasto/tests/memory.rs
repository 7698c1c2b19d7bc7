//! Calibration and encoding keep to their memory limits. This test has its own process, so that nothing else allocates.

#[path = "../../impasto-core/tests/support/heap.rs"]
mod heap;

use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;

use heap::peak;
use impasto::calibrate::{CalibrateOptions, Calibrated, Statistics, calibrate};
use impasto::encode::{EncodeBase, EncodeError, Options, Progress, Target, encode_calibrated};
use impasto::{Checkpoint, CheckpointWeights, File};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::DType;
use impasto_core::rng::SplitMix64;

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
    assert!(taken <= needed + 2 * assets && needed < 8 * taken, "{taken} bytes, not {needed}");
    assert!(coded.expect("the limit is enough") == without, "a limit changed the file");

    // A tensor over a base, in which a merged adapter is sought.
    let folder = tempfile::tempdir().expect("a folder");
    let [rows, columns] = [768u32, 512];
    let mut random = SplitMix64::new(1);
    let mut numbers = |n: u32| -> Vec<f32> { (0..n).map(|_| random.next_f64() as f32 - 0.5).collect() };
    let weights: Vec<f32> = numbers(rows * columns).iter().map(|x| half::bf16::from_f32(0.05 * x).to_f32()).collect();
    let factors = numbers(rows + columns);
    let base = |i: u32| weights[i as usize];
    let factor = |i: u32| factors[i as usize];
    let merged = |i: u32| base(i) + 1e-3 * factor(i / columns) * factor(i % columns + rows);
    let write = |name: &str, weight: &dyn Fn(u32) -> f32| {
        let bytes: Vec<u8> =
            (0..rows * columns).flat_map(|i| half::bf16::from_f32(weight(i)).to_bits().to_le_bytes()).collect();
        let spec = TensorSpec::new("a.weight".to_owned(), DType::Bf16, vec![rows.into(), columns.into()]);
        let path = folder.path().join(name);
        write_safetensors(&path, None, &[(spec, &bytes)]).expect("written");
        Checkpoint::open(&path).expect("a checkpoint")
    };
    let [base, merged] = [write("base.safetensors", &base), write("merged.safetensors", &merged)];
    let [of_base, delta] = ["base.impasto", "delta.impasto"].map(|name| folder.path().join(name));
    let watch = |_: Progress| ControlFlow::Continue(());
    encode_calibrated(&base, &of_base, &Options::new(Target::Lossless), None, &watch).expect("encodes");
    let of_base = EncodeBase::new(Arc::new(File::open(&of_base).expect("opens")), "base".into(), String::new(), vec![]);
    let of_base = Arc::new(of_base.expect("no delta"));
    let encode = |limit| {
        let options = Options {
            threads: 2,
            memory_limit: Some(limit),
            base: Some(of_base.clone()),
            ..Options::new(Target::Lossless)
        };
        encode_calibrated(&merged, &delta, &options, None, &watch)
    };
    let Err(EncodeError::TensorMemory { needed, tensor, .. }) = encode(1) else { panic!("a byte is enough") };
    assert_eq!(tensor, "a.weight");
    let (report, taken) = peak(|| encode(needed));
    assert_eq!(report.expect("the limit is enough").tensors[0].rank, 1);
    println!("delta: {taken} of {needed} bytes");
    assert!(taken as u64 <= needed && needed < 6 * taken as u64, "{taken} bytes, not {needed}");
}
