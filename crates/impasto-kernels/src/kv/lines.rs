//! Memory that consists of whole cache lines.

use std::collections::TryReserveError;

use bytemuck::{Pod, Zeroable, cast_slice, cast_slice_mut};

/// Size of a cache line in bytes.
pub(super) const LINE: usize = 64;

#[derive(Clone, Copy, Pod, Zeroable)]
#[repr(C, align(64))]
struct Line([u8; LINE]);

/// Zeroed memory aligned to a cache line, accessible as bytes or as floats.
#[derive(Default)]
pub(super) struct Lines(Vec<Line>);

impl Lines {
    /// Allocates at least `bytes` bytes, zeroed.
    pub(super) fn new(bytes: usize) -> Result<Self, TryReserveError> {
        let mut lines = Self::default();
        lines.grow(bytes)?;
        Ok(lines)
    }

    /// Grows to at least `bytes` bytes; added memory is zeroed.
    pub(super) fn grow(&mut self, bytes: usize) -> Result<(), TryReserveError> {
        let lines = bytes.div_ceil(LINE);
        if lines > self.0.len() {
            self.0.try_reserve_exact(lines - self.0.len())?;
            self.0.resize(lines, Line([0; LINE]));
        }
        Ok(())
    }

    /// Returns all bytes.
    pub(super) fn bytes(&self) -> &[u8] {
        cast_slice(&self.0)
    }

    /// Returns all bytes, mutably.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        cast_slice_mut(&mut self.0)
    }

    /// Returns all memory as floats, mutably.
    pub(super) fn floats_mut(&mut self) -> &mut [f32] {
        cast_slice_mut(&mut self.0)
    }
}

/// Returns the bytes of floats, in native byte order.
pub(super) fn as_bytes(floats: &[f32]) -> &[u8] {
    cast_slice(floats)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn begins_at_a_line_and_keeps_what_it_has() {
        let mut lines = Lines::new(65).unwrap();
        assert_eq!((lines.bytes().len(), lines.bytes().as_ptr() as usize % LINE), (128, 0));
        lines.floats_mut()[31] = 1.5;
        lines.grow(4096).unwrap();
        assert_eq!(lines.bytes()[124..128], 1.5f32.to_ne_bytes());
        assert_eq!(as_bytes(&lines.floats_mut()[31..32]), 1.5f32.to_ne_bytes());
        assert_eq!((lines.bytes_mut().len(), lines.bytes()[128..].iter().all(|&b| b == 0)), (4096, true));
        assert!(Lines::new(usize::MAX).is_err());
    }
}
