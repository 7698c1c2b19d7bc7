//! Rounds columns to paths through a trellis (SPEC 10.4), by the algorithm of Viterbi.
//!
//! The integers of a column with the parities that a state allows are half of all. Of these, the lowest bit of the index halves
//! each again: an integer is in one of four subsets, by its remainder modulo 4. In each subset, the integer of least
//! `distance^2 + lambda * bits` is found first; then the path whose sum is least.

use impasto_codec::class::class;
use impasto_codec::rans::{escape_code, symbol};
use impasto_codec::tables::{COST_ONE, ESCAPE, parametric, symbol_cost};
use impasto_codec::{Kind, Trellis};
use impasto_core::{DType, Isa, at_each_isa, varint};

use super::costs::{CLASSES, TYPICAL};
use super::integers::{ONE_STEP, classes};
use super::rounding::{Grid, Rounder, Row, reconstruct};
use crate::feedback::ColumnRounding;
use crate::scales::Scales;

/// The step of a trellis, over that of a lattice without one of the same slope: an error of `0.2594 step^2` (1.09 dB below
/// `(2 step)^2 / 12`, as Marcellin and Fischer found for 8 states) is `1 / 12` at that of the lattice.
pub const STEP: f64 = 0.567;
/// `lambda` over the square of the step.
pub const LAMBDA: f32 = super::LAMBDA / (STEP * STEP) as f32;
/// What a trellis gains over a lattice without one at the same error, in bits per weight.
pub const GAIN: f64 = 0.17;

/// Integers with a cost of their own are below this, and at least its negative; others cost as much as the last of these.
const REACH: i32 = 128;
/// Costs by class and integer. The number of entries is a power of two, so that no index needs a check.
type Table = [f32; 64 * 2 * REACH as usize];
/// Remainders modulo 4.
const SUBSETS: usize = 4;
/// Cost of a state that no path reaches.
const UNREACHED: f32 = 1e30;
/// Targets are clamped to this many steps.
const MOST: f32 = 1e9;

/// The costs of integers, in squared steps.
pub struct PathCosts(Box<Table>);

impl PathCosts {
    /// Returns the costs under the parametric shape that fits most tensors best.
    pub fn typical() -> PathCosts {
        let tables = parametric(Kind::Trellis, TYPICAL).unwrap_or_default();
        let bits = |t: usize, z: i32| {
            let (class, index) = (class(Kind::Trellis, 2 * t as i32, z & 1), z >> 1);
            let (s, _) = symbol(class, index);
            let escaped = if s == ESCAPE { 8 * varint::len(escape_code(Kind::Trellis, index)) as u64 } else { 0 };
            let cost = symbol_cost(tables[class.table].0[s]).unwrap_or(64 * COST_ONE);
            (cost as f64 / COST_ONE as f64) as f32 + (u64::from(class.low_bits) + escaped) as f32
        };
        let mut table: Box<Table> = Box::new([0.0; 64 * 2 * REACH as usize]);
        for (t, costs) in table.chunks_exact_mut(2 * REACH as usize).enumerate() {
            let class = t.min(CLASSES - 1);
            costs.iter_mut().zip(-REACH..).for_each(|(cost, z)| *cost = LAMBDA * bits(class, z));
        }
        PathCosts(table)
    }
}

/// Rounds columns to paths.
pub struct PathRounder<'a> {
    rounder: Rounder<'a>,
    trellis: Trellis,
    costs: &'a PathCosts,
    /// Classes of the indices, by row and by column.
    rows: Vec<i16>,
    columns: Vec<i16>,
}

impl<'a> PathRounder<'a> {
    /// Creates a rounder to the grid of a matrix with these scales, whose weights are of `dtype` (F32, F16 or BF16).
    pub fn new(dtype: DType, scales: &Scales, grid: &Grid, (trellis, costs): (Trellis, &'a PathCosts)) -> Self {
        // An index is half an integer.
        let (rows, columns) = classes(scales, grid, ONE_STEP - 4);
        let rounder = Rounder::new(dtype, grid, rows.len(), columns.len(), None);
        PathRounder { rounder, trellis, costs, rows, columns }
    }
}

/// The candidates of 16 rows: in each subset, the best integer and its cost.
#[derive(Clone, Copy)]
struct Candidates {
    z: [Row<i32>; SUBSETS],
    cost: [Row<f32>; SUBSETS],
}

at_each_isa! {
    /// Finds the candidates for `targets` at `steps`. No integer reaches a weight above `largest`.
    fn candidates(
        targets: &Row<f32>, steps: &Row<f32>, classes: &Row<i32>, largest: f32, table: &Table, found: &mut Candidates,
    ) {
        for (subset, (z, cost)) in found.z.iter_mut().zip(&mut found.cost).enumerate() {
            let subset = subset as i32;
            for lane in 0..16 {
                let x = (targets[lane].clamp(-largest, largest) / steps[lane]).clamp(-MOST, MOST);
                let of = |z: i32| {
                    let at = classes[lane] * 2 * REACH + z.clamp(-REACH, REACH - 1) + REACH;
                    let distance = x - z as f32;
                    distance * distance + table[at as usize & (64 * 2 * REACH as usize - 1)]
                };
                let nearest = 4 * (0.25 * (x - subset as f32)).round_ties_even() as i32 + subset;
                // Toward 0, where integers cost less.
                let inner = nearest - 4 * nearest.signum();
                let is_too_large = nearest as f32 * nearest.signum() as f32 > largest / steps[lane];
                let (of_nearest, of_inner) = (of(nearest), of(inner));
                let takes_inner = is_too_large | (of_inner < of_nearest);
                z[lane] = if takes_inner { inner } else { nearest };
                cost[lane] = if takes_inner { of_inner } else { of_nearest };
            }
        }
    }
}

/// Writes to `choices` which of the two states before a state is on the best path to it, a bit for each state and a number for each
/// of `rows` rows. Returns the state in which the best path ends.
#[inline(always)]
fn search<const LOG: u32, const STATES: usize>(rows: usize, candidates: &[Candidates], choices: &mut [u64]) -> usize {
    let mut costs = [UNREACHED; STATES];
    costs[0] = 0.0;
    for (r, choices) in choices.iter_mut().enumerate().take(rows) {
        let (of, lane) = (&candidates[r / 16].cost, r % 16);
        let (mut next, mut chosen) = ([0.0; STATES], 0);
        for (to, next) in next.iter_mut().enumerate() {
            let (parity, before) = before::<LOG>(to);
            let (even, odd) = (costs[before[0]] + of[parity][lane], costs[before[1]] + of[parity + 2][lane]);
            let takes_odd = odd < even;
            *next = if takes_odd { odd } else { even };
            chosen |= u64::from(takes_odd) << to;
        }
        (costs, *choices) = (next, chosen);
    }
    let best = costs.iter().enumerate().min_by(|a, b| a.1.total_cmp(b.1));
    best.map_or(0, |(state, _)| state)
}

/// Returns the parity in the two states before a state, and these, from which an even and an odd index lead to it.
#[inline(always)]
const fn before<const LOG: u32>(to: usize) -> (usize, [usize; 2]) {
    let (feedback, input) = match Trellis::new(LOG as u8) {
        Some(trellis) => trellis.machine(),
        None => (0, 0),
    };
    let parity = to >> (LOG - 1);
    let shifted = (to ^ (feedback as usize * parity)) & ((1 << (LOG - 1)) - 1);
    (parity, [2 * shifted + parity, 2 * (shifted ^ input as usize) + parity])
}

at_each_isa! {
    /// Writes the integers of the best path of a column, of `rows` rows. `choices` has room for as many.
    fn best_path(trellis: Trellis, rows: usize, candidates: &[Candidates], choices: &mut [u64], z: &mut [Row<i32>]) {
        match trellis.log_states() {
            2 => path::<2, 4>(rows, candidates, choices, z),
            3 => path::<3, 8>(rows, candidates, choices, z),
            4 => path::<4, 16>(rows, candidates, choices, z),
            5 => path::<5, 32>(rows, candidates, choices, z),
            _ => path::<6, 64>(rows, candidates, choices, z),
        }
    }
}

#[inline(always)]
fn path<const LOG: u32, const STATES: usize>(
    rows: usize,
    candidates: &[Candidates],
    choices: &mut [u64],
    z: &mut [Row<i32>],
) {
    let mut state = search::<LOG, STATES>(rows, candidates, choices);
    for r in (0..rows).rev() {
        let (parity, states) = before::<LOG>(state);
        let odd = (choices[r] >> state & 1) as usize;
        z[r / 16][r % 16] = candidates[r / 16].z[parity + 2 * odd][r % 16];
        state = states[odd];
    }
}

impl ColumnRounding for PathRounder<'_> {
    fn round(
        &self,
        column: usize,
        first: usize,
        rows: usize,
        targets: &[Row<f32>],
        z: &mut [Row<i32>],
        weights: &mut [Row<f32>],
    ) {
        let (isa, factor) = (Isa::best(), self.rounder.column(column));
        let none = Candidates { z: [[0; 16]; SUBSETS], cost: [[0.0; 16]; SUBSETS] };
        let (mut found, mut choices) = (vec![none; targets.len()], vec![0; rows]);
        let mut of_rows = vec![[1.0; 16]; targets.len()];
        for (i, (targets, found)) in targets.iter().zip(&mut found).enumerate() {
            let start = first + 16 * i;
            let count = (rows - 16 * i).min(16);
            let (mut steps, mut classes) = ([factor; 16], [0; 16]);
            for lane in 0..count {
                of_rows[i][lane] = self.rounder.row(start + lane);
                steps[lane] = factor * of_rows[i][lane];
                let class = i32::from(self.rows[start + lane]) + i32::from(self.columns[column]);
                classes[lane] = class.clamp(0, CLASSES as i32 - 1);
            }
            candidates(isa, targets, &steps, &classes, self.rounder.largest(), &self.costs.0, found);
        }
        best_path(isa, self.trellis, rows, &found, &mut choices, z);
        for ((z, weights), of_rows) in z.iter().zip(weights).zip(&of_rows) {
            reconstruct(isa, self.rounder.dtype(), z, factor, of_rows, weights);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::feedback::{Feedback, round_columns};

    fn grid(step: f32, trellis: Trellis) -> Grid {
        Grid { trellis: Some(trellis), ..Grid::new(step) }
    }

    /// Rounds a column of targets with a class.
    fn rounded(log: u8, targets: &[f32], class: i16, dtype: DType) -> Vec<i32> {
        let trellis = Trellis::new(log).expect("a machine");
        let costs = PathCosts::typical();
        let rounder = Rounder::new(dtype, &grid(1.0, trellis), targets.len(), 1, None);
        let (rows, columns) = (vec![class; targets.len()], vec![0]);
        let paths = PathRounder { rounder, trellis, costs: &costs, rows, columns };
        let mut z = vec![0; targets.len()];
        round_columns(&Feedback::none(1), targets, 0, 1.0, &paths, &mut z);
        z
    }

    fn is_path(log: u8, z: &[i32]) -> bool {
        let trellis = Trellis::new(log).expect("a machine");
        let indices: Vec<i32> = z.iter().map(|z| z >> 1).collect();
        trellis.path(1, &indices) == z
    }

    /// The cost of a path, summed in the order of the rows.
    fn cost(costs: &PathCosts, class: usize, targets: &[f32], z: &[i32]) -> f32 {
        let of = |(x, &z): (&f32, &i32)| (x - z as f32) * (x - z as f32) + costs.0[class * 256 + (z + REACH) as usize];
        targets.iter().zip(z).map(of).fold(0.0, |sum, cost| sum + cost)
    }

    proptest! {
        /// No path costs less, for few enough rows to try all.
        #[test]
        fn paths_are_best(log in 2u8..=6, class in 0usize..12, targets in prop::collection::vec(-3.5f32..3.5, 1..6)) {
            let costs = PathCosts::typical();
            let z = rounded(log, &targets, class as i16, DType::F32);
            prop_assert!(is_path(log, &z));
            let trellis = Trellis::new(log).expect("a machine");
            let n = targets.len() as u32;
            let mut best = f32::MAX;
            for code in 0..6usize.pow(n) {
                let indices: Vec<i32> = (0..n).map(|i| (code / 6usize.pow(i) % 6) as i32 - 3).collect();
                best = best.min(cost(&costs, class, &targets, &trellis.path(1, &indices)));
            }
            let found = cost(&costs, class, &targets, &z);
            prop_assert!(found <= best * 1.0001, "{} {}", found, best);
        }

        #[test]
        fn any_targets_have_finite_weights(
            log in 2u8..=6, targets in prop::collection::vec(prop_oneof![-9f32..9.0, -70_000f32..70_000.0], 1..70),
        ) {
            let z = rounded(log, &targets, 40, DType::F16);
            prop_assert!(is_path(log, &z));
            prop_assert!(z.iter().all(|z| z.abs() <= 65_504), "at most the largest binary16");
        }

        /// Every instruction set finds the same path.
        #[test]
        fn instruction_sets_agree(
            log in 2u8..=6, targets in prop::collection::vec(-20f32..20.0, 16..80), class in 0i32..44, step in 0.1f32..2.0,
        ) {
            let costs = PathCosts::typical();
            let none = Candidates { z: [[0; 16]; SUBSETS], cost: [[0.0; 16]; SUBSETS] };
            let trellis = Trellis::new(log).expect("a machine");
            let rows = targets.as_chunks::<16>().0;
            let mut all = Isa::available().into_iter().map(|isa| {
                let (mut found, mut choices) = (vec![none; rows.len()], vec![0; 16 * rows.len()]);
                for (targets, found) in rows.iter().zip(&mut found) {
                    candidates(isa, targets, &[step; 16], &[class; 16], 65504.0, &costs.0, found);
                }
                let mut z = vec![[0; 16]; rows.len()];
                best_path(isa, trellis, 16 * rows.len(), &found, &mut choices, &mut z);
                z
            });
            let scalar = all.next();
            prop_assert!(all.all(|z| Some(z) == scalar));
        }
    }

    /// On a Gaussian source, the error at a rate is nearer to the bound than that of any lattice (0.25 bits at these rates): the
    /// rate is the entropy of indices given the parity.
    #[test]
    fn gaussian_sources_gain() {
        let mut seed = 7u64;
        let mut uniform = || {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 40) as f32 / (1 << 24) as f32
        };
        let targets: Vec<f32> = (0..20_000).map(|_| 4.0 * ((0..12).map(|_| uniform()).sum::<f32>() - 6.0)).collect();
        for (log, least) in [(2, 0.11), (3, 0.09), (5, 0.07)] {
            // A standard deviation of four steps, of two indices: class 19.
            let z = rounded(log, &targets, 19, DType::F32);
            let square = |values: &mut dyn Iterator<Item = f32>| values.map(|x| f64::from(x * x)).sum::<f64>();
            let error = square(&mut targets.iter().zip(&z).map(|(x, &z)| x - z as f32));
            let bound = 0.5 * (square(&mut targets.iter().copied()) / error).log2();
            let mut counts = [[0.0f64; 64]; 2];
            z.iter().for_each(|z| counts[(z & 1) as usize][(z / 2 + 32).clamp(0, 63) as usize] += 1.0);
            let entropy: f64 = counts
                .iter()
                .map(|counts| {
                    let all: f64 = counts.iter().sum();
                    counts.iter().filter(|&&n| n > 0.0).map(|n| n * (all / n).log2()).sum::<f64>()
                })
                .sum();
            let gap = entropy / z.len() as f64 - bound;
            assert!(gap < least, "{log}: {gap} bits above the bound");
        }
    }
}
