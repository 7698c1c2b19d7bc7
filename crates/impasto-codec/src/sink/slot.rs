//! Symbols as indices into all tables of a kind, computed for many elements at once.

use std::cell::RefCell;

use impasto_core::{Isa, at_each_isa};

use crate::class::{Kind, class};
use crate::rans::symbol;
use crate::tables::{ESCAPE, SYMBOLS};

/// Number of elements that are passed to a sink, and whose slots it computes, at once.
pub const BATCH: usize = 512;

/// Bit positions in a [`Slot`].
const LOW_BITS_AT: u32 = 12;
const LOW_AT: u32 = 16;

/// A symbol: its index in the tables of its kind (`SYMBOLS * table + symbol`), and its low bits.
#[derive(Clone, Copy, Default)]
pub struct Slot(u32);

impl Slot {
    #[inline(always)]
    fn new(kind: Kind, class_sum: i32, value: i32) -> Slot {
        let class = class(kind, class_sum, 0);
        let (symbol, low) = symbol(class, value);
        Slot((class.table * SYMBOLS + symbol) as u32 | class.low_bits << LOW_BITS_AT | low << LOW_AT)
    }

    /// Returns the index in the tables, below 4096.
    #[inline(always)]
    pub fn index(self) -> usize {
        (self.0 & ((1 << LOW_BITS_AT) - 1)) as usize
    }

    /// Returns whether the symbol is the escape.
    #[inline(always)]
    pub fn is_escape(self) -> bool {
        self.index() % SYMBOLS == ESCAPE
    }

    /// Returns the number of low bits.
    #[inline(always)]
    pub fn low_bits(self) -> u32 {
        self.0 >> LOW_BITS_AT & 7
    }

    /// Returns the low bits; 0 for an escape.
    #[inline(always)]
    pub fn low(self) -> u32 {
        self.0 >> LOW_AT
    }
}

at_each_isa! {
    /// Computes the slots of values under sums of classes.
    pub fn slots(kind: Kind, classes: &[i32], values: &[i32], out: &mut [Slot]) {
        // Each arm is a loop of its own, for one kind.
        match kind {
            Kind::Float => slots_of(Kind::Float, classes, values, out),
            Kind::Lattice => slots_of(Kind::Lattice, classes, values, out),
            Kind::Trellis => slots_of(Kind::Trellis, classes, values, out),
            Kind::Refinement => slots_of(Kind::Refinement, classes, values, out),
            Kind::TrellisRefinement => slots_of(Kind::TrellisRefinement, classes, values, out),
            Kind::Exact => slots_of(Kind::Exact, classes, values, out),
        }
    }
}

#[inline(always)]
fn slots_of(kind: Kind, classes: &[i32], values: &[i32], out: &mut [Slot]) {
    let elements = classes.iter().zip(values);
    out.iter_mut().zip(elements).for_each(|(slot, (&class, &value))| *slot = Slot::new(kind, class, value));
}

/// Calls `each` with the slots of up to [`BATCH`] elements and their values, until all elements are done.
#[inline(always)]
pub fn in_batches(kind: Kind, classes: &[i32], values: &[i32], mut each: impl FnMut(&[Slot], &[i32])) {
    thread_local! {
        /// Working memory. Clearing it for each call would take longer than the slots.
        static BUFFER: RefCell<[Slot; BATCH]> = const { RefCell::new([Slot(0); BATCH]) };
    }
    assert_eq!(classes.len(), values.len());
    let isa = Isa::best();
    BUFFER.with_borrow_mut(|buffer| {
        for (classes, values) in classes.chunks(BATCH).zip(values.chunks(BATCH)) {
            let found = &mut buffer[..values.len()];
            slots(isa, kind, classes, values, found);
            each(found, values);
        }
    });
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn slots_are_those_of_the_symbols(
            kind in prop::sample::select(Kind::ALL.to_vec()),
            elements in prop::collection::vec((-70_000i32..70_000, any::<i32>(), -40i32..300), 0..100),
        ) {
            let classes: Vec<i32> = elements.iter().map(|e| if e.1 & 1 == 0 { e.0 } else { e.0 % 50 }).collect();
            let values: Vec<i32> = elements.iter().map(|e| if e.1 & 2 == 0 { e.1 } else { e.2 }).collect();
            for isa in Isa::available() {
                let mut found = vec![Slot::default(); values.len()];
                slots(isa, kind, &classes, &values, &mut found);
                for ((&t, &value), slot) in classes.iter().zip(&values).zip(found) {
                    let class = class(kind, t, 0);
                    let (symbol, low) = symbol(class, value);
                    prop_assert_eq!(slot.index(), class.table * SYMBOLS + symbol);
                    prop_assert_eq!((slot.low_bits(), slot.low()), (class.low_bits, low));
                    prop_assert_eq!(slot.is_escape(), symbol == ESCAPE);
                    if symbol != ESCAPE {
                        let high = (symbol as i32 + class.offset) << class.low_bits;
                        prop_assert_eq!(high + low as i32 - ((1 << class.low_bits) >> 1), value);
                    }
                }
            }
        }
    }
}
