//! Linear layers: how a matrix is stored, and the operators that multiply by it.
//!
//! | weights | operators |
//! |---|---|
//! | int4, int8 | `MatMulNBits`, codes as they are |
//! | MXFP4, NVFP4 | `MatMulNBits` of 8 bits: twice a number of E2M1 is an integer, under half of the scale |
//! | FP8 | `DequantizeLinear`, `FusedMatMul` |
//! | floats | `Cast`, `FusedMatMul` |
//!
//! Products are those of the weights of the file before they are rounded to its dtype, in binary32.

use impasto_checkpoint::TensorSpec;
use impasto_codec::Groups;
use impasto_container::Source;
use impasto_core::{DType, Format};

use super::data::Data;
use super::graph::Graph;
use super::proto::{Attribute, Type};
use crate::export::part::{Content, Part};
use crate::export::pieces::Piece;
use crate::tensor::Tensor;

/// Columns of a block, of which the most that divide a group are taken.
const BLOCKS: [u64; 4] = [128, 64, 32, 16];

/// A linear layer.
pub struct Layer {
    /// Its name, without `.weight`.
    pub module: String,
    /// Rows of the matrix.
    pub outputs: u64,
    /// Columns of the matrix.
    pub inputs: u64,
    weights: Weights,
}

/// What the matrix is stored as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weights {
    /// Integers of some bits, under one scale for a block of columns.
    Integers { bits: u64, block: u64 },
    /// Numbers of 8 bits, under one scale for a row.
    Fp8,
    /// The tensor as it is.
    Floats,
}

/// Returns why ONNX Runtime has no operator for groups like these; `None` if it has.
pub fn why_not(groups: &Groups, columns: u64) -> Option<&'static str> {
    weights(groups, columns).err()
}

fn weights(groups: &Groups, columns: u64) -> Result<Weights, &'static str> {
    let bits = match groups.format {
        Format::Int4 => 4,
        Format::Int8 | Format::Mxfp4 | Format::Nvfp4 => 8,
        Format::Fp8E4M3 | Format::Fp8E5M2 if groups.width() == 0 => return Ok(Weights::Fp8),
        Format::Fp8E4M3 | Format::Fp8E5M2 => return Err("ONNX Runtime has FP8 under one scale of a row only"),
    };
    // A scale of wider groups is written more than once; the last block of a row is filled up.
    let (whole, narrowest) = match groups.width() {
        0 => (columns, Some(16)),
        width => (width, None),
    };
    let block = BLOCKS.into_iter().find(|&block| whole.is_multiple_of(block)).or(narrowest);
    let block = block.ok_or("ONNX Runtime has groups of 16 columns or a multiple")?;
    Ok(Weights::Integers { bits, block })
}

impl Layer {
    /// Plans the tensors of a layer with a format, which has no reason in [`why_not`].
    pub fn coded<S: Source>(
        module: &str,
        name: &str,
        tensor: &Tensor<S>,
        groups: &Groups,
        data: &mut Data,
    ) -> Option<Layer> {
        let (outputs, inputs) = (tensor.matrix().rows(), tensor.matrix().cols());
        let weights = weights(groups, inputs).ok()?;
        let mut add = |suffix: &str, dtype, shape: Vec<u64>, piece| {
            let spec = TensorSpec::new(format!("{module}.{suffix}"), dtype, shape);
            data.add(Part { spec, content: Content::Format(name.to_owned(), piece) });
        };
        let scales = |factor, width| Piece::Scales { dtype: DType::F32, factor, width };
        match weights {
            Weights::Integers { bits, block } => {
                let (across, align) = (inputs.div_ceil(block), block * bits / 8);
                let (codes, factor) = match groups.format {
                    Format::Mxfp4 | Format::Nvfp4 => (Piece::Twice { align }, 0.5),
                    _ => (Piece::Codes { align }, 1.0),
                };
                add("codes", DType::U8, vec![outputs, across, align], codes);
                add("scales", DType::F32, vec![outputs, across], scales(factor, block));
            }
            Weights::Fp8 => {
                let dtype = if groups.format == Format::Fp8E4M3 { DType::F8E4M3 } else { DType::F8E5M2 };
                add("codes", dtype, vec![outputs, inputs], Piece::Codes { align: 1 });
                add("scales", DType::F32, vec![outputs], scales(1.0, 0));
            }
            Weights::Floats => return None,
        }
        Some(Layer { module: module.to_owned(), outputs, inputs, weights })
    }

    /// A layer whose matrix is the tensor `module.weight` of the data.
    pub fn floats(module: &str, outputs: u64, inputs: u64) -> Layer {
        Layer { module: module.to_owned(), outputs, inputs, weights: Weights::Floats }
    }

    /// Adds the operators that multiply `x` by the matrix. `None` if its tensors are not in the data.
    pub fn multiply(&self, graph: &mut Graph, x: &str, y: &str) -> Option<()> {
        let transposed = [("transB", Attribute::Int(1))];
        let part = |suffix: &str| format!("{}.{suffix}", self.module);
        let (codes, scales) = (part("codes"), part("scales"));
        match self.weights {
            Weights::Integers { bits, block } => {
                graph.weight(&codes)?;
                graph.weight(&scales)?;
                let sizes = [("K", self.inputs), ("N", self.outputs), ("bits", bits), ("block_size", block)];
                let attributes = sizes.map(|(name, n)| (name, Attribute::Int(n as i64)));
                graph.own("MatMulNBits", &[x, &codes, &scales], y, &attributes);
            }
            Weights::Fp8 => {
                graph.weight(&codes)?;
                graph.weight(&scales)?;
                let weights = part("values");
                graph.op("DequantizeLinear", &[&codes, &scales], &weights, &[("axis", Attribute::Int(0))]);
                graph.own("FusedMatMul", &[x, &weights], y, &transposed);
            }
            Weights::Floats => {
                let weights = float(graph, &part("weight"))?;
                graph.own("FusedMatMul", &[x, &weights], y, &transposed);
            }
        }
        Some(())
    }
}

/// Makes a tensor of floats known as binary32, and returns the name of that.
pub fn float(graph: &mut Graph, name: &str) -> Option<String> {
    if graph.weight(name)? == Type::Float {
        return Some(name.to_owned());
    }
    let wide = format!("{name}.f32");
    graph.once(&wide, |graph| graph.op("Cast", &[name], &wide, &[("to", Attribute::Int(Type::Float as i64))]));
    Some(wide)
}
