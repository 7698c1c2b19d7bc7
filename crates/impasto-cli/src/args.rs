//! The command line.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use impasto::Extent;

use crate::cut::CutArgs;
use crate::running::Running;

/// Tokens to calibrate on: with a covariance of n inputs made of T tokens the error is about n/T larger than with the true one.
pub const CALIBRATION_TOKENS: usize = 32768;
/// Of these, the ones that gradients are made of.
const GRADIENT_TOKENS: usize = 16384;

/// A codec for LLM weights: a checkpoint becomes one checked .impasto file, and the model runs from it.
///
/// Results go to stdout, progress to stderr.
///
/// Exit codes: 0 done; 1 the system failed (files, threads, memory); 2 wrong command line; 3 the input is not valid (checkpoint,
/// .impasto file, tokenizer, text) or not one that this version knows; 4 units are damaged; 5 units are absent: the file is cut; 6 the
/// wanted size cannot be met.
///
/// Environment: IMPASTO_CPU forces an instruction set: scalar, avx2 or avx512; by default the widest that the processor has.
#[derive(Parser)]
#[command(name = "impasto", version, propagate_version = true, max_term_width = 100)]
pub struct Args {
    /// Threads; 0 for as many as the machine has. No file depends on it.
    #[arg(long, global = true, default_value_t = 0, value_name = "N", value_parser = parse_threads)]
    pub threads: usize,
    /// Most memory that a tensor, or a model that runs, may take, such as 8GiB; three quarters of the machine's by default.
    #[arg(long, global = true, value_name = "SIZE", value_parser = parse_size)]
    pub memory_limit: Option<u64>,
    /// Print results as JSON.
    #[arg(long, global = true)]
    pub json: bool,
    /// Show no progress.
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Subcommand)]
pub enum Command {
    /// Encode a checkpoint into one .impasto file.
    Encode(Encode),
    /// Measure what the layers of a model see on a text, for `encode --statistics`.
    Calibrate(Calibrate),
    /// Decode a file back to a checkpoint.
    Decode(Decode),
    /// Write a smaller file of the first layers of a file, without coding anything again.
    Truncate(Truncate),
    /// Show what is in a file.
    Inspect(Inspect),
    /// Check every unit's hash and that every tensor decodes.
    Verify(Verify),
    /// Generate text.
    Run(Run),
    /// Talk with a model.
    Chat(Chat),
    /// Measure quality on a text or on tasks.
    Eval {
        /// What to measure.
        #[command(subcommand)]
        what: Eval,
    },
    /// Measure speed.
    Bench {
        /// What to measure.
        #[command(subcommand)]
        what: Bench,
    },
    /// Encode the small model that this program carries, and generate text from the files.
    Demo,
    /// Print a completion script for a shell.
    Completions {
        /// The shell.
        shell: Shell,
    },
}

/// Encode a checkpoint into one .impasto file.
#[derive(clap::Args)]
pub struct Encode {
    /// A Hugging Face folder, a safetensors file or a GGUF.
    pub model: PathBuf,
    /// The file to write; an existing one is replaced when the new one is complete.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Keep every bit (the default).
    #[arg(long, group = "target")]
    pub lossless: bool,
    /// Bits of the whole file over all weights: met to 0.5% from below.
    #[arg(long, group = "target", value_name = "BITS", value_parser = parse_bits, allow_negative_numbers = true)]
    pub bpw: Option<f64>,
    /// Size of the whole file, such as 80MB, 64MiB or 80000000: met to 0.5% from below.
    #[arg(long, group = "target", value_name = "SIZE", value_parser = parse_size)]
    pub size: Option<u64>,
    /// Layers of the file, each with all before it: bits of the file over all weights (3.5) or sizes (60MB), rising; `lossless` may be
    /// the last. `default` is 2.5,3.5,5,lossless.
    #[arg(long, group = "target", value_name = "LAYER,...", value_parser = parse_layers)]
    pub layers: Option<LayersArg>,
    /// How much of the feedback of errors coarser layers keep, 0 to 1: more makes them better and the whole file larger [default: 0.25].
    #[arg(long, value_name = "SHARE", value_parser = parse_share)]
    pub layer_feedback: Option<f32>,
    /// Measure the KL divergence of each layer from the original and write it into the file: on a text of yours, or on the end of the
    /// one that this program carries.
    #[arg(long, value_name = "TEXT", num_args = 0..=1, require_equals = true)]
    pub measure: Option<Option<PathBuf>>,
    /// A file of UTF-8 text to calibrate on, in place of the one that this program carries: the error is put where it weighs least on it.
    #[arg(long, value_name = "FILE")]
    pub calibration: Option<PathBuf>,
    /// Most tokens of the text that are used [default: 32768].
    #[arg(long, value_name = "N", conflicts_with = "statistics")]
    pub calibration_tokens: Option<usize>,
    /// Statistics of the model on a text (`impasto calibrate`), in place of calibrating now.
    #[arg(long, value_name = "FILE")]
    pub statistics: Option<PathBuf>,
    /// Do not calibrate: all tensors get the same step relative to their weights.
    #[arg(long, conflicts_with_all = ["calibration", "calibration_tokens", "statistics", "sequential", "floors"])]
    pub uncalibrated: bool,
    /// Calibrate each block on inputs from blocks that are coded already; takes the text once more.
    #[arg(long)]
    pub sequential: bool,
    /// How many bits tensors and rows keep that the text has no use for [default: balanced].
    #[arg(long, value_enum, value_name = "PRESET")]
    pub floors: Option<FloorsArg>,
    /// rANS segments of a tile, which other decoders may take side by side; each costs about 100 bytes.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=16))]
    pub segments: u8,
}

/// Layers of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct LayersArg {
    /// The lossy ones.
    pub lossy: Vec<Extent>,
    /// An exact one on top.
    pub exact: bool,
}

/// What `--layers default` stands for.
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
    if layers.lossy.is_empty() {
        return Err("there is no layer below `lossless`: that is a file without layers, --lossless".into());
    }
    Ok(layers)
}

fn parse_share(text: &str) -> Result<f32, String> {
    let share = text.parse::<f32>().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "it must be 0 to 1".into())
}

/// Structural floors.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum FloorsArg {
    /// No tensor more than 1 bit below the mean, no row more than 0.5 below its tensor: for uses far from the text.
    Conservative,
    /// No tensor more than 2.5 bits below the mean, no row more than 1 below its tensor.
    Balanced,
    /// The text decides alone, but for rows that it does not show: they stay 5 bits below at most.
    Aggressive,
}

/// Measure a model on a text.
#[derive(clap::Args)]
pub struct Calibrate {
    /// A Hugging Face folder, a safetensors file or a GGUF.
    pub model: PathBuf,
    /// A file of UTF-8 text, apart from what quality will be measured on.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// The file of statistics to write.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// Most tokens of the text that are used.
    #[arg(long, default_value_t = CALIBRATION_TOKENS, value_name = "N")]
    pub tokens: usize,
    /// Most of these tokens, the first ones, that gradients are made of; a token costs three times as much there.
    #[arg(long, default_value_t = GRADIENT_TOKENS, value_name = "N")]
    pub gradient_tokens: usize,
    /// Tokens in a window.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub ctx: usize,
}

/// Decode a file back to a checkpoint.
#[derive(clap::Args)]
pub struct Decode {
    /// The .impasto file.
    pub file: PathBuf,
    /// The form of the checkpoint; by default the files that it was encoded from, if the file keeps them exactly, else safetensors.
    #[arg(long, value_enum)]
    pub to: Option<Form>,
    /// The type of matrices in a GGUF; by default a GGUF that the file keeps exactly, else the type that most weights have.
    #[arg(long = "type", value_enum, value_name = "TYPE", requires = "to")]
    pub gguf_type: Option<GgufType>,
    /// The folder to write; for a GGUF also the file, if it ends in .gguf.
    #[arg(short, long, value_name = "PATH")]
    pub output: PathBuf,
    /// Replace files that are in the folder already.
    #[arg(long)]
    pub force: bool,
    /// How much of the file to take.
    #[command(flatten)]
    pub cut: CutArgs,
}

/// Forms of a checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// A Hugging Face folder with safetensors.
    Safetensors,
    /// A GGUF, for llama.cpp.
    Gguf,
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
    /// 8 bits, a scale for 32 weights.
    #[value(name = "q8_0")]
    Q8_0,
    /// 4 bits, a scale for 32 weights.
    #[value(name = "q4_0")]
    Q4_0,
}

/// Write a smaller file of the first layers of a file.
#[derive(clap::Args)]
#[command(group = clap::ArgGroup::new("amount").required(true).args(["budget", "layer", "bpw"]))]
pub struct Truncate {
    /// The .impasto file.
    pub file: PathBuf,
    /// The file to write, which may be the same; an existing one is replaced when the new one is complete.
    #[arg(short, long, value_name = "FILE")]
    pub output: PathBuf,
    /// How much of the file to take.
    #[command(flatten)]
    pub cut: CutArgs,
}

/// Show what is in a file.
#[derive(clap::Args)]
pub struct Inspect {
    /// The .impasto file.
    pub file: PathBuf,
    /// List every tensor.
    #[arg(long)]
    pub tensors: bool,
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
    /// The text to continue, or the question if the model has a chat template.
    #[arg(short, long, value_name = "TEXT")]
    pub prompt: String,
    /// Continue the prompt as it is, without the chat template.
    #[arg(long)]
    pub raw: bool,
    /// System message of the chat template.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    pub system: Option<String>,
    /// Most tokens to generate.
    #[arg(short = 'n', long, default_value_t = 128, value_name = "N")]
    pub max_tokens: usize,
    /// How it is sampled.
    #[command(flatten)]
    pub sampling: Sampling,
    /// Stop before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// How much of the file to take.
    #[command(flatten)]
    pub cut: CutArgs,
    /// How the model runs.
    #[command(flatten)]
    pub running: Running,
}

/// Talk with a model.
#[derive(clap::Args)]
pub struct Chat {
    /// An .impasto file or a checkpoint, of a model with a chat template.
    pub model: PathBuf,
    /// System message.
    #[arg(long, value_name = "TEXT")]
    pub system: Option<String>,
    /// Most tokens of an answer.
    #[arg(short = 'n', long, default_value_t = 1024, value_name = "N")]
    pub max_tokens: usize,
    /// How answers are sampled.
    #[command(flatten)]
    pub sampling: Sampling,
    /// End an answer before this text; may be given several times.
    #[arg(long, value_name = "TEXT")]
    pub stop: Vec<String>,
    /// How much of the file to take.
    #[command(flatten)]
    pub cut: CutArgs,
    /// How the model runs.
    #[command(flatten)]
    pub running: Running,
}

/// Sampling options.
#[derive(clap::Args)]
pub struct Sampling {
    /// 0 takes the likeliest token each time.
    #[arg(long, default_value_t = 0.0, value_name = "T")]
    pub temperature: f32,
    /// Keep only the K likeliest tokens; 0 keeps all.
    #[arg(long, default_value_t = 0, value_name = "K")]
    pub top_k: usize,
    /// Keep the likeliest tokens that hold this share of the probability.
    #[arg(long, default_value_t = 1.0, value_name = "P")]
    pub top_p: f32,
    /// Keep tokens at least this share as likely as the likeliest.
    #[arg(long, default_value_t = 0.0, value_name = "P")]
    pub min_p: f32,
    /// Make tokens that already occurred less likely; 1 does nothing.
    #[arg(long, default_value_t = 1.0, value_name = "R")]
    pub repetition_penalty: f32,
    /// Seed of the sampling.
    #[arg(long, default_value_t = 0, value_name = "N")]
    pub seed: u64,
}

/// Measures of quality.
#[derive(Subcommand)]
pub enum Eval {
    /// Perplexity on a text.
    Ppl {
        /// An .impasto file or a checkpoint.
        model: PathBuf,
        /// How the text is scored.
        #[command(flatten)]
        text: Text,
        /// How much of the file to take.
        #[command(flatten)]
        cut: CutArgs,
        /// How the model runs; the reference runs in binary32.
        #[command(flatten)]
        running: Running,
    },
    /// KL divergence from a reference on a text, and both perplexities.
    Kld {
        /// An .impasto file or a checkpoint.
        model: PathBuf,
        /// The reference: another file or checkpoint.
        #[arg(long, value_name = "MODEL")]
        reference: PathBuf,
        /// How the text is scored.
        #[command(flatten)]
        text: Text,
        /// How much of the file to take; the reference is taken whole.
        #[command(flatten)]
        cut: CutArgs,
        /// How the model runs; the reference runs in binary32.
        #[command(flatten)]
        running: Running,
    },
    /// Accuracy on multiple-choice tasks, scored as lm-evaluation-harness does.
    Tasks {
        /// An .impasto file or a checkpoint.
        model: PathBuf,
        /// Files of JSON lines with the fields query, choices and gold (the index of the right choice).
        #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
        tasks: Vec<PathBuf>,
        /// Another file or checkpoint, to measure the paired difference to.
        #[arg(long, value_name = "MODEL")]
        reference: Option<PathBuf>,
        /// The first N items of each task only.
        #[arg(long, value_name = "N", value_parser = parse_items)]
        limit: Option<usize>,
        /// How much of the file to take; the reference is taken whole.
        #[command(flatten)]
        cut: CutArgs,
        /// How the model runs; the reference runs in binary32.
        #[command(flatten)]
        running: Running,
    },
}

/// The text of an evaluation.
#[derive(clap::Args)]
pub struct Text {
    /// A file of UTF-8 text.
    #[arg(long, value_name = "FILE")]
    pub text: PathBuf,
    /// Tokens in a window.
    #[arg(long, default_value_t = 512, value_name = "N")]
    pub ctx: usize,
    /// Score the first N windows only.
    #[arg(long, value_name = "N")]
    pub windows: Option<usize>,
    /// Which tokens of a window are scored.
    #[arg(long, value_enum, default_value_t = Score::All)]
    pub score: Score,
}

/// Which tokens of a window are scored.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Score {
    /// All but the first.
    All,
    /// Those with at least half a window before them.
    SecondHalf,
}

/// Measures of speed.
#[derive(Subcommand)]
pub enum Bench {
    /// Decode all tensors into memory that is already there (as much as they take), hashes checked, from a warm file.
    Decode {
        /// The .impasto file.
        file: PathBuf,
        /// Times to decode; the median counts.
        #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        repeat: u32,
    },
    /// Run a model on meaningless tokens: tokens a second of prompts and of what follows, mean and standard deviation.
    Run(Box<BenchRun>),
}

/// Run a model and measure the time.
#[derive(clap::Args)]
pub struct BenchRun {
    /// .impasto files or checkpoints.
    #[arg(required = true)]
    pub models: Vec<PathBuf>,
    /// Tokens that run together, as in a prompt; 0 for none.
    #[arg(short, long, default_value = "512", value_name = "N,...", value_delimiter = ',', value_parser = parse_tokens)]
    pub prompt: Vec<usize>,
    /// Tokens that run one after another, as in an answer; 0 for none.
    #[arg(short = 'n', long, default_value = "128", value_name = "N,...", value_delimiter = ',', value_parser = parse_tokens)]
    pub generate: Vec<usize>,
    /// Tokens in context before.
    #[arg(short, long, default_value = "0", value_name = "N,...", value_delimiter = ',', value_parser = parse_tokens)]
    pub depth: Vec<usize>,
    /// Repetitions, after one that does not count.
    #[arg(short, long, default_value_t = 5, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub repeat: u32,
    /// Numbers of threads, one after another, in place of --threads.
    #[arg(short, long, value_name = "N,...", value_delimiter = ',', value_parser = parse_threads)]
    pub thread_counts: Vec<usize>,
    /// How results are printed [default: md].
    #[arg(short, long, value_enum, value_name = "FORMAT")]
    pub output: Option<TableFormat>,
    /// How much of the files to take.
    #[command(flatten)]
    pub cut: CutArgs,
    /// How the models run.
    #[command(flatten)]
    pub running: Running,
}

/// How a table is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum TableFormat {
    /// A table in Markdown.
    Md,
    /// JSON, with every repetition.
    Json,
    /// Comma-separated values.
    Csv,
}

/// A number of tokens. The limit keeps their sum far from what a number can be.
fn parse_tokens(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= 1 << 24 => Ok(n),
        _ => Err("not a number from 0 to 16777216".to_owned()),
    }
}

/// A number of threads. The limit keeps a slip of the finger from starting a hundred thousand.
fn parse_threads(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n <= 1024 => Ok(n),
        _ => Err("not a number from 0 to 1024".to_owned()),
    }
}

/// A number of items: at least 1.
pub fn parse_items(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(n) if n > 0 => Ok(n),
        _ => Err("not a number of items of at least 1".to_owned()),
    }
}

/// Bits per weight: above 0.
pub fn parse_bits(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(bits) if bits.is_finite() && bits > 0.0 => Ok(bits),
        _ => Err("not a number of bits above 0".to_owned()),
    }
}

/// Bytes from `123`, `1.5MB`, `64MiB`, `2GB`: decimal units without an i, binary with one.
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
