//! Files over a base: what they take from it, every way to read them, and bases that are not the right one.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto::calibrate::WeightSource;
use impasto::encode::{Extent, Layers, Options, Report, Target};
use impasto::format::BaseUsage;
use impasto::verify::verify;
use impasto::{Bases, Cut, File, FileError, FileWeights, MAX_DEPTH, truncate};
use impasto_core::{DType, Mode};

use crate::support::{Model, Random, Tensor, decode, encode_over, listing, to_bytes};

const SHAPE: [u64; 2] = [160, 96];

/// The weights of a base, and of a fine-tune that differs a little in all of them.
fn pair(name: &str, dtype: DType, seed: u64) -> (Tensor, Tensor) {
    let base = Tensor::weights(name, dtype, &SHAPE, seed);
    let mut random = Random(seed + 100);
    let tuned: Vec<f32> = base.values().iter().map(|w| w + 2e-4 * random.gaussian()).collect();
    (base, Tensor::floats(name, dtype, &SHAPE, tuned))
}

fn lossless(model: &Model, path: &Path, base: Option<&Path>) -> Report {
    encode_over(&model.path, path, base, Options::new(Target::Lossless))
}

fn open(path: &Path) -> File {
    Bases::default().open(path).expect("opens")
}

/// Checks that a file, read with its base, gives the files of a model.
fn assert_restores(path: &Path, model: &Model) {
    let file = open(path);
    assert!(verify(&file).expect("reads").is_good());
    let folder = tempfile::tempdir().expect("a folder");
    decode(&file, folder.path(), true).expect("decodes");
    assert!(listing(folder.path()) == listing(&model.path), "not the files of the model");
}

/// A base file and its model in a folder of their own.
struct Setting {
    folder: tempfile::TempDir,
    base: PathBuf,
}

impl Setting {
    fn new(tensors: Vec<Tensor>) -> Setting {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("base.impasto");
        lossless(&Model::single(tensors), &base, None);
        Setting { folder, base }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

#[test]
fn a_fine_tune_is_restored_from_its_base() {
    let pairs = [DType::Bf16, DType::F16, DType::F32].map(|dtype| pair(dtype.name(), dtype, dtype as u64));
    let (mut base, mut tuned): (Vec<Tensor>, Vec<Tensor>) = pairs.into_iter().unzip();
    let same = Tensor::weights("same", DType::Bf16, &SHAPE, 9);
    let counts = |seed| Tensor::noise("counts", DType::I32, &[40, 8], seed);
    base.extend([same.clone(), counts(1), Tensor::weights("dropped", DType::F16, &SHAPE, 3)]);
    tuned.extend([same, counts(2), Tensor::weights("new", DType::F16, &SHAPE, 4)]);
    let at = Setting::new(base);
    let model = Model::single(tuned);
    let [delta, alone] = ["delta.impasto", "alone"].map(|name| at.path(name));
    let report = lossless(&model, &delta, Some(&at.base));
    let plain = lossless(&model, &alone, None);
    let usage = |name: &str| report.tensors.iter().find(|tensor| tensor.name == name).expect("it").base;
    let [identical, predicted] = [BaseUsage::Identical, BaseUsage::Predicted].map(Some);
    let found = ["BF16", "F16", "F32", "same", "counts", "new"].map(usage);
    assert_eq!(found, [predicted, predicted, predicted, identical, None, None]);
    assert!(report.summary.file_length * 4 < plain.summary.file_length * 3, "{report:?} {plain:?}");
    assert_restores(&delta, &model);
    let file = open(&delta);
    let record = file.base().expect("a delta");
    assert_eq!((&*record.name, &*record.license), ("base", "mit"));
    assert_eq!(record.root, *open(&at.base).reader().root());
    // The file does not depend on the number of threads.
    let again = at.path("again");
    encode_over(&model.path, &again, Some(&at.base), Options { threads: 1, ..Options::new(Target::Lossless) });
    assert!(std::fs::read(&again).expect("it") == std::fs::read(&delta).expect("it"));
    // Bands, and the ways of the runtime.
    let whole = file.tensor("BF16").expect("it").bytes().expect("decodes");
    let part = file.tensor("BF16").expect("it").band(5..9, 3..40).expect("decodes");
    let rows = (5..9).flat_map(|r| whole[(r * 96 + 3) * 2..(r * 96 + 40) * 2].to_vec());
    assert_eq!(part, rows.collect::<Vec<u8>>());
    let weights = FileWeights::new(Arc::new(file)).expect("no assets");
    for name in ["BF16", "same"] {
        let coded = weights.coded(name).expect("opens").expect("coded");
        let (mut out, mut all) = (Vec::new(), Vec::new());
        for row in 0..coded.tile_rows().len() {
            coded.read(row, &mut out).expect("decodes");
            all.extend_from_slice(&out);
        }
        assert_eq!(all, weights.load_f32(name).expect("floats"), "{name}");
    }
}

/// An adapter that was merged is found: its factors predict nearly all weights.
#[test]
fn a_merged_adapter_is_factors_and_few_corrections() {
    let shape = [1200, 96];
    let mut random = Random(31);
    let factors: Vec<f32> = (0..2 * (1200 + 96)).map(|_| random.gaussian()).collect();
    let pairs = [DType::Bf16, DType::F16].map(|dtype| {
        let base = Tensor::weights(dtype.name(), dtype, &shape, 7);
        let size = if dtype == DType::Bf16 { 1e-4 } else { 2e-5 };
        let added = |i: usize| -> f32 {
            (0..2).map(|k| factors[2 * (i / 96) + k] * factors[2 * (1200 + i % 96) + k] * size).sum()
        };
        let tuned: Vec<f32> = base.values().iter().enumerate().map(|(i, w)| w + added(i)).collect();
        (base, Tensor::floats(dtype.name(), dtype, &shape, tuned))
    });
    let (base, tuned): (Vec<Tensor>, Vec<Tensor>) = pairs.into_iter().unzip();
    let (at, model) = (Setting::new(base), Model::single(tuned));
    let [delta, again] = ["delta.impasto", "again"].map(|name| at.path(name));
    let report = lossless(&model, &delta, Some(&at.base));
    for tensor in &report.tensors {
        assert!(tensor.rank == 2 && tensor.base == Some(BaseUsage::Predicted), "{tensor:?}");
        // One bit per weight.
        assert!(tensor.bytes < 1200 * 96 / 8, "{tensor:?}");
    }
    assert_restores(&delta, &model);
    encode_over(&model.path, &again, Some(&at.base), Options { threads: 1, ..Options::new(Target::Lossless) });
    assert!(std::fs::read(&again).expect("it") == std::fs::read(&delta).expect("it"));
    // Bands across tiles.
    let file = open(&delta);
    let tensor = file.tensor("BF16").expect("it");
    let whole = tensor.bytes().expect("decodes");
    for rows in [5..9, 250..900, 1190..1200] {
        let part = tensor.band(rows.clone(), 3..40).expect("decodes");
        let wanted = rows.flat_map(|r| whole[(r as usize * 96 + 3) * 2..(r as usize * 96 + 40) * 2].to_vec());
        assert_eq!(part, wanted.collect::<Vec<u8>>());
    }
}

/// Some rows are new, names begin otherwise, and weights have another dtype.
#[test]
fn what_differs_in_shape_name_or_dtype() {
    let (base, tuned) = pair("model.embed", DType::Bf16, 1);
    let narrow = Tensor::weights("model.b", DType::Bf16, &SHAPE, 2);
    let at = Setting::new(vec![base, narrow.clone()]);
    let mut values = tuned.values();
    values.extend((0..3 * 96).map(|i| 0.01 * i as f32));
    let grown = Tensor::floats("embed", DType::Bf16, &[163, 96], values);
    let wide = Tensor::floats("b", DType::F32, &SHAPE, narrow.values());
    let model = Model::single(vec![grown, wide]);
    let path = at.path("delta.impasto");
    let report = lossless(&model, &path, Some(&at.base));
    assert!(report.tensors.iter().all(|tensor| tensor.base == Some(BaseUsage::Predicted)));
    assert!(report.tensors[0].bytes < 200, "the same values as floats of 32 bits: {}", report.tensors[0].bytes);
    let file = open(&path);
    let link = file.meta("embed").expect("it").base.clone().expect("a base");
    assert_eq!(link.name.as_deref(), Some("model.embed"));
    assert_restores(&path, &model);
}

/// A tile without a change takes no bytes, also in a tensor with changes elsewhere.
#[test]
fn tiles_without_a_change_are_empty() {
    let base = Tensor::weights("a", DType::Bf16, &[4096, 256], 1);
    let mut values = base.values();
    values[5] += 1.0;
    let tuned = Tensor::floats("a", DType::Bf16, &[4096, 256], values);
    let at = Setting::new(vec![base]);
    let (model, path) = (Model::single(vec![tuned]), at.path("delta.impasto"));
    lossless(&model, &path, Some(&at.base));
    let file = open(&path);
    let lengths: Vec<(Mode, u32)> = file.reader().units().iter().map(|unit| (unit.mode, unit.length)).collect();
    let same: Vec<_> = lengths.iter().filter(|(mode, _)| *mode == Mode::SAME).collect();
    assert!(!same.is_empty() && same.iter().all(|(_, length)| *length == 0), "{lengths:?}");
    assert_restores(&path, &model);
}

#[test]
fn another_base_is_refused_and_a_part_of_the_base_is_not() {
    let pairs = [1, 2].map(|seed| pair(&format!("t{seed}"), DType::Bf16, seed));
    let (base, tuned): (Vec<Tensor>, Vec<Tensor>) = pairs.into_iter().unzip();
    let at = Setting::new(base.clone());
    let model = Model::single(tuned);
    let path = at.path("delta.impasto");
    lossless(&model, &path, Some(&at.base));
    let other = at.path("other");
    lossless(&Model::single(vec![base[0].clone(), Tensor::weights("t2", DType::Bf16, &SHAPE, 7)]), &other, None);
    let roots = [&at.base, &other].map(|path| impasto::hex(open(path).reader().root()));
    let attach = |base: &Path| File::open(&path).expect("opens").attach(open(base));
    let message = attach(&other).expect_err("another base").to_string();
    let differs = message.contains("differs in 1 of the 5 objects") && message.contains("\"t2\"");
    assert!(differs && roots.iter().all(|root| message.contains(root)), "{message}");
    // A base with one more asset is another file, but all that counts is there.
    let more = at.path("more");
    let model = Model::single(base);
    std::fs::write(model.path.join("vocab.txt"), "a").expect("written");
    lossless(&model, &more, None);
    attach(&more).expect("the same tensors");
    // Without a base the file opens, but its tensors do not; with one, a file that is no delta is refused.
    std::fs::rename(&at.base, at.path("elsewhere")).expect("moved");
    std::fs::remove_file(&more).expect("removed");
    let file = open(&path);
    let missing = file.tensor("t1").err().expect("no base").to_string();
    assert!(missing.contains(&roots[0]) && missing.contains("--base"), "{missing}");
    let mut plain = File::open(&other).expect("opens");
    assert!(matches!(plain.attach(open(&other)), Err(FileError::NotDelta { .. })));
}

/// What is found where, and how: by its root, wherever it is; by its tensors, only if the user names it.
#[test]
fn bases_are_found_by_their_root() {
    let (base, tuned) = pair("a", DType::Bf16, 1);
    let at = Setting::new(vec![base]);
    let path = at.path("delta.impasto");
    lossless(&Model::single(vec![tuned]), &path, Some(&at.base));
    let folder = tempfile::tempdir().expect("a folder");
    let moved = folder.path().join("renamed.impasto");
    std::fs::rename(&at.base, &moved).expect("moved");
    let is_found = |named: &[&Path]| {
        let bases = Bases::new(named.iter().map(|path| path.to_path_buf()).collect());
        bases.open(&path).expect("opens").tensor("a").is_ok()
    };
    assert!(!is_found(&[]) && is_found(&[&moved]) && is_found(&[folder.path()]));
    // A damaged copy beside the delta is passed over, and named if there is no other.
    let mut damaged = std::fs::read(&moved).expect("it");
    damaged[70] ^= 1;
    std::fs::write(at.path("base.impasto"), damaged).expect("written");
    assert!(is_found(&[folder.path()]));
    std::fs::copy(&moved, at.path("copy.impasto")).expect("copied");
    assert!(is_found(&[]));
    std::fs::remove_file(at.path("copy.impasto")).expect("removed");
    let error = Bases::default().open(&path).err().expect("no other").to_string();
    assert!(error.contains("base.impasto") && error.contains("2.3"), "{error}");
    // A file that is a pipe or a folder is not opened, and a cut one is an error when its tensors are read.
    std::fs::write(at.path("base.impasto"), b"not a file").expect("written");
    assert!(!is_found(&[]));
    let whole = std::fs::read(&moved).expect("it");
    std::fs::write(at.path("base.impasto"), &whole[..whole.len() / 2]).expect("written");
    let cut = Bases::default().open(&path).expect("its manifest is there");
    let error = cut.tensor("a").expect("its headers").bytes().expect_err("cut").to_string();
    assert!(error.contains("base.impasto") && error.contains("absent"), "{error}");
}

/// Every file is a delta of the one before, up to the longest chain that is read.
#[test]
fn chains_have_an_end() {
    let mut random = Random(3);
    let first = Tensor::weights("a", DType::Bf16, &SHAPE, 1);
    let at = Setting::new(vec![first.clone()]);
    let mut values = first.values();
    let mut before = at.base.clone();
    for n in 1..MAX_DEPTH {
        values.iter_mut().step_by(n + 1).for_each(|w| *w *= 1.0 + 0.01 * random.gaussian());
        let model = Model::single(vec![Tensor::floats("a", DType::Bf16, &SHAPE, values.clone())]);
        let path = at.path(&format!("{n:02}.impasto"));
        lossless(&model, &path, Some(&before));
        before = path;
        if n == MAX_DEPTH - 1 {
            assert_eq!(open(&before).depth(), MAX_DEPTH);
            assert_restores(&before, &model);
        }
    }
    let model = Model::single(vec![Tensor::floats("a", DType::Bf16, &SHAPE, values)]);
    let last = at.path("last.impasto");
    // The last is identical to the one before; it is the chain that is too long.
    lossless(&model, &last, Some(&before));
    assert!(matches!(Bases::default().open(&last), Err(FileError::Depth { .. })));
}

/// Over a base that is coded with loss, or cut to a layer that is, a fine-tune is exact all the same.
#[test]
fn a_base_may_be_lossy_or_layered() {
    let (base, tuned) = pair("a", DType::Bf16, 5);
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let model = Model::single(vec![base]);
    let layers = Layers { below: vec![Extent::BitsPerWeight(3.0)], exact: true, ..Layers::default() };
    let layered = Options { layers, ..Options::new(Target::BitsPerWeight(6.0)) };
    encode_over(&model.path, &path("base.impasto"), None, layered);
    truncate(&open(&path("base.impasto")), &Cut::Layer(1), &path("short.impasto")).expect("written");
    let tuned = Model::single(vec![tuned]);
    let [whole, short] = ["base.impasto", "short.impasto"].map(|base| {
        let delta = path(&format!("over-{base}"));
        let length = lossless(&tuned, &delta, Some(&path(base))).summary.file_length;
        assert_restores(&delta, &tuned);
        length
    });
    assert!(whole < short, "{whole} {short}");
    // The level that a delta names is there in every copy that is not too short.
    let attach = |base: &str, delta: &str| File::open(&path(delta)).expect("opens").attach(open(&path(base)));
    attach("base.impasto", "over-short.impasto").expect("the units of the first layer are the same");
    let error = attach("short.impasto", "over-base.impasto").expect_err("the exact layer is gone").to_string();
    assert!(error.contains("differs in"), "{error}");
}

/// The differences of a fine-tune, coded with loss, take far fewer bits than its weights at the same error; layers end in the
/// original bits.
#[test]
fn differences_are_coded_with_loss_and_in_layers() {
    let pairs = [1, 2, 3].map(|seed| pair(&format!("t{seed}"), DType::Bf16, seed));
    let (base, tuned): (Vec<Tensor>, Vec<Tensor>) = pairs.into_iter().unzip();
    let at = Setting::new(base);
    let model = Model::single(tuned.clone());
    let [delta, alone, layered] = ["delta.impasto", "alone", "layered.impasto"].map(|name| at.path(name));
    encode_over(&model.path, &delta, Some(&at.base), Options::new(Target::BitsPerWeight(2.0)));
    encode_over(&model.path, &alone, None, Options::new(Target::BitsPerWeight(6.0)));
    let error = |path: &Path| {
        let file = open(path);
        let of_tensor = |tensor: &Tensor| {
            let decoded = file.tensor(&tensor.name).expect("it").bytes().expect("decodes");
            let decoded = crate::support::to_values(DType::Bf16, &decoded);
            decoded.iter().zip(tensor.values()).map(|(a, b)| f64::from(a - b).powi(2)).sum::<f64>()
        };
        tuned.iter().map(of_tensor).sum::<f64>()
    };
    assert!(error(&delta) < error(&alone), "{} {}", error(&delta), error(&alone));
    let layers = Layers { below: vec![Extent::BitsPerWeight(1.5)], exact: true, ..Layers::default() };
    let options = Options { layers, ..Options::new(Target::BitsPerWeight(3.0)) };
    encode_over(&model.path, &layered, Some(&at.base), options);
    assert_restores(&layered, &model);
    let errors = [1, 2].map(|layer| {
        let cut = at.path(&format!("layer{layer}.impasto"));
        truncate(&open(&layered), &Cut::Layer(layer), &cut).expect("written");
        error(&cut)
    });
    assert!(errors[0] > errors[1] && errors[1] > 0.0, "{errors:?}");
    let weights = FileWeights::new(Arc::new(open(&delta))).expect("no assets");
    let coded = weights.coded("t1").expect("opens").expect("coded");
    let mut out = Vec::new();
    coded.read(0, &mut out).expect("decodes");
    assert_eq!(out[..], weights.load_f32("t1").expect("floats")[..out.len()]);
}

/// A weight of the base that is not a number or infinite is kept by exact deltas; a lossy one does not touch it.
#[test]
fn odd_weights_of_a_base() {
    let mut values = Tensor::weights("a", DType::F32, &SHAPE, 1).values();
    for (i, odd) in [f32::NAN, f32::INFINITY, -0.0, f32::MIN_POSITIVE / 2.0].into_iter().enumerate() {
        values[i * 7] = odd;
    }
    let bytes = |values: &[f32]| to_bytes(DType::F32, values.iter().copied());
    let base = Tensor::new("a", DType::F32, &SHAPE, bytes(&values));
    values.iter_mut().skip(40).for_each(|w| *w *= 1.001);
    let tuned = Model::single(vec![Tensor::new("a", DType::F32, &SHAPE, bytes(&values))]);
    let at = Setting::new(vec![base]);
    let path = at.path("delta.impasto");
    let report = lossless(&tuned, &path, Some(&at.base));
    assert_eq!(report.tensors[0].base, Some(BaseUsage::Predicted));
    assert_restores(&path, &tuned);
}

/// What is identical to a tensor of a base that is cut is read at the level that was there, also when the base is whole; verifying
/// the delta reads the base.
#[test]
fn identical_tensors_of_a_cut_base() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let model = Model::single(vec![Tensor::weights("a", DType::Bf16, &SHAPE, 5)]);
    let layers = Layers { below: vec![Extent::BitsPerWeight(3.0)], exact: true, ..Layers::default() };
    let layered = Options { layers, ..Options::new(Target::BitsPerWeight(6.0)) };
    encode_over(&model.path, &path("base.impasto"), None, layered);
    // The units of the first layer, but the manifest of all.
    let whole = std::fs::read(path("base.impasto")).expect("it");
    let end = open(&path("base.impasto")).layers()[0].units - 1;
    let end = open(&path("base.impasto")).reader().unit_range(end).expect("a unit").end as usize;
    std::fs::write(path("base.impasto"), &whole[..end]).expect("written");
    let lossy = open(&path("base.impasto")).tensor("a").expect("it").bytes().expect("decodes");
    let coarse = Model::single(vec![Tensor::new("a", DType::Bf16, &SHAPE, lossy.clone())]);
    let report = lossless(&coarse, &path("delta.impasto"), Some(&path("base.impasto")));
    assert_eq!(report.tensors[0].base, Some(BaseUsage::Identical));
    for bytes in [&whole[..end], &whole] {
        std::fs::write(path("base.impasto"), bytes).expect("written");
        let file = Arc::new(open(&path("delta.impasto")));
        assert!(verify(&*file).expect("reads").is_good());
        assert!(file.tensor("a").expect("it").bytes().expect("decodes") == lossy);
        let weights = FileWeights::new(file).expect("no assets");
        assert_eq!(weights.load_f32("a").expect("floats"), coarse.tensors[0].values());
        assert!(weights.coded("a").expect("opens").is_none(), "the units of the base would give another level");
    }
    let mut damaged = whole[..end].to_vec();
    damaged[end - 1] ^= 1;
    std::fs::write(path("base.impasto"), damaged).expect("written");
    let verdict = verify(&open(&path("delta.impasto"))).expect("reads");
    assert!(verdict.damaged.is_empty() && verdict.broken[0].contains("base.impasto"), "{verdict:?}");
}
