//! A blocking handover: each side sleeps on the other's turn.
//!
//! The plainest use of a futex: publish, wake, wait. Both system calls are made each time, without
//! looking whether the other side sleeps and without spinning first.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::io::Errno;
use rustix::thread::futex::{self, Flags};

use super::handover::Handover;
use super::shared::{Mapping, Side};

/// Sleeping and waking with futexes.
#[derive(Debug)]
pub(super) struct Sleeping;

impl Handover for Sleeping {
    #[inline]
    fn pass(&self, mapping: &Mapping, from: Side, turn: u32) -> io::Result<()> {
        let word = mapping.turn(from);
        // ORDERING(futex): Release; the payload must be visible before the turn. Pairs with `wait`.
        word.store(turn, Ordering::Release);
        futex::wake(word, Flags::empty(), 1)?;
        Ok(())
    }

    #[inline]
    fn wait(
        &self,
        mapping: &Mapping,
        from: Side,
        turn: u32,
        abandoned: &AtomicBool,
    ) -> io::Result<()> {
        let word = mapping.turn(from);
        loop {
            // ORDERING(futex): Acquire; the payload is read after it. Pairs with `pass`.
            let seen = word.load(Ordering::Acquire);
            if seen == turn {
                return Ok(());
            }
            // ORDERING: Relaxed; nothing is read that depends on it.
            if abandoned.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            match futex::wait(word, Flags::empty(), seen, None) {
                Ok(()) | Err(Errno::AGAIN | Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn free(&self, mapping: &Mapping, from: Side) {
        let woken = futex::wake(mapping.turn(from), Flags::empty(), 1);
        debug_assert!(woken.is_ok(), "waking on mapped memory");
    }
}
