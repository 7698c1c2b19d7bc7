//! Tiles with a format.

use impasto_core::Format;
use impasto_core::format::{Values, weight};
use impasto_core::lattice::round;

use super::*;
use crate::format::Groups;

/// Returns a tensor header with a format for a matrix with these classes.
fn header(format: Format, step: f32, width: u64, rows: &[i16], columns: &[i16], indices: &[i16]) -> TensorHeader {
    let across = if width == 0 { 1 } else { (columns.len() as u64).div_ceil(width) as usize };
    let last = format.scale_form().last();
    let scales: Vec<i16> = indices.iter().cycle().take(rows.len() * across).map(|i| i.rem_euclid(last)).collect();
    let groups = Groups::new(format, step, width, columns.len() as u64, IndexArray::new(scales));
    let plain = float_header(DType::Bf16, 1, rows.to_vec(), columns.to_vec());
    TensorHeader { plane: 1, body: Body::Format(groups), ..plain }
}

/// Returns the weight of an integer by SPEC 20.3, on its own.
fn expected(header: &TensorHeader, dtype: DType, z: i32, row: usize, column: usize) -> f32 {
    let groups = header.groups().expect("a format");
    let group = if groups.width() == 0 { 0 } else { column / groups.width() as usize };
    let scale = groups.format.scale_form().scale(groups.row(row)[group]);
    round(dtype, weight(groups.format.value(z), scale, groups.step))
}

fn bytes_of(dtype: DType, w: f32) -> Vec<u8> {
    match dtype {
        DType::F32 => w.to_le_bytes().to_vec(),
        DType::F16 => half::f16::from_f32(w).to_le_bytes().to_vec(),
        _ => half::bf16::from_f32(w).to_le_bytes().to_vec(),
    }
}

proptest! {
    /// Every integer is a weight, those out of range too; and an exact layer above restores any float.
    #[test]
    fn weights_are_those_of_the_format(
        format in prop::sample::select(Format::ALL.to_vec()),
        dtype in prop::sample::select(FLOATS[..3].to_vec()),
        (place, rows, columns) in placed(),
        width in 0u64..40,
        indices in prop::collection::vec(any::<i16>(), 1..50),
        noise in prop::collection::vec(prop_oneof![9 => -140i32..140, 1 => any::<i32>()], 1..300),
        elements in prop::collection::vec(any::<u8>(), 1..500),
    ) {
        let step = if format.has_tensor_scale() { 0.3 } else { 1.0 };
        let base = header(format, step, format.group().unwrap_or(width), &rows, &columns, &indices);
        let z: Vec<i32> = noise.iter().copied().cycle().take(place.elements()).collect();
        let unit = TileEncoder::new(&base, 2).lattice(&place, &z).expect("codes");
        let n = place.columns.len();
        let at = |i: usize| (place.rows.start + i / n, place.columns.start + i % n);
        let wanted: Vec<u8> = z.iter().enumerate().flat_map(|(i, &z)| {
            let (row, column) = at(i);
            bytes_of(dtype, expected(&base, dtype, z, row, column))
        }).collect();
        let exact = TensorHeader {
            shape: Shape::Explicit(vec![Frequencies::only_escape(); 32]), plane: 0, body: Body::Exact, ..base.clone()
        };
        let original: Vec<u8> = elements.iter().copied().cycle().take(wanted.len()).collect();
        let values = Values::of(format);
        let signs: Vec<i32> = z.iter().map(|&z| values.sign(z)).collect();
        let above = TileEncoder::new(&exact, 1).exact(dtype, &place, &signs, &wanted, &original).expect("codes");
        let units = [Unit { mode: Mode::LATTICE, bytes: &unit }, Unit { mode: Mode::EXACT, bytes: &above }];
        for isa in Isa::available() {
            let decoder = TileDecoder::new(dtype, vec![base.clone(), exact.clone()], isa)?;
            let mut out = vec![0; wanted.len()];
            decoder.decode(&units[..1], &place, &mut out, n * dtype.size())?;
            prop_assert_eq!(&out, &wanted);
            decoder.decode(&units, &place, &mut out, n * dtype.size())?;
            prop_assert_eq!(&out, &original);
            let mut integers = vec![0; z.len()];
            decoder.integers(&units, &place, &mut integers, n)?;
            prop_assert_eq!(&integers, &z);
        }
    }
}

/// SPEC 20.4.
#[test]
fn other_layers_and_modes_are_refused() {
    let base = header(Format::Int8, 1.0, 0, &[0; 4], &[0; 32], &[1]);
    let refinement = TensorHeader {
        shape: Shape::Explicit(vec![Frequencies::only_escape(); 24]),
        plane: 0,
        body: Body::Refinement(crate::Refinement::new(2, 1.0)),
        ..base.clone()
    };
    let refused = TileDecoder::new(DType::Bf16, vec![base.clone(), refinement], Isa::Scalar).map(|_| ());
    assert_eq!(refused, Err(CodecError::Format("a refinement above a tensor with a format", "20.4")));
    let decoder = decoder(DType::Bf16, &base, Isa::Scalar);
    let place = Place { rows: 0..4, columns: 0..32 };
    let decoded = decoder.decode(&[Unit { mode: Mode::TRANSFORM, bytes: &[0; 9] }], &place, &mut [0; 256], 64);
    assert_eq!(decoded, Err(CodecError::Format("a tile in mode transform of a tensor with a format", "20.4")));
}

/// A place outside the groups is an error of the call.
#[test]
fn groups_cover_the_matrix() {
    let base = header(Format::Int4, 1.0, 8, &[0; 4], &[0; 20], &[1, 2]);
    let decoder = decoder(DType::Bf16, &base, Isa::Scalar);
    let z = [1; 80];
    let place = Place { rows: 0..4, columns: 0..20 };
    let unit = TileEncoder::new(&base, 1).lattice(&place, &z).expect("codes");
    let units = [Unit { mode: Mode::LATTICE, bytes: &unit }];
    decoder.decode(&units, &place, &mut [0; 160], 40).expect("decodes");
    for place in [Place { rows: 1..5, columns: 0..20 }, Place { rows: 0..4, columns: 5..25 }] {
        assert!(matches!(decoder.decode(&units, &place, &mut [0; 160], 40), Err(CodecError::Call(_))), "{place:?}");
    }
}
