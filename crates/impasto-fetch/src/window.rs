//! Several ranges at once, whose bytes come out in order.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::sync::{Condvar, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use impasto_container::{Reader, Source};

use crate::error::FetchError;
use crate::get::{Getter, Sink};

/// Ranges per connection that are in memory, the one that arrives included.
const AHEAD: usize = 2;
/// The smallest range, unless the options want less.
const LEAST: u64 = 1 << 18;
/// How long a range takes, about. Longer, and the beginning of a file would come late on a slow network, since all ranges share it.
const SECONDS: f64 = 2.0;

/// Returns where a range of about `size` bytes ends: where a unit does, unless that is much longer. Nothing reaches past `end`.
pub fn cut<S: Source>(reader: &Reader<S>, at: u64, size: u64, end: u64) -> u64 {
    let wanted = at.saturating_add(size.max(1));
    if wanted >= end {
        return end;
    }
    let first = reader.units_within(wanted - 1).saturating_add(1);
    let of_unit = if first as usize <= reader.units().len() { reader.prefix_length(first).min(end) } else { end };
    if of_unit.saturating_sub(at) < 2 * size { of_unit.max(wanted) } else { wanted }
}

/// Says where a range ends, given its start and about its size.
pub type Cut<'a> = &'a (dyn Fn(u64, u64) -> u64 + Sync);

/// What the threads share.
#[derive(Default)]
struct State {
    /// The next range to be fetched, and where it begins.
    next: usize,
    at: u64,
    /// The range whose bytes come out now.
    front: usize,
    /// The pieces of ranges, as far as they have arrived.
    slots: BTreeMap<usize, Slot>,
    /// Bytes that have arrived.
    came: u64,
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
    end: u64,
    cut: Cut<'a>,
    begun: Instant,
    state: Mutex<State>,
    changed: Condvar,
}

/// Fetches the bytes of a range in smaller ones, several at once, and gives them to `sink` in order.
///
/// # Errors
/// The first error of a range, after the bytes before it have been given; or that of the sink.
pub fn fetch(getter: &Getter, range: Range<u64>, cut: Cut<'_>, sink: Sink<'_>) -> Result<(), FetchError> {
    let state = Mutex::new(State { at: range.start, ..State::default() });
    let window = Window { getter, end: range.end, cut, begun: Instant::now(), state, changed: Condvar::new() };
    let done = thread::scope(|scope| {
        // However the work ends, also by a panic of the sink, the threads end.
        let _end = End(&window);
        for number in 0..getter.options.connections.max(1) {
            let work = || window.work();
            if let Err(error) = thread::Builder::new().name("fetch".to_owned()).spawn_scoped(scope, work) {
                if number == 0 {
                    return Err(FetchError::Threads { reason: error.to_string() });
                }
                break;
            }
        }
        window.drain(sink)
    });
    getter.set_over(false);
    done
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
            !state.is_over && state.error.is_none() && state.at < self.end && state.next >= state.front + ahead
        };
        let mut state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
        if state.is_over || state.error.is_some() || state.at >= self.end {
            return None;
        }
        let (number, at) = (state.next, state.at);
        let end = (self.cut)(at, self.size(&state)).clamp(at + 1, self.end);
        (state.next, state.at) = (number + 1, end);
        Some((number, at..end))
    }

    /// Returns the size of the next range: what a connection brings in a while, but not more than its share of what is left.
    fn size(&self, state: &State) -> u64 {
        let connections = self.getter.options.connections.max(1) as u64;
        let rate = state.came as f64 / self.begun.elapsed().as_secs_f64().max(1e-3) / connections as f64;
        let share = (self.end - state.at) / connections;
        ((rate * SECONDS) as u64).min(share).max(LEAST).min(self.getter.options.chunk.max(1))
    }

    /// Puts a piece of a range where it is taken from.
    fn put(&self, number: usize, piece: &[u8]) -> Result<(), FetchError> {
        let mut state = self.lock();
        if state.is_over {
            return Err(FetchError::Cancelled);
        }
        state.came += piece.len() as u64;
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
            let is_done = |state: &State| state.front >= state.next && state.at >= self.end;
            let waits = |state: &mut State| !is_done(state) && !is_ready(state) && state.error.is_none();
            let mut state = self.changed.wait_while(self.lock(), waits).unwrap_or_else(PoisonError::into_inner);
            if is_done(&state) {
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
