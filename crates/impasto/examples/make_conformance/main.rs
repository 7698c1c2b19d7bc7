//! Writes the golden files of the conformance set that are made with the codec and the encoder.
//!
//! `cargo run -p impasto --example make_conformance` writes to `conformance/files`. The output is deterministic, and
//! the test `conformance` compares it with the committed files. File names begin with the clause of `docs/SPEC.md` that
//! they test.

mod codings;
mod containers;
mod deltas;
mod digits;
mod formats;
mod layers;
mod numbers;
mod paths;
mod planes;
mod set;
mod transforms;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use impasto::Checkpoint;
use impasto::encode::{Options, Target, encode};
use impasto_checkpoint::{TensorSpec, write_safetensors};
use impasto_codec::Kind;
use impasto_core::DType;

use self::codings::*;
use self::containers::*;
use self::deltas::deltas;
use self::digits::digits_of_tensors;
use self::formats::{exact_above_a_format, formats};
use self::layers::*;
use self::paths::refinements_on_trellises;
use self::planes::{layers_of_planes, planes_of_tiles};
use self::set::{Done, Set};
use self::transforms::{Flags, co_located, flagged, transforms};

/// The root of the repository.
fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

#[allow(dead_code)] // The test includes this file as a module.
fn main() -> Done {
    make(&root().join("conformance/files"))
}

/// Writes all files to `folder`.
///
/// # Errors
/// If something cannot be coded or written.
pub fn make(folder: &Path) -> Done {
    std::fs::create_dir_all(folder)?;
    let write = |name: &str, set: Set| set.write(&folder.join(format!("{name}.impasto")));
    write("3.4-assets", assets()?)?;
    write("3.4.2-tied", tied()?)?;
    write("3.5-dtypes", dtypes()?)?;
    write("3.5.1-block-dtypes", blocks()?)?;
    write("3.5.2-opaque-dtypes", opaque()?)?;
    write("4-scalar-and-empty", scalar_and_empty()?)?;
    write("4-ragged-tiles", ragged_tiles()?)?;
    write("5.1-zstd", zstd()?)?;
    write("5.1-zstd-of-blocks", zstd_of_blocks()?)?;
    write("6.2-explicit-tables", explicit_tables()?)?;
    write("7-float-shapes", shapes(Kind::Float)?)?;
    write("7-lattice-shapes", shapes(Kind::Lattice)?)?;
    write("8.1-segments", segments()?)?;
    write("8.5-escapes", escapes()?)?;
    for dtype in FLOATS {
        write(&format!("9-float-{}", dtype.name().to_lowercase().replace('_', "-")), floats(dtype)?)?;
    }
    for dtype in LATTICES {
        write(&format!("10-lattice-{}", dtype.name().to_lowercase()), lattice(dtype)?)?;
    }
    write("10.1-plane", plane()?)?;
    write("10.3-steps", steps()?)?;
    write("10.4-trellis", trellises()?)?;
    write("13.3-refinement-on-a-trellis", refinements_on_trellises()?)?;
    write("12-layers", layers()?)?;
    for dtype in LATTICES {
        let name = dtype.name().to_lowercase();
        write(&format!("13-refinement-{name}"), refinements(dtype)?)?;
        write(&format!("14-exact-{name}"), exact_layers(dtype)?)?;
    }
    for dtype in LATTICES {
        write(&format!("12.5-multipliers-{}", dtype.name().to_lowercase()), multipliers(dtype)?)?;
    }
    write("3.4.5-form-of-another-tokenizer", compiled_tokenizer(false)?)?;
    write("15-compiled-tokenizer", compiled_tokenizer(true)?)?;
    write("16-blocks", blocks_over_a_lattice()?)?;
    for dtype in LATTICES {
        write(&format!("17-transform-{}", dtype.name().to_lowercase()), transforms(dtype)?)?;
    }
    write("17.8-runs", flagged(Flags::Runs)?)?;
    write("17.9-permutations", flagged(Flags::Orders)?)?;
    write("17.10-learned-transforms", flagged(Flags::Bases)?)?;
    write("17.11-planes", planes_of_tiles()?)?;
    write("17.17-layers-of-planes", layers_of_planes()?)?;
    for dtype in LATTICES {
        write(&format!("17.18-co-located-{}", dtype.name().to_lowercase()), co_located(dtype)?)?;
    }
    write("18-digits", digits_of_tensors()?)?;
    for dtype in LATTICES {
        write(&format!("19-low-rank-{}", dtype.name().to_lowercase()), low_rank(dtype)?)?;
        write(&format!("20-formats-{}", dtype.name().to_lowercase()), formats(dtype)?)?;
    }
    write("20.4-exact-above-a-format", exact_above_a_format()?)?;
    deltas(folder)?;
    encoded(&folder.join("encoder-lossless.impasto"), Target::Lossless)?;
    encoded(&folder.join("encoder-4-bpw.impasto"), Target::BitsPerWeight(4.0))
}

const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2];
const LATTICES: [DType; 3] = [DType::F32, DType::F16, DType::Bf16];

/// Encodes a few tensors of the tiny model, one of them tied.
fn encoded(path: &Path, target: Target) -> Done {
    let tiny = Checkpoint::open(&root().join("assets/tiny"))?;
    let folder = tempfile::tempdir()?;
    let config = tiny.assets().iter().find(|asset| asset.name == "config.json").ok_or("no config.json")?;
    std::fs::write(folder.path().join("config.json"), &config.bytes[..])?;
    let layer = |name: &str| format!("model.layers.0.{name}.weight");
    let mut tensors = Vec::new();
    for (name, rows) in [(layer("self_attn.q_proj"), 96), (layer("mlp.down_proj"), 24), (layer("input_layernorm"), 192)]
    {
        let info = tiny.tensor(&name).ok_or("no such tensor")?;
        let row_bytes = tiny.bytes(info).len() / info.shape[0] as usize;
        let mut shape = info.shape.clone();
        shape[0] = rows;
        tensors.push((TensorSpec::new(name, info.dtype, shape), &tiny.bytes(info)[..rows as usize * row_bytes]));
    }
    let mut again = tensors[0].clone();
    again.0.name = "tied.weight".to_owned();
    tensors.push(again);
    write_safetensors(&folder.path().join("model.safetensors"), None, &tensors)?;
    let options = Options { threads: 1, segments: 4, ..Options::new(target) };
    encode(&Checkpoint::open(folder.path())?, path, &options, &|_| ControlFlow::Continue(()))?;
    Ok(())
}
