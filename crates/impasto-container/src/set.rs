//! Sets of units.

use std::sync::atomic::{AtomicU64, Ordering};

const BITS: u32 = u64::BITS;

/// A set of unit numbers. Several threads may change it at once.
#[derive(Debug, Default)]
pub struct UnitSet {
    /// One bit per unit.
    words: Vec<AtomicU64>,
}

impl UnitSet {
    /// Creates an empty set for units numbered below `count`.
    pub fn new(count: usize) -> UnitSet {
        UnitSet { words: (0..count.div_ceil(BITS as usize)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Creates the set of the units below `count` for which `is_in` returns true.
    pub fn of(count: usize, mut is_in: impl FnMut(u32) -> bool) -> UnitSet {
        let set = UnitSet::new(count);
        // Unit numbers fit u32.
        (0..count as u32).filter(|&unit| is_in(unit)).for_each(|unit| set.insert(unit));
        set
    }

    /// Returns whether a unit is in the set.
    pub fn contains(&self, unit: u32) -> bool {
        let word = self.words.get((unit / BITS) as usize);
        word.is_some_and(|word| word.load(Ordering::Relaxed) & bit(unit) != 0)
    }

    /// Adds a unit; ignores units that are not below the count of the set.
    pub fn insert(&self, unit: u32) {
        if let Some(word) = self.words.get((unit / BITS) as usize) {
            // Relaxed suffices: no other memory depends on the bit, and a thread that does not see it yet only repeats
            // work.
            word.fetch_or(bit(unit), Ordering::Relaxed);
        }
    }

    /// Removes a unit.
    pub fn remove(&self, unit: u32) {
        if let Some(word) = self.words.get((unit / BITS) as usize) {
            word.fetch_and(!bit(unit), Ordering::Relaxed);
        }
    }
}

fn bit(unit: u32) -> u64 {
    1 << (unit % BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holds_what_was_put_in() {
        let set = UnitSet::of(130, |unit| unit % 3 == 0);
        assert_eq!((0..200).filter(|&unit| set.contains(unit)).count(), 44);
        set.insert(64);
        set.insert(192);
        set.remove(129);
        set.remove(u32::MAX);
        assert!(set.contains(64) && !set.contains(192) && !set.contains(129) && set.contains(126));
        assert!(!UnitSet::default().contains(0));
    }
}
