//! The limits of a process that renders a template, and which of them it exceeded.

/// Processor time, in seconds.
pub(super) const SECONDS: u64 = 1;
/// Memory that the process may write to, with its stack, in bytes.
#[cfg(unix)]
const MEMORY: usize = 64 << 20;

#[cfg(unix)]
pub(super) use unix::{apply, exceeded};

/// There are no limits on this system.
#[cfg(not(unix))]
pub(super) fn apply(_request: usize) -> std::io::Result<()> {
    Ok(())
}

/// Nothing is known of the reasons on this system.
#[cfg(not(unix))]
pub(super) fn exceeded(_status: std::process::ExitStatus) -> Option<String> {
    None
}

#[cfg(unix)]
mod unix {
    use std::io;
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;

    use super::{MEMORY, SECONDS};
    use crate::chat::engine::STACK;

    /// The exit code after an overflow of the stack.
    const OVERFLOW: i32 = 13;

    /// Limits this process, for a request of so many bytes. The variables are copied several times on their way.
    pub(in crate::chat) fn apply(request: usize) -> io::Result<()> {
        let memory = MEMORY.saturating_add(request.saturating_mul(16)) as libc::rlim_t;
        // A core file would be large and of no use.
        limit(libc::RLIMIT_CORE, 0, 0)?;
        limit(libc::RLIMIT_CPU, SECONDS, SECONDS + 1)?;
        limit(libc::RLIMIT_DATA, memory, memory)?;
        // These count in RLIMIT_DATA only what the program requests in the old way (and some refuse the other limit, or ignore
        // it). On Linux, the other limit would count the addresses that the allocator reserves.
        #[cfg(any(target_vendor = "apple", target_os = "freebsd", target_os = "netbsd"))]
        let _ = limit(libc::RLIMIT_AS, memory.saturating_mul(4), memory.saturating_mul(4));
        end_at_overflow();
        Ok(())
    }

    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    type Resource = libc::__rlimit_resource_t;
    #[cfg(not(all(target_os = "linux", target_env = "gnu")))]
    type Resource = libc::c_int;

    /// Sets a limit, if it is below the present one.
    fn limit(resource: Resource, soft: libc::rlim_t, hard: libc::rlim_t) -> io::Result<()> {
        let mut limits = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        // SAFETY: `limits` can be written.
        check(unsafe { libc::getrlimit(resource, &raw mut limits) })?;
        limits = libc::rlimit { rlim_cur: soft.min(limits.rlim_cur), rlim_max: hard.min(limits.rlim_max) };
        // SAFETY: `limits` is valid.
        check(unsafe { libc::setrlimit(resource, &raw const limits) })
    }

    fn check(result: libc::c_int) -> io::Result<()> {
        if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    /// Ends the process with [`OVERFLOW`] when a thread writes past its stack. (By default the standard library prints a
    /// message and aborts, which looks like a failed allocation.)
    fn end_at_overflow() {
        extern "C" fn end(_signal: libc::c_int) {
            // SAFETY: this may be called in a signal handler, and does not return.
            unsafe { libc::_exit(OVERFLOW) }
        }
        for signal in [libc::SIGSEGV, libc::SIGBUS] {
            // SAFETY: an all-zero action is valid; the handler only ends the process, on the separate stack that the
            // standard library gives to its threads.
            unsafe {
                let mut action: libc::sigaction = std::mem::zeroed();
                action.sa_sigaction = end as *const () as usize;
                action.sa_flags = libc::SA_ONSTACK;
                libc::sigaction(signal, &raw const action, std::ptr::null_mut());
            }
        }
    }

    /// The limit that made a process end with this status.
    pub(in crate::chat) fn exceeded(status: ExitStatus) -> Option<String> {
        let memory = MEMORY >> 20;
        match (status.signal(), status.code()) {
            // A failed allocation aborts.
            (Some(libc::SIGABRT), _) => Some(format!("it needs more memory than the limit of {memory} MiB")),
            (Some(libc::SIGXCPU | libc::SIGKILL), _) => Some(format!("it runs longer than the limit of {SECONDS} s")),
            // A program without a handler of its own, such as an interpreter, ends with the signal.
            (Some(libc::SIGSEGV | libc::SIGBUS), _) | (_, Some(OVERFLOW)) => {
                Some(format!("it recurses deeper than the limit of {} MiB of stack", STACK >> 20))
            }
            _ => None,
        }
    }
}
