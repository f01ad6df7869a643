//! A whole system for the experiments: a kernel in a process of its own, servers in others.
//!
//! The mechanism in [`rendez`](crate::rendez) needs one connection and gets by with a kernel in a
//! thread. What is measured here includes the kernel (connecting, capabilities, what an idle system
//! costs), or many connections, so it is made as `rendez up` makes it: the kernel apart, under its
//! system call filter.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rendez::region::Mapped;
use rendez::service::{Context, Message, Refusal, Reply, Service};
use rendez::{Connection, Options, Rights, Server, Slot, Status, Task};
use rendez_kernel::quota::Quotas;
use rendez_kernel::shell;
use rendez_protocol::Ticket;
use rendez_protocol::kernel::{Give, KernelError, Limits};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};

use crate::Error;
use crate::launch::{self, Partner};
use crate::mechanism::{Wait, answer};
use crate::role::{Actor, Role, exactly, process_cpu_ns};
use crate::steps::Stamps;

/// The operation whose reply is the request, one higher.
pub(crate) const ANSWER: u16 = 1;
/// The operation after whose reply the server rests.
pub(crate) const STOP: u16 = 2;
/// The operation whose reply is empty.
pub(crate) const EMPTY: u16 = 3;

/// The operation whose request is a ticket: the server accepts it and lets go of what it stands for.
pub(crate) const ACCEPT: u16 = 4;

/// The operation that lends something, has it read once, and lends as much back, one higher.
pub(crate) const LENT_BACK: u16 = 5;
/// The operation that lends something which the server does not touch: the reply is the payload, one
/// higher.
pub(crate) const LENT_ONLY: u16 = 6;
/// The operation whose request is a ticket for a region: the server maps it, reads it once, and keeps
/// the mapping until the next one comes.
pub(crate) const REGION_TAKE: u16 = 7;
/// The operation about the region that the server has mapped, and does not touch: the reply is the
/// payload, one higher.
pub(crate) const REGION_USE: u16 = 8;

/// The operation whose request and reply are five numbers, each one higher.
pub(crate) const FIVE: u16 = 9;
/// The operation whose reply says when the server did what in the transaction before: see
/// [`Stamps`].
pub(crate) const STAMP: u16 = 10;

/// Order: take connections until there are that many.
const ADMIT: u64 = 1;
/// Order: serve, waiting that way, until told to stop.
const SERVE: u64 = 2;

/// What the library calls that wait policy.
pub(crate) const fn wait(wait: Wait) -> rendez::Wait {
    match wait {
        Wait::Spin => rendez::Wait::Spin,
        Wait::Adaptive => rendez::Wait::Adaptive,
        Wait::Block => rendez::Wait::Block,
    }
}

/// What a request to the library became, as an error of the laboratory.
pub(crate) fn failed(doing: &str) -> impl FnOnce(rendez::Error) -> Error + '_ {
    move |error| Error::io(doing, io::Error::other(error))
}

/// A kernel, and this process as its first task. Both end when it is dropped.
#[derive(Debug)]
pub(crate) struct System {
    task: Task,
    // Before the process that it keeps alive.
    _lifeline: OwnedFd,
    kernel: Partner,
}

/// A server in a process of its own, which serves one endpoint.
#[derive(Debug)]
pub(crate) struct ServerProcess {
    endpoint: Slot,
    partner: Partner,
}

/// What a server did between being told to serve and being told to stop.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Served {
    /// Processor time of its whole process, in ns.
    pub(crate) cpu_ns: u64,
}

impl System {
    /// Starts a kernel on that processor, or wherever this thread may run.
    pub(crate) fn start(exe: &Path, cpu: Option<usize>) -> Result<Self, Error> {
        let sockets = || -> io::Result<_> {
            let listener = socket_with(
                AddressFamily::UNIX,
                SocketType::SEQPACKET,
                SocketFlags::CLOEXEC,
                None,
            )?;
            // Without a name of ours, Linux gives it an abstract one; nobody is given anything there.
            bind(&listener, &SocketAddrUnix::new_unnamed())?;
            listen(&listener, 1)?;
            let (kernel_end, own_end) = shell::socket_pair()?;
            let (lifeline, kernel_lifeline) = shell::socket_pair()?;
            let kernel = launch::start_role(
                exe,
                &Kernel,
                &[],
                cpu,
                &[listener, kernel_end, kernel_lifeline],
            )?;
            Ok((kernel, lifeline, own_end))
        };
        let (kernel, lifeline, own_end) =
            sockets().map_err(|error| Error::io("starting a kernel", error))?;
        kernel.hello()?;
        let task = Task::over(own_end).map_err(failed("greeting the kernel"))?;
        Ok(Self { task, _lifeline: lifeline, kernel })
    }

    /// This process.
    pub(crate) const fn task(&self) -> &Task {
        &self.task
    }

    /// The kernel's process.
    pub(crate) const fn kernel(&self) -> &Partner {
        &self.kernel
    }

    /// Starts a server on that processor, or wherever this thread may run.
    pub(crate) fn server(&self, exe: &Path, cpu: Option<usize>) -> Result<ServerProcess, Error> {
        let endpoint = self.task.create_endpoint().map_err(failed("making an endpoint"))?.slot;
        let serve = Give {
            name: "serve".into(),
            slot: endpoint,
            rights: Rights::RECEIVE,
            badge: None,
            limits: Limits::SAME,
        };
        let (_, _, socket) =
            self.task.create_task("server", vec![serve]).map_err(failed("making a task"))?;
        let partner = launch::start_role(exe, &Serving, &[], cpu, &[socket])
            .map_err(|error| Error::io("starting a server", error))?;
        partner.hello()?;
        Ok(ServerProcess { endpoint, partner })
    }
}

impl ServerProcess {
    /// The server's process.
    pub(crate) const fn partner(&self) -> &Partner {
        &self.partner
    }

    /// The capability to its endpoint.
    pub(crate) const fn endpoint(&self) -> Slot {
        self.endpoint
    }

    /// Opens connections until the server has `total`; all that were opened must still be there.
    pub(crate) fn connect(
        &self,
        task: &Task,
        options: &Options,
        count: usize,
        total: usize,
    ) -> Result<Vec<Connection>, Error> {
        self.admit(total)?;
        let opened: Result<Vec<_>, _> =
            (0..count).map(|_| Connection::open(task, self.endpoint, options)).collect();
        let opened = opened.map_err(failed("connecting"))?;
        self.admitted()?;
        Ok(opened)
    }

    /// Has the server take connections until it has `total`.
    pub(crate) fn admit(&self, total: usize) -> Result<(), Error> {
        self.partner.order(&[ADMIT, total as u64])
    }

    /// Waits until it has them.
    pub(crate) fn admitted(&self) -> Result<(), Error> {
        self.partner.report().map(drop)
    }

    /// The one connection of a server that has none yet.
    pub(crate) fn connect_one(&self, task: &Task, options: &Options) -> Result<Connection, Error> {
        let only = self.connect(task, options, 1, 1)?.pop();
        only.ok_or_else(|| Error::io("connecting", io::Error::from(io::ErrorKind::NotConnected)))
    }

    /// Has the server serve, waiting that way, until somebody sends [`STOP`].
    pub(crate) fn serve(&self, wait: Wait) -> Result<(), Error> {
        self.partner.order(&[SERVE, wait as u64])
    }

    /// Sends [`STOP`] and waits until the server rests.
    pub(crate) fn stop(&self, connection: &mut Connection) -> Result<Served, Error> {
        let stopped = connection.send(STOP, &[], 0).map(drop);
        stopped.map_err(|error| Error::io("stopping a server", io::Error::other(error)))?;
        self.stopped()
    }

    /// Waits until the server rests.
    pub(crate) fn stopped(&self) -> Result<Served, Error> {
        let found = self.partner.report()?;
        let [cpu_ns] = exactly(&found).map_err(|error| Error::io("what a server found", error))?;
        Ok(Served { cpu_ns })
    }
}

/// The kernel's process.
#[derive(Debug)]
pub(crate) struct Kernel;

impl Role for Kernel {
    fn name(&self) -> &'static str {
        "kernel"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [listener, first, lifeline] = <[OwnedFd; 3]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let mut config = shell::Config::new(listener);
        config.first = Some(first);
        config.first_name = "bench".into();
        config.lifeline = Some(lifeline);
        config.quotas = generous();
        std::thread::Builder::new()
            .name("rendez-kernel".into())
            .spawn(move || shell::run(config))?;
        Ok(Box::new(Resting))
    }
}

/// One client here is a thousand elsewhere.
fn generous() -> Quotas {
    let defaults = Quotas::default();
    Quotas {
        capabilities: 1 << 16,
        connections_to_one_server: defaults.client_connections,
        segment_bytes: 16 << 30,
        reply_bytes_of_one_server: 8 << 30,
        ..defaults
    }
}

/// Takes no orders.
struct Resting;

impl Actor for Resting {
    fn act(&mut self, _: &[u64]) -> io::Result<Vec<u64>> {
        Err(io::ErrorKind::Unsupported.into())
    }
}

/// A server's process.
#[derive(Debug)]
pub(crate) struct Serving;

impl Role for Serving {
    fn name(&self) -> &'static str {
        "rendez-server"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let task = Task::over(socket).map_err(io::Error::other)?;
        let server = Server::new(&task).map_err(io::Error::other)?;
        let slot = task.given_as("serve").map_err(io::Error::other)?.slot;
        server.serve(slot, None).map_err(io::Error::other)?;
        Ok(Box::new(ServingActor { server, service: Answers::new(task) }))
    }
}

struct ServingActor {
    server: Server,
    service: Answers,
}

impl Actor for ServingActor {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        match *order {
            [ADMIT, total] => {
                self.server.set_wait(rendez::Wait::Adaptive);
                while (self.server.connections() as u64) < total {
                    self.server.step(&mut self.service).map_err(io::Error::other)?;
                }
                Ok(Vec::new())
            }
            [SERVE, policy] => {
                let policy = match policy {
                    0 => rendez::Wait::Spin,
                    1 => rendez::Wait::Adaptive,
                    _ => rendez::Wait::Block,
                };
                self.server.set_wait(policy);
                self.service.stopped = false;
                let before = process_cpu_ns();
                self.server.run(&mut self.service).map_err(io::Error::other)?;
                Ok(vec![process_cpu_ns() - before])
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}

/// Takes what a ticket stands for, and lets go of it.
fn accept(context: &mut dyn Context, message: &Message<'_>) -> Result<Vec<u8>, Refusal> {
    let refused = |error: KernelError| Refusal::new(Status::DENIED, error.to_string());
    let ticket = message.payload.first_chunk().copied().map_or(0, u64::from_le_bytes);
    let received = context.accept(message.caller.connection, Ticket(ticket)).map_err(refused)?;
    for capability in received {
        context.delete(capability.slot).map_err(refused)?;
    }
    Ok(Vec::new())
}

/// What the servers of the experiments offer.
#[derive(Debug)]
struct Answers {
    task: Task,
    payload: Vec<u8>,
    region: Option<Mapped>,
    stamps: Stamps,
    stopped: bool,
}

impl Answers {
    fn new(task: Task) -> Self {
        let stamps = Stamps::default();
        Self { task, payload: Vec::new(), region: None, stamps, stopped: false }
    }

    fn lend_back(&mut self, message: &Message<'_>, mut reply: Reply<'_>) {
        let Some(lease) = message.leases.first() else {
            return reply.send(Status::MALFORMED, &[]);
        };
        self.payload.resize(lease.len(), 0);
        lease.copy_to(0, &mut self.payload);
        answer(&mut self.payload);
        match reply.lease(self.payload.len()) {
            Ok(mut back) => {
                back.copy_from_slice(&self.payload);
                reply.with_lease(back).ok(&[]);
            }
            Err(_) => reply.send(Status::TOO_BIG, &[]),
        }
    }

    fn take_region(
        &mut self,
        context: &mut dyn Context,
        message: &Message<'_>,
    ) -> Result<Vec<u8>, Refusal> {
        let refused = |text: String| Refusal::new(Status::DENIED, text);
        let ticket = message.payload.first_chunk().copied().map_or(0, u64::from_le_bytes);
        let received = context
            .accept(message.caller.connection, Ticket(ticket))
            .map_err(|error| refused(error.to_string()))?;
        for capability in received {
            let mapped = self.task.map_region(capability.slot);
            context.delete(capability.slot).map_err(|error| refused(error.to_string()))?;
            let mapped = mapped.map_err(|error| refused(error.to_string()))?;
            if let Mapped::Sealed(bytes) = &mapped {
                self.payload.clear();
                self.payload.extend_from_slice(bytes);
            }
            self.region = Some(mapped);
        }
        Ok(Vec::new())
    }
}

impl Service for Answers {
    #[inline]
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        match message.operation {
            ANSWER => {
                self.payload.clear();
                self.payload.extend_from_slice(message.payload);
                answer(&mut self.payload);
                reply.ok(&self.payload);
            }
            EMPTY => reply.ok(&[]),
            STOP => {
                self.stopped = true;
                reply.ok(&[]);
            }
            LENT_BACK => self.lend_back(&message, reply),
            LENT_ONLY if message.leases.is_empty() => reply.send(Status::MALFORMED, &[]),
            REGION_USE if self.region.is_none() => reply.send(Status::MALFORMED, &[]),
            LENT_ONLY | REGION_USE => {
                self.payload.clear();
                self.payload.extend_from_slice(message.payload);
                answer(&mut self.payload);
                reply.ok(&self.payload);
            }
            FIVE => self.stamps.serve::<false>(message.payload, reply),
            STAMP => self.stamps.serve::<true>(message.payload, reply),
            REGION_TAKE => reply.result(self.take_region(context, &message)),
            ACCEPT => reply.result(accept(context, &message)),
            _ => reply.send(Status::MALFORMED, &[]),
        }
    }

    fn finished(&self) -> bool {
        self.stopped
    }
}
