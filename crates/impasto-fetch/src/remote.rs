//! What can be asked for the bytes of a file.

use std::ops::Range;

use crate::answer::Version;
use crate::error::FetchError;

/// A file elsewhere. Several threads may ask for its bytes at once.
pub trait Remote: Send + Sync {
    /// Returns the address for messages, without secrets.
    fn shown(&self) -> String;

    /// Asks for bytes once, without trying again.
    ///
    /// # Errors
    /// If there is no answer, or not one to the request; [`FetchError::Changed`] if the file is not in the wanted version.
    fn open(&self, wanted: &Wanted<'_>) -> Result<Answer, FetchError>;

    /// Interrupts all requests, also in other threads. Later ones fail.
    fn stop(&self);

    /// Returns the number of requests so far, redirects included.
    fn requests(&self) -> u64;
}

/// What is asked for.
#[derive(Debug, Default)]
pub struct Wanted<'a> {
    /// The bytes; `None` for the whole file.
    pub range: Option<Range<u64>>,
    /// The version that they must be of.
    pub version: Option<&'a Version>,
}

/// The answer to a request.
pub struct Answer {
    /// Whether the body is the range that was asked for, which it may end before. Otherwise it is the whole file.
    pub is_range: bool,
    /// The length of the file, if it is known.
    pub total: Option<u64>,
    /// The version of the file.
    pub version: Version,
    /// Whether the end of the body is known without waiting for it.
    pub has_length: bool,
    /// The bytes.
    pub body: Box<dyn Body>,
}

/// The bytes of an answer.
pub trait Body: Send {
    /// Reads some bytes; 0 at the end.
    ///
    /// # Errors
    /// If the connection breaks, or nothing comes in time.
    fn read(&mut self, into: &mut [u8]) -> Result<usize, FetchError>;
}
