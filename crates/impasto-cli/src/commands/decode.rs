//! `impasto decode`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use impasto::LeftOut;
use impasto::export::{Form, GgufType, Inputs, export};
use serde_json::json;

use super::with_threads;
use crate::args::{self, Args, Decode};
use crate::exit::{Code, UsageError};
use crate::model::open;
use crate::output::{bytes, print, print_json, print_notes};
use crate::progress::bar;

/// Most tensors that a note names.
const NAMED: usize = 8;

pub fn run(args: &Args, command: &Decode) -> anyhow::Result<Code> {
    let form = form(command)?;
    let (folder, name) = target(&command.output, form);
    let file = open(args, &command.file, command.cut.cut().as_ref())?;
    let progress = bar(args, file.tensor_names().count() as u64);
    let watch = |_: &str| progress.inc(1);
    let exported = with_threads(args, || export(&file, &folder, name.as_deref(), form, command.force, &watch))??;
    progress.finish_and_clear();
    print_notes(&exported.notes);
    let left = file.left_out();
    print_notes(&left_out_notes(&command.file, file.reader().header().file_length, &left));
    if args.json {
        let left =
            left.iter().map(|l| json!({ "name": l.name, "level": l.level, "layers": l.layers, "bytes": l.bytes }));
        let files: Vec<_> = exported.files.iter().map(|f| f.display().to_string()).collect();
        print_json(&json!({
            "files": files, "tensor_bytes": exported.tensor_bytes, "identical": exported.identical, "notes": exported.notes,
            "left_out": left.collect::<Vec<_>>(),
        }))?;
    } else {
        let how =
            if exported.identical { "headers and tensors as in the checkpoint, byte for byte" } else { "new files" };
        let (n, size) = (exported.files.len(), bytes(exported.tensor_bytes));
        print(&format!("{}: {n} files, {size} of tensors, {how}\n", command.output.display()))?;
    }
    Ok(Code::Success)
}

/// Tells which tensors are below their highest level, and how much of the file was not used.
fn left_out_notes(file: &Path, file_bytes: u64, left: &[LeftOut]) -> Vec<String> {
    if left.is_empty() {
        return vec![];
    }
    let mut levels = BTreeMap::<_, Vec<&LeftOut>>::new();
    left.iter().for_each(|tensor| levels.entry((tensor.level, tensor.layers)).or_default().push(tensor));
    let sum = |tensors: &[&LeftOut]| bytes(tensors.iter().map(|tensor| tensor.bytes).sum());
    let of_level = |((level, layers), tensors): (&(u8, u8), &Vec<&LeftOut>)| {
        let names: Vec<&str> = tensors.iter().take(NAMED).map(|tensor| tensor.name.as_str()).collect();
        let more = if tensors.len() > NAMED { format!(" and {} more", tensors.len() - NAMED) } else { String::new() };
        let (n, without) = (tensors.len(), sum(tensors));
        let base = if *level == 0 { " (the base)" } else { "" };
        let tensors = if n == 1 { "tensor" } else { "tensors" };
        let names = names.join(", ");
        format!("{n} {tensors} decoded at level {level}{base} of {layers}, {without} not used: {names}{more}")
    };
    let all: Vec<&LeftOut> = left.iter().collect();
    let first = format!("{}: {} of {} are left out", file.display(), sum(&all), bytes(file_bytes));
    std::iter::once(first).chain(levels.iter().map(of_level)).collect()
}

fn form(command: &Decode) -> anyhow::Result<Form> {
    let gguf_type = command.gguf_type.map(|wanted| match wanted {
        args::GgufType::F32 => GgufType::F32,
        args::GgufType::F16 => GgufType::F16,
        args::GgufType::Bf16 => GgufType::Bf16,
        args::GgufType::Q8_0 => GgufType::Q8_0,
        args::GgufType::Q4_0 => GgufType::Q4_0,
    });
    let inputs = command.activations.map(|wanted| match wanted {
        args::Inputs::Float => Inputs::Floats,
        args::Inputs::EightBits => Inputs::EightBits,
    });
    if inputs.is_some() && command.to != Some(args::Form::CompressedTensors) {
        return Err(UsageError("--activations is for --to compressed-tensors").into());
    }
    Ok(match (command.to, gguf_type) {
        (Some(args::Form::Gguf), wanted) => Form::Gguf(wanted),
        (_, Some(_)) => return Err(UsageError("--type is for --to gguf").into()),
        (Some(args::Form::Safetensors), None) => Form::Safetensors,
        (Some(args::Form::CompressedTensors), None) => Form::CompressedTensors(inputs.unwrap_or_default()),
        (Some(args::Form::Mlx), None) => Form::Mlx,
        (Some(args::Form::Onnx), None) => Form::Onnx,
        (None, None) => Form::Original,
    })
}

/// The folder to write to, and the name of the file if one is given.
fn target(output: &Path, form: Form) -> (PathBuf, Option<String>) {
    let is_file = output.extension().is_some_and(|end| end == "gguf") && !output.is_dir();
    let name = output
        .file_name()
        .and_then(|name| name.to_str())
        .filter(|_| is_file && matches!(form, Form::Original | Form::Gguf(_)));
    match name {
        None => (output.to_owned(), None),
        Some(name) => {
            let folder = output.parent().filter(|parent| !parent.as_os_str().is_empty());
            (folder.unwrap_or(Path::new(".")).to_owned(), Some(name.to_owned()))
        }
    }
}
