//! Files for SPEC 17.11 to 17.17: both filters, odd sides, cut units, layers.

use std::error::Error;

use impasto_codec::transform::bands::bands;
use impasto_codec::transform::progressive::{Form, Steps, encode, planes, split};
use impasto_codec::transform::wavelet::{Filter, forward};
use impasto_codec::{Body, IndexArray, Refinement, Shape, TensorHeader};
use impasto_core::{DType, Mode};

use super::numbers::{Random, lattice_header};
use super::set::{Matrix, Set};

type Sides = [usize; 2];

/// Samples that are smooth, with some noise: more of it in a tile with a larger number.
fn samples(sides: Sides, tile: usize, random: &mut Random) -> Vec<i32> {
    let wave = |r: usize, c: usize| ((r * r / 3 + 5 * c) % 97) as i64 * 40;
    let place = |i: usize| (i / sides[1], i % sides[1]);
    (0..sides[0] * sides[1])
        .map(|i| {
            let (r, c) = place(i);
            (wave(r, c) + random.bell() * tile as i64 / 8) as i32
        })
        .collect()
}

fn unit(form: &mut Form, sides: Sides, tile: usize, random: &mut Random) -> Result<Vec<u8>, Box<dyn Error>> {
    let mut plane = samples(sides, tile, random);
    forward(form.filter, &mut plane, sides, form.levels);
    let indices: Vec<u8> = match &form.steps {
        Steps::Own(indices) => indices.clone(),
        Steps::Even(index) => vec![*index; bands(sides, form.levels).len()],
    };
    for (band, index) in bands(sides, form.levels).iter().zip(indices) {
        let octaves = u32::from(index) / 16;
        for r in band.rows.clone() {
            plane[r * sides[1]..][band.columns.clone()].iter_mut().for_each(|x| *x /= 1 << octaves);
        }
    }
    Ok(encode(form, sides, &plane)?)
}

/// The header of a tensor whose tiles have planes.
fn header() -> TensorHeader {
    let header = lattice_header(Shape::Parametric(1), 0, 0.01, vec![0]);
    TensorHeader { row_classes: IndexArray::Constant(0), ..header }
}

/// Tiles with both filters, with even steps or one for each band, with odd sides, whole and cut.
pub fn planes_of_tiles() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(23));
    let matrix = Matrix { dtype: DType::F32, sides: (45, 71), tile: (19, 32) };
    set.tensor("planes", &matrix);
    set.unit(0, Mode::TENSOR_HEADER, header().to_bytes());
    for tile in 0..9 {
        let sides = [[19, 19, 7][tile / 3], [32, 32, 7][tile % 3]];
        let levels = [[5, 5], [0, 0], [3, 3], [4, 0], [0, 5], [1, 3], [3, 2], [2, 5], [3, 3]][tile];
        let count = bands(sides, levels).len();
        let steps = match tile % 3 {
            0 => Steps::Even(0),
            1 => Steps::Own((0..count).map(|i| (i * 11 % 64) as u8).collect()),
            _ => Steps::Even(45 + tile as u8),
        };
        let point = [128, 0, 255, 100][tile % 4];
        let filter = Filter::ALL[usize::from(tile % 4 > 1)];
        let mut form = Form { step_index: tile as i8 - 4, filter, levels, point, steps, planes: 0 };
        let whole = unit(&mut form, sides, tile, &mut random)?;
        let all = planes(&whole, sides[0], sides[1])?.ok_or("no planes")?;
        let end = [all, all, all - 1, all / 2, all, 1, all, 0, all - 3][tile];
        set.unit(tile, Mode::TRANSFORM, split(&whole, sides[0], sides[1], &[end])?.remove(0));
    }
    Ok(set)
}

/// Tiles whose planes are in up to three layers; one ends below the others, one is not refined.
pub fn layers_of_planes() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(24));
    let matrix = Matrix { dtype: DType::Bf16, sides: (30, 64), tile: (15, 32) };
    set.tensor("planes", &matrix);
    let base = header();
    let above = Body::Refinement(Refinement::new(4, 0.01));
    let shape = Shape::Explicit(vec![impasto_codec::tables::Frequencies::only_escape(); 24]);
    let mut units = vec![vec![]; 3];
    for tile in 0..4 {
        let sides = [15, 32];
        let mut form = Form {
            step_index: 3,
            filter: Filter::ALL[tile % 2],
            levels: [4, 3],
            point: 120,
            steps: Steps::Even(40),
            planes: 0,
        };
        let whole = unit(&mut form, sides, tile, &mut random)?;
        let all = planes(&whole, 15, 32)?.ok_or("no planes")?;
        let ends =
            [vec![all - 5, all - 2, all], vec![2, all], vec![all - 4, all - 4, all - 1], vec![all]][tile].clone();
        for (layer, unit) in split(&whole, 15, 32, &ends)?.into_iter().enumerate() {
            units[layer].push((tile, unit));
        }
    }
    for (layer, units) in (0..).zip(units) {
        let header = match layer {
            0 => base.clone(),
            _ => TensorHeader { shape: shape.clone(), body: above.clone(), ..base.clone() },
        };
        set.unit_above(layer, 0, Mode::TENSOR_HEADER, header.to_bytes());
        units.into_iter().for_each(|(tile, unit)| set.unit_above(layer, tile, Mode::TRANSFORM, unit));
    }
    set.by_layer();
    Ok(set)
}
