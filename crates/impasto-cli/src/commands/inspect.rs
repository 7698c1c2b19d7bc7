//! `impasto inspect`.

use impasto::{File, Layer};
use impasto_codec::TensorHeader;
use impasto_container::{Base, BaseUsage, ObjectKind, Reader, Source, UnitEntry};
use impasto_core::Mode;
use serde_json::{Value, json};

use crate::args::{Args, Inspect};
use crate::commands::encode::usage as usage_name;
use crate::commands::resident::Resident;
use crate::exit::Code;
use crate::model::open_coded;
use crate::output::{bytes, print, print_json, shown, table};

/// An object of the file, with the size of its units.
struct Line {
    name: String,
    tensor: bool,
    dtype: String,
    shape: Vec<u64>,
    mode: String,
    /// The name of its format, if it has one.
    format: Option<&'static str>,
    units: usize,
    /// Bytes of its units by layer, the base first.
    levels: Vec<u64>,
    elements: u64,
    tied: Option<String>,
    /// The tensor that its tiles may be predicted from.
    reference: Option<String>,
    /// What it takes from the base, and the name of the object there.
    base: Option<(BaseUsage, String)>,
    /// The rank of its low-rank part; 0 if it has none, or its tensor header cannot be read.
    rank: usize,
    /// The layers of its units whose tensor header has multipliers, which recovery found.
    recovered: Vec<u8>,
}

impl Line {
    fn bytes(&self) -> u64 {
        self.levels.iter().sum()
    }
}

pub fn run(args: &Args, command: &Inspect) -> anyhow::Result<Code> {
    let file = open_coded(args, &command.file)?;
    let resident = command.memory.then(|| Resident::of(args, &command.file)).transpose()?;
    let reader = file.reader();
    let mut units: Vec<Vec<&UnitEntry>> = vec![vec![]; reader.objects().len()];
    for unit in reader.units() {
        units[unit.object as usize].push(unit);
    }
    let mut lines: Vec<Line> = reader
        .objects()
        .iter()
        .zip(&units)
        .zip(0..)
        .map(|((object, units), number)| {
            let (dtype, shape, tensor) = match &object.kind {
                ObjectKind::Tensor(meta) => (meta.dtype_name(), meta.dims.clone(), true),
                ObjectKind::Asset { length, .. } => ("", vec![*length], false),
                ObjectKind::Unknown(_) => ("unknown", vec![], false),
            };
            let name = |number: u32| reader.objects()[number as usize].name.clone();
            let (tied, reference) = (object.tied().map(name), object.reference().map(name));
            Line {
                name: object.name.clone(),
                tensor,
                dtype: dtype.to_owned(),
                format: None,
                elements: object.tensor().map_or_else(|| shape.iter().product(), |meta| meta.weights()),
                shape,
                mode: match object.is_identical() {
                    true => "same as in the base".into(),
                    false if tied.is_some() => "tied".into(),
                    false => modes(units),
                },
                base: object.base().map(|link| (link.usage, link.name.clone().unwrap_or(object.name.clone()))),
                units: units.len(),
                levels: levels(units),
                tied,
                reference,
                rank: if (command.tensors || args.json) && tensor { rank(&file, &object.name) } else { 0 },
                recovered: if command.tensors || args.json { recovered(reader, number) } else { vec![] },
            }
        })
        .collect();
    if command.tensors || args.json {
        let own = lines.iter_mut().filter(|line| line.tensor && line.tied.is_none());
        own.for_each(|line| line.format = format(&file, &line.name));
    }
    let weights = file.weights();
    let layers = file.layers();
    let header = reader.header();
    let root = impasto::hex(reader.root());
    let bits = bits_per_weight(header.file_length, weights);
    let expansion = reader.expansion();
    if args.json {
        let object = |l: &Line| -> Value {
            json!({ "name": l.name, "tensor": l.tensor, "dtype": l.dtype, "shape": l.shape, "mode": l.mode, "format": l.format,
                    "units": l.units, "bytes": l.bytes(), "levels": l.levels, "tied": l.tied,
                    "reference": l.reference, "rank": l.rank, "recovered": l.recovered,
                    "base": l.base.as_ref().map(|(usage, name)| json!({ "usage": usage_name(*usage), "name": name })) })
        };
        print_json(&json!({
            "file": command.file.display().to_string(), "root": root, "version": [1, header.minor],
            "bytes": header.file_length, "manifest_bytes": header.manifest_length, "cut": reader.is_cut(),
            "expanded_bytes": expansion.expanded,
            "base": reader.base().map(|base| json!({
                "root": impasto::hex(&base.root), "name": base.name, "license": base.license, "mirrors": base.mirrors,
                "attached": file.attached().map(|attached| attached.reader().name().to_owned()),
            })),
            "units": reader.units().len(), "weights": weights, "bits_per_weight": bits,
            "layers": layers.iter().map(|l| layer_value(l, weights)).collect::<Vec<_>>(), "levels": level_values(reader.units()),
            "memory": resident.map(|resident| resident.to_json()),
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
    if let Some(base) = reader.base() {
        text.push_str(&base_text(&file, base));
    }
    if !expansion.is_within() {
        let (expanded, present) = (bytes(expansion.expanded), bytes(expansion.present));
        text.push_str(&format!("expands from {present} to {expanded}: other commands need --allow-expansion\n"));
    }
    let payload: u64 = reader.units().iter().map(|u| u64::from(u.length)).sum();
    let overhead = header.file_length - payload;
    text.push_str(&format!(
        "{} units; manifest {} ({:.3}% of the file), total container overhead {} ({:.3}%)\n\n",
        reader.units().len(),
        bytes(header.manifest_length),
        100.0 * header.manifest_length as f64 / header.file_length as f64,
        bytes(overhead),
        100.0 * overhead as f64 / header.file_length as f64,
    ));
    if let Some(resident) = resident {
        text.push_str(&(resident.to_text() + "\n"));
    }
    if !layers.is_empty() {
        text.push_str(&table(&layer_rows(&layers, weights)));
        text.push('\n');
    }
    text.push_str(&table(&level_rows(reader.units(), weights)));
    text.push('\n');
    let mut rows = vec![
        ["object", "type", "shape", "coded as", "units", "bytes", "bits/weight", "by level"].map(String::from).to_vec(),
    ];
    for line in lines.iter().filter(|l| command.tensors || !l.tensor) {
        let shape = line.shape.iter().map(u64::to_string).collect::<Vec<_>>().join("x");
        let is_elsewhere = matches!(line.base, Some((BaseUsage::Identical, _))) || line.tied.is_some();
        let bits = |bytes: u64| match is_elsewhere {
            true => String::new(),
            false => format!("{:.3}", bytes as f64 * 8.0 / line.elements.max(1) as f64),
        };
        let kind = if line.tensor { shown(&line.dtype) } else { "asset".to_owned() };
        let mode = match (&line.tied, &line.reference) {
            (Some(name), _) => format!("tied to {}", shown(name)),
            (None, Some(name)) => format!("{}, predicted from {}", line.mode, shown(name)),
            (None, None) => match (line.format, line.rank) {
                _ if line.base.is_some() => over_base(line),
                (Some(format), _) => format!("{} ({format})", line.mode),
                (None, 0) => line.mode.clone(),
                (None, rank) => format!("{}, rank {rank}", line.mode),
            },
        };
        let mode = if line.recovered.is_empty() { mode } else { format!("{mode}, recovered") };
        let by_level = match line.levels[..] {
            [_, _, ..] => line.levels.iter().map(|&bytes| bits(bytes)).collect::<Vec<_>>().join(" + "),
            _ => String::new(),
        };
        let (name, units, total) = (shown(&line.name), line.units.to_string(), line.bytes());
        rows.push(vec![name, kind, shape, mode, units, bytes(total), bits(total), by_level]);
    }
    text.push_str(&table(&rows));
    if !command.tensors {
        let tensors = lines.iter().filter(|l| l.tensor).count();
        text.push_str(&format!("and {tensors} tensors (--tensors lists them)\n"));
    }
    print(&text)?;
    Ok(Code::Success)
}

/// Returns how an object that takes something from the base is coded.
fn over_base(line: &Line) -> String {
    let Some((usage, name)) = &line.base else { return line.mode.clone() };
    let renamed = if *name == line.name { String::new() } else { format!(" ({})", shown(name)) };
    let rank = if line.rank > 0 { format!(", rank {}", line.rank) } else { String::new() };
    match usage {
        BaseUsage::Identical => format!("{}{renamed}", line.mode),
        BaseUsage::Predicted => format!("{}{rank}, over the base{renamed}", line.mode),
    }
}

/// Returns lines about the base of a delta.
fn base_text(file: &File<impl Source>, base: &Base) -> String {
    let license = if base.license.is_empty() { String::new() } else { format!(", licence {}", shown(&base.license)) };
    let found = match file.attached() {
        Some(attached) => format!("found at {}", attached.reader().name()),
        None => "not found: other commands need it, see --base".to_owned(),
    };
    let mirrors = base.mirrors.iter().map(|mirror| format!("mirror of the base: {}\n", shown(mirror)));
    let root = impasto::hex(&base.root);
    format!("a delta of {}{license}, root {root}: {found}\n{}", shown(&base.name), mirrors.collect::<String>())
}

/// Returns the rank of the low-rank part of a tensor; 0 if it has none, or its tensor header cannot be read.
fn rank(file: &File<impl Source>, name: &str) -> usize {
    let Ok(tensor) = file.tensor(name) else { return 0 };
    tensor.header().and_then(|header| header.low_rank()).map_or(0, |low_rank| low_rank.rank())
}

/// Returns the layers of an object whose tensor header has multipliers and can be read.
fn recovered<S: Source>(reader: &Reader<S>, number: u32) -> Vec<u8> {
    let has_multipliers = |unit: u32| {
        let (object, matrix) = (reader.objects().get(number as usize)?, reader.matrix(number)?);
        let bytes = reader.read_unit(unit).ok()?;
        let header = TensorHeader::read(&bytes, object.dtype()?, matrix.rows(), matrix.cols()).ok()?;
        header.multipliers().map(|_| ())
    };
    let own = (0..).zip(reader.units()).filter(|(_, unit)| unit.object == number && unit.is_header());
    own.filter(|(unit, _)| has_multipliers(*unit).is_some()).map(|(_, unit)| unit.layer).collect()
}

/// Returns the name of the format of a tensor; `None` if it has none, or its tensor header cannot be read.
fn format<S: Source>(file: &File<S>, tensor: &str) -> Option<&'static str> {
    Some(file.tensor(tensor).ok()?.header()?.groups()?.format.name())
}

fn shown_mode(mode: Mode) -> String {
    mode.name().map_or_else(|| format!("mode {mode}"), str::to_owned)
}

/// Names of the modes of an object's tiles.
fn modes(units: &[&UnitEntry]) -> String {
    let mut modes: Vec<Mode> = units.iter().filter(|u| !u.is_header()).map(|u| u.mode).collect();
    modes.sort();
    modes.dedup();
    if modes.is_empty() { "empty".into() } else { modes.into_iter().map(shown_mode).collect::<Vec<_>>().join("+") }
}

/// Bytes of units by their layer (SPEC 3.6); at least one entry.
fn levels<'a>(units: impl IntoIterator<Item = &'a &'a UnitEntry>) -> Vec<u64> {
    let mut levels = vec![0];
    for unit in units {
        let level = usize::from(unit.layer);
        levels.resize(levels.len().max(level + 1), 0);
        levels[level] += u64::from(unit.length);
    }
    levels
}

fn bits_per_weight(bytes: u64, weights: u64) -> f64 {
    bytes as f64 * 8.0 / weights.max(1) as f64
}

/// A layer of the file, including all earlier ones.
fn layer_value(layer: &Layer, weights: u64) -> Value {
    json!({
        "units": layer.units, "bytes": layer.bytes, "bits_per_weight": bits_per_weight(layer.bytes, weights), "kld": layer.kld,
        "whole": layer.is_whole,
    })
}

/// A table of the layers of the file, numbered as for `--layer`.
fn layer_rows(layers: &[Layer], weights: u64) -> Vec<Vec<String>> {
    let mut rows = vec![["layer", "units", "bytes", "bits/weight", "KLD", ""].map(String::from).to_vec()];
    rows.extend((1..).zip(layers).map(|(n, layer)| {
        vec![
            n.to_string(),
            layer.units.to_string(),
            bytes(layer.bytes),
            format!("{:.3}", bits_per_weight(layer.bytes, weights)),
            layer.kld.map_or("not measured".to_owned(), |kld| format!("{kld:.5}")),
            if layer.is_whole { String::new() } else { "incomplete".to_owned() },
        ]
    }));
    rows
}

/// Number and bytes of units by their layer.
fn level_values(units: &[UnitEntry]) -> Vec<Value> {
    let count = |n: usize| units.iter().filter(|u| usize::from(u.layer) == n).count();
    let of_level = |(n, bytes)| json!({ "level": n, "units": count(n), "bytes": bytes });
    levels(&units.iter().collect::<Vec<_>>()).into_iter().enumerate().map(of_level).collect()
}

/// A table of units by their layer and mode: number, bytes, bits per weight.
fn level_rows(units: &[UnitEntry], weights: u64) -> Vec<Vec<String>> {
    let mut keys: Vec<(u8, Mode)> = units.iter().map(|u| (u.layer, u.mode)).collect();
    keys.sort();
    keys.dedup();
    let mut rows =
        vec![["level", "mode", "units", "bytes", "smallest", "median", "bits/weight"].map(String::from).to_vec()];
    for (level, mode) in keys {
        let mut lengths: Vec<u64> =
            units.iter().filter(|u| (u.layer, u.mode) == (level, mode)).map(|u| u.length.into()).collect();
        lengths.sort_unstable();
        let total: u64 = lengths.iter().sum();
        rows.push(vec![
            level.to_string(),
            shown_mode(mode),
            lengths.len().to_string(),
            bytes(total),
            bytes(lengths[0]),
            bytes(lengths[lengths.len() / 2]),
            format!("{:.3}", bits_per_weight(total, weights)),
        ]);
    }
    rows
}
