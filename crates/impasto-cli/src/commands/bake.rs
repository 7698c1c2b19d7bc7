//! `impasto bake`.

use anyhow::Context;
use impasto_runtime::{PackError, Packs, Residence};
use serde_json::json;

use crate::args::{Args, Bake};
use crate::exit::Code;
use crate::model::load;
use crate::output::{bytes, print, print_json};
use crate::progress::bar;
use crate::running::Running;

pub fn run(args: &Args, command: &Bake) -> anyhow::Result<Code> {
    let mut options = Running::default().options(args, Residence::Packed)?;
    options.packs = None;
    let model = load(args, &command.file, command.cut.cut().as_ref(), &options)?;
    let spinner = bar(args, 0);
    spinner.set_message(format!("writing to {}", command.output.display()));
    let name = || command.file.display().to_string();
    let runtime = model.runtime().ok_or(PackError::NoContent).with_context(name)?;
    let pack = runtime.bake(&Packs::new(&command.output)).with_context(name)?;
    spinner.finish_and_clear();
    let path = pack.path.display().to_string();
    if args.json {
        print_json(&json!({ "file": name(), "pack": path, "bytes": pack.bytes, "matrices": pack.matrices }))?;
    } else {
        print(&format!("{path}: {}, {} matrices\n", bytes(pack.bytes), pack.matrices))?;
    }
    Ok(Code::Success)
}
