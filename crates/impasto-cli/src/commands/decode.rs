//! `impasto decode`.

use impasto::export;
use serde_json::json;

use super::with_threads;
use crate::args::{Args, Decode, Form};
use crate::exit::Code;
use crate::model::open;
use crate::output::{bytes, print, print_json};
use crate::progress::bar;

pub fn run(args: &Args, command: &Decode) -> anyhow::Result<Code> {
    let Form::Safetensors = command.to;
    let file = open(args, &command.file)?;
    let progress = bar(args, file.tensor_names().count() as u64);
    let watch = |_: &str| progress.inc(1);
    let exported = with_threads(args, || export::to_safetensors(&file, &command.output, command.force, &watch))??;
    progress.finish_and_clear();
    if args.json {
        let files: Vec<_> = exported.files.iter().map(|f| f.display().to_string()).collect();
        print_json(&json!({
            "files": files, "tensor_bytes": exported.tensor_bytes, "identical": exported.identical,
        }))?;
    } else {
        let how = if exported.identical { "the checkpoint's files byte for byte" } else { "new files" };
        let (n, size) = (exported.files.len(), bytes(exported.tensor_bytes));
        print(&format!("{}: {n} files, {size} of tensors, {how}\n", command.output.display()))?;
    }
    Ok(Code::Success)
}
