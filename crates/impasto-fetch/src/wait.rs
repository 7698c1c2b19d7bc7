//! Waiting: between tries, until the work is cancelled, and for a connection that is too slow.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::error::FetchError;
use crate::options::Options;
use crate::remote::Remote;

/// Cancels work in other threads. Clones cancel the same work.
#[derive(Clone, Default)]
pub struct Cancel(Arc<Cancelling>);

#[derive(Default)]
struct Cancelling {
    state: Mutex<CancelState>,
    woken: Condvar,
}

#[derive(Default)]
struct CancelState {
    is_cancelled: bool,
    remotes: Vec<Arc<dyn Remote>>,
}

impl Cancel {
    /// Cancels: waits end, requests are interrupted.
    pub fn cancel(&self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.is_cancelled = true;
        let remotes = std::mem::take(&mut state.remotes);
        drop(state);
        self.0.woken.notify_all();
        remotes.iter().for_each(|remote| remote.stop());
    }

    /// Returns an error if the work is cancelled.
    ///
    /// # Errors
    /// [`FetchError::Cancelled`].
    pub fn check(&self) -> Result<(), FetchError> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.is_cancelled { Err(FetchError::Cancelled) } else { Ok(()) }
    }

    /// Interrupts the requests of this remote, too, when the work is cancelled.
    pub(crate) fn covers(&self, remote: &Arc<dyn Remote>) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        match state.is_cancelled {
            true => remote.stop(),
            false => state.remotes.push(remote.clone()),
        }
    }

    /// Waits, unless the work is cancelled.
    pub(crate) fn sleep(&self, wait: Duration) -> Result<(), FetchError> {
        let state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        let slept = self.0.woken.wait_timeout_while(state, wait, |state| !state.is_cancelled);
        drop(slept);
        self.check()
    }
}

/// Returns the wait after a number of failures in a row, at least 1: twice as long each time, and somewhere between half of that and
/// all of it, so that many clients do not return at once. A server may ask for more. Nothing is above the longest wait.
pub fn backoff(options: &Options, failures: u32, asked: Option<Duration>) -> Duration {
    let doubled = options.backoff.saturating_mul(1 << failures.saturating_sub(1).min(16));
    let doubled = doubled.min(options.longest_wait);
    // Each state of the hasher has keys of its own.
    let random = RandomState::new().build_hasher().finish();
    let share = 0.5 + (random >> 11) as f64 / (1u64 << 54) as f64;
    doubled.mul_f64(share).max(asked.unwrap_or_default()).min(options.longest_wait)
}

/// Notices a connection that gives a few bytes now and then.
pub struct Pace {
    since: Instant,
    bytes: u64,
}

impl Pace {
    /// Begins to measure.
    pub fn new() -> Pace {
        Pace { since: Instant::now(), bytes: 0 }
    }

    /// Counts bytes that came.
    ///
    /// # Errors
    /// [`FetchError::Slow`] if they are fewer than the least rate, over the time of the options.
    pub fn came(&mut self, bytes: usize, options: &Options, url: &str) -> Result<(), FetchError> {
        self.bytes += bytes as u64;
        let passed = self.since.elapsed();
        if passed < options.patience {
            return Ok(());
        }
        let (bytes, least) = (self.bytes, options.least_rate);
        if (bytes as f64) < least as f64 * passed.as_secs_f64() {
            return Err(FetchError::Slow { url: url.to_owned(), bytes, seconds: passed.as_secs(), least });
        }
        *self = Pace::new();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_a_bound() {
        let options =
            Options { backoff: Duration::from_millis(100), longest_wait: Duration::from_secs(2), ..Options::default() };
        for (failures, least, most) in [(1, 50, 100), (2, 100, 200), (4, 400, 800), (6, 1000, 2000), (90, 1000, 2000)] {
            let wait = backoff(&options, failures, None).as_millis();
            assert!((least..=most).contains(&wait), "{failures}: {wait}");
        }
        assert_eq!(backoff(&options, 1, Some(Duration::from_secs(1))), Duration::from_secs(1));
        assert_eq!(backoff(&options, 1, Some(Duration::from_secs(1000))), options.longest_wait);
        let waits: std::collections::BTreeSet<Duration> = (0..20).map(|_| backoff(&options, 1, None)).collect();
        assert!(waits.len() > 10, "clients wait for different times");
    }

    #[test]
    fn a_cancelled_wait_ends() {
        let cancel = Cancel::default();
        let other = cancel.clone();
        let waiting = std::thread::spawn(move || other.sleep(Duration::from_secs(600)));
        cancel.cancel();
        assert!(matches!(waiting.join().unwrap(), Err(FetchError::Cancelled)));
        assert!(matches!(cancel.sleep(Duration::ZERO), Err(FetchError::Cancelled)));
    }

    #[test]
    fn a_drip_is_too_slow() {
        let options = Options { patience: Duration::ZERO, least_rate: u64::MAX / 2, ..Options::default() };
        assert!(matches!(Pace::new().came(1, &options, "u"), Err(FetchError::Slow { bytes: 1, .. })));
        assert!(Pace::new().came(1, &Options::default(), "u").is_ok());
    }
}
