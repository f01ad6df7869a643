//! A blocking handover by POSIX semaphores that lie in the shared memory, one for each direction.
//!
//! # Safety
//!
//! An island of unsafe code. Its invariants:
//!
//! 1. A semaphore lies at the [front](Mapping::front) of a mapping, which is large and aligned enough
//!    and is used for nothing else. The caller's borrow of the mapping keeps it there.
//! 2. The client has initialised both as shared between processes before the partner is started, and
//!    so before there is any other [`Semaphores`] over that memory. They are never destroyed, only
//!    unmapped: on Linux a semaphore owns nothing beyond its own bytes.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use super::handover::Handover;
use super::shared::{Mapping, Side};

const _: () = assert!(size_of::<libc::sem_t>() <= 64 && align_of::<libc::sem_t>() <= 64);

/// `sem_post` and `sem_wait`.
#[derive(Debug)]
pub(super) struct Semaphores;

impl Semaphores {
    /// Client: makes both, over memory that nobody else has yet.
    pub(super) fn create(mapping: &Mapping) -> io::Result<Self> {
        for side in [Side::Client, Side::Partner] {
            // INVARIANT: 2.
            // SAFETY: invariant 1.
            checked(unsafe { libc::sem_init(at(mapping, side), 1, 0) })?;
        }
        Ok(Self)
    }

    /// Partner: those that the client made.
    pub(super) fn created(_: &Mapping) -> Self {
        Self
    }
}

fn at(mapping: &Mapping, side: Side) -> *mut libc::sem_t {
    mapping.front(side).as_ptr().cast()
}

fn checked(result: libc::c_int) -> io::Result<()> {
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

impl Handover for Semaphores {
    #[inline]
    fn pass(&self, mapping: &Mapping, from: Side, _: u32) -> io::Result<()> {
        // SAFETY: invariants 1 and 2.
        checked(unsafe { libc::sem_post(at(mapping, from)) })
    }

    #[inline]
    fn wait(
        &self,
        mapping: &Mapping,
        from: Side,
        _: u32,
        abandoned: &AtomicBool,
    ) -> io::Result<()> {
        loop {
            // SAFETY: invariants 1 and 2.
            match checked(unsafe { libc::sem_wait(at(mapping, from)) }) {
                // ORDERING: Relaxed; nothing is read that depends on it.
                Ok(()) if abandoned.load(Ordering::Relaxed) => {
                    return Err(io::ErrorKind::TimedOut.into());
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                done => return done,
            }
        }
    }

    fn free(&self, mapping: &Mapping, from: Side) {
        let woken = self.pass(mapping, from, 0);
        debug_assert!(woken.is_ok(), "a semaphore that is posted now and then does not overflow");
    }
}
