use super::*;
use crate::tables::SHAPES;
use proptest::prelude::*;

fn lattice() -> TensorHeader {
    TensorHeader {
        shape: Shape::Parametric(1),
        plane: 2,
        row_classes: IndexArray::new(vec![1, 2, 3]),
        column_classes: IndexArray::Constant(20),
        body: Body::Lattice(Steps { rows: Some(IndexArray::new(vec![-3, 0, 9])), ..Steps::new(0.5) }),
    }
}

#[test]
fn round_trip() {
    let explicit = Shape::Explicit(parametric(Kind::Float, 2).expect("shape"));
    let float = TensorHeader { shape: explicit, plane: 6, body: Body::Float, ..lattice() };
    let tables = |n: usize| {
        let mut tables = vec![Frequencies::only_escape(); n];
        tables[n - 1] = parametric(Kind::Float, 0).expect("shape").swap_remove(0);
        Shape::Explicit(tables)
    };
    let with_offset = Steps { offset: 127, columns: Some(IndexArray::Constant(-1024)), ..Steps::new(0.5) };
    let with_offset = TensorHeader { body: Body::Lattice(with_offset), ..lattice() };
    let exact = TensorHeader { shape: tables(32), plane: 20, body: Body::Exact, ..lattice() };
    let refinement = |factor, offset| {
        let body = Body::Refinement(Refinement { factor, step: 3e-9, offset });
        TensorHeader { shape: tables(24), plane: 0, body, ..lattice() }
    };
    for header in [lattice(), float, with_offset, exact, refinement(2, 0), refinement(64, 1)] {
        assert_eq!(TensorHeader::read(&header.to_bytes(), DType::Bf16, 3, 7), Ok(header));
    }
}

#[test]
fn refuses_what_the_spec_forbids() {
    let good = lattice().to_bytes();
    let with = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        TensorHeader::read(&bytes, DType::Bf16, 3, 7)
    };
    for kind in [0, 2, 3, 5, 6, 7] {
        assert!(with(0, kind).is_err(), "kind");
    }
    assert!(with(1, SHAPES as u8).is_err(), "shape");
    assert!(with(2, 21).is_err(), "plane");
    assert!(with(3, 9).is_err(), "flags");
    assert!(with(7, 0x7F).is_ok() && with(7, 0xBF).is_err(), "negative step");
    assert!(TensorHeader::read(&good, DType::F8E4M3, 3, 7).is_err(), "dtype");
    assert!(TensorHeader::read(&good, DType::I8, 3, 7).is_err(), "dtype");
    for n in 0..good.len() {
        assert!(TensorHeader::read(&good[..n], DType::Bf16, 3, 7).is_err(), "cut at {n}");
    }
    let mut long = good.clone();
    long.push(0);
    assert_eq!(TensorHeader::read(&long, DType::Bf16, 3, 7), Err(CodecError::TrailingBytes(1, "6")));
}

/// A refinement of factor 3 and offset 5, with no tables but those of escapes.
#[test]
fn refuses_what_the_spec_forbids_above_layer_0() {
    let arrays = [0, 0, 255, 0, 0, 255];
    let refinement = [&[5, 255, 0, 4, 3][..], &0.5f32.to_le_bytes(), &[5], &arrays, &[0; 4]].concat();
    let exact = [&[6, 255, 20, 0][..], &arrays, &[0; 4]].concat();
    let read = |bytes: &[u8]| TensorHeader::read(bytes, DType::F32, 3, 7);
    let body = Body::Refinement(Refinement { factor: 3, step: 0.5, offset: 5 });
    assert_eq!(read(&refinement).map(|header| header.body), Ok(body));
    assert_eq!(read(&exact).map(|header| header.body), Ok(Body::Exact));
    for (good, at, byte) in [
        (&refinement, 1, 0),
        (&refinement, 2, 1),
        (&refinement, 3, 5),
        (&refinement, 3, 6),
        (&refinement, 4, 1),
        (&refinement, 4, 65),
        (&refinement, 8, 0xBF),
        (&refinement, 9, 0),
        (&refinement, 9, 128),
        (&refinement, 19, 1),
        (&exact, 1, 4),
        (&exact, 2, 21),
        (&exact, 3, 4),
    ] {
        let mut bytes = good.clone();
        bytes[at] = byte;
        assert!(read(&bytes).is_err(), "byte {at} is {byte}");
        assert!(TensorHeader::read(good, DType::F8E5M2, 3, 7).is_err(), "dtype");
    }
    for good in [refinement, exact] {
        for n in 0..good.len() {
            assert!(read(&good[..n]).is_err(), "cut at {n}");
        }
    }
}

proptest! {
    #[test]
    fn never_panics(kind in 3u8..8, mut bytes: Vec<u8>, rows: u64, columns: u64) {
        bytes.iter_mut().take(1).for_each(|byte| *byte = kind);
        let _ = TensorHeader::read(&bytes, DType::Bf16, rows, columns);
    }
}
