//! Files for SPEC 21: a base, and deltas of it.

use std::error::Error;
use std::path::Path;

use impasto::{Bases, File};
use impasto_codec::low_rank::{LowRank, Term};
use impasto_codec::{IndexArray, Shape, Steps};
use impasto_container::BaseUsage::{self, Identical, Predicted};
use impasto_container::{Base, ObjectKind};
use impasto_core::{DType, Isa, Mode, lattice::write_row_at, values::to_f32};

use super::LATTICES;
use super::layers::{Layered, elements};
use super::numbers::{Random, bell_floats, float_header, pack};
use super::set::{Done, Matrix, Set};

/// The sides of the tensors of floats in the base.
const SIDES: (usize, usize) = (20, 70);
/// An asset of the base, and one of a delta.
const BYTES: &[u8] = b"{\"words\": \"again and again and again\"}\n";
const OWN: &[u8] = b"of the delta itself";

/// Writes the base and its deltas.
///
/// # Errors
/// If something cannot be coded, written or read.
pub fn deltas(folder: &Path) -> Done {
    let path = |name: &str| folder.join(format!("{name}.impasto"));
    base()?.write(&path("21-base"))?;
    let base = File::open(&path("21-base"))?;
    identical(&base)?.write(&path("21.2-identical"))?;
    levels(&base)?.write(&path("21.4-levels-of-the-base"))?;
    same(&base)?.write(&path("21.5-same"))?;
    for dtype in LATTICES {
        let name = dtype.name().to_lowercase();
        exact(&base, dtype)?.write(&path(&format!("21.6-exact-over-a-base-{name}")))?;
        lattices(&base, dtype)?.write(&path(&format!("21.7-lattice-over-a-base-{name}")))?;
    }
    chain(&Bases::default().open(&path("21.2-identical"))?)?.write(&path("21.8-delta-of-a-delta"))?;
    chain(&Bases::default().open(&path("21.8-delta-of-a-delta"))?)?.write(&path("21.8-delta-of-a-delta-of-a-delta"))
}

/// A file of every dtype that deltas can be made from, with a tensor of four levels, and tied ones.
fn base() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(61));
    asset(&mut set, "config.json", BYTES);
    asset(&mut set, "empty", &[]);
    for dtype in [DType::Bf16, DType::F16, DType::F32] {
        let matrix = Matrix { dtype, sides: SIDES, tile: (9, 32) };
        let header = float_header(dtype, Shape::Parametric(1), -3, SIDES);
        let bits = elements(dtype, SIDES.0 * SIDES.1, &mut random);
        set.floats(&dtype.name().to_lowercase(), &matrix, &header, 2, &pack(dtype, &bits))?;
    }
    for (name, dtype) in [("f8-e4m3", DType::F8E4M3), ("f8-e5m2", DType::F8E5M2), ("i32", DType::I32)] {
        let matrix = Matrix { dtype, sides: SIDES, tile: (7, 96) };
        set.tensor(name, &matrix);
        set.bytes(&matrix, &random.bytes(SIDES.0 * SIDES.1 * dtype.size()))?;
    }
    let matrix = Matrix { dtype: DType::Bf16, sides: SIDES, tile: (9, 32) };
    let bits = elements(DType::Bf16, SIDES.0 * SIDES.1, &mut random);
    let mut layered = Layered::new(&mut set, "layered", matrix, bits, Steps { offset: 5, ..Steps::new(0.1) })?;
    layered.refine(&mut set, 4, 0)?;
    layered.refine(&mut set, 3, 9)?;
    layered.exact(&mut set, 0)?;
    set.opaque("opaque", "F4", vec![9, 8], 32, &random.bytes(36))?;
    let blocks = Matrix { dtype: DType::Q4_0, sides: (5, 3), tile: (2, 32) };
    set.tensor("q4_0", &blocks);
    set.bytes(&blocks, &random.bytes(5 * 3 * 18))?;
    // Of the tensor bf16, which is object 2, and split otherwise.
    set.tensor_of("tied", &matrix, vec![SIDES.0 as u64, SIDES.1 as u64], 0, Some(2));
    Ok(set)
}

/// Adds an asset in pieces.
fn asset(set: &mut Set, name: &str, bytes: &[u8]) {
    set.object(name, ObjectKind::Asset { length: bytes.len() as u64, piece: 21, base: None });
    for (i, piece) in bytes.chunks(21).enumerate() {
        set.unit(i, Mode::STORED, piece.to_vec());
    }
}

/// Adds an asset that is identical to that of the base.
fn same_asset(set: &mut Set, base: &File, name: &str, bytes: &[u8]) -> Done {
    set.object(name, ObjectKind::Asset { length: bytes.len() as u64, piece: 1, base: None });
    set.take(base, Identical, name, 0)
}

/// Returns a delta without objects.
fn over(base: &File) -> Set {
    let mirrors = vec!["../somewhere/21-base.impasto".to_owned(), "https://example.com/é".to_owned()];
    let base = Base { root: *base.reader().root(), name: "a base".into(), license: "apache-2.0".into(), mirrors };
    let mut set = Set::default();
    set.base = Some(base);
    set
}

/// Objects that are identical to those of the base, with the same names and others.
fn identical(base: &File) -> Result<Set, Box<dyn Error>> {
    let mut set = over(base);
    same_asset(&mut set, base, "config.json", BYTES)?;
    same_asset(&mut set, base, "empty", &[])?;
    asset(&mut set, "own", OWN);
    let floats = |dtype| Matrix { dtype, sides: SIDES, tile: (20, 70) };
    let tensor = |set: &mut Set, name: &str, dtype, of_base: &str, level| {
        set.tensor(name, &floats(dtype));
        set.take(base, Identical, of_base, level)
    };
    tensor(&mut set, "a-renamed", DType::F32, "f32", 0)?;
    tensor(&mut set, "bf16", DType::Bf16, "bf16", 0)?;
    for level in 0..4 {
        tensor(&mut set, &format!("c-level-{level}"), DType::Bf16, "layered", level)?;
    }
    tensor(&mut set, "d-of-a-tied-one", DType::Bf16, "tied", 0)?;
    set.object("opaque", opaque());
    set.take(base, Identical, "opaque", 0)?;
    set.tensor("q4_0", &Matrix { dtype: DType::Q4_0, sides: (5, 3), tile: (5, 3) });
    set.take(base, Identical, "q4_0", 0)?;
    // Of a-renamed, which is object 3.
    set.tensor_of("tied", &floats(DType::F32), vec![20, 70], 1, Some(3));
    Ok(set)
}

fn opaque() -> ObjectKind {
    let opaque = Some(impasto_container::Opaque { name: "F4".into(), bytes: 36 });
    ObjectKind::Tensor(impasto_container::TensorMeta {
        dtype: DType::Opaque,
        opaque,
        dims: vec![9, 8],
        split: 0,
        tile_rows: 1,
        tile_cols: 64,
        tied: None,
        reference: None,
        base: None,
    })
}

/// Adds a tensor in mode same.
fn same_as(set: &mut Set, base: &File, name: &str, matrix: Matrix, of_base: &str, level: u8) -> Done {
    set.tensor(name, &matrix);
    set.take(base, Predicted, of_base, level)?;
    let tiles = matrix.parts(&vec![0; matrix.sides.0 * matrix.sides.1 * matrix.dtype.size()]).len();
    (0..tiles).for_each(|tile| set.unit(tile, Mode::SAME, vec![]));
    Ok(())
}

/// The same elements, in other tiles and dtypes, with fewer rows or more, and beside tiles in other modes.
fn same(base: &File) -> Result<Set, Box<dyn Error>> {
    let mut set = over(base);
    let mut tensor = |name: &str, dtype, sides, tile, of_base: &str| {
        same_as(&mut set, base, name, Matrix { dtype, sides, tile }, of_base, 0)
    };
    for from in ["bf16", "f16", "f32", "f8-e4m3", "f8-e5m2"] {
        for to in [DType::Bf16, DType::F16, DType::F32] {
            tensor(&format!("{from}-as-{}", to.name().to_lowercase()), to, SIDES, (11, 64), from)?;
        }
    }
    tensor("g-fewer-rows", DType::I32, (8, 70), (3, 32), "i32")?;
    tensor("g-more-rows", DType::F32, (50, 70), (9, 32), "bf16")?;
    tensor("g-none", DType::F16, (0, 70), (9, 32), "f16")?;
    tensor("q4_0", DType::Q4_0, (7, 3), (4, 3), "q4_0")?;
    let matrix = Matrix { dtype: DType::F8E4M3, sides: SIDES, tile: (9, 64) };
    set.tensor("stored-in-part", &matrix);
    set.take(base, Predicted, "f8-e4m3", 0)?;
    for (tile, part) in matrix.parts(&Random(62).bytes(SIDES.0 * SIDES.1)).into_iter().enumerate() {
        let is_same = tile % 2 == 0;
        set.unit(tile, if is_same { Mode::SAME } else { Mode::STORED }, if is_same { vec![] } else { part });
    }
    // Of bf16-as-bf16, which is the first one.
    set.tensor_of("tied", &Matrix { dtype: DType::Bf16, ..matrix }, vec![20, 70], 1, Some(0));
    Ok(set)
}

/// Tensors over each level of one of the base, and over one that it does not have.
fn levels(base: &File) -> Result<Set, Box<dyn Error>> {
    let mut set = over(base);
    for level in [0, 1, 2, 200, 3] {
        let matrix = Matrix { dtype: DType::F32, sides: (22, 70), tile: (8, 64) };
        same_as(&mut set, base, &format!("level-{level}"), matrix, "layered", level)?;
    }
    Ok(set)
}

/// Returns the base elements of a matrix (SPEC 21.4), from a tensor that is read at its highest level.
fn base_elements(base: &File, name: &str, matrix: &Matrix) -> Result<Vec<u8>, Box<dyn Error>> {
    let tensor = base.tensor(name)?;
    let mut elements = tensor.bytes()?;
    if tensor.dtype() != matrix.dtype {
        let mut weights = Vec::new();
        to_f32(tensor.dtype(), &elements, &mut weights);
        weights.iter_mut().filter(|weight| weight.is_nan()).for_each(|weight| *weight = 0.0);
        elements = vec![0; weights.len() * matrix.dtype.size()];
        write_row_at(Isa::Scalar, matrix.dtype, &weights, &mut elements);
    }
    elements.resize(matrix.sides.0 * matrix.sides.1 * matrix.dtype.size(), 0);
    Ok(elements)
}

/// Returns elements near those of a base: most are the same, or near in bits, some are any.
fn near(dtype: DType, of_base: &[u8], random: &mut Random) -> Vec<u32> {
    let bits = |bytes: &[u8]| bytes.iter().rev().fold(0u32, |bits, &byte| bits << 8 | u32::from(byte));
    let mask = u32::MAX >> (32 - 8 * dtype.size());
    let far = bell_floats(dtype, -3, of_base.len() / dtype.size(), random);
    let element = |(i, (p, far)): (usize, (&[u8], u32))| match i % 13 {
        0 | 1 => bits(p),
        2 => far,
        3 => bits(p) ^ (mask / 2 + 1),
        _ => bits(p).wrapping_add(random.below(41) as u32).wrapping_sub(20) & mask,
    };
    of_base.chunks_exact(dtype.size()).zip(far).enumerate().map(element).collect()
}

/// A low-rank part with a constant array of factors.
fn low_rank(rows: usize, random: &mut Random) -> LowRank {
    let mut factors = |n: usize| IndexArray::new((0..n).map(|_| random.below(401) as i16 - 200).collect());
    let terms = vec![
        Term { scale: 1e-6, rows: factors(rows), columns: factors(SIDES.1) },
        Term { scale: 3e-7, rows: IndexArray::Constant(-77), columns: factors(SIDES.1) },
    ];
    LowRank { terms }
}

/// Exact tiles in layer 0: over the same dtype and others, with more rows and fewer, with a plane, and with a low-rank part.
fn exact(base: &File, dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (over(base), Random(63));
    let own = dtype.name().to_lowercase();
    for (name, of_base, rows, plane, has_low_rank) in [
        ("a-own", &own[..], 20, 0, false),
        ("b-fewer-rows", &own[..], 11, 3, false),
        ("c-more-rows", &own[..], 33, 0, false),
        ("d-over-bf16", "bf16", 20, 5, false),
        ("e-over-f16", "f16", 20, 0, false),
        ("f-over-f8", "f8-e5m2", 20, 2, false),
        ("g-over-layers", "layered", 20, 0, false),
        ("h-low-rank", &own[..], 27, 0, true),
        ("i-low-rank-over-f32", "f32", 20, 4, true),
    ] {
        let matrix = Matrix { dtype, sides: (rows, 70), tile: (16, 64) };
        let of = base_elements(base, of_base, &matrix)?;
        let bits = near(dtype, &of, &mut random);
        let low_rank = has_low_rank.then(|| low_rank(rows, &mut random));
        let steps = Steps { low_rank, ..Steps::new(0.01) };
        let level = if of_base == "layered" { 3 } else { 0 };
        Layered::exact_in_layer_0(&mut set, name, matrix, bits, steps, of, plane)?;
        set.take(base, Predicted, of_base, level)?;
    }
    Ok(set)
}

/// Lattices over a base: with steps, offset and low-rank part, below refinements and exact layers.
fn lattices(base: &File, dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (over(base), Random(64));
    let own = dtype.name().to_lowercase();
    let fine = |n: usize, random: &mut Random| IndexArray::new((0..n).map(|_| random.below(33) as i16 - 16).collect());
    for (name, of_base, rows, refinements, is_exact, has_low_rank) in [
        ("a-own", &own[..], 20, 0, false, false),
        ("b-steps", &own[..], 20, 0, false, false),
        ("c-more-rows", &own[..], 29, 1, false, false),
        ("d-over-f8", "f8-e4m3", 20, 0, true, false),
        ("e-over-layers", "layered", 20, 2, true, false),
        ("f-low-rank", &own[..], 20, 0, false, true),
        ("g-low-rank-and-layers", "f16", 25, 1, true, true),
        ("h-exact", &own[..], 20, 0, true, false),
    ] {
        let matrix = Matrix { dtype, sides: (rows, 70), tile: (16, 64) };
        let of = base_elements(base, of_base, &matrix)?;
        let bits = near(dtype, &of, &mut random);
        let low_rank = has_low_rank.then(|| low_rank(rows, &mut random));
        let has_steps = name == "b-steps";
        let (of_rows, of_columns) = (fine(rows, &mut random), fine(70, &mut random));
        let (of_rows, of_columns) = (has_steps.then_some(of_rows), has_steps.then_some(of_columns));
        let steps = Steps { offset: 7, rows: of_rows, columns: of_columns, low_rank, ..Steps::new(0.05) };
        let mut layered = Layered::over(&mut set, name, matrix, bits, steps, Some(of))?;
        for factor in [3, 4].into_iter().take(refinements) {
            layered.refine(&mut set, factor, 9)?;
        }
        if is_exact {
            layered.exact(&mut set, if dtype == DType::F32 { 9 } else { 0 })?;
        }
        let level = if of_base == "layered" { 3 } else { 0 };
        set.take(base, Predicted, of_base, level)?;
    }
    set.by_layer();
    Ok(set)
}

/// A delta of [`identical()`], or of such a delta of it: what it takes from there is partly there, partly further down.
fn chain(base: &File) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (over(base), Random(65));
    let link = |set: &mut Set, usage: BaseUsage, name: &str| set.take(base, usage, name, 0);
    same_asset(&mut set, base, "config.json", BYTES)?;
    same_asset(&mut set, base, "own", OWN)?;
    let matrix = Matrix { dtype: DType::F32, sides: SIDES, tile: (9, 32) };
    let of = base_elements(base, "a-renamed", &matrix)?;
    let bits = near(DType::F32, &of, &mut random);
    Layered::exact_in_layer_0(&mut set, "a-renamed", matrix, bits, Steps::new(0.01), of, 8)?;
    link(&mut set, Predicted, "a-renamed")?;
    set.tensor("c-level-1", &Matrix { dtype: DType::Bf16, ..matrix });
    link(&mut set, Identical, "c-level-1")?;
    same_as(&mut set, base, "d-as-f16", Matrix { dtype: DType::F16, ..matrix }, "c-level-1", 0)?;
    Ok(set)
}
