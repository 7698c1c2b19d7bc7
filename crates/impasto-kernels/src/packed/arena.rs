//! Memory in huge pages for the weights of a model.
//!
//! A token reads all weights once. With pages of 4 KB, every 64th line would need a page walk, and hardware prefetchers
//! do not cross page boundaries. Therefore the weights of all matrices are stored in a few large blocks, which the
//! system may back with pages of 2 MB.

use std::ops::{Deref, Range};
use std::sync::{Arc, Mutex, PoisonError};

use impasto_core::files::Map;
use memmap2::MmapMut;

use super::cell::Line;

/// Size of a block in bytes, unless one allocation needs more. Pages that are never written take no memory.
const BLOCK: usize = 64 << 20;

/// Allocator of a model's matrices.
#[derive(Debug, Default)]
pub struct Arena(Mutex<Option<(Arc<Block>, usize)>>);

/// Memory that is written once, part by part, and only read after that.
#[derive(Debug)]
struct Block {
    start: *mut Line,
    lines: usize,
    /// Owns the memory.
    _map: MmapMut,
}

// SAFETY: a part is written only by the thread that allocates it, before any other thread can refer to it, or through
// `Kept::range`, whose callers keep threads apart.
unsafe impl Send for Block {}
// SAFETY: as above.
unsafe impl Sync for Block {}

/// The lines of strips.
#[derive(Debug)]
pub(crate) enum Lines {
    /// In their own allocation.
    Own(Vec<Line>),
    /// In an arena.
    Kept(Kept),
    /// In a mapped file, at these bytes.
    Mapped(Arc<Map>, Range<usize>),
}

/// A part of a block, which it keeps alive.
#[derive(Debug)]
pub(crate) struct Kept {
    block: Arc<Block>,
    part: Range<usize>,
}

impl Arena {
    /// Creates an arena without memory.
    pub fn new() -> Self {
        Arena::default()
    }

    /// Moves lines into the arena. If the system refuses memory, they stay in their own allocation.
    pub(crate) fn keep(&self, lines: Vec<Line>) -> Lines {
        let Some(kept) = self.part(lines.len()) else { return Lines::Own(lines) };
        // SAFETY: the part is inside the block, and `part` returns no part twice. A line is plain bytes, aligned to 64,
        // as pages are.
        unsafe { kept.block.start.add(kept.part.start).copy_from_nonoverlapping(lines.as_ptr(), lines.len()) };
        Lines::Kept(kept)
    }

    /// Copies bytes into the arena, with zeros up to the end of the last line; `None` if the system refuses memory.
    pub(crate) fn copy(&self, bytes: &[u8]) -> Option<Lines> {
        let kept = self.part(bytes.len().div_ceil(size_of::<Line>()))?;
        // SAFETY: as above; the rest of the last line was never written, so it has the zeros of new pages.
        unsafe {
            kept.block.start.add(kept.part.start).cast::<u8>().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len())
        };
        Some(Lines::Kept(kept))
    }

    /// Allocates zeros, in whole lines; `None` if the system refuses memory.
    pub(crate) fn zeros(&self, bytes: usize) -> Option<Kept> {
        // No part is returned twice, and new pages hold zeros.
        self.part(bytes.div_ceil(size_of::<Line>()))
    }

    /// Allocates a part of `lines` lines.
    fn part(&self, lines: usize) -> Option<Kept> {
        let mut current = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(block, used)| block.lines - used < lines) {
            *current = Some((Arc::new(Block::new(lines.max(BLOCK / size_of::<Line>()))?), 0));
        }
        let (block, used) = current.as_mut()?;
        let part = *used..*used + lines;
        *used = part.end;
        Some(Kept { block: block.clone(), part })
    }
}

impl Lines {
    /// Refers to bytes of a mapped file; `None` if they are not there, or not whole lines.
    pub(crate) fn mapped(map: Arc<Map>, part: Range<usize>) -> Option<Lines> {
        bytemuck::try_cast_slice::<u8, Line>(map.get(part.clone())?).ok()?;
        Some(Lines::Mapped(map, part))
    }
}

impl Kept {
    /// Returns a range of its bytes, to be written.
    ///
    /// # Panics
    /// If the range extends past its end.
    ///
    /// # Safety
    /// Nothing else refers to these bytes as long as the slice lives.
    #[allow(clippy::mut_from_ref, reason = "callers guarantee that ranges do not overlap")]
    pub(crate) unsafe fn range(&self, range: Range<usize>) -> &mut [u8] {
        assert!(range.start <= range.end && range.end <= self.part.len() * size_of::<Line>(), "range within the part");
        // SAFETY: the range is inside the part and the part inside the block, which `self` keeps alive. The caller
        // guarantees that nothing else refers to these bytes.
        unsafe {
            let start = self.block.start.add(self.part.start).cast::<u8>();
            std::slice::from_raw_parts_mut(start.add(range.start), range.len())
        }
    }
}

impl Block {
    fn new(lines: usize) -> Option<Block> {
        let mut map = MmapMut::map_anon(lines.checked_mul(size_of::<Line>())?).ok()?;
        #[cfg(target_os = "linux")]
        // Fails on systems without huge pages; ordinary pages are used then.
        let _ = map.advise(memmap2::Advice::HugePage);
        Some(Block { start: map.as_mut_ptr().cast(), lines, _map: map })
    }
}

impl Deref for Lines {
    type Target = [Line];

    fn deref(&self) -> &[Line] {
        match self {
            Lines::Own(lines) => lines,
            // SAFETY: the part is inside the block, which `self` keeps alive, and it was written before `self` was
            // created.
            Lines::Kept(Kept { block, part }) => unsafe {
                std::slice::from_raw_parts(block.start.add(part.start), part.len())
            },
            Lines::Mapped(map, part) => bytemuck::cast_slice(&map[part.clone()]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_keep_what_they_were_given() {
        let arena = Arena::new();
        let lines = |seed: u8, count: usize| (0..count).map(|i| Line([seed ^ i as u8; 64])).collect::<Vec<_>>();
        let counts = [0, 1, 1000, BLOCK / 64, 7, BLOCK / 64 + 1];
        let kept: Vec<Lines> = counts.iter().enumerate().map(|(i, &n)| arena.keep(lines(i as u8, n))).collect();
        for (i, (kept, &n)) in kept.iter().zip(&counts).enumerate() {
            assert!(matches!(kept, Lines::Kept(_)));
            assert!(kept.len() == n && kept.iter().zip(lines(i as u8, n)).all(|(a, b)| a.0 == b.0), "part {i}");
        }
        let bytes: Vec<u8> = (0..130).collect();
        let copied = arena.copy(&bytes).expect("memory");
        assert_eq!(
            (copied.len(), bytemuck::cast_slice::<Line, u8>(&copied)),
            (3, &[&bytes[..], &[0; 62]].concat()[..])
        );
        drop(arena);
        assert_eq!(kept[2][999].0[0], 2 ^ 999u32 as u8);
    }
}
