//! The result as a page for a browser: one file, without a network.

use impasto::analysis::{Analysis, BlockChoice, Means, Rates, TensorAnalysis, TileAnalysis, ToolMeans};
use serde_json::{Value, json};

use super::pictures::{Picture, scales};
use super::{Result, most, named};
use crate::output::shown;

const PAGE: &str = include_str!("page/page.html");
const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");

/// Returns the page.
pub fn html(result: &Result) -> String {
    let analysis = &result.analysis;
    let means = analysis.means();
    fill(PAGE, |slot| match slot {
        "model" => escaped(&result.model),
        "command" => escaped(&result.command),
        "bpw" => analysis.bits_per_weight.to_string(),
        "css" => STYLE.to_owned(),
        "script" => SCRIPT.to_owned(),
        "figures" => figures(analysis, means.as_ref()),
        "tools" => means.as_ref().map_or(String::new(), |means| tools(analysis, means)),
        "tensors" => analysis.tensors.iter().enumerate().map(tensor).collect(),
        "data" => data(analysis),
        _ => String::new(),
    })
}

/// Fills in `{{slot}}`s of a template, once: what is filled in may contain braces.
fn fill(template: &str, slot: impl Fn(&str) -> String) -> String {
    let mut parts = template.split("{{");
    let mut page = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once("}}").unwrap_or((part, ""));
        page += &slot(name);
        page += rest;
    }
    page
}

/// Makes a text safe in HTML and SVG, in content and in quoted attributes.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::new();
    for c in shown(text).chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            '\'' => out += "&#39;",
            c => out.push(c),
        }
    }
    out
}

fn figures(analysis: &Analysis, means: Option<&Means>) -> String {
    let earning = analysis.tensors.iter().filter(|tensor| tensor.earns()).count();
    let mut figures = vec![
        ("tensors".to_owned(), analysis.tensors.len().to_string()),
        ("earn at least 0.2 bits".to_owned(), earning.to_string()),
    ];
    if let Some(Means { weights, rates, .. }) = means {
        figures.insert(1, ("weights".to_owned(), count(*weights)));
        let rate = |name: &str, bits: f64| (format!("{name}, mean bits"), format!("{bits:.3}"));
        figures.extend([rate("lattice", rates.lattice), rate("none", rates.none), rate("all tools", rates.all)]);
    }
    figures.iter().map(|(name, value)| format!("<div><dt>{name}</dt><dd>{value}</dd></div>\n")).collect()
}

/// A number of weights.
fn count(n: u64) -> String {
    match n {
        0..100_000 => n.to_string(),
        100_000..1_000_000_000 => format!("{:.2} M", n as f64 / 1e6),
        _ => format!("{:.2} G", n as f64 / 1e9),
    }
}

fn signed(bits: f64) -> String {
    let sign = if bits < 0.0 { '\u{2212}' } else { '+' };
    format!("{sign}{:.3}", bits.abs())
}

/// A bar from 0 to a value, within a range that contains 0.
fn bar(value: f64, [low, high]: [f64; 2]) -> String {
    let at = |value: f64| 100.0 * (value - low) / (high - low);
    let class = if value < 0.0 { "loss" } else { "gain" };
    let (zero, begin, width) = (at(0.0), at(value.min(0.0)), (at(value) - at(0.0)).abs());
    format!(
        "<div class=\"bar\"><svg viewBox=\"0 0 100 14\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
         <rect x=\"{begin:.2}\" y=\"2\" width=\"{width:.2}\" height=\"10\" class=\"{class}\"/>\
         <line x1=\"{zero:.2}\" x2=\"{zero:.2}\" y1=\"0\" y2=\"14\"/></svg><span>{}</span></div>",
        signed(value)
    )
}

fn tools(analysis: &Analysis, means: &Means) -> String {
    let range = |value: fn(&ToolMeans) -> f64| {
        let values = || means.tools.iter().map(value);
        [values().fold(0.0, f64::min), values().fold(0.01, f64::max)]
    };
    let (left_out, alone) = (range(|tool| tool.left_out), range(|tool| tool.alone));
    let row = |(n, tool): (usize, &ToolMeans)| {
        let most = most(analysis, n, tool).map(|(name, cost)| format!("{} {}", signed(cost), escaped(name)));
        format!(
            "<tr><th scope=\"row\">{}</th><td>{}</td><td>{}</td><td class=\"wide\">{}</td></tr>\n",
            tool.name,
            bar(tool.left_out, left_out),
            bar(tool.alone, alone),
            most.as_deref().unwrap_or("none by 0.01")
        )
    };
    means.tools.iter().enumerate().map(row).collect()
}

fn tensor((index, tensor): (usize, &TensorAnalysis)) -> String {
    let number = |value: f64, text: String| format!("<td class=\"number\" data-value=\"{value}\">{text}</td>");
    let mut cells = number(tensor.weights() as f64, count(tensor.weights()));
    if let Some(rates) = tensor.rates {
        let Rates { lattice, none, all, .. } = rates;
        cells.extend([lattice, none, all].map(|bits| number(bits, format!("{bits:.3}"))));
        let class = if rates.gain() < 0.0 { "loss" } else { "gain" };
        cells += &number(rates.gain(), format!("<span class=\"{class}\">{}</span>", signed(rates.gain())));
        cells += &number(tensor.transform_share, format!("{:.0}%", 100.0 * tensor.transform_share));
    } else {
        cells += &number(-1e9, "-".into()).repeat(5);
    }
    cells += &tensor.low_rank.map_or_else(
        || number(-1e9, String::new()),
        |part| number(part.saved, format!("{}, rank {}", signed(part.saved), part.rank)),
    );
    let named = named(tensor).map(|tool| format!("{} {}", tool.name, signed(tool.left_out)));
    let (named, earns) = (named.collect::<Vec<_>>().join(", "), if tensor.earns() { " data-earns" } else { "" });
    format!(
        "<tr data-tensor=\"{index}\"{earns}><td><button type=\"button\">{}</button></td>{cells}<td>{named}</td></tr>\n",
        escaped(&tensor.name)
    )
}

/// The data of the script, as JSON that cannot end its element.
fn data(analysis: &Analysis) -> String {
    let (mut predictions, mut transforms) = (Names::default(), Names::default());
    let scales = scales(analysis);
    let tensors: Vec<Value> = analysis
        .tensors
        .iter()
        .zip(&scales)
        .map(|(tensor, scales)| {
            let tiles = tensor.tiles.iter().zip(scales).map(|(tile, &scale)| {
                let picture = Picture::new(tile, scale);
                let block = |block: &BlockChoice| {
                    let [of_columns, of_rows] = block.transforms.map(|name| transforms.index(name));
                    let prediction = predictions.index(block.prediction);
                    json!([block.at[0], block.at[1], block.sides[0], block.sides[1], prediction, of_columns, of_rows])
                };
                let blocks: Vec<Value> = tile.blocks.iter().map(block).collect();
                json!({
                    "at": [tile.rows.start, tile.columns.start], "sides": [tile.rows.len(), tile.columns.len()],
                    "px": picture.pixels, "w": picture.width, "s": picture.scale, "range": picture.range, "blocks": blocks,
                    "lattice": tile.lattice, "transform": tile.transform, "takes": tile.takes_transform, "ways": tile.ways,
                })
            });
            let tiles: Vec<Value> = tiles.collect();
            json!({
                "name": shown(&tensor.name), "about": about(tensor), "matrix": tensor.matrix, "tiles": tiles,
                "rates": tensor.rates.map(|rates| [rates.lattice, rates.none, rates.all]),
                "tools": tensor.tools.iter().map(|tool| [tool.left_out, tool.alone]).collect::<Vec<_>>(),
            })
        })
        .collect();
    let gain = |tensor: &TensorAnalysis| tensor.rates.map_or(f64::NEG_INFINITY, |rates| rates.gain());
    let first = (0..tensors.len()).max_by(|&a, &b| gain(&analysis.tensors[a]).total_cmp(&gain(&analysis.tensors[b])));
    let data = json!({
        "tools": analysis.tools, "predictions": predictions.0, "transforms": transforms.0, "first": first,
        "tensors": tensors,
    });
    data.to_string().replace('<', "\\u003c")
}

/// Names with the indices that stand for them.
#[derive(Default)]
struct Names(Vec<&'static str>);

impl Names {
    fn index(&mut self, name: &'static str) -> usize {
        self.0.iter().position(|known| *known == name).unwrap_or_else(|| {
            self.0.push(name);
            self.0.len() - 1
        })
    }
}

/// A sentence about a tensor.
fn about(tensor: &TensorAnalysis) -> String {
    let [rows, columns] = tensor.matrix;
    let Some(rates) = tensor.rates else {
        return format!("{rows} x {columns} weights ({}), some of too many steps for mode transform.", tensor.dtype);
    };
    let cheaper = |tile: &&TileAnalysis| tile.takes_transform;
    format!(
        "{rows} x {columns} weights ({}); {} looked at, {} of them tool by tool. With all tools, a weight takes {} bits \
         {} than on the lattice; mode transform is cheaper on {} of {} tiles.",
        tensor.dtype,
        tensor.sampled,
        tensor.sampled_by_tool,
        format_args!("{:.3}", rates.gain().abs()),
        if rates.gain() < 0.0 { "more" } else { "less" },
        tensor.tiles.iter().filter(cheaper).count(),
        tensor.tiles.len(),
    )
}
