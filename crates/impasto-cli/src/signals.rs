//! Removes temporary files when Ctrl-C or another signal ends the process. A file above the system's limit of size is an
//! error and not a signal, and so is memory that cannot be allocated.

use std::sync::atomic::{AtomicBool, Ordering};

use impasto_core::files;

/// Whether the first Ctrl-C interrupts work and not the process.
static INTERRUPTIBLE: AtomicBool = AtomicBool::new(false);
/// Whether that work was interrupted.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Whether other signals interrupt it, too.
static BY_ALL: AtomicBool = AtomicBool::new(false);

/// Work that the first Ctrl-C interrupts; a second one ends the process. There is one at a time.
pub struct Interruptible(());

impl Interruptible {
    /// Begins such work, which ends when the result is dropped.
    pub fn begin() -> Interruptible {
        INTERRUPTED.store(false, Ordering::SeqCst);
        INTERRUPTIBLE.store(true, Ordering::SeqCst);
        Interruptible(())
    }

    /// Begins work that the first of any signal that ends processes interrupts.
    #[cfg(feature = "serve")]
    pub fn by_all_signals() -> Interruptible {
        BY_ALL.store(true, Ordering::SeqCst);
        Interruptible::begin()
    }

    /// Returns whether it was interrupted.
    pub fn is_interrupted(&self) -> bool {
        INTERRUPTED.load(Ordering::SeqCst)
    }
}

/// Ends the process as Ctrl-C does, after work that it interrupted.
#[cfg(feature = "fetch")]
pub fn end_interrupted() -> ! {
    files::remove_temporary();
    #[cfg(unix)]
    unix::end(libc::SIGINT);
    #[cfg(not(unix))]
    std::process::exit(130);
}

impl Drop for Interruptible {
    fn drop(&mut self) {
        INTERRUPTIBLE.store(false, Ordering::SeqCst);
        BY_ALL.store(false, Ordering::SeqCst);
    }
}

/// Interrupts the work in progress. Returns `false` if there is none, or it was interrupted before.
fn interrupt() -> bool {
    INTERRUPTIBLE.load(Ordering::SeqCst) && !INTERRUPTED.swap(true, Ordering::SeqCst)
}

/// Watches for the signals in a thread. Must be called before other threads start. If the system refuses, signals end
/// the process as usual.
#[cfg(unix)]
pub fn watch() {
    unix::ignore(libc::SIGXFSZ);
    unix::exit_at_abort();
    let signals = unix::Signals::block([libc::SIGINT, libc::SIGTERM, libc::SIGHUP]);
    let wait = move || {
        loop {
            let signal = signals.wait();
            let may_interrupt = signal == libc::SIGINT || BY_ALL.load(Ordering::SeqCst);
            if !may_interrupt || !interrupt() {
                files::remove_temporary();
                unix::end(signal);
            }
        }
    };
    if std::thread::Builder::new().name("signals".to_owned()).spawn(wait).is_err() {
        signals.unblock();
    }
}

/// Watches for Ctrl-C. If the system refuses, it ends the process as usual.
#[cfg(not(unix))]
pub fn watch() {
    let handler = || {
        if !interrupt() {
            files::remove_temporary();
            std::process::exit(130);
        }
    };
    let _ = ctrlc::set_handler(handler);
}

/// The system calls.
#[cfg(unix)]
mod unix {
    use std::mem::MaybeUninit;
    use std::ptr;

    use impasto_core::files;
    use libc::c_int;

    use crate::exit::Code;

    /// Blocked signals: they do not end the process, but wait for [`Signals::wait`].
    #[derive(Clone, Copy)]
    pub struct Signals(libc::sigset_t);

    impl Signals {
        /// Blocks signals in this thread and those that it starts, except signals that the process was started to ignore,
        /// as nohup does.
        pub fn block(signals: [c_int; 3]) -> Signals {
            let mut set = MaybeUninit::uninit();
            // SAFETY: sigemptyset initializes the set, and sigaddset changes it.
            let set = unsafe {
                libc::sigemptyset(set.as_mut_ptr());
                signals.into_iter().filter(|signal| !is_ignored(*signal)).for_each(|signal| {
                    libc::sigaddset(set.as_mut_ptr(), signal);
                });
                set.assume_init()
            };
            // SAFETY: the set is valid, and the previous mask is not requested.
            unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()) };
            Signals(set)
        }

        /// Lets the signals end the process again.
        pub fn unblock(&self) {
            // SAFETY: the set is valid, and the previous mask is not requested.
            unsafe { libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const self.0, ptr::null_mut()) };
        }

        /// Waits for one of the signals.
        pub fn wait(&self) -> c_int {
            let mut signal = 0;
            // SAFETY: the set is valid, and `signal` can be written.
            while unsafe { libc::sigwait(&raw const self.0, &raw mut signal) } != 0 {}
            signal
        }
    }

    /// Ignores a signal, so that the call that causes it returns an error.
    pub fn ignore(signal: c_int) {
        // SAFETY: to ignore the signal is a valid action.
        unsafe { libc::signal(signal, libc::SIG_IGN) };
    }

    /// Lets the process end with an exit code, and without temporary files, when it aborts itself: it does so if memory cannot
    /// be allocated, after it has said so.
    pub fn exit_at_abort() {
        extern "C" fn aborted(signal: c_int, info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
            // SAFETY: the system passes a valid `info`; the signal was sent with a process number.
            if unsafe { (*info).si_pid() != libc::getpid() } {
                end(signal);
            }
            // The thread called `abort` itself, so it is in no system call and does not hold the allocator's locks.
            files::try_remove_temporary();
            // SAFETY: this does not return.
            unsafe { libc::_exit(Code::System as c_int) }
        }
        // SAFETY: an all-zero action is valid, and the handler takes these three arguments.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = aborted as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO;
            libc::sigaction(libc::SIGABRT, &raw const action, ptr::null_mut());
        }
    }

    /// Ends the process as the signal does by default, so that its parent sees the cause.
    pub fn end(signal: c_int) -> ! {
        // SAFETY: the default is a valid action of every signal.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
        let mut set = MaybeUninit::uninit();
        // SAFETY: sigemptyset initializes the set, and sigaddset changes it; the signal is unblocked in this thread only.
        unsafe {
            libc::sigemptyset(set.as_mut_ptr());
            libc::sigaddset(set.as_mut_ptr(), signal);
            libc::pthread_sigmask(libc::SIG_UNBLOCK, set.as_ptr(), ptr::null_mut());
            libc::raise(signal);
        }
        std::process::exit(128 + signal)
    }

    fn is_ignored(signal: c_int) -> bool {
        let mut action = MaybeUninit::uninit();
        // SAFETY: without a new action, sigaction only writes the present one, which is read if it succeeds.
        unsafe {
            libc::sigaction(signal, ptr::null(), action.as_mut_ptr()) == 0
                && action.assume_init().sa_sigaction == libc::SIG_IGN
        }
    }
}
