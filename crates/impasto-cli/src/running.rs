//! Options for running a model, shared by `run`, `chat`, `eval` and `bench`.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use impasto_runtime::{Activations, KvLayout, Packs, Residence, RunOptions};

use crate::exit::UsageError;
use crate::model::memory_limit;
use crate::output::print_notes;

/// How to run a model.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How the model runs")]
pub struct Running {
    /// Form of the weights in memory [default: float in eval, else packed].
    #[arg(long, value_enum, value_name = "FORM")]
    pub residence: Option<ResidenceArg>,
    /// Precision of the inputs of packed matrices [default: int8].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub activations: Option<ActivationsArg>,
    /// Precision of the KV cache: f32, f16, int8 or int4. Keys, values and ranges of blocks may differ, as in
    /// k=int8,v=int4,0-1=f16 [default: f16].
    #[arg(long, value_name = "TYPE|k=TYPE,v=TYPE,...")]
    pub kv: Option<KvLayout>,
    /// Limit on the context in tokens, below that of the model.
    #[arg(long, value_name = "TOKENS", value_parser = crate::args::parse_items)]
    pub context: Option<usize>,
    /// Keep packed weights in this folder, from where the next start maps them instead of decoding the file [default: the folder
    /// in IMPASTO_CACHE, if that is set]. It must belong to this user or root, and nobody else may write to it.
    #[arg(long, value_name = "DIR")]
    pub cache: Option<PathBuf>,
    /// The most that packed weights may take in the folder; those that were not used for the longest time are removed
    /// [default: 20GB].
    #[arg(long, value_name = "SIZE", value_parser = crate::args::parse_size)]
    pub cache_limit: Option<u64>,
}

/// The environment variable that names the folder for packed weights.
const CACHE: &str = "IMPASTO_CACHE";
/// The most that packed weights take, in bytes, if nothing else is said.
const CACHE_LIMIT: u64 = 20_000_000_000;

/// Form of the weights in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResidenceArg {
    /// Integers of few bits, or the blocks of a GGUF; 16-bit or 32-bit floats for tensors that are not quantized.
    Packed,
    /// Compressed as in the file, decoded on every use: least memory, slow.
    Coded,
    /// 32-bit floats throughout: the reference.
    Float,
}

/// Precision of the inputs of packed matrices.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ActivationsArg {
    /// 8-bit integers with one scale per block of columns.
    Int8,
    /// 32-bit floats, not rounded.
    F32,
}

impl Running {
    /// Returns the options for the library. `default` is the residence if none is given. Options that would be ignored
    /// are errors.
    pub fn options(&self, args: &crate::args::Args, default: Residence) -> Result<RunOptions, UsageError> {
        let residence = self.residence.map(|residence| match residence {
            ResidenceArg::Packed => Residence::Packed,
            ResidenceArg::Coded => Residence::Coded,
            ResidenceArg::Float => Residence::Float,
        });
        let residence = residence.unwrap_or(default);
        if residence == Residence::Float && self.kv.is_some() {
            return Err(UsageError("--kv is for --residence packed and coded: float stores 32-bit floats"));
        }
        if residence != Residence::Packed && self.activations.is_some() {
            return Err(UsageError("--activations is for --residence packed: the others do not round activations"));
        }
        if residence != Residence::Packed && self.cache.is_some() {
            return Err(UsageError("--cache is for --residence packed: the others keep no packed weights"));
        }
        let cache =
            self.cache.clone().or_else(|| std::env::var_os(CACHE).filter(|dir| !dir.is_empty()).map(PathBuf::from));
        if cache.is_none() && self.cache_limit.is_some() {
            return Err(UsageError("--cache-limit needs --cache or IMPASTO_CACHE"));
        }
        let report = if args.quiet { |_: &str| {} } else { note };
        let packs = |folder| Packs { folder, limit: self.cache_limit.unwrap_or(CACHE_LIMIT), report };
        let activations = self.activations.map(|activations| match activations {
            ActivationsArg::Int8 => Activations::Int8,
            ActivationsArg::F32 => Activations::F32,
        });
        Ok(RunOptions {
            threads: args.threads,
            max_context: self.context,
            memory_limit: Some(memory_limit(args)),
            residence,
            activations: activations.unwrap_or_default(),
            kv: self.kv.clone().unwrap_or_default(),
            packs: cache.filter(|_| residence == Residence::Packed).map(packs),
            kv_memory: None,
            template_worker: Some(crate::template::worker()),
        })
    }
}

fn note(text: &str) {
    print_notes(&[text.to_owned()]);
}
