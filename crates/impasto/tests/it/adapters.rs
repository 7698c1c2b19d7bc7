//! Adapters over a base: kept as they are, and added to the weights of the base when these are loaded.

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use impasto::calibrate::WeightSource;
use impasto::encode::{EncodeBase, EncodeError, Options, Target, encode};
use impasto::run::LatticeRows;
use impasto::{AdapterWeights, Bases, Checkpoint, FileError};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_core::DType;

use crate::support::{Model, Tensor, decode, listing};

const ROWS: usize = 160;
const COLUMNS: usize = 96;
const RANK: usize = 3;
const SCALE: f32 = 16.0 / RANK as f32;
const MODULE: &str = "model.layers.0.q_proj";

/// A base in a file, and an adapter of one of its matrices in a folder.
struct Setting {
    folder: tempfile::TempDir,
    base: Model,
    down: Tensor,
    up: Tensor,
}

impl Setting {
    fn new(target: Target) -> Setting {
        let shape = [ROWS as u64, COLUMNS as u64];
        let matrix = |name: &str, seed| Tensor::weights(name, DType::Bf16, &shape, seed);
        let base = Model::single(vec![matrix(&format!("{MODULE}.weight"), 1), matrix("other.weight", 2)]);
        base.encode("base.impasto", target).expect("encodes");
        let name = |side: &str| format!("base_model.model.{MODULE}.lora_{side}.weight");
        let down = Tensor::weights(&name("A"), DType::F32, &[RANK as u64, COLUMNS as u64], 3);
        let up = Tensor::weights(&name("B"), DType::F32, &[ROWS as u64, RANK as u64], 4);
        Setting { folder: tempfile::tempdir().expect("a folder"), base, down, up }
    }

    /// Writes the adapter with a configuration, and encodes it over the base.
    fn encoded(&self, config: &str, tensors: &[&Tensor]) -> PathBuf {
        self.try_encode(config, tensors).expect("encodes")
    }

    fn try_encode(&self, config: &str, tensors: &[&Tensor]) -> Result<PathBuf, EncodeError> {
        let folder = self.folder.path().join("adapter");
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("adapter_config.json"), config).expect("written");
        let spec = |t: &&Tensor| TensorSpec::new(t.name.clone(), t.dtype, t.shape.clone());
        let all: Vec<(TensorSpec, &[u8])> = tensors.iter().map(|t| (spec(t), &t.bytes[..])).collect();
        write_safetensors(&folder.join("adapter_model.safetensors"), None, &all).expect("written");
        let base = Bases::default().open(&self.base.file("base.impasto")).expect("opens");
        let base = EncodeBase::new(Arc::new(base), "base".into(), String::new(), vec![]).expect("complete");
        let options = Options { base: Some(Arc::new(base)), ..Options::new(Target::Lossless) };
        let checkpoint = Checkpoint::open(&folder).expect("an adapter");
        let path = self.folder.path().join("adapter.impasto");
        encode(&checkpoint, &path, &options, &|_| ControlFlow::Continue(()))?;
        Ok(path)
    }

    fn load(&self, path: &Path) -> Result<AdapterWeights<impasto::format::MmapSource>, FileError> {
        let bases = Bases::new(vec![self.base.file("base.impasto")]);
        AdapterWeights::new(bases.open(path).expect("opens"))
    }

    /// The weights of the matrix with the product, from those of the base.
    fn adapted(&self, base: &[f32]) -> Vec<f32> {
        let (down, up) = (self.down.values(), self.up.values());
        let product = |i: usize| {
            let (row, column) = (i / COLUMNS, i % COLUMNS);
            (0..RANK).map(|k| SCALE * up[row * RANK + k] * down[k * COLUMNS + column]).sum::<f32>()
        };
        base.iter().enumerate().map(|(i, w)| w + product(i)).collect()
    }
}

const CONFIG: &str =
    r#"{"peft_type": "LORA", "r": 3, "lora_alpha": 16, "bias": "none", "use_dora": false, "modules_to_save": null}"#;

fn assert_near(found: &[f32], wanted: &[f32], share: f64) {
    assert_eq!(found.len(), wanted.len());
    let square = |pairs: &mut dyn Iterator<Item = f32>| pairs.map(|x| f64::from(x * x)).sum::<f64>();
    let error = square(&mut found.iter().zip(wanted).map(|(a, b)| a - b));
    assert!(error < share * share * square(&mut wanted.iter().copied()), "{error}");
}

#[test]
fn the_product_is_added_to_the_weights_of_the_base() {
    let at = Setting::new(Target::Lossless);
    let path = at.encoded(CONFIG, &[&at.down, &at.up]);
    let weights = at.load(&path).expect("fits");
    let name = format!("{MODULE}.weight");
    let adapted = at.adapted(&at.base.tensors[0].values());
    assert_near(&weights.load_f32(&name).expect("loads"), &adapted, 1e-6);
    assert_eq!(weights.load_f32("other.weight").expect("loads"), at.base.tensors[1].values());
    assert_eq!(weights.shape(&name).expect("it"), [ROWS as u64, COLUMNS as u64]);
    let halves = weights.halves(&name).expect("opens").expect("of 16 bits");
    let mut rounded = Vec::new();
    for (row, rows) in halves.tile_rows().iter().enumerate() {
        let mut out = vec![0; rows.len() * COLUMNS];
        halves.read(row, &mut out).expect("decodes");
        rounded.extend(out.iter().map(|&bits| half::bf16::from_bits(bits).to_f32()));
    }
    assert_near(&rounded, &adapted, 0.003);
    // The folder comes back.
    let bases = Bases::new(vec![at.base.file("base.impasto")]);
    let out = at.folder.path().join("out");
    decode(&bases.open(&path).expect("opens"), &out, false).expect("decodes");
    assert!(listing(&out) == listing(&at.folder.path().join("adapter")));
}

#[test]
fn beside_integers_it_is_a_low_rank_part() {
    let at = Setting::new(Target::BitsPerWeight(4.0));
    let path = at.encoded(CONFIG, &[&at.down, &at.up]);
    let weights = at.load(&path).expect("fits");
    let name = format!("{MODULE}.weight");
    let base = impasto::FileWeights::new(impasto::File::open(&at.base.file("base.impasto")).expect("opens"));
    let plain = base.expect("no assets").load_f32(&name).expect("loads");
    let lattice = weights.lattice(&name).expect("opens").expect("integers");
    let factors = lattice.low_rank().expect("factors");
    let rank = factors.scales.len();
    assert_eq!(rank, lattice.rank());
    let product = |i: usize| {
        let (row, column) = (i / COLUMNS, i % COLUMNS);
        let term = |k: usize| {
            f32::from(factors.left[row * rank + k]) * factors.scales[k] * f32::from(factors.right[k * COLUMNS + column])
        };
        (rank - RANK..rank).map(term).sum::<f32>()
    };
    let sum: Vec<f32> = plain.iter().enumerate().map(|(i, w)| w + product(i)).collect();
    assert_near(&sum, &at.adapted(&plain), 2e-3);
    lattice.read(0, &mut LatticeRows::default()).expect("decodes");
}

#[test]
fn adapters_that_cannot_run() {
    let at = Setting::new(Target::Lossless);
    let refused =
        |config: &str, tensors: &[&Tensor]| at.load(&at.encoded(config, tensors)).err().expect("refused").to_string();
    let both = [&at.down, &at.up];
    for (config, says) in [
        (r#"{"peft_type": "IA3"}"#, "IA3"),
        (r#"{"use_dora": true}"#, "use_dora"),
        (r#"{"bias": "all"}"#, "bias"),
        (r#"{"modules_to_save": ["lm_head"]}"#, "modules_to_save"),
    ] {
        let error = refused(config, &both);
        assert!(error.contains(says) && error.contains("adapter.impasto"), "{error}");
    }
    let path = at.encoded(CONFIG, &both);
    let alone = AdapterWeights::new(impasto::File::open(&path).expect("opens"));
    assert!(matches!(alone, Err(FileError::NoBase { .. })));
}

/// They are refused before anything is written; the message names file, tensor and rule.
#[test]
fn adapters_that_do_not_fit_their_base() {
    let at = Setting::new(Target::Lossless);
    let refused = |config: &str, tensors: &[&Tensor], says: &[&str]| {
        let error = at.try_encode(config, tensors).expect_err("refused");
        assert!(matches!(error, EncodeError::Misfit(_)), "{error:?}");
        let error = error.to_string();
        assert!(says.iter().chain(&["adapter_model.safetensors"]).all(|says| error.contains(says)), "{error}");
        assert!(!at.folder.path().join("adapter.impasto").exists());
    };
    let both = [&at.down, &at.up];
    let rename =
        |tensor: &Tensor, from: &str, to: &str| Tensor { name: tensor.name.replace(from, to), ..tensor.clone() };
    let [down, up] = [&*at.down.name, &*at.up.name];
    refused("[", &both, &["adapter_config.json"]);
    let elsewhere = both.map(|tensor| rename(tensor, "q_proj", "none"));
    let says = [&*elsewhere[0].name, "there is no \"model.layers.0.none.weight\" in the base"];
    refused(CONFIG, &elsewhere.each_ref(), &says);
    let wide = Tensor::weights(down, DType::F32, &[RANK as u64, 64], 3);
    refused(CONFIG, &[&wide, &at.up], &[down, "do not make", "[160, 96]"]);
    let other = rename(&at.up, "lora_B", "bias");
    refused(CONFIG, &[&at.down, &other], &["no factor of a linear layer"]);
    refused(CONFIG, &[&at.down], &[down, "has no other factor", "lora_B"]);
    refused(CONFIG, &[&at.up], &[up, "has no other factor", "lora_A"]);
    let counts = Tensor::noise(down, DType::I32, &at.down.shape, 1);
    refused(CONFIG, &[&counts, &at.up], &[down, "I32"]);
    // What cannot run is kept as it is.
    at.try_encode(r#"{"use_dora": true}"#, &[&at.down]).expect("encodes");
}
