//! A slice whose parts are written by several threads.

use std::marker::PhantomData;
use std::ops::Range;

/// A slice that tasks write parts of, each its own.
pub(crate) struct Parts<'a, T> {
    start: *mut T,
    length: usize,
    borrowed: PhantomData<&'a mut [T]>,
}

// SAFETY: it hands out parts of a slice that it has borrowed mutably, and `Parts::take` has its caller promise that no two of them overlap.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Parts { start: slice.as_mut_ptr(), length: slice.len(), borrowed: PhantomData }
    }

    /// A part.
    ///
    /// # Safety
    /// No two parts that are alive at the same time may overlap.
    ///
    /// # Panics
    /// If the part reaches past the slice.
    #[allow(clippy::mut_from_ref)]
    pub(crate) unsafe fn take(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.length, "part past its slice");
        // SAFETY: the range lies inside the slice, which is borrowed for longer than `self` lives; the caller keeps parts apart.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(range.start), range.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "past its slice")]
    fn a_part_past_the_end() {
        let mut data = [0; 4];
        let parts = Parts::new(&mut data);
        // SAFETY: it is the only part.
        unsafe { parts.take(2..5) };
    }
}
