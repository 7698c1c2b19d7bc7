//! A slice that several workers write, each in its own part.

use std::marker::PhantomData;
use std::ops::Range;

pub(crate) struct Parts<'a, T> {
    at: *mut T,
    len: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a `Parts` stands for a `&mut [T]`; callers of its methods keep the parts of different threads disjoint.
unsafe impl<T: Send> Sync for Parts<'_, T> {}

impl<'a, T> Parts<'a, T> {
    pub(crate) fn new(slice: &'a mut [T]) -> Self {
        Parts { at: slice.as_mut_ptr(), len: slice.len(), slice: PhantomData }
    }

    /// Returns a part of the slice.
    ///
    /// # Panics
    /// If the range extends past the slice.
    ///
    /// # Safety
    /// No other part that contains one of these elements is alive.
    #[allow(clippy::mut_from_ref, reason = "callers guarantee that parts do not overlap")]
    pub(crate) unsafe fn part(&self, range: Range<usize>) -> &mut [T] {
        assert!(range.start <= range.end && range.end <= self.len, "part within the slice");
        // SAFETY: the range is inside the slice, which is mutably borrowed as long as `self` lives. The caller
        // guarantees that nothing else refers to these elements.
        unsafe { std::slice::from_raw_parts_mut(self.at.add(range.start), range.len()) }
    }

    /// Returns a pointer to the first element of a part. Through it, one thread may write elements that are in no live
    /// part and that no other thread writes.
    ///
    /// # Panics
    /// If the part extends past the slice.
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
        // SAFETY: there is no other part.
        unsafe { parts.part(2..5) };
    }
}
