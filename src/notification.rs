//! Receiving bits: from one notification, or from any of several.
//!
//! A server that has a loop already is [bound](crate::Server::bind) to its notifications instead. What
//! is here needs no server, and goes beside one: whichever thread of the task reads of a new poster
//! hands it to the set that receives from that notification.

use crate::error::Error;
use crate::link::{Listener, With};
use crate::task::{Task, deadline_after, out_of_turn};
use rendez_ipc_core::bits::TakeEnd;
use rendez_ipc_core::client::NEVER;
use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::platform::{Host, HostStatus};
use rendez_ipc_core::receive::{Key, Receiver, Turn};
use rendez_ipc_core::ring::Buffer;
use rendez_ipc_core::segment::{OwnSegment, PeerSegment};
use rendez_ipc_core::wait::Wait;
use rendez_protocol::kernel::{
    Answer, Credentials, Doorbell, Event, KernelError, ObjectKind, Request, Shape,
};
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId, Why};
use std::collections::{BTreeMap, HashMap};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

/// Descriptors of the set's own.
const KERNEL: u32 = 0;
const ENDS: u32 = 1;
const COMERS: u32 = 2;

/// Bits that somebody has posted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bits {
    /// The bits, all of them among those that the poster's capability allows.
    pub bits: u64,
    /// The badge of the poster's capability.
    pub badge: u64,
    /// To which notification.
    pub notification: ObjectId,
    /// The poster's task.
    pub poster: TaskId,
    /// Its process.
    pub credentials: Credentials,
}

/// Receives from several notifications: waits for bits of any of them.
#[derive(Debug)]
pub struct NotificationSet {
    task: Task,
    receiver: Receiver<TakeEnd<Host>>,
    /// Whose a connection is, by its place in the receiver.
    posters: HashMap<usize, (ConnectionId, Bits)>,
    /// The capability with which it receives from each.
    notifications: BTreeMap<ObjectId, Slot>,
    listener: Arc<Listener>,
    ends: Arc<OwnedFd>,
    buffer: Buffer,
}

impl NotificationSet {
    /// A set that receives from nothing yet, and waits by [`Wait::Adaptive`].
    ///
    /// # Errors
    /// What Linux says.
    pub fn new(task: &Task) -> Result<Self, Error> {
        let system = |error| Error::system("setting up epoll", error);
        let receiver =
            Receiver::new(Wait::Adaptive, Some(task.status().clone())).map_err(system)?;
        let listener = Arc::new(Listener::new().map_err(system)?);
        receiver.add_descriptor(task.link().socket(), KERNEL).map_err(system)?;
        receiver.add_edge(listener.bell(), COMERS).map_err(system)?;
        let ends = task.link().hear_of_ends().map_err(system)?;
        let set = Self {
            task: task.clone(),
            receiver,
            posters: HashMap::new(),
            notifications: BTreeMap::new(),
            listener,
            ends,
            buffer: Buffer::new(),
        };
        set.receiver.add_edge(&set.ends, ENDS).map_err(system)?;
        Ok(set)
    }

    /// Changes how the set waits.
    pub const fn set_wait(&mut self, wait: Wait) {
        self.receiver.set_wait(wait);
    }

    /// Becomes the receiver of the notification that the capability in `slot` names. Answers its
    /// identity, by which [`Bits::notification`] names it, and its incarnation. Whoever posted to it
    /// while nobody received is heard.
    ///
    /// # Errors
    /// What the kernel says: it is no notification, RECEIVE is missing, somebody else receives, this
    /// task among them.
    pub fn add(&mut self, slot: Slot) -> Result<(ObjectId, u32), Error> {
        let itself = self.task.inspect(slot)?.itself;
        let id = itself.object;
        if itself.kind != ObjectKind::Notification {
            let (wanted, found) = (ObjectKind::Notification, itself.kind);
            return Err(KernelError::WrongObject { slot, wanted, found }.into());
        }
        // Before the kernel can tell of anybody.
        if !self.task.link().listen(id, &self.listener) {
            return Err(KernelError::Served(self.task.id()).into());
        }
        match self.task.ask(&Request::Serve { slot, interface: None }) {
            Ok((Answer::Serving { generation, .. }, _)) => {
                self.notifications.insert(id, slot);
                Ok((id, generation))
            }
            other => {
                self.task.link().listen_no_more(id);
                Err(other.map_or_else(|error| error, |(answer, _)| out_of_turn(&answer)))
            }
        }
    }

    /// How many posters are connected.
    #[must_use]
    pub fn posters(&self) -> usize {
        self.posters.len()
    }

    /// Waits for bits for at most `timeout`; `None` if none came.
    ///
    /// # Errors
    /// [`Error::KernelGone`]; what Linux says to waiting.
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Bits>, Error> {
        self.wait_until(deadline_after(timeout))
    }

    /// As [`NotificationSet::wait`], with a deadline in ns of `CLOCK_MONOTONIC`,
    /// [`NEVER`](crate::NEVER) for none.
    ///
    /// # Errors
    /// As [`NotificationSet::wait`].
    pub fn wait_until(&mut self, deadline: u64) -> Result<Option<Bits>, Error> {
        let waiting = |error| Error::system("waiting for notifications", error);
        loop {
            let turn = self.receiver.next(&mut self.buffer, deadline).map_err(waiting)?;
            if matches!(turn, Turn::Deadline) {
                // One that has rung meanwhile was not looked at if there was no time to sleep.
                return self.poll();
            }
            if let Some(bits) = self.turn(turn)? {
                return Ok(Some(bits));
            }
        }
    }

    /// Bits that are there, without waiting; `None` if none are.
    ///
    /// # Errors
    /// As [`NotificationSet::wait`].
    pub fn poll(&mut self) -> Result<Option<Bits>, Error> {
        let polling = |error| Error::system("looking for notifications", error);
        let mut asked = false;
        loop {
            self.take_comers();
            let mut turn = self.receiver.next_now(&mut self.buffer, NEVER).map_err(polling)?;
            if turn.is_none() && !asked && self.receiver.polled() < self.receiver.len() {
                // Quiet ones ring.
                asked = true;
                turn = self.receiver.after_sleep().map_err(polling)?;
                if turn.is_none() {
                    continue;
                }
            }
            let Some(turn) = turn else { return Ok(None) };
            if let Some(bits) = self.turn(turn)? {
                return Ok(Some(bits));
            }
        }
    }

    /// Takes those in who have come, whoever has read of them.
    fn take_comers(&mut self) {
        while let Some(event) = self.listener.take() {
            self.incoming(event);
        }
    }

    fn turn(&mut self, turn: Turn<u64>) -> Result<Option<Bits>, Error> {
        match turn {
            Turn::Message(key, bits) | Turn::Notified(key, bits) => Ok(self.of(key, bits)),
            Turn::Ended(key, _) | Turn::Fault(key, _) => Ok(self.forget(key)),
            Turn::Descriptor(ENDS) => {
                self.receiver.look_for_ends();
                Ok(None)
            }
            Turn::Descriptor(_) | Turn::Kernel => {
                self.task.link().take_in()?;
                self.take_comers();
                // A change of our own words may be an end.
                self.receiver.look_for_ends();
                Ok(None)
            }
            Turn::Deadline => Ok(None),
        }
    }

    fn of(&self, key: Key, bits: u64) -> Option<Bits> {
        self.posters.get(&key.index()).map(|(_, of)| Bits { bits, ..*of })
    }

    /// Lets go of a connection that has ended: what was posted last.
    fn forget(&mut self, key: Key) -> Option<Bits> {
        let mut end = self.receiver.remove(key)?;
        let bits = end.take();
        let last = self.of(key, bits);
        let (connection, _) = self.posters.remove(&key.index())?;
        self.task.link().tell(&Request::Disconnect { connection, why: Why::Closed });
        last.filter(|_| bits != 0)
    }

    fn incoming(&mut self, (event, descriptors): With<Event>) {
        let Event::Incoming { connection, .. } = event else { return };
        if let Err(why) = self.admit(event, descriptors) {
            self.task.link().tell(&Request::Disconnect { connection, why });
        }
    }

    /// Maps a poster's connection and takes it in. No bit is taken before the kernel has said that it
    /// is complete: its poster relies on that.
    fn admit(
        &mut self,
        event: Event,
        mut descriptors: std::collections::VecDeque<OwnedFd>,
    ) -> Result<(), Why> {
        let Event::Incoming {
            connection,
            endpoint,
            status_index,
            badge,
            rights,
            bits,
            client,
            credentials,
            ..
        } = event
        else {
            return Ok(());
        };
        // Linux drops descriptors that this process has no room for, and what it refuses here is a
        // limit of this process.
        let mut next = || descriptors.pop_front().ok_or(Why::Quota);
        let (own, theirs, doorbell) = (next()?, next()?, next()?);
        let own = OwnSegment::map(own, Shape::SMALLEST).map_err(|_| Why::Quota)?;
        let theirs = PeerSegment::map(theirs, Shape::SMALLEST).map_err(|_| Why::Protocol)?;
        let task = &self.task;
        let status = HostStatus::new(
            task.status().clone(),
            task.page().clone(),
            task.link().shared_socket(),
            status_index,
        )
        .ok_or(Why::Protocol)?;
        let mask = if rights.contains(Rights::POST) { bits } else { 0 };
        let end = TakeEnd::new(Ours::over(own), Theirs::over(theirs), status, mask);
        let mapped = Request::Mapped { connection, doorbell: Doorbell::Event };
        // Whatever has come in between has ended the connection.
        task.ask(&mapped).map_err(|_| Why::Closed)?;
        let key = self.receiver.add(end, doorbell).map_err(|_| Why::Quota)?;
        let of = Bits { bits: 0, badge, notification: endpoint, poster: client, credentials };
        self.posters.insert(key.index(), (connection, of));
        Ok(())
    }
}

impl Drop for NotificationSet {
    fn drop(&mut self) {
        let link = self.task.link();
        link.hear_no_more(&self.ends);
        for (id, slot) in &self.notifications {
            link.listen_no_more(*id);
            // Posters wait for the next receiver from now on, which may be one of this task's.
            link.tell(&Request::StopReceiving { slot: *slot });
        }
        for (connection, _) in self.posters.values() {
            link.tell(&Request::Disconnect { connection: *connection, why: Why::Closed });
        }
    }
}

/// Receives from one notification. A task has one such receiver of it at a time, and so has the whole
/// system; posters outlive it.
///
/// ```no_run
/// use rendez::{Notification, Task};
/// use std::time::Duration;
///
/// let task = Task::current()?;
/// let capability = task.create_notification()?;
/// let _name = task.register("/disk/changed", capability.slot)?;
/// let mut changed = Notification::new(&task, capability.slot)?;
/// while let Some(posted) = changed.wait(Duration::from_secs(60))? {
///     println!("badge {} posted {:#b}", posted.badge, posted.bits);
/// }
/// # Ok::<(), rendez::Error>(())
/// ```
#[derive(Debug)]
pub struct Notification {
    set: NotificationSet,
    id: ObjectId,
    generation: u32,
}

impl Notification {
    /// Becomes the receiver of the notification that the capability in `slot` names.
    ///
    /// # Errors
    /// As [`NotificationSet::add`]; what Linux says.
    pub fn new(task: &Task, slot: Slot) -> Result<Self, Error> {
        let mut set = NotificationSet::new(task)?;
        let (id, generation) = set.add(slot)?;
        Ok(Self { set, id, generation })
    }

    /// Which it is.
    #[must_use]
    pub const fn id(&self) -> ObjectId {
        self.id
    }

    /// The incarnation: how many receivers it has had, this one among them.
    #[must_use]
    pub const fn generation(&self) -> u32 {
        self.generation
    }

    /// How many posters are connected.
    #[must_use]
    pub fn posters(&self) -> usize {
        self.set.posters()
    }

    /// Changes how it waits.
    pub const fn set_wait(&mut self, wait: Wait) {
        self.set.set_wait(wait);
    }

    /// Waits for bits for at most `timeout`; `None` if none came.
    ///
    /// # Errors
    /// As [`NotificationSet::wait`].
    pub fn wait(&mut self, timeout: Duration) -> Result<Option<Bits>, Error> {
        self.set.wait(timeout)
    }

    /// As [`Notification::wait`], with a deadline in ns of `CLOCK_MONOTONIC`, [`NEVER`](crate::NEVER)
    /// for none.
    ///
    /// # Errors
    /// As [`NotificationSet::wait`].
    pub fn wait_until(&mut self, deadline: u64) -> Result<Option<Bits>, Error> {
        self.set.wait_until(deadline)
    }

    /// Bits that are there, without waiting; `None` if none are.
    ///
    /// # Errors
    /// As [`NotificationSet::wait`].
    pub fn poll(&mut self) -> Result<Option<Bits>, Error> {
        self.set.poll()
    }
}
