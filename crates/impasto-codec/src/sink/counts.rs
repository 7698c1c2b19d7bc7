//! The counting sink: how often each symbol occurs, what that costs under each set of tables, and the cheapest set.

use impasto_core::varint;

use super::SymbolSink;
use crate::class::{Class, Kind};
use crate::header::Shape;
use crate::rans::{escape_code, symbol};
use crate::tables::{COST_ONE, ESCAPE, Frequencies, SHAPES, SYMBOLS, fit, parametric, symbol_cost, write_explicit};

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

    /// Cost under tables, in 2^-16 bit. Symbols that a table lacks are escapes.
    fn cost(&self, tables: &[Frequencies]) -> u64 {
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

    /// The cheapest tables, and what the symbols and these tables cost in bits (rounded up).
    pub fn best_shape(&self) -> (Shape, u64) {
        let explicit: Vec<Frequencies> = self.symbols.iter().map(fit_with_escape).collect();
        let mut spelled = Vec::new();
        write_explicit(&mut spelled, &explicit);
        let mut best = (self.cost(&explicit) + spelled.len() as u64 * 8 * COST_ONE, Shape::Explicit(explicit));
        for shape in 0..SHAPES as u8 {
            let Some(tables) = parametric(self.kind, shape) else { break };
            let cost = self.cost(&tables);
            if cost <= best.0 {
                best = (cost, Shape::Parametric(shape));
            }
        }
        (best.1, best.0.div_ceil(COST_ONE))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::class;
    use crate::rans::{LANES, encode_segment};

    /// What is promised is what the coder makes of it.
    #[test]
    fn costs_are_coded_sizes() {
        for kind in [Kind::Float, Kind::Lattice] {
            let columns: Vec<i32> = (0..256).map(|c| c % 9).collect();
            let rows: Vec<i32> = (0..400).map(|r| 10 + r % 23).collect();
            let mut seed = 1u32;
            let values: Vec<i32> = rows
                .iter()
                .flat_map(|_| &columns)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let bell = (0..6).map(|i| (seed >> (5 * i) & 31) as i32).sum::<i32>() - 93;
                    if kind == Kind::Lattice { bell / 4 } else { bell / 4 + 20 }
                })
                .collect();
            let mut counts = Counts::new(kind);
            for (&row, values) in rows.iter().zip(values.chunks_exact(columns.len())) {
                for (&column, &value) in columns.iter().zip(values) {
                    counts.symbol(class(kind, row, column), value);
                }
            }
            let (shape, bits) = counts.best_shape();
            let (tables, spelled) = match shape {
                Shape::Explicit(tables) => {
                    let mut spelled = Vec::new();
                    write_explicit(&mut spelled, &tables);
                    (tables, spelled.len())
                }
                Shape::Parametric(shape) => (parametric(kind, shape).expect("shape"), 0),
            };
            let segment = encode_segment(kind, &rows, &columns, &values, &tables).expect("escapes have frequencies");
            let bytes = segment.words.len() * 2 + segment.escapes.len() + spelled + 4 * LANES;
            let promised = bits as f64 / 8.0;
            assert!((bytes as f64 / promised - 1.0).abs() < 0.01, "{kind:?}: {bytes} bytes, promised {promised}");
        }
    }
}
