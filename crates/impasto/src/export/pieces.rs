//! The parts of a tensor with a format (SPEC 20) that the layouts of engines have: codes, scales, biases.

use impasto_checkpoint::Change;
use impasto_codec::Groups;
use impasto_container::Source;
use impasto_core::{DType, Format};

use crate::error::FileError;
use crate::file::File;
use crate::tensor::Tensor;
use crate::view::Origin;

/// A part of a tensor with a format. Each is written row by row.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Piece {
    /// The code of each number, in 4 or 8 bits, the first in the lowest bits. Integers are biased, so that codes are not
    /// negative. Each row is filled up with zeros to a multiple of `align` bytes.
    Codes {
        /// In bytes.
        align: u64,
    },
    /// The number of each int8, without a bias.
    Signed,
    /// As biased integers of 8 bits: twice each number of E2M1.
    #[cfg(feature = "onnx")]
    Twice {
        /// In bytes.
        align: u64,
    },
    /// The scale of each group as a float, times a factor.
    Scales {
        /// F32, F16 or BF16.
        dtype: DType,
        /// The factor, a power of two or its negative.
        factor: f32,
        /// Columns that share a scale in the layout, which divide a group; 0 for the groups as they are.
        width: u64,
    },
    /// The scale of each group as the byte that the format has for it.
    Bytes,
    /// The reciprocal of the scale of the tensor, F32.
    Global,
    /// Its shape, two I64.
    Shape,
}

/// The end of the names of weights.
pub const WEIGHT: &str = ".weight";

/// Returns the groups of a tensor with a format, if a layout can have it. If it cannot, `notes` says why.
///
/// - `name`: its name in transformers
/// - `why_not`: why the layout does not have a linear layer with such groups
pub fn chosen<'t, S: Source>(
    name: &str,
    origin: &Origin,
    tensor: &'t Tensor<S>,
    notes: &mut Vec<String>,
    why_not: impl Fn(&Groups) -> Option<&'static str>,
) -> Option<&'t Groups> {
    let groups = tensor.header().filter(|_| tensor.is_lattice())?.groups()?;
    let is_matrix = matches!(tensor.shape(), &[_, columns] if tensor.matrix().cols() == columns);
    let why = if !is_matrix {
        Some("engines read formats of matrices")
    } else if !name.ends_with(WEIGHT) || origin.change != Change::None {
        Some("engines read formats of linear layers")
    } else {
        why_not(groups)
    };
    let Some(why) = why else { return Some(groups) };
    notes.push(format!("{name}: {why}, so its {} numbers are written as floats", groups.format.name()));
    None
}

/// The error that a file has no tensor with a format that `form` has. `notes` says why some are not like that, if any.
pub fn without_formats<S: Source>(file: &File<S>, form: &'static str, notes: &[String]) -> FileError {
    let rule = match notes.first() {
        Some(why) => format!("no tensor has a format that this layout has: {why}"),
        None => "no tensor has a format of engines: encode with --format (or leave out the exact layer)".into(),
    };
    FileError::Form { file: file.reader().name().to_owned(), form, rule }
}

/// Writes a piece of a tensor with a format.
pub fn write<S: Source>(
    file: &File<S>,
    name: &str,
    piece: Piece,
    write: &mut dyn FnMut(&[u8]) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let tensor = file.tensor(name)?;
    let Some(groups) = tensor.header().and_then(|header| header.groups()) else { return Ok(()) };
    let (rows, columns) = (tensor.matrix().rows(), tensor.matrix().cols());
    match piece {
        // A power of two in files of our own, so that its reciprocal is exact.
        Piece::Global => write(&groups.step.recip().to_le_bytes()),
        Piece::Shape => write(&[rows, columns].map(|n| (n as i64).to_le_bytes()).concat()),
        Piece::Bytes => (0..rows as usize).try_for_each(|r| {
            let indices = groups.row(r).into_iter();
            write(&indices.map(|index| index as u8).collect::<Vec<u8>>())
        }),
        Piece::Scales { dtype, factor, width } => (0..rows as usize).try_for_each(|r| {
            let scales = widened(&groups.row(r), groups.width(), width, columns);
            let form = groups.format.scale_form();
            write(&floats(dtype, scales.into_iter().map(|index| form.scale(index) * groups.step * factor)))
        }),
        Piece::Codes { align } => integers(&tensor, &mut |row| write(&filled(packed(groups.format, row), align))),
        Piece::Signed => {
            integers(&tensor, &mut |row| write(&row.iter().map(|&z| groups.format.code(z)).collect::<Vec<u8>>()))
        }
        #[cfg(feature = "onnx")]
        Piece::Twice { align } => integers(&tensor, &mut |row| {
            let twice = row.iter().map(|&z| (groups.format.value(z) * 2.0) as i8 as u8 ^ 0x80);
            write(&filled(twice.collect(), align))
        }),
    }
}

/// Passes on the integers of each row.
fn integers<S: Source>(
    tensor: &Tensor<S>,
    write: &mut dyn FnMut(&[i32]) -> Result<(), FileError>,
) -> Result<(), FileError> {
    let decoder = tensor.finest()?;
    let columns = tensor.matrix().cols().max(1) as usize;
    let mut z = Vec::new();
    (0..tensor.tile_rows()).try_for_each(|row| {
        tensor.integers(&decoder, row, &mut z)?;
        z.chunks_exact(columns).try_for_each(&mut *write)
    })
}

/// Returns the scales of a row of groups of `from` columns (0: all), as those of groups of `to` columns (0: the same groups).
fn widened(scales: &[i32], from: u64, to: u64, columns: u64) -> Vec<i32> {
    if to == 0 {
        return scales.to_vec();
    }
    let group = |n: u64| (n * to).checked_div(from).unwrap_or(0) as usize;
    (0..columns.div_ceil(to)).filter_map(|n| scales.get(group(n)).copied()).collect()
}

/// Converts floats to a dtype that has them.
fn floats(dtype: DType, values: impl Iterator<Item = f32>) -> Vec<u8> {
    match dtype {
        DType::Bf16 => values.flat_map(|v| half::bf16::from_f32(v).to_le_bytes()).collect(),
        DType::F16 => values.flat_map(|v| half::f16::from_f32(v).to_le_bytes()).collect(),
        _ => values.flat_map(f32::to_le_bytes).collect(),
    }
}

/// Packs the integers of a row, of which those out of range count as the nearest inside.
fn packed(format: Format, row: &[i32]) -> Vec<u8> {
    let codes = row.iter().map(|&z| format.code(z));
    match format {
        Format::Mxfp4 | Format::Nvfp4 => nibbles(codes),
        Format::Fp8E4M3 | Format::Fp8E5M2 => codes.collect(),
        Format::Int4 => nibbles(codes.map(|code| code ^ 8)),
        Format::Int8 => codes.map(|code| code ^ 0x80).collect(),
    }
}

/// Fills a row up to a multiple of `align` bytes.
fn filled(mut row: Vec<u8>, align: u64) -> Vec<u8> {
    let length = (row.len() as u64).next_multiple_of(align.max(1));
    row.resize(usize::try_from(length).unwrap_or(row.len()), 0);
    row
}

/// Packs numbers of 4 bits in pairs, the first in the low bits.
fn nibbles(numbers: impl Iterator<Item = u8>) -> Vec<u8> {
    let numbers: Vec<u8> = numbers.collect();
    numbers.chunks(2).map(|pair| pair[0] | pair.get(1).copied().unwrap_or(0) << 4).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_number_is_in_the_lowest_bits() {
        let word = |bytes: &[u8]| u32::from_le_bytes(bytes.try_into().expect("four bytes"));
        assert_eq!(word(&packed(Format::Int4, &[-8, -7, 0, 7, 1, 2, -1, 3])), 0xB7A9_F810);
        assert_eq!(word(&packed(Format::Int8, &[-128, 127, 0, -1])), 0x7F80_FF00);
        // The sign of E2M1 is the highest bit.
        assert_eq!(packed(Format::Mxfp4, &[1, -1, 7, -7, 0]), [0x91, 0xF7, 0x00]);
        assert_eq!(packed(Format::Fp8E4M3, &[-128, -127]), [0x00, 0x80]);
        assert_eq!(packed(Format::Int4, &[100, -100]), [0x0F], "the nearest inside");
    }

    #[test]
    fn rows_are_filled_up() {
        assert_eq!(filled(vec![1, 2, 3, 4, 5], 4), [1, 2, 3, 4, 5, 0, 0, 0]);
        assert_eq!(filled(vec![1, 2], 1), [1, 2]);
        assert!(filled(vec![], 4).is_empty());
    }

    #[test]
    fn a_scale_is_repeated_for_narrower_groups() {
        assert_eq!(widened(&[5], 0, 32, 96), [5, 5, 5]);
        assert_eq!(widened(&[5, 6], 64, 32, 128), [5, 5, 6, 6]);
        assert_eq!(widened(&[5, 6], 64, 32, 100), [5, 5, 6, 6], "the last group may be short");
        assert_eq!(widened(&[5, 6, 7], 32, 32, 96), [5, 6, 7]);
        assert_eq!(widened(&[5, 6], 48, 0, 96), [5, 6]);
    }
}
