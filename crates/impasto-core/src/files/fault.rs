//! The SIGBUS handler for maps of files that became shorter.
//!
//! It is installed with the first map. Signals that do not concern a map go to the handler that was there before.

use std::ops::Range;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError};

use libc::{c_int, c_void, siginfo_t};

/// The addresses of a map. The handler may look at a place at any time, so places are used again but never freed.
#[derive(Debug, Default)]
struct Place {
    start: AtomicUsize,
    /// 0 if no map uses this place.
    end: AtomicUsize,
    is_lost: AtomicBool,
    next: AtomicPtr<Place>,
}

/// The first of all places.
static FIRST: AtomicPtr<Place> = AtomicPtr::new(ptr::null_mut());
/// Places that no map uses.
static UNUSED: Mutex<Vec<&'static Place>> = Mutex::new(Vec::new());
/// What handled the signal before.
static PREVIOUS: OnceLock<Option<libc::sigaction>> = OnceLock::new();

/// Guards the addresses of a map until it is dropped.
#[derive(Debug)]
pub struct Guard(&'static Place);

impl Guard {
    /// Guards the addresses of a map of a file.
    ///
    /// # Safety
    /// The range must be that of a map, which stays mapped while the guard exists.
    pub unsafe fn new(range: Range<*const u8>) -> Guard {
        PREVIOUS.get_or_init(install);
        let place = UNUSED.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_else(new_place);
        place.is_lost.store(false, Ordering::SeqCst);
        place.start.store(range.start.addr(), Ordering::SeqCst);
        place.end.store(range.end.addr(), Ordering::SeqCst);
        Guard(place)
    }

    /// Returns whether bytes of the map were replaced by zeros.
    pub fn is_lost(&self) -> bool {
        self.0.is_lost.load(Ordering::SeqCst)
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.end.store(0, Ordering::SeqCst);
        UNUSED.lock().unwrap_or_else(PoisonError::into_inner).push(self.0);
    }
}

/// Adds a place to the list.
fn new_place() -> &'static Place {
    let place: &'static Place = Box::leak(Box::default());
    let mut first = FIRST.load(Ordering::SeqCst);
    loop {
        place.next.store(first, Ordering::SeqCst);
        match FIRST.compare_exchange(first, ptr::from_ref(place).cast_mut(), Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return place,
            Err(other) => first = other,
        }
    }
}

/// Installs the handler. Returns the previous one; `None` if the system refuses, so that the signal still ends the
/// process.
fn install() -> Option<libc::sigaction> {
    let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) = handle;
    // SAFETY: all-zero is a valid sigaction, with an empty mask.
    let (mut action, mut previous): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
    // SAFETY: both structures are valid, and the handler has the signature that SA_SIGINFO requires. It only reads
    // atomics and makes system calls.
    (unsafe { libc::sigaction(libc::SIGBUS, &raw const action, &raw mut previous) } == 0).then_some(previous)
}

/// Handles the signal.
extern "C" fn handle(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the system passes a valid structure, which has an address for this signal.
    let address = unsafe { (*info).si_addr() }.addr();
    match place_of(address) {
        Some(place) => {
            // Marked first: as soon as the zeros are there, another thread may read them and check the map.
            place.is_lost.store(true, Ordering::SeqCst);
            if !replace(address, place.end.load(Ordering::SeqCst)) {
                pass_on(signal, info, context);
            }
        }
        None => pass_on(signal, info, context),
    }
}

/// Returns the place with an address.
fn place_of(address: usize) -> Option<&'static Place> {
    let mut next = FIRST.load(Ordering::SeqCst);
    loop {
        // SAFETY: the pointer is null or that of a place, and places are never freed.
        let place: &'static Place = unsafe { next.as_ref() }?;
        let (start, end) = (place.start.load(Ordering::SeqCst), place.end.load(Ordering::SeqCst));
        // If another map has taken the place in between, its start differs.
        if (start..end).contains(&address) && place.start.load(Ordering::SeqCst) == start {
            return Some(place);
        }
        next = place.next.load(Ordering::SeqCst);
    }
}

/// Maps zeros from the page of `address` up to the end of the map, and returns whether the system did so.
fn replace(address: usize, end: usize) -> bool {
    // SAFETY: sysconf has no preconditions.
    let page = unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize;
    let start = address - address % page;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANON | libc::MAP_FIXED | libc::MAP_NORESERVE;
    // SAFETY: the range lies within the pages of a map that exists, because one of its addresses is being read. Nobody
    // relies on the bytes there, which the file no longer has.
    let mapped =
        unsafe { libc::mmap(ptr::with_exposed_provenance_mut(start), end - start, libc::PROT_READ, flags, -1, 0) };
    mapped != libc::MAP_FAILED
}

/// Does what was done about the signal before.
fn pass_on(signal: c_int, info: *mut siginfo_t, context: *mut c_void) {
    if let Some(Some(previous)) = PREVIOUS.get() {
        let handler = previous.sa_sigaction;
        if handler != libc::SIG_DFL && handler != libc::SIG_IGN {
            if previous.sa_flags & libc::SA_SIGINFO != 0 {
                // SAFETY: with SA_SIGINFO the handler has this signature.
                let handler: extern "C" fn(c_int, *mut siginfo_t, *mut c_void) =
                    unsafe { std::mem::transmute(handler) };
                handler(signal, info, context);
            } else {
                // SAFETY: without SA_SIGINFO the handler has this signature.
                let handler: extern "C" fn(c_int) = unsafe { std::mem::transmute(handler) };
                handler(signal);
            }
            return;
        }
    }
    // SAFETY: all-zero is a valid sigaction: the default. The signal is delivered again when this handler returns, and
    // ends the process.
    unsafe {
        let default: libc::sigaction = std::mem::zeroed();
        libc::sigaction(signal, &raw const default, ptr::null_mut());
        libc::raise(signal);
    }
}
