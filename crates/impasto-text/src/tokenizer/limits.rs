//! Bounds on what a tokenizer may cost. `tokenizer.json` is untrusted, and the library runs whatever it describes: its
//! panics are caught here, and the steps that we run check the growth and the time of a call between any two of them.

use std::cell::{Cell, RefCell};
use std::panic::{self, AssertUnwindSafe};
use std::sync::Once;
use std::time::Duration;

use super::processor_time::processor_time;

/// Bytes that the steps of a call may add to a text: this many times its length, and [`FIXED_GROWTH`].
const GROWTH: usize = 32;
const FIXED_GROWTH: usize = 1 << 16;
/// Processor time of a call: this, and [`TIME_PER_BYTE`]. Usual tokenizers take less than a microsecond a byte.
const TIME: Duration = Duration::from_secs(2);
const TIME_PER_BYTE: Duration = Duration::from_micros(20);

/// Calls of [`check_time`] between two looks at the clock.
const LOOKS: u32 = 16;
/// Longest message in characters.
const MAX_MESSAGE: usize = 300;

/// What is left for the call that runs on a thread.
struct Left {
    bytes: usize,
    /// Processor time of the thread at which the call has to end.
    end: Duration,
    looks: u32,
    /// The first bound that was exceeded. The library ignores some errors, so it is kept here.
    broken: Option<String>,
}

thread_local! {
    static LEFT: RefCell<Option<Left>> = const { RefCell::new(None) };
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Runs a call on a text of `length` bytes within bounds. A panic, and a bound that is exceeded, are errors.
///
/// # Errors
/// Those of `call`; a bound that is exceeded; a panic.
pub fn bounded<T>(length: usize, call: impl FnOnce() -> tokenizers::Result<T>) -> Result<T, String> {
    let time = TIME_PER_BYTE.saturating_mul(u32::try_from(length).unwrap_or(u32::MAX));
    let bytes = length.saturating_mul(GROWTH).saturating_add(FIXED_GROWTH);
    let left = Left { bytes, end: processor_time() + TIME + time, looks: 0, broken: None };
    let outer = LEFT.replace(Some(left));
    let result = without_panic(call);
    let left = LEFT.replace(outer);
    match left.and_then(|left| left.broken) {
        Some(rule) => Err(rule),
        None => result.and_then(|result| result.map_err(|error| one_line(&error.to_string()))),
    }
}

/// Messages of libraries may have several lines, and quote what they were given.
fn one_line(message: &str) -> String {
    let message: String = message.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    let words = message.split_whitespace().collect::<Vec<_>>().join(" ");
    words.chars().take(MAX_MESSAGE).collect()
}

/// Turns a panic into an error, and prints nothing.
fn without_panic<T>(call: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                before(info);
            }
        }));
    });
    let outer = QUIET.replace(true);
    let result = panic::catch_unwind(AssertUnwindSafe(call));
    QUIET.set(outer);
    result.map_err(|payload| {
        let text = payload.downcast_ref::<String>().map(String::as_str);
        let text = text.or(payload.downcast_ref::<&str>().copied()).unwrap_or("no message");
        format!("the library tokenizers fails on it ({})", one_line(text))
    })
}

/// Counts `bytes` that a step adds to the text, or is about to add.
///
/// # Errors
/// If a step before or this one exceeds a bound.
pub fn grow(bytes: usize) -> tokenizers::Result<()> {
    check(|left| match left.bytes.checked_sub(bytes) {
        Some(after) => {
            left.bytes = after;
            Ok(())
        }
        None => Err(format!("its steps make a text more than {GROWTH} times as long")),
    })
}

/// Checks the time.
///
/// # Errors
/// As [`grow`].
pub fn check_time() -> tokenizers::Result<()> {
    check(|left| {
        left.looks += 1;
        if left.looks.is_multiple_of(LOOKS) && processor_time() > left.end {
            return Err(format!("its steps take more than {} s on a text", TIME.as_secs()));
        }
        Ok(())
    })
}

/// Abandons the call with this rule as its error.
pub fn fail(rule: &str) -> tokenizers::Error {
    check(|_| Err(rule.to_owned())).err().unwrap_or_else(|| rule.into())
}

fn check(step: impl FnOnce(&mut Left) -> Result<(), String>) -> tokenizers::Result<()> {
    LEFT.with_borrow_mut(|left| {
        let Some(left) = left else { return Ok(()) };
        if left.broken.is_none() {
            left.broken = step(left).err();
        }
        left.broken.clone().map_or(Ok(()), |rule| Err(rule.into()))
    })
}
