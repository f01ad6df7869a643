//! Looking whether tasks get on: now and then at the page of each that is to be looked at.

use crate::clerk::Job;
use crate::machine::{Event, Phase};
use crate::pages::progress;
use crate::server::{BuiltIn, Supervisor};
use crate::stuck::{Then, Verdict};
use crate::words::time;
use rendez_protocol::kernel::TaskInfo;
use std::time::{Duration, Instant};

/// Looks within the time after which a task is stuck.
const LOOKS: u32 = 4;
/// The shortest time between two looks.
const SHORTEST: Duration = Duration::from_millis(20);

impl<P: BuiltIn> Supervisor<P> {
    /// Opens the page of a task that is ready: it has one by now. It stays readable after its end.
    pub(crate) fn open_page(&mut self, place: usize) {
        if let Some(running) = &mut self.entries[place].running
            && running.page.is_none()
        {
            running.page = self.task.page_of(self.kernel, running.id).ok();
        }
    }

    /// Has a look made in due time, if there is anybody to look at.
    pub(crate) fn look_soon(&mut self) {
        let alive = |place: &usize| self.entries[*place].running.is_some();
        let shortest = (0..self.entries.len())
            .filter(alive)
            .filter_map(|place| self.plan.tasks[place].stuck.map(|stuck| stuck.after))
            .min();
        self.next_look = shortest.map(|after| Instant::now() + (after / LOOKS).max(SHORTEST));
    }

    /// Looks at all tasks that are to be looked at.
    pub(crate) fn look(&mut self) {
        // Asked for once, and only if somebody has to be asked about.
        let mut tasks = None;
        for place in 0..self.entries.len() {
            self.look_at(place, &mut tasks);
        }
        self.look_soon();
    }

    fn look_at(&mut self, place: usize, tasks: &mut Option<Vec<TaskInfo>>) {
        let Some(stuck) = self.plan.tasks[place].stuck else { return };
        if *self.machine.phase(place) != Phase::Ready {
            return;
        }
        self.open_page(place);
        let now = self.now();
        let Some(running) = &mut self.entries[place].running else { return };
        let Some(mut seen) = running.page.as_ref().and_then(progress) else { return };
        if !seen.look.awaited && seen.has_clients && !running.watch.is_settled(seen.look.traffic) {
            let id = running.id;
            let tasks =
                tasks.get_or_insert_with(|| self.task.list(self.kernel).unwrap_or_default());
            let after_ms = stuck.after.as_millis();
            seen.look.awaited = tasks
                .iter()
                .flat_map(|task| &task.waits)
                .any(|wait| wait.on == Some(id) && u128::from(wait.for_ms) >= after_ms);
        }
        match running.watch.look(seen.look, stuck.after, now) {
            Verdict::Fine => {
                if self.machine.stuck(place).is_some() {
                    self.event(Event::Moves { task: place });
                }
            }
            Verdict::Nudge => {
                if let Some((slot, _)) = self.entries[place].endpoints.first() {
                    self.clerk.ask(Job::Nudge { task: place, slot: *slot });
                }
            }
            Verdict::Stuck if stuck.then == Then::Report && self.machine.stuck(place).is_some() => {
            }
            Verdict::Stuck => {
                let why = format!("stuck: it has received nothing for {}", time(stuck.after));
                self.event(Event::Stuck { task: place, then: stuck.then, why });
            }
        }
    }
}
