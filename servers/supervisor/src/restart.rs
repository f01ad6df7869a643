//! Whether and when a task is started again: events and times in, decisions out. No clock here.
//!
//! The first restart comes at once: whoever waits for a server waits no longer than it needs to
//! start. Each further one waits twice as long as the one before, up to a cap, until the task has run
//! for long enough that what it died of is something else. Who needs more restarts than its budget
//! allows is given up: starting it once more would help nobody.

use crate::words::time;
use std::collections::VecDeque;
use std::time::Duration;

/// The shortest back-off, whatever the policy says.
pub const SHORTEST: Duration = Duration::from_millis(1);

/// After which ends a task is started again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum When {
    /// After each.
    Always,
    /// Unless it exited with 0.
    OnFailure,
    /// After none.
    Never,
}

/// How a task is restarted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Policy {
    /// After which ends.
    pub when: When,
    /// How long the second restart in a row waits; each further one twice as long.
    pub back_off: Duration,
    /// The longest that a restart waits.
    pub cap: Duration,
    /// A task that has run for so long begins anew: its next restart comes at once.
    pub reset_after: Duration,
    /// So many restarts...
    pub budget: u32,
    /// ...there may be within this time; one more, and the task is given up.
    pub within: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            when: When::OnFailure,
            back_off: Duration::from_millis(100),
            cap: Duration::from_secs(30),
            reset_after: Duration::from_secs(10),
            budget: 10,
            within: Duration::from_secs(60),
        }
    }
}

/// What is to be done about an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// Start it again at once.
    Now,
    /// Start it again at this time.
    At(Duration),
    /// It is not to run again.
    Stay,
    /// It has used its budget up; why, for people.
    GiveUp(String),
}

/// What is remembered of a task's restarts. Times are counted from any one moment.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// When it was restarted, as far as the budget is concerned with it.
    restarts: VecDeque<Duration>,
    /// Restarts in a row.
    streak: u32,
}

impl History {
    /// Somebody asked for a fresh start.
    pub fn forget(&mut self) {
        *self = Self::default();
    }

    /// A task has ended at `now`, well (`good`) or not, after having run for `ran`.
    pub fn ended(&mut self, policy: &Policy, good: bool, ran: Duration, now: Duration) -> Decision {
        match policy.when {
            When::Never => return Decision::Stay,
            When::OnFailure if good => return Decision::Stay,
            When::OnFailure | When::Always => {}
        }
        while self.restarts.front().is_some_and(|at| *at + policy.within <= now) {
            self.restarts.pop_front();
        }
        if self.restarts.len() >= policy.budget as usize {
            let (count, within) = (policy.budget, time(policy.within));
            return Decision::GiveUp(format!(
                "restarted {count} times within {within}, which is all that its budget allows"
            ));
        }
        if ran >= policy.reset_after {
            self.streak = 0;
        }
        let wait = match self.streak.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let factor = 1_u32.checked_shl(doublings).unwrap_or(u32::MAX);
                // Never at once again: whoever restarts is to hear others in between.
                policy.back_off.saturating_mul(factor).min(policy.cap).max(SHORTEST)
            }
        };
        self.streak = self.streak.saturating_add(1);
        self.restarts.push_back(now + wait);
        if wait.is_zero() { Decision::Now } else { Decision::At(now + wait) }
    }
}

#[cfg(test)]
mod tests {
    use super::{Decision, History, Policy, When};
    use std::time::Duration;

    const fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// Ends at once each time; answers how long each restart waits, until it is given up.
    fn waits(policy: &Policy, most: usize) -> Vec<u64> {
        let (mut history, mut now, mut waits) = (History::default(), ms(7), Vec::new());
        while waits.len() < most {
            match history.ended(policy, false, ms(1), now) {
                Decision::Now => waits.push(0),
                Decision::At(at) => {
                    waits.push(u64::try_from((at - now).as_millis()).unwrap());
                    now = at;
                }
                Decision::Stay | Decision::GiveUp(_) => break,
            }
            now += ms(1);
        }
        waits
    }

    #[test]
    fn the_first_restart_is_at_once_and_then_each_waits_twice_as_long() {
        let policy = Policy { cap: ms(500), budget: 100, ..Policy::default() };
        assert_eq!(waits(&policy, 7), [0, 100, 200, 400, 500, 500, 500]);
    }

    #[test]
    fn no_number_of_restarts_overflows() {
        let policy = Policy { budget: u32::MAX, ..Policy::default() };
        assert_eq!(waits(&policy, 200).last(), Some(&30_000));
        let none = Policy { back_off: ms(0), ..policy };
        assert_eq!(waits(&none, 200)[..4], [0, 1, 1, 1]);
    }

    #[test]
    fn a_run_that_was_long_enough_begins_anew() {
        let (policy, mut history) = (Policy::default(), History::default());
        assert_eq!(history.ended(&policy, false, ms(1), ms(0)), Decision::Now);
        assert_eq!(history.ended(&policy, false, ms(9_999), ms(1)), Decision::At(ms(101)));
        assert_eq!(history.ended(&policy, false, ms(10_000), ms(20_000)), Decision::Now);
        assert_eq!(history.ended(&policy, false, ms(1), ms(20_001)), Decision::At(ms(20_101)));
    }

    #[test]
    fn a_budget_that_is_used_up_ends_it_and_time_fills_it_again() {
        let policy =
            Policy { budget: 2, within: ms(1_000), reset_after: ms(10), ..Policy::default() };
        let mut history = History::default();
        assert_eq!(history.ended(&policy, false, ms(10), ms(0)), Decision::Now);
        assert_eq!(history.ended(&policy, false, ms(10), ms(500)), Decision::Now);
        let given_up = history.ended(&policy, false, ms(10), ms(999));
        assert!(matches!(&given_up, Decision::GiveUp(why) if why.contains("2 times within 1s")));
        // The first of the two is too long ago.
        assert_eq!(history.ended(&policy, false, ms(10), ms(1_000)), Decision::Now);
    }

    #[test]
    fn what_ended_well_stays_unless_it_is_to_run_always() {
        for (when, good, stays) in [
            (When::Never, true, true),
            (When::Never, false, true),
            (When::OnFailure, true, true),
            (When::OnFailure, false, false),
            (When::Always, true, false),
            (When::Always, false, false),
        ] {
            let policy = Policy { when, ..Policy::default() };
            let decided = History::default().ended(&policy, good, ms(1), ms(0));
            let expected = if stays { Decision::Stay } else { Decision::Now };
            assert_eq!(decided, expected, "{when:?}, good: {good}");
        }
    }

    #[test]
    fn whoever_asks_gets_a_fresh_start() {
        let policy = Policy { budget: 1, ..Policy::default() };
        let mut history = History::default();
        assert_eq!(history.ended(&policy, false, ms(1), ms(0)), Decision::Now);
        assert!(matches!(history.ended(&policy, false, ms(1), ms(1)), Decision::GiveUp(_)));
        history.forget();
        assert_eq!(history.ended(&policy, false, ms(1), ms(2)), Decision::Now);
    }
}
