//! What stands at a path: an .impasto file or a checkpoint.

use std::io::Read;
use std::path::Path;

use anyhow::Context;
use impasto::{Checkpoint, CheckpointWeights, File, FileWeights};
use impasto_model::{Model, RunOptions};

/// The first bytes of an .impasto file (SPEC 2).
const MAGIC: [u8; 8] = *b"\x89IMP\r\n\x1A\n";

/// Loads the model of an .impasto file or a checkpoint into memory.
pub fn load(path: &Path, threads: usize) -> anyhow::Result<Model> {
    let options = RunOptions { threads, ..RunOptions::default() };
    let model = if is_impasto(path)? {
        let file = File::open(path)?;
        Model::load(&FileWeights::new(&file)?, &options)
    } else {
        let checkpoint = Checkpoint::open(path)?;
        Model::load(&CheckpointWeights(&checkpoint), &options)
    };
    model.with_context(|| path.display().to_string())
}

/// Does a path name an .impasto file, by its first bytes?
fn is_impasto(path: &Path) -> anyhow::Result<bool> {
    let name = || path.display().to_string();
    if std::fs::metadata(path).with_context(name)?.is_dir() {
        return Ok(false);
    }
    let mut first = [0; 8];
    let mut file = std::fs::File::open(path).with_context(name)?;
    match file.read_exact(&mut first) {
        Ok(()) => Ok(first == MAGIC),
        Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e).with_context(name),
    }
}
