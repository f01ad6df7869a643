//! Faults that a test puts into this task's transactions.
//!
//! # What it costs those who have none
//! The kernel marks the status words of a task's connections while injections are pending, next to
//! the state that an end looks at anyway: a client's end before it publishes, both ends when a
//! message is there. An end that sees the mark leaves the usual path ([`Platform::reached`]) and asks
//! the task's [`Plan`]. One that does not has spent a branch, always the same way.
//!
//! # Why none is missed
//! The kernel sets the words, then answers whoever asked for the injection. So a message sent after
//! that answer finds the word set at both ends. The word says how many injections the task ever had;
//! at a new number the plan asks the kernel what is pending, and goes on with the transaction when
//! it knows. Before one strikes it tells the kernel, who may say that it has been taken back.
//!
//! [`Platform::reached`]: crate::platform::Platform::reached

use rendez_protocol::injection::{Action, Pending, Phase};

/// What a task knows of the injections into it.
pub trait Plan: std::fmt::Debug + Send + Sync {
    /// A transaction has reached `phase`, at an end whose status word says `ever`
    /// ([`injected_of`](rendez_protocol::status::injected_of)): what is to happen, nothing as a rule.
    /// Whoever is answered carries it out.
    fn reached(&self, ever: u32, phase: Phase) -> Option<Action>;
}

/// The injections into a task, as it was told of them.
#[derive(Debug, Default)]
pub struct Injections {
    pending: Vec<Pending>,
    /// The word's number when the kernel was last asked.
    asked: u32,
    last: u32,
}

impl Injections {
    /// Whether the kernel is to be asked, where a status word says `ever`.
    #[must_use]
    pub const fn is_news(&self, ever: u32) -> bool {
        ever != 0 && ever != self.asked
    }

    /// What the kernel says is pending, asked for where a status word said `ever`. Those that are
    /// known already, or have struck meanwhile, are not taken in again.
    pub fn learn(&mut self, ever: u32, pending: impl IntoIterator<Item = Pending>) {
        self.asked = ever;
        for one in pending {
            if one.id.0 > self.last {
                self.last = one.id.0;
                self.pending.push(one);
            }
        }
    }

    /// A transaction has reached `phase`: each injection there is one transaction nearer.
    pub fn count(&mut self, phase: Phase) {
        for pending in self.pending.iter_mut().filter(|it| it.injection.phase == phase) {
            pending.injection.nth = pending.injection.nth.saturating_sub(1);
        }
    }

    /// One whose transaction has reached `phase`, which is then not pending any more. If there are
    /// two, the other one's turn is the next transaction.
    pub fn due(&mut self, phase: Phase) -> Option<Pending> {
        let is_due = |it: &Pending| it.injection.phase == phase && it.injection.nth == 0;
        let at = self.pending.iter().position(is_due)?;
        Some(self.pending.remove(at))
    }
}

#[cfg(test)]
mod tests {
    use super::Injections;
    use rendez_protocol::injection::{Action, Injection, InjectionId, Pending, Phase};
    use rendez_protocol::status::{ConnectionState, injected_of, injected_word};

    fn pending(id: u32, phase: Phase, nth: u32) -> Pending {
        let injection = Injection { phase, nth, action: Action::Drop };
        Pending { id: InjectionId(id), injection }
    }

    fn knowing(all: &[Pending]) -> Injections {
        let mut injections = Injections::default();
        injections.learn(1, all.iter().copied());
        injections
    }

    /// Which strikes at the next transaction, 0 if none.
    fn next(all: &mut Injections, phase: Phase) -> u32 {
        all.count(phase);
        all.due(phase).map_or(0, |it| it.id.0)
    }

    #[test]
    fn each_strikes_once_at_its_own_phase_and_transaction() {
        let mut all = knowing(&[pending(1, Phase::Taken, 3), pending(2, Phase::Published, 1)]);
        assert_eq!(next(&mut all, Phase::Taken), 0);
        assert_eq!(next(&mut all, Phase::Published), 2);
        assert_eq!(next(&mut all, Phase::Published), 0);
        assert_eq!(next(&mut all, Phase::Taken), 0);
        assert_eq!(next(&mut all, Phase::Taken), 1);
        assert_eq!(next(&mut all, Phase::Taken), 0);
    }

    #[test]
    fn two_for_the_same_transaction_strike_one_after_the_other() {
        let taken = |id, nth| pending(id, Phase::Taken, nth);
        let mut all = knowing(&[taken(1, 2), taken(2, 2), taken(3, 5)]);
        let struck: Vec<_> = (0..6).map(|_| next(&mut all, Phase::Taken)).collect();
        assert_eq!(struck, [0, 1, 2, 0, 3, 0]);
    }

    #[test]
    fn what_is_heard_twice_counts_once() {
        let one = pending(1, Phase::Taken, 2);
        let mut all = knowing(&[one]);
        assert_eq!(next(&mut all, Phase::Taken), 0);
        all.learn(2, [one, pending(2, Phase::Taken, 2)]);
        assert_eq!(next(&mut all, Phase::Taken), 1);
        // Somebody else had asked before that, and is late.
        all.learn(2, [one]);
        assert_eq!(next(&mut all, Phase::Taken), 2);
        assert_eq!(next(&mut all, Phase::Taken), 0);
    }

    #[test]
    fn a_word_says_whether_there_is_news() {
        let mut all = Injections::default();
        assert!(!all.is_news(injected_of(ConnectionState::Open as u32)));
        for ever in [1, 2, (1 << 24) - 1, 1 << 24, (1 << 24) + 2] {
            let word = injected_word(ever);
            assert_eq!(ConnectionState::from_word(word), ConnectionState::Open);
            assert!(injected_of(word) != 0 && all.is_news(injected_of(word)), "{ever}");
            all.learn(injected_of(word), []);
            assert!(!all.is_news(injected_of(word)), "{ever}");
        }
    }
}
