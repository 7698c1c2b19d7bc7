use impasto_core::{Isa, Place};
use proptest::prelude::*;

use super::*;
use crate::header::{Body, Shape, Steps, TensorHeader};
use crate::index::IndexArray;
use crate::low_rank::{LowRank, Term};
use crate::tables::{Frequencies, SHAPES};

mod blocks;
mod costs;
mod format;
mod layers;
mod trellis;

const FLOATS: [DType; 5] = [DType::F32, DType::F16, DType::Bf16, DType::F8E4M3, DType::F8E5M2];

fn float_header(dtype: DType, shape: u8, rows: Vec<i16>, columns: Vec<i16>) -> TensorHeader {
    TensorHeader {
        shape: Shape::Parametric(shape),
        plane: dtype.float_layout().expect("float").raw_bits() as u8,
        row_classes: IndexArray::new(rows),
        column_classes: IndexArray::new(columns),
        body: Body::Float,
    }
}

/// A table with all symbols, the escape too.
fn even_table() -> Frequencies {
    Frequencies([32; 64])
}

fn decoder(dtype: DType, header: &TensorHeader, isa: Isa) -> TileDecoder {
    TileDecoder::new(dtype, vec![header.clone()], isa).expect("a tensor header of layer 0")
}

/// Generates a tile in the lower right of a larger matrix, with class indices.
fn placed() -> impl Strategy<Value = (Place, Vec<i16>, Vec<i16>)> {
    (1usize..20, prop_oneof![3 => 1usize..70, 1 => Just(64)], 0usize..5, 0usize..40).prop_flat_map(
        |(height, width, top, left)| {
            let indices = |n| prop::collection::vec(-5i16..30, n);
            (indices(top + height), indices(left + width)).prop_map(move |(rows, columns)| {
                (Place { rows: top..top + height, columns: left..left + width }, rows, columns)
            })
        },
    )
}

proptest! {
    #[test]
    fn floats_survive_bit_for_bit(
        dtype in prop::sample::select(FLOATS.to_vec()),
        shape in 0..SHAPES as u8,
        (place, rows, columns) in placed(),
        segments in 1usize..5,
        noise in prop::collection::vec(any::<u8>(), 1..500),
    ) {
        let header = float_header(dtype, shape, rows, columns);
        let elements: Vec<u8> = noise.iter().copied().cycle().take(place.elements() * dtype.size()).collect();
        let unit = TileEncoder::new(&header, segments).float(dtype, &place, &elements).expect("codes");
        let units = [Unit { mode: Mode::FLOAT, bytes: &unit }];
        for isa in Isa::available() {
            let decoder = decoder(dtype, &header, isa);
            let mut out = vec![0; elements.len()];
            decoder.decode(&units, &place, &mut out, place.columns.len() * dtype.size())?;
            prop_assert_eq!(&out, &elements);
            // The same, with a gap between rows.
            let row_bytes = place.columns.len() * dtype.size();
            let mut wide = vec![0xAB; place.rows.len() * (row_bytes + 3)];
            decoder.decode(&units, &place, &mut wide, row_bytes + 3)?;
            for (row, elements) in wide.chunks_exact(row_bytes + 3).zip(elements.chunks_exact(row_bytes)) {
                prop_assert_eq!(row, [elements, &[0xAB; 3]].concat());
            }
        }
    }

    #[test]
    fn lattices_survive(
        dtype in prop::sample::select(FLOATS[..3].to_vec()),
        (place, rows, columns) in placed(),
        plane in 0u8..=20,
        segments in 1usize..5,
        noise in prop::collection::vec(prop_oneof![9 => -40i32..40, 1 => any::<i32>()], 1..300),
        steps in any::<(bool, bool)>(),
    ) {
        let steps = Steps { rows: steps.0.then(|| IndexArray::new(rows.clone())), columns: steps.1.then(|| IndexArray::new(columns.clone())), ..Steps::new(0.125) };
        let mut header = float_header(DType::Bf16, 1, rows, columns);
        header.body = Body::Lattice(steps);
        header.plane = plane;
        let z: Vec<i32> = noise.iter().copied().cycle().take(place.elements()).collect();
        let unit = TileEncoder::new(&header, segments).lattice(&place, &z).expect("codes");
        let units = [Unit { mode: Mode::LATTICE, bytes: &unit }];
        let mut weights = Vec::new();
        for isa in Isa::available() {
            let decoder = decoder(dtype, &header, isa);
            let mut straight = vec![7; z.len()];
            decoder.integers(&units, &place, &mut straight, place.columns.len())?;
            prop_assert_eq!(&straight, &z);
            let (width, stride) = (place.columns.len(), place.columns.len() + 3);
            let mut integers = vec![7; place.rows.len() * stride];
            decoder.integers(&units, &place, &mut integers, stride)?;
            for (row, z) in integers.chunks_exact(stride).zip(z.chunks_exact(width)) {
                prop_assert_eq!(&row[..width], z);
                prop_assert_eq!(&row[width..], &[7; 3], "entries between rows were touched");
            }
            let mut out = vec![0; z.len() * dtype.size()];
            decoder.decode(&units, &place, &mut out, place.columns.len() * dtype.size())?;
            weights.push(out);
        }
        weights.dedup();
        prop_assert_eq!(weights.len(), 1, "instruction sets differ");
    }

    /// Over a base, beside it or in its place, with a low-rank part or without, and the scalar kernel as the others.
    #[test]
    fn tiles_over_a_base_survive(
        dtype in prop::sample::select(FLOATS[..3].to_vec()),
        (place, rows, columns) in placed(),
        plane in 0u8..=6,
        shift in 0i16..600,
        segments in 1usize..5,
        noise in prop::collection::vec(prop_oneof![9 => -40i32..40, 1 => any::<i32>()], 1..300),
        base in prop::collection::vec(any::<u8>(), 1..500),
        with_part: bool,
    ) {
        let size = dtype.size();
        let base: Vec<u8> = base.iter().copied().cycle().take(place.elements() * size).collect();
        let mut header = float_header(DType::Bf16, 1, rows.iter().map(|row| row + shift).collect(), columns.clone());
        let term = Term { scale: 1e-3, rows: IndexArray::new(rows), columns: IndexArray::new(columns) };
        let part = LowRank { terms: vec![term] };
        header.body = if with_part { Body::ExactOver(part.clone()) } else { Body::Exact };
        header.shape = Shape::Explicit(vec![even_table(); 32]);
        header.plane = plane;
        let row_bytes = place.columns.len() * size;
        let mut predicted = base.clone();
        if with_part {
            for (r, (row, over)) in predicted.chunks_mut(row_bytes).zip(base.chunks(row_bytes)).enumerate() {
                let at = (place.rows.start + r, place.columns.clone());
                part.add_to_base(Isa::Scalar, dtype, at, over, row, &mut Default::default());
            }
        }
        let layout = dtype.float_layout().expect("floats");
        let mut z = Vec::new();
        crate::exact::signs_of_row(Isa::Scalar, layout, &predicted, &mut z);
        let changes = noise.iter().flat_map(|change| change.to_le_bytes()[..size].to_vec()).cycle();
        let elements: Vec<u8> = predicted.iter().zip(changes).map(|(p, change)| p.wrapping_add(change)).collect();
        let unit = TileEncoder::new(&header, segments).exact(dtype, &place, &z, &predicted, &elements).expect("codes");
        let units = [Unit { mode: Mode::EXACT, bytes: &unit }];
        for isa in Isa::available() {
            let decoder = TileDecoder::delta(dtype, vec![header.clone()], isa)?;
            let mut out = vec![0; elements.len()];
            decoder.decode_predicted(&units, Some(&base), &place, &mut out, row_bytes)?;
            prop_assert_eq!(&out, &elements);
            // In place, with a gap between rows.
            let mut wide: Vec<u8> = base.chunks(row_bytes).flat_map(|row| [row, &[0xAB; 3]].concat()).collect();
            decoder.decode_in_place(&units, &place, &mut wide, row_bytes + 3)?;
            let expected: Vec<u8> = elements.chunks(row_bytes).flat_map(|row| [row, &[0xAB; 3]].concat()).collect();
            prop_assert_eq!(wide, expected);
            let same = [Unit { mode: Mode::SAME, bytes: &[] }];
            let mut out = base.clone();
            decoder.decode_in_place(&same, &place, &mut out, row_bytes)?;
            prop_assert_eq!(&out, &base);
            let stored = [Unit { mode: Mode::STORED, bytes: &base }];
            prop_assert!(matches!(decoder.decode_in_place(&stored, &place, &mut out, row_bytes), Err(CodecError::Call(_))));
        }
    }

    #[test]
    fn bytes_survive(elements in prop::collection::vec(any::<u8>(), 8..400), dtype in prop::sample::select(DType::PLAIN.to_vec())) {
        let elements = &elements[..elements.len() / dtype.size() * dtype.size()];
        let (mode, unit) = encode_bytes(elements, dtype, 3)?;
        let place = Place { rows: 0..1, columns: 0..elements.len() / dtype.size() };
        let mut out = vec![0; elements.len()];
        TileDecoder::new(dtype, vec![], Isa::best())?.decode(&[Unit { mode, bytes: &unit }], &place, &mut out, elements.len())?;
        prop_assert_eq!(out, elements);
    }

    /// A damaged unit gives an error or some tile, the same with every instruction set.
    #[test]
    fn damage_never_panics(
        (place, rows, columns) in placed(),
        mode in prop::sample::select(vec![Mode::FLOAT, Mode::LATTICE]),
        at: prop::sample::Index,
        to: u8,
        cut: prop::sample::Index,
    ) {
        let mut header = float_header(DType::Bf16, 0, rows, columns);
        let encoded = if mode == Mode::FLOAT {
            let elements: Vec<u8> = (0..place.elements() * 2).map(|i| (i * 37) as u8 & 0x3F).collect();
            TileEncoder::new(&header, 2).float(DType::Bf16, &place, &elements)
        } else {
            header.body = Body::Lattice(Steps { offset: 3, ..Steps::new(0.5) });
            header.plane = 3;
            let z: Vec<i32> = (0..place.elements() as i32).map(|i| i * 37 % 200 - 100).collect();
            TileEncoder::new(&header, 2).lattice(&place, &z)
        };
        let mut unit = encoded.expect("codes");
        let at = at.index(unit.len());
        unit[at] = to;
        for unit in [&unit[..], &unit[..cut.index(unit.len())]] {
            let results: Vec<_> = Isa::available().into_iter().map(|isa| {
                let mut out = vec![0; place.elements() * 2];
                let decoder = decoder(DType::Bf16, &header, isa);
                decoder.decode(&[Unit { mode, bytes: unit }], &place, &mut out, place.columns.len() * 2).map(|()| out)
            }).collect();
            prop_assert!(results.windows(2).all(|r| r[0] == r[1]));
        }
    }
}

#[test]
fn refuses_tiles_without_their_header() {
    let place = Place { rows: 0..1, columns: 0..1 };
    let decoder = TileDecoder::new(DType::Bf16, vec![], Isa::Scalar).expect("no tensor headers");
    let decode = |mode| decoder.decode(&[Unit { mode, bytes: &[1] }], &place, &mut [0; 2], 2);
    assert_eq!(decode(Mode::FLOAT), Err(CodecError::MissingHeader(Mode::FLOAT)));
    assert_eq!(decode(Mode::LATTICE), Err(CodecError::MissingHeader(Mode::LATTICE)));
    assert_eq!(decode(Mode(99)), Err(CodecError::UnknownMode(Mode(99))));
    assert!(matches!(decode(Mode::STORED), Err(CodecError::StoredSize { .. })));
}

/// A segment declares more words than fit in memory; nothing of that size is allocated.
#[test]
fn declared_lengths_are_checked() {
    let header = float_header(DType::Bf16, 0, vec![0], vec![0]);
    let place = Place { rows: 0..1, columns: 0..1 };
    let mut unit = vec![1];
    unit.extend([0xFF; 8]);
    unit.extend([0; 128]);
    let units = [Unit { mode: Mode::FLOAT, bytes: &unit }];
    let decoded = decoder(DType::Bf16, &header, Isa::Scalar).decode(&units, &place, &mut [0; 2], 2);
    assert_eq!(decoded, Err(CodecError::Truncated("words")));
}

/// Invalid arguments give an error, not a panic.
#[test]
fn wrong_calls_are_refused() {
    let header = float_header(DType::Bf16, 0, vec![1, 2, 3], vec![4, 5]);
    let decoder = decoder(DType::Bf16, &header, Isa::Scalar);
    let place = Place { rows: 0..3, columns: 0..2 };
    let units = [Unit { mode: Mode::STORED, bytes: &[7; 12] }];
    let is_call = |result: Result<(), CodecError>| assert!(matches!(result, Err(CodecError::Call(_))), "{result:?}");
    decoder.decode(&units, &place, &mut [0; 12], 4).unwrap();
    is_call(decoder.decode(&[], &place, &mut [0; 12], 4));
    is_call(decoder.integers(&[], &place, &mut [0; 6], 2));
    is_call(decoder.integers(&units, &place, &mut [0; 5], 2));
    is_call(decoder.integers(&units, &place, &mut [0; 6], 1));
    is_call(decoder.integers(&units, &place, &mut [0; 6], usize::MAX));
    is_call(decoder.decode(&units, &place, &mut [0; 11], 4));
    is_call(decoder.decode(&units, &place, &mut [0; 12], 3));
    is_call(decoder.decode(&units, &place, &mut [0; 12], usize::MAX));
    is_call(decoder.decode(&units, &Place { rows: 1..4, ..place.clone() }, &mut [0; 12], 4));
    is_call(decoder.decode(&units, &Place { columns: 1..3, ..place }, &mut [0; 12], 4));
}

/// The fields of a tensor header are public, so inconsistent ones are detected before a tile is decoded.
#[test]
fn headers_that_do_not_fit_together_are_refused() {
    let good = float_header(DType::Bf16, 0, vec![1, 2, 3], vec![4, 5]);
    let steps = |step, rows| Body::Lattice(Steps { rows, ..Steps::new(step) });
    let lattice = |body| TensorHeader { plane: 0, body, ..good.clone() };
    let bad = [
        TensorHeader { plane: 7, ..good.clone() },
        TensorHeader { shape: Shape::Parametric(200), ..good.clone() },
        TensorHeader { shape: Shape::Explicit(vec![]), ..good.clone() },
        TensorHeader { shape: Shape::Explicit(vec![Frequencies([1; 64]); 4]), ..good.clone() },
        lattice(steps(0.0, None)),
        lattice(steps(f32::INFINITY, None)),
        lattice(steps(1.0, Some(IndexArray::Constant(1024)))),
        lattice(Body::Lattice(Steps { offset: 128, ..Steps::new(1.0) })),
        lattice(Body::Exact),
    ];
    for header in bad {
        assert!(header.check(DType::Bf16).is_err(), "{header:?}");
        assert!(TileDecoder::new(DType::Bf16, vec![header], Isa::Scalar).is_err());
    }
    assert_eq!(good.check(DType::Bf16), Ok(()));
}
