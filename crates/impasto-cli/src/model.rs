//! Opens .impasto files and loads models.

use std::path::{Path, PathBuf};

use anyhow::Context;
use impasto::{Bases, Checkpoint, CheckpointWeights, Cut, File, MEMORY_LIMIT, is_impasto, weights_of};
use impasto_container::Limits;
use impasto_model::WeightSource;
use impasto_runtime::{Model, Residence, RunOptions};
use impasto_text::{TextError, Tokenizer};

use crate::args::Args;
use crate::drafts::DraftArgs;
use crate::exit::{UsageError, is_missing_asset};
use crate::memory;
use crate::output::shown;
use crate::progress::bar;
use crate::running::Running;

/// Opens an .impasto file with the limits of the command line, and applies `cut`.
pub fn open(args: &Args, path: &Path, cut: Option<&Cut>) -> anyhow::Result<File> {
    open_within(args, args.allow_expansion, path, cut)
}

/// Opens an .impasto file like [`open`], however much it expands to. For commands that do not decode.
pub fn open_coded(args: &Args, path: &Path) -> anyhow::Result<File> {
    open_within(args, true, path, None)
}

fn open_within(args: &Args, allow_expansion: bool, path: &Path, cut: Option<&Cut>) -> anyhow::Result<File> {
    let mut file = bases(args, allow_expansion, vec![]).open(path)?;
    if let Some(cut) = cut {
        file.cut(cut)?;
    }
    Ok(file)
}

/// Where bases are found: first in those that are known, then where the command line says.
pub fn bases(args: &Args, allow_expansion: bool, known: Vec<PathBuf>) -> Bases {
    let memory = memory_limit(args);
    let limits = Limits { allow_expansion, ..Limits::within(memory) };
    Bases::new([known, args.base.clone()].concat()).within(limits, memory)
}

/// The memory limit from the command line, or three quarters of the available memory, or 16 GiB if that is unknown.
pub fn memory_limit(args: &Args) -> u64 {
    args.memory_limit.unwrap_or_else(|| memory::available().map_or(MEMORY_LIMIT, |bytes| bytes / 4 * 3))
}

/// Loads a model into memory: from an .impasto file, of which `cut` limits the use, or from a checkpoint.
pub fn load(args: &Args, path: &Path, cut: Option<&Cut>, options: &RunOptions) -> anyhow::Result<Model> {
    load_drafting(args, path, cut, options, &DraftArgs::default())
}

/// Loads a model like [`load`], with the layers in memory that propose tokens.
pub fn load_drafting(
    args: &Args,
    path: &Path,
    cut: Option<&Cut>,
    options: &RunOptions,
    drafts: &DraftArgs,
) -> anyhow::Result<Model> {
    let spinner = bar(args, 0);
    spinner.set_message(format!("loading {}", path.display()));
    let model = load_silently(args, path, cut, options, drafts);
    spinner.finish_and_clear();
    let model = model?;
    report(&model, path);
    Ok(model)
}

/// Loads a model like [`load_drafting`], and prints nothing.
pub fn load_silently(
    args: &Args,
    path: &Path,
    cut: Option<&Cut>,
    options: &RunOptions,
    drafts: &DraftArgs,
) -> anyhow::Result<Model> {
    let model = if is_impasto(path).with_context(|| path.display().to_string())? {
        let file = open(args, path, cut)?;
        let layers = drafts.layers(&file, cut).with_context(|| path.display().to_string())?;
        let coarser = layers.into_iter().map(|layer| Ok(weights_of(open(args, path, Some(&Cut::Layer(layer)))?)?));
        let all = coarser.chain([weights_of(file).map_err(Into::into)]).collect::<anyhow::Result<Vec<_>>>()?;
        let all: Vec<&dyn WeightSource> = all.iter().map(|weights| &**weights as &dyn WeightSource).collect();
        Model::load_layers(&all, options).with_context(|| path.display().to_string())
    } else if drafts.needs_layers() {
        return Err(UsageError("--draft-layer with a layer and --keep-layers are for .impasto files only").into());
    } else if cut.is_some() {
        return Err(UsageError("--budget, --layer and --bpw are for .impasto files only").into());
    } else if options.residence == Residence::Coded {
        return Err(UsageError("--residence coded is for .impasto files only").into());
    } else {
        let checkpoint = Checkpoint::open(path)?;
        let model = Model::load(&CheckpointWeights::new(&checkpoint), options);
        explained(model.map_err(Into::into), path, &checkpoint)
    };
    give_back();
    model
}

/// Loads a delta of `base`, which was loaded from `base_path`, and shares its weights.
pub fn load_over(args: &Args, base: &Model, base_path: &Path, path: &Path) -> anyhow::Result<Model> {
    let spinner = bar(args, 0);
    spinner.set_message(format!("loading {}", path.display()));
    let file = bases(args, args.allow_expansion, vec![base_path.to_owned()]).open(path)?;
    let model = base.load_over(&*weights_of(file)?).with_context(|| path.display().to_string());
    spinner.finish_and_clear();
    give_back();
    let model = model?;
    report(&model, path);
    Ok(model)
}

/// Prints the notes and warnings of a model.
fn report(model: &Model, path: &Path) {
    for note in model.notes() {
        eprintln!("note: {}: {}", path.display(), shown(note));
    }
    for warning in model.warnings() {
        eprintln!("warning: {}: {}", path.display(), shown(&warning.to_string()));
    }
}

/// Names the model in an error. If an asset is missing, the notes of the checkpoint tell why.
pub fn explained<T>(result: anyhow::Result<T>, path: &Path, checkpoint: &Checkpoint) -> anyhow::Result<T> {
    result.map_err(|error| {
        let prefix = format!("{}: ", path.display());
        let notes = checkpoint.notes().iter().map(|note| note.strip_prefix(&prefix).unwrap_or(note));
        let (path, notes) = (path.display(), notes.collect::<Vec<_>>().join("; "));
        let message = match is_missing_asset(&error) && !notes.is_empty() {
            true => format!("{path}: {error}; {notes}"),
            false => path.to_string(),
        };
        error.context(message)
    })
}

/// Returns memory that loading freed to the system; the allocator would keep it.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: malloc_trim only releases free memory, and any thread may call it at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Loads a model like [`load`], to run in binary32 as a reference.
pub fn load_float(args: &Args, path: &Path, cut: Option<&Cut>) -> anyhow::Result<Model> {
    load(args, path, cut, &Running::default().options(args, Residence::Float)?)
}

/// Loads the tokenizer of a model.
pub fn tokenizer(weights: &dyn WeightSource) -> Result<Tokenizer, TextError> {
    Tokenizer::load(|name| weights.asset(name))?.ok_or_else(Tokenizer::missing)
}
