//! Deltas that share the weights of their base in memory, compared with the binary32 reference.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto::calibrate::WeightSource;
use impasto::encode::{Extent, Layers, Options, Target};
use impasto::run::{Difference, Failure, LowRankFactors, ModelError, RuntimeError};
use impasto::{AdapterWeights, Bases, Cut, FileWeights};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::DType;
use impasto_model::Want;
use impasto_runtime::{Activations, KvFormat, KvLayout, Model, Residence, RunOptions};

use crate::support::{self, Random, Tensor, encode_over, open};

const TOKENS: [u32; 24] =
    [5, 17, 300, 2, 44, 800, 1, 9, 73, 512, 6, 31, 250, 77, 3, 12, 600, 41, 8, 90, 100, 4, 21, 333];
/// Tolerance for another order of summation.
const ORDER: f64 = 1e-5;

/// The tiny model with 32-bit floats, after `change` of each tensor, and with so many more rows in the embedding.
fn tuned(mut change: impl FnMut(&mut [f32]), more: usize) -> support::Model {
    let model = support::Model::wide_tiny();
    let tensors = model.tensors.iter().map(|tensor| {
        let (mut values, mut shape) = (tensor.values(), tensor.shape.clone());
        if tensor.name.contains("embed") {
            shape[0] += more as u64;
            values.extend(values[..more * shape[1] as usize].to_vec());
        }
        if shape.len() == 2 {
            change(&mut values);
        }
        Tensor::floats(&tensor.name, DType::F32, &shape, values)
    });
    let changed = support::Model::single(tensors.collect());
    for asset in ["tokenizer.json", "config.json"] {
        let text = std::fs::read_to_string(model.path.join(asset)).expect("an asset");
        let grown = text.replace("\"vocab_size\": 4096", &format!("\"vocab_size\": {}", 4096 + more));
        std::fs::write(changed.path.join(asset), grown).expect("an asset");
    }
    changed
}

/// A few weights that are far from those of the base.
fn few(values: &mut [f32]) {
    values.iter_mut().step_by(37).for_each(|w| *w += 0.05);
}

/// All weights a little off.
fn noise(values: &mut [f32]) {
    let mut random = Random(values.len() as u64);
    values.iter_mut().for_each(|w| *w += 2e-3 * random.gaussian());
}

/// A base of the tiny model in a file.
struct Setting {
    folder: tempfile::TempDir,
    base: PathBuf,
}

impl Setting {
    fn new(target: Target) -> Setting {
        let folder = tempfile::tempdir().expect("a folder");
        let base = folder.path().join("base.impasto");
        encode_over(&support::Model::wide_tiny().path, &base, None, Options::new(target));
        Setting { folder, base }
    }

    /// Encodes a fine-tune over the base.
    fn delta(&self, name: &str, model: &Path, target: Target) -> PathBuf {
        let path = self.folder.path().join(name);
        encode_over(model, &path, Some(&self.base), Options::new(target));
        path
    }

    fn weights(&self, path: &Path) -> Box<dyn WeightSource> {
        let file = Bases::new(vec![self.base.clone()]).open(path).expect("opens");
        match AdapterWeights::is_for(&file) {
            true => Box::new(AdapterWeights::new(file).expect("fits")),
            false => Box::new(FileWeights::new(file).expect("assets")),
        }
    }

    fn load(&self, path: &Path, residence: Residence) -> Model {
        Model::load(&*self.weights(path), &options(residence)).expect("a model")
    }
}

/// Options with which only the weights are rounded.
fn options(residence: Residence) -> RunOptions {
    let kv = KvLayout::uniform(KvFormat::F32);
    RunOptions { threads: 2, kv, activations: Activations::F32, residence, ..RunOptions::default() }
}

fn logits(model: &Model) -> Vec<f32> {
    let mut cache = model.network().new_cache(0).expect("a cache");
    model.network().forward(&mut cache, &TOKENS, Want::All).expect("runs")
}

/// Returns the root mean square of the difference over that of the reference.
fn error(got: &[f32], reference: &[f32]) -> f64 {
    assert_eq!(got.len(), reference.len());
    let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x) * f64::from(x)).sum::<f64>();
    let difference = square(&mut got.iter().zip(reference).map(|(a, b)| a - b));
    (difference / square(&mut reference.iter().copied())).sqrt()
}

#[test]
fn deltas_take_only_what_they_add() {
    let at = Setting::new(Target::Lossless);
    let base = at.load(&at.base, Residence::Packed);
    let low = Target::BitsPerWeight(1.0);
    let of_base = base.memory_bytes();
    let cases = [
        ("same", tuned(|_| (), 0), Target::Lossless, of_base / 50),
        ("few", tuned(few, 0), Target::Lossless, of_base / 10),
        ("grown", tuned(few, 3), Target::Lossless, of_base / 10),
        ("low", tuned(noise, 0), low, of_base / 8),
        ("low grown", tuned(noise, 3), low, of_base / 8),
        // Nothing can be shared here.
        ("all", tuned(noise, 0), Target::Lossless, of_base + 1),
    ];
    let mut together = Vec::new();
    for (name, model, target, most) in &cases {
        let path = at.delta(name, &model.path, *target);
        let over = base.load_over(&*at.weights(&path)).expect("a delta of it");
        let reference = logits(&at.load(&path, Residence::Float));
        let worst = error(&logits(&over), &reference);
        assert!(worst < ORDER, "{name}: {worst:.1e}");
        let bytes = over.memory_bytes();
        assert!(bytes < *most, "{name}: {bytes} bytes, base {of_base}");
        // The base itself is another model, unless nothing changed.
        let shared: Vec<f32> =
            reference.chunks(reference.len() / TOKENS.len()).flat_map(|row| row[..4096].to_vec()).collect();
        assert_eq!(error(&logits(&base), &shared) < 1e-3, *name == "same", "{name}");
        let [own, of_base] = [&over, &base].map(|model| model.shared_tokenizer().expect("one"));
        assert!(Arc::ptr_eq(&own, &of_base), "{name}: the tokenizer is shared, too");
        together.push((over, reference));
    }
    // Their weights do not mix.
    for (over, reference) in &together {
        assert!(error(&logits(over), reference) < ORDER);
    }
}

/// Over integers, a delta stays integers, with the base in memory or not.
#[test]
fn lossy_deltas_of_a_lossy_base_stay_packed() {
    let at = Setting::new(Target::BitsPerWeight(4.0));
    let base = at.load(&at.base, Residence::Packed);
    let path = at.delta("delta", &tuned(noise, 0).path, Target::BitsPerWeight(1.5));
    let reference = logits(&at.load(&path, Residence::Float));
    let over = base.load_over(&*at.weights(&path)).expect("a delta of it");
    let alone = at.load(&path, Residence::Packed);
    for model in [&over, &alone] {
        let worst = error(&logits(model), &reference);
        assert!(worst < ORDER, "{worst:.1e}");
    }
    let weights = open(&at.base).weights() as usize;
    let (of_base, of_over, of_alone) = (base.memory_bytes(), over.memory_bytes(), alone.memory_bytes());
    assert!(
        of_base < weights && of_over < of_base * 3 / 5 && of_alone < weights * 5 / 4,
        "{of_base} {of_over} {of_alone}"
    );
    assert!(alone.runtime().expect("fast").packing().weights > over.runtime().expect("fast").packing().weights);
}

#[test]
fn adapters_take_their_factors() {
    let at = Setting::new(Target::Lossless);
    let folder = at.folder.path().join("adapter");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::write(folder.join("adapter_config.json"), r#"{"peft_type": "LORA", "r": 2, "lora_alpha": 2}"#)
        .expect("it");
    let shapes = [("model.layers.1.mlp.down_proj", 192, 512), ("model.layers.3.self_attn.q_proj", 192, 192)];
    let factors = shapes.iter().flat_map(|&(module, rows, columns)| {
        let name = |side| format!("base_model.model.{module}.lora_{side}.weight");
        let factor = |side, shape: [u64; 2], seed| {
            let tensor = Tensor::weights(&name(side), DType::F32, &shape, seed);
            Tensor::floats(&name(side), DType::F32, &shape, tensor.values().into_iter().map(|w| 6.0 * w))
        };
        [factor("A", [2, columns], rows + columns), factor("B", [rows, 2], columns)]
    });
    let factors: Vec<Tensor> = factors.collect();
    let spec = |t: &Tensor| TensorSpec::new(t.name.clone(), t.dtype, t.shape.clone());
    let all: Vec<(TensorSpec, &[u8])> = factors.iter().map(|t| (spec(t), &t.bytes[..])).collect();
    write_safetensors(&folder.join("adapter_model.safetensors"), None, &all).expect("written");
    let path = at.delta("adapter.impasto", &folder, Target::Lossless);
    let base = at.load(&at.base, Residence::Packed);
    let over = base.load_over(&*at.weights(&path)).expect("an adapter of it");
    let reference = logits(&at.load(&path, Residence::Float));
    let worst = error(&logits(&over), &reference);
    assert!(worst < 1e-3 && error(&logits(&base), &reference) > 20.0 * worst, "{worst:.1e}");
    assert!(over.memory_bytes() < base.memory_bytes() / 50, "{}", over.memory_bytes());
}

/// A source whose factors do not have the shape of the matrix.
struct Misfit(Box<dyn WeightSource>);

impl WeightSource for Misfit {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.0.shape(name)
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        self.0.load_f32(name)
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        self.0.asset(name)
    }

    fn base(&self) -> Option<&dyn WeightSource> {
        self.0.base()
    }

    fn name_in_base(&self, name: &str) -> Option<String> {
        self.0.name_in_base(name)
    }

    fn difference(&self, _name: &str) -> Result<Option<Difference<'_>>, Failure> {
        let low_rank = LowRankFactors { left: vec![1; 7], scales: vec![1.0; 2], right: vec![1; 5] };
        Ok(Some(Difference { low_rank: Some(low_rank), ..Difference::default() }))
    }
}

#[test]
fn differences_of_another_shape() {
    let at = Setting::new(Target::Lossless);
    let path = at.delta("delta", &tuned(few, 0).path, Target::Lossless);
    let base = at.load(&at.base, Residence::Packed);
    let error = base.load_over(&Misfit(at.weights(&path))).err().expect("refused").to_string();
    assert!(error.contains("does not have its shape"), "{error}");
}

#[test]
fn models_that_are_not_the_base() {
    let at = Setting::new(Target::Lossless);
    let other = Setting::new(Target::BitsPerWeight(4.0));
    let path = at.delta("delta", &tuned(few, 0).path, Target::Lossless);
    let refuse = |base: &Model| {
        let error = base.load_over(&*at.weights(&path)).err().expect("refused");
        assert!(matches!(error, RuntimeError::Model(ModelError::OtherBase)), "{error}");
    };
    refuse(&other.load(&other.base, Residence::Packed));
    refuse(&at.load(&at.base, Residence::Float));
    // A delta of the delta is not one of the base.
    refuse(&at.load(&path, Residence::Packed));
    let base = at.load(&at.base, Residence::Packed);
    assert!(base.load_over(&*at.weights(&path)).is_ok());
    let runtime = base.runtime().expect("fast");
    let name = "model.layers.0.mlp.up_proj.weight";
    runtime.exchange([runtime.prepare(&*at.weights(&path), name).expect("reads")]).expect("fits");
    refuse(&base);
    // Under coded residence, weights are shared as far as files are.
    let coded = at.load(&at.base, Residence::Coded).load_over(&*at.weights(&path)).expect("a delta of it");
    assert!(error(&logits(&coded), &logits(&at.load(&path, Residence::Float))) < ORDER);
}

/// Weights of a part of a file are not those that its deltas add to.
#[test]
fn a_part_of_the_base() {
    let folder = tempfile::tempdir().expect("a folder");
    let base = folder.path().join("base.impasto");
    let layers = Layers { below: vec![Extent::BitsPerWeight(3.0)], ..Layers::default() };
    let four = Options { layers, ..Options::new(Target::BitsPerWeight(4.0)) };
    encode_over(&support::Model::wide_tiny().path, &base, None, four);
    let at = Setting { folder, base };
    let path = at.delta("delta", &tuned(noise, 0).path, Target::BitsPerWeight(1.5));
    let mut part = open(&at.base);
    part.cut(&Cut::Layer(1)).expect("a layer");
    let part = Model::load(&FileWeights::new(part).expect("assets"), &options(Residence::Packed)).expect("a model");
    let refused = part.load_over(&*at.weights(&path)).err().expect("refused");
    assert!(matches!(refused, RuntimeError::Model(ModelError::OtherBase)), "{refused}");
    let over = at.load(&at.base, Residence::Packed).load_over(&*at.weights(&path)).expect("a delta of it");
    assert!(error(&logits(&over), &logits(&at.load(&path, Residence::Float))) < ORDER);
}
