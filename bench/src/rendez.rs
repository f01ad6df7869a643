//! Rendez itself, by each wait policy: a task that sends, a server in the partner process.
//!
//! The kernel runs as a thread of the client's process. It is asleep while anything is measured: it
//! sets the connection up and is on no message's path. Client and server are the library as it
//! ships: [`Connection::send_until`] on one side, [`Server::step`] with a [`Service`] on the other.

use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{self, Block, Client, Mechanism, Setting, answer};
use crate::report::Class;
use rendez::service::{Context, Message, Reply, Service};
use rendez::{Connection, Error, Options, Rights, Server, Task};
use rendez_kernel::quota::Quotas;
use rendez_kernel::shell;
use rendez_protocol::kernel::{Give, Limits};
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType, bind, listen, socket_with,
};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The operation that is measured.
const ANSWER: u16 = 1;
/// Deadline of a send: the same default that every client has.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Send, receive and reply.
#[derive(Debug)]
pub(crate) struct Rendez(pub(crate) mechanism::Wait);

/// The same without counting anything in the task pages.
#[derive(Debug)]
pub(crate) struct Uncounted(pub(crate) mechanism::Wait);

pub(crate) const fn wait(wait: mechanism::Wait) -> rendez::Wait {
    match wait {
        mechanism::Wait::Spin => rendez::Wait::Spin,
        mechanism::Wait::Adaptive => rendez::Wait::Adaptive,
        mechanism::Wait::Block => rendez::Wait::Block,
    }
}

pub(crate) fn other(error: Error) -> io::Error {
    io::Error::other(error)
}

impl Mechanism for Rendez {
    fn name(&self) -> &'static str {
        "rendez"
    }

    fn wait(&self) -> Option<mechanism::Wait> {
        Some(self.0)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        connect(self.0, true, launcher)
    }

    fn serve(
        &self,
        setting: Setting,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Box<dyn mechanism::Server>> {
        serve(self.0, true, setting, descriptors)
    }
}

impl Mechanism for Uncounted {
    fn name(&self) -> &'static str {
        "uncounted"
    }

    fn wait(&self) -> Option<mechanism::Wait> {
        Some(self.0)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn carries(&self, payload_bytes: usize) -> Result<(), String> {
        Rendez(self.0).carries(payload_bytes)
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        connect(self.0, false, launcher)
    }

    fn serve(
        &self,
        setting: Setting,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Box<dyn mechanism::Server>> {
        serve(self.0, false, setting, descriptors)
    }
}

fn connect(
    how: mechanism::Wait,
    counted: bool,
    launcher: &mut Launcher,
) -> io::Result<Box<dyn Client>> {
    let (lifeline, task) = start_kernel()?;
    task.set_counting(counted);
    let endpoint = task.create_endpoint().map_err(other)?;
    let serve = Give {
        name: "serve".into(),
        slot: endpoint.slot,
        rights: Rights::RECEIVE,
        badge: None,
        limits: Limits::SAME,
    };
    let (_, _, socket) = task.create_task("partner", vec![serve]).map_err(other)?;
    launcher.start(&[socket])?;
    let options = Options { wait: wait(how), timeout: TIMEOUT, ..Options::default() };
    let connection = Connection::open(&task, endpoint.slot, &options).map_err(other)?;
    Ok(Box::new(RendezClient { connection, _lifeline: lifeline }))
}

fn serve(
    how: mechanism::Wait,
    counted: bool,
    setting: Setting,
    descriptors: Vec<OwnedFd>,
) -> io::Result<Box<dyn mechanism::Server>> {
    let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let task = Task::over(socket).map_err(other)?;
    task.set_counting(counted);
    let mut server = Server::new(&task).map_err(other)?;
    server.set_wait(wait(how));
    server.serve(task.given_as("serve").map_err(other)?.slot, None).map_err(other)?;
    let mut service = Answer { served: 0, payload: vec![0; setting.payload_bytes] };
    // Spinning for a client that has not connected would keep the kernel's processor busy.
    while server.connections() == 0 {
        server.step(&mut service).map_err(other)?;
    }
    Ok(Box::new(RendezServer { server, service }))
}

/// A kernel in a thread of this process, and this process as its first task. The kernel ends when
/// the first of the two is dropped.
pub(crate) fn start_kernel() -> io::Result<(OwnedFd, Task)> {
    let listener =
        socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    // Without a name of ours, Linux gives it an abstract one; nobody is given anything there.
    bind(&listener, &SocketAddrUnix::new_unnamed())?;
    listen(&listener, 1)?;
    let (kernel_end, own_end) = shell::socket_pair()?;
    let (lifeline, kernel_lifeline) = shell::socket_pair()?;
    let mut config = shell::Config::new(listener);
    config.first = Some(kernel_end);
    config.first_name = "bench".into();
    config.lifeline = Some(kernel_lifeline);
    config.quotas = Quotas::default();
    // The filter is for a process of its own.
    config.sandbox = false;
    std::thread::Builder::new().name("rendez-kernel".into()).spawn(move || shell::run(config))?;
    Ok((lifeline, Task::over(own_end).map_err(other)?))
}

struct RendezClient {
    connection: Connection,
    _lifeline: OwnedFd,
}

impl Client for RendezClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            let reply = self
                .connection
                .send(ANSWER, payload, payload.len())
                .map_err(|error| io::Error::other(error.to_string()))?;
            payload.copy_from_slice(reply.payload);
            Ok(())
        })
    }
}

struct Answer {
    served: u32,
    payload: Vec<u8>,
}

impl Service for Answer {
    #[inline]
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        self.payload.copy_from_slice(message.payload);
        answer(&mut self.payload);
        self.served += 1;
        reply.ok(&self.payload);
    }
}

struct RendezServer {
    server: Server,
    service: Answer,
}

impl mechanism::Server for RendezServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        self.service.served = 0;
        while self.service.served < block.exchanges {
            self.server.step(&mut self.service).map_err(other)?;
        }
        Ok(())
    }
}
