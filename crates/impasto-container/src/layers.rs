//! The layers record: the units at which the layers of a file end (SPEC 3.7).

use impasto_core::varint;

use crate::cursor::Cursor;
use crate::error::FormatError;
use crate::fields::Field;

/// The largest number of layers in a layers record (SPEC 3.7).
pub const MAX_MARKS: usize = 255;

/// A layer of the file, as its writer chose it; includes all coarser layers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LayerMark {
    /// The number of units in the layer, counted from the first unit of the file.
    pub units: u32,
    /// KL divergence from the original in nats per token, if the writer measured it.
    pub kld: Option<f32>,
}

/// Reads the payload of the record.
pub(crate) fn read_marks(mut payload: Cursor<'_>) -> Result<Vec<LayerMark>, FormatError> {
    let count = payload.varint()?;
    if count > MAX_MARKS as u64 {
        return Err(FormatError::LayerCount { count });
    }
    let mut marks = Vec::new();
    for layer in 1..=count as usize {
        let units = payload.varint()?;
        let units = u32::try_from(units).map_err(|_| FormatError::LayerUnits { layer, units })?;
        let kld = f32::from_bits(payload.take::<u32>()?);
        marks.push(LayerMark { units, kld: (!kld.is_nan()).then_some(kld) });
    }
    Ok(marks)
}

/// Appends the payload of the record.
pub(crate) fn write_marks(marks: &[LayerMark], out: &mut Vec<u8>) {
    varint::write(out, marks.len() as u64);
    for mark in marks {
        varint::write(out, u64::from(mark.units));
        mark.kld.unwrap_or(f32::NAN).to_bits().put(out);
    }
}

/// Checks the rules of SPEC 3.7 for a file of `units` units.
pub(crate) fn check_marks(marks: &[LayerMark], units: usize) -> Result<(), FormatError> {
    if marks.len() > MAX_MARKS {
        return Err(FormatError::LayerCount { count: marks.len() as u64 });
    }
    let mut before = 0;
    for (layer, mark) in (1..).zip(marks) {
        if mark.units < before || mark.units as usize > units {
            return Err(FormatError::LayerUnits { layer, units: mark.units.into() });
        }
        before = mark.units;
    }
    Ok(())
}
