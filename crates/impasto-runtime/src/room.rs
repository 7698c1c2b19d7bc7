//! Pool of working memory. Each pass has its own, so passes can run at the same time.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::pass::Room;

/// Working memory that no pass uses.
pub(crate) struct Rooms {
    free: Mutex<Vec<Room>>,
    /// Largest number to keep for later passes.
    most: usize,
}

impl Rooms {
    /// Creates an empty pool that keeps at most `most` elements.
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Mutex::default(), most }
    }

    /// Takes working memory for one pass. Dropping it returns it to the pool.
    pub(crate) fn enter(&self) -> Entered<'_> {
        Entered { room: self.free().pop().unwrap_or_default(), rooms: self }
    }

    /// Locks the pool: only briefly, before and after a pass.
    fn free(&self) -> MutexGuard<'_, Vec<Room>> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Working memory in use by a pass.
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
