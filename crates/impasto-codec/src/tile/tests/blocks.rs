//! Tiles of blocks over a lattice.

use impasto_core::blocks::dequantize;
use impasto_core::blocks::fields::fields;
use impasto_core::lattice::reconstruct_row;
use impasto_core::rng::SplitMix64;

use super::*;
use crate::class::Kind;
use crate::tables::parametric;

/// A tile of random blocks over random integers.
struct Case {
    dtype: DType,
    headers: Vec<TensorHeader>,
    units: Vec<(Mode, Vec<u8>)>,
    place: Place,
    blocks: Vec<u8>,
}

impl Case {
    fn new(dtype: DType, seed: u64) -> Case {
        let mut rng = SplitMix64::new(seed);
        let block = dtype.weights();
        let place = Place { rows: 2..2 + 1 + seed as usize % 6, columns: block..3 * block };
        let (height, width) = (place.rows.len(), place.columns.len());
        let classes = |base: i16, n: usize| IndexArray::new((0..n as i16).map(|i| base + i % 3).collect());
        let base = TensorHeader {
            shape: Shape::Parametric(0),
            plane: 0,
            row_classes: classes(4, place.rows.end),
            column_classes: classes(2, place.columns.end),
            body: Body::Lattice(Steps { offset: 9, ..Steps::new(0.01) }),
        };
        let z: Vec<i32> = (0..height * width).map(|_| (rng.next_u64() % 9) as i32 - 4).collect();
        let below: Vec<f32> = z
            .chunks_exact(width)
            .flat_map(|z| {
                let mut row = vec![0; 4 * width];
                reconstruct_row(DType::F32, z, 9, &vec![1.0; width], 0.01, &mut row);
                row.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect::<Vec<f32>>()
            })
            .collect();
        // Any scales, NaN and infinity included.
        let size = height * width / block * dtype.size();
        let blocks: Vec<u8> = (0..size).map(|_| rng.next_u64() as u8).collect();
        let tables = parametric(Kind::Lattice, 4).expect("shape").into_iter().rev().cycle();
        let top = TensorHeader {
            shape: Shape::Explicit(tables.take(Kind::Exact.tables()).collect()),
            row_classes: classes(3, place.rows.end),
            column_classes: classes(4 * 124, place.columns.end),
            body: Body::Blocks(dtype),
            ..base.clone()
        };
        let unit = TileEncoder::new(&base, 1).lattice(&place, &z).expect("codes");
        let above = TileEncoder::new(&top, 2).blocks(&place, &below, &blocks, 1).expect("compresses").expect("codes");
        let units = vec![(Mode::LATTICE, unit), (Mode::BLOCKS, above)];
        Case { dtype, headers: vec![base, top], units, place, blocks }
    }

    fn decode(&self, isa: Isa, headers: &[TensorHeader]) -> Result<(Vec<u8>, Vec<f32>), CodecError> {
        let decoder = TileDecoder::new(DType::F32, headers.to_vec(), isa)?;
        let units: Vec<Unit> = self.units.iter().map(|(mode, bytes)| Unit { mode: *mode, bytes }).collect();
        let row = self.place.columns.len() / self.dtype.weights() * self.dtype.size();
        // With a gap between rows.
        let mut wide = vec![0xAB; self.place.rows.len() * (row + 3)];
        decoder.blocks(&units, &self.place, &mut wide, row + 3)?;
        let mut elements = vec![0; 4 * self.place.elements()];
        decoder.decode(&units, &self.place, &mut elements, 4 * self.place.columns.len())?;
        let blocks = wide.chunks_exact(row + 3).flat_map(|wide| {
            assert_eq!(wide[row..], [0xAB; 3]);
            wide[..row].to_vec()
        });
        Ok((blocks.collect(), elements.as_chunks().0.iter().map(|&bytes| f32::from_le_bytes(bytes)).collect()))
    }
}

#[test]
fn blocks_of_every_dtype_survive() {
    for (seed, dtype) in (1..).zip(DType::BLOCKS) {
        let case = Case::new(dtype, seed);
        let mut weights = vec![0.0; case.place.elements()];
        assert!(dequantize(dtype, &case.blocks, &mut weights));
        let bits = |values: &[f32]| -> Vec<u32> {
            values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
        };
        for isa in Isa::available() {
            let (blocks, elements) = case.decode(isa, &case.headers).expect("decodes");
            assert!(blocks == case.blocks && bits(&elements) == bits(&weights), "{dtype:?} at {isa}");
        }
        for header in &case.headers {
            let (rows, columns) = (case.place.rows.end as u64, case.place.columns.end as u64);
            assert_eq!(&TensorHeader::read(&header.to_bytes(), DType::F32, rows, columns).expect("reads"), header);
        }
    }
}

#[test]
fn damage_gives_an_error_or_some_blocks() {
    let mut rng = SplitMix64::new(7);
    for dtype in [DType::Q5_1, DType::Q3K, DType::Iq2S] {
        let mut case = Case::new(dtype, 5);
        let whole = case.units[1].1.clone();
        for _ in 0..200 {
            let mut unit = whole.clone();
            let at = rng.next_u64() as usize % unit.len();
            unit[at] = rng.next_u64() as u8;
            unit.truncate(unit.len() - rng.next_u64() as usize % 2 * (at / 2));
            case.units[1].1 = unit;
            let results = Isa::available().into_iter().map(|isa| case.decode(isa, &case.headers).map(|found| found.0));
            let results: Vec<_> = results.collect();
            assert!(results.windows(2).all(|pair| pair[0] == pair[1]));
        }
    }
}

#[test]
fn what_is_not_whole_blocks_over_a_lattice_is_refused() {
    let case = Case::new(DType::Q4_1, 3);
    let [base, top] = &case.headers[..] else { panic!("two layers") };
    let refused = |headers: &[&TensorHeader]| {
        let headers: Vec<TensorHeader> = headers.iter().map(|&header| header.clone()).collect();
        case.decode(Isa::Scalar, &headers).expect_err("refused")
    };
    assert_eq!(refused(&[top]), CodecError::HeaderLayer { layer: 0, kind: Mode::BLOCKS });
    assert_eq!(refused(&[base]), CodecError::MissingHeader(Mode::BLOCKS));
    let exact = TensorHeader { body: Body::Exact, ..top.clone() };
    assert_eq!(refused(&[base, &exact]), CodecError::MissingHeader(Mode::BLOCKS));
    let plane = TensorHeader { plane: 1, ..top.clone() };
    assert!(matches!(refused(&[base, &plane]), CodecError::Field { field: "plane", .. }));
    let wide = TensorHeader { body: Body::Blocks(DType::Q4K), ..top.clone() };
    assert!(matches!(refused(&[base, &wide]), CodecError::Field { clause: "16.1", .. }));
    let read =
        |header: &TensorHeader, dtype| TensorHeader::read(&header.to_bytes(), dtype, 9, 96).expect_err("refused");
    assert!(matches!(read(&wide, DType::F32), CodecError::Field { clause: "16.1", .. }));
    assert!(matches!(read(top, DType::F16), CodecError::ModeDtype { mode: Mode::BLOCKS, .. }));
    let float = TensorHeader { body: Body::Blocks(DType::F16), ..top.clone() };
    assert!(matches!(read(&float, DType::F32), CodecError::Field { field: "blocks", .. }));
    assert!(matches!(refused(&[base, &float]), CodecError::Field { field: "blocks", .. }));
    // A dtype without fields has nothing after the heads.
    assert!(fields(DType::Mxfp4).is_empty());
    let mut case = Case::new(DType::Mxfp4, 3);
    case.units[1].1.push(0);
    let refused = case.decode(Isa::Scalar, &case.headers).expect_err("refused");
    assert_eq!(refused, CodecError::TrailingBytes(1, "16.2"));
}
