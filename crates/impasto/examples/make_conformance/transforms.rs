//! Files for SPEC 17: partitions, predictions, transforms and levels of all kinds.

use std::error::Error;

use impasto_codec::transform::basis::Kind;
use impasto_codec::transform::samples::{Area, Prediction, Samples};
use impasto_codec::transform::tree::{Block, Node, Split, is_outside, patches, superblocks};
use impasto_codec::transform::{Parameters, TileWriter};
use impasto_codec::{Body, IndexArray, Shape, Steps};
use impasto_core::{DType, Mode};

use super::numbers::{Random, lattice_header};
use super::set::{Matrix, Set};

/// Tiles with random choices, ragged at the edges; beside one that is on the lattice.
pub fn transforms(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(17 + dtype as u64));
    let matrix = Matrix { dtype, sides: (150, 170), tile: (70, 96) };
    set.tensor("transform", &matrix);
    let mut header = lattice_header(Shape::Parametric(1), 0, 0.01, vec![20; 150]);
    header.body = Body::Lattice(Steps {
        step: 0.01,
        offset: 0,
        rows: Some(IndexArray::new((0..150).map(|r| r % 40 - 20).collect())),
        columns: Some(IndexArray::new((0..170).map(|c| c % 7).collect())),
    });
    set.unit(0, Mode::TENSOR_HEADER, header.to_bytes());
    for (i, (height, width)) in [(70, 96), (70, 74), (70, 96), (70, 74), (10, 96)].into_iter().enumerate() {
        let parameters = Parameters { dependent: i % 2 == 0, step_index: [3, -128, 127, 0, -7][i] };
        set.unit(i, Mode::TRANSFORM, tile(parameters, height, width, &mut random)?);
    }
    let place = impasto_core::Place { rows: 140..150, columns: 96..170 };
    let z = random.integers((10, 74), |_| 20);
    let unit = impasto_codec::tile::TileEncoder::new(&header, 1).lattice(&place, &z).ok_or("no escape")?;
    set.unit(5, Mode::LATTICE, unit);
    Ok(set)
}

fn tile(parameters: Parameters, height: usize, width: usize, random: &mut Random) -> Result<Vec<u8>, Box<dyn Error>> {
    let (mut writer, sides) = (TileWriter::new(parameters), Samples::new(height, width).sides);
    for area in superblocks(sides) {
        writer.push(area, sides, &node(area, sides, random))?;
    }
    Ok(writer.finish())
}

fn node(area: Area, sides: [usize; 2], random: &mut Random) -> Node {
    let allowed = Split::allowed(area);
    // Large blocks are rarely left whole.
    let whole = random.below(64) >= 1 << area.logs[0].max(area.logs[1]) >> 1;
    let choice = if whole { Split::None } else { allowed[random.below(allowed.len() as u64) as usize] };
    let split = Split::forced(area, sides).unwrap_or(choice);
    if split == Split::None {
        return Node::Block(block(area, random));
    }
    let parts: Vec<Area> = split.parts(area).filter(|&part| !is_outside(part, sides)).collect();
    Node::Split(split, parts.into_iter().map(|part| node(part, sides, random)).collect())
}

fn block(area: Area, random: &mut Random) -> Block {
    let mut kind = || Kind::ALL[random.below(4) as usize];
    let kinds = [kind(), kind()];
    let prediction = match Prediction::ALL[random.below(7) as usize] {
        Prediction::Linear(_) => Prediction::Linear([0; 2].map(|_| (random.below(64) - 32) as i8)),
        other => other,
    };
    let mut levels = |patch: Area| {
        let scale = [0, 1, 1, 4, 30, 4000][random.below(6) as usize];
        let last = random.below(1 << (patch.logs[0] + patch.logs[1])) as usize;
        let mut levels: Vec<i32> = (0..1 << (patch.logs[0] + patch.logs[1]))
            .map(|i| if i <= last { (random.bell() * scale / 64) as i32 } else { 0 })
            .collect();
        if levels.iter().all(|&level| level == 0) {
            levels.clear();
        }
        levels
    };
    Block { prediction, kinds, patches: patches(area).map(&mut levels).collect() }
}
