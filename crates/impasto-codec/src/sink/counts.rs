//! The counting sink: counts the symbols, computes their cost under given tables, and fits tables to them.

use impasto_core::varint;

use super::SymbolSink;
use super::slot::in_batches;
use crate::class::Kind;
use crate::rans::escape_code;
use crate::tables::{COST_ONE, ESCAPE, Frequencies, SYMBOLS, fit, symbol_cost};

/// Number of occurrences of each symbol in each table.
#[derive(Clone)]
pub struct Counts {
    kind: Kind,
    /// `[table][symbol]`; values outside the range of the symbols count as escapes.
    symbols: Vec<[u64; SYMBOLS]>,
    /// Low bits, and bits of the plane.
    raw_bits: u64,
    /// Bytes of the varints of values outside the range of the symbols.
    escape_bytes: u64,
}

impl Counts {
    /// Creates empty counts.
    pub fn new(kind: Kind) -> Self {
        Counts { kind, symbols: vec![[0; SYMBOLS]; kind.tables()], raw_bits: 0, escape_bytes: 0 }
    }

    /// Returns the sum of these counts and others of the same kind. The sums are of integers, so their order does not
    /// matter.
    pub fn merged(mut self, other: Counts) -> Counts {
        for (mine, theirs) in self.symbols.iter_mut().flatten().zip(other.symbols.iter().flatten()) {
            *mine += theirs;
        }
        self.raw_bits += other.raw_bits;
        self.escape_bytes += other.escape_bytes;
        self
    }

    /// Returns the counts of a whole of which these are a sample, one part in `parts`. Symbols that are not in the sample
    /// can be escapes: every table gets one.
    pub fn of_sample(mut self, parts: u64) -> Counts {
        for table in &mut self.symbols {
            table.iter_mut().for_each(|n| *n *= parts);
            table[ESCAPE] = table[ESCAPE].max(1);
        }
        self.raw_bits *= parts;
        self.escape_bytes *= parts;
        self
    }

    /// Returns the cost under `tables`, one for each table number of the kind, in 2^-16 bit. A symbol without a
    /// frequency is coded as an escape.
    pub fn cost(&self, tables: &[Frequencies]) -> u64 {
        let mut cost = (self.raw_bits + 8 * self.escape_bytes) * COST_ONE;
        for (counts, table) in self.symbols.iter().zip(tables) {
            // A table without an escape gets a high cost, so that it is not chosen where an escape is needed.
            let escape = symbol_cost(table.0[ESCAPE]).unwrap_or(64 * COST_ONE);
            for (s, &n) in counts.iter().enumerate() {
                cost += n * match symbol_cost(table.0[s]) {
                    Some(cost) => cost,
                    None if s == ESCAPE => escape,
                    None => escape + self.escape_length() * 8 * COST_ONE,
                };
            }
        }
        cost
    }

    /// Returns the approximate length, in bytes, of the escape for a value in the range of the symbols.
    fn escape_length(&self) -> u64 {
        match self.kind {
            Kind::Float => 2,
            Kind::Lattice | Kind::Trellis | Kind::Refinement | Kind::TrellisRefinement => 1,
            Kind::Exact => 2,
        }
    }

    /// Returns tables fitted to these counts. Every symbol that occurs has a frequency, or the escape has one.
    pub fn fitted(&self) -> Vec<Frequencies> {
        self.symbols.iter().map(fit_with_escape).collect()
    }

    /// Returns the kind of the values counted.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl SymbolSink for Counts {
    fn symbols(&mut self, classes: &[i32], values: &[i32]) {
        let Counts { kind, symbols, raw_bits, escape_bytes } = self;
        let counts = symbols.as_flattened_mut();
        in_batches(*kind, classes, values, |slots, values| {
            slots.iter().for_each(|slot| counts[slot.index()] += 1);
            *raw_bits += u64::from(slots.iter().map(|slot| slot.low_bits()).sum::<u32>());
            // Without an early exit, so that the loop becomes vectors.
            if slots.iter().fold(false, |any, slot| any | slot.is_escape()) {
                let escapes = slots.iter().zip(values).filter(|(slot, _)| slot.is_escape());
                *escape_bytes += escapes.map(|(_, &v)| varint::len(escape_code(*kind, v)) as u64).sum::<u64>();
            }
        });
    }

    fn raw(&mut self, fields: &[i32], bits: u32) {
        self.raw_bits += fields.len() as u64 * u64::from(bits);
    }

    /// Does nothing: counts are of a whole tensor, while the padding of planes depends on its tiles.
    fn end_row(&mut self) {}
}

/// Returns frequencies in which every symbol that occurs has one, except rare symbols, which are coded as escapes.
fn fit_with_escape(counts: &[u64; SYMBOLS]) -> Frequencies {
    let total: u64 = counts.iter().sum();
    let mut kept = *counts;
    // Below half a slot, a symbol is cheaper as an escape than with the smallest frequency.
    for s in 0..ESCAPE {
        if kept[s] * 4096 < total {
            kept[ESCAPE] += kept[s];
            kept[s] = 0;
        }
    }
    // Explicit tables store one run from the first to the last kept symbol; frequencies inside it may be 0.
    fit(&kept)
}
