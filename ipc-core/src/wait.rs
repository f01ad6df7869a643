//! How a reader waits: spin, spin for a while, or sleep at once.
//!
//! *Adaptive* spins for as long as a wake-up costs, as measured, then sleeps: never worse than twice
//! the best choice in hindsight (Karlin, Li, Manasse, Owicki: "Empirical studies of competitive
//! spinning", 1991). The cost is learned from the wake-ups of this process: whoever rings leaves the
//! time beside the doorbell now and then, whoever wakes compares.
//!
//! Competitive is not cheap: where each wait outlasts the budget, all of it is spun away each time. So
//! a thread whose last waits were all too long sleeps at once, and spins again as soon as a sleep was so
//! short that spinning would have caught its end.
//!
//! A spinner must know where its peer runs. If that is on the same processor, spinning burns the
//! very time that the peer needs, so it yields instead, at once if that was so the last time; a yield
//! that took many times as long as a wake-up means that somebody else wants the processor: the thread
//! sleeps, and does not yield again for a while.
//!
//! The first looks are at the ring alone and come as fast as they can, since the clock, the peer's
//! processor and the status word cost as much as many of them: a reply that comes at once is found
//! at once.

use crate::half::{Ours, Theirs};
use crate::platform::Platform;
use core::sync::atomic::{AtomicU64, Ordering};

/// How a reader waits when there is nothing to read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Wait {
    /// Never sleeps. For measuring, and for processors that have nothing else to do.
    Spin,
    /// Spins for as long as a wake-up costs, then sleeps.
    #[default]
    Adaptive,
    /// Sleeps at once.
    Block,
}

impl core::str::FromStr for Wait {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        Ok(match text {
            "spin" => Self::Spin,
            "adaptive" => Self::Adaptive,
            "block" => Self::Block,
            _ => {
                return Err(format!(
                    "no wait policy is called {text:?}: use spin, adaptive or block"
                ));
            }
        })
    }
}

/// What a wake-up is taken to cost before one was measured, in ns.
const WAKE_NS_AT_FIRST: u64 = 30_000;
/// Bounds of what is believed of one measurement, in ns: the time beside the doorbell is a claim.
const WAKE_NS_RANGE: core::ops::RangeInclusive<u64> = 2_000..=200_000;
/// Older dates are not believed at all, in ns.
const WAKE_NS_OLDEST: u64 = 100_000_000;
/// Yields to a peer on the same processor that are always made before sleeping.
const YIELDS_MIN: u32 = 4;
/// Yields, one right after the other, that a peer on the same processor needs at most: after so many
/// in vain it runs elsewhere, or does something else.
const YIELDS_CLOSE: u32 = 8;
/// A yield that took this much longer than a wake-up gave the processor to somebody else.
const YIELD_TOO_LONG: u64 = 8;
/// Waits in a row that outlast the budget, after which the thread sleeps at once, until a sleep was
/// so short that spinning would have caught it.
const LONG_WAITS: u8 = 4;
/// Waits without a yield after one that took too long, the first time and at most.
const CROWDED_MIN: u16 = 64;
const CROWDED_MAX: u16 = 8192;
/// Looks between two looks at the clock, and at whatever is not the ring.
const TURNS_PER_LOOK: u32 = 32;
/// Looks without any rest in between, before resting begins.
const TURNS_EAGER: u32 = 512;

static WAKE_NS: AtomicU64 = AtomicU64::new(WAKE_NS_AT_FIRST);

/// What a wake-up costs on this machine, as this process has measured it, in ns: how long the
/// adaptive policy spins.
#[must_use]
pub fn learned_wake_ns() -> u64 {
    // ORDERING: Relaxed; a statistic of this process.
    WAKE_NS.load(Ordering::Relaxed)
}

/// One in this many rings is dated, so that most cost no look at the clock.
pub(crate) const RINGS_PER_DATE: u64 = 8;

/// What one reader learns from the dates beside its doorbell.
#[derive(Debug, Default)]
pub(crate) struct Learner {
    last: u64,
}

impl Learner {
    /// After a wake-up: takes note of what it cost, if the ring was dated.
    pub(crate) fn woken<P: Platform>(&mut self, rang_at: u64) {
        if rang_at != self.last {
            self.last = rang_at;
            learn(rang_at, P::now());
        }
    }
}

/// Takes note of a wake-up that was rung for at `rang_at` and over at `now`.
fn learn(rang_at: u64, now: u64) {
    // A date in the future, or older than any wake-up, is a lie or belongs to another sleep.
    if rang_at <= now && now - rang_at <= WAKE_NS_OLDEST {
        let sample = (now - rang_at).clamp(*WAKE_NS_RANGE.start(), *WAKE_NS_RANGE.end());
        let old = WAKE_NS.load(Ordering::Relaxed);
        // ORDERING: Relaxed; two threads at once lose one of two samples.
        WAKE_NS.store((old * 7 + sample) / 8, Ordering::Relaxed);
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Look at the ring again.
    Again,
    /// Look at the ring, at the clock (the time is given) and at the status word.
    Look(u64),
    /// Sleep.
    Sleep,
}

/// What a waiting thread remembers from one wait to the next: one for each receiver and for each
/// client's end.
#[derive(Debug, Default)]
pub struct Habit {
    /// The peer ran on this thread's processor when that was looked at last.
    together: bool,
    /// What was published of the own processor last.
    cpu: u32,
    /// Waits in a row that outlasted the budget, at most [`LONG_WAITS`].
    long_waits: u8,
    /// Waits that are still to pass before another yield is tried.
    crowded: u16,
    /// How many waits that will be the next time.
    crowded_next: u16,
}

impl Habit {
    /// Whether a look yields, because the peer runs on this processor.
    pub(crate) const fn yields(&self) -> bool {
        self.together
    }

    /// Whether the last waits all outlasted the budget.
    const fn expects_long(&self) -> bool {
        self.long_waits >= LONG_WAITS
    }

    /// For how long the next wait by `wait` spins before it sleeps, in ns, `u64::MAX` for ever: for
    /// the counters.
    pub(crate) fn budget_ns(&self, wait: Wait) -> u64 {
        match wait {
            Wait::Spin => u64::MAX,
            Wait::Adaptive if !self.expects_long() => learned_wake_ns(),
            Wait::Adaptive | Wait::Block => 0,
        }
    }

    /// A wait has ended before a sleep.
    #[inline]
    pub(crate) const fn was_short(&mut self) {
        self.long_waits = 0;
    }

    /// A wait has slept from `from` to `to`, which includes a wake-up.
    const fn slept(&mut self, from: u64, to: u64, budget: u64) {
        if to.saturating_sub(from) < 2 * budget {
            self.long_waits = 0;
        }
    }

    /// A yield took so long that somebody else must want the processor.
    fn crowd(&mut self) {
        self.crowded_next = self.crowded_next.saturating_mul(2).clamp(CROWDED_MIN, CROWDED_MAX);
        self.crowded = self.crowded_next;
    }
}

/// One wait of one thread.
#[derive(Debug)]
pub struct Spinner {
    wait: Wait,
    turns: u32,
    /// The turn at which the next look is due.
    due: u32,
    started: u64,
    budget: u64,
    yields: u32,
}

impl Spinner {
    /// The start of a wait.
    #[must_use]
    #[inline]
    pub const fn new(wait: Wait, habit: &Habit) -> Self {
        let due = if habit.together { 1 } else { TURNS_EAGER };
        Self { wait, turns: 0, due, started: 0, budget: 0, yields: 0 }
    }

    /// Says what to do after a look that found nothing, and rests a little.
    #[inline]
    pub fn step<P: Platform>(
        &mut self,
        habit: &mut Habit,
        ours: &Ours<P>,
        theirs: &Theirs<P>,
    ) -> Step {
        if matches!(self.wait, Wait::Block) {
            return Step::Sleep;
        }
        self.turns = self.turns.wrapping_add(1);
        if self.turns >= self.due {
            return self.look(habit, ours, theirs);
        }
        if self.turns > TURNS_EAGER {
            P::pause();
        }
        Step::Again
    }

    /// After [`Step::Again`]: whether the ring alone is to be looked at once more before the next
    /// [`Spinner::step`].
    #[inline(always)]
    pub fn again<P: Platform>(&mut self) -> bool {
        let next = self.turns.wrapping_add(1);
        if next >= self.due {
            return false;
        }
        self.turns = next;
        if next > TURNS_EAGER {
            P::pause();
        }
        true
    }

    #[cold]
    fn look<P: Platform>(&mut self, habit: &mut Habit, ours: &Ours<P>, theirs: &Theirs<P>) -> Step {
        let mut now = P::now();
        if self.started == 0 {
            self.started = now;
            self.budget = learned_wake_ns();
        }
        let cpu = P::cpu().wrapping_add(1);
        if habit.cpu != cpu {
            habit.cpu = cpu;
            ours.set_cpu(cpu);
        }
        let adaptive = matches!(self.wait, Wait::Adaptive);
        // The peer's word may be an old one: that it runs here shows in what yielding to it brings.
        let together = theirs.cpu() == cpu;
        habit.together = together && self.yields < YIELDS_CLOSE;
        self.due = self.turns.wrapping_add(if habit.together { 1 } else { TURNS_PER_LOOK });
        if adaptive && habit.expects_long() {
            return Step::Sleep;
        }
        if together {
            if adaptive && habit.crowded > 0 {
                habit.crowded -= 1;
                return Step::Sleep;
            }
            P::yield_now();
            let after = P::now();
            if adaptive && after.saturating_sub(now) > self.budget * YIELD_TOO_LONG {
                // What we wait for may have come meanwhile: one look more, then sleep.
                habit.crowd();
                self.exhaust();
                return Step::Look(after);
            }
            habit.crowded_next = 0;
            now = after;
            self.yields = self.yields.saturating_add(1);
            if self.yields < YIELDS_MIN {
                return Step::Look(now);
            }
        }
        if adaptive && now.saturating_sub(self.started) > self.budget {
            habit.long_waits = habit.long_waits.saturating_add(1);
            return Step::Sleep;
        }
        Step::Look(now)
    }

    /// Sleeps from now on: for a wait that has slept already.
    pub(crate) const fn exhaust(&mut self) {
        if !matches!(self.wait, Wait::Spin) {
            self.wait = Wait::Block;
        }
    }

    /// The wait is over. A thread that does not expect a short one any more learns from it.
    #[inline]
    pub(crate) const fn over(&self, habit: &mut Habit) {
        if !matches!(self.wait, Wait::Block) && self.turns > 0 {
            habit.was_short();
        }
    }
}

/// When a sleep began, if what it lasts is to be learned from.
#[derive(Debug)]
pub(crate) struct Slept(Option<u64>);

impl Slept {
    /// Before a sleep.
    pub(crate) fn begin<P: Platform>(habit: &Habit) -> Self {
        Self(habit.expects_long().then(P::now))
    }

    /// After it.
    pub(crate) fn end<P: Platform>(self, habit: &mut Habit) {
        if let Some(from) = self.0 {
            habit.slept(from, P::now(), learned_wake_ns());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{
        CROWDED_MAX, CROWDED_MIN, Habit, LONG_WAITS, WAKE_NS_OLDEST, WAKE_NS_RANGE, learn,
        learned_wake_ns,
    };

    #[test]
    fn a_sleep_that_spinning_would_have_caught_brings_spinning_back() {
        let mut habit = Habit { long_waits: LONG_WAITS - 1, ..Habit::default() };
        assert!(!habit.expects_long());
        habit.long_waits += 1;
        assert!(habit.expects_long());
        habit.slept(1_000, 1_000 + 200, 100);
        assert!(habit.expects_long(), "twice the budget: a wake-up, and more than a budget before");
        habit.slept(1_000, 1_000 + 199, 100);
        assert!(!habit.expects_long());
    }

    #[test]
    fn yields_that_take_too_long_are_tried_less_and_less_often() {
        let mut habit = Habit::default();
        habit.crowd();
        assert_eq!(habit.crowded, CROWDED_MIN);
        habit.crowd();
        assert_eq!(habit.crowded, 2 * CROWDED_MIN);
        for _ in 0..20 {
            habit.crowd();
        }
        assert_eq!(habit.crowded, CROWDED_MAX);
    }

    #[test]
    fn a_lie_about_the_ringing_moves_what_is_learned_no_further_than_the_bounds() {
        let before = learned_wake_ns();
        for rang_at in [0, WAKE_NS_OLDEST - 1, u64::MAX] {
            learn(rang_at, 2 * WAKE_NS_OLDEST);
        }
        assert_eq!(learned_wake_ns(), before, "lies are not believed");
        for _ in 0..100 {
            learn(1, WAKE_NS_OLDEST);
        }
        assert!(learned_wake_ns() <= *WAKE_NS_RANGE.end());
        for _ in 0..100 {
            learn(1, 1);
        }
        assert!(learned_wake_ns() >= *WAKE_NS_RANGE.start());
    }
}
