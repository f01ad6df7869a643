//! Idle priority: run only when nothing else wants the processor.
//!
//! # Safety
//!
//! One call of the C library, for which no safe wrapper is at hand. Its invariant:
//!
//! 1. The parameters that Linux reads are a live local value; it keeps no pointer to them.

use std::io;

/// Gives the calling thread idle priority (`SCHED_IDLE`). Nobody needs a permission for that.
///
/// # Errors
/// What Linux refused, as in a sandbox that forbids the call.
pub(crate) fn take() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: invariant 1; 0 is the calling thread.
    let refused = unsafe { libc::sched_setscheduler(0, libc::SCHED_IDLE, &raw const parameters) };
    if refused == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
