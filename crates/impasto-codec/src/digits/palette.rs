//! The values of a tile that has few of them (SPEC 18.1, form 3).

use std::collections::HashMap;

/// Most values of a palette, whose indices are bytes.
pub const MOST: usize = 256;
/// Sizes of elements for which a palette may pay.
const SIZES: std::ops::RangeInclusive<usize> = 2..=8;

/// The values of a tile, and the index of each element.
pub struct Palette {
    /// The elements that occur, one after the other, in the order of their bits as a number.
    pub values: Vec<u8>,
    /// One for each element.
    pub indices: Vec<u8>,
}

/// Returns the palette of elements of `size` bytes; `None` if they have more than [`MOST`] values, or are bytes.
pub fn palette(elements: &[u8], size: usize) -> Option<Palette> {
    let mut values = distinct(elements, size)?;
    values.sort_unstable();
    let index: HashMap<u64, u8> = values.iter().zip(0..=u8::MAX).map(|(&value, index)| (value, index)).collect();
    Some(Palette {
        values: values.iter().flat_map(|value| value.to_le_bytes().into_iter().take(size)).collect(),
        indices: elements.chunks_exact(size).map(|element| index[&number(element)]).collect(),
    })
}

/// Returns whether elements have at most [`MOST`] values, and are not bytes.
pub fn has_palette(elements: &[u8], size: usize) -> bool {
    distinct(elements, size).is_some()
}

/// Returns the elements that occur, as numbers, if there are few.
fn distinct(elements: &[u8], size: usize) -> Option<Vec<u64>> {
    if !SIZES.contains(&size) {
        return None;
    }
    let mut found = HashMap::new();
    for element in elements.chunks_exact(size) {
        found.entry(number(element)).or_insert(());
        if found.len() > MOST {
            return None;
        }
    }
    Some(found.into_keys().collect())
}

fn number(element: &[u8]) -> u64 {
    element.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}
