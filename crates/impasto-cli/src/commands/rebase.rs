//! `impasto rebase` and `impasto flatten`: the same weights over another base, or over none.

use std::path::Path;
use std::sync::Arc;

use anyhow::Context;
use impasto::encode::{BaseFile, Options, Target};
use impasto::export::{Form, export};
use impasto_core::files::TemporaryFolder;

use super::encode::{Guide, Way, encode_to, open_base};
use super::with_threads;
use crate::args::{Args, Flatten, Rebase};
use crate::exit::{Code, UsageError};
use crate::model::open;
use crate::progress::bar;

pub fn rebase(args: &Args, command: &Rebase) -> anyhow::Result<Code> {
    let base = open_base(args, &command.onto, &command.mirror, &command.output)?;
    again(args, &command.file, &command.output, Some(base))
}

pub fn flatten(args: &Args, command: &Flatten) -> anyhow::Result<Code> {
    again(args, &command.file, &command.output, None)
}

/// Decodes a file with its base to a temporary folder, and encodes it again, exactly.
fn again(args: &Args, path: &Path, output: &Path, base: Option<Arc<dyn BaseFile>>) -> anyhow::Result<Code> {
    let file = open(args, path, None)?;
    if file.base().is_none() && base.is_none() {
        return Err(UsageError("the file is not a delta, so it is flat already").into());
    }
    let folder = TemporaryFolder::beside(output);
    let folder = folder.with_context(|| format!("{}: a temporary folder next to it", output.display()))?;
    let model = folder.path().join("model");
    let exact = file.tensor_names().all(|name| file.is_exact(name));
    let form = if exact { Form::Original } else { Form::Safetensors };
    let progress = bar(args, file.tensor_names().count() as u64);
    with_threads(args, || export(&file, &model, None, form, false, &|_| progress.inc(1)))??;
    progress.finish_and_clear();
    let options = Options { threads: args.threads, base, ..Options::new(Target::Lossless) };
    let way = Way { model: &model, output, measure: None, reorder: None, held_back: None, training: None };
    let progress = bar(args, 0);
    let encoded = encode_to(args, way, &options, &Guide::None, &progress)?;
    progress.finish_and_clear();
    encoded.print(args)?;
    Ok(Code::Success)
}
