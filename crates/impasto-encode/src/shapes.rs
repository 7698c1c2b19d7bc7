//! The choice of a tensor's tables: a parametric shape, which costs nothing to send, or explicit tables.

use std::convert::Infallible;

use impasto_codec::Shape;
use impasto_codec::sink::Counts;
use impasto_codec::tables::{COST_ONE, SHAPES, parametric, write_explicit};

use crate::trial::{Tool, Trial, choose};

/// The parametric shape with this number.
struct Parametric(u8);

impl Tool<Counts, Shape, Infallible> for Parametric {
    fn attempt<'t>(
        &'t self,
        counts: &'t Counts,
        _: Option<&Trial<Shape>>,
    ) -> Result<Option<Trial<'t, Shape>>, Infallible> {
        let tables = parametric(counts.kind(), self.0);
        Ok(tables.map(|tables| Trial::exact(counts.cost(&tables), Shape::Parametric(self.0))))
    }
}

/// Tables fitted to the counts and sent explicitly.
struct Explicit;

impl Tool<Counts, Shape, Infallible> for Explicit {
    fn attempt<'t>(
        &'t self,
        counts: &'t Counts,
        _: Option<&Trial<Shape>>,
    ) -> Result<Option<Trial<'t, Shape>>, Infallible> {
        let tables = counts.fitted();
        let mut spelled = Vec::new();
        write_explicit(counts.kind(), &mut spelled, &tables);
        let bits = counts.cost(&tables) + spelled.len() as u64 * 8 * COST_ONE;
        Ok(Some(Trial::exact(bits, Shape::Explicit(tables))))
    }
}

/// Returns the cheapest tables, and the cost of the symbols and the tables in bits, rounded up.
pub fn best_shape(counts: &Counts) -> (Shape, u64) {
    // Reversed, so that the last of equal shapes wins.
    let shapes: Vec<Parametric> = (0..SHAPES as u8).rev().map(Parametric).collect();
    let tools: Vec<&dyn Tool<Counts, Shape, Infallible>> =
        shapes.iter().map(|shape| shape as _).chain([&Explicit as _]).collect();
    let Ok(best) = choose(&tools, counts, 1.0);
    let best = best.expect("there are always explicit tables");
    (best.outcome, best.bits.div_ceil(COST_ONE))
}

#[cfg(test)]
mod tests {
    use impasto_codec::Kind;
    use impasto_codec::rans::{LANES, encode_segment};
    use impasto_codec::sink::SymbolSink;

    use super::*;

    /// The forecast cost equals the coded size.
    #[test]
    fn costs_are_coded_sizes() {
        for kind in [Kind::Float, Kind::Lattice, Kind::Trellis] {
            let columns: Vec<i32> = (0..256).map(|c| c % 9).collect();
            let rows: Vec<i32> = (0..400).map(|r| 10 + r % 23).collect();
            let mut seed = 1u32;
            let values: Vec<i32> = rows
                .iter()
                .flat_map(|_| &columns)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    let bell = (0..6).map(|i| (seed >> (5 * i) & 31) as i32).sum::<i32>() - 93;
                    if kind == Kind::Float { bell / 4 + 20 } else { bell / 4 }
                })
                .collect();
            let mut counts = Counts::new(kind);
            for (&row, values) in rows.iter().zip(values.chunks_exact(columns.len())) {
                counts.symbols(&columns.iter().map(|&column| row + column).collect::<Vec<_>>(), values);
            }
            let (shape, bits) = best_shape(&counts);
            let (tables, spelled) = match shape {
                Shape::Explicit(tables) => {
                    let mut spelled = Vec::new();
                    write_explicit(kind, &mut spelled, &tables);
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
