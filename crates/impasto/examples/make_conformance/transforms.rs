//! Files for SPEC 17: partitions, predictions, transforms, levels and orders of all kinds.

use std::error::Error;

use impasto_codec::tables::Frequencies;
use impasto_codec::transform::basis::{Kind, MOST_LOG};
use impasto_codec::transform::learned::{Bases, Learned};
use impasto_codec::transform::order::Order;
use impasto_codec::transform::samples::{Area, Prediction, Samples};
use impasto_codec::transform::tree::{Block, Node, Split, is_outside, patches, superblocks};
use impasto_codec::transform::{Parameters, Setup, TileWriter};
use impasto_codec::{Body, CodecError, IndexArray, Refinement, Shape, Steps, TensorHeader};
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
        rows: Some(IndexArray::new((0..150).map(|r| r % 40 - 20).collect())),
        columns: Some(IndexArray::new((0..170).map(|c| c % 7).collect())),
        ..Steps::new(0.01)
    });
    set.unit(0, Mode::TENSOR_HEADER, header.to_bytes());
    for (i, (height, width)) in [(70, 96), (70, 74), (70, 96), (70, 74), (10, 96)].into_iter().enumerate() {
        let parameters = Parameters { dependent: i % 2 == 0, step_index: [3, -128, 127, 0, -7][i], runs: false };
        set.unit(i, Mode::TRANSFORM, tile(parameters, Setup::default(), [height, width], &mut random)?);
    }
    let place = impasto_core::Place { rows: 140..150, columns: 96..170 };
    let z = random.integers((10, 74), |_| 20);
    let unit = impasto_codec::tile::TileEncoder::new(&header, 1).lattice(&place, &z).ok_or("no escape")?;
    set.unit(5, Mode::LATTICE, unit);
    Ok(set)
}

/// A tensor with tiles that are predicted from those of another one, which is on a lattice with a layer above, has transforms
/// itself, or is any bytes. A further tensor is tied to it.
pub fn co_located(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(41 + dtype as u64));
    let matrix = Matrix { dtype, sides: (37, 70), tile: (20, 64) };
    let sides = [[20, 64], [20, 6], [17, 64], [17, 6]];
    let mut header = lattice_header(Shape::Parametric(1), 0, 0.02, vec![20; 37]);
    match dtype {
        DType::F32 => {
            // Any bits, among them those of NaN and of infinity.
            set.tensor("a", &matrix);
            let mut floats: Vec<u8> = (0..37 * 70).flat_map(|_| (random.next() as u32).to_le_bytes()).collect();
            floats[..4].copy_from_slice(&f32::INFINITY.to_le_bytes());
            floats[80..84].copy_from_slice(&f32::NAN.to_le_bytes());
            set.bytes(&matrix, &floats)?;
        }
        DType::F16 => {
            set.tensor("a", &matrix);
            set.unit(0, Mode::TENSOR_HEADER, header.to_bytes());
            for (i, sides) in sides.into_iter().enumerate() {
                set.unit(i, Mode::TRANSFORM, tile(Parameters::default(), Setup::default(), sides, &mut random)?);
            }
        }
        _ => {
            let z = random.integers((37, 70), |_| 20);
            set.lattice("a", &matrix, &header, 1, &z)?;
            let body = Body::Refinement(Refinement::new(3, 0.007));
            let shape = Shape::Explicit(vec![Frequencies::only_escape(); 24]);
            let above = TensorHeader { shape, body, ..header.clone() };
            let finer: Vec<i32> = z.iter().map(|z| z * 3 + 1).collect();
            set.refinement(1, &matrix, &above, &z, &finer)?;
        }
    }
    header.body = Body::Lattice(Steps {
        rows: Some(IndexArray::new((0..37).map(|r| r % 40 - 20).collect())),
        columns: Some(IndexArray::new((0..70).map(|c| c % 7).collect())),
        ..Steps::new(0.01)
    });
    set.tensor("b", &matrix);
    set.refer(0);
    set.unit(0, Mode::TENSOR_HEADER, header.to_bytes());
    for (i, sides) in sides.into_iter().enumerate() {
        let parameters = Parameters { dependent: i % 2 == 0, step_index: [3, -128, 127, 0][i], runs: i == 1 };
        let orders = [0, 1].map(|side| (i >> side & 1 == 1).then(|| order(sides[side], &mut random)).flatten());
        let setup = Setup { orders, ..Setup::default() };
        let unit = tile_of(parameters, setup, sides, &mut random, if i == 2 { 7 } else { 8 })?;
        set.unit(i, Mode::TRANSFORM, unit);
    }
    set.tensor_of("c", &matrix, vec![37, 70], 1, Some(1));
    Ok(set)
}

/// Flags of a unit that a file is about (SPEC 17.1).
#[derive(Clone, Copy, PartialEq)]
pub enum Flags {
    /// Levels by runs.
    Runs,
    /// Rows and columns in another order.
    Orders,
    /// Learned transforms.
    Bases,
}

/// Tiles with the given flags, alone and with all others.
pub fn flagged(flags: Flags) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(29 + flags as u64));
    set.tensor("transform", &Matrix { dtype: DType::F32, sides: (78, 137), tile: (70, 96) });
    set.unit(0, Mode::TENSOR_HEADER, lattice_header(Shape::Parametric(1), 0, 0.5, vec![20; 78]).to_bytes());
    for (i, sides) in [[70, 96], [70, 41], [8, 96], [8, 41]].into_iter().enumerate() {
        let parameters = Parameters { runs: i % 2 == 0 && (flags == Flags::Runs || i > 1), ..Parameters::default() };
        let is = |of: Flags, side: usize| if flags == of { i < 2 || i - 2 == side } else { i == 3 };
        let orders = [0, 1].map(|side| is(Flags::Orders, side).then(|| order(sides[side], &mut random)).flatten());
        let learned =
            [0, 1].map(|side| is(Flags::Bases, side).then(|| learned(2 + (i + side) as u32 % 4, &mut random)));
        let [columns, rows] = learned;
        let bases = Bases::new([columns.transpose()?, rows.transpose()?]);
        set.unit(i, Mode::TRANSFORM, tile(parameters, Setup { orders, bases }, sides, &mut random)?);
    }
    Ok(set)
}

fn order(count: usize, random: &mut Random) -> Option<Order> {
    let mut places: Vec<u32> = (0..count as u32).collect();
    (1..count).for_each(|i| places.swap(i, random.below(i as u64 + 1) as usize));
    Order::new(places)
}

fn learned(log: u32, random: &mut Random) -> Result<Learned, CodecError> {
    let entries: Vec<f32> = (0..1 << (2 * log)).map(|_| random.below(8192) as f32 / 4096.0 - 1.0).collect();
    Learned::new(log, &entries)
}

/// Codes a tile with random choices.
pub fn tile(
    parameters: Parameters,
    setup: Setup,
    sides: [usize; 2],
    random: &mut Random,
) -> Result<Vec<u8>, Box<dyn Error>> {
    tile_of(parameters, setup, sides, random, 7)
}

/// Codes a tile with the first `predictions` predictions.
fn tile_of(
    parameters: Parameters,
    setup: Setup,
    sides: [usize; 2],
    random: &mut Random,
    predictions: u64,
) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut writer = TileWriter::with_setup(parameters, setup.clone(), sides)?;
    let sides = Samples::new(sides[0], sides[1]).sides;
    for area in superblocks(sides) {
        writer.push(area, sides, &node(area, sides, &setup.bases, random, predictions))?;
    }
    Ok(writer.finish())
}

fn node(area: Area, sides: [usize; 2], bases: &Bases, random: &mut Random, predictions: u64) -> Node {
    let allowed = Split::allowed(area);
    // Large blocks are rarely left whole.
    let whole = random.below(64) >= 1 << area.logs[0].max(area.logs[1]) >> 1;
    let choice = if whole { Split::None } else { allowed[random.below(allowed.len() as u64) as usize] };
    let split = Split::forced(area, sides).unwrap_or(choice);
    if split == Split::None {
        return Node::Block(block(area, bases, random, predictions));
    }
    let parts: Vec<Area> = split.parts(area).filter(|&part| !is_outside(part, sides)).collect();
    Node::Split(split, parts.into_iter().map(|part| node(part, sides, bases, random, predictions)).collect())
}

fn block(area: Area, bases: &Bases, random: &mut Random, predictions: u64) -> Block {
    let mut kind = || Kind::ALL[random.below(4) as usize];
    let mut kinds = [kind(), kind()];
    for (side, kind) in kinds.iter_mut().enumerate() {
        if bases.fits(side, area.logs[side].min(MOST_LOG)) && random.below(2) == 0 {
            *kind = Kind::Learned;
        }
    }
    let prediction = match Prediction::ALL[random.below(predictions) as usize] {
        Prediction::CoLocated(_) => Prediction::CoLocated((random.below(64) - 32) as i8),
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
