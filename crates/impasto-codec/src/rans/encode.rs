//! The encoder: it runs backwards over a segment, so that the decoder runs forwards.

use impasto_core::varint;

use super::{LANES, LOW};
use crate::class::{Class, Kind, class};
use crate::tables::{ESCAPE, Frequencies, TABLE_BITS};

/// A coded segment (SPEC 8).
#[derive(Debug, PartialEq, Eq)]
pub struct Segment {
    /// Lane states at the start of decoding.
    pub states: [u32; LANES],
    /// Words, in the order of decoding.
    pub words: Vec<u16>,
    /// Escapes as varints, in the order of the elements.
    pub escapes: Vec<u8>,
}

/// The symbol of `value` in its class, and its low bits; the escape (and no low bits) where symbols do not reach it.
pub fn symbol(class: Class, value: i32) -> (usize, u32) {
    let b = class.low_bits;
    let shifted = value.wrapping_add((1 << b) >> 1);
    match usize::try_from((shifted >> b).wrapping_sub(class.offset)) {
        Ok(s) if s < ESCAPE => (s, shifted as u32 & ((1 << b) - 1)),
        _ => (ESCAPE, 0),
    }
}

/// What an escape's varint holds (SPEC 8.5).
pub fn escape_code(kind: Kind, value: i32) -> u64 {
    u64::from(match kind {
        Kind::Float => value as u32,
        Kind::Lattice | Kind::Refinement | Kind::Exact => varint::zigzag(value),
    })
}

/// The value of an escape: [`escape_code`] the other way.
pub fn escape_value(kind: Kind, code: u32) -> i32 {
    match kind {
        Kind::Float => code as i32,
        Kind::Lattice | Kind::Refinement | Kind::Exact => varint::unzigzag(code),
    }
}

/// Codes `values` (`rows.len()` x `columns.len()`, row-major) under the classes of their rows and columns. The rest as
/// [`encode_elements`].
pub fn encode_segment(
    kind: Kind,
    rows: &[i32],
    columns: &[i32],
    values: &[i32],
    tables: &[Frequencies],
) -> Option<Segment> {
    assert_eq!(values.len(), rows.len() * columns.len());
    encode_elements(kind, columns.len(), values, |r, c| rows[r] + columns[c], tables)
}

/// Codes `values`, row by row of `width` each; `classes` gives the class of an element, by its row and column among them.
///
/// `tables`: one for each table number of the kind. `None` if a value needs an escape and its table gives the escape no
/// frequency.
pub fn encode_elements(
    kind: Kind,
    width: usize,
    values: &[i32],
    classes: impl Fn(usize, usize) -> i32,
    tables: &[Frequencies],
) -> Option<Segment> {
    let starts: Vec<_> = tables.iter().map(Frequencies::starts).collect();
    let mut states = [LOW; LANES];
    let mut words = Vec::new();
    let mut escaped = Vec::new();
    for (r, values) in values.chunks_exact(width.max(1)).enumerate().rev() {
        for (c, &value) in values.iter().enumerate().rev() {
            let class = class(kind, classes(r, c), 0);
            let b = class.low_bits;
            let table = &tables[class.table];
            let (s, low) = match symbol(class, value) {
                (s, _) if table.0[s] == 0 => (ESCAPE, 0),
                coded => coded,
            };
            if s == ESCAPE {
                escaped.push(escape_code(kind, value));
            }
            let frequency = u32::from(table.0[s]);
            if frequency == 0 {
                return None;
            }
            let x = &mut states[c % LANES];
            if u64::from(*x) >= u64::from(frequency) << (32 - TABLE_BITS - b) {
                words.push(*x as u16);
                *x >>= 16;
            }
            let y = (*x / frequency) << TABLE_BITS | (u32::from(starts[class.table][s]) + *x % frequency);
            *x = y << b | low;
        }
    }
    words.reverse();
    let mut escapes = Vec::new();
    escaped.iter().rev().for_each(|&code| varint::write(&mut escapes, code));
    Some(Segment { states, words, escapes })
}
