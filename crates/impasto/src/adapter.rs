//! Adapters (LoRA, arXiv 2106.09685): a file of the factors of a fine-tune, over the base that they were trained on.
//!
//! The file holds the tensors of a PEFT folder as they are. To run, the product of the factors is added to the weights of the
//! base: as a low-rank part beside integers, and to 16-bit floats before they are used.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;

use half::{bf16, f16};
#[cfg(feature = "encode")]
use impasto_checkpoint::Checkpoint;
use impasto_container::Source;
use impasto_core::{DType, values};
use impasto_model::{
    Blocks, CodedTensor, Difference, Failure, HalfTensor, LatticeRows, LatticeTensor, LowRankFactors, WeightSource,
};
use serde_json::Value;

use crate::error::FileError;
use crate::file::File;
use crate::weights::FileWeights;

/// The asset that makes a file one of an adapter.
pub const CONFIG: &str = "adapter_config.json";
/// What PEFT puts before the name of a module.
const PREFIX: &str = "base_model.model.";
/// Largest factor of a low-rank part (SPEC 19.1).
const MOST: f32 = 2047.0;

/// The factors of a linear layer: its weights become `W + scale * up * down`.
struct Factors {
    /// Rank x inputs.
    down: Vec<f32>,
    /// Outputs x rank.
    up: Vec<f32>,
    rank: usize,
    scale: f32,
}

impl Factors {
    /// Adds the product to some rows of weights.
    fn add(&self, rows: Range<usize>, weights: &mut [f32]) {
        let inputs = self.down.len() / self.rank;
        for (row, weights) in rows.zip(weights.chunks_exact_mut(inputs)) {
            let up = &self.up[row * self.rank..][..self.rank];
            for (up, down) in up.iter().zip(self.down.chunks_exact(inputs)) {
                let factor = self.scale * up;
                weights.iter_mut().zip(down).for_each(|(weight, down)| *weight += factor * down);
            }
        }
    }

    /// Returns the product as factors of 12 bits, with those of `part` before them.
    fn beside(&self, part: Option<LowRankFactors>) -> LowRankFactors {
        let (rank, inputs) = (self.rank, self.down.len() / self.rank);
        let outputs = self.up.len() / rank;
        let peak = |vector: &mut dyn Iterator<Item = f32>| {
            vector.fold(0.0f32, |most, x| most.max(x.abs())).max(f32::MIN_POSITIVE)
        };
        let peaks: Vec<[f32; 2]> = (0..rank)
            .map(|k| {
                let up = peak(&mut self.up.iter().skip(k).step_by(rank).copied());
                [up, peak(&mut self.down[k * inputs..(k + 1) * inputs].iter().copied())]
            })
            .collect();
        let factor = |x: f32, peak: f32| (x / peak * MOST).round_ties_even() as i16;
        let before = part.unwrap_or_default();
        let old = before.scales.len();
        let mut left = Vec::with_capacity(outputs * (old + rank));
        for row in 0..outputs {
            left.extend_from_slice(&before.left[row * old..(row + 1) * old]);
            left.extend((0..rank).map(|k| factor(self.up[row * rank + k], peaks[k][0])));
        }
        let scales = peaks.iter().map(|[up, down]| self.scale * (up / MOST) * (down / MOST));
        let right = self
            .down
            .chunks_exact(inputs)
            .zip(&peaks)
            .flat_map(|(down, peaks)| down.iter().map(|&x| factor(x, peaks[1])).collect::<Vec<_>>());
        LowRankFactors {
            left,
            scales: before.scales.iter().copied().chain(scales).collect(),
            right: before.right.iter().copied().chain(right).collect(),
        }
    }
}

/// The weights of a base with those of an adapter. Tokenizer and chat template are those of the adapter, if it has them.
pub struct AdapterWeights<S> {
    own: FileWeights<S>,
    base: FileWeights<S>,
    /// By the name of the weights that they change.
    factors: HashMap<String, Factors>,
}

impl<S: Source + 'static> AdapterWeights<S> {
    /// Returns whether a file is one of an adapter.
    pub fn is_for(file: &File<S>) -> bool {
        file.reader().find_asset(CONFIG).is_some()
    }

    /// Reads an adapter. Its base must be attached.
    ///
    /// # Errors
    /// [`FileError::NoBase`]; [`FileError::Adapter`] if it is of a kind that cannot run, or does not fit the base; or those of
    /// reading it.
    pub fn new(file: File<S>) -> Result<Self, FileError> {
        let name = file.reader().name().to_owned();
        let rule = |rule: String| FileError::Adapter { file: name.clone(), rule };
        file.needs_no_base()?;
        let base = file.attached().cloned().ok_or_else(|| rule("it has no base: encode it with --base".into()))?;
        let config = file.asset(CONFIG)?.unwrap_or_default();
        let config: Value = serde_json::from_slice(&config).map_err(|error| rule(format!("{CONFIG}: {error}")))?;
        let config = Config::read(&config).map_err(&rule)?;
        let base = FileWeights::new(base)?;
        let shapes = file.tensor_names().map(|name| Ok((name, file.meta(name)?.dims.clone())));
        let shapes = shapes.collect::<Result<HashMap<_, _>, FileError>>()?;
        let mut factors = HashMap::new();
        for Pair { module, weights, down, up } in pairs(&shapes, &|name| base.shape(name)).map_err(&rule)? {
            let ((down, [rank, _]), (up, _)) = (matrix(&file, &down)?, matrix(&file, &up)?);
            let scale = config.scale(&module, rank);
            factors.insert(weights, Factors { down, up, rank, scale });
        }
        Ok(AdapterWeights { own: FileWeights::new(file)?, base, factors })
    }
}

/// Checks that a checkpoint, if it is an adapter that can run, fits a base: the names and shapes of its factors, and their dtype. (One
/// that cannot run is kept as it is.)
///
/// # Errors
/// [`FileError::Adapter`], or those of reading the base.
#[cfg(feature = "encode")]
pub(crate) fn check<S: Source + 'static>(checkpoint: &Checkpoint, base: Arc<File<S>>) -> Result<(), FileError> {
    let Some(config) = checkpoint.assets().iter().find(|asset| asset.name == CONFIG) else { return Ok(()) };
    let file =
        checkpoint.shards().first().map_or_else(|| CONFIG.to_owned(), |shard| shard.path().display().to_string());
    let rule = |rule: String| FileError::Adapter { file: file.clone(), rule };
    let config: Value = serde_json::from_slice(&config.bytes).map_err(|error| rule(format!("{CONFIG}: {error}")))?;
    if Config::read(&config).is_err() {
        return Ok(());
    }
    let base = FileWeights::new(base)?;
    let tensors = checkpoint.tensors();
    let is_float = |dtype| values::to_f32(dtype, &[], &mut Vec::new());
    if let Some(other) = tensors.iter().find(|tensor| !is_float(tensor.dtype)) {
        return Err(rule(format!("tensor {:?} is of dtype {}, which has no values", other.name, other.dtype.name())));
    }
    let shapes = tensors.iter().map(|tensor| (&*tensor.name, tensor.shape.clone())).collect();
    pairs(&shapes, &|name| base.shape(name)).map(|_| ()).map_err(rule)
}

/// The factors of a linear layer, by name.
struct Pair {
    module: String,
    /// The weights that they change.
    weights: String,
    down: String,
    up: String,
}

/// Returns the pairs of factors among the tensors of an adapter, whose shapes these are. `of_base` gives the shapes in the base.
///
/// # Errors
/// If a tensor is no factor, or factors do not fit each other or the base.
fn pairs(shapes: &HashMap<&str, Vec<u64>>, of_base: &dyn Fn(&str) -> Option<Vec<u64>>) -> Result<Vec<Pair>, String> {
    let mut names: Vec<&str> = shapes.keys().copied().collect();
    names.sort_unstable();
    let mut out = Vec::new();
    for down in names {
        let Some((module, side)) = split(down) else {
            return Err(format!("tensor {down:?} is no factor of a linear layer"));
        };
        let other = match side {
            Side::Down => down.replace(".lora_A.", ".lora_B."),
            Side::Up => down.replace(".lora_B.", ".lora_A."),
        };
        let of_other = shapes.get(&*other).ok_or_else(|| format!("tensor {down:?} has no other factor, {other:?}"))?;
        if side == Side::Up {
            continue;
        }
        let weights = format!("{module}.weight");
        let wanted =
            of_base(&weights).ok_or_else(|| format!("tensor {down:?}: there is no {weights:?} in the base"))?;
        let fits = match (&shapes[down][..], &of_other[..]) {
            (&[rank, inputs], &[outputs, columns]) => {
                wanted == [outputs, inputs] && columns == rank && outputs * inputs > 0 && (1..=255).contains(&rank)
            }
            _ => false,
        };
        if !fits {
            return Err(format!(
                "tensor {down:?}: factors of shape {of_other:?} and {:?} do not make {weights:?}, {wanted:?}",
                shapes[down]
            ));
        }
        out.push(Pair { module, weights, down: down.to_owned(), up: other });
    }
    Ok(out)
}

/// What of a PEFT configuration the product depends on.
struct Config<'a> {
    json: &'a Value,
    is_rank_stabilized: bool,
}

impl<'a> Config<'a> {
    fn read(json: &'a Value) -> Result<Self, String> {
        let is = |key: &str| json.get(key).is_some_and(|value| *value != Value::Null && *value != Value::Bool(false));
        let kind = json.get("peft_type").and_then(Value::as_str).unwrap_or("LORA");
        if kind != "LORA" {
            return Err(format!("adapters of type {kind} cannot run, only LORA"));
        }
        for key in ["use_dora", "fan_in_fan_out", "modules_to_save", "trainable_token_indices", "lora_bias"] {
            if is(key) {
                return Err(format!("{key} in {CONFIG} is not supported"));
            }
        }
        if json.get("bias").and_then(Value::as_str).is_some_and(|bias| bias != "none") {
            return Err(format!("bias in {CONFIG} is not supported, unless it is none"));
        }
        Ok(Config { json, is_rank_stabilized: is("use_rslora") })
    }

    /// Returns what the product of a module's factors is multiplied by.
    fn scale(&self, module: &str, rank: usize) -> f32 {
        let patterns = self.json.get("alpha_pattern").and_then(Value::as_object);
        // A key is the end of a module's name. (PEFT takes regular expressions; these are rare.)
        let own = patterns.and_then(|all| all.iter().find(|(key, _)| module.ends_with(key.as_str())));
        let alpha = own.map(|(_, alpha)| alpha).or(self.json.get("lora_alpha")).and_then(Value::as_f64).unwrap_or(8.0);
        let rank = rank as f64;
        (alpha / if self.is_rank_stabilized { rank.sqrt() } else { rank }) as f32
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Down,
    Up,
}

/// Returns the module of a tensor of an adapter, and which factor it is.
fn split(tensor: &str) -> Option<(String, Side)> {
    let name = tensor.strip_prefix(PREFIX)?.strip_suffix(".weight")?;
    // Some versions name the adapter after the factor.
    let name = name.strip_suffix(".default").unwrap_or(name);
    let down = name.strip_suffix(".lora_A").map(|module| (module.to_owned(), Side::Down));
    down.or_else(|| name.strip_suffix(".lora_B").map(|module| (module.to_owned(), Side::Up)))
}

/// Returns the values and the sides of a matrix of floats.
fn matrix<S: Source>(file: &File<S>, name: &str) -> Result<(Vec<f32>, [usize; 2]), FileError> {
    let tensor = file.tensor(name)?;
    let mut out = Vec::new();
    let sides = match tensor.shape() {
        &[rows, columns] => [rows as usize, columns as usize],
        _ => [0, 0],
    };
    if !values::to_f32(tensor.dtype(), &tensor.bytes()?, &mut out) || out.len() != sides[0] * sides[1] {
        let dtype = file.meta(name)?.dtype_name().to_owned();
        return Err(FileError::NotFloat { file: file.reader().name().to_owned(), name: name.to_owned(), dtype });
    }
    Ok((out, sides))
}

impl<S: Source + 'static> WeightSource for AdapterWeights<S> {
    fn shape(&self, name: &str) -> Option<Vec<u64>> {
        self.base.shape(name)
    }

    fn tensor_names(&self) -> Vec<String> {
        self.base.tensor_names()
    }

    fn is_same(&self, a: &str, b: &str) -> Result<bool, Failure> {
        let is_adapted = |name| self.factors.contains_key(name);
        Ok(a == b || !is_adapted(a) && !is_adapted(b) && self.base.is_same(a, b)?)
    }

    fn load_f32(&self, name: &str) -> Result<Vec<f32>, Failure> {
        let mut weights = self.base.load_f32(name)?;
        if let Some(factors) = self.factors.get(name) {
            factors.add(0..factors.up.len() / factors.rank, &mut weights);
        }
        Ok(weights)
    }

    fn asset(&self, name: &str) -> Option<Vec<u8>> {
        // A compiled tokenizer must be that of the tokenizer that is used.
        let has_own = |name: &str| self.own.asset(name).is_some();
        let is_form = name == "tokenizer.json#compiled";
        match self.own.asset(name) {
            None if !(is_form && has_own("tokenizer.json")) => self.base.asset(name),
            own => own,
        }
    }

    fn why_absent(&self, name: &str) -> Option<String> {
        self.base.why_absent(name)
    }

    fn lattice(&self, name: &str) -> Result<Option<Box<dyn LatticeTensor + '_>>, Failure> {
        let Some(inner) = self.base.lattice(name)? else { return Ok(None) };
        Ok(Some(match self.factors.get(name) {
            Some(factors) => Box::new(AdaptedLattice { inner, factors }),
            None => inner,
        }))
    }

    fn halves(&self, name: &str) -> Result<Option<Box<dyn HalfTensor + '_>>, Failure> {
        let Some(inner) = self.base.halves(name)? else { return Ok(None) };
        Ok(Some(match self.factors.get(name) {
            Some(factors) => Box::new(AdaptedHalves { inner, factors }),
            None => inner,
        }))
    }

    fn identity(&self) -> Option<[u8; 32]> {
        self.own.identity()
    }

    fn base(&self) -> Option<&dyn WeightSource> {
        Some(&self.base)
    }

    fn name_in_base(&self, name: &str) -> Option<String> {
        self.base.shape(name).map(|_| name.to_owned())
    }

    fn difference(&self, name: &str) -> Result<Option<Difference<'_>>, Failure> {
        let low_rank = self.factors.get(name).map(|factors| factors.beside(None));
        Ok(Some(Difference { low_rank, ..Difference::default() }))
    }

    fn is_asset_of_base(&self, name: &str) -> bool {
        self.own.asset(name).is_none() || self.own.is_asset_of_base(name)
    }

    fn load_blocks(&self, name: &str) -> Result<Option<Blocks>, Failure> {
        if self.factors.contains_key(name) { Ok(None) } else { self.base.load_blocks(name) }
    }

    fn coded(&self, name: &str) -> Result<Option<Arc<dyn CodedTensor>>, Failure> {
        if self.factors.contains_key(name) { Ok(None) } else { self.base.coded(name) }
    }
}

/// Integers of the base, with the factors of an adapter beside its low-rank part.
struct AdaptedLattice<'a> {
    inner: Box<dyn LatticeTensor + 'a>,
    factors: &'a Factors,
}

impl LatticeTensor for AdaptedLattice<'_> {
    fn shape(&self) -> [usize; 2] {
        self.inner.shape()
    }

    fn column_steps(&self) -> &[f32] {
        self.inner.column_steps()
    }

    fn column_widths(&self) -> &[i32] {
        self.inner.column_widths()
    }

    fn tile_rows(&self) -> Vec<Range<usize>> {
        self.inner.tile_rows()
    }

    fn rank(&self) -> usize {
        self.inner.rank() + self.factors.rank
    }

    fn low_rank(&self) -> Option<LowRankFactors> {
        Some(self.factors.beside(self.inner.low_rank()))
    }

    fn read(&self, tile_row: usize, out: &mut LatticeRows) -> Result<(), Failure> {
        self.inner.read(tile_row, out)
    }
}

/// Floats of the base, to which the product of an adapter's factors is added.
struct AdaptedHalves<'a> {
    inner: Box<dyn HalfTensor + 'a>,
    factors: &'a Factors,
}

impl HalfTensor for AdaptedHalves<'_> {
    fn dtype(&self) -> DType {
        self.inner.dtype()
    }

    fn shape(&self) -> [usize; 2] {
        self.inner.shape()
    }

    fn tile_rows(&self) -> Vec<Range<usize>> {
        self.inner.tile_rows()
    }

    fn read(&self, tile_row: usize, out: &mut [u16]) -> Result<(), Failure> {
        self.inner.read(tile_row, out)?;
        let rows = self.inner.tile_rows().get(tile_row).cloned().unwrap_or_default();
        let is_bf16 = self.inner.dtype() == DType::Bf16;
        let value = |&bits: &u16| if is_bf16 { bf16::from_bits(bits).to_f32() } else { f16::from_bits(bits).to_f32() };
        let mut weights: Vec<f32> = out.iter().map(value).collect();
        self.factors.add(rows, &mut weights);
        let bits = |w: &f32| if is_bf16 { bf16::from_f32(*w).to_bits() } else { f16::from_f32(*w).to_bits() };
        out.iter_mut().zip(&weights).for_each(|(out, weight)| *out = bits(weight));
        Ok(())
    }
}
