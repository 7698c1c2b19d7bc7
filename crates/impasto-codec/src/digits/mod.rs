//! Mode digits: elements as digits of 4 bits, for tensors that are quantized or pruned already (SPEC 18).
//!
//! Packed integers of 4 bits are digits; those of 2 bits are pairs in a digit, those of 8 bits pairs of digits. A tile
//! whose elements are mostly one value, such as 0, has a mask, whose digits show a pattern such as 2:4. One whose elements
//! have few values has a palette of these.

mod palette;
mod plan;
mod string;

pub use plan::{ends_in_noise, estimate};

use impasto_core::Isa;

use crate::error::CodecError;
use palette::palette;
use plan::Plan;

/// Forms of a unit (SPEC 18.1).
const CONSTANT: u8 = 0;
const ALL: u8 = 1;
const MASKED: u8 = 2;
const PALETTE: u8 = 3;

/// Bytes of memory that decoding a tile takes besides its elements and, if it has a mask, about as much again.
pub const WORKING_BYTES: u64 = 1 << 19;

/// Codes the elements of a tile, of `size` bytes each. Returns `None` if there are none.
pub fn encode(elements: &[u8], size: usize) -> Option<Vec<u8>> {
    let first = elements.get(..size).filter(|first| !first.is_empty())?;
    if elements.chunks_exact(size).all(|element| element == first) {
        return Some([&[CONSTANT], first].concat());
    }
    let plain = Plan::new(elements, size);
    let mut least = plain.bytes();
    let mut best = None;
    if let Some((mask, others)) = masked(elements, size) {
        let plans = [Plan::new(&mask, 1), Plan::new(&others, size)];
        let bytes = plans.iter().map(Plan::bytes).sum::<u64>() + size as u64;
        if bytes < least {
            let mut unit = vec![MASKED];
            unit.resize(1 + size, 0);
            plans[0].write(&mask, &mut unit);
            plans[1].write(&others, &mut unit);
            (least, best) = (bytes, Some(unit));
        }
    }
    if let Some(palette) = palette(elements, size) {
        let plan = Plan::new(&palette.indices, 1);
        if plan.bytes() + (palette.values.len() as u64) < least {
            let last = (palette.values.len() / size - 1) as u8;
            let mut unit = [&[PALETTE, last], &palette.values[..]].concat();
            plan.write(&palette.indices, &mut unit);
            best = Some(unit);
        }
    }
    best.or_else(|| {
        let mut unit = vec![ALL];
        plain.write(elements, &mut unit);
        Some(unit)
    })
}

/// Returns the mask of the elements that are not 0, and these elements; `None` if at most one in eight is 0, so that a
/// mask costs more than it saves.
fn masked(elements: &[u8], size: usize) -> Option<(Vec<u8>, Vec<u8>)> {
    let is_other = |element: &[u8]| element.iter().any(|&byte| byte != 0);
    let count = elements.len() / size;
    let others = elements.chunks_exact(size).filter(|element| is_other(element)).count();
    if (count - others) * 8 <= count {
        return None;
    }
    let mut mask = vec![0; count.div_ceil(8)];
    let mut kept = Vec::with_capacity(others * size);
    for (i, element) in elements.chunks_exact(size).enumerate().filter(|(_, element)| is_other(element)) {
        mask[i / 8] |= 1 << (i % 8);
        kept.extend_from_slice(element);
    }
    Some((mask, kept))
}

/// Decodes a unit to `out`, which has room for the elements of the tile, of `size` bytes each.
///
/// # Errors
/// If the unit violates SPEC 18; [`CodecError::Call`] if `out` is not whole elements.
pub fn decode(isa: Isa, unit: &[u8], size: usize, out: &mut [u8]) -> Result<(), CodecError> {
    if size == 0 || !out.len().is_multiple_of(size) {
        return Err(CodecError::Call("the output of a tile in mode digits must be whole elements"));
    }
    let (&form, mut rest) = unit.split_first().ok_or(CodecError::Truncated("form"))?;
    let mut element = || {
        let (element, after) = rest.split_at_checked(size).ok_or(CodecError::Truncated("element"))?;
        rest = after;
        Ok::<_, CodecError>(element)
    };
    match form {
        CONSTANT => {
            let element = element()?;
            out.chunks_exact_mut(size).for_each(|place| place.copy_from_slice(element));
        }
        ALL => string::decode(isa, &mut rest, size, out)?,
        MASKED => {
            let element = element()?;
            let count = out.len() / size;
            let mut mask = vec![0; count.div_ceil(8)];
            string::decode(isa, &mut rest, 1, &mut mask)?;
            if !count.is_multiple_of(8) && mask.last().is_some_and(|&last| last >> (count % 8) != 0) {
                let rule = "a bit is set beyond the elements of the tile";
                let value = mask.last().copied().unwrap_or(0).into();
                return Err(CodecError::Field { field: "mask", value, rule, clause: "18.1" });
            }
            let others: usize = mask.iter().map(|byte| byte.count_ones() as usize).sum();
            let mut kept = vec![0; others * size];
            string::decode(isa, &mut rest, size, &mut kept)?;
            spread(&mask, element, &kept, out);
        }
        PALETTE => {
            let (&last, after) = rest.split_first().ok_or(CodecError::Truncated("palette"))?;
            let length = (usize::from(last) + 1) * size;
            let (values, after) = after.split_at_checked(length).ok_or(CodecError::Truncated("palette"))?;
            rest = after;
            let mut indices = vec![0; out.len() / size];
            string::decode(isa, &mut rest, 1, &mut indices)?;
            if let Some(&beyond) = indices.iter().find(|&&index| index > last) {
                let (value, rule) = (beyond.into(), "it must be an index of the palette");
                return Err(CodecError::Field { field: "index", value, rule, clause: "18.1" });
            }
            paint(values, &indices, size, out);
        }
        _ => {
            let rule = "it must be 0, 1, 2 or 3";
            return Err(CodecError::Field { field: "form", value: form.into(), rule, clause: "18.1" });
        }
    }
    if rest.is_empty() { Ok(()) } else { Err(CodecError::TrailingBytes(rest.len(), "18.1")) }
}

/// Writes the values of `size` bytes that the indices stand for.
fn paint(values: &[u8], indices: &[u8], size: usize, out: &mut [u8]) {
    match size {
        2 => paint_of::<2>(values, indices, out),
        4 => paint_of::<4>(values, indices, out),
        _ => {
            let value = |index: u8| &values[usize::from(index) * size..][..size];
            out.chunks_exact_mut(size).zip(indices).for_each(|(place, &index)| place.copy_from_slice(value(index)));
        }
    }
}

fn paint_of<const N: usize>(values: &[u8], indices: &[u8], out: &mut [u8]) {
    let mut all = [[0; N]; palette::MOST];
    all.iter_mut().zip(values.as_chunks().0).for_each(|(place, value)| *place = *value);
    out.as_chunks_mut().0.iter_mut().zip(indices).for_each(|(place, &index)| *place = all[usize::from(index)]);
}

/// Puts the `kept` elements in the places that the mask has a bit for, and `element` in the others.
fn spread(mask: &[u8], element: &[u8], kept: &[u8], out: &mut [u8]) {
    match element.len() {
        1 => spread_of::<1>(mask, element, kept, out),
        2 => spread_of::<2>(mask, element, kept, out),
        4 => spread_of::<4>(mask, element, kept, out),
        size => {
            let mut kept = kept.chunks_exact(size);
            for (i, place) in out.chunks_exact_mut(size).enumerate() {
                let is_kept = mask[i / 8] >> (i % 8) & 1 == 1;
                place.copy_from_slice(if is_kept { kept.next().unwrap_or(element) } else { element });
            }
        }
    }
}

fn spread_of<const N: usize>(mask: &[u8], element: &[u8], kept: &[u8], out: &mut [u8]) {
    let (kept, places) = (kept.as_chunks::<N>().0, out.as_chunks_mut::<N>().0);
    let Some(&[element]) = element.as_chunks::<N>().0.first_chunk() else { return };
    let mut used = 0;
    for (&byte, places) in mask.iter().zip(places.chunks_mut(8)) {
        for (i, place) in places.iter_mut().enumerate() {
            // Without a branch: a pattern such as 2:4 cannot be predicted.
            let is_kept = byte >> i & 1;
            let next = kept.get(used).copied().unwrap_or(element);
            *place = if is_kept == 1 { next } else { element };
            used += usize::from(is_kept);
        }
    }
}

#[cfg(test)]
mod tests;
