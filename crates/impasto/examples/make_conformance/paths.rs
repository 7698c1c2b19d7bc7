//! Files for SPEC 13.3: refinements on a trellis.

use std::error::Error;

use impasto_codec::tables::parametric;
use impasto_codec::{Body, IndexArray, Kind, Refinement, Shape, Steps, TensorHeader, Trellis, refinement};
use impasto_core::DType;

use super::numbers::{Random, lattice_header};
use super::set::{Matrix, Set};

/// Segments of the base; a refinement has as many as the number of its layer.
const SEGMENTS: usize = 3;
const SIDES: (usize, usize) = (30, 70);

/// Calls `of_rows` with the elements of each segment, and joins what it returns.
fn by_segment(segments: usize, of_rows: impl Fn(std::ops::Range<usize>) -> Vec<i32>) -> Vec<i32> {
    let start = |j: usize| j * SIDES.0 / segments * SIDES.1;
    (0..segments).flat_map(|j| of_rows(start(j)..start(j + 1))).collect()
}

/// Trellises of all numbers of states in some of the layers, with odd and even factors, escapes and segments.
pub fn refinements_on_trellises() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(43));
    for (log_states, layers, factors) in [
        (2u8, [true, true, true], [2, 3]),
        (3, [false, true, false], [6, 2]),
        (4, [false, false, true], [5, 64]),
        (5, [true, false, true], [3, 4]),
        (6, [true, true, false], [8, 7]),
    ] {
        let on = |layer: usize| Trellis::new(log_states).filter(|_| layers[layer]);
        let dtype = [DType::F32, DType::F16, DType::Bf16][usize::from(log_states) % 3];
        let matrix = Matrix { dtype, sides: SIDES, tile: SIDES };
        let mut header =
            lattice_header(Shape::Parametric(1), 0, 0.5, (0..SIDES.0).map(|r| 14 + r as i16 % 9).collect());
        header.body = Body::Lattice(Steps { trellis: on(0), ..Steps::new(0.5) });
        let indices = random.integers(SIDES, |_| 16);
        let mut z = match on(0) {
            None => indices,
            Some(trellis) => by_segment(SEGMENTS, |part| trellis.path(SIDES.1, &indices[part])),
        };
        set.lattice(&format!("states-{:02}", 1 << log_states), &matrix, &header, SEGMENTS, &z)?;
        for (layer, factor) in (1..).zip(factors) {
            let mut d = random.integers(SIDES, |r| r as i64 % 5 + 10);
            (d[usize::from(log_states)], d[SIDES.1 * SIDES.0 - 2]) = (70_000, i32::MIN);
            let finer = match on(layer) {
                None => z.iter().zip(&d).map(|(&z, &d)| refinement::fine(factor, z, d)).collect(),
                Some(trellis) => {
                    by_segment(layer, |part| trellis.path_above(SIDES.1, factor, &z[part.clone()], &d[part]))
                }
            };
            let kind = if layers[layer] { Kind::Trellis } else { Kind::Lattice };
            let mut tables = parametric(kind, 4).ok_or("shape 4")?;
            tables.rotate_left(layer + 6);
            let offset = 40 * (layer as u8 - 1);
            let refinement = Refinement { offset, trellis: on(layer), ..Refinement::new(factor, 0.1 / layer as f32) };
            let header = TensorHeader {
                shape: Shape::Explicit(tables),
                plane: 0,
                row_classes: IndexArray::new((0..SIDES.0).map(|r| r as i16 % 10 - 1).collect()),
                column_classes: IndexArray::new((0..SIDES.1).map(|c| c as i16 % 3 - 1).collect()),
                body: Body::Refinement(refinement),
            };
            set.refinement(layer as u8, &matrix, &header, &z, &finer)?;
            z = finer;
        }
    }
    Ok(set)
}
