//! Hints to the processor about what is read next.
//!
//! A product of few tokens reads all weights once, and takes as long as that. Processors recognize that memory is read in order,
//! but look ahead only to the end of a page of 4 KB, whatever the size of pages is.

/// Size of a cache line in bytes.
const LINE: usize = 64;
/// How many lines before it is read memory is prefetched.
const AHEAD: usize = 48;

/// Prefetches `lines` lines, [`AHEAD`] of `at`. Nothing needs to be there.
#[inline(always)]
pub(crate) fn prefetch_ahead<T>(at: *const T, lines: usize) {
    for line in AHEAD..AHEAD + lines {
        prefetch(at.cast::<u8>().wrapping_add(line * LINE));
    }
}

/// Prefetches a line. Nothing needs to be there.
#[inline(always)]
pub(crate) fn prefetch<T>(at: *const T) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every processor of this architecture has the instruction, which never fails, wherever the pointer leads.
    unsafe {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        _mm_prefetch::<_MM_HINT_T0>(at.cast());
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = at;
}
