//! The head of a tensor: what all its tiles share (SPEC 6).

use crate::class::Kind;
use crate::dtype::DType;
use crate::error::CodecError;
use crate::index::IndexArray;
use crate::lattice::scale;
use crate::tables::{Frequencies, Lut, parametric, read_explicit, write_explicit};

const EXPLICIT: u8 = 255;
const ROW_STEPS: u8 = 1;
const COLUMN_STEPS: u8 = 2;
/// Largest number of raw plane bits of a lattice.
pub const MAX_LATTICE_PLANE: u8 = 20;

/// Where the tables of a tensor come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Shape {
    /// A shape of the spec's appendix.
    Parametric(u8),
    /// Tables spelled out in the head.
    Explicit(Vec<Frequencies>),
}

/// Steps of a lattice: `step * 2^(row / 16) * 2^(column / 16)` (SPEC 10.2, 10.3).
#[derive(Clone, Debug, PartialEq)]
pub struct Steps {
    /// Step of the tensor; finite and above 0.
    pub step: f32,
    /// Log-scale index of each row, -1024 to 1023, in sixteenths of an octave.
    pub rows: Option<IndexArray>,
    /// The same for each column.
    pub columns: Option<IndexArray>,
}

/// The head of a tensor of `rows` x `columns`.
#[derive(Clone, Debug, PartialEq)]
pub struct Head {
    /// Its tables.
    pub shape: Shape,
    /// Raw bits an element.
    pub plane: u8,
    /// Scale class of each row.
    pub row_classes: IndexArray,
    /// Scale class of each column.
    pub column_classes: IndexArray,
    /// Steps, in a head of kind lattice; `None` in one of kind float.
    pub steps: Option<Steps>,
}

impl Head {
    /// The kind of tiles that it serves.
    pub fn kind(&self) -> Kind {
        if self.steps.is_some() { Kind::Lattice } else { Kind::Float }
    }

    /// Its tables, one for each table number of the kind.
    pub fn tables(&self) -> Vec<Frequencies> {
        match &self.shape {
            Shape::Parametric(shape) => parametric(self.kind(), *shape).unwrap_or_default(),
            Shape::Explicit(tables) => tables.clone(),
        }
    }

    /// Its tables, laid out for decoding.
    pub fn lut(&self) -> Lut {
        Lut::new(self.kind(), &self.tables())
    }

    /// The bytes of the unit.
    pub fn to_bytes(&self) -> Vec<u8> {
        let shape = match &self.shape {
            Shape::Parametric(shape) => *shape,
            Shape::Explicit(_) => EXPLICIT,
        };
        let mut flags = 0;
        if let Some(steps) = &self.steps {
            flags = steps.rows.as_ref().map_or(0, |_| ROW_STEPS) | steps.columns.as_ref().map_or(0, |_| COLUMN_STEPS);
        }
        let mut out = vec![self.kind() as u8, shape, self.plane, flags];
        if let Some(steps) = &self.steps {
            out.extend(steps.step.to_le_bytes());
        }
        self.row_classes.write(&mut out);
        self.column_classes.write(&mut out);
        if let Some(steps) = &self.steps {
            steps.rows.iter().chain(&steps.columns).for_each(|array| array.write(&mut out));
        }
        if let Shape::Explicit(tables) = &self.shape {
            write_explicit(&mut out, tables);
        }
        out
    }

    /// Reads the head of a `rows` x `columns` tensor of `dtype`.
    ///
    /// # Errors
    /// If it breaks SPEC 6 or 5.3. Memory is bounded by 16 times the bytes.
    pub fn read(bytes: &[u8], dtype: DType, rows: u64, columns: u64) -> Result<Head, CodecError> {
        let (&[kind, shape, plane, flags], rest) =
            bytes.split_first_chunk::<4>().ok_or(CodecError::Truncated("head"))?;
        let mut rest = rest;
        let kind = match kind {
            3 => Kind::Float,
            4 => Kind::Lattice,
            other => return Err(field("kind", other, "neither 3 nor 4")),
        };
        check_plane(kind, dtype, plane)?;
        if flags & !(if kind == Kind::Lattice { ROW_STEPS | COLUMN_STEPS } else { 0 }) != 0 {
            return Err(field("flags", flags, "a bit without meaning is set"));
        }
        let step = match kind {
            Kind::Float => None,
            Kind::Lattice => Some(read_step(&mut rest)?),
        };
        let row_classes = IndexArray::read(&mut rest, rows)?;
        let column_classes = IndexArray::read(&mut rest, columns)?;
        let row_steps = if flags & ROW_STEPS != 0 { Some(read_steps(&mut rest, rows)?) } else { None };
        let column_steps = if flags & COLUMN_STEPS != 0 { Some(read_steps(&mut rest, columns)?) } else { None };
        let steps = step.map(|step| Steps { step, rows: row_steps, columns: column_steps });
        if let Some(Steps { step, rows: Some(rows), .. }) = &steps
            && !(step * scale(rows.bounds().1.into())).is_finite()
        {
            let (field, rule) = ("row steps", "step * scale of the largest is not finite");
            return Err(CodecError::Field { field, value: rows.bounds().1 as u64, rule, clause: "10.3" });
        }
        let shape = match shape {
            EXPLICIT => Shape::Explicit(read_explicit(kind, &mut rest)?),
            _ if parametric(kind, shape).is_some() => Shape::Parametric(shape),
            _ => return Err(field("shape", shape, "there is no such shape")),
        };
        if !rest.is_empty() {
            return Err(CodecError::TrailingBytes(rest.len(), "6"));
        }
        Ok(Head { shape, plane, row_classes, column_classes, steps })
    }
}

fn field(field: &'static str, value: u8, rule: &'static str) -> CodecError {
    CodecError::Field { field, value: u64::from(value), rule, clause: "6" }
}

fn check_plane(kind: Kind, dtype: DType, plane: u8) -> Result<(), CodecError> {
    let unfit = CodecError::ModeDtype { mode: kind.name(), dtype };
    match kind {
        Kind::Float => match dtype.float_layout() {
            None => Err(unfit),
            Some(layout) if u32::from(plane) == layout.mantissa - 1 => Ok(()),
            Some(_) => Err(field("plane", plane, "it must be the mantissa bits of the dtype less 1")),
        },
        Kind::Lattice if !matches!(dtype, DType::F32 | DType::F16 | DType::Bf16) => Err(unfit),
        Kind::Lattice if plane > MAX_LATTICE_PLANE => Err(field("plane", plane, "it must be at most 20")),
        Kind::Lattice => Ok(()),
    }
}

fn read_step(bytes: &mut &[u8]) -> Result<f32, CodecError> {
    let (&step, rest) = bytes.split_first_chunk::<4>().ok_or(CodecError::Truncated("step"))?;
    *bytes = rest;
    let value = f32::from_le_bytes(step);
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    let rule = "it must be finite and above 0";
    Err(CodecError::Field { field: "step", value: u64::from(value.to_bits()), rule, clause: "6" })
}

fn read_steps(bytes: &mut &[u8], entries: u64) -> Result<IndexArray, CodecError> {
    let array = IndexArray::read(bytes, entries)?;
    let (low, high) = array.bounds();
    if entries > 0 && (low < -1024 || high > 1023) {
        return Err(CodecError::StepIndex);
    }
    Ok(array)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tables::SHAPES;
    use proptest::prelude::*;

    fn lattice() -> Head {
        Head {
            shape: Shape::Parametric(1),
            plane: 2,
            row_classes: IndexArray::new(vec![1, 2, 3]),
            column_classes: IndexArray::Constant(20),
            steps: Some(Steps { step: 0.5, rows: Some(IndexArray::new(vec![-3, 0, 9])), columns: None }),
        }
    }

    #[test]
    fn round_trip() {
        let explicit = Shape::Explicit(parametric(Kind::Float, 2).expect("shape"));
        let float = Head { shape: explicit, plane: 6, steps: None, ..lattice() };
        for head in [lattice(), float] {
            assert_eq!(Head::read(&head.to_bytes(), DType::Bf16, 3, 7), Ok(head));
        }
    }

    #[test]
    fn refuses_what_the_spec_forbids() {
        let good = lattice().to_bytes();
        let with = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            Head::read(&bytes, DType::Bf16, 3, 7)
        };
        assert!(with(0, 5).is_err(), "kind");
        assert!(with(1, SHAPES as u8).is_err(), "shape");
        assert!(with(2, 21).is_err(), "plane");
        assert!(with(3, 5).is_err(), "flags");
        assert!(with(7, 0x7F).is_ok() && with(7, 0xBF).is_err(), "negative step");
        assert!(Head::read(&good, DType::F8E4M3, 3, 7).is_err(), "dtype");
        assert!(Head::read(&good, DType::I8, 3, 7).is_err(), "dtype");
        for n in 0..good.len() {
            assert!(Head::read(&good[..n], DType::Bf16, 3, 7).is_err(), "cut at {n}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(Head::read(&long, DType::Bf16, 3, 7), Err(CodecError::TrailingBytes(1, "6")));
    }

    proptest! {
        #[test]
        fn never_panics(bytes: Vec<u8>, rows: u64, columns: u64) {
            let _ = Head::read(&bytes, DType::Bf16, rows, columns);
        }
    }
}
