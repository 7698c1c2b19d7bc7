//! Export to ONNX: the linear layers that have a format (SPEC 20) with the operators of ONNX Runtime that read such weights, and
//! the whole network, if it is one that this crate knows.
//!
//! | file | content |
//! |---|---|
//! | `linear.onnx` | each linear layer with a format, from `NAME.input` to `NAME.output` |
//! | `model.onnx` | the network, as onnxruntime-genai runs it |
//! | `genai_config.json` | what that program needs to know |
//! | `weights.data` | the weights of both |

mod data;
mod decoder;
mod genai;
mod graph;
mod layer;
mod proto;
mod source;

use std::collections::BTreeMap;

use impasto_container::Source;
use impasto_model::config::{DecoderConfig, Rope, Scaling, eos_token_ids};
use impasto_model::graph::{Network, check_shape, describe_source};
use impasto_model::{ModelError, WeightSource};

use super::config;
use super::pieces::{self, WEIGHT};
use super::{Begin, Contents, Output, assets, safetensors};
use crate::error::FileError;
use crate::file::File;
use crate::view::View;
use data::Data;
pub use data::write;
use graph::Graph;
use layer::Layer;
use proto::{Dim, Type};
use source::FileSource;

const LINEAR: &str = "linear.onnx";
const MODEL: &str = "model.onnx";
const WEIGHTS: &str = "weights.data";
/// Most numbers in a table of rotary positions.
const MOST_ANGLES: usize = 1 << 25;

/// Plans the folder.
///
/// # Errors
/// If no tensor has a format that ONNX Runtime has and the network is unknown, or what is needed cannot be read.
pub fn contents<S: Source>(file: &File<S>) -> Result<Contents, FileError> {
    let form = "a folder of ONNX";
    let view = View::of_file(file)?;
    let source = FileSource { file, view: &view };
    let fields = config::read(file, form)?.unwrap_or_default();
    let network = known(&source);
    let embedding = network.as_ref().map_or("", |(_, network)| network.ends.embedding.name.as_str());
    let mut data = Data::new(WEIGHTS);
    let (mut coded, mut notes) = (BTreeMap::new(), vec![]);
    for (name, origin) in view.iter() {
        let tensor = file.tensor(&origin.name)?;
        let columns = tensor.matrix().cols();
        let chosen = pieces::chosen(name, origin, &tensor, &mut notes, |groups| match name == embedding {
            true => Some("an embedding is read by rows"),
            false => layer::why_not(groups, columns),
        });
        let module = name.strip_suffix(WEIGHT).unwrap_or(name);
        let layer = chosen.and_then(|groups| Layer::coded(module, &origin.name, &tensor, groups, &mut data));
        coded.extend(layer.map(|layer| (module.to_owned(), layer)));
    }
    let mut changed = BTreeMap::new();
    let linear = (!coded.is_empty()).then(|| linear(&coded, &data)).flatten();
    changed.extend(linear.map(|linear| (LINEAR.to_owned(), linear)));
    let for_layers = data.len();
    let model = network.and_then(|(config, network)| {
        let (model, positions) = whole(&source, &config, &network, coded, &mut data, &mut notes)?;
        Ok((config, model, positions))
    });
    match model {
        Ok((config, model, positions)) => {
            let ends = eos_token_ids(&source).unwrap_or_else(|_| config.eos_token_ids.clone());
            changed.insert(genai::GENAI.to_owned(), genai::text(MODEL, &fields, &config, &ends, positions));
            changed.insert(MODEL.to_owned(), model);
        }
        // What is damaged, absent or too large is an error of the file, not of the network.
        Err(ModelError::Tensor { name, source }) => {
            let other = |source| FileError::Form {
                file: file.reader().name().to_owned(),
                form,
                rule: format!("{name}: {source}"),
            };
            return Err(source.downcast().map_or_else(other, |error| *error));
        }
        Err(why) if changed.is_empty() => {
            let rule = format!("no tensor has a format that it has, and the network is not known: {why}");
            return Err(FileError::Form { file: file.reader().name().to_owned(), form, rule });
        }
        Err(why) => {
            data.truncate(for_layers);
            notes.push(format!("there is no {MODEL}, only linear layers: {why}"));
        }
    }
    let outputs = vec![Output { name: WEIGHTS.to_owned(), begin: Begin::Plain, parts: data.into_parts() }];
    let mut assets = assets(file);
    assets.retain(|name| !changed.contains_key(name));
    assets.extend(changed.keys().cloned());
    Ok(Contents { outputs, assets, changed, identical: false, notes })
}

/// Returns the network of the file, or why it is not known.
fn known(source: &dyn WeightSource) -> Result<(DecoderConfig, Network), ModelError> {
    let missing = || ModelError::Unsupported(format!("a file without {}", config::CONFIG));
    let mut config = DecoderConfig::from_json(&source.asset(config::CONFIG).ok_or_else(missing)?)?;
    let network = describe_source(source, &mut config)?;
    Ok((config, network))
}

/// Returns a graph of all layers, each with an input and an output of its own.
fn linear(layers: &BTreeMap<String, Layer>, data: &Data) -> Option<Vec<u8>> {
    let mut graph = Graph::new("linear layers", data);
    for layer in layers.values() {
        let (x, y) = (format!("{}.input", layer.module), format!("{}.output", layer.module));
        let rows = format!("{}.rows", layer.module);
        let dims = |columns: u64| [Dim::Named(&rows), Dim::Of(columns as usize)];
        graph.input(&x, Type::Float, &dims(layer.inputs));
        graph.output(&y, Type::Float, &dims(layer.outputs));
        layer.multiply(&mut graph, &x, &y)?;
    }
    Some(graph.model())
}

/// Returns the graph of a network and the most tokens that it is for. Adds the tensors that are still missing to the data.
fn whole<S: Source>(
    source: &FileSource<S>,
    config: &DecoderConfig,
    network: &Network,
    mut layers: BTreeMap<String, Layer>,
    data: &mut Data,
    notes: &mut Vec<String>,
) -> Result<(Vec<u8>, usize), ModelError> {
    let mut add = |name: &str, shape: &[usize]| {
        check_shape(source, name, shape)?;
        let missing = || ModelError::MissingTensor { name: name.into(), expected: vec![] };
        let origin = source.view.origin(name).ok_or_else(missing)?;
        let part = safetensors::part(source.file, name, origin);
        data.add(part.map_err(|error| ModelError::Tensor { name: name.into(), source: error.into() })?);
        Ok(())
    };
    for spec in network.blocks.iter().flat_map(|block| block.layers()).chain(network.ends.layers()) {
        let module = spec.name.strip_suffix(WEIGHT).unwrap_or(&spec.name);
        let (outputs, inputs) = (spec.outputs, spec.inputs);
        if layers.contains_key(module) {
            check_shape(source, &spec.name, &[outputs, inputs])?;
        } else {
            add(&spec.name, &[outputs, inputs])?;
            layers.insert(module.to_owned(), Layer::floats(module, outputs as u64, inputs as u64));
        }
        if spec.bias {
            add(&spec.bias_name(), &[outputs])?;
        }
    }
    network.vectors().try_for_each(|vector| add(&vector.name, &[vector.width]))?;
    let (positions, most) = (positions(config), config.max_position_embeddings);
    if positions < most {
        notes.push(format!(
            "{MODEL} is for texts of {positions} tokens, not of {most}, since it has a table of positions"
        ));
    }
    decoder::tables(config, positions, data);
    let model = decoder::model(config, network, &layers, data).map_err(ModelError::Unsupported)?;
    Ok((model, positions))
}

/// Returns the most tokens for which one table of each kind of rotary positions is right and of a reasonable size.
fn positions(config: &DecoderConfig) -> usize {
    let limit = |rope: &Rope| match rope.scaling {
        // Beyond the context of its training, all positions have other angles.
        Scaling::LongRope { original, .. } => original.min(MOST_ANGLES / rope.dim.max(1)),
        _ => MOST_ANGLES / rope.dim.max(1),
    };
    let most = config.max_position_embeddings;
    config.ropes.iter().map(limit).chain([most]).min().unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_of_positions_are_bounded() {
        let of = |more: &str| {
            let json = format!(
                r#"{{"model_type": "llama", "vocab_size": 9, "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
                "num_attention_heads": 2, "rms_norm_eps": 1e-5, {more}}}"#
            );
            positions(&DecoderConfig::from_json(json.as_bytes()).expect("a configuration"))
        };
        assert_eq!(of(r#""max_position_embeddings": 131072"#), 131_072);
        assert_eq!(of(r#""max_position_embeddings": 16000000"#), MOST_ANGLES / 16);
        let long = r#""max_position_embeddings": 512, "rope_scaling": {"rope_type": "longrope", "factor": 4.0,
            "original_max_position_embeddings": 64, "short_factor": [1, 1, 1, 1, 1, 1, 1, 1], "long_factor": [2, 2, 2, 2, 2, 2, 2, 2]}"#;
        assert_eq!(of(long), 64);
    }
}
