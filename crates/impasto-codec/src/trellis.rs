//! The trellis of mode lattice: which integers may follow which in a column (SPEC 10.4).
//!
//! This is entropy-coded trellis-coded quantization (Fischer and Wang, IEEE Trans. IT 38, 1992) with the codes of Ungerboeck
//! (IEEE Trans. IT 28, 1982). The integers of a column form a path through a machine of a few states. The lowest bit of the
//! state is the parity of the next integer, which is not coded; what is coded, the *index*, is the integer halved. The
//! lowest bit of the index drives the machine. Steps can thus be nearly half as large at the same rate.
//!
//! In a refinement the parity of the residual is known, since those of both integers are (SPEC 13.3).

use impasto_core::{Isa, at_each_isa};

use crate::refinement;

/// The feedback and the input of the machine (`A` and `B` of SPEC 10.4), by the logarithm of its states, from [`LEAST`] on: the
/// polynomials of Ungerboeck, without the lowest coefficient.
const MACHINES: [(i32, i32); 5] = [(2, 1), (5, 2), (9, 2), (18, 4), (33, 10)];
/// Least and largest logarithm of the number of states.
const LEAST: u8 = 2;
const MOST: u8 = LEAST + MACHINES.len() as u8 - 1;

/// A machine with a number of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trellis {
    log_states: u8,
}

impl Trellis {
    /// Returns the machine with `2^log_states` states; `None` if there is none: the logarithm is from 2 to 6.
    pub const fn new(log_states: u8) -> Option<Trellis> {
        if log_states >= LEAST && log_states <= MOST { Some(Trellis { log_states }) } else { None }
    }

    /// Returns the logarithm of the number of states.
    pub const fn log_states(self) -> u8 {
        self.log_states
    }

    /// Returns the number of states.
    pub const fn states(self) -> usize {
        1 << self.log_states
    }

    /// Returns the feedback and the input of the machine.
    pub const fn machine(self) -> (i32, i32) {
        MACHINES[(self.log_states - LEAST) as usize]
    }

    /// Returns the state after an index in a state.
    #[inline(always)]
    pub const fn next(self, state: i32, index: i32) -> i32 {
        let (feedback, input) = self.machine();
        state >> 1 ^ feedback & -(state & 1) ^ input & -(index & 1)
    }

    /// Returns the integers of a segment with these indices, row by row; there are `columns` in a row.
    pub fn path(self, columns: usize, indices: &[i32]) -> Vec<i32> {
        let (mut states, mut z) = (States::new(self, columns), indices.to_vec());
        z.chunks_exact_mut(columns.max(1)).for_each(|row| states.integers(Isa::best(), row));
        z
    }

    /// Returns the integers of a segment in the layer above that of the integers `coarse`, whose residuals have these halves
    /// (SPEC 13.3), row by row; there are `columns` in a row.
    pub fn path_above(self, columns: usize, factor: u8, coarse: &[i32], halves: &[i32]) -> Vec<i32> {
        let (mut states, mut z, n) = (States::new(self, columns), coarse.to_vec(), columns.max(1));
        let rows = z.chunks_exact_mut(n).zip(halves.chunks_exact(n));
        rows.for_each(|(row, halves)| states.refine(Isa::best(), factor, row, halves));
        z
    }
}

/// The states of the columns of a segment.
pub(crate) struct States {
    trellis: Trellis,
    states: Vec<i32>,
}

impl States {
    /// Returns the states at the start of a segment.
    pub fn new(trellis: Trellis, columns: usize) -> States {
        States { trellis, states: vec![0; columns] }
    }

    /// Returns to the start of a segment.
    pub fn restart(&mut self) {
        self.states.fill(0);
    }

    /// Writes the classes of the indices of the next row: those of the columns, doubled, and a parity.
    pub fn classes(&self, isa: Isa, columns: &[i32], out: &mut [i32]) {
        classes(isa, &self.states, columns, out);
    }

    /// Doubles the classes of a refinement of the integers `coarse` by `factor`, and adds the parities of the residuals.
    pub fn classes_above(&self, isa: Isa, factor: u8, coarse: &[i32], classes: &mut [i32]) {
        classes_above(isa, &self.states, factor, coarse, classes);
    }

    /// Turns the integers `z` of a row in the layer below into those of this layer, given the halves of residuals (SPEC 13.3), and
    /// changes the states.
    pub fn refine(&mut self, isa: Isa, factor: u8, z: &mut [i32], halves: &[i32]) {
        refine(isa, self.trellis, &mut self.states, factor, z, halves);
    }

    /// Turns the indices of a row into integers, and changes the states.
    pub fn integers(&mut self, isa: Isa, indices: &mut [i32]) {
        integers(isa, self.trellis, &mut self.states, indices);
    }

    /// Returns whether integers of a row may follow those before, and changes the states.
    pub fn follow(&mut self, isa: Isa, z: &[i32]) -> bool {
        follow(isa, self.trellis, &mut self.states, z)
    }
}

at_each_isa! {
    fn classes(states: &[i32], columns: &[i32], out: &mut [i32]) {
        for ((out, state), column) in out.iter_mut().zip(states).zip(columns) {
            *out = 2 * column + (state & 1);
        }
    }
}

at_each_isa! {
    fn classes_above(states: &[i32], factor: u8, coarse: &[i32], classes: &mut [i32]) {
        for ((class, state), &coarse) in classes.iter_mut().zip(states).zip(coarse) {
            *class = 2 * *class + parity_above(*state, factor, coarse);
        }
    }
}

at_each_isa! {
    fn refine(trellis: Trellis, states: &mut [i32], factor: u8, z: &mut [i32], halves: &[i32]) {
        for ((state, z), half) in states.iter_mut().zip(z).zip(halves) {
            let residual = half.wrapping_shl(1) | parity_above(*state, factor, *z);
            *z = refinement::fine(factor, *z, residual);
            *state = trellis.next(*state, *z >> 1);
        }
    }
}

/// Returns the parity of a residual: that of the integer in this layer, less that of the integer it refines, times the factor.
#[inline(always)]
fn parity_above(state: i32, factor: u8, coarse: i32) -> i32 {
    (state ^ (i32::from(factor) & coarse)) & 1
}

at_each_isa! {
    fn integers(trellis: Trellis, states: &mut [i32], indices: &mut [i32]) {
        for (state, index) in states.iter_mut().zip(indices) {
            let (before, k) = (*state, *index);
            *index = k.wrapping_shl(1) | (before & 1);
            *state = trellis.next(before, k);
        }
    }
}

at_each_isa! {
    fn follow(trellis: Trellis, states: &mut [i32], z: &[i32]) -> bool {
        let mut wrong = 0;
        for (state, &z) in states.iter_mut().zip(z) {
            wrong |= (*state ^ z) & 1;
            *state = trellis.next(*state, z >> 1);
        }
        wrong == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_are_those_of_the_logarithms() {
        assert!(Trellis::new(LEAST - 1).is_none() && Trellis::new(MOST + 1).is_none());
        for log in LEAST..=MOST {
            let trellis = Trellis::new(log).expect("a machine");
            // Each state has two that follow it and two before it.
            let mut before = vec![0; trellis.states()];
            for state in 0..trellis.states() as i32 {
                let next = [0, 1].map(|index| trellis.next(state, index) as usize);
                assert_ne!(next[0], next[1]);
                next.iter().for_each(|&next| before[next] += 1);
                assert_eq!(trellis.next(state, -3), trellis.next(state, 1), "the lowest bit counts");
            }
            assert!(before.iter().all(|&n| n == 2), "{log}");
        }
    }

    /// Two paths that part and meet again differ by at least 9 squared steps with 4 states, as in the paper by Ungerboeck, and by
    /// more with more states.
    #[test]
    fn paths_keep_their_distance() {
        for (log, least) in [(2, 9), (3, 10), (4, 11), (5, 13), (6, 14)] {
            let trellis = Trellis::new(log).expect("a machine");
            // Paths from 0, against that of zeros: they part with an integer of 2 (index 1), since the parity is the same.
            let n = trellis.states();
            let mut best = vec![i64::MAX; n];
            best[trellis.next(0, 1) as usize] = 4;
            for _ in 0..64 {
                let mut next = vec![i64::MAX; n];
                for state in (1..n).filter(|&state| best[state] < i64::MAX) {
                    for index in -2..=2i32 {
                        let z = i64::from(2 * index + (state as i32 & 1));
                        let to = trellis.next(state as i32, index) as usize;
                        next[to] = next[to].min(best[state] + z * z);
                    }
                }
                next[0] = next[0].min(best[0]);
                best = next;
            }
            assert_eq!(best[0], least, "{log}");
        }
    }

    /// Refined integers are a path, whatever the factor and the integers below, and their residuals have the parities and the halves.
    #[test]
    fn refined_integers_follow_on_every_instruction_set() {
        let (trellis, columns) = (Trellis::new(3).expect("a machine"), 37);
        for factor in [2, 3, 6, 7] {
            for isa in Isa::available() {
                let (mut to, mut from) = (States::new(trellis, columns), States::new(trellis, columns));
                for r in 0..50i32 {
                    let coarse: Vec<i32> = (0..columns as i32).map(|c| (r * 5 + c * c) % 13 - 6).collect();
                    let halves: Vec<i32> = (0..columns as i32).map(|c| (r * 7 + c * c) % 9 - 4).collect();
                    let (mut z, mut classes) = (coarse.clone(), vec![0; columns]);
                    to.classes_above(isa, factor, &coarse, &mut classes);
                    to.refine(isa, factor, &mut z, &halves);
                    for (i, &z) in z.iter().enumerate() {
                        let residual = refinement::residual(factor, coarse[i], z);
                        assert_eq!((residual >> 1, residual & 1), (halves[i], classes[i]));
                    }
                    assert!(from.follow(isa, &z));
                }
                assert_eq!(to.states, from.states);
            }
        }
    }

    #[test]
    fn integers_follow_on_every_instruction_set() {
        let (trellis, columns) = (Trellis::new(3).expect("a machine"), 37);
        for isa in Isa::available() {
            let (mut to, mut from) = (States::new(trellis, columns), States::new(trellis, columns));
            for r in 0..50i32 {
                let indices: Vec<i32> = (0..columns as i32).map(|c| (r * 7 + c * c) % 9 - 4).collect();
                let mut z = indices.clone();
                let mut parities = vec![0; columns];
                to.classes(isa, &vec![0; columns], &mut parities);
                to.integers(isa, &mut z);
                for ((z, index), parity) in z.iter().zip(&indices).zip(&parities) {
                    assert_eq!((z >> 1, z & 1), (*index, *parity));
                }
                let mut other = States::new(trellis, columns);
                other.states.copy_from_slice(&from.states);
                let flipped: Vec<i32> = z.iter().map(|z| z ^ 1).collect();
                assert!(!other.follow(isa, &flipped));
                assert!(from.follow(isa, &z));
            }
            assert_eq!(to.states, from.states);
        }
    }
}
