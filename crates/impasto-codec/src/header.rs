//! The tensor header: what all tiles of a tensor share in one layer (SPEC 6).

use impasto_core::{DType, Mode, Place, lattice::row_scale};

use crate::class::Kind;
use crate::error::CodecError;
use crate::format::Groups;
use crate::index::IndexArray;
use crate::low_rank::LowRank;
use crate::tables::{Frequencies, Lut, TOTAL, parametric, read_explicit, write_explicit};
use crate::trellis::Trellis;

const EXPLICIT: u8 = 255;
const ROW_STEPS: u8 = 1;
const COLUMN_STEPS: u8 = 2;
const OFFSET: u8 = 4;
const LOW_RANK: u8 = 8;
const FORMAT: u8 = 16;
const MULTIPLIERS: u8 = 32;
const TRELLIS: u8 = 64;
/// Largest offset, in 256ths of a step.
const MAX_OFFSET: u8 = 127;
/// Largest number of raw bits per element in kinds lattice and exact.
pub const MAX_PLANE: u8 = 20;

/// The source of the tables of a tensor header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// The tables of a parametric shape (SPEC 7.4).
    Parametric(u8),
    /// Tables stored in the tensor header, one per table number of the kind.
    Explicit(Vec<Frequencies>),
}

/// Steps of a lattice: `step * 2^(row / 16 + multiplier / 64) * 2^(column / 16)` (SPEC 10.2, 10.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Step of the tensor; finite and above 0.
    pub step: f32,
    /// Offset of reconstruction points away from 0, in 256ths of a step, at most 127; 0 if there is none (SPEC 10.3).
    pub offset: u8,
    /// Log-scale index of each row, -1024 to 1023, in sixteenths of an octave.
    pub rows: Option<IndexArray>,
    /// Log-scale index of each column, likewise.
    pub columns: Option<IndexArray>,
    /// What is added to the weights of the lattice; there is a term at least (SPEC 19).
    pub low_rank: Option<LowRank>,
    /// What the integers of a column follow, if they are not free (SPEC 10.4).
    pub trellis: Option<Trellis>,
    /// Multiplier of each row, -64 to 63, in 64ths of an octave. It applies to weights that are read in this layer.
    pub multipliers: Option<IndexArray>,
}

impl Steps {
    /// Returns the steps of a lattice with the same step everywhere, without an offset, a low-rank part, a trellis or
    /// multipliers.
    pub fn new(step: f32) -> Steps {
        Steps { step, offset: 0, rows: None, columns: None, low_rank: None, trellis: None, multipliers: None }
    }
}

/// The steps of a refinement relative to the layer below (SPEC 13). Row and column steps are those of layer 0.
#[derive(Clone, Debug, PartialEq)]
pub struct Refinement {
    /// Steps of this layer per step of the layer below, 2 to 64.
    pub factor: u8,
    /// Step of the tensor in this layer; finite and above 0.
    pub step: f32,
    /// Offset of reconstruction points, as in [`Steps`].
    pub offset: u8,
    /// What the integers of a column follow in this layer, as in [`Steps`].
    pub trellis: Option<Trellis>,
    /// Multiplier of each row, as in [`Steps`].
    pub multipliers: Option<IndexArray>,
}

impl Refinement {
    /// Returns a refinement without an offset, a trellis or multipliers.
    pub fn new(factor: u8, step: f32) -> Refinement {
        Refinement { factor, step, offset: 0, trellis: None, multipliers: None }
    }
}

/// The fields that only tensor headers of one kind have.
#[derive(Clone, Debug, PartialEq)]
pub enum Body {
    /// No further fields.
    Float,
    /// Steps of the lattice.
    Lattice(Steps),
    /// The format of the integers, which takes the place of steps (SPEC 20). The kind is that of a lattice.
    Format(Groups),
    /// Steps, relative to the layer below.
    Refinement(Refinement),
    /// No further fields.
    Exact,
    /// What is added to the base elements before exact floats are coded over them (SPEC 21.6). The kind is that of exact floats.
    ExactOver(LowRank),
    /// The dtype of the blocks.
    Blocks(DType),
}

/// The tensor header of one layer of a tensor, coded as a matrix of `rows` x `columns`.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorHeader {
    /// The tables; always explicit above layer 0.
    pub shape: Shape,
    /// Raw bits per element.
    pub plane: u8,
    /// Scale class of each row.
    pub row_classes: IndexArray,
    /// Scale class of each column.
    pub column_classes: IndexArray,
    /// The fields that depend on the kind.
    pub body: Body,
}

impl TensorHeader {
    /// Returns the mode of the tiles that use this tensor header.
    pub fn mode(&self) -> Mode {
        match self.body {
            Body::Blocks(_) => Mode::BLOCKS,
            _ => self.kind().mode(),
        }
    }

    /// Returns the kind of the values of these tiles.
    pub fn kind(&self) -> Kind {
        match self.body {
            Body::Float => Kind::Float,
            Body::Lattice(Steps { trellis: Some(_), .. }) => Kind::Trellis,
            Body::Lattice(_) | Body::Format(_) => Kind::Lattice,
            Body::Refinement(Refinement { trellis: Some(_), .. }) => Kind::TrellisRefinement,
            Body::Refinement(_) => Kind::Refinement,
            Body::Exact | Body::ExactOver(_) | Body::Blocks(_) => Kind::Exact,
        }
    }

    /// Returns the steps in kind lattice, `None` in other kinds and with a format.
    pub fn steps(&self) -> Option<&Steps> {
        match &self.body {
            Body::Lattice(steps) => Some(steps),
            _ => None,
        }
    }

    /// Returns the trellis of the integers, if there is one (SPEC 10.4, 13.3).
    pub fn trellis(&self) -> Option<Trellis> {
        match &self.body {
            Body::Lattice(steps) => steps.trellis,
            Body::Refinement(refinement) => refinement.trellis,
            _ => None,
        }
    }

    /// Returns the low-rank part, if there is one (SPEC 19).
    pub fn low_rank(&self) -> Option<&LowRank> {
        match &self.body {
            Body::Lattice(steps) => steps.low_rank.as_ref(),
            Body::ExactOver(low_rank) => Some(low_rank),
            _ => None,
        }
    }

    /// Returns the format and the scales of its groups, if the tensor has one.
    pub fn groups(&self) -> Option<&Groups> {
        match &self.body {
            Body::Format(groups) => Some(groups),
            _ => None,
        }
    }

    /// Returns the step of the tensor in this layer, and the offset, in kinds lattice and refinement.
    pub fn step(&self) -> Option<(f32, u8)> {
        match &self.body {
            Body::Format(groups) => Some((groups.step, 0)),
            Body::Lattice(steps) => Some((steps.step, steps.offset)),
            Body::Refinement(refinement) => Some((refinement.step, refinement.offset)),
            Body::Float | Body::Exact | Body::ExactOver(_) | Body::Blocks(_) => None,
        }
    }

    /// Returns the multiplier of each row, in kinds lattice and refinement.
    pub fn multipliers(&self) -> Option<&IndexArray> {
        match &self.body {
            Body::Lattice(steps) => steps.multipliers.as_ref(),
            Body::Refinement(refinement) => refinement.multipliers.as_ref(),
            _ => None,
        }
    }

    /// Sets the multiplier of each row. Returns whether the tensor header is of a kind that has them.
    pub fn set_multipliers(&mut self, multipliers: Option<IndexArray>) -> bool {
        match &mut self.body {
            Body::Lattice(steps) => steps.multipliers = multipliers,
            Body::Refinement(refinement) => refinement.multipliers = multipliers,
            _ => return false,
        }
        true
    }

    /// Returns the tables, one for each table number of the kind; none if the kind does not have the parametric shape.
    pub fn tables(&self) -> Vec<Frequencies> {
        match &self.shape {
            Shape::Parametric(shape) => parametric(self.kind(), *shape).unwrap_or_default(),
            Shape::Explicit(tables) => tables.clone(),
        }
    }

    /// Checks that SPEC 6 allows this tensor header for a tensor of `dtype`. [`TensorHeader::read`] only returns tensor
    /// headers that pass.
    ///
    /// # Errors
    /// The first field that violates SPEC 6.
    pub fn check(&self, dtype: DType) -> Result<(), CodecError> {
        check_plane(self.mode(), dtype, self.plane)?;
        if let Some((step, offset)) = self.step() {
            check_step(step)?;
            if offset > MAX_OFFSET {
                return Err(field("offset", offset, "it must be at most 127"));
            }
        }
        self.multipliers().map_or(Ok(()), check_multipliers)?;
        match &self.body {
            Body::Refinement(refinement) => check_factor(refinement.factor)?,
            Body::Lattice(steps) => {
                for array in [&steps.rows, &steps.columns].into_iter().flatten() {
                    check_step_indices(array)?;
                }
                check_row_steps(steps.step, steps.rows.as_ref(), steps.multipliers.as_ref(), "10.3")?;
                steps.low_rank.as_ref().map_or(Ok(()), LowRank::check)?;
            }
            Body::Format(groups) => groups.check()?,
            Body::Blocks(blocks) => check_blocks(*blocks)?,
            Body::ExactOver(low_rank) => low_rank.check()?,
            Body::Float | Body::Exact => {}
        }
        let tables = self.tables();
        if tables.len() != self.kind().tables() {
            return Err(CodecError::Call(
                "the tensor header does not have one table for each table number of its kind",
            ));
        }
        for (table, frequencies) in tables.iter().enumerate() {
            let sum = frequencies.0.iter().map(|&f| u64::from(f)).sum();
            if sum != u64::from(TOTAL) {
                return Err(CodecError::TableSum { table, sum });
            }
        }
        Ok(())
    }

    /// Returns the bytes of memory that the tensor header takes.
    pub fn memory_bytes(&self) -> usize {
        let tables = match &self.shape {
            Shape::Parametric(_) => 0,
            Shape::Explicit(tables) => size_of_val(&tables[..]),
        };
        let steps = self.steps().into_iter().flat_map(|steps| [&steps.rows, &steps.columns]).flatten();
        let arrays = [&self.row_classes, &self.column_classes].into_iter().chain(steps).chain(self.multipliers());
        let scales = self.groups().map_or(0, Groups::memory_bytes);
        let low_rank = self.low_rank().map_or(0, LowRank::memory_bytes);
        let arrays = arrays.map(IndexArray::memory_bytes).sum::<usize>();
        size_of::<TensorHeader>() + tables + scales + low_rank + arrays
    }

    /// Returns whether there are classes, and steps if any, for every row and column of `place`.
    pub fn covers(&self, place: &Place) -> bool {
        let steps = self.steps();
        let low_rank = self.low_rank();
        let rows = [Some(&self.row_classes), steps.and_then(|steps| steps.rows.as_ref()), self.multipliers()];
        let columns = [Some(&self.column_classes), steps.and_then(|steps| steps.columns.as_ref())];
        rows.into_iter().flatten().all(|array| array.covers(place.rows.end))
            && columns.into_iter().flatten().all(|array| array.covers(place.columns.end))
            && low_rank.is_none_or(|low_rank| low_rank.covers(place))
            && self.groups().is_none_or(|groups| groups.covers(place))
    }

    /// Returns the tables in the form for decoding.
    ///
    /// # Panics
    /// If [`TensorHeader::check`] refuses the tables.
    pub(crate) fn lut(&self) -> Lut {
        Lut::new(self.kind(), &self.tables())
    }

    /// Returns the bytes of the unit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let shape = match &self.shape {
            Shape::Parametric(shape) => *shape,
            Shape::Explicit(_) => EXPLICIT,
        };
        let arrays = self.steps().map_or([None, None], |steps| [steps.rows.as_ref(), steps.columns.as_ref()]);
        let offset = self.step().map_or(0, |(_, offset)| offset);
        let flag = |bit: u8, present: bool| if present { bit } else { 0 };
        let low_rank = self.low_rank();
        let flags = flag(ROW_STEPS, arrays[0].is_some())
            | flag(COLUMN_STEPS, arrays[1].is_some())
            | flag(OFFSET, offset != 0)
            | flag(LOW_RANK, low_rank.is_some())
            | flag(FORMAT, self.groups().is_some())
            | flag(TRELLIS, self.trellis().is_some())
            | flag(MULTIPLIERS, self.multipliers().is_some());
        let mut out = vec![self.mode().0, shape, self.plane, flags];
        if let Body::Refinement(Refinement { factor, .. }) = self.body {
            out.push(factor);
        }
        if let Body::Blocks(dtype) = self.body {
            out.push(dtype as u8);
        }
        if let Some((step, _)) = self.step() {
            out.extend(step.to_le_bytes());
        }
        if offset != 0 {
            out.push(offset);
        }
        out.extend(self.trellis().map(Trellis::log_states));
        if let Some(groups) = self.groups() {
            groups.write_head(&mut out);
        }
        self.row_classes.write(&mut out);
        self.column_classes.write(&mut out);
        if let Some(groups) = self.groups() {
            groups.write_scales(&mut out);
        }
        arrays.iter().flatten().for_each(|array| array.write(&mut out));
        low_rank.iter().for_each(|low_rank| low_rank.write(&mut out));
        self.multipliers().iter().for_each(|array| array.write(&mut out));
        if let Shape::Explicit(tables) = &self.shape {
            write_explicit(self.kind(), &mut out, tables);
        }
        out
    }

    /// Parses the tensor header of a tensor of `dtype`, coded as a matrix of `rows` x `columns`. Memory use is at most
    /// 16 times the length of `bytes`.
    ///
    /// # Errors
    /// If the bytes violate SPEC 6 or 5.3.
    pub fn read(bytes: &[u8], dtype: DType, rows: u64, columns: u64) -> Result<TensorHeader, CodecError> {
        let mut rest = bytes;
        let [kind, shape, plane, flags] = take(&mut rest, "tensor header")?;
        let mode = Mode(kind);
        let of_mode = Kind::from_mode(if mode == Mode::BLOCKS { Mode::EXACT } else { mode });
        let kind = of_mode.ok_or(field("kind", kind, "it must be 3 to 7"))?;
        check_plane(mode, dtype, plane)?;
        if flags & !meaningful(mode, kind) != 0 {
            return Err(field("flags", flags, "an undefined bit is set"));
        }
        let others = ROW_STEPS | COLUMN_STEPS | OFFSET | LOW_RANK | TRELLIS | MULTIPLIERS;
        if flags & FORMAT != 0 && flags & others != 0 {
            return Err(CodecError::Format(
                "a format has neither row steps, column steps, an offset, a low-rank part, a trellis nor multipliers",
                "20.1",
            ));
        }
        let blocks = if mode == Mode::BLOCKS { Some(read_blocks(&mut rest, columns)?) } else { None };
        let factor = if kind == Kind::Refinement { read_factor(&mut rest)? } else { 0 };
        let step = if matches!(kind, Kind::Lattice | Kind::Refinement) { read_step(&mut rest)? } else { 0.0 };
        let offset = if flags & OFFSET != 0 { read_offset(&mut rest)? } else { 0 };
        let trellis = if flags & TRELLIS != 0 { Some(read_trellis(&mut rest)?) } else { None };
        let kind = trellis.and_then(|_| kind.with_trellis()).unwrap_or(kind);
        let format = if flags & FORMAT != 0 { Some(Groups::read_head(&mut rest)?) } else { None };
        let row_classes = IndexArray::read(&mut rest, rows)?;
        let column_classes = IndexArray::read(&mut rest, columns)?;
        let groups = match format {
            Some(format) => Some(Groups::read_scales(&mut rest, format, step, rows, columns)?),
            None => None,
        };
        let row_steps = if flags & ROW_STEPS != 0 { Some(read_steps(&mut rest, rows)?) } else { None };
        let column_steps = if flags & COLUMN_STEPS != 0 { Some(read_steps(&mut rest, columns)?) } else { None };
        let low_rank = if flags & LOW_RANK != 0 { Some(LowRank::read(&mut rest, rows, columns)?) } else { None };
        let multipliers = if flags & MULTIPLIERS != 0 { Some(read_multipliers(&mut rest, rows)?) } else { None };
        let body = match (kind, groups) {
            (_, Some(groups)) => Body::Format(groups),
            (Kind::Float, _) => Body::Float,
            (Kind::Lattice | Kind::Trellis, _) => {
                check_row_steps(step, row_steps.as_ref(), multipliers.as_ref(), "10.3")?;
                let (rows, columns) = (row_steps, column_steps);
                Body::Lattice(Steps { step, offset, rows, columns, low_rank, trellis, multipliers })
            }
            (Kind::Refinement | Kind::TrellisRefinement, _) => {
                Body::Refinement(Refinement { factor, step, offset, trellis, multipliers })
            }
            (Kind::Exact, _) => match (blocks, low_rank) {
                (Some(dtype), _) => Body::Blocks(dtype),
                (None, Some(low_rank)) => Body::ExactOver(low_rank),
                (None, None) => Body::Exact,
            },
        };
        let shape = match shape {
            EXPLICIT => Shape::Explicit(read_explicit(kind, &mut rest)?),
            _ if parametric(kind, shape).is_some() => Shape::Parametric(shape),
            _ => return Err(field("shape", shape, "the kind has no such shape")),
        };
        if !rest.is_empty() {
            return Err(CodecError::TrailingBytes(rest.len(), "6"));
        }
        Ok(TensorHeader { shape, plane, row_classes, column_classes, body })
    }
}

fn field(field: &'static str, value: u8, rule: &'static str) -> CodecError {
    CodecError::Field { field, value: u64::from(value), rule, clause: "6" }
}

/// Returns the flags that are defined for a kind, which serves tiles in `mode`.
fn meaningful(mode: Mode, kind: Kind) -> u8 {
    match kind {
        Kind::Exact if mode == Mode::EXACT => LOW_RANK,
        Kind::Float | Kind::Exact => 0,
        Kind::Lattice | Kind::Trellis => ROW_STEPS | COLUMN_STEPS | OFFSET | LOW_RANK | FORMAT | TRELLIS | MULTIPLIERS,
        Kind::Refinement | Kind::TrellisRefinement => OFFSET | TRELLIS | MULTIPLIERS,
    }
}

fn check_plane(mode: Mode, dtype: DType, plane: u8) -> Result<(), CodecError> {
    let unfit = CodecError::ModeDtype { mode, dtype };
    if mode == Mode::FLOAT {
        return match dtype.float_layout() {
            None => Err(unfit),
            Some(layout) if u32::from(plane) == layout.mantissa - 1 => Ok(()),
            Some(_) => Err(field("plane", plane, "it must be one less than the mantissa bits of the dtype")),
        };
    }
    match mode {
        Mode::BLOCKS if dtype != DType::F32 => Err(unfit),
        Mode::BLOCKS if plane != 0 => Err(field("plane", plane, "it must be 0 in kind blocks")),
        _ if !matches!(dtype, DType::F32 | DType::F16 | DType::Bf16) => Err(unfit),
        Mode::REFINEMENT if plane != 0 => Err(field("plane", plane, "it must be 0 in a refinement")),
        _ if plane > MAX_PLANE => Err(field("plane", plane, "it must be at most 20")),
        _ => Ok(()),
    }
}

/// Checks that the scale of every row is finite, with its multiplier and without (SPEC 10.3, 12.4).
pub(crate) fn check_row_steps(
    step: f32,
    rows: Option<&IndexArray>,
    multipliers: Option<&IndexArray>,
    clause: &'static str,
) -> Result<(), CodecError> {
    let largest = |array: Option<&IndexArray>| array.map_or(0, |array| array.bounds().1);
    let most = largest(rows);
    if (step * row_scale(most.into(), largest(multipliers).max(0).into())).is_finite() {
        return Ok(());
    }
    let rule = "the step of a row is not finite";
    Err(CodecError::Field { field: "row steps", value: most as u64, rule, clause })
}

fn take<const N: usize>(bytes: &mut &[u8], what: &'static str) -> Result<[u8; N], CodecError> {
    let (&taken, rest) = bytes.split_first_chunk().ok_or(CodecError::Truncated(what))?;
    *bytes = rest;
    Ok(taken)
}

fn check_factor(factor: u8) -> Result<(), CodecError> {
    if (2..=64).contains(&factor) { Ok(()) } else { Err(field("factor", factor, "it must be 2 to 64")) }
}

fn check_step(step: f32) -> Result<(), CodecError> {
    if step.is_finite() && step > 0.0 {
        return Ok(());
    }
    let rule = "it must be finite and above 0";
    Err(CodecError::Field { field: "step", value: u64::from(step.to_bits()), rule, clause: "6" })
}

fn check_step_indices(array: &IndexArray) -> Result<(), CodecError> {
    let (low, high) = array.bounds();
    if low < -1024 || high > 1023 { Err(CodecError::StepIndex) } else { Ok(()) }
}

fn check_multipliers(array: &IndexArray) -> Result<(), CodecError> {
    let (low, high) = array.bounds();
    if low < -64 || high > 63 { Err(CodecError::Multiplier) } else { Ok(()) }
}

fn read_factor(bytes: &mut &[u8]) -> Result<u8, CodecError> {
    let [factor] = take(bytes, "factor")?;
    check_factor(factor).map(|()| factor)
}

fn check_blocks(dtype: DType) -> Result<(), CodecError> {
    if dtype.is_block() { Ok(()) } else { Err(not_blocks(dtype as u8)) }
}

fn not_blocks(code: u8) -> CodecError {
    field("blocks", code, "it must be the code of a block dtype")
}

/// Reads the dtype of blocks, of which the columns must be a whole number.
fn read_blocks(bytes: &mut &[u8], columns: u64) -> Result<DType, CodecError> {
    let [code] = take(bytes, "blocks")?;
    let dtype = DType::from_code(code).filter(|dtype| dtype.is_block()).ok_or(not_blocks(code))?;
    if !columns.is_multiple_of(dtype.weights() as u64) {
        let rule = "they must be whole blocks";
        return Err(CodecError::Field { field: "columns", value: columns, rule, clause: "16.1" });
    }
    Ok(dtype)
}

fn read_step(bytes: &mut &[u8]) -> Result<f32, CodecError> {
    let step = f32::from_le_bytes(take(bytes, "step")?);
    check_step(step).map(|()| step)
}

fn read_offset(bytes: &mut &[u8]) -> Result<u8, CodecError> {
    let [offset] = take(bytes, "offset")?;
    if (1..=MAX_OFFSET).contains(&offset) { Ok(offset) } else { Err(field("offset", offset, "it must be 1 to 127")) }
}

fn read_trellis(bytes: &mut &[u8]) -> Result<Trellis, CodecError> {
    let [states] = take(bytes, "states")?;
    Trellis::new(states).ok_or(field("states", states, "it must be 2 to 6"))
}

fn read_steps(bytes: &mut &[u8], entries: u64) -> Result<IndexArray, CodecError> {
    let array = IndexArray::read(bytes, entries)?;
    if entries > 0 {
        check_step_indices(&array)?;
    }
    Ok(array)
}

fn read_multipliers(bytes: &mut &[u8], entries: u64) -> Result<IndexArray, CodecError> {
    let array = IndexArray::read(bytes, entries)?;
    if entries > 0 {
        check_multipliers(&array)?;
    }
    Ok(array)
}

#[cfg(test)]
mod tests;
