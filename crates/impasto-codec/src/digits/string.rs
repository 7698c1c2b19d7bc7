//! A string of elements: frequency tables, the contexts of each digit, one rANS segment (SPEC 18.2, 18.3).

use impasto_core::{Isa, at_each_isa, varint};

use crate::class::Kind;
use crate::error::CodecError;
use crate::rans::{Coded, Columns, Decoder, LANES, LOW, code};
use crate::tables::{Frequencies, Lut, SYMBOLS, TOTAL};

/// Values of a digit.
pub const DIGITS: usize = 16;
/// Most tables of a string: those of [`KIND`].
pub const MOST_TABLES: usize = KIND.tables();
/// Elements whose digits are decoded together.
const RUN: usize = 1024;
/// Marks a digit whose table depends on the digit before.
const EACH: u8 = 255;

/// The kind whose lookup tables and kernels these tables use: class is table, without low bits. Its values are symbols
/// less [`OFFSET`].
const KIND: Kind = Kind::Refinement;
const OFFSET: i32 = 31;

/// The table of a digit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Context {
    /// The same for every element.
    One(u8),
    /// One for each value of the digit before.
    Each([u8; DIGITS]),
}

impl Context {
    /// Returns the digit, if there is only one, whose coding takes nothing and leaves the lanes as they are.
    fn only(&self, tables: &[Frequencies]) -> Option<u32> {
        let Context::One(table) = self else { return None };
        tables[usize::from(*table)].0.iter().position(|&f| u32::from(f) == TOTAL).map(|digit| digit as u32)
    }

    /// Returns the table after a digit.
    #[inline(always)]
    pub fn table(&self, before: u8) -> u8 {
        match self {
            Context::One(table) => *table,
            Context::Each(tables) => tables[usize::from(before) % DIGITS],
        }
    }
}

/// Appends the string of `elements`. Each context has one entry for each digit; every digit has a frequency in its table.
pub fn write(elements: &[u8], size: usize, tables: &[Frequencies], contexts: &[Context], out: &mut Vec<u8>) {
    out.push(tables.len() as u8);
    for table in tables {
        let present = (0..DIGITS).filter(|&d| table.0[d] > 0).fold(0u16, |bits, d| bits | 1 << d);
        out.extend(present.to_le_bytes());
        table.0[..DIGITS].iter().filter(|&&f| f > 0).for_each(|&f| varint::write(out, f.into()));
    }
    for context in contexts {
        match context {
            Context::One(table) => out.push(*table),
            Context::Each(tables) => {
                out.push(EACH);
                out.extend(tables);
            }
        }
    }
    let symbols: Vec<[Coded; DIGITS]> = tables.iter().map(coded).collect();
    let of_pairs: Vec<Pairs> = contexts.iter().map(|context| pairs(context, &symbols)).collect();
    let (mut states, mut room) = ([LOW; LANES], Vec::new());
    let (mut run_symbols, mut parts) = (Vec::with_capacity(RUN * contexts.len()), Vec::new());
    for run in elements.chunks(RUN * size).rev() {
        run_symbols.clear();
        for (k, of_pair) in of_pairs.iter().enumerate() {
            let at = size - 1 - k / 2;
            let elements = run.chunks_exact(size);
            if !k.is_multiple_of(2) {
                run_symbols.extend(elements.map(|element| of_pair[usize::from(element[at])]));
            } else if k > 0 {
                let pair = |element: &[u8]| element[at + 1] << 4 | element[at] >> 4;
                run_symbols.extend(elements.map(|element| of_pair[usize::from(pair(element))]));
            } else {
                run_symbols.extend(elements.map(|element| of_pair[usize::from(element[at] >> 4)]));
            }
        }
        parts.push(code(Isa::best(), run.len() / size, &run_symbols, &mut states, &mut room).to_vec());
    }
    let words: usize = parts.iter().map(Vec::len).sum();
    out.extend(states.iter().flat_map(|x| x.to_le_bytes()));
    out.extend((words as u32).to_le_bytes());
    out.extend(parts.iter().rev().flatten().flat_map(|word| word.to_le_bytes()));
}

/// The symbols of a digit, by the digit before it and itself.
type Pairs = [Coded; DIGITS * DIGITS];

fn pairs(context: &Context, symbols: &[[Coded; DIGITS]]) -> Pairs {
    std::array::from_fn(|pair| symbols[usize::from(context.table((pair / DIGITS) as u8))][pair % DIGITS])
}

fn coded(table: &Frequencies) -> [Coded; DIGITS] {
    let starts = table.starts();
    std::array::from_fn(|d| Coded::new(table.0[d], starts[d]))
}

/// Decodes a string of elements of `size` bytes to `out`, and removes it from the front of `bytes`.
///
/// # Errors
/// If the string violates SPEC 18.
pub fn decode(isa: Isa, bytes: &mut &[u8], size: usize, out: &mut [u8]) -> Result<(), CodecError> {
    let tables = read_tables(bytes)?;
    let contexts = (0..2 * size).map(|k| read_context(bytes, k, tables.len())).collect::<Result<Vec<_>, _>>()?;
    let (states, rest) = bytes.split_at_checked(4 * LANES).ok_or(CodecError::Truncated("lane states"))?;
    let (count, rest) = rest.split_first_chunk().ok_or(CodecError::Truncated("words"))?;
    let length = (u32::from_le_bytes(*count) as usize).saturating_mul(2);
    let (words, rest) = rest.split_at_checked(length).ok_or(CodecError::Truncated("words"))?;
    *bytes = rest;
    let mut lanes = [0; LANES];
    lanes.iter_mut().zip(states.as_chunks().0).for_each(|(x, &state)| *x = u32::from_le_bytes(state));
    let lut = Lut::partial(KIND, &tables);
    let broken = |rule| CodecError::Segment { segment: 0, rule, clause: "8.4" };
    let decoder = Decoder::new(isa, &lut, lanes, words);
    let mut decoder = decoder.ok_or(broken("a lane state is below 2^16"))?;
    let mut room = Room::new(RUN.min(out.len() / size));
    for run in out.chunks_mut(RUN * size) {
        if run.len() / size != room.last.len() {
            room = Room::new(run.len() / size);
        }
        for (k, context) in contexts.iter().enumerate() {
            if let Some(digit) = context.only(&tables) {
                room.last.iter_mut().for_each(|last| *last = *last << 4 | digit);
            } else {
                room.digit(isa, &mut decoder, context).ok_or(broken("the words end before the digits do"))?;
            }
            let left = contexts.len() - 1 - k;
            if left.is_multiple_of(8) {
                room.flush(left / 2, size, run);
            }
        }
    }
    if decoder.is_finished() {
        return Ok(());
    }
    Err(broken("at its end a lane state is not 2^16, or words are left"))
}

/// Working memory for a run.
struct Room {
    /// The last 8 digits of each element, the last one lowest.
    last: Vec<u32>,
    /// Classes if the table is the same for all elements, and if it depends on the digit before.
    one: Columns,
    each: Columns,
    values: Vec<i32>,
    escapes: Vec<u32>,
}

impl Room {
    fn new(elements: usize) -> Self {
        let columns = || Columns::new(vec![0; elements]);
        let one = columns();
        let values = vec![0; one.padded()];
        Room { last: vec![0; elements], one, each: columns(), values, escapes: vec![] }
    }

    /// Decodes the next digit of all elements of the run; `None` if the words end too early.
    fn digit(&mut self, isa: Isa, decoder: &mut Decoder, context: &Context) -> Option<()> {
        let Room { last, one, each, values, escapes } = self;
        let (row, columns) = match context {
            Context::One(table) => (i32::from(*table), &*one),
            Context::Each(tables) => {
                let tables = tables.map(i32::from);
                each.update(isa, |classes| classes_after(isa, &tables, last, classes));
                (0, &*each)
            }
        };
        // No table of a string has an escape.
        decoder.rows(&[row], columns, values, escapes).ok()?;
        append(isa, values, last);
        Some(())
    }

    /// Writes the last 8 digits, or as many as there are, to the elements of `run`: bytes `at` to `at + 3`.
    fn flush(&self, at: usize, size: usize, run: &mut [u8]) {
        match (at, size) {
            (0, 1) => flush_to::<1>(&self.last, run),
            (0, 2) => flush_to::<2>(&self.last, run),
            (0, 4) => flush_to::<4>(&self.last, run),
            _ => {
                let bytes = at..size.min(at + 4);
                for (element, last) in run.chunks_exact_mut(size).zip(&self.last) {
                    element[bytes.clone()].copy_from_slice(&last.to_le_bytes()[..bytes.len()]);
                }
            }
        }
    }
}

fn flush_to<const N: usize>(last: &[u32], run: &mut [u8]) {
    for (element, last) in run.as_chunks_mut::<N>().0.iter_mut().zip(last) {
        element.copy_from_slice(&last.to_le_bytes()[..N]);
    }
}

at_each_isa! {
    /// Appends digits, as values of [`KIND`], to the last ones.
    fn append(values: &[i32], last: &mut [u32]) {
        last.iter_mut().zip(values).for_each(|(last, &value)| *last = *last << 4 | (value + OFFSET) as u32 & 15);
    }
}

at_each_isa! {
    /// Looks up the tables of the digits that follow the last ones.
    fn classes_after(tables: &[i32; DIGITS], last: &[u32], classes: &mut [i32]) {
        classes.iter_mut().zip(last).for_each(|(class, last)| *class = tables[*last as usize % DIGITS]);
    }
}

fn field(field: &'static str, value: u64, rule: &'static str) -> CodecError {
    CodecError::Field { field, value, rule, clause: "18.2" }
}

fn byte(bytes: &mut &[u8], what: &'static str) -> Result<u8, CodecError> {
    let (&byte, rest) = bytes.split_first().ok_or(CodecError::Truncated(what))?;
    *bytes = rest;
    Ok(byte)
}

fn read_tables(bytes: &mut &[u8]) -> Result<Vec<Frequencies>, CodecError> {
    let count = byte(bytes, "tables")?;
    if count == 0 || usize::from(count) > MOST_TABLES {
        return Err(field("tables", count.into(), "it must be 1 to 24"));
    }
    (0..count).map(|_| read_table(bytes)).collect()
}

fn read_table(bytes: &mut &[u8]) -> Result<Frequencies, CodecError> {
    let (present, rest) = bytes.split_first_chunk().ok_or(CodecError::Truncated("table"))?;
    *bytes = rest;
    let present = u16::from_le_bytes(*present);
    let (mut frequencies, mut sum) = ([0; SYMBOLS], 0u64);
    for d in (0..DIGITS).filter(|d| present >> d & 1 == 1) {
        let f = varint::read(bytes)?;
        if f == 0 {
            return Err(field("frequency", f, "it must be at least 1"));
        }
        sum = sum.saturating_add(f);
        frequencies[d] = u16::try_from(f).unwrap_or(u16::MAX);
    }
    if sum != u64::from(TOTAL) {
        return Err(field("frequencies", sum, "those of a table must sum to 2048"));
    }
    Ok(Frequencies(frequencies))
}

fn read_context(bytes: &mut &[u8], k: usize, tables: usize) -> Result<Context, CodecError> {
    let table = |number: u8| {
        let rule = "there is no table of this number";
        if usize::from(number) < tables { Ok(number) } else { Err(field("context", number.into(), rule)) }
    };
    let number = byte(bytes, "contexts")?;
    if number != EACH || k == 0 {
        return table(number).map(Context::One);
    }
    let mut numbers = [0; DIGITS];
    for each in &mut numbers {
        *each = table(byte(bytes, "contexts")?)?;
    }
    Ok(Context::Each(numbers))
}
