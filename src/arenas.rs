//! How a server takes part in arenas.
//!
//! Mapping an arena touches each of its pages, and unmapping lets go of each: tens of milliseconds
//! at the default limit. Neither is to hold up the loop that serves everybody, whatever a client
//! asks for, so a thread of its own does both, started with the first arena. It tells the kernel;
//! the loop reads nothing from an arena before that.

use crate::lease::{ARENA_BYTES_MAX_DEFAULT, SPILL_KEPT};
use crate::service::{Caller, Message, Reply};
use crate::task::Task;
use rendez_ipc_core::arena_memory::{OwnArena, Owner, PeerArena};
use rendez_ipc_core::lease::LeaseFault;
use rendez_ipc_core::lease_server::{Scratch, ServerPair};
use rendez_ipc_core::platform::Host;
use rendez_ipc_core::server::{Port, Taken};
use rendez_protocol::kernel::Request;
use rendez_protocol::limit::ARENA_HEAD_BYTES;
use rendez_protocol::{ArenaId, ConnectionId};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, OnceLock};

/// What a server's loop keeps for arenas.
#[derive(Debug)]
pub(crate) struct Arenas {
    limit: u32,
    /// Of the thread that maps and unmaps, once there is one; shared by the threads of a server.
    jobs: Arc<OnceLock<Sender<Job>>>,
    scratch: Scratch,
    /// A payload that was too long for the ring.
    spilled: Vec<u8>,
}

/// A client's wish to attach a pair of arenas, as the kernel announced it.
#[derive(Debug)]
pub(crate) struct Attach {
    pub(crate) task: Task,
    pub(crate) port: Arc<Port<Host>>,
    pub(crate) connection: ConnectionId,
    pub(crate) arena: ArenaId,
    pub(crate) requests: u32,
    pub(crate) replies: u32,
    pub(crate) descriptors: VecDeque<OwnedFd>,
}

#[derive(Debug)]
enum Job {
    Attach(Attach),
    /// What is only to be dropped: unmapped, if nothing else holds it.
    Drop {
        _pairs: Vec<Arc<ServerPair>>,
    },
}

impl Arenas {
    pub(crate) fn new() -> Self {
        Self {
            limit: ARENA_BYTES_MAX_DEFAULT,
            jobs: Arc::default(),
            scratch: Scratch::default(),
            spilled: Vec::new(),
        }
    }

    /// Those of another thread of the same server.
    pub(crate) fn of_another_thread(&self) -> Self {
        Self { limit: self.limit, jobs: Arc::clone(&self.jobs), ..Self::new() }
    }

    pub(crate) const fn set_limit(&mut self, bytes: u32) {
        self.limit = bytes;
    }

    /// Has a pair attached, or refuses it.
    pub(crate) fn attach(&mut self, attach: Attach) {
        let fits = attach.requests.saturating_sub(ARENA_HEAD_BYTES as u32) <= self.limit
            && attach.replies <= self.limit;
        if !fits || self.jobs().is_none() {
            return attach.refuse();
        }
        self.hand_over(Job::Attach(attach));
    }

    /// Lets go of a pair that its client has detached.
    pub(crate) fn detach(&mut self, port: &Port<Host>, arena: ArenaId) {
        let _pairs: Vec<_> = port.arenas().detach(arena.0).into_iter().collect();
        self.hand_over(Job::Drop { _pairs });
    }

    /// Lets go of all pairs of a connection that has ended.
    pub(crate) fn forget(&mut self, port: &Port<Host>) {
        // A server without the thread has never attached anything.
        if self.jobs.get().is_some() {
            let _pairs = port.arenas().detach_all();
            if !_pairs.is_empty() {
                self.hand_over(Job::Drop { _pairs });
            }
        }
    }

    /// The thread's queue; starts the thread. `None` if Linux has no thread for it.
    fn jobs(&mut self) -> Option<&Sender<Job>> {
        if self.jobs.get().is_none() {
            let (send, receive) = channel();
            let thread = std::thread::Builder::new().name("arenas".into());
            thread.spawn(move || work(&receive)).ok()?;
            // Only the thread that reads the kernel's socket comes here.
            let _ = self.jobs.set(send);
        }
        self.jobs.get()
    }

    fn hand_over(&self, job: Job) {
        if let Some(jobs) = self.jobs.get()
            && let Err(unsent) = jobs.send(job)
            && let Job::Attach(attach) = unsent.0
        {
            attach.refuse();
        }
    }

    /// Reads the descriptors in front of a message's payload, and runs `handle` with what they mean.
    ///
    /// # Errors
    /// [`LeaseFault`]: the connection is to be closed with `protocol`.
    pub(crate) fn receive<'a>(
        &'a mut self,
        caller: &'a Caller,
        port: &'a Arc<Port<Host>>,
        taken: Taken,
        payload: &'a [u8],
        handle: impl FnOnce(Message<'_>, Reply<'_>),
    ) -> Result<(), LeaseFault> {
        let arenas = port.arenas();
        let request = arenas.read(payload, &mut self.scratch)?;
        let payload = match &request.spilled {
            None => request.payload,
            Some(lease) => {
                if self.spilled.capacity() > SPILL_KEPT.max(lease.len()) {
                    self.spilled = Vec::new();
                }
                self.spilled.clear();
                lease.append_to(&mut self.spilled);
                &self.spilled
            }
        };
        let room = request.room.as_ref().map_or(0, |room| room.left());
        let message = Message {
            caller,
            operation: taken.operation,
            payload,
            leases: self.scratch.leases(),
            deadline_ns: taken.deadline,
            room: taken.room_bytes().max(room),
            priority: taken.priority,
        };
        let reply = match request.room {
            None => Reply::ring(port, taken),
            Some(room) => Reply::lending(port, taken, room),
        };
        handle(message, reply);
        self.scratch.clear();
        arenas.fault().map_or(Ok(()), Err)
    }
}

impl Attach {
    fn refuse(self) {
        let (connection, arena) = (self.connection, self.arena);
        self.task.link().tell(&Request::Detach { connection, arena });
    }

    fn map(&mut self) -> io::Result<ServerPair> {
        // Linux drops descriptors that this process has no room for.
        let mut next = || self.descriptors.pop_front().ok_or(io::ErrorKind::InvalidData);
        let own = (self.replies > 0).then(&mut next).transpose()?;
        let theirs = next()?;
        let theirs = PeerArena::map(theirs, self.requests as usize, Owner::Client)?;
        let bytes = self.replies as usize;
        let own = own.map(|own| OwnArena::map(own, bytes, Owner::Server)).transpose()?;
        Ok(ServerPair::new(self.arena.0, theirs, own))
    }
}

/// What the thread does, until the server is dropped.
fn work(jobs: &Receiver<Job>) {
    while let Ok(job) = jobs.recv() {
        let Job::Attach(mut attach) = job else { continue };
        match attach.map() {
            Ok(pair) => {
                attach.port.arenas().attach(pair);
                let (connection, arena) = (attach.connection, attach.arena);
                attach.task.link().tell(&Request::ArenaMapped { connection, arena });
            }
            Err(_) => attach.refuse(),
        }
    }
}
