//! The command-line arguments.

#[cfg(feature = "serve")]
pub mod serve;

use std::path::PathBuf;
use std::str::FromStr;

use clap::{Arg, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use impasto::encode::Extent;
use impasto_runtime::KvUpgrade;

use crate::cut::CutArgs;
use crate::drafts::DraftArgs;
#[cfg(feature = "fetch")]
use crate::link::LinkArgs;
use crate::running::Running;

/// Default number of calibration tokens. With a covariance of n inputs that is estimated from T tokens, the error is
/// larger by about n/T than with the true covariance.
pub const CALIBRATION_TOKENS: usize = 32768;
/// Default number of these tokens to compute gradients on.
const GRADIENT_TOKENS: usize = 16384;

/// Compress LLM weights into one .impasto file, and run models from it.
///
/// Results go to stdout, progress to stderr.
///
/// Exit codes: 0 success; 1 system error (files, threads, memory, network); 2 invalid command line; 3 invalid or unsupported
/// input (checkpoint, .impasto file, tokenizer, text); 4 damaged data in a file; 5 missing data: the file is cut short;
/// 6 the requested size cannot be reached; 7 other shards are needed: run this again once they are there. On Ctrl-C, SIGTERM and SIGHUP, temporary files are removed first. If a
/// command is killed, the next one that writes to the same folder removes its temporary files (on Unix).
///
/// Environment: IMPASTO_CPU selects the instruction set to use: scalar, avx2 or avx512. The default is the widest that
/// the processor supports.
#[derive(Parser)]
#[command(name = "impasto", version, propagate_version = true, max_term_width = 100)]
#[command(mut_args(with_negative_numbers), mut_subcommands(with_negative_numbers_in))]
pub struct Args {
    /// Number of threads; 0 uses all processors. Output does not depend on the thread count.
    #[arg(long, global = true, default_value_t = 0, value_name = "N", value_parser = parse_threads)]
    pub threads: usize,
    /// Limit on the memory of a tensor, a calibration, lossy encoding or a running model, such as 8GiB [default: three
    /// quarters of the machine's memory, or of the control group's limit].
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit: Option<u64>,
    /// Read .impasto files that expand to more than 256 MiB and more than 512 times their size. Without this, they are
    /// refused, because a small file could take hours to decode or fill the disk.
    #[arg(long, global = true)]
    pub allow_expansion: bool,
    /// `encode` writes a delta of this .impasto file, which becomes its base. Other commands look here for the bases of the deltas
    /// that they read: in a file, or a folder. May be repeated (`encode` then looks in the others for the base of the first). Bases
    /// are also found next to the delta, in IMPASTO_BASES (files and folders, separated as in PATH), and in the cache folder,
    /// ~/.cache/impasto/bases.
    #[arg(long, global = true, value_name = "FILE")]
    pub base: Vec<PathBuf>,
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Do not show progress.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// The command to run.
    #[command(subcommand)]
    pub command: Command,
}

/// Lets an option take a negative number, so that the rule for its value is reported and not an unknown option.
fn with_negative_numbers(arg: Arg) -> Arg {
    let is_option = !arg.is_positional() && arg.get_action().takes_values();
    if is_option { arg.allow_negative_numbers(true) } else { arg }
}

/// [`with_negative_numbers`] for all options of a command and its subcommands.
fn with_negative_numbers_in(command: clap::Command) -> clap::Command {
    command.mut_args(with_negative_numbers).mut_subcommands(with_negative_numbers_in)
}

/// The command to run.
#[derive(Subcommand)]
pub enum Command {
    /// Encode a checkpoint into one .impasto file.
    Encode(Encode),
    /// Join the shards of `encode --shard` or `calibrate --shard`, from one machine or several.
    Merge(Merge),
    /// Calibrate a model on a text, for `encode --statistics`.
    Calibrate(Calibrate),
    /// Quantize a model to a GGUF for llama.cpp, with calibrated rounding.
    Quantize(Quantize),
    /// Decode a file to a checkpoint.
    Decode(Decode),
    /// Fetch a file from a server, or the first part of it.
    #[cfg(feature = "fetch")]
    Fetch(Fetch),
    /// Write a smaller file from a layered one, without re-encoding.
    Truncate(Truncate),
    /// Turn a delta into a file of its own, with the same weights.
    Flatten(Flatten),
    /// Write a file, such as a delta, as a delta of another base, with the same weights.
    Rebase(Rebase),
    /// Show the contents of a file.
    Inspect(Inspect),
    /// Check all hashes, and that every tensor decodes.
    Verify(Verify),
    /// Generate text.
    Run(Run),
    /// Chat with a model.
    Chat(Chat),
    /// Serve models over HTTP, with the interface of OpenAI's API and a page to chat with them.
    #[cfg(feature = "serve")]
    Serve(Box<serve::Serve>),
    /// Measure quality on a text or on multiple-choice tasks.
    Eval {
        /// What to measure.
        #[command(subcommand)]
        what: Eval,
    },
    /// Find out what earns bits on the tensors of a model.
    Analyze {
        /// What to analyse.
        #[command(subcommand)]
        what: Analyze,
    },
    /// Measure speed.
    Bench {
        /// What to measure.
        #[command(subcommand)]
        what: Bench,
    },
    /// Pack the weights of a file ahead, for models that load with --cache.
    Bake(Bake),
    /// Encode a small built-in model and generate text from the result.
    Demo,
    /// Print a shell completion script.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Encode a checkpoint into one .impasto file.
#[derive(clap::Args)]
pub struct Encode {
    /// A Hugging Face folder, a safetensors file or a GGUF file.
    pub model: PathBuf,
    /// The file to write. Missing folders are created. An existing file is replaced once the new one is complete.
    /// Temporary files are created next to it: as large as the output, twice as large with --layers, for calibration
    /// about ten times the size of a 16-bit model, and with --base the size of the decoded base.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Encode losslessly (the default).
    #[arg(long, group = "target")]
    pub lossless: bool,
    /// Bits per weight of the whole file: at most this, within 0.5%.
    #[arg(long, group = "target", value_name = "BITS", value_parser = parse_bits)]
    pub bpw: Option<f64>,
    /// Size of the whole file, such as 80MB, 64MiB or 80000000: at most this, within 0.5%.
    #[arg(long, group = "target", value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// The smallest file whose KL divergence from the original, in nats per token on text that is held back, is at most this.
    /// The model runs with coded weights once for each step size that is tried, usually two to four times. Not with layers or
    /// --recover.
    #[arg(long, group = "target", value_name = "NATS", value_parser = parse_kld,
          conflicts_with_all = ["sequential", "preset"])]
    pub kld: Option<f64>,
    /// The held-back text for --kld, instead of the end of the built-in one. It should not be the calibration text.
    #[arg(long, value_name = "FILE", requires = "kld")]
    pub kld_text: Option<PathBuf>,
    /// Most tokens of it that are scored, in windows of 512 [default: 4096].
    #[arg(long, value_name = "N", requires = "kld", value_parser = parse_whole::<usize>)]
    pub kld_tokens: Option<usize>,
    /// Write a file with quality layers. Each layer is given by the size of the file up to and including it, in bits
    /// per weight (3.5) or bytes (60MB), ascending. The last may be `lossless`. `default` stands for
    /// 2.5,3.5,5,lossless.
    #[arg(long, group = "target", value_name = "LAYER,...", value_parser = parse_layers)]
    pub layers: Option<LayersArg>,
    /// Code tensors as numbers that inference engines read: `int4`, `int8`, `mxfp4`, `nvfp4`, `fp8` (E4M3) or `fp8-e5m2`, for all
    /// linear layers, or for sets of tensors: `mlp=mxfp4,attention=fp8,embeddings=int8`. Sets are all, linear, embeddings (and the
    /// output projection), attention, mlp, q, k, v, o, gate, up and down; the narrowest decides. Other tensors are kept
    /// exactly; with --bpw, --size or --layers, they are as precise as the size allows. With `--layers lossless`, an exact layer is
    /// above the formats.
    #[arg(long, value_name = "FORMAT,...")]
    pub format: Option<impasto::encode::Formats>,
    /// `fragile=FORMAT`: code the most fragile tensors in this format, those that raise the KL divergence most, per weight, when
    /// weights err by a share of their size; as many as have 10% of the weights. Needs calibration.
    #[arg(long, value_name = "POLICY", value_parser = parse_policy)]
    pub policy: Option<impasto::Format>,
    /// Share of the error feedback that coarser layers use, 0 to 1: a larger share improves them and enlarges the whole
    /// file [default: 0.25].
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub layer_feedback: Option<f32>,
    /// Measure the KL divergence of each layer from the original and record it in the file. Uses the given text, or
    /// else the end of the built-in one.
    #[arg(long, value_name = "TEXT", num_args = 0..=1, require_equals = true)]
    pub measure: Option<Option<PathBuf>>,
    /// What it is calibrated on.
    #[command(flatten)]
    pub guide: GuideArgs,
    /// Calibrate each transformer block on the outputs of the blocks already coded; needs a second pass over the text.
    #[arg(long, conflicts_with = "uncalibrated")]
    pub sequential: bool,
    /// After coding, train a multiplier for each row of the linear layers and, without --layers, the weights of norms, so that the
    /// model predicts what the original predicts (recovery). Each step takes 1024 tokens of the calibration text [default: 60 steps].
    /// What is trained in a layer is kept only if it lowers the KL divergence on text that was not trained on, the last part of the
    /// calibration text; at high rates it does not. With --statistics, --calibration names the text.
    #[arg(long, value_name = "STEPS", num_args = 0..=1, require_equals = true, value_parser = parse_steps,
          conflicts_with_all = ["lossless", "uncalibrated", "preset", "kld"])]
    pub recover: Option<Option<usize>>,
    /// Minimum precision for rarely used tensors and rows [default: balanced].
    #[arg(long, value_enum, value_name = "PRESET", conflicts_with = "uncalibrated")]
    pub floors: Option<FloorsArg>,
    /// Tools of mode transform, which codes smooth tensors like pictures: `all`, `none`, or changes to `all` such as
    /// `-dct,-halves`, or to `none` such as `none,+quarters,+dct` [default: all]. In a layered file, only `cdf53` and
    /// `cdf97` are used.
    #[arg(long, value_name = "SET", allow_hyphen_values = true)]
    pub tools: Option<impasto::encode::Tools>,
    /// How much time the search among these tools may take [default: normal].
    #[arg(long, value_enum, value_name = "PRESET")]
    pub effort: Option<EffortArg>,
    /// What to code beside the lattice of a tensor. `auto`: a low-rank part of its weights, where that saves bits (a mean of all
    /// rows, a merged adapter). `low-rank=R`: a matrix of rank R that approximates the error of rounding; not with layers.
    /// Pruned tensors and tensors in a format have none [default: auto].
    #[arg(long, value_name = "KIND")]
    pub residual: Option<impasto::encode::Residual>,
    /// Round the columns of tensors on the lattice to paths through a trellis with this many states: 4, 8, 16, 32 or 64. With 8
    /// states, the KL divergence of SmolLM2 at 48 MB falls by 18%, with 64 by 22%; its packed weights take 23% more memory. With
    /// --layers, all lossy layers are on a trellis, and the base gains most. Not with --prune.
    #[arg(long, value_name = "STATES", value_parser = trellis, conflicts_with_all = ["lossless", "prune"])]
    pub trellis: Option<impasto::encode::Trellis>,
    /// What the file is for. `memory`: the model takes less memory while it runs, and the file is a little larger at the same
    /// quality (integers are kept within the widths that packed weights have); not with layers. `download`: the smallest file at
    /// the same quality, and the model takes more memory (--trellis 64, unless --trellis names another number). Without --for, a
    /// file lies between the two.
    #[arg(long = "for", value_enum, value_name = "USE", conflicts_with_all = ["lossless", "preset"])]
    pub purpose: Option<PurposeArg>,
    /// Reorder the hidden units of MLPs and the attention heads, so that similar ones are neighbours. The network still
    /// computes the same function, up to rounding. Not with a lossless file or layer, which keeps the order of the
    /// checkpoint.
    #[arg(long, value_enum, value_name = "BY", default_value = "none")]
    pub reorder: ReorderArg,
    /// Prune: make the weights 0 that a criterion finds least important. `magnitude`, `wanda` (with the norm of the input) or
    /// `sparsegpt` (with the whole covariance; the last two need calibration), then how many: a share (`wanda:50%`), or at
    /// most N of M neighbours that stay (`sparsegpt:2:4`). Embeddings and output projection are not pruned.
    #[arg(long, value_name = "CRITERION:PATTERN", value_parser = str::parse::<impasto::encode::Pruning>,
          conflicts_with_all = ["format", "policy"])]
    pub prune: Option<impasto::encode::Pruning>,
    /// Prune the tensors with this name, in which `*` stands for any characters, instead of all linear layers of blocks.
    /// May be repeated.
    #[arg(long, value_name = "NAME", requires = "prune")]
    pub prune_tensor: Vec<String>,
    /// Code the file in one given way instead of the best for each tensor. `jpeg`: every matrix as JPEG codes a picture, in
    /// blocks of 8 x 8 with a DCT; without calibration, at the size that --bpw or --size gives.
    #[arg(long, value_enum, value_name = "PRESET", conflicts_with_all = [
        "lossless", "layers", "tools", "effort", "residual", "trellis", "calibration", "calibration_tokens", "statistics", "sequential", "floors",
        "segments", "format", "policy",
    ])]
    pub preset: Option<PresetArg>,
    /// Where the base of a delta may be found: a URL, or a path from the folder of the delta. May be repeated.
    #[arg(long, value_name = "URL", requires = "base")]
    pub mirror: Vec<String>,
    /// What to do if the licence of the base does not allow that of the fine-tune, as their model cards name them [default: warn].
    #[arg(long, value_enum, value_name = "HOW", requires = "base")]
    pub license_check: Option<LicenseCheck>,
    /// rANS segments per tile, which a decoder may process in parallel; each costs about 100 bytes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub segments: u8,
    /// Code only share I of N of the tensors, into the folder FILE.shards, which all machines must see; `impasto merge` joins the
    /// shards to the bytes that one machine writes. Where what other shards found out is needed, the command ends with exit code 7:
    /// run it again once they are there, and it goes on. Lossy files need --statistics or --uncalibrated. Not with --layers, --kld,
    /// --base, --reorder, --sequential, --recover and --measure.
    #[arg(long, value_name = "I/N", conflicts_with_all = ["layers", "kld", "base", "sequential", "recover", "measure"])]
    pub shard: Option<impasto::encode::Portion>,
    /// Wait so many seconds, at each stage, for other shards before ending with exit code 7, for shards that run at the same time [default: 0].
    #[arg(long, value_name = "SECONDS", requires = "shard", value_parser = parse_whole::<u64>)]
    pub wait: Option<u64>,
}

/// Join the shards of `encode --shard` or `calibrate --shard`.
#[derive(clap::Args)]
pub struct Merge {
    /// The file to write: what the shards have as --output. Its shards are in the folder FILE.shards, which stays. If shards
    /// are missing, or have to go on, the exit code is 7.
    #[arg(value_name = "FILE")]
    pub output: PathBuf,
}

/// What a lossy file is calibrated on.
#[derive(clap::Args)]
pub struct GuideArgs {
    /// A UTF-8 text file to calibrate on, instead of the built-in text. Quantization error is placed where it matters
    /// least for this text.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Maximum number of tokens of the text to use [default: 32768].
    #[arg(long, value_name = "N", conflicts_with = "statistics", value_parser = parse_whole::<usize>)]
    pub calibration_tokens: Option<usize>,
    /// Use the statistics in this file (from `impasto calibrate`) instead of calibrating.
    #[arg(long, value_name = "FILE")]
    pub statistics: Option<PathBuf>,
    /// Do not calibrate: errors of all weights count the same, relative to the weights of their tensor.
    #[arg(long, conflicts_with_all = ["calibration", "calibration_tokens", "statistics"])]
    pub uncalibrated: bool,
}

/// Quantize a model to a GGUF.
#[derive(clap::Args)]
pub struct Quantize {
    /// A Hugging Face folder, a safetensors file with its folder, a GGUF file or an .impasto file.
    pub model: PathBuf,
    /// The GGUF to write. Missing folders are created. An existing file is replaced once the new one is complete. Temporary files
    /// are created next to it: for calibration about ten times the size of a 16-bit model, and the weights of an .impasto file.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// The types of the matrices, as llama.cpp names them: q2_k, q3_k_s, q3_k_m, q3_k_l, iq4_xs, iq4_nl, q4_0, q4_k_s, q4_k_m, q4_1,
    /// q5_0, q5_k_s, q5_k_m, q5_1, q6_k or q8_0. Every tensor gets the type that llama-quantize would give it, so the file has the
    /// same size (except models of the architecture falcon).
    #[arg(long = "type", value_name = "TYPE")]
    pub mix: impasto::quantize::GgufMix,
    /// What it is calibrated on.
    #[command(flatten)]
    pub guide: GuideArgs,
}

/// Parses a number of states.
fn trellis(text: &str) -> Result<impasto::encode::Trellis, String> {
    let states = text.parse::<u64>().ok().filter(|states| states.is_power_of_two());
    let found = states.and_then(|states| impasto::encode::Trellis::new(states.ilog2() as u8));
    found.ok_or_else(|| "the number of states is 4, 8, 16, 32 or 64".to_owned())
}

/// The values of `--license-check`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LicenseCheck {
    /// Do not look.
    Off,
    /// Print a warning.
    #[default]
    Warn,
    /// Refuse. Licences that are not named, or not known, are refused too.
    Strict,
}

/// The values of `--effort`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum EffortArg {
    /// One choice for each block. Takes about a fifth less time, for files that are hardly worse.
    Fast,
    /// The usual search.
    #[default]
    Normal,
    /// Every choice for each block that may be best. Takes nearly twice the time, for files that are hardly better.
    Best,
}

/// The values of `--for`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PurposeArg {
    /// Little memory while the model runs packed.
    Memory,
    /// A small file.
    Download,
}

/// The values of `--reorder`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ReorderArg {
    /// Keep the order of the checkpoint.
    None,
    /// By the sum of each unit's weights.
    Sum,
    /// By the norm of each unit's weights.
    Norm,
    /// By the first principal component of all units.
    Spectral,
    /// As a chain: after each unit, the nearest of the remaining ones.
    Chain,
    /// By activity on the calibration text, so that error feedback begins with the most active units (act-order). Needs
    /// calibration.
    Activation,
}

impl ReorderArg {
    /// Returns what to order by, unless the order is kept.
    pub fn by(self) -> Option<impasto::encode::ReorderBy> {
        use impasto::encode::ReorderBy;
        match self {
            ReorderArg::None => None,
            ReorderArg::Sum => Some(ReorderBy::Sum),
            ReorderArg::Norm => Some(ReorderBy::Norm),
            ReorderArg::Spectral => Some(ReorderBy::Spectral),
            ReorderArg::Chain => Some(ReorderBy::Chain),
            ReorderArg::Activation => Some(ReorderBy::Activation),
        }
    }
}

/// The presets of `--preset`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PresetArg {
    /// As JPEG codes a picture.
    Jpeg,
}

impl From<EffortArg> for impasto::encode::Effort {
    fn from(effort: EffortArg) -> Self {
        match effort {
            EffortArg::Fast => impasto::encode::Effort::Fast,
            EffortArg::Normal => impasto::encode::Effort::Normal,
            EffortArg::Best => impasto::encode::Effort::Best,
        }
    }
}

/// The layers of `--layers`.
#[derive(Clone, Debug, PartialEq)]
pub struct LayersArg {
    /// The lossy layers.
    pub lossy: Vec<Extent>,
    /// Whether the last layer is lossless.
    pub exact: bool,
}

/// The layers that `--layers default` stands for.
const DEFAULT_LAYERS: &str = "2.5,3.5,5,lossless";

fn parse_layers(text: &str) -> Result<LayersArg, String> {
    let text = if text == "default" { DEFAULT_LAYERS } else { text };
    let mut layers = LayersArg { lossy: vec![], exact: false };
    for word in text.split(',') {
        if layers.exact {
            return Err("nothing comes after `lossless`".into());
        }
        match word.trim() {
            "lossless" => layers.exact = true,
            word if word.bytes().all(|b| b.is_ascii_digit() || b == b'.')
                && word.parse::<f64>().is_ok_and(|n| n < 1000.0) =>
            {
                layers.lossy.push(Extent::BitsPerWeight(parse_bits(word)?));
            }
            word => layers.lossy.push(Extent::Size(parse_size(word)?)),
        }
    }
    Ok(layers)
}

fn parse_policy(text: &str) -> Result<impasto::Format, String> {
    let Some(format) = text.strip_prefix("fragile=") else { return Err("the only policy is fragile=FORMAT".into()) };
    impasto::Format::from_name(format).ok_or_else(|| {
        let names = impasto::Format::ALL.map(impasto::Format::name).join(", ");
        format!("{format:?} is no format: use {names}")
    })
}

fn parse_share(text: &str) -> Result<f32, String> {
    let share = text.parse::<f32>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "not a number from 0 to 1".into())
}

/// Minimum precision presets.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FloorsArg {
    /// For uses unlike the calibration text: no tensor more than 1 bit below the mean, no row more than 0.5 below its
    /// tensor.
    Conservative,
    /// No tensor more than 2.5 bits below the mean, no row more than 1 below its tensor.
    Balanced,
    /// Mostly as the calibration text decides: no row more than 5 bits below its tensor.
    Aggressive,
}

/// Calibrate a model on a text.
#[derive(clap::Args)]
pub struct Calibrate {
    /// A Hugging Face folder, a safetensors file or a GGUF file.
    pub model: PathBuf,
    /// A UTF-8 text file. Do not use the text that quality will be measured on.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// The statistics file to write. Missing folders are created.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Maximum number of tokens of the text to use.
    #[arg(long, default_value_t = CALIBRATION_TOKENS, value_name = "N", value_parser = parse_whole::<usize>)]
    pub tokens: usize,
    /// Number of these tokens, from the start, to compute gradients on; each of them takes three times as long.
    #[arg(long, default_value_t = GRADIENT_TOKENS, value_name = "N", value_parser = parse_whole::<usize>)]
    pub gradient_tokens: usize,
    /// Tokens per window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = parse_whole::<usize>)]
    pub ctx: usize,
    /// Sum only over share I of N of the windows, into the folder FILE.shards, which all machines must see; `impasto merge` makes the
    /// statistics of all shards: the bytes of one machine, on processors of one kind. Windows are shared eight at a time.
    #[arg(long, value_name = "I/N")]
    pub shard: Option<impasto::encode::Portion>,
}

/// Decode a file to a checkpoint.
#[derive(clap::Args)]
pub struct Decode {
    /// The .impasto file.
    pub file: PathBuf,
    /// Format of the checkpoint [default: the original files if the file is lossless, else safetensors].
    #[arg(long, value_enum)]
    pub to: Option<Form>,
    /// Type of the matrices in a GGUF [default: the original GGUF if the file is lossless, else the type of most
    /// weights].
    #[arg(long = "type", value_enum, value_name = "TYPE", requires = "to")]
    pub gguf_type: Option<GgufType>,
    /// With --to compressed-tensors: what engines multiply int8 and FP8 weights by [default: float].
    #[arg(long, value_enum, value_name = "TYPE", requires = "to")]
    pub activations: Option<Inputs>,
    /// The folder to write, which is created if it is missing. For a GGUF, a path that ends in .gguf names the file.
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Overwrite existing files.
    #[arg(long)]
    pub force: bool,
    /// How much of the file to use.
    #[command(flatten)]
    pub cut: CutArgs,
}

/// Formats of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A Hugging Face folder with safetensors.
    Safetensors,
    /// A Hugging Face folder in the layout of compressed-tensors, for vLLM and others: linear layers that were encoded with
    /// --format keep their codes and scales, other tensors are floats.
    CompressedTensors,
    /// A folder for mlx-lm: tensors that were encoded with --format int4, int8 or mxfp4 are quantized as in MLX, with the same
    /// weights, other tensors are floats.
    Mlx,
    /// A folder for ONNX Runtime and onnxruntime-genai: the whole network if it is a supported one, and linear layers that were
    /// encoded with --format.
    Onnx,
    /// A GGUF file, for llama.cpp.
    Gguf,
}

/// What engines multiply weights of 8 bits by.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Inputs {
    /// Floats (W8A16).
    Float,
    /// Numbers of 8 bits, rounded for each token: integers beside int8, FP8 beside FP8 (W8A8).
    #[value(name = "8bit")]
    EightBits,
}

/// Types of the matrices of a GGUF.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum GgufType {
    /// IEEE binary32.
    F32,
    /// IEEE binary16.
    F16,
    /// bfloat16.
    Bf16,
    /// 8 bits, one scale per 32 weights.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits, one scale per 32 weights.
    #[value(name = "q4_0")]
    Q4_0,
}

/// Write a smaller file from a layered one.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("amount").required(true).args(["budget", "layer", "bpw"]))]
pub struct Truncate {
    /// The .impasto file.
    pub file: PathBuf,
    /// The file to write; may be the input. Missing folders are created; an existing file is replaced once the new one is
    /// complete.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How much of the file to use.
    #[command(flatten)]
    pub cut: CutArgs,
}

/// Pack the weights of a file ahead.
#[derive(clap::Args)]
pub struct Bake {
    /// The .impasto file. Deltas are not packed ahead.
    pub file: PathBuf,
    /// The folder for --cache and IMPASTO_CACHE. It is made if it is missing. It must belong to the user who runs models, or to root,
    /// and nobody else may write to it.
    #[arg(short, long, value_name = "DIR")]
    pub output: PathBuf,
    /// How much of the file to use: the same as when the model runs.
    #[command(flatten)]
    pub cut: CutArgs,
}

/// Fetch a file from a server, or the first part of it.
///
/// Header and manifest come first, then the rest in the order of the file, in several ranges at once. Every unit is verified before it
/// is written, so the part that is there can be used at any time. After an interruption, run the same command again to continue; with
/// a larger --budget, it fetches only what is missing.
///
/// Environment: proxies in HTTPS_PROXY, HTTP_PROXY, ALL_PROXY and NO_PROXY; for hf:// addresses HF_ENDPOINT, and the token of the hub
/// in HF_TOKEN, HF_TOKEN_PATH or HF_HOME; for s3:// addresses AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN,
/// AWS_REGION and AWS_ENDPOINT_URL.
#[cfg(feature = "fetch")]
#[derive(clap::Args)]
pub struct Fetch {
    /// The address: https://..., http://..., hf://OWNER/REPO/PATH (with @REVISION if it is not main), file:PATH, or
    /// s3://BUCKET/KEY if the program was built with the feature `s3`.
    pub url: String,
    /// The file to write, or to continue.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How much of the file to fetch. A layer can be named by its number only.
    #[command(flatten)]
    pub cut: CutArgs,
    /// If the file is a delta, also fetch its base, and the base of that, from the mirrors that it names, to the cache folder
    /// (~/.cache/impasto/bases). Bases that are there are not fetched again.
    #[arg(long)]
    pub bases: bool,
    /// Replace FILE if it is another file than that at the address.
    #[arg(long)]
    pub force: bool,
    /// How to fetch.
    #[command(flatten)]
    pub link: LinkArgs,
}

/// Turn a delta into a file of its own, with the same weights.
#[derive(clap::Args)]
pub struct Flatten {
    /// The delta. Its base is found as --base says.
    pub file: PathBuf,
    /// The lossless file to write. A temporary folder next to it holds the decoded model.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
}

/// Write a file, such as a delta, as a delta of another base, with the same weights.
#[derive(clap::Args)]
pub struct Rebase {
    /// The file. If it is a delta, its base is found as --base says.
    pub file: PathBuf,
    /// The .impasto file that becomes the base.
    #[arg(long, value_name = "FILE")]
    pub onto: PathBuf,
    /// The delta to write, which keeps every bit. A temporary folder next to it holds the decoded model.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Where the new base may be found: a URL, or a path from the folder of the delta. May be repeated.
    #[arg(long, value_name = "URL")]
    pub mirror: Vec<String>,
}

/// Show the contents of a file.
#[derive(clap::Args)]
pub struct Inspect {
    /// The .impasto file.
    pub file: PathBuf,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
    /// Load the model as `impasto run` does, and say how much memory its weights take, and for what. Without this, only the
    /// manifest is read.
    #[arg(long)]
    pub memory: bool,
}

/// Check a file.
#[derive(clap::Args)]
pub struct Verify {
    /// The .impasto file.
    pub file: PathBuf,
}

/// Generate text.
#[derive(clap::Args)]
pub struct Run {
    /// An .impasto file or a checkpoint.
    pub model: PathBuf,
    /// The text to continue, or the user message if the model has a chat template.
    #[arg(short, long, value_name = "TEXT", allow_hyphen_values = true)]
    pub prompt: String,
    /// Continue the prompt verbatim, without the chat template.
    #[arg(long)]
    pub raw: bool,
    /// System message for the chat template.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true, conflicts_with = "raw")]
    pub system: Option<String>,
    /// Maximum number of tokens to generate.
    #[arg(short = 'n', long, default_value_t = 128, value_name = "N", value_parser = parse_whole::<usize>)]
    pub max_tokens: usize,
    /// Sampling options.
    #[command(flatten)]
    pub sampling: Sampling,
    /// Stop before this text; may be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// How much of the file to use.
    #[command(flatten)]
    pub cut: CutArgs,
    /// How to run the model.
    #[command(flatten)]
    pub running: Running,
    /// What guesses tokens ahead.
    #[command(flatten)]
    pub drafts: DraftArgs,
    /// How to run it while it arrives.
    #[command(flatten)]
    pub streaming: Streaming,
}

/// How to run a model while its file arrives.
#[derive(clap::Args, Clone, Debug)]
#[command(next_help_heading = "While the file arrives")]
pub struct Streaming {
    /// Start when the first layer of the file is there, and refine the model while the rest arrives. The file is one that another
    /// program is downloading or copying, or an address (see `impasto fetch`), which is fetched meanwhile.
    #[arg(long)]
    pub stream: bool,
    /// What to do with the keys and values of earlier tokens when the model is refined: keep them, recompute all in the background,
    /// recompute those of the first N blocks (layers=N), or recompute all from the inputs that the blocks had (residual)
    /// [default: recompute].
    #[arg(long, value_name = "HOW", requires = "stream")]
    pub kv_upgrade: Option<KvUpgrade>,
    /// The file to write what arrives from an address to, or to continue [default: a file in ~/.cache/impasto/files].
    #[cfg(feature = "fetch")]
    #[arg(long, value_name = "FILE", requires = "stream")]
    pub save: Option<PathBuf>,
    /// How to fetch it from an address.
    #[cfg(feature = "fetch")]
    #[command(flatten)]
    pub link: LinkArgs,
}

/// Chat with a model.
#[derive(clap::Args)]
pub struct Chat {
    /// An .impasto file or a checkpoint of a model with a chat template.
    pub model: PathBuf,
    /// System message.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub system: Option<String>,
    /// Maximum number of tokens per answer.
    #[arg(short = 'n', long, default_value_t = 1024, value_name = "N", value_parser = parse_whole::<usize>)]
    pub max_tokens: usize,
    /// Sampling options.
    #[command(flatten)]
    pub sampling: Sampling,
    /// Stop an answer before this text; may be repeated.
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    pub stop: Vec<String>,
    /// How much of the file to use.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Keep all layers of the file in memory: --layer is where the conversation begins, and /layer changes it.
    #[arg(long)]
    pub keep_layers: bool,
    /// How to run the model.
    #[command(flatten)]
    pub running: Running,
    /// What guesses tokens ahead.
    #[command(flatten)]
    pub drafts: DraftArgs,
    /// How to run it while it arrives.
    #[command(flatten)]
    pub streaming: Streaming,
}

/// Sampling options.
#[derive(clap::Args)]
pub struct Sampling {
    /// Sampling temperature; 0 always picks the most likely token.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f32,
    /// Sample from the K most likely tokens; 0 for all.
    #[arg(long, default_value_t = 0, value_name = "K", value_parser = parse_whole::<usize>)]
    pub top_k: usize,
    /// Sample from the most likely tokens whose probabilities add up to P.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f32,
    /// Sample from tokens that are at least P times as likely as the most likely one.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub min_p: f32,
    /// Penalty for tokens that already occurred; 1 for none.
    #[arg(long, default_value_t = 1.0, value_name = "R")]
    pub repetition_penalty: f32,
    /// Subtracted from the logits of tokens that were generated before, from -2 to 2.
    #[arg(long, default_value_t = 0.0, value_name = "P", allow_negative_numbers = true)]
    pub presence_penalty: f32,
    /// Subtracted from the logits of tokens once for each time they were generated before, from -2 to 2.
    #[arg(long, default_value_t = 0.0, value_name = "P", allow_negative_numbers = true)]
    pub frequency_penalty: f32,
    /// Random seed.
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = parse_whole::<u64>)]
    pub seed: u64,
}

/// Measures of quality.
#[derive(Subcommand)]
pub enum Eval {
    /// Perplexity on a text.
    Ppl {
        /// An .impasto file or a checkpoint.
        model: PathBuf,
        /// How to score the text.
        #[command(flatten)]
        text: Text,
        /// How much of the file to use.
        #[command(flatten)]
        cut: CutArgs,
        /// How to run the model; the reference runs in binary32.
        #[command(flatten)]
        running: Running,
    },
    /// KL divergence from a reference on a text, and both perplexities. Several models are compared at the same tokens.
    Kld {
        /// .impasto files or checkpoints.
        #[arg(required = true, value_name = "MODEL")]
        models: Vec<PathBuf>,
        /// The reference: an .impasto file or a checkpoint.
        #[arg(long, value_name = "MODEL")]
        reference: PathBuf,
        /// How to score the text.
        #[command(flatten)]
        text: Text,
        /// How much of each file to use; the reference is used whole.
        #[command(flatten)]
        cut: CutArgs,
        /// How to run the models; the reference runs in binary32.
        #[command(flatten)]
        running: Running,
    },
    /// Accuracy on multiple-choice tasks, scored as lm-evaluation-harness does.
    Tasks {
        /// An .impasto file or a checkpoint.
        model: PathBuf,
        /// JSON Lines files with the fields query, choices and gold (the index of the correct choice).
        #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
        tasks: Vec<PathBuf>,
        /// An .impasto file or a checkpoint to compare with, item by item.
        #[arg(long, value_name = "MODEL")]
        reference: Option<PathBuf>,
        /// Use only the first N items of each task.
        #[arg(long, value_name = "N", value_parser = parse_items)]
        limit: Option<usize>,
        /// How much of the file to use; the reference is used whole.
        #[command(flatten)]
        cut: CutArgs,
        /// How to run the model; the reference runs in binary32.
        #[command(flatten)]
        running: Running,
    },
}

/// The text of an evaluation.
#[derive(clap::Args)]
pub struct Text {
    /// A UTF-8 text file.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens per window.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = parse_whole::<usize>)]
    pub ctx: usize,
    /// Score only the first N windows.
    #[arg(long, value_name = "N", value_parser = parse_whole::<usize>)]
    pub windows: Option<usize>,
    /// Tokens of a window to score.
    #[arg(long, value_enum, default_value_t = Score::All)]
    pub score: Score,
}

/// Tokens of a window to score.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Score {
    /// All but the first token.
    All,
    /// Tokens with at least half a window of context.
    SecondHalf,
}

/// Analyses of a model.
#[derive(Subcommand)]
pub enum Analyze {
    /// What the tools of picture codecs earn on each tensor: bits per weight on the lattice, in mode transform with all
    /// tools, with none, with each one alone and with each one left out.
    ///
    /// All rates of a tensor are at equal error, weighed by the step of its lattice: each set of tools codes the same tiles
    /// at the slope of the encoder (error per bit), and where its error differs from that of all tools by more than a
    /// quarter of a decibel, again at steps searched until it does not. What is left is corrected by the slope of the curve.
    ///
    /// A tool alone is on with what it needs to mean anything: a prediction or a transform with splits into quarters, splits
    /// with the cosine transform; all with RDOQ, which `none` has, too. A tensor earns if all tools save at least 0.2 bits
    /// per weight over the lattice, which is what the encoder wants. Where a tensor does not, tools are tried one by one on
    /// half a tile only.
    Tools(AnalyzeTools),
    /// How much the error of each tensor matters: what estimators say, and what is measured.
    ///
    /// Each tensor is coded alone at the same rate, and the KL divergence of the network with it is measured on held-back text.
    /// The estimators, from calibration text: magnitude, structure (priors of kinds and depth), gradient, trace and diagonal of the
    /// Fisher information, input covariance (GPTQ), Kronecker factors with each output's gradient (what `encode` uses) and with their
    /// covariance (YAQA), Fisher information along the error by token and by window (quadratic). They are compared with the measured
    /// divergence by rank and per weight, since only proportions count in bit allocation.
    ///
    /// Takes about as long as running twice as many windows as there are tensors, forward.
    Sensitivity(AnalyzeSensitivity),
}

/// Analyse sensitivity.
#[derive(clap::Args)]
pub struct AnalyzeSensitivity {
    /// A Hugging Face folder, a safetensors file or a GGUF file.
    pub model: PathBuf,
    /// Bits per weight that each tensor is coded at.
    #[arg(long, default_value_t = 3.0, value_name = "BITS", value_parser = parse_bits)]
    pub bpw: f64,
    /// Analyse only tensors of this name, in which `*` stands for any characters; may be repeated.
    #[arg(long, value_name = "NAME")]
    pub tensor: Vec<String>,
    /// Statistics of the model (from `impasto calibrate`), for the feedback of rounding; without them, the model is calibrated on the
    /// calibration text.
    #[arg(long, value_name = "FILE")]
    pub statistics: Option<PathBuf>,
    /// A UTF-8 text file for the estimates, instead of the built-in text without its end.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Most tokens of it for the calibration without --statistics [default: 32768].
    #[arg(long, value_name = "N", conflicts_with_all = ["statistics", "no_run"], value_parser = parse_whole::<usize>)]
    pub calibration_tokens: Option<usize>,
    /// A UTF-8 text file for the measured divergence, instead of the end of the built-in text.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// Tokens of that text to skip.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub skip: usize,
    /// Tokens per window.
    #[arg(long, default_value_t = 256, value_name = "N", value_parser = parse_items)]
    pub ctx: usize,
    /// Parts of the calibration text that make estimates of their own: how far these differ is their spread.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = parse_items)]
    pub shards: usize,
    /// Windows of each shard.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = parse_items)]
    pub windows: usize,
    /// Windows of the held-back text.
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = parse_items)]
    pub held_back: usize,
    /// Do not run the model: only estimates that need no run. These are magnitude and structure; with --statistics also covariance and
    /// what the statistics forecast.
    #[arg(long, conflicts_with_all = ["calibration", "text"])]
    pub no_run: bool,
    /// Also write the results as JSON to this file. (--json prints them instead of the tables.)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Also write a plot to this file, as SVG: each estimator against the measured divergence.
    #[arg(long, value_name = "FILE", conflicts_with = "no_run")]
    pub plot: Option<PathBuf>,
}

/// Analyse tools.
#[derive(clap::Args)]
pub struct AnalyzeTools {
    /// A Hugging Face folder, a safetensors file or a GGUF file.
    pub model: PathBuf,
    /// The rate that the step is set for: bits per weight on the lattice, over all tensors that are coded with loss.
    #[arg(long, default_value_t = 4.0, value_name = "BITS", value_parser = parse_bits)]
    pub bpw: f64,
    /// Analyse only tensors of this name, in which `*` stands for any characters; may be repeated. The step is still that of
    /// the whole model.
    #[arg(long, value_name = "NAME")]
    pub tensor: Vec<String>,
    /// The tools to analyse, as for `encode`: what `all` stands for.
    #[arg(long, default_value = "all", value_name = "SET", allow_hyphen_values = true)]
    pub tools: impasto::encode::Tools,
    /// How much time the search among them may take, as for `encode`.
    #[arg(long, value_enum, value_name = "PRESET", default_value = "fast")]
    pub effort: EffortArg,
    /// About the number of weights of a tensor to look at, in tiles of 128 x 128 that are spread over it; eight times as
    /// many where tools earn. A tensor with fewer weights is looked at whole.
    #[arg(long, default_value_t = 16384, value_name = "N", value_parser = parse_items)]
    pub weights: usize,
    /// List every tensor, also those of large models on which nothing earns.
    #[arg(long)]
    pub all_tensors: bool,
    /// Also write the results as JSON to this file. (--json prints them instead of the tables.)
    #[arg(long, value_name = "FILE")]
    pub report: Option<PathBuf>,
    /// Also write a page with pictures for a browser, which needs no network: weights, partitions, choices, what tools earn.
    #[arg(long, value_name = "FILE")]
    pub html: Option<PathBuf>,
}

/// Measures of speed.
#[derive(Subcommand)]
pub enum Bench {
    /// Decode all tensors, with hash checks, from a cached file into preallocated memory.
    Decode {
        /// The .impasto file.
        file: PathBuf,
        /// Number of runs; the median is reported.
        #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
    /// Run a model on dummy tokens: prefill and generation speed in tokens per second, mean and standard deviation.
    Run(Box<BenchRun>),
    /// Exchange the weights of a running model for those of the whole file, and measure what becomes of earlier tokens' keys and
    /// values (`run --stream --kv-upgrade`): KL divergence of the next tokens from a run that had the whole file from the
    /// beginning, time and memory.
    Upgrade(BenchUpgrade),
}

/// Exchange weights and measure.
#[derive(clap::Args)]
pub struct BenchUpgrade {
    /// A layered .impasto file.
    pub model: PathBuf,
    /// A UTF-8 text file.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// The layer of the file that the past is computed with.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = parse_whole::<usize>)]
    pub from: usize,
    /// Tokens of the past.
    #[arg(long, default_value_t = 512, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub past: u32,
    /// Tokens after the exchange.
    #[arg(long, default_value_t = 64, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub next: u32,
    /// Windows of the text, each of past and next tokens.
    #[arg(long, default_value_t = 4, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub windows: u32,
    /// What becomes of the keys and values.
    #[arg(
        long,
        value_name = "HOW,...",
        value_delimiter = ',',
        default_value = "keep,layers=1,layers=5,layers=10,layers=20,residual,recompute"
    )]
    pub kv_upgrade: Vec<KvUpgrade>,
    /// How to run the model.
    #[command(flatten)]
    pub running: Running,
}

/// Run a model and measure the time.
#[derive(clap::Args)]
pub struct BenchRun {
    /// .impasto files or checkpoints.
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// A delta of the model, to be loaded beside it so that both share weights in memory; `weights` is what the delta adds. Needs
    /// exactly one model. May be repeated.
    #[arg(long, value_name = "FILE")]
    pub delta: Vec<PathBuf>,
    /// Prompt lengths in tokens (prefill); 0 for none.
    #[arg(short, long, default_value = "512", value_name = "N,...", value_delimiter = ',', value_parser = parse_tokens)]
    pub prompt: Vec<usize>,
    /// Numbers of tokens to generate one by one (decode); 0 for none.
    #[arg(short = 'n', long, default_value = "128", value_name = "N,...", value_delimiter = ',', value_parser = parse_tokens)]
    pub generate: Vec<usize>,
    /// Tokens already in the context.
    #[arg(short, long, default_value = "0", value_name = "N,...", value_delimiter = ',', value_parser = parse_tokens)]
    pub depth: Vec<usize>,
    /// Number of runs, after one warm-up run.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Thread counts to measure, instead of --threads.
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', value_parser = parse_threads)]
    pub thread_counts: Vec<usize>,
    /// Output format [default: md].
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<TableFormat>,
    /// How much of the files to use.
    #[command(flatten)]
    pub cut: CutArgs,
    /// Take tokens from this UTF-8 text file instead of arbitrary ones: how many drafts are kept depends on the text. With drafts,
    /// it is the context that is continued.
    #[arg(long, value_name = "FILE")]
    pub text: Option<PathBuf>,
    /// What guesses tokens ahead.
    #[command(flatten)]
    pub drafts: DraftArgs,
    /// How to run the models.
    #[command(flatten)]
    pub running: Running,
}

/// Format of a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// Markdown table.
    Md,
    /// JSON with every run.
    Json,
    /// Comma-separated values.
    Csv,
}

/// Parses a whole number.
fn parse_whole<T: FromStr>(text: &str) -> Result<T, String> {
    text.parse().map_err(|_| "not a whole number, 0 or above".to_owned())
}

/// Parses a number of steps.
fn parse_steps(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= 10_000 => Ok(n),
        _ => Err("not a number from 0 to 10000".to_owned()),
    }
}

/// Parses a number of tokens. The limit prevents overflow of their sums.
fn parse_tokens(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= 1 << 24 => Ok(n),
        _ => Err("not a number from 0 to 16777216".to_owned()),
    }
}

/// Parses a number of threads. The limit catches typing errors.
fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= 1024 => Ok(n),
        _ => Err("not a number from 0 to 1024".to_owned()),
    }
}

/// Parses a count, which must be at least 1.
pub fn parse_items(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("not a whole number above 0".to_owned()),
    }
}

/// Parses a number of bits, which must be above 0.
pub fn parse_bits(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(bits) if bits.is_finite() && bits > 0.0 => Ok(bits),
        _ => Err("not a number above 0".to_owned()),
    }
}

/// Parses a divergence in nats.
fn parse_kld(text: &str) -> Result<f64, String> {
    parse_bits(text)
}

/// Parses a size in bytes: `123`, `1.5MB`, `64MiB`, `2GB`. MB is decimal, MiB binary.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "k" | "kb" => 1e3,
        "m" | "mb" => 1e6,
        "g" | "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1024.0 * 1024.0,
        "gib" => 1024.0 * 1024.0 * 1024.0,
        other => return Err(format!("unknown unit {other:?}: use KB, MB, GB, KiB, MiB or GiB")),
    };
    match digits.trim().parse::<f64>() {
        Ok(n) if n.is_finite() && n > 0.0 && n * unit < 1e18 => Ok((n * unit) as u64),
        _ => Err("not a size above 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Args::command().debug_assert();
    }

    #[test]
    fn sizes() {
        assert_eq!(parse_size("80MB"), Ok(80_000_000));
        assert_eq!(parse_size("1.5 MiB"), Ok(1_572_864));
        assert_eq!(parse_size("123"), Ok(123));
        for bad in ["", "MB", "-3MB", "1XB", "nan", "1e30GB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }
}
