//! Posting bits to a notification.

use crate::error::Error;
use crate::task::{Task, default_deadline, out_of_turn};
use rendez_ipc_core::bits::{PostEnd, Posted};
use rendez_ipc_core::client::SendError;
use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::platform::{Host, HostBell, HostStatus};
use rendez_ipc_core::segment::{OwnSegment, PeerSegment};
use rendez_protocol::kernel::{Answer, Doorbell, KernelError, ObjectKind, Request, Shape};
use rendez_protocol::status::ConnectionState;
use rendez_protocol::{ConnectionId, Rights, Slot, TaskId, Why};

/// Who receives what a [`Poster`] posts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Receiving {
    /// The task.
    pub task: TaskId,
    /// The notification's incarnation: how many receivers it has had.
    pub generation: u32,
}

/// Posts bits to a notification. It is there from the beginning, whether or not anybody receives: bits
/// wait in memory of this task, and whoever becomes the receiver finds them. While a receiver is awake
/// a post is a few stores; one that sleeps costs a system call to wake.
///
/// Bits coalesce: one that is posted again before the receiver has taken it is taken once. What the
/// poster wrote before it posted is there for whoever takes the bit.
///
/// **When the receiver dies**, the next post finds out, and carries over to the next receiver whatever the
/// dead one had not acknowledged: such a bit is never lost, and may be seen by both. What it had
/// acknowledged and not yet acted on nobody can know, so a receiver looks at everything once when it
/// starts. A poster that does not post calls [`Poster::receiver`] now and then.
///
/// **When the poster ends**, a receiver that is there still takes what was posted; where nobody receives
/// it is gone.
///
/// ```no_run
/// use rendez::{Poster, Task};
///
/// let task = Task::current()?;
/// let (capability, _, _) = task.look_up("/disk/changed", None, None)?;
/// let mut changed = Poster::new(&task, capability.slot)?;
/// changed.post(1 << 3)?;
/// # Ok::<(), rendez::Error>(())
/// ```
#[derive(Debug)]
pub struct Poster {
    task: Task,
    slot: Slot,
    /// The bits that the capability allows.
    bits: u64,
    current: Option<Current>,
    /// Bits that no connection holds, while there is none.
    kept: u64,
}

/// The connection that a poster has at present.
#[derive(Debug)]
struct Current {
    end: PostEnd<Host>,
    id: ConnectionId,
    /// The request that is answered when there is a receiver, until it was.
    waits: Option<u64>,
    receiver: Option<Receiving>,
}

impl Poster {
    /// A poster to the notification that the capability in `slot` names. Does not wait for a receiver.
    ///
    /// # Errors
    /// What the kernel says: it is no notification, POST is missing, nobody is left who could receive,
    /// a quota.
    pub fn new(task: &Task, slot: Slot) -> Result<Self, Error> {
        let itself = task.inspect(slot)?.itself;
        if itself.kind != ObjectKind::Notification {
            let (wanted, found) = (ObjectKind::Notification, itself.kind);
            return Err(KernelError::WrongObject { slot, wanted, found }.into());
        }
        if !itself.rights.contains(Rights::POST) {
            let (missing, held) = (Rights::POST, itself.rights);
            return Err(KernelError::MissingRights { slot, missing, held }.into());
        }
        let mut poster =
            Self { task: task.clone(), slot, bits: itself.bits, current: None, kept: 0 };
        poster.connect()?;
        Ok(poster)
    }

    /// The bits that the capability allows to be posted.
    #[must_use]
    pub const fn bits(&self) -> u64 {
        self.bits
    }

    /// Posts `bits`. Waits for nobody but, where the receiver has changed, the kernel.
    ///
    /// # Errors
    /// - [`KernelError::Bits`] if the capability does not allow all of them: then none is posted.
    /// - [`SendError::NotDelivered`] for `Revoked`: the capability is gone, and so is what it allowed.
    /// - [`SendError::NotDelivered`] for `Quota`, `Protocol` or `Denied`: the receiver could not be reached
    ///   for that reason. The bits are kept, and the next post tries again.
    /// - What the kernel says to connecting anew, where the receiver has died: [`KernelError::Dead`] if
    ///   nobody is left who could receive. The bits are kept.
    #[inline]
    pub fn post(&mut self, bits: u64) -> Result<(), Error> {
        let missing = bits & !self.bits;
        if missing != 0 {
            return Err(KernelError::Bits { slot: self.slot, missing, held: self.bits }.into());
        }
        let Some(current) = &mut self.current else {
            self.kept |= bits;
            return self.connect();
        };
        match current.end.post(bits) {
            Posted::Crossed | Posted::Waits => Ok(()),
            change => self.receiver_changed(bits, change),
        }
    }

    #[cold]
    fn receiver_changed(&mut self, bits: u64, change: Posted) -> Result<(), Error> {
        let Some(current) = &mut self.current else { return Ok(()) };
        match change {
            Posted::Crossed | Posted::Waits => Ok(()),
            Posted::Met { again } => match current.meet(&self.task, default_deadline()) {
                Ok(()) => {
                    current.end.settle(again);
                    Ok(())
                }
                Err(error) => self.carry_over(bits, error),
            },
            Posted::Ended(state) => {
                let why = state.why().unwrap_or(Why::Closed);
                self.carry_over(bits, SendError::NotDelivered { why }.into())
            }
        }
    }

    /// The connection is of no more use: makes another, which begins with what was not acknowledged.
    fn carry_over(&mut self, bits: u64, error: Error) -> Result<(), Error> {
        let Some(mut current) = self.current.take() else { return Err(error) };
        // There may have been a receiver all the same, which says what it has taken.
        let _ = self.task.link().take_in().and_then(|()| current.meet(&self.task, 0));
        let ended = current.end.state().why();
        self.kept |= (current.end.unacknowledged() & self.bits) | bits;
        current.let_go(&self.task);
        if ended == Some(Why::Revoked) {
            self.kept = 0;
            return Err(SendError::NotDelivered { why: Why::Revoked }.into());
        }
        self.connect()?;
        match ended {
            Some(Why::Dead | Why::Closed) => Ok(()),
            _ => Err(error),
        }
    }

    /// Makes a connection, in which the bits that were kept are posted from the beginning.
    fn connect(&mut self) -> Result<(), Error> {
        let task = &self.task;
        let shape = Shape::SMALLEST;
        let doorbell = Doorbell::Futex;
        let request = Request::Connect {
            slot: self.slot,
            interface: None,
            requests: shape,
            replies: shape,
            doorbell,
        };
        let (answer, mut descriptors) = task.ask(&request)?;
        let Answer::Connecting { connection: id, status_index } = answer else {
            return Err(out_of_turn(&answer));
        };
        let made = (|| {
            let own = descriptors.pop_front().ok_or_else(|| missing("own segment"))?;
            let own = OwnSegment::map(own, shape)
                .map_err(|error| Error::system("mapping a poster's segment", error))?;
            let status = HostStatus::new(
                task.status().clone(),
                task.page().clone(),
                task.link().shared_socket(),
                status_index,
            )
            .ok_or_else(|| Error::Protocol(format!("a status word {status_index}")))?;
            let end = PostEnd::new(Ours::over(own), status, self.kept);
            let waits = task.link().ask_later(&Request::Mapped { connection: id, doorbell })?;
            Ok(Current { end, id, waits: Some(waits), receiver: None })
        })();
        match made {
            Ok(current) => {
                self.current = Some(current);
                self.kept = 0;
                Ok(())
            }
            Err(error) => {
                let why = Why::Closed;
                self.task.link().tell(&Request::Disconnect { connection: id, why });
                Err(error)
            }
        }
    }

    /// Who receives now, `None` if nobody does. If the receiver has died, carries over what it had not
    /// acknowledged.
    ///
    /// # Errors
    /// As [`Poster::post`].
    pub fn receiver(&mut self) -> Result<Option<Receiving>, Error> {
        self.post(0)?;
        if let Some(current) = &mut self.current
            && current.end.state() == ConnectionState::Open
            && !current.end.has_met()
            && let Err(error) = current.meet(&self.task, default_deadline())
        {
            self.carry_over(0, error)?;
        }
        Ok(self.current.as_ref().and_then(|current| current.receiver))
    }

    /// Bits that were posted and that no receiver has acknowledged, as far as the receiver says. Costs
    /// no system call.
    #[must_use]
    pub fn unacknowledged(&self) -> u64 {
        self.kept | self.current.as_ref().map_or(0, |current| current.end.unacknowledged())
    }

    /// How often this poster had to wake its present receiver.
    #[must_use]
    pub fn rings(&self) -> u64 {
        self.current.as_ref().map_or(0, |current| current.end.rings())
    }
}

impl Current {
    /// The kernel says that there is a receiver: takes its segment, which is on the way.
    fn meet(&mut self, task: &Task, deadline: u64) -> Result<(), Error> {
        let Some(transaction) = self.waits.take() else { return Ok(()) };
        let (answer, mut descriptors) = task.link().answer_to(transaction, deadline)?;
        let Answer::Connected { server, generation, rings, .. } = answer else {
            return Err(out_of_turn(&answer));
        };
        let theirs = descriptors.pop_front().ok_or_else(|| missing("receiver's segment"))?;
        let theirs = PeerSegment::map(theirs, Shape::SMALLEST)
            .map_err(|error| Error::system("mapping a receiver's segment", error))?;
        let bell = match rings {
            Doorbell::Futex => HostBell::Futex,
            Doorbell::Event => {
                HostBell::Event(descriptors.pop_front().ok_or_else(|| missing("doorbell"))?)
            }
        };
        self.end.meet(Theirs::over(theirs), bell);
        self.receiver = Some(Receiving { task: server, generation });
        Ok(())
    }

    fn let_go(&self, task: &Task) {
        if let Some(transaction) = self.waits {
            task.link().forget(transaction);
        }
        let why = Why::Closed;
        task.link().tell(&Request::Disconnect { connection: self.id, why });
    }
}

impl Drop for Poster {
    fn drop(&mut self) {
        if let Some(current) = &self.current {
            current.let_go(&self.task);
        }
    }
}

fn missing(what: &str) -> Error {
    Error::Protocol(format!("a descriptor is missing: {what}"))
}
