//! Alarms that the machine has asked for, and the time that epoll may wait for them.
//!
//! The machine has no clock: it names how long, and an [`Alarm`] to be handed back. Those of one
//! moment ring in the order in which they were set. An alarm that is set anew is moved, and one that
//! is not meant any more is taken out: so there are never more than there are alarms to be told
//! apart, however often a task has the machine change its mind.

use crate::effect::Alarm;
use rustix::time::{ClockId, Timespec, clock_gettime};
use std::collections::{BTreeMap, BTreeSet};

/// Nanoseconds of `CLOCK_MONOTONIC`.
pub(super) fn now() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let (seconds, rest) = (now.tv_sec.unsigned_abs(), now.tv_nsec.unsigned_abs());
    seconds.saturating_mul(1_000_000_000).saturating_add(rest)
}

/// Alarms by the time at which they ring.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// When, in ns; the how manieth; what.
    set: BTreeSet<(u64, u64, Alarm)>,
    /// Where each of them is there.
    places: BTreeMap<Alarm, (u64, u64)>,
    ever: u64,
}

impl Timers {
    /// Has `alarm` ring so many milliseconds after `now`, and only then.
    pub(super) fn set(&mut self, now: u64, milliseconds: u32, alarm: Alarm) {
        self.unset(alarm);
        self.ever = self.ever.wrapping_add(1);
        let at = now.saturating_add(u64::from(milliseconds).saturating_mul(1_000_000));
        self.set.insert((at, self.ever, alarm));
        self.places.insert(alarm, (at, self.ever));
    }

    /// Has `alarm` not ring, if it is set.
    pub(super) fn unset(&mut self, alarm: Alarm) {
        if let Some((at, ever)) = self.places.remove(&alarm) {
            self.set.remove(&(at, ever, alarm));
        }
    }

    /// One whose time has come.
    pub(super) fn ringing(&mut self, now: u64) -> Option<Alarm> {
        let (at, _, alarm) = *self.set.first()?;
        if at > now {
            return None;
        }
        self.unset(alarm);
        Some(alarm)
    }

    /// Whether any is set.
    pub(super) fn is_empty(&self) -> bool {
        self.set.is_empty()
    }

    /// Nanoseconds until the next one rings.
    pub(super) fn wait(&self, now: u64) -> Option<u64> {
        self.set.first().map(|(at, _, _)| at.saturating_sub(now))
    }
}

/// The same for epoll, in whole milliseconds, not too early.
pub(super) fn timeout(nanoseconds: u64) -> Timespec {
    let milliseconds = nanoseconds.div_ceil(1_000_000).min(i32::MAX.unsigned_abs().into());
    let rest = milliseconds.wrapping_rem(1000).saturating_mul(1_000_000);
    Timespec {
        tv_sec: i64::try_from(milliseconds / 1000).unwrap_or(i64::MAX),
        tv_nsec: i64::try_from(rest).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::{Timers, timeout};
    use crate::effect::Alarm;

    #[test]
    fn alarms_ring_in_their_order_and_not_before_their_time() {
        let mut timers = Timers::default();
        assert_eq!((timers.wait(0), timers.is_empty()), (None, true));
        timers.set(0, 20, Alarm::Grace(1));
        timers.set(0, 10, Alarm::Grace(3));
        timers.set(5_000_000, 5, Alarm::Grace(2));
        assert_eq!(timers.wait(4_000_000), Some(6_000_000));
        assert_eq!(timers.ringing(9_999_999), None);
        assert_eq!(timers.ringing(10_000_000), Some(Alarm::Grace(3)));
        assert_eq!(timers.ringing(10_000_000), Some(Alarm::Grace(2)));
        assert_eq!(timers.ringing(10_000_000), None);
        assert_eq!(timers.wait(30_000_000), Some(0));
        assert_eq!(timers.ringing(30_000_000), Some(Alarm::Grace(1)));
        assert!(timers.is_empty());
    }

    #[test]
    fn an_alarm_is_moved_and_taken_out() {
        let mut timers = Timers::default();
        timers.set(0, 10, Alarm::Grace(1));
        timers.set(0, 20, Alarm::Grace(2));
        timers.set(0, 30, Alarm::Grace(1));
        assert_eq!(timers.wait(0), Some(20_000_000));
        timers.unset(Alarm::Grace(2));
        timers.unset(Alarm::Grace(2));
        assert_eq!(timers.ringing(29_999_999), None);
        assert_eq!(timers.ringing(30_000_000), Some(Alarm::Grace(1)));
        assert!(timers.is_empty() && timers.places.is_empty());
    }

    #[test]
    fn epoll_waits_for_whole_milliseconds_and_no_shorter() {
        let of = |nanoseconds| {
            let timeout = timeout(nanoseconds);
            (timeout.tv_sec, timeout.tv_nsec)
        };
        assert_eq!(of(0), (0, 0));
        assert_eq!(of(1), (0, 1_000_000));
        assert_eq!(of(1_500_000_001), (1, 501_000_000));
    }
}
