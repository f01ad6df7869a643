//! A client that outlives its server's restarts.

use crate::connection::{Connection, Options};
use crate::error::Error;
use crate::task::{Task, deadline_after};
use parking_lot::Mutex;
use rendez_ipc_core::client::SendError;
use rendez_ipc_core::platform::{Host, Platform};
use rendez_protocol::kernel::KernelError;
use rendez_protocol::{Slot, Status, Why};
use std::sync::Arc;
use std::time::Duration;

/// Sends to one server, over a connection that is made anew when the server was restarted. Cheap to
/// clone; clones share the connection and take turns on it, and their deadlines cover the turn.
///
/// Its policy of sending again is [`Options::resend`]. Unless that says never, a message that was
/// *not delivered* because its server died or the connection was closed is sent again, once there is
/// a server, within its deadline, and only while the kernel holds the connect: it answers at once if
/// nobody is left who could bring a server back, or if the endpoint's [`Hold`] says not to wait (any
/// longer, or with so many). Then the message was not delivered, because the server is *dead*. An
/// *interrupted* message is never sent again: only the caller knows whether that is safe.
///
/// [`Hold`]: rendez_protocol::kernel::Hold
#[derive(Clone, Debug)]
pub struct Client {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    task: Task,
    slot: Slot,
    options: Options,
    connection: Mutex<Option<Connection>>,
    /// Whether the capability is this client's own, to be let go of with it.
    owned: bool,
}

impl Drop for Inner {
    fn drop(&mut self) {
        *self.connection.get_mut() = None;
        if self.owned {
            self.task.link().tell(&rendez_protocol::kernel::Request::Delete { slot: self.slot });
        }
    }
}

impl Client {
    /// A client of the endpoint that the capability in `slot` names. Connects at once.
    ///
    /// # Errors
    /// As [`Connection::open`].
    pub fn connect(task: &Task, slot: Slot, options: Options) -> Result<Self, Error> {
        Self::new(task, slot, options, false)
    }

    pub(crate) fn new(
        task: &Task,
        slot: Slot,
        options: Options,
        owned: bool,
    ) -> Result<Self, Error> {
        let connection = Connection::open(task, slot, &options)?;
        Ok(Self {
            inner: Arc::new(Inner {
                task: task.clone(),
                slot,
                options,
                connection: Mutex::new(Some(connection)),
                owned,
            }),
        })
    }

    /// Sends a request and waits for its reply, of at most `room` bytes, with the timeout of the
    /// client's [`Options`].
    ///
    /// # Errors
    /// [`Error::Refused`] if the server answers with another status than OK; [`Error::Send`] if it
    /// does not answer; what the kernel says to connecting again.
    pub fn send(&self, operation: u16, payload: &[u8], room: usize) -> Result<Vec<u8>, Error> {
        self.send_within(operation, payload, room, self.inner.options.timeout)
    }

    /// As [`Client::send`], within `timeout`.
    ///
    /// # Errors
    /// As [`Client::send`].
    pub fn send_within(
        &self,
        operation: u16,
        payload: &[u8],
        room: usize,
        timeout: Duration,
    ) -> Result<Vec<u8>, Error> {
        let (status, payload) = self.exchange(operation, payload, room, timeout)?;
        if status.is_ok() { Ok(payload) } else { Err(Error::refused(status, &payload)) }
    }

    /// As [`Client::send_within`], answering the status whatever it is.
    ///
    /// # Errors
    /// [`Error::Send`] if the server does not answer; what the kernel says to connecting again.
    pub fn exchange(
        &self,
        operation: u16,
        payload: &[u8],
        room: usize,
        timeout: Duration,
    ) -> Result<(Status, Vec<u8>), Error> {
        let deadline = deadline_after(timeout);
        self.with(deadline, |connection| {
            let reply = connection.send_until(operation, payload, room, deadline)?;
            Ok((reply.status, reply.payload.to_vec()))
        })
    }

    /// Runs `body` with the connection, which is made anew if it has ended; `body` runs again, on a
    /// new connection, if it ends in a `NotDelivered` after which that helps.
    ///
    /// # Errors
    /// What `body` ends in; what the kernel says to connecting again.
    pub fn with<R>(
        &self,
        deadline: u64,
        mut body: impl FnMut(&mut Connection) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let late = || Error::Send(SendError::NotDelivered { why: Why::Deadline });
        let now = Host::now();
        let turn =
            Duration::from_nanos(deadline.saturating_sub(now)).min(Duration::from_secs(1 << 30));
        let mut guard = self.inner.connection.try_lock_for(turn).ok_or_else(late)?;
        let mut pause = Duration::ZERO;
        loop {
            let connection = match &mut *guard {
                Some(connection) => connection,
                none => none.insert(self.reconnect(deadline)?),
            };
            match body(connection) {
                Err(Error::Send(SendError::NotDelivered { why: Why::Dead | Why::Closed }))
                    if self.inner.options.resend.goes_on_until(deadline) =>
                {
                    *guard = None;
                    // At once the first time; a server that takes connections and lets go of them
                    // is not to be asked as fast as we can.
                    rest(pause, deadline);
                    pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                }
                Err(Error::Send(error)) if ended(error.why()) => {
                    *guard = None;
                    return Err(error.into());
                }
                other => return other,
            }
        }
    }

    fn reconnect(&self, deadline: u64) -> Result<Connection, Error> {
        let Inner { task, slot, options, .. } = &*self.inner;
        let mut pause = Duration::ZERO;
        let opened = loop {
            match Connection::open_until(task, *slot, options, deadline) {
                // The server died while the connection was being made: the next attempt waits for
                // its successor, or hears that there will be none.
                Err(Error::Kernel(KernelError::NotCompleted(Why::Dead)))
                    if Host::now() < deadline =>
                {
                    rest(pause, deadline);
                    pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                }
                other => break other,
            }
        };
        opened.map_err(no_server)
    }

    /// The task that this client is in.
    #[must_use]
    pub fn task(&self) -> &Task {
        &self.inner.task
    }
}

/// What becomes of a message that was not delivered because its server died or its connection was
/// closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Resend {
    /// Its sender is told.
    Never,
    /// It is sent again within its deadline, while the kernel says that a server is there or may come
    /// back.
    #[default]
    Undelivered,
}

impl Resend {
    /// Whether it is worth another attempt.
    pub(crate) fn goes_on_until(self, deadline: u64) -> bool {
        self == Self::Undelivered && Host::now() < deadline
    }
}

/// What it means for a message that the kernel holds no connect any more.
pub(crate) fn no_server(error: Error) -> Error {
    match error {
        Error::Kernel(KernelError::Dead | KernelError::NotHeld { .. }) => {
            SendError::NotDelivered { why: Why::Dead }.into()
        }
        other => other,
    }
}

/// Bounds of the pause between two attempts after the first.
const PAUSE_MIN: Duration = Duration::from_millis(1);
/// See [`PAUSE_MIN`].
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// Rests for `pause`, and answers how long the next pause is.
pub(crate) fn rest_before(pause: Duration, deadline: u64) -> Duration {
    rest(pause, deadline);
    (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)
}

/// Rests for `pause`, but not beyond `deadline`.
fn rest(pause: Duration, deadline: u64) {
    let left = Duration::from_nanos(deadline.saturating_sub(Host::now()));
    std::thread::sleep(pause.min(left));
}

/// Whether a connection is of no more use after a send ended for `why`.
pub(crate) const fn ended(why: Why) -> bool {
    matches!(why, Why::Dead | Why::Revoked | Why::Closed | Why::Protocol)
}
