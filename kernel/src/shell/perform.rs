//! Effects: from the machine to the world.

use super::peer::{Interest, Origin, Outgoing, Peer, Sent};
use super::segments::{Held, Shared, system as refused};
use super::{PER_BATCH, Shell, pair, socket_word};
use crate::effect::{Attach, Effect, Pair, Side};
use crate::input::Input;
use crate::quota::over;
use crate::system;
use rendez_ipc_core::control::FRAME_PAYLOAD_BYTES_MAX;
use rendez_ipc_core::status::{PageReader, StatusWriter};
use rendez_protocol::kernel::{Answer, Event, KernelError};
use rendez_protocol::status::Why;
use rendez_protocol::{TaskId, encode};
use rustix::event::epoll::{self, EventFlags};
use rustix::io::Errno;
use std::os::fd::AsFd;
use std::rc::Rc;

impl Shell {
    // Effects: from the machine to the world.

    /// Performs everything that is to be done, and what follows from that.
    pub(super) fn settle(&mut self) {
        loop {
            if let Some(effect) = self.effects.pop_front() {
                self.perform(effect);
            } else if let Some(id) = self.gone.pop() {
                self.end(id);
            } else if let Some(id) = self.doomed.pop() {
                self.end_by_force(id);
            } else {
                return;
            }
        }
    }

    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::Answer { to, transaction, answer, attach } => {
                self.answer_task(to, transaction, answer, &attach);
            }
            Effect::Event { to, event, attach } => self.tell(to, &event, &attach),
            Effect::MakeTask(task) => self.make_task(task),
            Effect::MakeSegments { pair, client_bytes, server_bytes } => {
                self.segments.make(pair, client_bytes, server_bytes);
            }
            Effect::Seal { pair, side } => {
                let result = self.segments.check(pair, side);
                self.apply(Input::Sealed { pair, side, result });
            }
            Effect::MakeSpare { task, spare, bytes } => {
                self.segments.make_spare(task, spare, bytes);
            }
            Effect::CheckSpare { task, spare, bell } => {
                let result = self.segments.check_spare(task, spare, bell);
                self.apply(Input::SpareLookedAt { task, spare, result });
            }
            Effect::UseSpare { task, spare, pair, side } => {
                if self.segments.use_spare(task, spare, pair, side).is_err() {
                    self.give_up(pair, side);
                }
            }
            Effect::ForgetSpare(task, spare) => self.segments.forget_spare(task, spare),
            Effect::Told(connection) => self.apply(Input::Told { connection }),
            Effect::MakeRegion { region, bytes, kind } => self.regions.make(region, bytes, kind),
            Effect::CheckRegion { to, transaction, region } => {
                let result = self.regions.check(region);
                self.apply(Input::RegionLookedAt { who: to, transaction, region, result });
            }
            Effect::ForgetRegion(region) => self.regions.forget(region),
            Effect::SealPage(task) => self.map_page(task),
            Effect::Status { task, index, word } => {
                if let Some(status) = self.peer(task).and_then(|(_, peer)| peer.status.as_mut()) {
                    status.set(index, word);
                }
            }
            Effect::After { milliseconds, alarm } => {
                self.timers.set(super::timers::now(), milliseconds, alarm);
            }
            Effect::Unset(alarm) => self.timers.unset(alarm),
            Effect::ForgetSegments(pair) => self.segments.forget(pair),
            Effect::Signal { to, transaction, task, signal } => {
                let answer = match self.signal(task, signal) {
                    Ok(()) => Answer::Done,
                    Err(error) => Answer::Error(error),
                };
                self.answer_task(to, transaction, answer, &[]);
            }
            Effect::Tasks { to, transaction, tasks, next } => {
                let answer = self.listing(tasks, next);
                self.answer_task(to, transaction, answer, &[]);
            }
            Effect::Waits { to, transaction, tasks, more } => {
                let answer = self.waits_of_all(tasks, more);
                self.answer_task(to, transaction, answer, &[]);
            }
            Effect::LookForCircle { transaction, wait } => {
                let answer = self.look_for_circle(wait);
                self.answer_task(wait.task, transaction, answer, &[]);
            }
            Effect::ForgetTask(task) => {
                self.suspicions.forget(task);
                self.segments.forget_spares(task);
                if let Some((id, _)) = self.peer(task) {
                    self.remove(id);
                }
            }
        }
    }

    pub(super) fn peer(&mut self, task: TaskId) -> Option<(u64, &mut Peer)> {
        let id = *self.tasks.get(&task)?;
        Some((id, self.peers.get_mut(&id)?))
    }

    /// Makes a task's kernel socket, or takes the one that the kernel was started with. If it
    /// cannot be made, that shows when it is to be attached.
    fn make_task(&mut self, task: TaskId) {
        let made = match self.first.take() {
            Some(ours) => self.add(ours, Origin::Created),
            None => pair(!self.look_always).and_then(|(ours, theirs)| {
                let id = self.add(ours, Origin::Created)?;
                if let Some(peer) = self.peers.get_mut(&id) {
                    peer.inherited = Some(Rc::new(Held::new(theirs)));
                }
                Ok(id)
            }),
        };
        if let Ok(id) = made {
            if let Some(peer) = self.peers.get_mut(&id) {
                peer.task = Some(task);
            }
            self.tasks.insert(task, id);
        }
    }

    /// Answers a task of the machine's, with descriptors. Where one cannot be had, the answer is
    /// an error and what it was about is taken back.
    pub(super) fn answer_task(
        &mut self,
        to: TaskId,
        transaction: u64,
        answer: Answer,
        attach: &[Attach],
    ) {
        let Some((id, _)) = self.peer(to) else { return };
        let pair = attach.iter().find_map(pair_of);
        let descriptors = match (&answer, pair) {
            (Answer::Connecting { .. } | Answer::Attaching { .. }, Some(pair)) => {
                self.segments.charge(pair, to)
            }
            _ => Ok(()),
        };
        match descriptors.and_then(|()| self.attachments(attach)) {
            Ok(descriptors) => {
                if let (Answer::Welcome { .. }, Some(peer)) = (&answer, self.peers.get_mut(&id)) {
                    peer.welcomed = true;
                }
                self.answer(id, transaction, &answer, descriptors);
            }
            Err(error) => {
                self.answer(id, transaction, &Answer::Error(error), vec![]);
                if let Answer::Spare { spare } = answer {
                    self.apply(Input::SpareFailed { task: to, spare });
                }
                if let Answer::Region(capability) = answer {
                    self.apply(Input::TakeBack { creator: to, capability: capability.slot });
                }
                if let Answer::Task { id: child, capability } = answer {
                    let capability = capability.slot;
                    self.apply(Input::NeverMade { creator: to, capability, child });
                }
                // Who is answered with descriptors is the one that connects, or attaches.
                if let Some(pair) = pair {
                    self.give_up(pair, Side::Client);
                }
            }
        }
    }

    /// Answers a peer.
    pub(super) fn answer(
        &mut self,
        id: u64,
        transaction: u64,
        answer: &Answer,
        descriptors: Vec<Shared>,
    ) {
        let mut payload = encode(answer);
        if payload.len() > FRAME_PAYLOAD_BYTES_MAX {
            payload = encode(&Answer::Error(over(
                "bytes of an answer",
                FRAME_PAYLOAD_BYTES_MAX as u64,
                payload.len() as u64,
            )));
        }
        self.post(id, Outgoing::answer(transaction, payload, descriptors));
    }

    /// Tells a task something unasked.
    fn tell(&mut self, to: TaskId, event: &Event, attach: &[Attach]) {
        let Some((id, peer)) = self.peer(to) else { return };
        if matches!(event, Event::Incoming { .. } | Event::Attach { .. })
            && !peer.takes_incoming()
            && !peer.is_behind()
        {
            // It may read well enough: so many came at once.
            self.flush(id);
        }
        let Some((id, peer)) = self.peer(to) else { return };
        match event {
            // The server has not been told of it, and need not be.
            Event::Closed { connection, .. } if peer.take_back((*connection).into()) => {
                self.apply(Input::Unheard { server: to, connection: *connection });
                return self.flush(id);
            }
            Event::Detached { connection, arena }
                if peer.take_back(Pair::Arena(*connection, *arena)) =>
            {
                return self.flush(id);
            }
            // It does not read: the one who connects, or attaches, is told so.
            Event::Incoming { connection, .. } if !peer.takes_incoming() => {
                return self.give_up((*connection).into(), Side::Server);
            }
            Event::Attach { connection, arena, .. } if !peer.takes_incoming() => {
                return self.give_up(Pair::Arena(*connection, *arena), Side::Server);
            }
            _ => {}
        }
        match self.attachments(attach) {
            Ok(descriptors) => {
                self.post(id, Outgoing::event(event, encode(event), descriptors));
            }
            Err(_) => {
                // Who is told of one is the one that serves.
                if let Some(pair) = attach.iter().find_map(pair_of) {
                    self.give_up(pair, Side::Server);
                }
            }
        }
    }

    /// Ends what one end cannot take part in for lack of something.
    fn give_up(&mut self, pair: Pair, side: Side) {
        self.apply(Input::GiveUp { pair, side, why: Why::Quota });
    }

    pub(super) fn post(&mut self, id: u64, outgoing: Outgoing) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if !peer.post(outgoing) {
            return self.doomed.push(id);
        }
        if !peer.is_behind() {
            if !core::mem::replace(&mut peer.due, true) {
                self.due.push(id);
            }
            self.queued = self.queued.saturating_add(1);
            if self.queued >= PER_BATCH {
                self.send_due();
            }
        }
    }

    /// Sends what has been queued for tasks that read.
    fn send_due(&mut self) {
        self.queued = 0;
        for id in std::mem::take(&mut self.due) {
            if self.peers.get(&id).is_some_and(|peer| peer.due) {
                self.flush(id);
            }
        }
    }

    /// Sends all that has been queued, and does what follows from that.
    pub(super) fn finish_turn(&mut self) {
        while !self.due.is_empty() {
            self.send_due();
            self.settle();
        }
        if let Some(recorder) = &mut self.recorder {
            recorder.finish_turn();
        }
    }

    pub(super) fn flush(&mut self, id: u64) {
        if let Some(peer) = self.peers.get_mut(&id) {
            let sent = peer.flush();
            self.sent(id, sent);
        }
    }

    /// What is watched for after sending: requests, or room for what waits.
    fn sent(&mut self, id: u64, sent: Sent) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        let (interest, flags) = match sent {
            Sent::Gone => return self.gone.push(id),
            Sent::Broken => return self.doomed.push(id),
            Sent::All => (Interest::Requests, EventFlags::IN | EventFlags::RDHUP),
            // By edges: each packet that the task reads is one, while a level would say only that
            // there is some room, all the time.
            Sent::Waits | Sent::Again => {
                (Interest::Room, EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET)
            }
        };
        if sent == Sent::Again {
            self.again.insert(id);
        }
        if peer.interest != interest {
            peer.interest = interest;
            let word = socket_word(id);
            if epoll::modify(&self.epoll, &peer.socket, word, flags).is_err() {
                self.doomed.push(id);
            }
        }
    }

    /// The descriptors that go with a frame.
    fn attachments(&mut self, attach: &[Attach]) -> Result<Vec<Shared>, KernelError> {
        attach.iter().map(|attach| self.attachment(*attach)).collect()
    }

    fn attachment(&mut self, attach: Attach) -> Result<Shared, KernelError> {
        let missing = || KernelError::Order(format!("{attach:?} is not there"));
        match attach {
            Attach::StatusSegment(task) => {
                let (_, peer) = self.peer(task).ok_or_else(missing)?;
                let mut status = StatusWriter::new()
                    .map_err(|error| refused("making a status segment", error))?;
                let file = status.take_file().ok_or_else(missing)?;
                peer.status = Some(status);
                Ok(Rc::new(Held::new(file)))
            }
            Attach::TaskPage(task) => {
                let file =
                    self.segments.page().map_err(|error| refused("making a task page", error))?;
                let (_, peer) = self.peer(task).ok_or_else(missing)?;
                peer.page_file = Some(Rc::clone(&file));
                Ok(file)
            }
            // A page that is not sealed is never mapped here.
            Attach::SealedPage(task) => self
                .peer(task)
                .filter(|(_, peer)| peer.page.is_some())
                .and_then(|(_, peer)| peer.page_file.clone())
                .ok_or_else(missing),
            Attach::TaskSocket(task) => self
                .peer(task)
                .and_then(|(_, peer)| peer.inherited.take())
                .ok_or_else(|| refused("making the task's kernel socket", Errno::MFILE)),
            Attach::Region(region) => self.regions.file(region),
            Attach::Spare(task, spare) => self.segments.spare(task, spare),
            Attach::OwnSegment(pair, side) => self.segments.own(pair, side),
            Attach::SealedSegment(pair, side) => self.segments.sealed(pair, side),
            Attach::Wait(connection, side) => self.segments.wait(connection.into(), side),
            Attach::Ring(connection, side) => self.segments.ring(connection.into(), side),
        }
    }

    /// A task says that its page is mapped and sealed: nobody else can write it.
    fn map_page(&mut self, task: TaskId) {
        let Some((id, peer)) = self.peer(task) else { return };
        match peer.page_file.as_ref().map(|file| PageReader::map(file.as_fd())) {
            Some(Ok(page)) => peer.page = Some(page),
            _ => self.doomed.push(id),
        }
    }

    fn signal(&mut self, task: TaskId, signal: i32) -> Result<(), KernelError> {
        match self.peer(task).and_then(|(_, peer)| peer.pidfd.as_ref()) {
            Some(pidfd) => system::signal(pidfd.as_fd(), signal)
                .map_err(|error| refused(&format!("sending signal {signal} to {task}"), error)),
            None => Err(KernelError::Order(format!("{task} has no process yet"))),
        }
    }
}

fn pair_of(attach: &Attach) -> Option<Pair> {
    match attach {
        Attach::OwnSegment(pair, _) | Attach::SealedSegment(pair, _) => Some(*pair),
        Attach::Wait(connection, _) | Attach::Ring(connection, _) => Some((*connection).into()),
        Attach::StatusSegment(_)
        | Attach::TaskPage(_)
        | Attach::SealedPage(_)
        | Attach::TaskSocket(_)
        | Attach::Region(_)
        | Attach::Spare(..) => None,
    }
}
