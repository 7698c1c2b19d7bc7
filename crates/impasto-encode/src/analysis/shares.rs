//! How much of a tile each choice takes.

use std::collections::BTreeMap;

use impasto_codec::transform::basis::Kind;
use impasto_codec::transform::samples::{Area, Prediction, Samples};
use impasto_codec::transform::tree::{self, Block, Node};
use impasto_codec::transform::wavelet::Filter;

use super::report::{BlockChoice, Share, Shares};
use crate::transform::{Coded, Tools, TransformTool, Variant};

/// What is said of a block without coefficients.
const NOTHING: &str = "nothing";

fn prediction_name(prediction: Prediction) -> &'static str {
    match prediction {
        Prediction::Zero => "zero",
        Prediction::Dc => "dc",
        Prediction::Top => "top",
        Prediction::Left => "left",
        Prediction::Planar => "planar",
        Prediction::Sum => "sum",
        Prediction::Linear(_) => "linear",
        Prediction::CoLocated(_) => "co-located",
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Dct => "dct",
        Kind::Dst => "dst",
        Kind::Identity => "identity",
        Kind::Hadamard => "hadamard",
        Kind::Learned => "learned",
    }
}

fn filter_name(filter: Filter) -> &'static str {
    match filter {
        Filter::Cdf53 => "cdf53",
        Filter::Cdf97 => "cdf97",
    }
}

/// Returns the names of the tools that a tile as a whole is coded with.
pub fn ways(coded: &Coded, tools: Tools) -> Vec<&'static str> {
    if let Some(filter) = coded.filter {
        return vec![filter_name(filter)];
    }
    let Variant { setup, runs } = &coded.variant;
    let is_learned = [0, 1].iter().any(|&side| setup.bases.learned(side).is_some());
    let is_used = |tool: TransformTool| match tool {
        // Run lengths take the place of dependent quantization.
        TransformTool::Trellis => !runs && tools.has(tool),
        TransformTool::Runs => *runs,
        TransformTool::RowOrder => setup.orders[0].is_some(),
        TransformTool::ColumnOrder => setup.orders[1].is_some(),
        TransformTool::Klt => is_learned,
        _ => false,
    };
    TransformTool::ALL.into_iter().filter(|(tool, _)| is_used(*tool)).map(|(_, name)| name).collect()
}

/// Returns the blocks of a coded tile of `height` x `width` weights. In planes, it is one block.
pub fn blocks(coded: &Coded, height: usize, width: usize) -> Vec<BlockChoice> {
    if let Some(filter) = coded.filter {
        let transforms = [filter_name(filter); 2];
        let prediction = prediction_name(Prediction::Zero);
        return vec![BlockChoice { at: [0, 0], sides: [height, width], prediction, transforms }];
    }
    let sides = Samples::new(height, width).sides;
    let mut found = Vec::new();
    for (area, node) in tree::superblocks(sides).zip(&coded.nodes) {
        add(node, area, sides, [height, width], &mut found);
    }
    found
}

fn add(node: &Node, area: Area, sides: [usize; 2], within: [usize; 2], found: &mut Vec<BlockChoice>) {
    match node {
        Node::Block(block) => found.push(choice(block, area, within)),
        Node::Split(split, parts) => {
            let areas = split.parts(area).filter(|&part| !tree::is_outside(part, sides));
            areas.zip(parts).for_each(|(area, part)| add(part, area, sides, within, found));
        }
    }
}

fn choice(block: &Block, area: Area, within: [usize; 2]) -> BlockChoice {
    let is_coded = block.patches.iter().any(|levels| !levels.is_empty());
    let of = area.sides();
    BlockChoice {
        at: area.at,
        // Samples past the last row or column are no weights.
        sides: [0, 1].map(|side| of[side].min(within[side].saturating_sub(area.at[side]))),
        prediction: prediction_name(block.prediction),
        transforms: block.kinds.map(|kind| if is_coded { kind_name(kind) } else { NOTHING }),
    }
}

/// Returns the shares of the choices of blocks.
pub fn shares<'a>(blocks: impl Iterator<Item = &'a BlockChoice>) -> Shares {
    let mut sums: [BTreeMap<String, usize>; 4] = Default::default();
    for BlockChoice { sides, prediction, transforms, .. } in blocks {
        let names = [
            (*prediction).to_owned(),
            transforms[0].to_owned(),
            transforms[1].to_owned(),
            format!("{}x{}", sides[0], sides[1]),
        ];
        for (sums, name) in sums.iter_mut().zip(names) {
            *sums.entry(name).or_default() += sides[0] * sides[1];
        }
    }
    let [predictions, columns, rows, blocks] = sums.map(|sums| {
        let all: usize = sums.values().sum();
        let share = |(name, area): (String, usize)| Share { name, share: area as f64 / all.max(1) as f64 };
        let mut shares: Vec<Share> = sums.into_iter().map(share).collect();
        shares.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.name.cmp(&b.name)));
        shares
    });
    Shares { predictions, columns, rows, blocks }
}
