//! Export to a Hugging Face folder in the layout of the library compressed-tensors, which inference engines read: codes and
//! scales of the tensors that have a format (SPEC 20), everything else as in any other folder.
//!
//! The layout is that of compressed-tensors 0.20 (Apache-2.0; `compressors` and `quantization` there).

use std::collections::BTreeMap;

use impasto_checkpoint::{Change, TensorSpec};
use impasto_codec::Groups;
use impasto_container::Source;
use impasto_core::{DType, Format};
use serde_json::{Value, json};

use super::part::{Content, Part};
use super::{Begin, Contents, Output, assets, safetensors};
use crate::error::FileError;
use crate::file::File;
use crate::tensor::Tensor;
use crate::view::View;

const CONFIG: &str = "config.json";
const WEIGHT: &str = ".weight";

/// A part of a tensor with a format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece {
    /// Its codes.
    Codes,
    /// The scales of its groups.
    Scales,
    /// The scale of the tensor, by which those of groups are divided.
    Global,
    /// Its shape.
    Shape,
}

/// Plans the folder.
///
/// # Errors
/// If no tensor has a format that the layout has, or `config.json` is no JSON object.
pub fn contents<S: Source>(file: &File<S>) -> Result<Contents, FileError> {
    let view = View::of_file(file)?;
    let misfit = |rule: String| FileError::Form {
        file: file.reader().name().to_owned(),
        form: "a folder of compressed-tensors",
        rule,
    };
    let (mut parts, mut notes) = (vec![], vec![]);
    // Modules by format and group width, and those without one.
    let (mut schemes, mut ignored) = (BTreeMap::<_, Vec<String>>::new(), vec![]);
    for (name, origin) in view.iter() {
        let module = name.strip_suffix(WEIGHT).unwrap_or(name).to_owned();
        let tensor = file.tensor(&origin.name)?;
        let groups = if tensor.is_lattice() { tensor.header().and_then(|header| header.groups()) } else { None };
        let why = groups.and_then(|groups| why_not(name, origin.change, &tensor, groups));
        if let (Some(groups), Some(why)) = (groups, &why) {
            notes.push(format!("{name}: {why}, so its {} numbers are written as floats", groups.format.name()));
        }
        match groups.filter(|_| why.is_none()) {
            Some(groups) => {
                parts.extend(pieces(&module, &origin.name, &tensor, groups));
                schemes.entry((groups.format as u8, groups.width())).or_default().push(module);
            }
            None => {
                parts.push(safetensors::part(file, name, origin)?);
                if tensor.shape().len() == 2 && name.ends_with(WEIGHT) {
                    ignored.push(module);
                }
            }
        }
    }
    if schemes.is_empty() {
        let rule = "no tensor has a format of engines that this layout has: encode with --format (or leave out the exact layer)";
        return Err(misfit(rule.into()));
    }
    let mut changed = BTreeMap::new();
    match file.asset(CONFIG)? {
        None => notes.push(format!("there is no {CONFIG}, so nothing names the formats")),
        Some(config) => {
            let read = serde_json::from_slice(&impasto_core::json::finite(&config));
            let mut config: Value = read.map_err(|error| misfit(format!("{CONFIG}: {error}")))?;
            let object = config.as_object_mut().ok_or_else(|| misfit(format!("{CONFIG} is no object")))?;
            object.insert("quantization_config".into(), quantization(&schemes, ignored));
            let text = serde_json::to_vec_pretty(&config).map_err(|error| misfit(error.to_string()))?;
            changed.insert(CONFIG.to_owned(), text);
        }
    }
    let outputs = vec![Output { name: safetensors::WEIGHTS.to_owned(), begin: Begin::Safetensors, parts }];
    Ok(Contents { outputs, assets: assets(file), changed, identical: false, notes })
}

/// Returns why the layout does not have a tensor with a format; `None` if it does.
fn why_not<S: Source>(name: &str, change: Change, tensor: &Tensor<S>, groups: &Groups) -> Option<&'static str> {
    let &[_, columns] = tensor.shape() else { return Some("engines read formats of matrices") };
    if !name.ends_with(WEIGHT) || change != Change::None || tensor.matrix().cols() != columns {
        Some("engines read formats of linear layers")
    } else if name.contains("embed") {
        Some("engines read embeddings as floats")
    } else if groups.format == Format::Fp8E5M2 {
        Some("the layout has E4M3 only")
    } else if groups.width() != 0 && columns % groups.width() != 0 {
        Some("its columns are not whole groups")
    } else {
        None
    }
}

/// Plans the parts of a tensor with a format.
fn pieces<S: Source>(module: &str, name: &str, tensor: &Tensor<S>, groups: &Groups) -> Vec<Part> {
    let (rows, columns, across) = (tensor.matrix().rows(), tensor.matrix().cols(), groups.across() as u64);
    // BF16 scales are exact in F32, in F16 they may not be.
    let scale = if tensor.dtype() == DType::Bf16 { DType::Bf16 } else { DType::F32 };
    let part = |suffix: &str, dtype, shape: Vec<u64>, piece| Part {
        spec: TensorSpec::new(format!("{module}.{suffix}"), dtype, shape),
        content: Content::Format(name.to_owned(), piece),
    };
    let words = (columns * u64::from(groups.format.bits())).div_ceil(32);
    let (codes, scale) = match groups.format {
        Format::Mxfp4 => (part("weight_packed", DType::U8, vec![rows, columns / 2], Piece::Codes), DType::U8),
        Format::Nvfp4 => (part("weight_packed", DType::U8, vec![rows, columns / 2], Piece::Codes), DType::F8E4M3),
        Format::Int4 | Format::Int8 => (part("weight_packed", DType::I32, vec![rows, words], Piece::Codes), scale),
        Format::Fp8E4M3 | Format::Fp8E5M2 => (part("weight", DType::F8E4M3, vec![rows, columns], Piece::Codes), scale),
    };
    let mut parts = vec![codes, part("weight_scale", scale, vec![rows, across], Piece::Scales)];
    match groups.format {
        Format::Nvfp4 => parts.push(part("weight_global_scale", DType::F32, vec![1], Piece::Global)),
        Format::Int4 | Format::Int8 => parts.push(part("weight_shape", DType::I64, vec![2], Piece::Shape)),
        _ => {}
    }
    parts
}

/// Returns the field `quantization_config` for modules by format and group width.
fn quantization(schemes: &BTreeMap<(u8, u64), Vec<String>>, ignored: Vec<String>) -> Value {
    let mut groups = serde_json::Map::new();
    let mut layouts = vec![];
    for (n, (&(format, width), modules)) in schemes.iter().enumerate() {
        let Some(format) = Format::from_code(format) else { continue };
        let (layout, kind, strategy) = match format {
            Format::Mxfp4 => ("mxfp4-pack-quantized", "float", "group"),
            Format::Nvfp4 => ("nvfp4-pack-quantized", "float", "tensor_group"),
            Format::Int4 | Format::Int8 => ("pack-quantized", "int", if width == 0 { "channel" } else { "group" }),
            Format::Fp8E4M3 | Format::Fp8E5M2 => {
                ("float-quantized", "float", if width == 0 { "channel" } else { "group" })
            }
        };
        layouts.push(layout);
        let size = if width == 0 { Value::Null } else { width.into() };
        let mut weights = json!({
            "num_bits": format.bits(), "type": kind, "symmetric": true, "group_size": size, "strategy": strategy,
            "block_structure": null, "dynamic": false, "actorder": null, "observer": null, "observer_kwargs": {},
        });
        let scales = match format {
            Format::Mxfp4 => Some("torch.uint8"),
            Format::Nvfp4 => Some("torch.float8_e4m3fn"),
            _ => None,
        };
        if let (Some(dtype), Some(weights)) = (scales, weights.as_object_mut()) {
            weights.insert("scale_dtype".into(), dtype.into());
        }
        let group = json!({
            "targets": modules, "weights": weights, "input_activations": null, "output_activations": null, "format": layout,
        });
        groups.insert(format!("group_{n}"), group);
    }
    layouts.dedup();
    let layout = if let [layout] = layouts[..] { layout } else { "mixed-precision" };
    json!({
        "quant_method": "compressed-tensors", "quantization_status": "compressed", "format": layout,
        "config_groups": groups, "ignore": ignored, "kv_cache_scheme": null, "global_compression_ratio": null,
    })
}

/// Writes a piece of a tensor with a format.
pub fn write<S: Source>(
    file: &File<S>,
    name: &str,
    piece: Piece,
    write: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let tensor = file.tensor(name)?;
    let Some(groups) = tensor.header().and_then(|header| header.groups()) else { return Ok(()) };
    let form = groups.format.scale_form();
    match piece {
        // A power of two in files of our own, so that its reciprocal is exact.
        Piece::Global => write(&groups.step.recip().to_le_bytes()),
        Piece::Shape => {
            let shape = [tensor.matrix().rows(), tensor.matrix().cols()];
            write(&shape.map(|n| (n as i64).to_le_bytes()).concat())
        }
        Piece::Scales => (0..tensor.matrix().rows() as usize).try_for_each(|r| {
            let indices = groups.row(r).into_iter();
            write(&match (groups.format, tensor.dtype()) {
                (Format::Mxfp4 | Format::Nvfp4, _) => indices.map(|index| index as u8).collect::<Vec<u8>>(),
                (_, DType::Bf16) => indices.flat_map(|index| (index as u16).to_le_bytes()).collect(),
                _ => indices.flat_map(|index| form.scale(index).to_le_bytes()).collect(),
            })
        }),
        Piece::Codes => {
            let decoder = tensor.finest()?;
            let mut z = Vec::new();
            (0..tensor.tile_rows()).try_for_each(|row| {
                tensor.integers(&decoder, row, &mut z)?;
                let columns = tensor.matrix().cols().max(1) as usize;
                z.chunks_exact(columns).try_for_each(|row| write(&packed(groups.format, row)))
            })
        }
    }
}

/// Packs the integers of a row, of which those out of range count as the nearest inside.
fn packed(format: Format, row: &[i32]) -> Vec<u8> {
    let codes = row.iter().map(|&z| format.code(z));
    // Integers are biased, and rows end at a word of 32 bits; the first number is in the lowest bits.
    match format {
        Format::Mxfp4 | Format::Nvfp4 => nibbles(codes),
        Format::Fp8E4M3 | Format::Fp8E5M2 => codes.collect(),
        Format::Int4 | Format::Int8 => {
            let mut bytes = match format {
                Format::Int4 => nibbles(codes.map(|code| code ^ 8)),
                _ => codes.map(|code| code ^ 0x80).collect(),
            };
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        }
    }
}

/// Packs numbers of 4 bits in pairs, the first in the low bits.
fn nibbles(numbers: impl Iterator<Item = u8>) -> Vec<u8> {
    let numbers: Vec<u8> = numbers.collect();
    numbers.chunks(2).map(|pair| pair[0] | pair.get(1).copied().unwrap_or(0) << 4).collect()
}
