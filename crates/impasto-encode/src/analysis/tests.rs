//! Analyses of small checkpoints whose results are known.

use std::ops::ControlFlow;
use std::path::Path;

use super::*;

/// Sides of the tensors.
const SIDE: usize = 64;

fn noise(i: usize) -> f32 {
    let mut x = i as u64;
    let mut uniform = || {
        x = (x ^ x >> 29).wrapping_add(1).wrapping_mul(6_364_136_223_846_793_005);
        (x >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..8).map(|_| uniform()).sum::<f32>()
}

/// The weight in a row and column.
type Weight = fn(usize, usize) -> f32;

/// Writes a checkpoint of matrices of binary32.
fn checkpoint(folder: &Path, tensors: &[(&str, Weight)]) -> Checkpoint {
    let bytes = SIDE * SIDE * 4;
    let entry = |(i, (name, _)): (usize, &(&str, Weight))| {
        format!(
            r#""{name}":{{"dtype":"F32","shape":[{SIDE},{SIDE}],"data_offsets":[{},{}]}}"#,
            i * bytes,
            (i + 1) * bytes
        )
    };
    let header = format!("{{{}}}", tensors.iter().enumerate().map(entry).collect::<Vec<_>>().join(","));
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    for (_, weight) in tensors {
        file.extend((0..SIDE * SIDE).flat_map(|i| weight(i / SIDE, i % SIDE).to_le_bytes()));
    }
    let path = folder.join("model.safetensors");
    std::fs::write(&path, file).expect("writes");
    Checkpoint::open(&path).expect("opens")
}

fn wave(r: usize, c: usize) -> f32 {
    (r as f32 / 9.0 + noise(c)).sin() + (c as f32 / 7.0).cos() + 0.02 * noise(r * SIDE + c)
}

fn noisy(r: usize, c: usize) -> f32 {
    noise(99_991 + r * SIDE + c)
}

fn go(_: AnalysisProgress) -> ControlFlow<()> {
    ControlFlow::Continue(())
}

#[test]
fn smooth_tensors_earn_by_their_transforms_and_noise_by_nothing() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path(), &[("a.wave", wave), ("b.noise", noisy)]);
    let options = AnalysisOptions { effort: Effort::Normal, ..Default::default() };
    let analysis = analyze(&checkpoint, &options, &go).expect("an analysis");
    let [smooth, noise] = &analysis.tensors[..] else { panic!("two tensors") };
    let (of_smooth, of_noise) = (smooth.rates.expect("rates"), noise.rates.expect("rates"));
    assert!(smooth.earns() && of_smooth.gain() > 1.0 && of_smooth.all < of_smooth.none - 1.0, "{of_smooth:?}");
    assert_eq!(smooth.transform_share, 1.0);
    let tool = |tensor: &TensorAnalysis, name: &str| tensor.tools.iter().find(|t| t.name == name).expect("it").clone();
    assert!(tool(smooth, "dct").alone > 1.0, "{:?}", tool(smooth, "dct"));
    assert!(!noise.earns(), "{of_noise:?}");
    for tool in &noise.tools {
        // Dependent quantization gains 0.1 bits on any tensor. Units of so few weights do not show more.
        let most = if tool.name == "trellis" { 0.2 } else { 0.06 };
        assert!(tool.alone.abs() < most && tool.left_out.abs() < most, "{tool:?}");
    }
    // With means over both tensors, weighted alike.
    let means = analysis.means().expect("rates");
    assert!((means.rates.lattice - (of_smooth.lattice + of_noise.lattice) / 2.0).abs() < 1e-9);
    assert_eq!(means.tools.iter().map(|tool| tool.name).collect::<Vec<_>>(), analysis.tools);
    assert_eq!(means.weights, 2 * (SIDE * SIDE) as u64);
}

#[test]
fn shares_and_blocks_cover_each_weight_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path(), &[("wave", wave)]);
    let tools = "none,+quarters,+dct,+left".parse().expect("tools");
    let analysis = analyze(&checkpoint, &AnalysisOptions { tools, ..Default::default() }, &go).expect("an analysis");
    assert_eq!(analysis.tools, ["quarters", "left", "dct"]);
    let tensor = &analysis.tensors[0];
    let Shares { predictions, columns, rows, blocks } = &tensor.shares;
    for list in [predictions, columns, rows, blocks] {
        let sum: f64 = list.iter().map(|share| share.share).sum();
        assert!((sum - 1.0).abs() < 1e-9 && list.is_sorted_by(|a, b| a.share >= b.share), "{list:?}");
    }
    let is_on = |share: &Share| ["zero", "left"].contains(&&*share.name);
    assert!(predictions.iter().all(is_on), "{predictions:?}");
    let tile = &tensor.tiles[0];
    let mut covered = vec![0; tile.values.len()];
    for block in &tile.blocks {
        for r in block.at[0]..block.at[0] + block.sides[0] {
            covered[r * SIDE + block.at[1]..][..block.sides[1]].iter_mut().for_each(|times| *times += 1);
        }
    }
    assert!(covered.iter().all(|&times| times == 1));
}

#[test]
fn results_do_not_depend_on_threads_and_wrong_requests_are_errors() {
    let folder = tempfile::tempdir().expect("a folder");
    let checkpoint = checkpoint(folder.path(), &[("a.wave", wave), ("b.noise", noisy)]);
    let tools = "none,+dct".parse().expect("tools");
    let options = AnalysisOptions { tools, tensors: vec!["a.*".into()], ..Default::default() };
    let run = |threads| {
        let mut analysis = analyze(&checkpoint, &AnalysisOptions { threads, ..options.clone() }, &go).expect("it");
        for tensor in &mut analysis.tensors {
            tensor.rates.iter_mut().for_each(|r| (r.all_microseconds, r.none_microseconds) = (0.0, 0.0));
            tensor.tools.iter_mut().for_each(|t| (t.left_out_microseconds, t.alone_microseconds) = (0.0, 0.0));
        }
        analysis
    };
    let (one, two) = (run(1), run(2));
    assert_eq!(one, two);
    assert_eq!(one.tensors.iter().map(|t| &*t.name).collect::<Vec<_>>(), ["a.wave"]);
    let says = |options: AnalysisOptions| analyze(&checkpoint, &options, &go).expect_err("it fails").to_string();
    let message = says(AnalysisOptions { tensors: vec!["a.*".into(), "c.*".into()], ..options.clone() });
    assert_eq!(message, r#"tensor "c.*": the model has no tensor of this name"#);
    let message = says(AnalysisOptions { bits_per_weight: 90.0, ..options.clone() });
    assert!(message.starts_with("no step gives 90 bits per weight"), "{message}");
    let stop = |_: AnalysisProgress| ControlFlow::Break(());
    assert!(matches!(analyze(&checkpoint, &options, &stop), Err(EncodeError::Cancelled)));
}

/// Rows with a mean in common have a part of rank 1; noise has none.
#[test]
fn low_rank_parts_are_found_and_pay() {
    let folder = tempfile::tempdir().expect("a folder");
    let shifted: Weight = |r, c| noisy(r, c) + 8.0 * noise(c);
    let checkpoint = checkpoint(folder.path(), &[("a.shifted", shifted), ("b.noise", noisy)]);
    let tools = "none,+dct".parse().expect("tools");
    let analysis = analyze(&checkpoint, &AnalysisOptions { tools, ..Default::default() }, &go).expect("an analysis");
    let [shifted, noise] = &analysis.tensors[..] else { panic!("two tensors") };
    let part = shifted.low_rank.expect("a mean");
    // Without the mean, its weights are eighth parts: 3 bits less, of which the factors of so small a matrix take some.
    assert!(part.rank == 1 && (1.5..3.0).contains(&part.saved), "{part:?}");
    assert_eq!(noise.low_rank, None);
}

/// At a step that makes a large weight more steps than mode transform can hold, there is nothing to say.
#[test]
fn a_tensor_that_mode_transform_cannot_hold_has_no_rates() {
    let folder = tempfile::tempdir().expect("a folder");
    let spike: Weight = |r, c| if r + c == 0 { 30.0 } else { noisy(r, c) };
    let checkpoint = checkpoint(folder.path(), &[("spike", spike)]);
    let options = AnalysisOptions { bits_per_weight: 20.0, ..Default::default() };
    let analysis = analyze(&checkpoint, &options, &go).expect("an analysis");
    let tensor = &analysis.tensors[0];
    assert!(tensor.rates.is_none() && !tensor.earns() && tensor.tools.is_empty(), "{tensor:?}");
    assert_eq!(analysis.means(), None);
}

#[test]
fn patterns_match_names() {
    for (pattern, name) in
        [("a.b", "a.b"), ("*", ""), ("a*", "a"), ("*.weight", "x.weight"), ("a*c*e", "abcde"), ("a**e", "ae")]
    {
        assert!(matches(pattern, name), "{pattern} {name}");
    }
    for (pattern, name) in [("a.b", "a.bc"), ("a*", "ba"), ("*a", "ab"), ("ab*ba", "aba"), ("a*c*e", "aec"), ("", "a")]
    {
        assert!(!matches(pattern, name), "{pattern} {name}");
    }
}
