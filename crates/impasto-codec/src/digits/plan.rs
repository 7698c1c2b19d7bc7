//! The tables and contexts of a string, chosen by cost.

use super::palette::has_palette;
use super::string::{Context, DIGITS, MOST_TABLES, write};
use crate::rans::LANES;
use crate::tables::{COST_ONE, Frequencies, SYMBOLS, fit, log2_q16, symbol_cost};

/// Bytes of the largest elements whose digits may depend on the digit before. Larger ones, blocks, have too many.
const MOST_BYTES: usize = 8;
/// Bits of the table of a digit for each value of the digit before.
const EACH_BITS: u64 = 8 * DIGITS as u64;

/// How often each digit occurs.
type Counts = [u64; DIGITS];

/// How a string is coded.
pub struct Plan {
    size: usize,
    tables: Vec<Frequencies>,
    contexts: Vec<Context>,
    /// Bits of the digits, in 2^-16 bit, and of the rest of the string.
    bits: u64,
}

impl Plan {
    /// Plans the string of `elements`, of `size` bytes each.
    pub fn new(elements: &[u8], size: usize) -> Plan {
        let counts = count(elements, size);
        let mut groups: Vec<Counts> = vec![];
        let contexts: Vec<Context> = counts.iter().map(|after| context(after, &mut groups)).collect();
        let tables: Vec<Frequencies> = groups.iter().map(fitted).collect();
        let digits: u64 = tables.iter().zip(&groups).map(|(table, counts)| cost(table, counts)).sum();
        let of_context = |context: &Context| 8 + if matches!(context, Context::Each(_)) { EACH_BITS } else { 0 };
        let head: u64 = contexts.iter().map(of_context).sum::<u64>() + groups.iter().map(table_bits).sum::<u64>();
        // A lane carries about two bytes in its state.
        let lanes = 8 * 2 * LANES as u64;
        Plan { size, tables, contexts, bits: digits + (head + lanes) * COST_ONE }
    }

    /// Returns about how many bytes the string takes.
    pub fn bytes(&self) -> u64 {
        self.bits.div_ceil(8 * COST_ONE)
    }

    /// Appends the string of the elements that were planned.
    pub fn write(&self, elements: &[u8], out: &mut Vec<u8>) {
        write(elements, self.size, &self.tables, &self.contexts, out);
    }
}

/// Returns about how many bytes digits take for `elements`, of `size` bytes each, if these are a sample of many.
pub fn estimate(elements: &[u8], size: usize) -> u64 {
    let of_strings = |elements: &[u8], size: usize| {
        let of_digit = |after: &[Counts; DIGITS]| after.iter().map(entropy).sum::<u64>();
        count(elements, size).iter().map(of_digit).sum::<u64>()
    };
    let plain = of_strings(elements, size);
    let masked = super::masked(elements, size).map(|(mask, kept)| of_strings(&mask, 1) + of_strings(&kept, size));
    let palette = super::palette(elements, size).map(|palette| of_strings(&palette.indices, 1));
    let least = [masked, palette].into_iter().flatten().fold(plain, u64::min);
    least.div_ceil(8 * COST_ONE)
}

/// Returns whether the last digits of a sample of elements, of `size` bytes each, are noise, as the low bits of floats are
/// unless these are quantized or pruned. This takes less time than [`estimate`].
pub fn ends_in_noise(elements: &[u8], size: usize) -> bool {
    if has_palette(elements, size) {
        return false;
    }
    let mut counts: Counts = [0; DIGITS];
    elements.chunks_exact(size).filter_map(<[u8]>::first).for_each(|byte| counts[usize::from(byte % 16)] += 1);
    // An entropy of 3.97 of 4 bits.
    entropy(&counts) * 100 >= 397 * (elements.len() / size) as u64 * COST_ONE
}

/// Counts, for each digit of the elements, its values after each value of the digit before (0 before the first one; of
/// large elements 0 always).
fn count(elements: &[u8], size: usize) -> Vec<[Counts; DIGITS]> {
    let mut counts = vec![[[0u32; DIGITS]; DIGITS]; 2 * size];
    let kept = if size <= MOST_BYTES { 15 } else { 0 };
    for element in elements.chunks_exact(size) {
        let mut before = 0;
        for (&byte, [high, low]) in element.iter().rev().zip(counts.as_chunks_mut().0) {
            let pair = [usize::from(byte >> 4), usize::from(byte & 15)];
            high[before][pair[0]] += 1;
            low[pair[0] & kept][pair[1]] += 1;
            before = pair[1] & kept;
        }
    }
    counts.into_iter().map(|after| after.map(|counts| counts.map(u64::from))).collect()
}

/// Chooses the context of a digit, and adds its counts to `groups`, those that share a table.
fn context(after: &[Counts; DIGITS], groups: &mut Vec<Counts>) -> Context {
    let all = after.iter().fold([0; DIGITS], |sum, counts| added(&sum, counts));
    let mut with_one = groups.clone();
    let one = Context::One(join(&all, &mut with_one));
    let mut with_each = groups.clone();
    let each = Context::Each(after.map(|counts| join(&counts, &mut with_each)));
    let bits = |groups: &[Counts]| groups.iter().map(|counts| entropy(counts) + table_bits(counts) * COST_ONE).sum();
    let (of_one, of_each): (u64, u64) = (bits(&with_one), bits(&with_each));
    let is_one = after[1..].iter().flatten().all(|&n| n == 0) || of_one <= of_each + EACH_BITS * COST_ONE;
    let (context, chosen) = if is_one { (one, with_one) } else { (each, with_each) };
    *groups = chosen;
    context
}

/// Adds counts to the group that they make least more costly, or to a new one if that is cheaper. Returns its number.
fn join(counts: &Counts, groups: &mut Vec<Counts>) -> u8 {
    if counts.iter().all(|&n| n == 0) {
        // A digit that does not occur: any table will do.
        return 0;
    }
    let alone = entropy(counts);
    let more = |group: &Counts| (entropy(&added(group, counts))).saturating_sub(entropy(group) + alone);
    let best = groups.iter().map(more).enumerate().min_by_key(|&(number, more)| (more, number));
    match best {
        Some((number, more)) if more <= table_bits(counts) * COST_ONE || groups.len() == MOST_TABLES => {
            groups[number] = added(&groups[number], counts);
            number as u8
        }
        _ => {
            groups.push(*counts);
            (groups.len() - 1) as u8
        }
    }
}

fn added(a: &Counts, b: &Counts) -> Counts {
    std::array::from_fn(|d| a[d] + b[d])
}

/// Returns the bits of the digits under frequencies of their own, in 2^-16 bit.
fn entropy(counts: &Counts) -> u64 {
    let all: u64 = counts.iter().sum();
    let of = |n: u64| if n == 0 { 0 } else { n * log2_q16(n) };
    of(all).saturating_sub(counts.iter().map(|&n| of(n)).sum())
}

/// Returns about how many bits the table of these digits takes.
fn table_bits(counts: &Counts) -> u64 {
    16 + 12 * counts.iter().filter(|&&n| n > 0).count() as u64
}

fn fitted(counts: &Counts) -> Frequencies {
    let mut all = [0; SYMBOLS];
    all[..DIGITS].copy_from_slice(counts);
    fit(&all)
}

/// Returns the bits of digits under a table, in 2^-16 bit.
fn cost(table: &Frequencies, counts: &Counts) -> u64 {
    table.0.iter().zip(counts).map(|(&f, &n)| n * symbol_cost(f).unwrap_or(0)).sum()
}
