//! Arrivals at fixed times, whatever becomes of the ones before.
//!
//! A generator that waits for an answer before it thinks of the next request leaves out just the
//! requests that would have had to wait (*coordinated omission*). Here the times are fixed before
//! the first request, and each latency counts from the time at which the request was *meant* to
//! start.
//!
//! Waiting for an arrival is the generator's business and not that of what is measured: it sleeps
//! until shortly before, then spins, so that the request leaves on time from a processor that is
//! awake, and what that costs is kept apart.

use rustix::thread::{ClockId, clock_nanosleep_absolute};
use rustix::time::Timespec;

use crate::role::{now_ns, thread_cpu_ns};

/// The generator is awake so long before each arrival, in ns: longer than Linux needs to wake it.
const AHEAD_NS: u64 = 150_000;

/// Arrivals with a fixed gap.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Schedule {
    gap_ns: u64,
    next_ns: u64,
    /// Processor time that waiting for arrivals took.
    generator_ns: u64,
}

impl Schedule {
    /// Arrivals of that gap.
    pub(crate) const fn every(gap_ns: u64) -> Self {
        Self { gap_ns, next_ns: 0, generator_ns: 0 }
    }

    /// The first arrival lies a gap from now.
    pub(crate) fn begin(&mut self) {
        self.next_ns = now_ns() + self.gap_ns;
        self.generator_ns = 0;
    }

    /// Waits for the next arrival, if it is not over already; answers when it was meant to be.
    #[inline]
    pub(crate) fn wait(&mut self) -> u64 {
        let intended = self.next_ns;
        self.next_ns += self.gap_ns;
        let mut now = now_ns();
        if now + AHEAD_NS < intended {
            let before = thread_cpu_ns();
            let until = intended - AHEAD_NS;
            let at = Timespec {
                tv_sec: (until / 1_000_000_000) as i64,
                tv_nsec: (until % 1_000_000_000) as _,
            };
            // Interrupted, it spins for longer.
            let _ = clock_nanosleep_absolute(ClockId::Monotonic, &at);
            self.generator_ns += thread_cpu_ns() - before;
            now = now_ns();
        }
        let awake = now;
        while now < intended {
            std::hint::spin_loop();
            now = now_ns();
        }
        self.generator_ns += now - awake;
        intended
    }

    /// Processor time that waiting for arrivals has taken since [`begin`](Self::begin), in ns.
    pub(crate) const fn generator_ns(&self) -> u64 {
        self.generator_ns
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;
    use crate::role::now_ns;

    #[test]
    fn arrivals_keep_their_times_however_late_the_one_before_was() {
        const GAP_NS: u64 = 300_000;
        let mut schedule = Schedule::every(GAP_NS);
        schedule.begin();
        let first = schedule.wait();
        assert!(now_ns() >= first);
        std::thread::sleep(std::time::Duration::from_nanos(3 * GAP_NS));
        assert_eq!(schedule.wait(), first + GAP_NS);
        assert_eq!(schedule.wait(), first + 2 * GAP_NS);
        assert!(now_ns() >= first + 2 * GAP_NS);
    }
}
