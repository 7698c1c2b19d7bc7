//! The transforms of a side of a block, as integer matrices, and the inverse transform of a block (SPEC 17.7).

use std::f64::consts::PI;
use std::sync::OnceLock;

use super::learned::Bases;

/// One in the matrices, as a shift.
pub(super) const ONE: u32 = 16;
/// Sides of transforms, as logarithms: 4 to 32.
pub const LEAST_LOG: u32 = 2;
/// See [`LEAST_LOG`].
pub const MOST_LOG: u32 = 5;

/// The transform of the rows or of the columns of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Discrete cosine transform, type II: for what is smooth.
    Dct,
    /// Discrete sine transform, type VII: for what grows with the distance from a known neighbour.
    Dst,
    /// No transform.
    Identity,
    /// Walsh-Hadamard transform: for steps.
    Hadamard,
    /// The one that is sent in the unit ([`super::learned`]).
    Learned,
}

impl Kind {
    /// All transforms that every tile has, in the order of their numbers in the file.
    pub const ALL: [Kind; 4] = [Kind::Dct, Kind::Dst, Kind::Identity, Kind::Hadamard];

    /// Returns whether it gathers what is smooth in the first coefficients.
    pub fn gathers(self) -> bool {
        matches!(self, Kind::Dct | Kind::Dst | Kind::Learned)
    }

    /// Returns entry `n` of basis vector `k` of `size`.
    fn entry(self, size: usize, k: usize, n: usize) -> f64 {
        let (s, fk, fn_) = (size as f64, k as f64, n as f64);
        match self {
            Kind::Dct if k == 0 => (1.0 / s).sqrt(),
            Kind::Dct => (2.0 / s).sqrt() * (PI * (2.0 * fn_ + 1.0) * fk / (2.0 * s)).cos(),
            Kind::Dst => {
                let m = 2.0 * s + 1.0;
                (4.0 / m).sqrt() * (PI * (2.0 * fk + 1.0) * (fn_ + 1.0) / m).sin()
            }
            Kind::Identity | Kind::Learned => f64::from(u8::from(k == n)),
            Kind::Hadamard => (1.0 / s).sqrt() * if (k & n).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 },
        }
    }
}

/// The matrix of a transform: `size` basis vectors, one after the other.
#[derive(Clone, Debug)]
pub struct Basis {
    /// In units of 2^-16.
    integers: Vec<i64>,
    /// The transposed matrix in units of 1, for an encoder: the entries at place `n` of all vectors, then those at `n + 1`.
    pub transposed: Vec<f32>,
}

impl Basis {
    pub(super) fn new(size: usize, integers: Vec<i64>) -> Basis {
        let entry = |i: usize| (integers[i % size * size + i / size] as f64 / f64::from(1u32 << ONE)) as f32;
        let transposed = (0..size * size).map(entry).collect();
        Basis { integers, transposed }
    }
}

/// Returns the matrix of a transform of `2^log` values that every tile has.
///
/// # Panics
/// If there is no such size.
pub fn basis(kind: Kind, log: u32) -> &'static Basis {
    static ALL: OnceLock<Vec<Basis>> = OnceLock::new();
    let all = ALL.get_or_init(|| {
        let sizes = |kind| (LEAST_LOG..=MOST_LOG).map(move |log| (kind, 1usize << log));
        let one = f64::from(1u32 << ONE);
        let make = |(kind, size): (Kind, usize)| {
            // No entry is near a tie, so the last digits of the C library's cosine do not matter.
            let entries = (0..size * size).map(|i| (kind.entry(size, i / size, i % size) * one).round());
            Basis::new(size, entries.map(|entry| entry as i64).collect())
        };
        Kind::ALL.into_iter().flat_map(sizes).map(make).collect()
    });
    &all[kind as usize * (MOST_LOG - LEAST_LOG + 1) as usize + (log - LEAST_LOG) as usize]
}

/// Working memory of the inverse transform.
#[derive(Default)]
pub struct Workspace {
    between: Vec<i64>,
    out: Vec<i64>,
}

/// Returns the residual of a block of `2^logs[0]` rows and `2^logs[1]` columns with these coefficients, which are at most
/// 2^31 in magnitude. First its columns are transformed, then its rows; each sum is rounded.
pub fn inverse<'w>(
    bases: &Bases,
    kinds: [Kind; 2],
    logs: [u32; 2],
    coefficients: &[i64],
    work: &'w mut Workspace,
) -> &'w [i64] {
    let [height, width] = logs.map(|log| 1usize << log);
    let Workspace { between, out } = work;
    between.clear();
    between.resize(height * width, 0);
    if kinds[0] == Kind::Identity {
        between.copy_from_slice(coefficients);
    } else {
        let matrix = &bases.of(0, kinds[0], logs[0]).integers;
        for (from, vector) in coefficients.chunks_exact(width).zip(matrix.chunks_exact(height)) {
            if from.iter().any(|&c| c != 0) {
                for (to, &factor) in between.chunks_exact_mut(width).zip(vector) {
                    to.iter_mut().zip(from).for_each(|(to, &c)| *to += c * factor);
                }
            }
        }
        between.iter_mut().for_each(|sum| *sum = rounded(*sum));
    }
    if kinds[1] == Kind::Identity {
        return between;
    }
    out.clear();
    out.resize(height * width, 0);
    let matrix = &bases.of(1, kinds[1], logs[1]).integers;
    for (to, from) in out.chunks_exact_mut(width).zip(between.chunks_exact(width)) {
        for (&c, vector) in from.iter().zip(matrix.chunks_exact(width)).filter(|(c, _)| **c != 0) {
            to.iter_mut().zip(vector).for_each(|(to, &factor)| *to += c * factor);
        }
        to.iter_mut().for_each(|sum| *sum = rounded(*sum));
    }
    out
}

fn rounded(sum: i64) -> i64 {
    (sum + (1 << (ONE - 1))) >> ONE
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sizes() -> impl Iterator<Item = (Kind, u32)> {
        Kind::ALL.into_iter().flat_map(|kind| (LEAST_LOG..=MOST_LOG).map(move |log| (kind, log)))
    }

    /// SPEC 17.7 says that no entry is within 2^-9 of a tie.
    #[test]
    fn no_entry_is_near_a_tie() {
        for (kind, log) in sizes() {
            let size = 1usize << log;
            for i in 0..size * size {
                let entry = kind.entry(size, i / size, i % size) * 65536.0;
                assert!((entry - entry.floor() - 0.5).abs() > 1.0 / 512.0, "{kind:?} {size} {i}: {entry}");
            }
        }
        assert_eq!(basis(Kind::Dct, 2).integers[..8], [32768, 32768, 32768, 32768, 42813, 17734, -17734, -42813]);
    }

    #[test]
    fn vectors_are_orthonormal() {
        for (kind, log) in sizes() {
            let (size, matrix) = (1usize << log, &basis(kind, log).integers);
            for (i, j) in (0..size * size).map(|n| (n / size, n % size)) {
                let product: i64 = (0..size).map(|n| matrix[i * size + n] * matrix[j * size + n]).sum();
                let wanted = if i == j { 1.0 } else { 0.0 };
                assert!((product as f64 / (1i64 << 32) as f64 - wanted).abs() < 1e-4, "{kind:?} {size} {i} {j}");
            }
        }
    }

    proptest! {
        /// Both passes are the sums that SPEC 17.7 writes, and none overflows.
        #[test]
        fn inverse_is_two_products(
            kinds in prop::array::uniform2(prop::sample::select(Kind::ALL.to_vec())),
            logs in prop::array::uniform2(LEAST_LOG..=MOST_LOG),
            noise in prop::collection::vec(prop_oneof![Just(0), -1i64 << 31..1 << 31], 1..200),
        ) {
            let [height, width] = logs.map(|log| 1usize << log);
            let coefficients: Vec<i64> = noise.iter().copied().cycle().take(height * width).collect();
            let rows = basis(kinds[0], logs[0]);
            let columns = basis(kinds[1], logs[1]);
            let between = |r: usize, v: usize| {
                rounded((0..height).map(|u| rows.integers[u * height + r] * coefficients[u * width + v]).sum())
            };
            let between: Vec<i64> = (0..height * width).map(|i| between(i / width, i % width)).collect();
            let out = |r: usize, c: usize| {
                rounded((0..width).map(|v| columns.integers[v * width + c] * between[r * width + v]).sum())
            };
            let wanted: Vec<i64> = (0..height * width).map(|i| out(i / width, i % width)).collect();
            let mut work = Workspace::default();
            prop_assert_eq!(inverse(&Bases::default(), kinds, logs, &coefficients, &mut work), wanted);
        }
    }
}
