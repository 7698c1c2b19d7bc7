//! How a model runs: the options that `run`, `chat`, `eval` and `bench` share.

use clap::{Args, ValueEnum};
use impasto_runtime::{Activations, KvLayout, Residence, RunOptions};

use crate::exit::UsageError;
use crate::model::memory_limit;

/// How a model runs.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "How the model runs")]
pub struct Running {
    /// In which form the weights lie in memory [default: float in eval, else packed].
    #[arg(long, value_enum, value_name = "FORM")]
    pub residence: Option<ResidenceArg>,
    /// What the inputs of packed matrices are rounded to [default: int8].
    #[arg(long, value_enum, value_name = "TYPE")]
    pub activations: Option<ActivationsArg>,
    /// What keys and values are kept as: f32, f16, int8 or int4, for both or apart, and for some blocks otherwise, as in k=int8,v=int4,0-1=f16
    /// [default: f16].
    #[arg(long, value_name = "TYPE|k=TYPE,v=TYPE,...")]
    pub kv: Option<KvLayout>,
    /// Most tokens in context, below what the model takes.
    #[arg(long, value_name = "TOKENS", value_parser = crate::args::parse_items)]
    pub context: Option<usize>,
}

/// In which form weights lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ResidenceArg {
    /// Integers at few bits; floats of 16 bits where weights are no integers.
    Packed,
    /// As in the file, decoded in each product: least memory, slow.
    Coded,
    /// 32-bit floats throughout: the reference.
    Float,
}

/// What inputs of packed matrices are rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ActivationsArg {
    /// 8-bit integers under a scale for each block of columns.
    Int8,
    /// Nothing.
    F32,
}

impl Running {
    /// The options for the library; `default` is the residence if none is asked for. An error if one of them would be ignored.
    pub fn options(&self, args: &crate::args::Args, default: Residence) -> Result<RunOptions, UsageError> {
        let residence = self.residence.map(|residence| match residence {
            ResidenceArg::Packed => Residence::Packed,
            ResidenceArg::Coded => Residence::Coded,
            ResidenceArg::Float => Residence::Float,
        });
        let residence = residence.unwrap_or(default);
        if residence == Residence::Float && self.kv.is_some() {
            return Err(UsageError("--kv is for --residence packed and coded: float keeps 32-bit floats"));
        }
        if residence != Residence::Packed && self.activations.is_some() {
            return Err(UsageError("--activations is for --residence packed: others round no activations"));
        }
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
        })
    }
}
