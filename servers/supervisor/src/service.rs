//! What the supervisor is told: requests, fates of tasks and endpoints, ends of processes.

use crate::clerk::Job;
use crate::inbox::Arrived;
use crate::machine::{Event, Phase};
use crate::manifest::Readiness;
use crate::server::{BuiltIn, Supervisor};
use rendez::Rights;
use rendez::protocol::kernel::Fate;
use rendez::protocol::{Slot, Status, decode, encode};
use rendez::service::{Caller, Context, Message, Refusal, Reply, Service};
use rendez_protocol::supervisor::{operation, status};
use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

/// How long a task may take from a restart until it is ready, before who asked is told.
const START_TIMEOUT: Duration = Duration::from_secs(10);

impl<P: BuiltIn> Supervisor<P> {
    /// A task says that it is ready.
    fn says_ready(&mut self, caller: &Caller) -> Result<(), Refusal> {
        let is_it = |entry: &crate::entry::Entry| {
            entry.running.as_ref().is_some_and(|running| running.id == caller.task)
        };
        let found = self.entries.iter().position(is_it);
        match found.filter(|place| self.plan.tasks[*place].ready == Readiness::Says) {
            Some(task) => {
                self.open_page(task);
                self.event(Event::Ready { task });
                Ok(())
            }
            None => Err(Refusal::new(
                Status::DENIED,
                "refused: the supervisor did not start this task to hear when it is ready",
            )),
        }
    }

    /// What became of an endpoint of task `place`.
    fn endpoint_is(&mut self, place: usize, serving: bool) {
        let is_name_server = self.plan.name_server().is_some_and(|(task, _)| task == place);
        if is_name_server {
            // A new name server knows nobody.
            self.registered = Err("the name server does not serve".into());
            self.clerk.ask(if serving { Job::Register } else { Job::Forget });
        }
        if self.plan.tasks[place].ready != Readiness::Serving {
            return;
        }
        if self.entries[place].is_serving() {
            self.event(Event::Ready { task: place });
            self.open_page(place);
        } else if *self.machine.phase(place) == Phase::Ready {
            self.event(Event::NotReady { task: place });
        }
    }
}

impl<P: BuiltIn> Service for Supervisor<P> {
    fn receive(&mut self, _context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let require = |rights| message.caller.require(rights);
        match message.operation {
            operation::LIST => {
                let asked = require(Rights::READ).and_then(|()| Ok(decode(message.payload)?));
                reply.result(asked.map(|asked| encode(&self.list(asked, message.room))));
            }
            operation::DEATHS => {
                let asked = require(Rights::READ).and_then(|()| Ok(decode(message.payload)?));
                reply.result(asked.and_then(|asked| self.deaths_of(&asked, message.room)));
            }
            operation::RESTART => {
                let asked =
                    require(Rights::MANAGE).and_then(|()| self.place(decode(message.payload)?));
                match asked {
                    Ok(task) => {
                        let late = Instant::now() + START_TIMEOUT;
                        self.entries[task].waiting.push((reply.keep(), late));
                        self.event(Event::Restart { task });
                    }
                    Err(refusal) => reply.refuse(&refusal),
                }
            }
            operation::STOP => {
                let asked = require(Rights::MANAGE);
                self.stopping |= asked.is_ok();
                reply.result(asked.map(|()| Vec::new()));
            }
            operation::READY => {
                reply.result(self.says_ready(message.caller).map(|()| Vec::new()));
            }
            unknown => reply.refuse(&Refusal::new(
                Status::UNIMPLEMENTED,
                format!("the supervisor has no operation {unknown}"),
            )),
        }
    }

    fn watched(&mut self, _context: &mut dyn Context, slot: Slot, what: Fate) {
        let of_task = |entry: &crate::entry::Entry| {
            entry.running.as_ref().is_some_and(|running| running.capability.slot == slot)
        };
        if let Some(place) = self.entries.iter().position(of_task) {
            // Without a kernel socket it can serve nobody, even if its process lives on.
            if matches!(what, Fate::Died { .. } | Fate::Gone)
                && let Some(running) = &mut self.entries[place].running
            {
                let _ = running.child.kill();
                if let Some(event) = self.reap(place) {
                    self.event(event);
                }
            }
            return;
        }
        let serving = matches!(what, Fate::Restarted { .. });
        let served = |entry: &mut crate::entry::Entry| entry.served(slot, serving);
        if let Some(place) = self.entries.iter_mut().position(|entry| served(entry).is_some()) {
            self.endpoint_is(place, serving);
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.inbox.descriptor()]
    }

    fn ready(&mut self, _context: &mut dyn Context, _descriptor: usize) {
        for arrived in self.inbox.arrived() {
            match arrived {
                Arrived::Ends => {
                    for place in 0..self.entries.len() {
                        if let Some(event) = self.reap(place) {
                            self.event(event);
                        }
                    }
                }
                Arrived::Clerk => self.hear_clerk(),
                Arrived::Output(place) => self.hear_task(place),
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let waiting = self.entries.iter().flat_map(|entry| entry.waiting.iter().map(|(_, at)| *at));
        waiting.chain(self.next_look).chain(self.machine.next().map(|at| self.instant(at))).min()
    }

    fn expired(&mut self, _context: &mut dyn Context, now: Instant) {
        self.event(Event::Tick);
        if self.next_look.is_some_and(|at| at <= now) {
            self.look();
        }
        for place in 0..self.entries.len() {
            let entry = &mut self.entries[place];
            let (late, waiting) =
                entry.waiting.drain(..).partition::<Vec<_>, _>(|(_, deadline)| *deadline <= now);
            entry.waiting = waiting;
            let ended = if entry.last_end.is_empty() { "nothing" } else { &entry.last_end };
            let text = format!(
                "the task {} is not ready yet (last: {ended})",
                self.plan.tasks[place].name
            );
            for (reply, _) in late {
                reply.refuse(&Refusal::new(status::NOT_STARTED, text.as_str()));
            }
        }
    }

    fn finished(&self) -> bool {
        self.stopping || self.failed.is_some()
    }
}
