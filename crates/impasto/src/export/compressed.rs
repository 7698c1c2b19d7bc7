//! Export to a Hugging Face folder in the layout of the library compressed-tensors, which inference engines read: codes and
//! scales of the tensors that have a format (SPEC 20), everything else as in any other folder.
//!
//! The layout is that of compressed-tensors 0.20 (Apache-2.0; `compressors` and `quantization` there).

use std::collections::BTreeMap;

use impasto_checkpoint::TensorSpec;
use impasto_codec::Groups;
use impasto_container::Source;
use impasto_core::{DType, Format};
use serde_json::{Value, json};

use super::config::{self, CONFIG};
use super::part::{Content, Part};
use super::pieces::{self, Piece, WEIGHT};
use super::{Begin, Contents, Output, assets, safetensors};
use crate::error::FileError;
use crate::file::File;
use crate::tensor::Tensor;
use crate::view::View;

/// What engines multiply weights of 8 bits by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Inputs {
    /// Floats.
    #[default]
    Floats,
    /// Numbers of 8 bits, with a scale for each token: integers if the weights are int8 (W8A8), FP8 if they are FP8. Engines round
    /// them while they run.
    EightBits,
}

impl Inputs {
    /// Returns whether engines round what weights with these groups are multiplied by. They do under scales of rows only.
    fn are_rounded(self, format: Format, width: u64) -> bool {
        self == Inputs::EightBits && width == 0 && format.bits() == 8
    }
}

/// Plans the folder.
///
/// # Errors
/// If no tensor has a format that the layout has, none is of 8 bits but their inputs are to be, or `config.json` is no JSON object.
pub fn contents<S: Source>(file: &File<S>, inputs: Inputs) -> Result<Contents, FileError> {
    let form = "a folder of compressed-tensors";
    let view = View::of_file(file)?;
    let (mut parts, mut notes) = (vec![], vec![]);
    // Modules by format and group width, and those without one.
    let (mut schemes, mut ignored) = (BTreeMap::<_, Vec<String>>::new(), vec![]);
    for (name, origin) in view.iter() {
        let module = name.strip_suffix(WEIGHT).unwrap_or(name).to_owned();
        let tensor = file.tensor(&origin.name)?;
        match pieces::chosen(name, origin, &tensor, &mut notes, |groups| why_not(name, &tensor, groups)) {
            Some(groups) => {
                let is_rounded = inputs.are_rounded(groups.format, groups.width());
                parts.extend(parts_of(&module, &origin.name, &tensor, groups, is_rounded));
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
        return Err(pieces::without_formats(file, form, &notes));
    }
    let rounded = |&(format, width): &(u8, u64)| {
        Format::from_code(format).is_some_and(|format| inputs.are_rounded(format, width))
    };
    if inputs == Inputs::EightBits && !schemes.keys().any(rounded) {
        let rule =
            "no tensor is int8 or FP8 under one scale for each row, so there are no activations of 8 bits".into();
        return Err(FileError::Form { file: file.reader().name().to_owned(), form, rule });
    }
    let mut changed = BTreeMap::new();
    match config::read(file, form)? {
        None => notes.push(format!("there is no {CONFIG}, so nothing names the formats")),
        Some(mut config) => {
            config.insert("quantization_config".into(), quantization(&schemes, ignored, inputs));
            changed.insert(CONFIG.to_owned(), config::text(config));
        }
    }
    let outputs = vec![Output { name: safetensors::WEIGHTS.to_owned(), begin: Begin::Safetensors, parts }];
    Ok(Contents { outputs, assets: assets(file), changed, identical: false, notes })
}

/// Returns why the layout does not have a tensor with a format; `None` if it does.
fn why_not<S: Source>(name: &str, tensor: &Tensor<S>, groups: &Groups) -> Option<&'static str> {
    if name.contains("embed") {
        Some("engines read embeddings as floats")
    } else if groups.format == Format::Fp8E5M2 {
        Some("the layout has E4M3 only")
    } else if groups.width() != 0 && !tensor.matrix().cols().is_multiple_of(groups.width()) {
        Some("its columns are not whole groups")
    } else {
        None
    }
}

/// Plans the parts of a tensor with a format.
fn parts_of<S: Source>(module: &str, name: &str, tensor: &Tensor<S>, groups: &Groups, is_rounded: bool) -> Vec<Part> {
    let (rows, columns, across) = (tensor.matrix().rows(), tensor.matrix().cols(), groups.across() as u64);
    let part = |suffix: &str, dtype, shape: Vec<u64>, piece| Part {
        spec: TensorSpec::new(format!("{module}.{suffix}"), dtype, shape),
        content: Content::Format(name.to_owned(), piece),
    };
    let codes = Piece::Codes { align: 1 };
    // Rows of integers end at a word of 32 bits.
    let (words, in_words) = ((columns * u64::from(groups.format.bits())).div_ceil(32), Piece::Codes { align: 4 });
    // BF16 scales are exact in F32, in F16 they may not be.
    let dtype = if tensor.dtype() == DType::Bf16 { DType::Bf16 } else { DType::F32 };
    let floats = (dtype, Piece::Scales { dtype, factor: 1.0, width: 0 });
    let (codes, (dtype, scales)) = match groups.format {
        Format::Mxfp4 => (part("weight_packed", DType::U8, vec![rows, columns / 2], codes), (DType::U8, Piece::Bytes)),
        Format::Nvfp4 => {
            (part("weight_packed", DType::U8, vec![rows, columns / 2], codes), (DType::F8E4M3, Piece::Bytes))
        }
        Format::Int8 if is_rounded => (part("weight", DType::I8, vec![rows, columns], Piece::Signed), floats),
        Format::Int4 | Format::Int8 => (part("weight_packed", DType::I32, vec![rows, words], in_words), floats),
        Format::Fp8E4M3 | Format::Fp8E5M2 => (part("weight", DType::F8E4M3, vec![rows, columns], codes), floats),
    };
    let mut parts = vec![codes, part("weight_scale", dtype, vec![rows, across], scales)];
    match groups.format {
        Format::Nvfp4 => parts.push(part("weight_global_scale", DType::F32, vec![1], Piece::Global)),
        Format::Int4 | Format::Int8 if !is_rounded => {
            parts.push(part("weight_shape", DType::I64, vec![2], Piece::Shape))
        }
        _ => {}
    }
    parts
}

/// Returns the field `quantization_config` for modules by format and group width.
fn quantization(schemes: &BTreeMap<(u8, u64), Vec<String>>, ignored: Vec<String>, inputs: Inputs) -> Value {
    let mut groups = serde_json::Map::new();
    let mut layouts = vec![];
    for (n, (&(format, width), modules)) in schemes.iter().enumerate() {
        let Some(format) = Format::from_code(format) else { continue };
        let is_rounded = inputs.are_rounded(format, width);
        let (layout, kind, strategy) = match format {
            Format::Int8 if is_rounded => ("int-quantized", "int", "channel"),
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
        let activations = json!({
            "num_bits": format.bits(), "type": kind, "symmetric": true, "group_size": null, "strategy": "token",
            "block_structure": null, "dynamic": true, "actorder": null, "observer": null, "observer_kwargs": {},
        });
        let activations = if is_rounded { activations } else { Value::Null };
        let group = json!({
            "targets": modules, "weights": weights, "input_activations": activations, "output_activations": null,
            "format": layout,
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
