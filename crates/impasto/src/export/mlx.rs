//! Export to a folder that the library mlx-lm reads: codes, scales and biases of the tensors that have a format (SPEC 20) which
//! MLX has, too; everything else as in any other Hugging Face folder.
//!
//! The layout is that of MLX 0.32 (MIT; `quantize` and `nn.quantize` there): codes in words of 32 bits, the first in the lowest
//! bits. A weight of mode *affine* is `scale * code + bias`, which has that of an integer with `bias = scale * least integer`.

use std::collections::BTreeMap;

use impasto_checkpoint::TensorSpec;
use impasto_codec::Groups;
use impasto_container::Source;
use impasto_core::{DType, Format};
use serde_json::{Map, Value, json};

use super::config::{self, CONFIG};
use super::part::{Content, Part};
use super::pieces::{self, Piece, WEIGHT};
use super::{Begin, Contents, Output, assets, safetensors};
use crate::error::FileError;
use crate::file::File;
use crate::tensor::Tensor;
use crate::view::View;

/// Groups of mode affine, of which the widest that divides those of a tensor is taken.
const WIDTHS: [u64; 3] = [128, 64, 32];

/// How MLX has a tensor with a format.
#[derive(Clone, Copy)]
struct Layout {
    mode: &'static str,
    bits: u32,
    /// Columns that share a scale.
    width: u64,
}

/// Plans the folder.
///
/// # Errors
/// If no tensor has a format that the layout has, or `config.json` is missing or no JSON object.
pub fn contents<S: Source>(file: &File<S>) -> Result<Contents, FileError> {
    let form = "a folder of MLX";
    let view = View::of_file(file)?;
    let misfit = |rule: String| FileError::Form { file: file.reader().name().to_owned(), form, rule };
    let mut fields = config::read(file, form)?.ok_or_else(|| misfit(format!("there is no {CONFIG}")))?;
    let is_tied = fields.get("tie_word_embeddings") == Some(&Value::Bool(true));
    let (mut parts, mut notes) = (vec![], vec![]);
    let mut modules = Map::new();
    let mut first = None;
    for (name, origin) in view.iter() {
        // MLX computes it from the embedding, and drops its weights but not its scales.
        if is_tied && name == "lm_head.weight" {
            continue;
        }
        let tensor = file.tensor(&origin.name)?;
        let columns = tensor.matrix().cols();
        let chosen = pieces::chosen(name, origin, &tensor, &mut notes, |groups| layout(groups, columns).err());
        match chosen.and_then(|groups| Some((groups, layout(groups, columns).ok()?))) {
            Some((groups, layout)) => {
                let module = name.strip_suffix(WEIGHT).unwrap_or(name);
                parts.extend(parts_of(module, &origin.name, &tensor, groups, layout));
                let described = json!({ "group_size": layout.width, "bits": layout.bits, "mode": layout.mode });
                first.get_or_insert_with(|| described.clone());
                modules.insert(module.to_owned(), described);
            }
            None => parts.push(safetensors::part(file, name, origin)?),
        }
    }
    let Some(Value::Object(mut quantization)) = first else { return Err(pieces::without_formats(file, form, &notes)) };
    // The fields outside of modules are the defaults of those that are not named: there are none.
    quantization.extend(modules);
    fields.remove("quantization_config");
    fields.insert("quantization".into(), Value::Object(quantization));
    let changed = BTreeMap::from([(CONFIG.to_owned(), config::text(fields))]);
    let outputs = vec![Output { name: safetensors::WEIGHTS.to_owned(), begin: Begin::Safetensors, parts }];
    Ok(Contents { outputs, assets: assets(file), changed, identical: false, notes })
}

/// Returns how MLX has a tensor with these groups.
///
/// # Errors
/// Why it does not.
fn layout(groups: &Groups, columns: u64) -> Result<Layout, &'static str> {
    let affine = |bits| {
        // A scale of wider groups is written more than once.
        let width =
            WIDTHS.into_iter().find(|&width| groups.width().is_multiple_of(width) && columns.is_multiple_of(width));
        width.map(|width| Layout { mode: "affine", bits, width }).ok_or("MLX has groups of 32, 64 or 128 columns")
    };
    match groups.format {
        Format::Int4 => affine(4),
        Format::Int8 => affine(8),
        Format::Mxfp4 if columns.is_multiple_of(32) => Ok(Layout { mode: "mxfp4", bits: 4, width: 32 }),
        Format::Mxfp4 => Err("its columns are not whole groups"),
        Format::Nvfp4 => Err("linear layers of MLX have no scale of the tensor"),
        Format::Fp8E4M3 | Format::Fp8E5M2 => Err("MLX has FP8 under powers of two only"),
    }
}

/// Plans the parts of a tensor.
fn parts_of<S: Source>(module: &str, name: &str, tensor: &Tensor<S>, groups: &Groups, layout: Layout) -> Vec<Part> {
    let (rows, columns) = (tensor.matrix().rows(), tensor.matrix().cols());
    let part = |suffix: &str, dtype, width: u64, piece| Part {
        spec: TensorSpec::new(format!("{module}.{suffix}"), dtype, vec![rows, width]),
        content: Content::Format(name.to_owned(), piece),
    };
    let words = columns * u64::from(layout.bits) / 32;
    let codes = part("weight", DType::U32, words, Piece::Codes { align: 1 });
    let across = columns / layout.width;
    if layout.mode != "affine" {
        return vec![codes, part("scales", DType::U8, across, Piece::Bytes)];
    }
    // MLX computes in the dtype of scales. In 16 bits, `scale * code + bias` would be rounded twice, which changes weights.
    let dtype = DType::F32;
    let (least, _) = groups.format.range();
    let floats = |factor| Piece::Scales { dtype, factor, width: layout.width };
    vec![codes, part("scales", dtype, across, floats(1.0)), part("biases", dtype, across, floats(least as f32))]
}
