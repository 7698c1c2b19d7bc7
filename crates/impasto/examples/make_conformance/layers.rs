//! Files for SPEC 12 to 14, 16 and 19: refinements, exact layers, layers of blocks, low-rank parts below them.

use std::error::Error;

use impasto_codec::class::class;
use impasto_codec::low_rank::{LowRank, Term};
use impasto_codec::rans::symbol;
use impasto_codec::sink::SymbolSink;
use impasto_codec::tables::{SYMBOLS, fit};
use impasto_codec::tile::syntax::{Sums, blocks_row};
use impasto_codec::transform::{Parameters, Setup};
use impasto_codec::{Body, IndexArray, Kind, Refinement, Shape, Steps, TensorHeader, exact, refinement};
use impasto_core::{
    DType, Isa, Mode, blocks,
    lattice::{add_base, add_row_at, quantize, reconstruct_row, scale, write_row_at},
    values::to_f32,
};

use super::numbers::{Random, bell_floats, bits_of, lattice_header, pack};
use super::set::{Done, Matrix, Set};
use super::transforms::tile;

/// A tensor under construction: its elements, and its integers so far.
pub struct Layered {
    matrix: Matrix,
    /// Bits of the elements, and their values, with 0 for those that are not finite.
    bits: Vec<u32>,
    values: Vec<f32>,
    base: Steps,
    layer: u8,
    step: f32,
    offset: u8,
    z: Vec<i32>,
    /// The base elements (SPEC 21.4), if there is a base.
    over: Option<Vec<u8>>,
}

/// Returns the weights that a row of base elements stands for.
fn values_of_row(matrix: &Matrix, over: &[u8], row: usize) -> Vec<f32> {
    let bytes = matrix.sides.1 * matrix.dtype.size();
    let mut values = Vec::new();
    to_f32(matrix.dtype, &over[row * bytes..(row + 1) * bytes], &mut values);
    values
}

/// Returns a row of the sums of numbers and base elements, in the dtype (SPEC 21.7).
fn over_row(matrix: &Matrix, over: &[u8], row: usize, mut sums: Vec<f32>) -> Vec<u8> {
    let (size, values) = (matrix.dtype.size(), values_of_row(matrix, over, row));
    let elements = &over[row * matrix.sides.1 * size..][..sums.len() * size];
    let mut out = vec![0; elements.len()];
    add_base(&mut sums, &values);
    write_row_at(Isa::Scalar, matrix.dtype, &sums, &mut out);
    for (i, _) in values.iter().enumerate().filter(|(_, value)| !value.is_finite()) {
        out[i * size..][..size].copy_from_slice(&elements[i * size..][..size]);
    }
    out
}

/// Returns the scale of a row or a column from an index array of the base.
fn index(array: &Option<IndexArray>, i: usize) -> f32 {
    array.as_ref().map_or(1.0, |array| scale(array.get(i)))
}

/// Returns explicit tables fitted to values of these classes. In every other table, some symbols are replaced by the
/// escape.
fn tables(kind: Kind, coded: impl Iterator<Item = (i32, i32)>) -> Shape {
    let mut counts = vec![[0; SYMBOLS]; kind.tables()];
    for (t, value) in coded {
        let class = class(kind, t, 0);
        counts[class.table][symbol(class, value).0] += 1;
    }
    for counts in counts.iter_mut().step_by(2) {
        counts[SYMBOLS - 1] += 1 + counts[33..SYMBOLS - 1].iter().sum::<u64>();
        counts[33..SYMBOLS - 1].fill(0);
    }
    // An unused table codes nothing but escapes; the others can code any value.
    counts.iter_mut().for_each(|counts| counts[SYMBOLS - 1] += 1);
    Shape::Explicit(counts.iter().map(fit).collect())
}

impl Layered {
    /// Adds a tensor with these elements and its base: a lattice with about the given step.
    pub fn new(
        set: &mut Set,
        name: &str,
        matrix: Matrix,
        bits: Vec<u32>,
        base: Steps,
    ) -> Result<Layered, Box<dyn Error>> {
        Layered::over(set, name, matrix, bits, base, None)
    }

    /// Adds a tensor like [`Layered::new`], over base elements if there are any.
    pub fn over(
        set: &mut Set,
        name: &str,
        matrix: Matrix,
        bits: Vec<u32>,
        base: Steps,
        over: Option<Vec<u8>>,
    ) -> Result<Layered, Box<dyn Error>> {
        let mut values = Vec::new();
        to_f32(matrix.dtype, &pack(matrix.dtype, &bits), &mut values);
        values.iter_mut().filter(|value| !value.is_finite()).for_each(|value| *value = 0.0);
        let (step, offset) = (base.step, base.offset);
        let mut layered = Layered { matrix, bits, values, base, layer: 0, step, offset, z: vec![], over };
        layered.z = layered.integers();
        let row_classes = (0..matrix.sides.0).map(|r| 14 + r as i16 % 3).collect();
        let mut header = lattice_header(Shape::Parametric(1), 0, step, row_classes);
        header.body = Body::Lattice(layered.base.clone());
        set.lattice(name, &matrix, &header, 2, &layered.z)?;
        Ok(layered)
    }

    /// Returns the nearest integers at the step of this layer.
    fn integers(&self) -> Vec<i32> {
        let columns = self.matrix.sides.1;
        let step = |i: usize| self.step * index(&self.base.rows, i / columns) * index(&self.base.columns, i % columns);
        let whole = |r| {
            let mut sums = self.added(r);
            self.over.iter().for_each(|over| add_base(&mut sums, &values_of_row(&self.matrix, over, r)));
            // What is not finite is that of the base.
            sums.iter_mut().filter(|sum| !sum.is_finite()).for_each(|sum| *sum = 0.0);
            sums
        };
        let added: Vec<f32> = (0..self.matrix.sides.0).flat_map(whole).collect();
        let rest = self.values.iter().zip(added).map(|(w, added)| w - added);
        rest.enumerate().map(|(i, w)| quantize(w, 1.0 / step(i))).collect()
    }

    /// Returns what the low-rank part adds to the weights of a row.
    fn added(&self, row: usize) -> Vec<f32> {
        let columns = self.matrix.sides.1;
        let mut added = vec![0.0; columns];
        let parts = self.base.low_rank.iter();
        parts.for_each(|part| part.row(Isa::Scalar, row, 0..columns, &mut added));
        added
    }

    /// Returns the weights of this layer as bytes, without multipliers.
    fn weights(&self) -> Vec<u8> {
        let columns: Vec<f32> = (0..self.matrix.sides.1).map(|c| index(&self.base.columns, c)).collect();
        let row = |(r, z): (usize, &[i32])| {
            let mut out = vec![0; z.len() * self.matrix.dtype.size()];
            let row_step = self.step * index(&self.base.rows, r);
            let dtype = self.matrix.dtype;
            match (&self.base.low_rank, &self.over) {
                (None, None) => reconstruct_row(dtype, z, self.offset, &columns, row_step, &mut out),
                (_, Some(over)) => {
                    let mut sums = self.added(r);
                    add_row_at(Isa::Scalar, z, self.offset, &columns, row_step, &mut sums);
                    out = over_row(&self.matrix, over, r, sums);
                }
                (Some(_), None) => {
                    let mut sums = self.added(r);
                    add_row_at(Isa::Scalar, z, self.offset, &columns, row_step, &mut sums);
                    write_row_at(Isa::Scalar, dtype, &sums, &mut out);
                }
            }
            out
        };
        self.z.chunks_exact(columns.len()).enumerate().flat_map(row).collect()
    }

    /// Returns a tensor header without steps, and the sum of classes for each element.
    fn header(&self, body: Body, first: i16) -> (TensorHeader, Vec<i32>) {
        let (rows, columns) = self.matrix.sides;
        let row_classes = IndexArray::new((0..rows).map(|r| first + r as i16 % 4).collect());
        let column_classes = IndexArray::new((0..columns).map(|c| c as i16 % 3 - 1).collect());
        let sums = (0..rows * columns).map(|i| row_classes.get(i / columns) + column_classes.get(i % columns));
        let sums = sums.collect();
        (TensorHeader { shape: Shape::Explicit(vec![]), plane: 0, row_classes, column_classes, body }, sums)
    }

    /// Adds a refinement; with multipliers, if the base has some.
    pub fn refine(&mut self, set: &mut Set, factor: u8, offset: u8) -> Done {
        let below = std::mem::take(&mut self.z);
        (self.layer, self.step, self.offset) = (self.layer + 1, self.step / f32::from(factor), offset);
        self.z = self.integers();
        let other =
            |row: usize, multiplier: i32| ((multiplier + 29 * row as i32 + i32::from(factor)) & 127) as i16 - 64;
        let multipliers = self
            .base
            .multipliers
            .as_ref()
            .map(|array| IndexArray::new((0..self.matrix.sides.0).map(|row| other(row, array.get(row))).collect()));
        let refinement = Refinement { offset, multipliers, ..Refinement::new(factor, self.step) };
        let (mut header, sums) = self.header(Body::Refinement(refinement), 1);
        let coded = below
            .iter()
            .zip(&self.z)
            .zip(sums)
            .map(|((&below, &z), sum)| (refinement::class(sum, below), refinement::residual(factor, below, z)));
        header.shape = tables(Kind::Refinement, coded);
        set.refinement(self.layer, &self.matrix, &header, &below, &self.z)
    }

    /// Adds an exact layer with a plane of `plane` bits.
    pub fn exact(mut self, set: &mut Set, plane: u8) -> Done {
        self.layer += 1;
        let weights = self.weights();
        self.exact_over(set, plane, Body::Exact, &weights)
    }

    /// Adds a tensor in mode exact over base elements; `step` is about how far they are from its own.
    pub fn exact_in_layer_0(
        set: &mut Set,
        name: &str,
        matrix: Matrix,
        bits: Vec<u32>,
        steps: Steps,
        over: Vec<u8>,
        plane: u8,
    ) -> Done {
        set.tensor(name, &matrix);
        let (step, low_rank) = (steps.step, steps.low_rank.clone());
        let mut tensor =
            Layered { matrix, bits, values: vec![], base: steps, layer: 0, step, offset: 0, z: vec![], over: None };
        let weights = match &low_rank {
            None => over.clone(),
            Some(_) => (0..matrix.sides.0).flat_map(|r| over_row(&matrix, &over, r, tensor.added(r))).collect(),
        };
        tensor.over = Some(over);
        tensor.exact_over(set, plane, low_rank.map_or(Body::Exact, Body::ExactOver), &weights)
    }

    /// Adds units in mode exact over weights.
    fn exact_over(self, set: &mut Set, plane: u8, body: Body, weights: &[u8]) -> Done {
        let dtype = self.matrix.dtype;
        let layout = dtype.float_layout().ok_or("no float")?;
        let bits_of_weight = |i: usize| {
            let bytes = weights[i * dtype.size()..(i + 1) * dtype.size()].iter().rev();
            bytes.fold(0u32, |bits, &byte| bits << 8 | u32::from(byte))
        };
        // Classes, four per octave, for the error of a weight (half a step), in units of the floats near it.
        let octave = ((self.step.to_bits() >> 23) as i16 - 127) + (1 << (layout.exponent - 1)) - 1;
        let first = 4 * (octave + layout.mantissa as i16 - i16::from(plane)) + 9;
        let (mut header, sums) = self.header(body, first);
        header.plane = plane;
        let mut z = self.z.clone();
        if self.over.is_some() {
            exact::signs_of_row(Isa::Scalar, layout, weights, &mut z);
        }
        let coded = (0..sums.len()).map(|i| {
            let (z, p) = (z[i], bits_of_weight(i));
            let u = exact::residual(layout, sums[i], z, p, self.bits[i]);
            (exact::class(layout, sums[i], z, p), u >> plane)
        });
        header.shape = tables(Kind::Exact, coded);
        set.exact(self.layer, &self.matrix, &header, &z, weights, &pack(dtype, &self.bits))
    }
}

impl Layered {
    /// Adds a layer of blocks, of which the elements are the weights.
    fn blocks(mut self, set: &mut Set, dtype: DType, blocks: &[u8]) -> Done {
        self.layer += 1;
        let mut below = Vec::new();
        to_f32(DType::F32, &self.weights(), &mut below);
        let octave = (self.step.to_bits() >> 23) as i16;
        let (mut header, _) = self.header(Body::Blocks(dtype), 4 * octave - 4);
        let columns = self.matrix.sides.1;
        let classes: Vec<i32> = (0..columns).map(|c| header.column_classes.get(c)).collect();
        let (mut pairs, bytes) = (Pairs::default(), columns / dtype.weights() * dtype.size());
        for (r, (below, blocks)) in below.chunks_exact(columns).zip(blocks.chunks_exact(bytes)).enumerate() {
            let sums = Sums { row: header.row_classes.get(r), columns: &classes };
            blocks_row(&mut pairs, dtype, sums, below, blocks);
        }
        header.shape = tables(Kind::Exact, pairs.0.into_iter());
        set.blocks(self.layer, &self.matrix, &header, dtype, &below, blocks)
    }
}

/// The classes and values of elements.
#[derive(Default)]
struct Pairs(Vec<(i32, i32)>);

impl SymbolSink for Pairs {
    fn symbols(&mut self, classes: &[i32], values: &[i32]) {
        self.0.extend(classes.iter().copied().zip(values.iter().copied()));
    }

    fn raw(&mut self, _: &[i32], _: u32) {}

    fn end_row(&mut self) {}
}

/// Floats with standard deviation 2^-3, with zeros, subnormals, infinities and NaNs among them.
pub fn elements(dtype: DType, n: usize, random: &mut Random) -> Vec<u32> {
    let mut bits = bell_floats(dtype, -3, n, random);
    let sign = 1 << (8 * dtype.size() - 1);
    let infinity = bits_of(dtype, f32::INFINITY);
    let special = [0, sign, 1, sign | 5, infinity, sign | infinity, infinity | 1, sign - 1, sign | (sign - 1)];
    for (i, bits) in bits.iter_mut().enumerate().filter(|(i, _)| i % 37 == 5) {
        *bits = special[i / 37 % special.len()];
    }
    bits
}

fn steps(step: f32, offset: u8, rows: Option<IndexArray>, columns: Option<IndexArray>) -> Steps {
    Steps { offset, rows, columns, ..Steps::new(step) }
}

/// Odd and even factors, with and without offset; row and column steps are those of the base.
pub fn refinements(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(19));
    let matrix = Matrix { dtype, sides: (40, 100), tile: (16, 64) };
    let fine = |n: usize, random: &mut Random| IndexArray::new((0..n).map(|_| random.below(33) as i16 - 16).collect());
    for (name, offset, layers) in [
        ("even", 0, &[(2, 0), (4, 0), (64, 0)][..]),
        ("far", 3, &[(64, 127), (64, 1), (64, 0), (64, 64)]),
        ("odd", 20, &[(3, 12), (5, 0), (63, 1)]),
    ] {
        let base = steps(0.2, offset, Some(fine(40, &mut random)), (name != "far").then(|| fine(100, &mut random)));
        let bits = bell_floats(dtype, -3, 4000, &mut random);
        let mut layered = Layered::new(&mut set, name, matrix, bits, base)?;
        for &(factor, offset) in layers {
            layered.refine(&mut set, factor, offset)?;
        }
    }
    Ok(set)
}

/// Exact layers above a base and above a refinement, with and without a plane; many integers are 0.
pub fn exact_layers(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(20));
    let matrix = Matrix { dtype, sides: (21, 100), tile: (16, 64) };
    for (name, step, refinement, plane) in
        [("coarse", 0.3, None, 3), ("fine", 0.001, None, 0), ("tiny", 1e-30, None, 20), ("twice", 0.2, Some((7, 9)), 0)]
    {
        let rows = (name == "twice").then(|| IndexArray::new((0..21).map(|r| 2 * r - 20).collect()));
        let bits = elements(dtype, 2100, &mut random);
        let mut layered = Layered::new(&mut set, name, matrix, bits, steps(step, 5, rows, None))?;
        if let Some((factor, offset)) = refinement {
            layered.refine(&mut set, factor, offset)?;
        }
        layered.exact(&mut set, plane)?;
    }
    Ok(set)
}

/// Multipliers at the ends of their range and near 0, or all equal, others in each layer; below a refinement, an exact layer and a
/// layer of blocks, and beside a low-rank part.
pub fn multipliers(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(61));
    let matrix = Matrix { dtype, sides: (21, 100), tile: (16, 64) };
    let wide = |random: &mut Random| IndexArray::new((0..21).map(|_| random.below(128) as i16 - 64).collect());
    let narrow = |random: &mut Random| IndexArray::new((0..21).map(|_| random.below(5) as i16 - 2).collect());
    let of_rows = IndexArray::new((0..21).map(|r| 3 * r - 30).collect());
    let term = Term { scale: 1e-4, rows: IndexArray::Constant(9), columns: IndexArray::Constant(-30) };
    for (name, rows, low_rank, multipliers) in [
        ("equal", Some(of_rows.clone()), None, IndexArray::Constant(-64)),
        ("low-rank", None, Some(LowRank { terms: vec![term] }), wide(&mut random)),
        ("narrow", None, None, narrow(&mut random)),
        ("wide", Some(of_rows), None, wide(&mut random)),
    ] {
        let base = Steps { low_rank, multipliers: Some(multipliers), ..steps(0.1, 5, rows, None) };
        let bits = elements(dtype, 2100, &mut random);
        let mut layered = Layered::new(&mut set, name, matrix, bits, base)?;
        for (factor, offset) in [(3, 0), (2, 30)] {
            layered.refine(&mut set, factor, offset)?;
        }
        layered.exact(&mut set, 1)?;
    }
    if dtype == DType::F32 {
        let blocks = DType::from_code(103).ok_or("no dtype")?;
        let matrix = Matrix { sides: (21, 64), ..matrix };
        let bytes: Vec<u8> = (0..21 * 2 * blocks.size()).map(|_| random.below(0x30) as u8).collect();
        let mut weights = vec![0.0; 21 * 64];
        impasto_core::blocks::dequantize(blocks, &bytes, &mut weights);
        let bits = weights.iter().map(|weight| weight.to_bits()).collect();
        let base = Steps { multipliers: Some(wide(&mut random)), ..steps(0.25, 0, None, None) };
        Layered::new(&mut set, "with-blocks", matrix, bits, base)?.blocks(&mut set, blocks, &bytes)?;
    }
    Ok(set)
}

/// Low-rank parts of one term and of many, constant factors among them: below a refinement, an exact layer, and in a tensor
/// with transforms.
pub fn low_rank(dtype: DType) -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(51));
    let matrix = Matrix { dtype, sides: (21, 100), tile: (16, 64) };
    let factors = |n: usize, most: u64, random: &mut Random| {
        let factor = |_| (random.below(2 * most + 1) - most as i64) as i16;
        IndexArray::new((0..n).map(factor).collect())
    };
    for (name, terms, step) in [("many", 17, 0.02), ("one", 1, 0.3), ("transform", 2, 0.02)] {
        let term = |i: usize| Term {
            scale: [1e-6, 3e-7, 2e-4][i % 3],
            rows: if i % 4 == 1 { IndexArray::Constant(7) } else { factors(21, 2047 >> (i % 8), &mut random) },
            columns: if i % 4 == 2 { IndexArray::Constant(-2047) } else { factors(100, 2047 >> (i % 5), &mut random) },
        };
        let terms = (0..terms).map(term).collect();
        let rows = (name == "one").then(|| IndexArray::new((0..21).map(|r| 2 * r - 20).collect()));
        let base = Steps { low_rank: Some(LowRank { terms }), ..steps(step, 5, rows, None) };
        if name == "transform" {
            set.tensor(name, &matrix);
            let mut header = lattice_header(Shape::Parametric(1), 0, step, vec![20; 21]);
            header.body = Body::Lattice(base);
            set.unit(0, Mode::TENSOR_HEADER, header.to_bytes());
            for (i, sides) in [[16, 64], [16, 36], [5, 64], [5, 36]].into_iter().enumerate() {
                set.unit(i, Mode::TRANSFORM, tile(Parameters::default(), Setup::default(), sides, &mut random)?);
            }
            continue;
        }
        let bits = elements(dtype, 2100, &mut random);
        let mut layered = Layered::new(&mut set, name, matrix, bits, base)?;
        layered.refine(&mut set, 7, 9)?;
        if name == "many" {
            layered.exact(&mut set, 0)?;
        }
    }
    Ok(set)
}

/// Blocks of every dtype, above a base or a refinement. Their scales are ordinary in even rows, and anything in others.
pub fn blocks_over_a_lattice() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(22));
    let mut dtypes = DType::BLOCKS;
    dtypes.sort_by_key(|dtype| dtype.name());
    for (n, dtype) in dtypes.into_iter().enumerate() {
        let (rows, columns) = (3, 3 * dtype.weights());
        let matrix = Matrix { dtype: DType::F32, sides: (rows, columns), tile: (2, 2 * dtype.weights()) };
        let of_row = 3 * dtype.size();
        // The highest exponents of binary16 have bits that the mask clears.
        let byte = |i: usize, random: &mut Random| {
            random.below(256) as u8 & if (i / of_row).is_multiple_of(2) { 0xBB } else { 0xFF }
        };
        let bytes: Vec<u8> = (0..rows * of_row).map(|i| byte(i, &mut random)).collect();
        let mut weights = vec![0.0; rows * columns];
        blocks::dequantize(dtype, &bytes, &mut weights);
        let bits = weights.iter().map(|weight| weight.to_bits()).collect();
        let mut layered = Layered::new(&mut set, dtype.name(), matrix, bits, steps(0.25, 5, None, None))?;
        if n % 3 == 0 {
            layered.refine(&mut set, 7, 9)?;
        }
        layered.blocks(&mut set, dtype, &bytes)?;
    }
    Ok(set)
}

/// Tensors with different numbers of layers, ordered by layer, with a layer table.
pub fn layers() -> Result<Set, Box<dyn Error>> {
    let (mut set, mut random) = (Set::default(), Random(21));
    for (n, name) in ["a", "b", "c", "d"].into_iter().enumerate() {
        let matrix = Matrix { dtype: DType::Bf16, sides: (20, 70), tile: (7, 32) };
        let bits = elements(DType::Bf16, 1400, &mut random);
        if name == "c" {
            set.tensor(name, &matrix);
            set.bytes(&matrix, &pack(DType::Bf16, &bits))?;
            continue;
        }
        let mut layered = Layered::new(&mut set, name, matrix, bits, steps(0.25, 0, None, None))?;
        for factor in [3, 4].into_iter().take(n) {
            layered.refine(&mut set, factor, 8)?;
        }
        if name != "b" {
            layered.exact(&mut set, 1)?;
        }
    }
    set.by_layer();
    Ok(set)
}
