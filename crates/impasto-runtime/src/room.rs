//! Working memory of passes: each pass has a room of its own, so passes run side by side.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use impasto_kernels::{kv, packed};

/// What the tokens on their way take. It grows when it is first used and is then there.
#[derive(Default)]
pub(crate) struct Room {
    /// The residual stream, tokens x hidden size.
    pub(crate) x: Vec<f32>,
    pub(crate) normed: Vec<f32>,
    pub(crate) q: Vec<f32>,
    pub(crate) k: Vec<f32>,
    pub(crate) v: Vec<f32>,
    /// Outputs of a fused projection.
    pub(crate) wide: Vec<f32>,
    pub(crate) mixed: Vec<f32>,
    pub(crate) gate: Vec<f32>,
    pub(crate) up: Vec<f32>,
    pub(crate) out: Vec<f32>,
    /// Rotary positions of the tokens, a table for each set.
    pub(crate) tables: Vec<Vec<(f32, f32)>>,
    /// Frequencies of each set, and whether they are those of a long context.
    pub(crate) frequencies: Vec<(bool, Vec<f32>)>,
    pub(crate) packed: packed::Scratch,
    pub(crate) attention: kv::Scratch,
}

/// The first `length` values of `buffer`, which grows to hold them.
pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}

/// Rooms that no pass is in.
pub(crate) struct Rooms {
    free: Mutex<Vec<Room>>,
    /// How many are kept for later passes.
    most: usize,
}

impl Rooms {
    /// No rooms yet; at most `most` will be kept.
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Mutex::default(), most }
    }

    /// A room for one pass. It comes back when it is dropped.
    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered { room: self.free().pop().unwrap_or_default(), rooms: self }
    }

    /// Held for a moment before and after a pass.
    fn free(&self) -> MutexGuard<'_, Vec<Room>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A room that a pass is in.
pub(crate) struct Entered<'a> {
    room: Room,
    rooms: &'a Rooms,
}

impl Deref for Entered<'_> {
    type Target = Room;

    fn deref(&self) -> &Room {
        &self.room
    }
}

impl DerefMut for Entered<'_> {
    fn deref_mut(&mut self) -> &mut Room {
        &mut self.room
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        let mut free = self.rooms.free();
        if free.len() < self.rooms.most {
            free.push(std::mem::take(&mut self.room));
        }
    }
}
