//! The result as tables.

use impasto::analysis::{Analysis, Means, Rates, TensorAnalysis};

use super::{most, named};
use crate::output::{shown, table};

/// Models with more tensors list those on which tools or a low-rank part earn.
const FEW: usize = 40;

/// Returns tables of tensors and of tools.
pub fn tables(analysis: &Analysis, every: bool) -> String {
    let all: Vec<&TensorAnalysis> = analysis.tensors.iter().collect();
    let (listed, others): (Vec<_>, Vec<_>) = all
        .into_iter()
        .partition(|tensor| every || analysis.tensors.len() <= FEW || tensor.earns() || tensor.low_rank.is_some());
    let mut rows = vec![
        [
            "tensor",
            "matrix",
            "sampled",
            "lattice",
            "none",
            "all",
            "gain",
            "in tiles",
            "low rank",
            "leaving out costs most",
        ]
        .map(String::from)
        .to_vec(),
    ];
    rows.extend(listed.iter().map(|tensor| tensor_row(tensor)));
    rows.extend(others_row(&others));
    let mut text = format!(
        "Bits per weight at equal error; the step is that of {} bits per weight on the lattice.\n\n",
        analysis.bits_per_weight
    );
    text += &table(&rows);
    let Some(means) = analysis.means() else { return text };
    let Rates { lattice, none, all, all_microseconds, none_microseconds, .. } = means.rates;
    text += &format!(
        "\nMean over {} weights: lattice {lattice:.3}, none {none:.3}, all {all:.3}; search {} with all tools, {} with none.\n\n",
        means.weights,
        time(all_microseconds),
        time(none_microseconds),
    );
    text += &table(&tool_rows(analysis, &means));
    text
}

fn time(microseconds: f64) -> String {
    format!("{microseconds:.1} us per weight")
}

fn sides(matrix: [usize; 2]) -> String {
    format!("{}x{}", matrix[0], matrix[1])
}

fn tensor_row(tensor: &TensorAnalysis) -> Vec<String> {
    let mut row = vec![shown(&tensor.name), sides(tensor.matrix), tensor.sampled.to_string()];
    let Some(rates) = tensor.rates else {
        row.push("weights of too many steps".into());
        return row;
    };
    row.extend([rates.lattice, rates.none, rates.all].map(|bits| format!("{bits:.3}")));
    row.push(format!("{:+.3}", rates.gain()));
    row.push(format!("{:.0}%", 100.0 * tensor.transform_share));
    row.push(tensor.low_rank.map_or_else(String::new, |part| format!("{:+.3}, rank {}", part.saved, part.rank)));
    let named = named(tensor).map(|tool| format!("{} {:+.3}", tool.name, tool.left_out));
    row.push(named.collect::<Vec<_>>().join(", "));
    row
}

/// A row for the tensors that are not listed.
fn others_row(others: &[&TensorAnalysis]) -> Option<Vec<String>> {
    let weights: u64 = others.iter().map(|tensor| tensor.weights()).sum();
    let mean = |value: fn(&Rates) -> f64| {
        let sum = |tensor: &&TensorAnalysis| tensor.rates.as_ref().map_or(0.0, value) * tensor.weights() as f64;
        others.iter().map(sum).sum::<f64>() / weights.max(1) as f64
    };
    let gains = others.iter().filter_map(|tensor| tensor.rates).map(|rates| rates.gain());
    let (least, most) = gains.fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), gain| (a.min(gain), b.max(gain)));
    let sampled: usize = others.iter().map(|tensor| tensor.sampled).sum();
    (!others.is_empty()).then(|| {
        let rates: [fn(&Rates) -> f64; 3] = [|rates| rates.lattice, |rates| rates.none, |rates| rates.all];
        let mut row = vec![format!("{} others (--all-tensors lists them)", others.len()), String::new()];
        row.push(sampled.to_string());
        row.extend(rates.map(|rate| format!("{:.3}", mean(rate))));
        row.push(format!("{least:+.3} to {most:+.3}"));
        row
    })
}

fn tool_rows(analysis: &Analysis, means: &Means) -> Vec<Vec<String>> {
    let mut rows =
        vec![["tool", "alone saves", "left out costs", "search without it", "most", "on"].map(String::from).to_vec()];
    rows.extend(means.tools.iter().enumerate().map(|(n, tool)| {
        let most = most(analysis, n, tool);
        vec![
            tool.name.to_owned(),
            format!("{:+.3}", tool.alone),
            format!("{:+.3}", tool.left_out),
            format!("{:.1} us", tool.left_out_microseconds),
            most.map_or_else(String::new, |(_, cost)| format!("{cost:+.3}")),
            most.map_or_else(|| "none by 0.01".to_owned(), |(name, _)| shown(name)),
        ]
    }));
    rows
}
