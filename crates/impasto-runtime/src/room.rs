//! Working memory of passes: each pass has a room of its own, so passes run side by side.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pass::Room;

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
