//! What it costs to connect.

use std::os::fd::OwnedFd;
use std::thread;
use std::time::{Duration, Instant};

use rendez::{Connection, Options};
use rustix::net::SocketAddrUnix;

use super::crowd::Caller;
use super::{Context, Entry};
use crate::Error;
use crate::baseline::UnixEpoll;
use crate::baseline::unix_epoll;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch::{self, Partner};
use crate::mechanism::Wait;
use crate::report::{self, Class, Cores, Experiment, Plot};
use crate::statistics::median;
use crate::system::{ServerProcess, System, failed, wait};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "setup",
    question: "What does it cost to connect, and to exchange the first message?",
    usual: true,
    seconds: 10,
    run,
};

/// The rival's name.
const RIVAL: &str = "unix-epoll";

/// Connections of one batch.
const BATCH: usize = 64;

/// Long enough for everybody to be done with closing and to sleep.
const PAUSE: Duration = Duration::from_micros(500);

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Case {
    /// One connection: made, used once, closed, and then a pause in which all fall asleep.
    Alone,
    /// The same without a pause.
    Next,
    /// As many as a batch has: all made, each used once, all closed.
    Batch,
}

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "Setting a connection up", ENTRY.question, Plot::Bars, None);
    context.note(
        "a connection is made and one message of 40 bytes is exchanged over it; closing it again is \
         not timed, but where there is no pause after it, it is still under way when the next one is \
         made. The kernel runs where the client does, the server on the other processor, if \
         there are two. A batch is made by one thread, one connection after the other, and each is \
         used once; its cost is for one connection",
    );
    let places: Vec<(Cores, Case)> = context
        .cores(&[Cores::Two, Cores::One])
        .into_iter()
        .flat_map(|cores| [Case::Alone, Case::Next, Case::Batch].map(|case| (cores, case)))
        .collect();
    for (index, &(cores, case)) in places.iter().enumerate() {
        let name = match case {
            Case::Alone => "connect and first send",
            Case::Next => "one after the other",
            Case::Batch => "one of a batch of 64",
        };
        let place = format!("({name}) on {}", cores.title());
        let mut step = |label: &str, done: f64| {
            progress(&format!("{label} {place}"), (index as f64 + done) / places.len() as f64);
        };
        step("setting up", 0.0);
        let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
        if context.wants(RIVAL) {
            let unix = Unix::set_up(context, cores)?;
            subjects.push(Box::new(Connecting { label: RIVAL, wait: Wait::Block, case, to: unix }));
        }
        for (label, wait) in [("rendez-adaptive", Wait::Adaptive), ("rendez-block", Wait::Block)] {
            if context.wants(label) {
                let to = Rendez::set_up(context, cores, wait)?;
                subjects.push(Box::new(Connecting { label, wait, case, to }));
            }
        }
        let time = context.budget / places.len() as u32;
        let mut plan = Plan::within(time, subjects.len(), context.quick());
        let rounds = time.as_secs_f64() / BLOCK.as_secs_f64() / subjects.len() as f64;
        (plan.block, plan.rounds) = (BLOCK, (rounds as u32).clamp(5, 60));
        let all = interleave(context, plan, &place, subjects, &mut step)?;
        for found in &all {
            if let Some(mut point) = found.point(cores, report::NS, &all, &[RIVAL]) {
                point.case = Some(name.to_owned());
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}

/// A block holds several batches.
const BLOCK: Duration = Duration::from_millis(40);

/// Something to connect to.
trait Listener {
    /// A connection to it.
    type Connection: Caller;
    /// What kind of thing it is.
    const CLASS: Class;
    /// Makes a connection.
    fn connect(&self) -> Result<Self::Connection, Error>;
    /// Lets the server serve.
    fn begin(&self, wait: Wait) -> Result<(), Error>;
    /// Has the server rest; answers its processor time in ns, and that of others it needs.
    fn end(&mut self) -> Result<u64, Error>;
}

/// Connects to something again and again.
struct Connecting<L> {
    label: &'static str,
    wait: Wait,
    case: Case,
    to: L,
}

impl<L: Listener> Connecting<L> {
    /// One connection or one batch, ready and used once. Answers ns for each connection.
    fn round(&self) -> Result<u64, Error> {
        let count = if self.case == Case::Batch { BATCH } else { 1 };
        let failed = |error| Error::io(self.label, error);
        let mut made = Vec::with_capacity(count);
        let start = Instant::now();
        for _ in 0..count {
            made.push(self.to.connect()?);
        }
        for (number, connection) in (1..).zip(&mut made) {
            if connection.exchange(number).map_err(failed)? != number + 1 {
                return Err(failed(std::io::ErrorKind::InvalidData.into()));
            }
        }
        Ok(start.elapsed().as_nanos() as u64 / count as u64)
    }
}

impl<L: Listener> Subject for Connecting<L> {
    fn label(&self) -> &str {
        self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.wait)
    }

    fn class(&self) -> Class {
        L::CLASS
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.to.begin(self.wait)?;
        let mut singles = Vec::new();
        let start = Instant::now();
        while start.elapsed() < length || singles.is_empty() {
            singles.push(self.round()?);
            if self.case == Case::Alone {
                thread::sleep(PAUSE);
            }
        }
        self.to.end()?;
        let values: Vec<f64> = singles.iter().map(|ns| *ns as f64).collect();
        let value = median(&values).unwrap_or_default();
        Ok(Sample { value, singles, cpu_ns: None })
    }
}

/// The server's processor. Client and kernel run where this thread does, on the first.
fn other(context: &Context<'_>, cores: Cores) -> Option<usize> {
    context.cpus.get(cores.processors() - 1).copied()
}

/// A Unix stream socket.
struct Unix {
    address: SocketAddrUnix,
    /// Over which the server is told to rest.
    control: OwnedFd,
    server: Partner,
}

impl Unix {
    fn set_up(context: &Context<'_>, cores: Cores) -> Result<Self, Error> {
        let failed = |error| Error::io("setting a Unix socket server up", error);
        let (listener, address) = unix_epoll::listener().map_err(failed)?;
        let exe = &context.options.exe;
        let server = launch::start_role(exe, &UnixEpoll, &[], other(context, cores), &[listener])
            .map_err(failed)?;
        server.hello()?;
        let control = unix_epoll::open(&address).map_err(failed)?;
        server.ask(&[unix_epoll::ADMIT, 1])?;
        Ok(Self { address, control, server })
    }
}

impl Listener for Unix {
    type Connection = OwnedFd;
    const CLASS: Class = Class::Baseline;

    fn connect(&self) -> Result<OwnedFd, Error> {
        unix_epoll::open(&self.address).map_err(|error| Error::io("connecting", error))
    }

    fn begin(&self, _: Wait) -> Result<(), Error> {
        self.server.order(&[unix_epoll::SERVE])
    }

    fn end(&mut self) -> Result<u64, Error> {
        self.control.stop().map_err(|error| Error::io("stopping a server", error))?;
        Ok(self.server.report()?.first().copied().unwrap_or_default())
    }
}

/// A server of Rendez, with a kernel of its own.
struct Rendez {
    options: Options,
    /// Over which the server is told to rest.
    control: Connection,
    server: ServerProcess,
    system: System,
}

impl Rendez {
    fn set_up(context: &Context<'_>, cores: Cores, policy: Wait) -> Result<Self, Error> {
        let exe = &context.options.exe;
        let system = System::start(exe, context.cpus.first().copied())?;
        let server = system.server(exe, other(context, cores))?;
        let options = Options { wait: wait(policy), ..Options::default() };
        let control = server.connect_one(system.task(), &options)?;
        Ok(Self { options, control, server, system })
    }
}

impl Listener for Rendez {
    type Connection = Connection;
    const CLASS: Class = Class::Rendez;

    fn connect(&self) -> Result<Connection, Error> {
        Connection::open(self.system.task(), self.server.endpoint(), &self.options)
            .map_err(failed("connecting"))
    }

    fn begin(&self, wait: Wait) -> Result<(), Error> {
        self.server.serve(wait)
    }

    fn end(&mut self) -> Result<u64, Error> {
        Ok(self.server.stop(&mut self.control)?.cpu_ns)
    }
}
