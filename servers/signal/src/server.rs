//! The server itself: who may raise, whom it reaches, and what crosses to POSIX.

use crate::bridge::{self, BRIDGED, Bridges};
use crate::table::{NoRoom, Subscription, Table};
use rendez::service::{Caller, Context, Message, Refusal, Reply, Service};
use rendez_protocol::kernel::{KernelError, ObjectKind, Received};
use rendez_protocol::limit::LABEL_BYTES_MAX;
use rendez_protocol::signal::{Bridge, Deliver, Mask, Raise, Subscribe, operation, status};
use rendez_protocol::{ConnectionId, Rights, Slot, Status, Ticket, decode, encode};
use std::os::fd::{AsFd, BorrowedFd};

/// The signal server.
#[derive(Debug)]
pub struct SignalServer {
    table: Table,
    bridges: Bridges,
}

impl SignalServer {
    /// Blocks the POSIX signals that can be bridged, in this thread and in those that it starts
    /// from now on. To be called first in `main`: a thread that is left out would die of them.
    ///
    /// # Errors
    /// What Linux says.
    pub fn block_bridged() -> std::io::Result<()> {
        bridge::block()
    }

    /// A signal server without subscribers.
    ///
    /// # Errors
    /// If the signals that can be bridged are not blocked in this thread, or Linux has no
    /// descriptor left.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self { table: Table::default(), bridges: Bridges::new()? })
    }

    fn subscribe(&mut self, from: ConnectionId, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let Subscribe { signal, bit } = decode(payload)?;
        check_name(signal, "signal")?;
        if bit > 63 {
            let why = format!("{signal:?}: there is no bit {bit}; bits are 0 to 63");
            return Err(Refusal::new(status::BAD_BIT, why));
        }
        self.table.subscribe(from, signal, bit)?;
        Ok(Vec::new())
    }

    fn unsubscribe(
        &mut self,
        context: &mut dyn Context,
        from: ConnectionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let signal: &str = decode(payload)?;
        let ended = self.table.unsubscribe(from, signal).ok_or_else(|| not_subscribed(signal))?;
        if let Some((task, _)) = ended.delivery {
            let _ = context.delete(task);
        }
        Ok(Vec::new())
    }

    fn raise(
        &mut self,
        context: &mut dyn Context,
        caller: &Caller,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        caller.require(Rights::WRITE)?;
        let Raise { signal, group } = decode(payload)?;
        check_name(signal, "signal")?;
        if !group.is_empty() {
            check_name(group, "group")?;
        }
        let group = (!group.is_empty()).then_some(group);
        Ok(encode(&self.raise_named(context, signal, group)))
    }

    /// Raises a signal; how many subscribers it was for.
    fn raise_named(&mut self, context: &mut dyn Context, signal: &str, group: Option<&str>) -> u32 {
        let mut reached = 0;
        for (connection, subscription) in self.table.subscribers(signal, group) {
            if subscription.masked {
                subscription.pending = true;
            } else {
                tell(context, connection, subscription);
            }
            reached += 1;
        }
        reached
    }

    fn mask(
        &mut self,
        context: &mut dyn Context,
        from: ConnectionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let Mask { signal, masked } = decode(payload)?;
        let subscription =
            self.table.subscription(from, signal).ok_or_else(|| not_subscribed(signal))?;
        subscription.masked = masked;
        if !masked && std::mem::take(&mut subscription.pending) {
            tell(context, from, subscription);
        }
        Ok(Vec::new())
    }

    fn join(&mut self, from: ConnectionId, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let group = decode(payload)?;
        check_name(group, "group")?;
        self.table.join(from, group)?;
        Ok(Vec::new())
    }

    fn leave(&mut self, from: ConnectionId, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        let group: &str = decode(payload)?;
        if !self.table.leave(from, group) {
            let why = format!("the caller is not in the group {group:?}");
            return Err(Refusal::new(status::NOT_SUBSCRIBED, why));
        }
        Ok(Vec::new())
    }

    fn deliver(
        &mut self,
        context: &mut dyn Context,
        from: ConnectionId,
        payload: &[u8],
    ) -> Result<Vec<u8>, Refusal> {
        let Deliver { signal, ticket, posix } = decode(payload)?;
        // 32 and 33 are the C library's own.
        let allowed = matches!(posix, 1..=31 | 34..=64);
        let subscription = self.table.subscription(from, signal);
        let (Some(subscription), true) = (subscription, allowed) else {
            // Left alone, the capability would count against the caller until its connection ends.
            if let Ok(received) = context.accept(from, ticket) {
                delete_all(context, &received);
            }
            return Err(if allowed {
                not_subscribed(signal)
            } else {
                Refusal::new(status::BAD_SIGNAL, format!("{posix} is not a POSIX signal to send"))
            });
        };
        let task = accept(context, from, ticket)?;
        if let Some((before, _)) = subscription.delivery.replace((task, posix)) {
            let _ = context.delete(before);
        }
        Ok(Vec::new())
    }

    fn bridge(&mut self, caller: &Caller, payload: &[u8]) -> Result<Vec<u8>, Refusal> {
        caller.require(Rights::REGISTER)?;
        let Bridge { posix, signal } = decode(payload)?;
        if !Bridges::can(posix) {
            let allowed = BRIDGED.map(|signal| format!("{signal} ({})", signal as i32)).join(", ");
            let why = format!("POSIX signal {posix} cannot be bridged; these can: {allowed}");
            return Err(Refusal::new(status::BAD_SIGNAL, why));
        }
        if signal.is_empty() {
            self.bridges.set(posix, None);
        } else {
            check_name(signal, "signal")?;
            self.bridges.set(posix, Some(signal));
        }
        Ok(Vec::new())
    }
}

impl Service for SignalServer {
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let Message { caller, payload, .. } = message;
        let from = caller.connection;
        let nothing = |payload| decode::<()>(payload).map_err(Refusal::from);
        let result = match message.operation {
            operation::SUBSCRIBE => self.subscribe(from, payload),
            operation::UNSUBSCRIBE => self.unsubscribe(context, from, payload),
            operation::RAISE => self.raise(context, caller, payload),
            operation::MASK => self.mask(context, from, payload),
            operation::PENDING => nothing(payload).map(|()| encode(&self.table.pending(from))),
            operation::JOIN => self.join(from, payload),
            operation::LEAVE => self.leave(from, payload),
            operation::LIST => nothing(payload).map(|()| encode(&self.table.listing())),
            operation::DELIVER => self.deliver(context, from, payload),
            operation::BRIDGE => self.bridge(caller, payload),
            unknown => Err(Refusal::new(
                Status::UNIMPLEMENTED,
                format!("the signal server knows no operation {unknown}"),
            )),
        };
        reply.result(result);
    }

    fn connected(&mut self, _context: &mut dyn Context, caller: &Caller) -> Result<(), Refusal> {
        self.table.connect(caller.connection);
        Ok(())
    }

    fn disconnected(&mut self, context: &mut dyn Context, caller: &Caller) {
        for task in self.table.disconnect(caller.connection) {
            let _ = context.delete(task);
        }
    }

    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.bridges.descriptor.as_fd()]
    }

    fn ready(&mut self, context: &mut dyn Context, _place: usize) {
        for signal in self.bridges.arrived() {
            self.raise_named(context, &signal, None);
        }
    }
}

/// Tells a subscriber, and the task that it named.
fn tell(context: &mut dyn Context, connection: ConnectionId, subscription: &mut Subscription) {
    context.post(connection, 1 << subscription.bit);
    if let Some((task, posix)) = subscription.delivery
        && context.kill(task, posix).is_err()
    {
        // Dead, or revoked: it does not come back.
        let _ = context.delete(task);
        subscription.delivery = None;
    }
}

/// Takes the one capability that a delivery must bring.
fn accept(
    context: &mut dyn Context,
    connection: ConnectionId,
    ticket: Ticket,
) -> Result<Slot, Refusal> {
    let received = context.accept(connection, ticket).map_err(|error| {
        let status = match error {
            KernelError::Quota { .. } => Status::QUOTA,
            _ => status::BAD_CAPABILITY,
        };
        Refusal::new(status, format!("accepting the capability to the task: {error}"))
    })?;
    let why = match received.as_slice() {
        [one] if one.kind != ObjectKind::Task => {
            format!(
                "a capability to an {:?} came; a Task is what can be sent POSIX signals",
                one.kind
            )
        }
        [one] if !one.rights.contains(Rights::KILL) => format!(
            "refused: the capability to the task lacks the right KILL; it holds {}",
            one.rights.names()
        ),
        [one] => return Ok(one.slot),
        several => format!("{} capabilities came; a delivery takes one", several.len()),
    };
    delete_all(context, &received);
    Err(Refusal::new(status::BAD_CAPABILITY, why))
}

fn delete_all(context: &mut dyn Context, received: &[Received]) {
    for capability in received {
        let _ = context.delete(capability.slot);
    }
}

fn check_name(name: &str, what: &str) -> Result<(), Refusal> {
    let why = if name.is_empty() {
        "is empty".to_owned()
    } else if name.len() > LABEL_BYTES_MAX {
        format!("has {} bytes; {LABEL_BYTES_MAX} is the most", name.len())
    } else if name.chars().any(char::is_control) {
        "contains a control character".to_owned()
    } else {
        return Ok(());
    };
    Err(Refusal::new(status::BAD_NAME, format!("the name of the {what} {why}")))
}

fn not_subscribed(signal: &str) -> Refusal {
    let why = format!("the caller does not subscribe to {signal:?}");
    Refusal::new(status::NOT_SUBSCRIBED, why)
}

impl From<NoRoom> for Refusal {
    fn from(no_room: NoRoom) -> Self {
        match no_room {
            NoRoom::NotConnected => {
                Self::new(Status::DENIED, "refused: the caller has no connection")
            }
            NoRoom::Limit(what, limit) => {
                Self::new(Status::QUOTA, format!("over quota: {what} (limit {limit})"))
            }
        }
    }
}
