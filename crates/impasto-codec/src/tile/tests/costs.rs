//! The computed cost of a tile against its coded size.

use impasto_core::DType;

use super::*;
use crate::class::Kind;
use crate::header::Refinement;
use crate::sink::{Cost, Prices, SymbolSink};
use crate::tables::{Frequencies, parametric};
use crate::trellis::Trellis;

const TRELLIS: Option<Trellis> = Trellis::new(3);

/// The content of a tile of any kind, with owned data.
struct Owned {
    kind: Kind,
    dtype: DType,
    z: Vec<i32>,
    fine: Vec<i32>,
    predicted: Vec<u8>,
    elements: Vec<u8>,
}

impl Owned {
    fn content(&self) -> Content<'_> {
        let layout = self.dtype.float_layout().expect("a float");
        match self.kind {
            Kind::Float => Content::Float { layout, elements: &self.elements },
            Kind::Lattice | Kind::Trellis => Content::Lattice { z: &self.z },
            Kind::Refinement | Kind::TrellisRefinement => Content::Refinement { coarse: &self.z, fine: &self.fine },
            Kind::Exact => Content::Exact { layout, z: &self.z, predicted: &self.predicted, elements: &self.elements },
        }
    }

    fn header(&self, shape: u8, plane: u8, rows: Vec<i16>, columns: Vec<i16>) -> TensorHeader {
        let tables = |kind: Kind| -> Vec<Frequencies> {
            parametric(Kind::Lattice, shape).expect("shape").into_iter().cycle().take(kind.tables()).collect()
        };
        let layout = self.dtype.float_layout().expect("a float");
        let (shape, plane, body) = match self.kind {
            Kind::Float => (Shape::Parametric(shape), layout.raw_bits() as u8, Body::Float),
            Kind::Lattice => {
                let steps = Steps::new(0.5);
                (Shape::Parametric(shape), plane, Body::Lattice(steps))
            }
            Kind::Trellis => {
                let steps = Steps { trellis: TRELLIS, ..Steps::new(0.5) };
                (Shape::Parametric(shape), plane, Body::Lattice(steps))
            }
            Kind::Refinement | Kind::TrellisRefinement => {
                let trellis = TRELLIS.filter(|_| self.kind == Kind::TrellisRefinement);
                let refinement = Refinement { trellis, ..Refinement::new(3, 0.5) };
                (Shape::Explicit(tables(self.kind)), 0, Body::Refinement(refinement))
            }
            Kind::Exact => (Shape::Explicit(tables(self.kind)), plane, Body::Exact),
        };
        TensorHeader {
            shape,
            plane,
            row_classes: IndexArray::new(rows),
            column_classes: IndexArray::new(columns),
            body,
        }
    }
}

fn owned(kind: Kind, dtype: DType, n: usize, noise: &[i32]) -> Owned {
    let mut noise = noise.iter().copied().cycle();
    let mut integers = || noise.by_ref().take(n).collect::<Vec<i32>>();
    let (z, d) = (integers(), integers());
    let fine = z.iter().zip(&d).map(|(&z, &d)| crate::refinement::fine(3, z, d)).collect();
    let size = dtype.size();
    let floats = |of: &[i32], near: &[i32]| -> Vec<u8> {
        let bits = |(&z, &d): (&i32, &i32)| {
            let weight = (z as f32 * 0.01).to_bits() >> (32 - 8 * size as u32);
            weight.wrapping_add_signed(d.clamp(-9, 9)).to_le_bytes()[..size].to_vec()
        };
        of.iter().zip(near).flat_map(bits).collect()
    };
    let (predicted, elements) = (floats(&z, &vec![0; n]), floats(&z, &d));
    Owned { kind, dtype, z, fine, predicted, elements }
}

proptest! {
    /// The bound in the docs of `Cost` holds for every kind, with escapes, planes and segments.
    #[test]
    fn costs_are_lengths_within_the_bound(
        kind in prop::sample::select(Kind::ALL.to_vec()),
        dtype in prop::sample::select(FLOATS[..3].to_vec()),
        shape in 0..SHAPES as u8,
        plane in 0u8..=20,
        (place, rows, columns) in placed(),
        wide in 0i16..40,
        segments in 1usize..5,
        noise in prop::collection::vec(prop_oneof![9 => -40i32..40, 1 => any::<i32>()], 1..300),
    ) {
        let mut owned = owned(kind, dtype, place.elements(), &noise);
        if kind == Kind::Trellis {
            owned.z = trellis::path(TRELLIS.expect("a machine"), &place, segments, &owned.z);
        }
        if kind == Kind::TrellisRefinement {
            owned.fine = trellis::path_above(TRELLIS.expect("a machine"), &place, segments, 3, &owned.z, &owned.fine);
        }
        let rows = rows.into_iter().map(|row| row + wide).collect();
        let header = owned.header(shape, plane, rows, columns);
        let encoder = TileEncoder::new(&header, segments);
        let (unit, cost) = (encoder.encode(&place, &owned.content()), encoder.cost(&place, &owned.content()));
        let (unit, cost) = (unit.expect("codes"), cost.expect("costs"));
        let bytes = cost.bytes().expect("codes");
        prop_assert!(bytes.abs_diff(unit.len() as u64) <= cost.tolerance(), "{} {} {}", bytes, unit.len(), cost.tolerance());
    }
}

/// For a tile of ordinary size the error is a few words, far below the bound.
#[test]
fn costs_of_usual_tiles_are_within_a_twentieth_of_a_percent() {
    let place = Place { rows: 0..256, columns: 0..480 };
    let mut seed = 5u32;
    let mut bell = || {
        let mut next = || {
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (seed >> 16) as i32 % 23 - 11
        };
        next() + next() + next()
    };
    let noise: Vec<i32> = (0..place.elements() * 2).map(|_| bell()).collect();
    for kind in Kind::ALL {
        for segments in [1, 3] {
            let mut owned = owned(kind, DType::Bf16, place.elements(), &noise);
            if kind == Kind::Trellis {
                owned.z = trellis::path(TRELLIS.expect("a machine"), &place, segments, &owned.z);
            }
            if kind == Kind::TrellisRefinement {
                owned.fine = trellis::path_above(
                    TRELLIS.expect("a machine"),
                    &place,
                    segments,
                    3,
                    &owned.z,
                    &noise[place.elements()..],
                );
            }
            let rows = (0..256).map(|r| 20 + r % 7).collect();
            let header = owned.header(1, 0, rows, (0..480).map(|c| c % 5).collect());
            let encoder = TileEncoder::new(&header, segments);
            let unit = encoder.encode(&place, &owned.content()).expect("codes").len() as u64;
            let cost = encoder.cost(&place, &owned.content()).and_then(|cost| cost.bytes()).expect("costs");
            assert!(cost.abs_diff(unit) <= unit / 2000, "{kind:?}: {cost}, coded {unit}");
        }
    }
}

/// A value outside the range of the symbols, under tables without escapes, has neither a cost nor a code.
#[test]
fn what_cannot_be_coded_has_no_cost() {
    let place = Place { rows: 0..2, columns: 0..3 };
    let owned = owned(Kind::Lattice, DType::F32, 6, &[0, 1, 70_000]);
    let mut header = owned.header(1, 0, vec![15; 2], vec![0; 3]);
    let encoder = |header: &TensorHeader, content: &Content| {
        let encoder = TileEncoder::new(header, 1);
        (encoder.encode(&place, content).is_some(), encoder.cost(&place, content).is_some())
    };
    assert_eq!(encoder(&header, &owned.content()), (true, true));
    let Content::Lattice { z } = owned.content() else { unreachable!("it is of that kind") };
    assert_eq!(encoder(&header, &Content::Refinement { coarse: z, fine: z }), (false, false), "another kind");
    assert_eq!(encoder(&header, &Content::Lattice { z: &z[1..] }), (false, false), "another size");
    let mut uniform = [0; 64];
    uniform[..32].fill(64);
    header.shape = Shape::Explicit(vec![Frequencies(uniform); 24]);
    assert_eq!(encoder(&header, &owned.content()), (false, false));
}

/// Dropping the clone of a cost, or rolling back a recording, undoes a trial completely.
#[test]
fn trials_are_taken_back() {
    use crate::sink::{CodingTables, Recorder};

    let tables = parametric(Kind::Lattice, 2).expect("shape");
    let (prices, coding) = (Prices::new(Kind::Lattice, &tables), CodingTables::new(Kind::Lattice, &tables));
    let rows: Vec<Vec<i32>> = (0..8).map(|r| (0..70).map(|c| (r * 31 + c * c) % 400 - 200).collect()).collect();
    fn hand(sink: &mut impl SymbolSink, row: &[i32], t: i32) {
        sink.symbols(&vec![t; row.len()], &row.iter().map(|&z| z >> 3).collect::<Vec<_>>());
        sink.raw(row, 3);
        sink.end_row();
    }
    let (mut straight, mut tried) = (Recorder::new(&coding, 70, 0), Recorder::new(&coding, 70, 0));
    let mut cost = Cost::new(&prices);
    for (r, row) in rows.iter().enumerate() {
        hand(&mut straight, row, 20);
        let before = (tried.checkpoint(), cost.fractional_bits());
        hand(&mut tried, &rows[7 - r], 3);
        tried.raw(&[5], 3);
        tried.roll_back(before.0);
        hand(&mut cost.clone(), &rows[7 - r], 3);
        assert_eq!(cost.fractional_bits(), before.1);
        hand(&mut tried, row, 20);
        hand(&mut cost, row, 20);
    }
    assert_eq!(straight.segment(), tried.segment());
    assert_eq!(straight.plane(), tried.plane());
}
