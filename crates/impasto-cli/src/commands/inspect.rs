//! `impasto inspect`.

use impasto_container::{Mode, ObjectKind, UnitEntry};
use serde_json::{Value, json};

use crate::args::{Args, Inspect};
use crate::exit::Code;
use crate::model::open;
use crate::output::{bytes, print, print_json, shown, table};

/// An object of the file with what its units take.
struct Line {
    name: String,
    tensor: bool,
    dtype: String,
    shape: Vec<u64>,
    mode: String,
    units: usize,
    bytes: u64,
    elements: u64,
    tied: Option<String>,
}

pub fn run(args: &Args, command: &Inspect) -> anyhow::Result<Code> {
    let file = open(args, &command.file)?;
    let reader = file.reader();
    let mut units: Vec<Vec<&UnitEntry>> = vec![vec![]; reader.objects().len()];
    for unit in reader.units() {
        units[unit.object as usize].push(unit);
    }
    let lines: Vec<Line> = reader
        .objects()
        .iter()
        .zip(&units)
        .map(|(object, units)| {
            let (dtype, shape, tensor) = match &object.kind {
                ObjectKind::Tensor(meta) => (meta.dtype_name(), meta.dims.clone(), true),
                ObjectKind::Asset { length, .. } => ("", vec![*length], false),
                ObjectKind::Unknown(_) => ("unknown", vec![], false),
            };
            let tied = object.tied().map(|t| reader.objects()[t as usize].name.clone());
            Line {
                name: object.name.clone(),
                tensor,
                dtype: dtype.to_owned(),
                elements: object.tensor().map_or_else(|| shape.iter().product(), |meta| meta.weights()),
                shape,
                mode: if tied.is_some() { "tied".into() } else { modes(units) },
                units: units.len(),
                bytes: units.iter().map(|u| u64::from(u.length)).sum(),
                tied,
            }
        })
        .collect();
    let weights: u64 = lines.iter().filter(|l| l.tensor && l.tied.is_none()).map(|l| l.elements).sum();
    let header = reader.header();
    let root: String = reader.root().iter().map(|b| format!("{b:02x}")).collect();
    let bits = header.file_length as f64 * 8.0 / weights.max(1) as f64;
    if args.json {
        let object = |l: &Line| -> Value {
            json!({ "name": l.name, "tensor": l.tensor, "dtype": l.dtype, "shape": l.shape, "mode": l.mode,
                    "units": l.units, "bytes": l.bytes, "tied": l.tied })
        };
        print_json(&json!({
            "file": command.file.display().to_string(), "root": root, "version": [1, header.minor],
            "bytes": header.file_length, "manifest_bytes": header.manifest_length, "cut": reader.is_cut(),
            "units": reader.units().len(), "weights": weights, "bits_per_weight": bits, "layers": layers(reader.units()),
            "objects": lines.iter().map(object).collect::<Vec<_>>(),
        }))?;
        return Ok(Code::Success);
    }
    let mut text = format!(
        "{}: {}, {weights} weights, {bits:.3} bits per weight{}\nroot {root}\n",
        command.file.display(),
        bytes(header.file_length),
        if reader.is_cut() { ", cut: some units are absent" } else { "" },
    );
    let payload: u64 = reader.units().iter().map(|u| u64::from(u.length)).sum();
    let overhead = header.file_length - payload;
    text.push_str(&format!(
        "{} units; manifest {} ({:.3}% of the file), container overhead in all {} ({:.3}%)\n\n",
        reader.units().len(),
        bytes(header.manifest_length),
        100.0 * header.manifest_length as f64 / header.file_length as f64,
        bytes(overhead),
        100.0 * overhead as f64 / header.file_length as f64,
    ));
    text.push_str(&table(&layer_rows(reader.units(), weights)));
    text.push('\n');
    let mut rows =
        vec![["object", "type", "shape", "coded as", "units", "bytes", "bits/weight"].map(String::from).to_vec()];
    for line in lines.iter().filter(|l| command.tensors || !l.tensor) {
        let shape = line.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
        let bits = line.bytes as f64 * 8.0 / line.elements.max(1) as f64;
        let kind = if line.tensor { line.dtype.clone() } else { "asset".to_owned() };
        let mode = line.tied.as_ref().map_or(line.mode.clone(), |name| format!("tied to {}", shown(name)));
        let bits = if line.tied.is_some() { String::new() } else { format!("{bits:.3}") };
        rows.push(vec![shown(&line.name), kind, shape, mode, line.units.to_string(), bytes(line.bytes), bits]);
    }
    text.push_str(&table(&rows));
    if !command.tensors {
        let tensors = lines.iter().filter(|l| l.tensor).count();
        text.push_str(&format!("and {tensors} tensors (--tensors lists them)\n"));
    }
    print(&text)?;
    Ok(Code::Success)
}

fn mode_name(mode: Mode) -> String {
    match mode {
        Mode::STORED => "stored".into(),
        Mode::ZSTD => "zstd".into(),
        Mode::HEAD => "head".into(),
        Mode::FLOAT => "float".into(),
        Mode::LATTICE => "lattice".into(),
        Mode(other) => format!("mode {other}"),
    }
}

/// Names of the modes of an object's tiles.
fn modes(units: &[&UnitEntry]) -> String {
    let mut modes: Vec<Mode> = units.iter().filter(|u| !u.is_head()).map(|u| u.mode).collect();
    modes.sort();
    modes.dedup();
    if modes.is_empty() { "empty".into() } else { modes.into_iter().map(mode_name).collect::<Vec<_>>().join("+") }
}

/// Units and bytes of each layer.
fn layers(units: &[UnitEntry]) -> Vec<Value> {
    let most = units.iter().map(|u| u.layer).max().unwrap_or(0);
    let layer = |n: u8| units.iter().filter(move |u| u.layer == n);
    (0..=most)
        .map(|n| {
            let bytes: u64 = layer(n).map(|u| u64::from(u.length)).sum();
            json!({ "layer": n, "units": layer(n).count(), "bytes": bytes })
        })
        .collect()
}

/// By layer and mode: units, bytes, share of the weights' bits.
fn layer_rows(units: &[UnitEntry], weights: u64) -> Vec<Vec<String>> {
    let mut keys: Vec<(u8, Mode)> = units.iter().map(|u| (u.layer, u.mode)).collect();
    keys.sort();
    keys.dedup();
    let mut rows =
        vec![["layer", "mode", "units", "bytes", "smallest", "median", "bits/weight"].map(String::from).to_vec()];
    for (layer, mode) in keys {
        let mut lengths: Vec<u64> =
            units.iter().filter(|u| (u.layer, u.mode) == (layer, mode)).map(|u| u.length.into()).collect();
        lengths.sort_unstable();
        let total: u64 = lengths.iter().sum();
        rows.push(vec![
            layer.to_string(),
            mode_name(mode),
            lengths.len().to_string(),
            bytes(total),
            bytes(lengths[0]),
            bytes(lengths[lengths.len() / 2]),
            format!("{:.3}", total as f64 * 8.0 / weights.max(1) as f64),
        ]);
    }
    rows
}
