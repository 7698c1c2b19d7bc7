//! The counting sink: how often each symbol occurs, what that costs under a set of tables, and tables that fit.

use impasto_core::varint;

use super::SymbolSink;
use crate::class::{Class, Kind};
use crate::rans::{escape_code, symbol};
use crate::tables::{COST_ONE, ESCAPE, Frequencies, SYMBOLS, fit, symbol_cost};

/// How often each symbol of each table occurs.
#[derive(Clone)]
pub struct Counts {
    kind: Kind,
    /// `[table][symbol]`; values out of reach of every table count as escapes.
    symbols: Vec<[u64; SYMBOLS]>,
    /// Low bits of wide classes, and bits of the plane.
    raw_bits: u64,
    /// Bytes of the varints of values out of reach.
    escape_bytes: u64,
}

impl Counts {
    /// Nothing counted yet.
    pub fn new(kind: Kind) -> Self {
        Counts { kind, symbols: vec![[0; SYMBOLS]; kind.tables()], raw_bits: 0, escape_bytes: 0 }
    }

    /// These and others of the same kind together. Integer sums: any order gives the same.
    pub fn merged(mut self, other: Counts) -> Counts {
        for (mine, theirs) in self.symbols.iter_mut().flatten().zip(other.symbols.iter().flatten()) {
            *mine += theirs;
        }
        self.raw_bits += other.raw_bits;
        self.escape_bytes += other.escape_bytes;
        self
    }

    /// Cost under tables, one for each table number of the kind, in 2^-16 bit. Symbols that a table lacks are escapes.
    pub fn cost(&self, tables: &[Frequencies]) -> u64 {
        let mut cost = (self.raw_bits + 8 * self.escape_bytes) * COST_ONE;
        for (counts, table) in self.symbols.iter().zip(tables) {
            // No escape: so dear that such a table is not chosen where one is needed.
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

    /// About how many bytes an escape takes whose value has a symbol.
    fn escape_length(&self) -> u64 {
        match self.kind {
            Kind::Float => 2,
            Kind::Lattice | Kind::Refinement => 1,
            Kind::Exact => 2,
        }
    }

    /// Tables fitted to these counts. Every symbol that occurs has a place in them, or the escape stands in for it.
    pub fn fitted(&self) -> Vec<Frequencies> {
        self.symbols.iter().map(fit_with_escape).collect()
    }

    /// The kind of values that are counted.
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl SymbolSink for Counts {
    #[inline(always)]
    fn symbol(&mut self, class: Class, value: i32) {
        let (symbol, _) = symbol(class, value);
        self.symbols[class.table][symbol] += 1;
        self.raw_bits += u64::from(class.low_bits);
        if symbol == ESCAPE {
            self.escape_bytes += varint::len(escape_code(self.kind, value)) as u64;
        }
    }

    #[inline(always)]
    fn raw(&mut self, _: u32, bits: u32) {
        self.raw_bits += u64::from(bits);
    }

    /// Planes are padded tile by tile, which counts of a whole tensor do not know.
    #[inline(always)]
    fn end_row(&mut self) {}
}

/// Explicit frequencies in which every symbol that occurs has its place, or the escape stands in for those too rare to keep.
fn fit_with_escape(counts: &[u64; SYMBOLS]) -> Frequencies {
    let total: u64 = counts.iter().sum();
    let mut kept = *counts;
    // Below half of a slot, a symbol is cheaper as an escape than as the smallest frequency.
    for s in 0..ESCAPE {
        if kept[s] * 4096 < total {
            kept[ESCAPE] += kept[s];
            kept[s] = 0;
        }
    }
    // The frequencies are one run from the first to the last kept symbol; holes inside are free to be 0.
    fit(&kept)
}
