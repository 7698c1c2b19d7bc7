//! A slice that several workers write, each its own part.

use std::marker::PhantomData;
use std::ops::Range;

pub(crate) struct Parts<'a, T> {
    at: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: it stands for a `&mut [T]`; its methods' callers keep parts of different threads apart.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Parts { at: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// A part.
    ///
    /// # Panics
    /// If it reaches past the slice.
    ///
    /// # Safety
    /// No other part with an element of it is alive.
    #[allow(clippy::mut_from_ref, reason = "parts do not overlap")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part within the slice");
        // SAFETY: within the slice, which is borrowed mutably for as long as `self`; by the caller's promise nothing
        // else has these elements.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(range.start), range.len()) }
    }

    /// A pointer to the first element of a part. Through it one thread may write elements that are in no part alive
    /// and that no other thread writes.
    ///
    /// # Panics
    /// If the part reaches past the slice.
    #[inline]
    pub(crate) fn pointer(&self, range: Range<usize>) -> *mut T {
        assert!(range.start <= range.end && range.end <= self.len, "part within the slice");
        self.at.wrapping_add(range.start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "within the slice")]
    fn a_part_past_the_end() {
        let mut data = [0; 4];
        let parts = Parts::new(&mut data);
        // SAFETY: it is the only part.
        unsafe { parts.part(2..5) };
    }
}
