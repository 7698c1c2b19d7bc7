use super::*;
use crate::tables::SHAPES;
use impasto_core::Format;
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
    let on_trellis = Steps { offset: 3, trellis: Trellis::new(5), ..Steps::new(0.5) };
    let on_trellis = TensorHeader { body: Body::Lattice(on_trellis), ..lattice() };
    let explicit_trellis = TensorHeader { shape: tables(48), ..on_trellis.clone() };
    let exact = TensorHeader { shape: tables(32), plane: 20, body: Body::Exact, ..lattice() };
    let refinement = |factor, offset| {
        let body = Body::Refinement(Refinement { offset, ..Refinement::new(factor, 3e-9) });
        TensorHeader { shape: tables(24), plane: 0, body, ..lattice() }
    };
    let finer_trellis = Refinement { offset: 5, trellis: Trellis::new(2), ..Refinement::new(6, 3e-9) };
    let finer_trellis = TensorHeader { shape: tables(48), body: Body::Refinement(finer_trellis), ..refinement(6, 5) };
    let multipliers = Some(IndexArray::new(vec![-64, 63, 1]));
    let of_rows = Steps { multipliers: multipliers.clone(), ..Steps::new(0.5) };
    let recovered = TensorHeader { body: Body::Lattice(of_rows), ..lattice() };
    let mut finer = refinement(5, 9);
    assert!(finer.set_multipliers(multipliers) && !exact.clone().set_multipliers(None));
    let format = |format, step, width, scales| TensorHeader {
        body: Body::Format(Groups::new(format, step, width, 7, scales)),
        ..lattice()
    };
    let formats = [
        format(Format::Mxfp4, 1.0, 32, IndexArray::new(vec![127, 3, 254])),
        format(Format::Nvfp4, 0.25, 16, IndexArray::Constant(0x7E)),
        format(Format::Int4, 1.0, 4, IndexArray::new(vec![1, 2, 3, 4, 5, 0x7F7F])),
        format(Format::Fp8E5M2, 1.0, 0, IndexArray::new(vec![9, 8, 7])),
    ];
    for header in formats.into_iter().chain([
        lattice(),
        float,
        with_offset,
        on_trellis,
        explicit_trellis,
        exact,
        refinement(2, 0),
        refinement(64, 1),
        finer_trellis,
        recovered,
        finer,
    ]) {
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
    for (states, is_ok) in [(0, false), (1, false), (2, true), (6, true), (7, false), (255, false)] {
        let mut bytes = good.clone();
        bytes[3] |= 64;
        bytes.insert(8, states);
        assert_eq!(TensorHeader::read(&bytes, DType::Bf16, 3, 7).is_ok(), is_ok, "{states}");
    }
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

/// The bound is that of the largest row step with the largest multiplier, though no row has both (SPEC 10.3).
#[test]
fn refuses_multipliers_out_of_bounds() {
    let of = |step, multipliers: Vec<i16>| {
        let rows = Some(IndexArray::new(vec![0, 0, 16]));
        let steps = Steps { rows, multipliers: Some(IndexArray::new(multipliers)), ..Steps::new(step) };
        let header = TensorHeader { body: Body::Lattice(steps), ..lattice() };
        let read = TensorHeader::read(&header.to_bytes(), DType::Bf16, 3, 7).map(|_| ());
        assert_eq!(header.check(DType::Bf16), read);
        read
    };
    assert_eq!(of(1.0, vec![-64, 63, 0]), Ok(()));
    assert_eq!(of(1.0, vec![-65, 63, 0]), Err(CodecError::Multiplier));
    assert_eq!(of(1.0, vec![-64, 64, 0]), Err(CodecError::Multiplier));
    assert_eq!(of(1.2e38, vec![0, -1, -2]), Ok(()));
    let infinite = |result| matches!(result, Err(CodecError::Field { clause: "10.3", .. }));
    assert!(infinite(of(1.2e38, vec![63, -1, -2])));
    assert!(infinite(of(1.8e38, vec![-64, -64, -63])), "without multipliers");
}

/// Groups of 4 columns of int8, of which a row has two.
#[test]
fn refuses_what_the_spec_forbids_of_formats() {
    let scales = IndexArray::new(vec![5, 6, 7, 8, 9, 10]);
    let good =
        TensorHeader { body: Body::Format(Groups::new(Format::Int8, 1.0, 4, 7, scales)), ..lattice() }.to_bytes();
    let read = |bytes: &[u8]| TensorHeader::read(bytes, DType::Bf16, 3, 7);
    assert!(read(&good).is_ok());
    assert_eq!(good[8..10], [Format::Int8 as u8, 4], "format and group width");
    let clause = |edits: &[(usize, u8)]| {
        let mut bytes = good.clone();
        edits.iter().for_each(|&(at, byte)| bytes[at] = byte);
        read(&bytes).expect_err("refused").to_string().rsplit(' ').next().map(str::to_owned)
    };
    let rule_20_1 = Some("20.1)".to_owned());
    for flags in [17, 18, 20, 24, 48, 80] {
        assert_eq!(clause(&[(3, flags)]), rule_20_1, "flags {flags}");
    }
    assert_eq!(clause(&[(3, 144)]), Some("6)".to_owned()));
    for format in [0, 3, 4, 7, 255] {
        assert_eq!(clause(&[(8, format)]), rule_20_1, "format {format}");
    }
    assert_eq!(clause(&[(7, 0x40)]), rule_20_1, "a step of 4");
    let fits = [(8, Format::Nvfp4 as u8), (9, 16)];
    assert!(clause(&fits).is_some(), "scales are more than there are groups");
    for n in 0..good.len() {
        assert!(read(&good[..n]).is_err(), "cut at {n}");
    }
    for (format, scale) in [(Format::Int8, -1), (Format::Fp8E4M3, 0x7F80), (Format::Mxfp4, 255), (Format::Nvfp4, 0x7F)]
    {
        let width = format.group().unwrap_or(0);
        let groups = Groups::new(format, 1.0, width, 7, IndexArray::Constant(scale));
        let header = TensorHeader { body: Body::Format(groups), ..lattice() };
        let wanted = Err(CodecError::Format("the scale of a group is negative, infinite or not a number", "20.2"));
        assert_eq!(header.check(DType::Bf16), wanted);
        assert_eq!(read(&header.to_bytes()).map(|_| ()), wanted);
    }
}

/// A header of a few bytes declares a matrix with more groups than a number counts.
#[test]
fn declared_groups_take_no_memory() {
    let groups = Groups::new(Format::Int8, 1.0, 1, 7, IndexArray::Constant(5));
    let bytes =
        TensorHeader { body: Body::Format(groups), row_classes: IndexArray::Constant(1), ..lattice() }.to_bytes();
    assert!(TensorHeader::read(&bytes, DType::Bf16, 1 << 40, 1 << 8).is_ok());
    assert!(TensorHeader::read(&bytes, DType::Bf16, 1 << 40, 1 << 40).is_err());
}

/// A refinement of factor 3 and offset 5, with no tables but those of escapes.
#[test]
fn refuses_what_the_spec_forbids_above_layer_0() {
    let arrays = [0, 0, 255, 0, 0, 255];
    let refinement = [&[5, 255, 0, 4, 3][..], &0.5f32.to_le_bytes(), &[5], &arrays, &[0; 4]].concat();
    let exact = [&[6, 255, 20, 0][..], &arrays, &[0; 4]].concat();
    let read = |bytes: &[u8]| TensorHeader::read(bytes, DType::F32, 3, 7);
    let body = Body::Refinement(Refinement { offset: 5, ..Refinement::new(3, 0.5) });
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

    #[test]
    fn formats_never_panic(format in 0u8..8, width in 0u8..40, mut bytes: Vec<u8>, rows in 0u64..40, columns in 0u64..40, place: [usize; 2]) {
        let step = 1.0f32.to_le_bytes();
        let mut head = vec![4, 0, 0, 16];
        head.extend(step);
        head.extend([format, width]);
        head.append(&mut bytes);
        if let Ok(header) = TensorHeader::read(&head, DType::Bf16, rows, columns) {
            prop_assert_eq!(TensorHeader::read(&header.to_bytes(), DType::Bf16, rows, columns), Ok(header.clone()));
            let [row, column] = place;
            header.covers(&Place { rows: row..row.saturating_add(1), columns: column..column.saturating_add(1) });
        }
    }
}
