//! Files for SPEC 6 to 10: tensor headers, classes, segments, floats, lattice.

use std::error::Error;

use impasto_codec::tables::{Frequencies, fit, parametric};
use impasto_codec::{Body, IndexArray, Kind, Shape, Steps, Trellis};
use impasto_core::DType;

use super::numbers::{Random, bell_floats, float_header, lattice_header, pack};
use super::set::{Matrix, Set};

/// Explicit tables: the escape has no frequency in table 1, and omitted tables code nothing but escapes.
pub fn explicit_tables() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(8));
    let sides = (12, 64);
    let mut tables = parametric(Kind::Float, 2).ok_or("shape 2")?;
    let mut counts = [0; 64];
    counts[20..63].iter_mut().enumerate().for_each(|(i, n)| *n = 1 + i as u64);
    (tables[1], tables[3]) = (fit(&counts), Frequencies::only_escape());
    let matrix = Matrix { dtype: DType::F32, sides, tile: (8, 64) };
    let patterns = bell_floats(DType::F32, 3, sides.0 * sides.1, &mut random);
    let mut header = float_header(DType::F32, Shape::Explicit(tables), 3, sides);
    (header.row_classes, header.column_classes) = (
        IndexArray::new((0..12).map(|r| 4 * 130 + if r < 8 { 0 } else { 2 + r % 2 }).collect()),
        IndexArray::Constant(0),
    );
    set.floats("float", &matrix, &header, 1, &pack(DType::F32, &patterns))?;

    let classes: Vec<i16> = (0..12).map(|r| [5, 20, 23, 37, 43, 0][r % 6]).collect();
    let z = random.integers(sides, |r| i64::from(classes[r]));
    let mut tables = parametric(Kind::Lattice, 4).ok_or("shape 4")?;
    counts = [0; 64];
    counts[31] = 1;
    tables[0] = fit(&counts);
    counts = [3; 64];
    tables[23] = fit(&counts);
    let header = lattice_header(Shape::Explicit(tables), 0, 0.01, classes);
    let z: Vec<i32> = z.iter().enumerate().map(|(i, &z)| if i / 64 % 6 == 5 { 0 } else { z }).collect();
    set.lattice("lattice", &Matrix { dtype: DType::F16, ..matrix }, &header, 3, &z)?;
    Ok(set)
}

/// Every shape, with every table and every number of low bits.
pub fn shapes(kind: Kind) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(9));
    for shape in 0..5u8 {
        let (name, table) = (format!("shape-{shape}"), Shape::Parametric(shape));
        if kind == Kind::Float {
            let matrix = Matrix { dtype: DType::Bf16, sides: (12, 64), tile: (12, 64) };
            let patterns = bell_floats(DType::Bf16, -4, 12 * 64, &mut random);
            let mut header = float_header(DType::Bf16, table, -4, matrix.sides);
            header.row_classes = IndexArray::new((0..12).map(|r| 4 * 123 + r % 4 - 1).collect());
            set.floats(&name, &matrix, &header, 1, &pack(DType::Bf16, &patterns))?;
        } else {
            let matrix = Matrix { dtype: DType::F32, sides: (44, 64), tile: (44, 64) };
            let z = random.integers(matrix.sides, |r| r as i64);
            let header = lattice_header(table, 0, 0.125, (0..44).collect());
            set.lattice(&name, &matrix, &header, 1, &z)?;
        }
    }
    Ok(set)
}

/// One segment, several, and as many as possible; the lower tile has fewer rows than segments.
pub fn segments() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(10));
    let dtype = DType::Bf16;
    for (name, segments) in [("a", 1), ("b", 3), ("c", 16)] {
        let matrix = Matrix { dtype, sides: (40, 64), tile: (37, 64) };
        let patterns = bell_floats(dtype, -3, 40 * 64, &mut random);
        let header = float_header(dtype, Shape::Parametric(1), -3, matrix.sides);
        set.floats(name, &matrix, &header, segments, &pack(dtype, &patterns))?;
    }
    Ok(set)
}

/// Values outside of every table, including the extremes of i32.
pub fn escapes() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(11));
    let matrix = Matrix { dtype: DType::F32, sides: (8, 70), tile: (8, 70) };
    let wild: Vec<u8> = random.bytes(8 * 70 * 4);
    set.floats("float", &matrix, &float_header(DType::F32, Shape::Parametric(0), 0, matrix.sides), 2, &wild)?;
    let edges = [i32::MIN, i32::MAX, i32::MIN + 1, i32::MAX - 1, 1 << 30, -(1 << 30), 1 << 24, (1 << 24) + 1, 0, -1];
    for (name, plane, class) in [("lattice", 0, 20), ("lattice-of-low-bits", 0, 43), ("lattice-of-plane", 20, 0)] {
        // Some rows have almost only escapes, others a few.
        let z: Vec<i32> =
            (0..8 * 70).map(|i| if i % 70 <= i / 70 * 9 { edges[i % 10] } else { (i % 5) as i32 }).collect();
        set.lattice(name, &matrix, &lattice_header(Shape::Parametric(4), plane, 1e-6, vec![class; 8]), 2, &z)?;
    }
    Ok(set)
}

/// Zeros, subnormals, infinities and NaN payloads of both signs; every 8-bit pattern, every 61st 16-bit pattern; and
/// common values.
pub fn floats(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(12));
    let layout = dtype.float_layout().ok_or("no float")?;
    let width = 8 * dtype.size() as u32;
    let (sign, infinity) = (1u32 << (width - 1), ((1 << layout.exponent) - 1) << layout.mantissa);
    let one = 1u32 << layout.mantissa;
    let edges = [0, 1, 2, one - 1, one, one + 1, infinity - 1, infinity, infinity + 1, infinity | one >> 1, sign - 1];
    let mut special: Vec<u32> = edges.iter().flat_map(|&e| [e, e | sign]).collect();
    let step = [1, 61, 0x0100_0193][dtype.size() / 2];
    special.extend((0..1024u32).map(|i| i.wrapping_mul(step) & (sign | (sign - 1))));
    let columns = 70;
    special.resize(special.len().next_multiple_of(columns), 0);
    let sides = (special.len() / columns, columns);
    let matrix = Matrix { dtype, sides, tile: (8, 64) };
    let header = float_header(dtype, Shape::Parametric(3), 0, sides);
    set.floats("special", &matrix, &header, 2, &pack(dtype, &special))?;
    let octave = if dtype == DType::F8E4M3 { 0 } else { -5 };
    let usual = bell_floats(dtype, octave, sides.0 * columns, &mut random);
    let header = float_header(dtype, Shape::Parametric(0), octave as i16, sides);
    set.floats("usual", &matrix, &header, 2, &pack(dtype, &usual))?;
    Ok(set)
}

/// From the smallest subnormals to infinity, if the dtype has few exponents.
pub fn lattice(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(13));
    let matrix = Matrix { dtype, sides: (30, 100), tile: (16, 64) };
    for (name, step) in [("huge", 3e37), ("small", 1e-7), ("tiny", f32::from_bits(1)), ("usual", 0.0123)] {
        let z = random.integers(matrix.sides, |r| 14 + r as i64 % 16);
        let mut header = lattice_header(Shape::Parametric(2), 0, step, (0..30).map(|r| 12 + r % 16).collect());
        header.column_classes = IndexArray::new((0..100).map(|c| 1 + c % 3).collect());
        set.lattice(name, &matrix, &header, 2, &z)?;
    }
    Ok(set)
}

/// Raw bits below the coded integers.
pub fn plane() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(14));
    let matrix = Matrix { dtype: DType::F32, sides: (9, 45), tile: (5, 32) };
    for (name, plane, dtype) in
        [("1", 1, DType::Bf16), ("13", 13, DType::F32), ("20", 20, DType::F32), ("7", 7, DType::F16)]
    {
        let z = random.integers(matrix.sides, |r| 4 * plane + 4 * r as i64);
        let header = lattice_header(Shape::Parametric(0), plane as u8, 0.001, (0..9).map(|r| 4 * r).collect());
        set.lattice(name, &Matrix { dtype, ..matrix }, &header, 2, &z)?;
    }
    Ok(set)
}

/// Steps of rows and columns, up to the extremes.
pub fn steps() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(15));
    let sides = (33, 70);
    let matrix = Matrix { dtype: DType::F32, sides, tile: (20, 32) };
    let fine = |n: usize, random: &mut Random| IndexArray::new((0..n).map(|_| random.below(65) as i16 - 32).collect());
    let wide = |n: usize| IndexArray::new((0..n).map(|i| (i * 2047 / (n - 1)) as i16 - 1024).collect());
    for (name, dtype, rows, columns, step) in [
        ("both", DType::Bf16, Some(fine(33, &mut random)), Some(fine(70, &mut random)), 0.02),
        ("columns", DType::F16, None, Some(fine(70, &mut random)), 0.003),
        ("extremes-bf16", DType::Bf16, Some(wide(33)), Some(wide(70)), 1.0),
        ("extremes-f16", DType::F16, Some(wide(33)), Some(wide(70)), 1e-3),
        ("extremes-f32", DType::F32, Some(wide(33)), Some(wide(70)), 1e-20),
        ("one-for-all", DType::F32, Some(IndexArray::Constant(-1024)), Some(IndexArray::Constant(1023)), 3.0),
        ("rows", DType::F32, Some(fine(33, &mut random)), None, 1e-39),
    ] {
        let z = random.integers(sides, |r| 10 + r as i64 % 9);
        let mut header = lattice_header(Shape::Parametric(1), 0, step, (0..33).map(|r| 10 + r % 9).collect());
        header.body = Body::Lattice(Steps { rows, columns, ..Steps::new(step) });
        set.lattice(name, &Matrix { dtype, ..matrix }, &header, 1, &z)?;
    }
    Ok(set)
}

/// Trellises of all numbers of states, with both kinds of tables, low bits, escapes, planes, segments and tiles.
pub fn trellises() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(41));
    let (sides, segments) = ((30, 70), 3);
    for log_states in 2..=6u8 {
        let trellis = Trellis::new(log_states);
        let classes: Vec<i16> = (0..sides.0).map(|r| [15, 18, 22, 27, 34, 43, -3][r % 7]).collect();
        let mut indices = random.integers(sides, |r| i64::from(classes[r].max(3)));
        indices[usize::from(log_states)] = 70_000;
        indices[sides.1 * sides.0 - 2] = i32::MIN;
        let (shape, plane) = match log_states {
            3 => (Shape::Parametric(1), 2),
            4 => {
                let mut tables = parametric(Kind::Trellis, 4).ok_or("shape 4")?;
                tables.rotate_right(1);
                (Shape::Explicit(tables), 0)
            }
            other => (Shape::Parametric(other % 5), 0),
        };
        let mut header = lattice_header(shape, plane, 0.125, classes);
        let offset = if log_states == 5 { 20 } else { 0 };
        header.body = Body::Lattice(Steps { trellis, offset, ..Steps::new(0.125) });
        let part = |j: usize| j * sides.0 / segments * sides.1;
        let path = |j: usize| trellis.map(|trellis| trellis.path(sides.1, &indices[part(j)..part(j + 1)]));
        let z: Vec<i32> = (0..segments).filter_map(path).flatten().collect();
        let matrix =
            Matrix { dtype: [DType::F32, DType::F16, DType::Bf16][usize::from(log_states) % 3], sides, tile: sides };
        set.lattice(&format!("states-{:02}", 1 << log_states), &matrix, &header, segments, &z)?;
    }
    // Every tile begins anew.
    let (tile, trellis) = ((8, 32), Trellis::new(3));
    let mut header = lattice_header(Shape::Parametric(0), 0, 0.5, vec![17; 16]);
    header.body = Body::Lattice(Steps { trellis, ..Steps::new(0.5) });
    let indices = random.integers((8, 64), |_| 17);
    let path: Vec<i32> = trellis.map(|trellis| trellis.path(64, &indices)).unwrap_or_default();
    let matrix = Matrix { dtype: DType::F32, sides: (16, 64), tile };
    set.lattice("tiles", &matrix, &header, 1, &[&path[..], &path[..]].concat())?;
    Ok(set)
}
