//! Tiles on a trellis.

use super::*;
use crate::rans::LANES;
use crate::trellis::Trellis;

/// Returns the integers of a tile with these indices: in each column of a segment they follow the trellis from state 0.
pub fn path(trellis: Trellis, place: &Place, segments: usize, indices: &[i32]) -> Vec<i32> {
    let (height, width) = (place.rows.len(), place.columns.len());
    let n = segments.min(height).max(1);
    let rows = (0..n).map(|j| segment_rows(j, n, height));
    rows.flat_map(|rows| trellis.path(width, &indices[rows.start * width..rows.end * width])).collect()
}

/// Returns the integers of a tile above the integers `coarse`, with these halves of residuals.
pub fn path_above(
    trellis: Trellis,
    place: &Place,
    segments: usize,
    factor: u8,
    coarse: &[i32],
    halves: &[i32],
) -> Vec<i32> {
    let (height, width) = (place.rows.len(), place.columns.len());
    let n = segments.min(height).max(1);
    let elements = (0..n).map(|j| segment_rows(j, n, height)).map(|rows| rows.start * width..rows.end * width);
    elements.flat_map(|part| trellis.path_above(width, factor, &coarse[part.clone()], &halves[part])).collect()
}

fn header(log_states: u8, plane: u8, shape: Shape, rows: Vec<i16>, columns: Vec<i16>) -> TensorHeader {
    let trellis = Some(Trellis::new(log_states).expect("a machine"));
    let body = Body::Lattice(Steps { trellis, ..Steps::new(0.125) });
    TensorHeader { shape, plane, body, ..float_header(DType::Bf16, 1, rows, columns) }
}

proptest! {
    #[test]
    fn paths_survive(
        dtype in prop::sample::select(FLOATS[..3].to_vec()),
        log_states in 2u8..=6,
        (place, rows, columns) in placed(),
        plane in prop_oneof![Just(0u8), 1u8..=20],
        explicit: bool,
        segments in 1usize..5,
        wide in 0i16..40,
        noise in prop::collection::vec(prop_oneof![9 => -40i32..40, 1 => any::<i32>()], 1..300),
    ) {
        let shape = if explicit { Shape::Explicit(vec![even_table(); 48]) } else { Shape::Parametric(1) };
        let rows = rows.into_iter().map(|row| row + wide).collect();
        let header = header(log_states, plane, shape, rows, columns);
        let read = TensorHeader::read(&header.to_bytes(), dtype, place.rows.end as u64, place.columns.end as u64);
        prop_assert_eq!(read, Ok(header.clone()));
        let indices: Vec<i32> = noise.iter().map(|n| n >> 1).cycle().take(place.elements()).collect();
        let z = path(header.trellis().expect("has one"), &place, segments, &indices);
        let unit = TileEncoder::new(&header, segments).lattice(&place, &z).expect("codes");
        let units = [Unit { mode: Mode::LATTICE, bytes: &unit }];
        let mut weights = Vec::new();
        for isa in Isa::available() {
            let decoder = decoder(dtype, &header, isa);
            let width = place.columns.len();
            for stride in [width, width + 3] {
                let mut integers = vec![7; place.rows.len() * stride];
                decoder.integers(&units, &place, &mut integers, stride)?;
                let found: Vec<i32> = integers.chunks(stride).flat_map(|row| &row[..width]).copied().collect();
                prop_assert_eq!(&found, &z, "{:?}", isa);
            }
            let mut out = vec![0; z.len() * dtype.size()];
            decoder.decode(&units, &place, &mut out, width * dtype.size())?;
            weights.push(out);
        }
        weights.dedup();
        prop_assert_eq!(weights.len(), 1, "instruction sets differ");
    }
}

/// The weights are those of a header without a trellis with the same integers.
#[test]
fn weights_are_those_of_the_integers() {
    let place = Place { rows: 0..40, columns: 0..2 * LANES };
    let on_trellis = header(3, 0, Shape::Parametric(1), vec![15; 40], vec![2; 2 * LANES]);
    let free = TensorHeader { body: Body::Lattice(Steps::new(0.125)), ..on_trellis.clone() };
    let indices: Vec<i32> = (0..place.elements() as i32).map(|i| i * i % 11 - 5).collect();
    let z = path(on_trellis.trellis().expect("has one"), &place, 2, &indices);
    let weights = [on_trellis, free].map(|header| {
        let unit = TileEncoder::new(&header, 2).lattice(&place, &z).expect("codes");
        let mut out = vec![0; z.len() * 4];
        let units = [Unit { mode: Mode::LATTICE, bytes: &unit }];
        decoder(DType::F32, &header, Isa::best()).decode(&units, &place, &mut out, 8 * LANES).expect("decodes");
        out
    });
    assert_eq!(weights[0], weights[1]);
}

#[test]
fn what_is_no_path_is_not_coded() {
    let place = Place { rows: 0..9, columns: 0..3 };
    let header = header(3, 0, Shape::Parametric(1), vec![15; 9], vec![0; 3]);
    let trellis = header.trellis().expect("has one");
    let indices: Vec<i32> = (0..27).map(|i| i * 7 % 5 - 2).collect();
    let z = path(trellis, &place, 2, &indices);
    assert!(TileEncoder::new(&header, 2).lattice(&place, &z).is_some());
    assert!(TileEncoder::new(&header, 1).lattice(&place, &z).is_none(), "with other segments");
    for i in 0..z.len() {
        let mut other = z.clone();
        other[i] ^= 1;
        assert!(TileEncoder::new(&header, 2).lattice(&place, &other).is_none(), "{i}");
    }
}
