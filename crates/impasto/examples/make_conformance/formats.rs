//! Files for SPEC 20: formats of engines.

use std::error::Error;

use impasto_codec::tables::Frequencies;
use impasto_codec::tile::{TileDecoder, Unit};
use impasto_codec::{Body, Groups, IndexArray, Kind, Shape, TensorHeader};
use impasto_core::format::Values;
use impasto_core::{DType, Format, Isa, Mode};

use super::numbers::{Random, bell_floats, lattice_header, pack};
use super::set::{Matrix, Set};

/// Every format and form of scales, with groups that tiles cut, integers out of range, and scales from 0 to the largest.
pub fn formats(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(31));
    let matrix = Matrix { dtype, sides: (9, 75), tile: (5, 32) };
    for (format, width, step) in [
        (Format::Fp8E4M3, 0, 1.0),
        (Format::Fp8E5M2, 50, 1.0),
        (Format::Int4, 24, 1.0),
        (Format::Int8, 1, 1.0),
        (Format::Mxfp4, 32, 1.0),
        (Format::Nvfp4, 16, 0.003),
    ] {
        let across = if width == 0 { 1 } else { 75u64.div_ceil(width) };
        let last = i64::from(format.scale_form().last());
        // Some scales are extreme, most are near 1.
        let middle = if format.has_tensor_scale() { 0x38 } else { last / 2 };
        let scale = |i: u64, random: &mut Random| match i % 11 {
            0 => random.below(last as u64 + 1),
            5 => [0, last, 1][i as usize % 3],
            _ => middle + random.below(9) - 4,
        };
        let scales = (0..9 * across).map(|i| scale(i, &mut random) as i16).collect();
        let groups = Groups::new(format, step, width, 75, IndexArray::new(scales));
        let (least, most) = format.range();
        let z: Vec<i32> = (0..9 * 75)
            .map(|i| match i % 41 {
                7 => [i32::MIN, i32::MAX, least - 1, most + 1][i / 41 % 4],
                _ => least + random.below((most - least) as u64 + 1) as i32,
            })
            .collect();
        let header =
            TensorHeader { body: Body::Format(groups), ..lattice_header(Shape::Parametric(4), 0, 1.0, vec![24; 9]) };
        set.lattice(format.name(), &matrix, &header, 2, &z)?;
    }
    let one = Groups::new(Format::Nvfp4, 1.5, 16, 75, IndexArray::Constant(0x40));
    let header = TensorHeader { body: Body::Format(one), ..lattice_header(Shape::Parametric(1), 0, 1.0, vec![20; 9]) };
    set.lattice("one-scale", &matrix, &header, 1, &random.integers(matrix.sides, |_| 20))?;
    Ok(set)
}

/// An exact layer above a format.
pub fn exact_above_a_format() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(32));
    for (dtype, format) in [(DType::Bf16, Format::Mxfp4), (DType::F16, Format::Fp8E4M3), (DType::F32, Format::Int4)] {
        let matrix = Matrix { dtype, sides: (6, 64), tile: (6, 64) };
        // From 2^-4 to about 2^-2; a few are 0.
        let (form, (least, most)) = (format.scale_form(), format.range());
        let middle = form.index_below(0.0625);
        let scale = |i: i64, random: &mut Random| if i == 7 { 0 } else { middle + random.below(3) as i16 };
        let scales = (0..12).map(|i| scale(i, &mut random)).collect();
        let groups = Groups::new(format, 1.0, 32, 64, IndexArray::new(scales));
        let z: Vec<i32> = (0..6 * 64).map(|_| least + random.below((most - least) as u64 + 1) as i32).collect();
        let values = Values::of(format);
        let signs: Vec<i32> = z.iter().map(|&z| values.sign(z)).collect();
        let header =
            TensorHeader { body: Body::Format(groups), ..lattice_header(Shape::Parametric(0), 0, 1.0, vec![22; 6]) };
        set.lattice(dtype.name(), &matrix, &header, 1, &z)?;
        let decoder = TileDecoder::new(dtype, vec![header], Isa::Scalar)?;
        let mut weights = vec![0; z.len() * dtype.size()];
        let unit = set.units.last().map(|(.., unit)| unit.clone()).unwrap_or_default();
        let place = impasto_core::Place { rows: 0..6, columns: 0..64 };
        decoder.decode(&[Unit { mode: Mode::LATTICE, bytes: &unit }], &place, &mut weights, 64 * dtype.size())?;
        let elements = pack(dtype, &bell_floats(dtype, -3, z.len(), &mut random));
        let layout = dtype.float_layout().ok_or("no float")?;
        let bias = (1 << (layout.exponent - 1)) - 1;
        let plane = layout.mantissa.saturating_sub(7) as u8;
        let exact = TensorHeader {
            shape: Shape::Explicit(vec![even(); Kind::Exact.tables()]),
            body: Body::Exact,
            ..lattice_header(Shape::Parametric(0), plane, 1.0, vec![4 * (bias + 4); 6])
        };
        set.exact(1, &matrix, &exact, &signs, &weights, &elements)?;
    }
    set.by_layer();
    Ok(set)
}

/// All symbols alike.
fn even() -> Frequencies {
    Frequencies([32; 64])
}
