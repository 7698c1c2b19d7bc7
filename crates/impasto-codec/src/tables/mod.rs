//! Frequency tables, their lookup tables for decoding, and their costs (SPEC 7.2 to 7.4).

mod costs;
mod data;
mod explicit;

pub use costs::{COST_ONE, log2_q16, symbol_cost};
pub use explicit::{fit, read_explicit, write_explicit};

use crate::class::Kind;

/// log2 of [`TOTAL`].
pub const TABLE_BITS: u32 = 11;
/// The sum of the frequencies of a table.
pub const TOTAL: u32 = 1 << TABLE_BITS;
/// Number of symbols, including the escape.
pub const SYMBOLS: usize = 64;
/// The symbol for a value in the escape list.
pub const ESCAPE: usize = 63;
/// Number of parametric shapes.
pub const SHAPES: usize = 5;

/// Frequencies of the symbols 0 to 63, which sum to [`TOTAL`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frequencies(pub [u16; SYMBOLS]);

impl Frequencies {
    /// Returns the table that codes only escapes.
    pub fn only_escape() -> Self {
        let mut f = [0; SYMBOLS];
        f[ESCAPE] = TOTAL as u16;
        Frequencies(f)
    }

    /// Returns the table of odd integers on a trellis, given that of even ones (SPEC 10.5): an index is half a step higher there.
    fn halfway(&self) -> Self {
        let (starts, mut f) = (self.starts(), self.0);
        let start = |s: usize| match s {
            0 => 0,
            ESCAPE => starts[ESCAPE],
            s => (starts[s] + starts[s + 1]) >> 1,
        };
        (0..ESCAPE).for_each(|s| f[s] = start(s + 1) - start(s));
        Frequencies(f)
    }

    /// Returns the cumulative frequencies, `start(s)` of SPEC 7.2.
    pub fn starts(&self) -> [u16; SYMBOLS] {
        let mut sum = 0;
        self.0.map(|f| {
            let start = sum;
            sum += f;
            start
        })
    }
}

/// Returns the tables of a parametric shape (SPEC 7.4, 10.5); `None` if the kind has no such shape.
pub fn parametric(kind: Kind, shape: u8) -> Option<Vec<Frequencies>> {
    let tables: &[data::Parametric] = match kind {
        Kind::Float => data::FLOAT.get(shape as usize)?,
        Kind::Lattice => data::LATTICE.get(shape as usize)?,
        Kind::Trellis => {
            let even = parametric(Kind::Lattice, shape)?;
            return Some(even.into_iter().flat_map(|even| [even.clone(), even.halfway()]).collect());
        }
        Kind::Refinement | Kind::TrellisRefinement | Kind::Exact => return None,
    };
    Some(tables.iter().map(|&(first, run, escape)| expand(first as usize, run, escape)).collect())
}

fn expand(first: usize, run: &[u16], escape: u16) -> Frequencies {
    let mut f = [0; SYMBOLS];
    f[first..first + run.len()].copy_from_slice(run);
    f[ESCAPE] = escape;
    Frequencies(f)
}

/// The lookup tables of a kind for decoding. Each table has 2048 slots. A slot holds its symbol (bits 0 to 7), the
/// frequency of the symbol (8 to 19), and the slot number minus the start of the symbol (20 to 31).
///
/// A table takes 8 KB, all tables of a kind at most 384 KB, so they stay in the L2 cache.
pub struct Lut {
    kind: Kind,
    slots: Vec<u32>,
}

impl Lut {
    /// Builds the lookup tables of `kind`.
    ///
    /// # Panics
    /// If there is not one table for each table number of `kind`, or a table does not sum to [`TOTAL`].
    pub fn new(kind: Kind, tables: &[Frequencies]) -> Lut {
        assert_eq!(tables.len(), kind.tables());
        Lut::partial(kind, tables)
    }

    /// Builds the lookup tables of the first table numbers of `kind`, for elements in no other class: those of others
    /// would be 0 and use up words.
    ///
    /// # Panics
    /// If there are more tables than `kind` has, or a table does not sum to [`TOTAL`].
    pub(crate) fn partial(kind: Kind, tables: &[Frequencies]) -> Lut {
        assert!(tables.len() <= kind.tables());
        let mut slots = Vec::with_capacity(kind.tables() << TABLE_BITS);
        for table in tables {
            for (symbol, &f) in table.0.iter().enumerate() {
                slots.extend((0..u32::from(f)).map(|i| symbol as u32 | u32::from(f) << 8 | i << 20));
            }
        }
        assert_eq!(slots.len(), tables.len() << TABLE_BITS);
        slots.resize(kind.tables() << TABLE_BITS, 0);
        Lut { kind, slots }
    }

    /// The kind of values that these tables code.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// Returns the slots of all tables, `kind().tables() << TABLE_BITS` in total.
    pub fn slots(&self) -> &[u32] {
        &self.slots
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tables in the spec equal those in the code.
    #[test]
    fn spec_prints_these_tables() {
        let spec = include_str!("../../../../docs/SPEC-TABLES.md");
        let mut found = 0;
        for kind in [Kind::Float, Kind::Lattice] {
            for shape in 0..SHAPES as u8 {
                let heading = format!("## Kind {}, shape {shape} (", kind.mode().0);
                let (_, section) = spec.split_once(&heading).expect("section in SPEC-TABLES.md");
                let body = section.split("```").nth(1).expect("table in the section");
                let tables = parametric(kind, shape).expect("shape");
                let lines: Vec<&str> = body.trim().lines().collect();
                assert_eq!(lines.len(), kind.tables());
                for (i, line) in lines.iter().enumerate() {
                    let (run, escape) = line.split_once(" | ").expect("bar");
                    let mut parts = run.split(": ");
                    assert_eq!(parts.next(), Some(i.to_string().as_str()));
                    let first: usize = parts.next().and_then(|p| p.parse().ok()).expect("first symbol");
                    let run: Vec<u16> =
                        parts.next().expect("run").split(' ').map(|f| f.parse().expect("integer")).collect();
                    assert_eq!(tables[i], expand(first, &run, escape.parse().expect("escape")));
                    assert_eq!(tables[i].0.iter().map(|&f| u32::from(f)).sum::<u32>(), TOTAL);
                    assert!(tables[i].0[ESCAPE] > 0, "an escape reaches every value");
                    found += 1;
                }
            }
        }
        assert_eq!(found, SHAPES * (24 + 4));
        assert_eq!(parametric(Kind::Float, SHAPES as u8), None);
    }

    #[test]
    fn tables_of_odd_integers_are_halfway() {
        for shape in 0..SHAPES as u8 {
            let tables = parametric(Kind::Trellis, shape).expect("shape");
            let even = parametric(Kind::Lattice, shape).expect("shape");
            assert_eq!(tables.len(), Kind::Trellis.tables());
            for (pair, even) in tables.chunks_exact(2).zip(&even) {
                assert_eq!(pair[0], *even);
                assert_eq!(pair[1].0.iter().map(|&f| u32::from(f)).sum::<u32>(), TOTAL);
                assert_eq!(pair[1].0[ESCAPE], even.0[ESCAPE]);
                // Symmetric about -1/2, up to rounding.
                (0..31).for_each(|i| assert!(pair[1].0[30 - i].abs_diff(pair[1].0[31 + i]) <= 2, "{shape} {i}"));
            }
        }
    }

    #[test]
    fn luts_stay_in_the_cache() {
        let lut = Lut::new(Kind::Lattice, &parametric(Kind::Lattice, 0).expect("shape"));
        assert_eq!(lut.slots().len() * 4, 192 * 1024);
    }
}
