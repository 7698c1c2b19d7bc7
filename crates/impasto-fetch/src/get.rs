//! Getting bytes with as many requests as it takes.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use crate::answer::Version;
use crate::error::FetchError;
use crate::fetch::Watch;
use crate::options::Options;
use crate::remote::{Answer, Body, Remote, Wanted};
use crate::wait::{Cancel, Pace, backoff};

/// Bytes that are read at once.
const PIECE: usize = 1 << 16;
/// Bytes of a failed try that count as progress: a server that gives one byte at a time is not asked for ever.
pub const STEP: u64 = 4096;

/// Gets the bytes of one remote file.
pub struct Getter {
    pub remote: Arc<dyn Remote>,
    pub options: Options,
    pub cancel: Cancel,
    pub watch: Arc<dyn Watch>,
    /// The version that all bytes must be of, once it is known.
    version: Mutex<Option<Version>>,
    /// Whether versions mean nothing, since servers gave different ones for the same file.
    has_no_versions: AtomicBool,
    /// Whether the threads that get ranges are to end.
    is_over: AtomicBool,
    received: AtomicU64,
    retries: AtomicU64,
}

/// Takes bytes in order.
pub type Sink<'a> = &'a mut dyn FnMut(&[u8]) -> Result<(), FetchError>;

impl Getter {
    pub fn new(remote: Arc<dyn Remote>, options: Options, cancel: Cancel, watch: Arc<dyn Watch>) -> Getter {
        cancel.covers(&remote);
        Getter {
            remote,
            options,
            cancel,
            watch,
            version: Mutex::new(None),
            has_no_versions: AtomicBool::new(false),
            is_over: AtomicBool::new(false),
            received: AtomicU64::new(0),
            retries: AtomicU64::new(0),
        }
    }

    /// Returns the address for messages.
    pub fn shown(&self) -> String {
        self.remote.shown()
    }

    /// Returns the bytes received, and the number of tries after failures.
    pub fn counts(&self) -> (u64, u64) {
        (self.received.load(Ordering::Relaxed), self.retries.load(Ordering::Relaxed))
    }

    /// Sets the version that all further bytes must be of.
    pub fn set_version(&self, version: Option<Version>) {
        let version = version.filter(|_| !self.has_no_versions.load(Ordering::Relaxed));
        *self.version.lock().unwrap_or_else(PoisonError::into_inner) = version;
    }

    /// Accepts bytes of any version from now on: only hashes count.
    pub fn ignore_versions(&self) {
        self.has_no_versions.store(true, Ordering::Relaxed);
        self.set_version(None);
    }

    /// Says whether threads that get ranges are to end, also those that wait.
    pub fn set_over(&self, is_over: bool) {
        self.is_over.store(is_over, Ordering::Relaxed);
    }

    /// Waits, unless the work is over.
    fn pause(&self, mut wait: Duration) -> Result<(), FetchError> {
        const SLICE: Duration = Duration::from_millis(50);
        while !wait.is_zero() && !self.is_over.load(Ordering::Relaxed) {
            self.cancel.sleep(wait.min(SLICE))?;
            wait = wait.saturating_sub(SLICE);
        }
        Ok(())
    }

    /// Sends a request once.
    pub fn open(&self, range: Option<Range<u64>>) -> Result<Answer, FetchError> {
        self.cancel.check()?;
        let version = self.version.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let answer = self.remote.open(&Wanted { range, version: version.as_ref() });
        answer.map_err(|error| self.or_cancelled(error))
    }

    /// Reads some bytes of an answer into `buffer`.
    pub fn read(&self, body: &mut dyn Body, pace: &mut Pace, buffer: &mut [u8]) -> Result<usize, FetchError> {
        let count = body.read(buffer).map_err(|error| self.or_cancelled(error))?;
        self.cancel.check()?;
        self.received.fetch_add(count as u64, Ordering::Relaxed);
        pace.came(count, &self.options, &self.shown())?;
        Ok(count)
    }

    /// An interrupted request fails in one way or another.
    fn or_cancelled(&self, error: FetchError) -> FetchError {
        self.cancel.check().err().unwrap_or(error)
    }

    /// Gets the bytes of a range, in order, trying again after failures. What came before a failure is not asked for again.
    ///
    /// # Errors
    /// [`FetchError::NoRanges`] if the server answers with the whole file; errors of the sink; and what is not temporary, or
    /// remains after all tries.
    pub fn bytes(&self, range: Range<u64>, sink: Sink<'_>) -> Result<(), FetchError> {
        let mut at = range.start;
        let mut tries = Tries::new(self);
        while at < range.end {
            let before = at;
            let got = self.once(&mut at, range.end, sink);
            match got {
                Ok(()) => {}
                Err(error) => {
                    if at >= before + STEP && !matches!(error, FetchError::Slow { .. }) {
                        tries.progress();
                    }
                    tries.again(error)?;
                }
            }
        }
        Ok(())
    }

    /// Gets the bytes from `at` on with one request, and advances it.
    fn once(&self, at: &mut u64, end: u64, sink: Sink<'_>) -> Result<(), FetchError> {
        let mut answer = self.open(Some(*at..end))?;
        if !answer.is_range {
            return Err(FetchError::NoRanges { url: self.shown() });
        }
        if let Some(has) = answer.total.filter(|total| *total < end) {
            return Err(FetchError::Short { url: self.shown(), has, wants: end });
        }
        let (begun, mut pace, mut buffer) = (*at, Pace::new(), vec![0; PIECE]);
        while *at < end {
            let left = usize::try_from(end - *at).unwrap_or(usize::MAX).min(PIECE);
            let count = self.read(&mut *answer.body, &mut pace, &mut buffer[..left])?;
            if count == 0 {
                break;
            }
            *at += count as u64;
            sink(&buffer[..count])?;
        }
        if *at == end && answer.has_length {
            // Only a connection whose answer was read to its end is used again.
            let _ = answer.body.read(&mut buffer[..1]);
        }
        if *at == begun {
            return Err(FetchError::Broken { url: self.shown(), reason: "the answer is empty".to_owned() });
        }
        Ok(())
    }
}

/// Counts failures without progress.
pub struct Tries<'a> {
    getter: &'a Getter,
    failures: u32,
}

impl<'a> Tries<'a> {
    pub fn new(getter: &'a Getter) -> Tries<'a> {
        Tries { getter, failures: 0 }
    }

    /// Notes that something came.
    pub fn progress(&mut self) {
        self.failures = 0;
    }

    /// Waits before the next try.
    ///
    /// # Errors
    /// The error of this try, if another one makes no sense; [`FetchError::Cancelled`].
    pub fn again(&mut self, error: FetchError) -> Result<(), FetchError> {
        self.getter.cancel.check()?;
        if !error.is_temporary() || self.getter.is_over.load(Ordering::Relaxed) {
            return Err(error);
        }
        self.failures += 1;
        if self.failures >= self.getter.options.tries.max(1) {
            return Err(match self.failures {
                1 => error,
                tries => FetchError::GaveUp { tries, error: Box::new(error) },
            });
        }
        let asked = match &error {
            FetchError::Status { after, .. } => *after,
            _ => None,
        };
        let wait = backoff(&self.getter.options, self.failures, asked);
        self.getter.retries.fetch_add(1, Ordering::Relaxed);
        self.getter.watch.retrying(&error, wait);
        self.getter.pause(wait)
    }
}
