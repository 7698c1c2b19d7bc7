//! Formats: the fields of a tensor header with a format, and the weights under it (SPEC 20).

use impasto_core::format::{Values, reconstruct_group};
use impasto_core::{DType, Format, Place, varint};

use crate::error::CodecError;
use crate::index::IndexArray;

/// The format of a tensor, and the scales of its groups: some columns of one row each.
#[derive(Clone, Debug, PartialEq)]
pub struct Groups {
    /// What the integers and the indices of scales stand for.
    pub format: Format,
    /// The scale of the tensor: finite and above 0, and 1 unless the format has one.
    pub step: f32,
    /// Columns of a group; 0 for a whole row.
    width: u64,
    /// Groups of a row.
    across: u64,
    /// The index of the scale of each group, row by row.
    scales: IndexArray,
}

impl Groups {
    /// Creates the fields for a matrix of `columns` columns. `scales` has an index for each group, row by row; the last
    /// group of a row may have fewer columns than `width`.
    pub fn new(format: Format, step: f32, width: u64, columns: u64, scales: IndexArray) -> Groups {
        Groups { format, step, width, across: across(width, columns), scales }
    }

    /// Returns the columns of a group; 0 for a whole row.
    pub fn width(&self) -> u64 {
        self.width
    }

    /// Returns the number of groups of a row.
    pub fn across(&self) -> usize {
        usize::try_from(self.across).unwrap_or(usize::MAX)
    }

    /// Returns the indices of the scales of a row, which must lie inside the matrix.
    pub fn row(&self, row: usize) -> Vec<i32> {
        self.scales.slice(row * self.across()..(row + 1) * self.across())
    }

    /// Checks that SPEC 20 allows these fields.
    ///
    /// # Errors
    /// The rule that is violated.
    pub fn check(&self) -> Result<(), CodecError> {
        check_width(self.format, self.width)?;
        if self.step != 1.0 && !self.format.has_tensor_scale() {
            return Err(CodecError::Format("the step must be 1, since the format has no scale of the tensor", "20.1"));
        }
        let (least, most) = self.scales.bounds();
        if least < 0 || most > self.format.scale_form().last() {
            return Err(CodecError::Format("the scale of a group is negative, infinite or not a number", "20.2"));
        }
        Ok(())
    }

    /// Returns whether there are scales for all rows and columns of `place`.
    pub(crate) fn covers(&self, place: &Place) -> bool {
        let Some((row, column)) = place.rows.end.checked_sub(1).zip(place.columns.end.checked_sub(1)) else {
            return true;
        };
        let group = self.group_of(column);
        let last = row.checked_mul(self.across()).and_then(|first| first.checked_add(group));
        group < self.across() && last.is_some_and(|last| last < usize::MAX && self.scales.covers(last + 1))
    }

    /// Returns the bytes of heap memory that the scales take.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.scales.memory_bytes()
    }

    /// Returns the number of the group of a column in its row.
    fn group_of(&self, column: usize) -> usize {
        (column as u64).checked_div(self.width).unwrap_or(0) as usize
    }

    /// Returns the column after the last one of the group of `column`.
    fn end_of(&self, column: usize) -> usize {
        match self.width {
            0 => usize::MAX,
            width => usize::try_from((column as u64 / width + 1).saturating_mul(width)).unwrap_or(usize::MAX),
        }
    }

    /// Appends the fields before the classes.
    pub(crate) fn write_head(&self, out: &mut Vec<u8>) {
        out.push(self.format as u8);
        varint::write(out, self.width);
    }

    /// Appends the scales.
    pub(crate) fn write_scales(&self, out: &mut Vec<u8>) {
        self.scales.write(out);
    }

    /// Reads the fields before the classes.
    pub(crate) fn read_head(bytes: &mut &[u8]) -> Result<(Format, u64), CodecError> {
        let (&code, rest) = bytes.split_first().ok_or(CodecError::Truncated("format"))?;
        *bytes = rest;
        let rule = "it must be 1 to 6";
        let unknown = CodecError::Field { field: "format", value: code.into(), rule, clause: "20.1" };
        let format = Format::from_code(code).ok_or(unknown)?;
        let width = varint::read(bytes)?;
        check_width(format, width)?;
        Ok((format, width))
    }

    /// Reads the scales of a matrix of `rows` x `columns`, and checks everything.
    pub(crate) fn read_scales(
        bytes: &mut &[u8],
        (format, width): (Format, u64),
        step: f32,
        rows: u64,
        columns: u64,
    ) -> Result<Groups, CodecError> {
        let across = across(width, columns);
        let count = rows.checked_mul(across).ok_or(CodecError::Truncated("group scales"))?;
        let groups = Groups { format, step, width, across, scales: IndexArray::read(bytes, count)? };
        groups.check()?;
        Ok(groups)
    }
}

/// Returns the groups of a row.
fn across(width: u64, columns: u64) -> u64 {
    if width == 0 { 1 } else { columns.div_ceil(width) }
}

fn check_width(format: Format, width: u64) -> Result<(), CodecError> {
    match format.group() {
        Some(fixed) if width != fixed => {
            let rule = "it must be 32 in MXFP4 and 16 in NVFP4";
            Err(CodecError::Field { field: "group width", value: width, rule, clause: "20.1" })
        }
        _ => Ok(()),
    }
}

/// What turns the integers of a tile with a format into weights.
pub struct Dequantizer<'a> {
    dtype: DType,
    groups: &'a Groups,
    values: Values,
    place: Place,
}

impl<'a> Dequantizer<'a> {
    /// Creates one for the tile at a place, which must lie inside the matrix of the groups.
    pub fn new(dtype: DType, groups: &'a Groups, place: &Place) -> Self {
        Dequantizer { dtype, groups, values: Values::of(groups.format), place: place.clone() }
    }

    /// Replaces integers by the signs of their values, which is all that a layer above needs (SPEC 20.4).
    pub fn signs(&self, z: &[i32], out: &mut Vec<i32>) {
        out.clear();
        out.extend(z.iter().map(|&z| self.values.sign(z)));
    }

    /// Writes the weights of row `r` of the tile, whose integers are `z`, as little-endian bytes of the dtype.
    pub fn row(&self, r: usize, z: &[i32], out: &mut [u8]) {
        let Dequantizer { groups, place, .. } = self;
        let (form, size) = (groups.format.scale_form(), self.dtype.size());
        let first = (place.rows.start + r) * groups.across();
        let mut c = 0;
        while c < z.len() {
            let column = place.columns.start + c;
            let end = (groups.end_of(column) - place.columns.start).min(z.len());
            let scale = form.scale(groups.scales.get(first + groups.group_of(column)));
            let out = &mut out[c * size..end * size];
            reconstruct_group(self.dtype, &self.values, &z[c..end], scale, groups.step, out);
            c = end;
        }
    }
}
