//! Whether a task is stuck: alive, not receiving, while somebody waits for it. Looks in, verdicts
//! out; no clock and no page here.
//!
//! A look is what the task's page counts. What an idle server counts stands still as well, and what
//! clients say of their waiting is their own claim: neither is believed alone. A task of which
//! nothing has moved for long enough, and for which somebody waits, is *nudged*: a connection to it is
//! opened and closed, which every server notices that receives at all, and counts. Who has not moved
//! after that either is stuck. So a lying client can have a server nudged, and nothing else.

use std::time::Duration;

/// What is done about a task that is stuck.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Then {
    /// It is shown as stuck, and nothing is done.
    Report,
    /// It is killed, and started again as after a crash.
    Restart,
    /// It is killed, and not started again.
    Kill,
}

/// What a task's page said at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// Changes when messages are taken or answered.
    pub traffic: u64,
    /// Changes when its threads look round or go to sleep.
    pub life: u64,
    /// Whether messages are taken and not answered, or somebody claims to wait for it.
    pub awaited: bool,
}

/// What a look means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It gets on, or nobody waits.
    Fine,
    /// Nothing has moved for too long: it is to be nudged, then looked at again.
    Nudge,
    /// It did not feel the nudge.
    Stuck,
}

/// What is remembered of a task's looks.
#[derive(Clone, Debug, Default)]
pub struct Watch {
    last: Option<Look>,
    /// When something moved last.
    moved: Duration,
    nudged: Nudge,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Nudge {
    /// There was no reason to.
    #[default]
    Not,
    /// It is under way.
    Asked,
    /// It has been made.
    Made,
    /// It was felt: the task waits by itself for what is to come, until there is more traffic.
    Felt,
}

impl Watch {
    /// The nudge that was asked for has been made.
    pub fn nudged(&mut self) {
        if self.nudged == Nudge::Asked {
            self.nudged = Nudge::Made;
        }
    }

    /// Whether it waits by itself for what is to come, as far as is known: then nobody has to ask who
    /// waits for it.
    #[must_use]
    pub fn is_settled(&self, traffic: u64) -> bool {
        self.nudged == Nudge::Felt && self.last.is_some_and(|last| last.traffic == traffic)
    }

    /// Looks at what the page says at `now`. `after`: how long nothing may move.
    pub fn look(&mut self, look: Look, after: Duration, now: Duration) -> Verdict {
        let before = self.last.replace(look);
        match before {
            Some(before) if before.traffic == look.traffic => {
                if before.life != look.life {
                    self.moved = now;
                    if self.nudged != Nudge::Not {
                        self.nudged = Nudge::Felt;
                    }
                }
            }
            _ => {
                self.moved = now;
                self.nudged = Nudge::Not;
            }
        }
        if !look.awaited || self.nudged == Nudge::Felt || now.saturating_sub(self.moved) < after {
            return Verdict::Fine;
        }
        match self.nudged {
            Nudge::Not => {
                self.nudged = Nudge::Asked;
                Verdict::Nudge
            }
            Nudge::Made => Verdict::Stuck,
            Nudge::Asked | Nudge::Felt => Verdict::Fine,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Look, Verdict, Watch};
    use std::time::Duration;

    const AFTER: Duration = Duration::from_secs(10);

    fn at(watch: &mut Watch, second: u64, traffic: u64, life: u64, awaited: bool) -> Verdict {
        watch.look(Look { traffic, life, awaited }, AFTER, Duration::from_secs(second))
    }

    #[test]
    fn who_sleeps_in_a_handler_is_stuck_once_it_was_nudged_in_vain() {
        let mut watch = Watch::default();
        assert_eq!(at(&mut watch, 0, 1, 1, false), Verdict::Fine);
        assert_eq!(at(&mut watch, 5, 2, 1, true), Verdict::Fine);
        assert_eq!(at(&mut watch, 14, 2, 1, true), Verdict::Fine);
        assert_eq!(at(&mut watch, 15, 2, 1, true), Verdict::Nudge);
        assert_eq!(at(&mut watch, 16, 2, 1, true), Verdict::Fine, "it has not been made yet");
        watch.nudged();
        assert_eq!(at(&mut watch, 17, 2, 1, true), Verdict::Stuck);
        assert_eq!(at(&mut watch, 18, 2, 1, true), Verdict::Stuck, "until it moves");
        assert_eq!(at(&mut watch, 19, 3, 1, true), Verdict::Fine);
    }

    #[test]
    fn who_keeps_an_answer_back_and_waits_is_nudged_once() {
        let mut watch = Watch::default();
        assert_eq!(at(&mut watch, 0, 1, 1, true), Verdict::Fine);
        assert_eq!(at(&mut watch, 10, 1, 1, true), Verdict::Nudge);
        watch.nudged();
        assert_eq!(at(&mut watch, 11, 1, 2, true), Verdict::Fine);
        for second in 12..100 {
            assert_eq!(at(&mut watch, second, 1, 2, true), Verdict::Fine);
        }
        // Until there is traffic: it may be stuck in that.
        assert_eq!(at(&mut watch, 100, 2, 2, true), Verdict::Fine);
        assert_eq!(at(&mut watch, 110, 2, 2, true), Verdict::Nudge);
    }

    #[test]
    fn who_is_idle_is_left_alone_and_so_is_who_gets_on() {
        let mut watch = Watch::default();
        for second in 0..100 {
            assert_eq!(at(&mut watch, second, 7, 7, false), Verdict::Fine, "idle");
        }
        for second in 100..200 {
            assert_eq!(at(&mut watch, second, second, 7, true), Verdict::Fine, "busy");
        }
        // A nudge that is felt before it is known to be made.
        assert_eq!(at(&mut watch, 210, 199, 7, true), Verdict::Nudge);
        assert_eq!(at(&mut watch, 211, 199, 8, true), Verdict::Fine);
        watch.nudged();
        assert_eq!(at(&mut watch, 300, 199, 8, true), Verdict::Fine);
    }
}
