//! Decoding a tile in mode blocks (SPEC 16).

use impasto_core::blocks::apart::Form;
use impasto_core::blocks::fields::{fields, head_bytes, put_head, put_integers};
use impasto_core::{DType, Isa, Place};

use super::coded::Layer;
use super::decode::{Above, Buffer};
use crate::blocks::{BlockRow, classes_of_row, integers_of_row};
use crate::bytes;
use crate::error::CodecError;

/// Bytes of the length before the frame of a unit.
const LENGTH: usize = 4;

/// The decoder of a tile, row by row.
pub struct Blocks<'a> {
    dtype: DType,
    form: Form,
    /// The heads of all blocks, as byte planes.
    heads: Vec<u8>,
    /// The integers, if the dtype has fields.
    integers: Option<Integers<'a>>,
    /// The next row to decode.
    row: usize,
    /// Working memory for a row: its heads, its blocks, and these taken apart.
    head: Vec<u8>,
    blocks: Vec<u8>,
    parts: BlockRow,
}

struct Integers<'a> {
    above: Above<'a>,
    buffer: Buffer,
    /// Sums of row class and column class.
    sums: Vec<i32>,
}

impl<'a> Blocks<'a> {
    /// Opens a unit with blocks of `dtype`.
    pub fn new(
        isa: Isa,
        layer: &'a Layer,
        dtype: DType,
        unit: &'a [u8],
        place: &Place,
    ) -> Result<Blocks<'a>, CodecError> {
        let form = Form::of(dtype).ok_or(CodecError::Call("a layer of blocks needs a block dtype"))?;
        if !place.columns.start.is_multiple_of(form.block) || !place.columns.end.is_multiple_of(form.block) {
            let (value, rule) = (place.columns.end as u64, "its tiles must be whole blocks");
            return Err(CodecError::Field { field: "columns", value, rule, clause: "16.1" });
        }
        let (length, rest) = unit.split_first_chunk().ok_or(CodecError::Truncated("length of the heads"))?;
        let length: &[u8; LENGTH] = length;
        let split = rest.split_at_checked(u32::from_le_bytes(*length) as usize);
        let (frame, rest) = split.ok_or(CodecError::Truncated("heads"))?;
        let (count, width) = (place.elements() / form.block, place.columns.len());
        let heads = bytes::decompress(frame, count * head_bytes(dtype))?;
        let integers = match fields(dtype) {
            [] if rest.is_empty() => None,
            [] => return Err(CodecError::TrailingBytes(rest.len(), "16.2")),
            _ => {
                let above = Above::new(isa, layer, rest, place)?;
                Some(Integers { above, buffer: Buffer::new(width), sums: vec![0; width] })
            }
        };
        let (head, blocks) =
            (vec![0; width / form.block * head_bytes(dtype)], vec![0; width / form.block * dtype.size()]);
        Ok(Blocks { dtype, form, heads, integers, row: 0, head, blocks, parts: BlockRow::default() })
    }

    /// Decodes the blocks of the next row. `below` are its weights in the layer below, little-endian binary32.
    pub fn row(&mut self, below: &[u8]) -> Result<&[u8], CodecError> {
        let Blocks { dtype, form, heads, integers, row, head, blocks, parts } = self;
        let (dtype, size) = (*dtype, head_bytes(*dtype));
        bytes::from_planes(heads, size, *row, head);
        *row += 1;
        let made = blocks.chunks_exact_mut(dtype.size()).zip(head.chunks_exact(size));
        made.for_each(|(block, head)| put_head(dtype, head, block));
        let Some(Integers { above, buffer, sums }) = integers else { return Ok(blocks) };
        parts.read(dtype, form, blocks);
        let BlockRow { integers, scales } = parts;
        above.sums(sums);
        let isa = above.isa();
        buffer.classes.update(isa, |classes| classes_of_row(isa, form, sums, scales, classes));
        integers_of_row(isa, form, below, scales, above.row(buffer)?, integers);
        let made = blocks.chunks_exact_mut(dtype.size()).zip(integers.chunks_exact(form.block));
        made.for_each(|(block, integers)| put_integers(dtype, integers, block));
        Ok(blocks)
    }
}
