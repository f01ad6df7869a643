//! A world for servers under test: tickets, capabilities, notification bits and killed tasks, with
//! the kernel's rules about them and without a kernel. Shared by the tests of the servers.

#![allow(dead_code, reason = "each server's tests use another part of it")]

use rendez::service::{Caller, Context, DirectSlot, Message, Service, call};
use rendez_protocol::kernel::{Credentials, KernelError, ObjectKind, Offer, Received};
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, Status, TaskId, Ticket, encode};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;

/// The world.
#[derive(Debug, Default)]
pub(crate) struct Fake {
    last: u64,
    /// What lies in escrow for the server.
    pub(crate) escrow: BTreeMap<(ConnectionId, Ticket), Vec<Received>>,
    /// What the server holds.
    pub(crate) held: BTreeMap<Slot, Received>,
    /// What the server offered, with the object it was an offer of.
    pub(crate) offered: Vec<(ConnectionId, Ticket, ObjectId, Offer)>,
    /// POSIX signals sent to tasks.
    pub(crate) killed: Vec<(ObjectId, i32)>,
    /// Posts, in order.
    pub(crate) posted: Vec<(ConnectionId, u64)>,
}

impl Fake {
    fn next(&mut self) -> u64 {
        self.last += 1;
        self.last
    }

    /// A ticket for one new capability, from the client of `connection`.
    pub(crate) fn ticket(
        &mut self,
        connection: ConnectionId,
        kind: ObjectKind,
        rights: Rights,
    ) -> (Ticket, ObjectId) {
        let (ticket, objects) = self.tickets(connection, &[(kind, rights)]);
        (ticket, objects[0])
    }

    /// A ticket for several.
    pub(crate) fn tickets(
        &mut self,
        connection: ConnectionId,
        what: &[(ObjectKind, Rights)],
    ) -> (Ticket, Vec<ObjectId>) {
        let received: Vec<_> = what
            .iter()
            .map(|&(kind, rights)| Received {
                slot: Slot { index: self.next() as u32, generation: 0 },
                kind,
                object: ObjectId(self.next()),
                rights,
                badge: 0,
                bits: u64::MAX,
                priority: u8::MAX,
            })
            .collect();
        let objects = received.iter().map(|r| r.object).collect();
        let ticket = Ticket(self.next());
        self.escrow.insert((connection, ticket), received);
        (ticket, objects)
    }

    /// Takes from the server what it holds of an object.
    pub(crate) fn revoke(&mut self, object: ObjectId) {
        self.held.retain(|_, held| held.object != object);
    }
}

impl Context for Fake {
    fn accept(
        &mut self,
        connection: ConnectionId,
        ticket: Ticket,
    ) -> Result<Vec<Received>, KernelError> {
        let received = self.escrow.remove(&(connection, ticket)).ok_or(KernelError::BadTicket)?;
        self.held.extend(received.iter().map(|r| (r.slot, *r)));
        Ok(received)
    }

    fn offer(&mut self, connection: ConnectionId, items: &[Offer]) -> Result<Ticket, KernelError> {
        let ticket = Ticket(self.next());
        for item in items {
            let held = self.held.get(&item.slot).ok_or(KernelError::BadSlot(item.slot))?;
            let needed = item.rights | Rights::GRANT | Rights::MINT;
            let missing = needed - held.rights;
            if !missing.is_empty() {
                let (slot, held) = (item.slot, held.rights);
                return Err(KernelError::MissingRights { slot, missing, held });
            }
            self.offered.push((connection, ticket, held.object, *item));
        }
        Ok(ticket)
    }

    fn delete(&mut self, slot: Slot) -> Result<(), KernelError> {
        self.held.remove(&slot).map(drop).ok_or(KernelError::BadSlot(slot))
    }

    fn watch(&mut self, slot: Slot) -> Result<(), KernelError> {
        self.held.get(&slot).map(drop).ok_or(KernelError::BadSlot(slot))
    }

    fn kill(&mut self, task: Slot, signal: i32) -> Result<(), KernelError> {
        let held = self.held.get(&task).ok_or(KernelError::BadSlot(task))?;
        self.killed.push((held.object, signal));
        Ok(())
    }

    fn post(&mut self, connection: ConnectionId, bits: u64) {
        self.posted.push((connection, bits));
    }
}

/// Connection `connection` of task `task`, with `rights` on the server.
pub(crate) fn caller(task: u32, connection: u32, rights: Rights) -> Caller {
    Caller {
        connection: ConnectionId { index: connection, generation: 0 },
        task: TaskId { index: task, generation: 0 },
        endpoint: ObjectId(0),
        badge: 0,
        bits: u64::MAX,
        priority: u8::MAX,
        rights: rights | Rights::SEND,
        credentials: Credentials { pid: 1000 + task, uid: 1000, gid: 1000 },
        interface: None,
    }
}

/// A message of `caller`, without deadline, with `room` for the reply.
pub(crate) fn message<'a>(
    caller: &'a Caller,
    operation: u16,
    payload: &'a [u8],
    room: usize,
) -> Message<'a> {
    Message { caller, operation, payload, leases: &[], deadline_ns: 0, room, priority: 0 }
}

/// Sends a message that may be answered later.
pub(crate) fn send<T: Serialize + ?Sized>(
    server: &mut dyn Service,
    fake: &mut Fake,
    caller: &Caller,
    operation: u16,
    request: &T,
) -> Arc<DirectSlot> {
    call(server, fake, message(caller, operation, &encode(request), 8 << 10))
}

/// Sends a message that must be answered at once.
#[track_caller]
pub(crate) fn ask<T: Serialize + ?Sized>(
    server: &mut dyn Service,
    fake: &mut Fake,
    caller: &Caller,
    operation: u16,
    request: &T,
) -> (Status, Vec<u8>) {
    send(server, fake, caller, operation, request).take().expect("an answer at once")
}

/// The payload of an answer that must be OK.
#[track_caller]
pub(crate) fn ok((status, payload): (Status, Vec<u8>)) -> Vec<u8> {
    assert!(status.is_ok(), "{status:?}: {}", String::from_utf8_lossy(&payload));
    payload
}

/// The text of an answer that must be a refusal of `status`.
#[track_caller]
pub(crate) fn refused(status: Status, (found, payload): (Status, Vec<u8>)) -> String {
    let text = String::from_utf8(payload).expect("a text");
    assert_eq!(found, status, "{text}");
    text
}

/// A generator of numbers that are the same in every run (xorshift).
#[derive(Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `limit`.
    pub(crate) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % limit as u64) as usize
    }

    /// Up to `longest` bytes, small numbers among them more often than others.
    pub(crate) fn bytes(&mut self, longest: usize) -> Vec<u8> {
        (0..self.below(longest + 1))
            .map(|_| match self.below(3) {
                0 => self.below(256) as u8,
                1 => self.below(8) as u8,
                _ => *b"./a\0".get(self.below(4)).expect("four"),
            })
            .collect()
    }
}
