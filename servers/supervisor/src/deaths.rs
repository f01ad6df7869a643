//! The records of deaths: the last of each task, and no more. No process here.

use rendez_protocol::supervisor::{Death, DeathList};
use std::collections::VecDeque;

/// Records that are kept of each task.
pub const DEATHS_PER_TASK: usize = 16;

/// The records, the latest last.
#[derive(Debug, Default)]
pub struct Deaths {
    records: VecDeque<Death>,
    count: u64,
}

impl Deaths {
    /// Keeps a record, numbers it, and forgets the task's oldest if there are too many.
    pub fn record(&mut self, mut death: Death) {
        self.count += 1;
        death.number = self.count;
        let of_task = |one: &Death| one.name == death.name;
        if self.records.iter().filter(|one| of_task(one)).count() >= DEATHS_PER_TASK
            && let Some(oldest) = self.records.iter().position(of_task)
        {
            self.records.remove(oldest);
        }
        self.records.push_back(death);
    }

    /// The records of `name`, or of all, before number `before`, as many as encode to `room` bytes.
    #[must_use]
    pub fn list(&self, name: Option<&str>, before: Option<u64>, room: usize) -> DeathList {
        let mut list = DeathList { deaths: Vec::new(), more: false };
        // The list's length and `more`.
        let mut used = 8;
        let asked = |death: &&Death| {
            name.is_none_or(|name| death.name == name) && before.is_none_or(|at| death.number < at)
        };
        for death in self.records.iter().rev().filter(asked) {
            let mut death = death.clone();
            let mut bytes = rendez_protocol::encode(&death).len();
            // One that is too long for any answer is told without its log.
            if list.deaths.is_empty() && used + bytes > room {
                death.log.clear();
                bytes = rendez_protocol::encode(&death).len();
            }
            if used + bytes > room {
                list.more = true;
                break;
            }
            used += bytes;
            list.deaths.push(death);
        }
        list
    }
}

#[cfg(test)]
mod tests {
    use super::{DEATHS_PER_TASK, Deaths};
    use rendez_protocol::encode;
    use rendez_protocol::supervisor::{Death, End};

    fn death(name: &str) -> Death {
        Death {
            number: 0,
            name: name.into(),
            incarnation: 1,
            task: None,
            pid: None,
            at_unix_ms: 0,
            ran_ms: 0,
            end: End::Exited(1),
            killed_for: String::new(),
            then: String::new(),
            serving: Vec::new(),
            waiting: Vec::new(),
            log: vec!["x".repeat(400); 8],
        }
    }

    #[test]
    fn a_crash_loop_does_not_push_others_out() {
        let mut deaths = Deaths::default();
        deaths.record(death("quiet"));
        for _ in 0..100 {
            deaths.record(death("loop"));
        }
        let quiet = deaths.list(Some("quiet"), None, 1 << 20);
        assert_eq!((quiet.deaths.len(), quiet.deaths[0].number), (1, 1));
        let looped = deaths.list(Some("loop"), None, 1 << 20).deaths;
        assert_eq!(looped.len(), DEATHS_PER_TASK);
        assert_eq!((looped[0].number, looped[15].number), (101, 86));
    }

    #[test]
    fn what_has_no_room_comes_with_the_next_answer() {
        let mut deaths = Deaths::default();
        for _ in 0..10 {
            deaths.record(death("a"));
        }
        let (mut before, mut seen, room) = (None, Vec::new(), 8192);
        loop {
            let list = deaths.list(None, before, room);
            assert!(encode(&list).len() <= room);
            seen.extend(list.deaths.iter().map(|death| death.number));
            before = seen.last().copied();
            if !list.more {
                break;
            }
        }
        assert_eq!(seen, [10, 9, 8, 7, 6, 5, 4, 3, 2, 1]);
        let little = deaths.list(None, None, 200);
        assert!(little.more && little.deaths.len() == 1 && little.deaths[0].log.is_empty());
        assert!(deaths.list(None, None, 0).deaths.is_empty());
    }
}
