//! Several ranges at once, whose bytes come out in order.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;

use impasto_container::{Reader, Source};

use crate::error::FetchError;
use crate::get::{Getter, Sink};

/// Ranges per connection that are in memory, the one that arrives included.
const AHEAD: usize = 2;
/// The smallest range, if that makes use of more connections.
const LEAST: u64 = 1 << 18;

/// Divides a range of a file into ranges of about `chunk` bytes. They end where units end, unless a unit is much longer.
pub fn chunks<S: Source>(reader: &Reader<S>, from: u64, units: Range<u32>, chunk: u64) -> Vec<Range<u64>> {
    let mut chunks = Vec::new();
    let mut at = from;
    for end in units.filter_map(|unit| reader.unit_range(unit)).map(|place| place.end) {
        while end.saturating_sub(at) >= 2 * chunk {
            chunks.push(at..at + chunk);
            at += chunk;
        }
        if end.saturating_sub(at) >= chunk {
            chunks.push(at..end);
            at = end;
        }
    }
    chunks
}

/// Returns the size of ranges for `bytes` bytes.
pub fn chunk_size(getter: &Getter, bytes: u64) -> u64 {
    let chunk = getter.options.chunk.max(1);
    (bytes / getter.options.connections.max(1) as u64).max(LEAST).min(chunk)
}

/// Lets the threads of a window end when it is dropped.
struct End<'a>(&'a Window<'a>);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.lock().is_over = true;
        self.0.getter.set_over(true);
        self.0.changed.notify_all();
    }
}

/// Reports a thread that ends by a panic, so that nobody waits for it.
struct Fallen<'a>(&'a Window<'a>);

impl Drop for Fallen<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let reason = "a thread that fetches ended too early".to_owned();
            self.0.lock().error = Some(FetchError::Threads { reason });
            self.0.changed.notify_all();
        }
    }
}

/// What the threads share.
#[derive(Default)]
struct State {
    /// The next range to be fetched.
    next: usize,
    /// The range whose bytes come out now.
    front: usize,
    /// The pieces of ranges, as far as they have arrived.
    slots: BTreeMap<usize, Slot>,
    error: Option<FetchError>,
    is_over: bool,
}

#[derive(Default)]
struct Slot {
    pieces: VecDeque<Vec<u8>>,
    is_whole: bool,
}

struct Window<'a> {
    getter: &'a Getter,
    chunks: &'a [Range<u64>],
    state: Mutex<State>,
    changed: Condvar,
}

/// Fetches ranges that follow each other, several at once, and gives their bytes to `sink` in order.
///
/// # Errors
/// The first error of a range, after the bytes before it have been given; or that of the sink.
pub fn fetch(getter: &Getter, chunks: &[Range<u64>], sink: Sink<'_>) -> Result<(), FetchError> {
    let window = Window { getter, chunks, state: Mutex::default(), changed: Condvar::new() };
    let count = getter.options.connections.clamp(1, chunks.len().max(1));
    let done = thread::scope(|scope| {
        // However the work ends, also by a panic of the sink, the threads end.
        let _end = End(&window);
        let mut started = 0;
        for _ in 0..count {
            let work = || window.work();
            match thread::Builder::new().name("fetch".to_owned()).spawn_scoped(scope, work) {
                Ok(_) => started += 1,
                Err(error) if started == 0 => return Err(FetchError::Threads { reason: error.to_string() }),
                Err(_) => break,
            }
        }
        window.drain(sink)
    });
    getter.set_over(false);
    done
}

impl Window<'_> {
    /// Fetches ranges until none is left.
    fn work(&self) {
        let _fallen = Fallen(self);
        while let Some((number, chunk)) = self.assign() {
            let put = &mut |piece: &[u8]| self.put(number, piece);
            let done = self.getter.bytes(chunk, put);
            let mut state = self.lock();
            match done {
                Ok(()) => state.slots.entry(number).or_default().is_whole = true,
                Err(error) => {
                    // What ends the work is not an error of its own.
                    if !state.is_over && state.error.is_none() {
                        state.error = Some(error);
                    }
                }
            }
            let failed = state.error.is_some();
            drop(state);
            self.changed.notify_all();
            if failed {
                return;
            }
        }
    }

    /// Returns the next range, once it is within the window.
    fn assign(&self) -> Option<(usize, Range<u64>)> {
        let ahead = self.getter.options.connections.max(1) * AHEAD;
        let waits = |state: &mut State| {
            !state.is_over
                && state.error.is_none()
                && state.next < self.chunks.len()
                && state.next >= state.front + ahead
        };
        let mut state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        if state.is_over || state.error.is_some() {
            return None;
        }
        let number = state.next;
        let chunk = self.chunks.get(number)?.clone();
        state.next += 1;
        Some((number, chunk))
    }

    /// Puts a piece of a range where it is taken from.
    fn put(&self, number: usize, piece: &[u8]) -> Result<(), FetchError> {
        let mut state = self.lock();
        if state.is_over {
            return Err(FetchError::Cancelled);
        }
        state.slots.entry(number).or_default().pieces.push_back(piece.to_vec());
        let is_front = number == state.front;
        drop(state);
        if is_front {
            self.changed.notify_all();
        }
        Ok(())
    }

    /// Gives pieces to the sink in order.
    fn drain(&self, sink: Sink<'_>) -> Result<(), FetchError> {
        let is_ready =
            |state: &State| state.slots.get(&state.front).is_some_and(|slot| slot.is_whole || !slot.pieces.is_empty());
        loop {
            let waits =
                |state: &mut State| state.front < self.chunks.len() && !is_ready(state) && state.error.is_none();
            let mut state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
            if state.front >= self.chunks.len() {
                return Ok(());
            }
            let front = state.front;
            match state.slots.get_mut(&front) {
                Some(slot) if !slot.pieces.is_empty() => {
                    let pieces = std::mem::take(&mut slot.pieces);
                    drop(state);
                    pieces.iter().try_for_each(|piece| sink(piece))?;
                }
                Some(slot) if slot.is_whole => {
                    state.slots.remove(&front);
                    state.front += 1;
                    drop(state);
                    self.changed.notify_all();
                }
                _ => {
                    if let Some(error) = state.error.take() {
                        state.is_over = true;
                        return Err(error);
                    }
                }
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
