//! What it costs to ask the kernel.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rendez::protocol::kernel::{Limits, Offer, Travel};
use rendez::{Connection, Options, Rights, Slot};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch::{self, Partner};
use crate::mechanism::Wait;
use crate::report::{self, Class, Cores, Experiment, Plot};
use crate::role::{Actor, Role, exactly};
use crate::statistics::median;
use crate::system::{ACCEPT, ServerProcess, System, failed};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "capabilities",
    question: "What does an operation on capabilities cost, against a bare round trip over a socket?",
    usual: true,
    seconds: 18,
    run,
};

/// The rival: what every request to the kernel consists of at least.
const BARE: &str = "bare seqpacket";
const RENDEZ: &str = "rendez";

/// Bytes of a bare request and of its answer: about as long as the kernel's are.
const MESSAGE: usize = 32;

/// Room for a refusal's text.
const ROOM: usize = 256;

/// The operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation {
    Inspect,
    Mint,
    MintAndDelete,
    Move,
    Send,
    Revoke(u32),
}

/// Left out of a quick run: making them takes longer than all the rest.
const MANY: Operation = Operation::Revoke(10_000);

const OPERATIONS: [(&str, Operation); 9] = [
    ("inspect", Operation::Inspect),
    ("mint", Operation::Mint),
    ("mint and delete", Operation::MintAndDelete),
    ("move", Operation::Move),
    ("send a capability", Operation::Send),
    ("revoke 1", Operation::Revoke(1)),
    ("revoke 100", Operation::Revoke(100)),
    ("revoke 1,000", Operation::Revoke(1000)),
    ("revoke 10,000", MANY),
];

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "Capabilities", ENTRY.question, Plot::Bars, None);
    context.note(
        "each request goes to the kernel, a process of its own, and is waited for. Mint and delete \
         are two requests. To send a capability, the client offers it to the kernel and sends the \
         ticket, the server accepts it, lets go of it and replies: three requests and a transaction. \
         Revoking is timed for all descendants together; making them is not timed",
    );
    let places: Vec<(Cores, usize)> = context
        .cores(&[Cores::Two, Cores::One])
        .into_iter()
        .flat_map(|cores| (0..OPERATIONS.len()).map(move |index| (cores, index)))
        .filter(|(_, index)| !context.quick() || OPERATIONS[*index].1 != MANY)
        .collect();
    let meanwhile = context.budget / 3;
    let rest = context.budget.saturating_sub(meanwhile);
    super::revoking::measure(context, meanwhile, &mut experiment, progress)?;
    for (index, &(cores, operation)) in places.iter().enumerate() {
        let (name, operation) = OPERATIONS[operation];
        let place = format!("({name}) on {}", cores.title());
        let mut step = |label: &str, done: f64| {
            progress(&format!("{label} {place}"), (index as f64 + done) / places.len() as f64);
        };
        let cpu = context.cpus.get(cores.processors() - 1).copied();
        let subjects: Vec<Box<dyn Subject + '_>> = vec![
            Box::new(Bare::set_up(context, cpu)?),
            Box::new(Asking::set_up(context, cpu, operation)?),
        ];
        let time = rest / places.len() as u32;
        let mut plan = Plan::within(time, subjects.len(), context.quick());
        let rounds = time.as_secs_f64() / BLOCK.as_secs_f64() / subjects.len() as f64;
        (plan.block, plan.rounds) = (BLOCK, (rounds as u32).clamp(5, 60));
        if operation == MANY {
            // Making them takes long.
            (plan.block, plan.rounds) = (Duration::from_millis(300), 5);
        }
        let all = interleave(context, plan, &place, subjects, &mut step)?;
        for found in &all {
            if let Some(mut point) = found.point(cores, report::NS, &all, &[BARE]) {
                point.case = Some(name.to_owned());
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}

/// Length of a block.
const BLOCK: Duration = Duration::from_millis(10);

/// Runs `once` for about that long.
fn repeat(
    length: Duration,
    mut once: impl FnMut() -> Result<Duration, Error>,
) -> Result<Sample, Error> {
    let mut singles = Vec::new();
    let start = Instant::now();
    while start.elapsed() < length || singles.is_empty() {
        singles.push(once()?.as_nanos() as u64);
    }
    let values: Vec<f64> = singles.iter().map(|ns| *ns as f64).collect();
    Ok(Sample { value: median(&values).unwrap_or_default(), singles, cpu_ns: None })
}

/// The kernel, asked for one thing after another.
struct Asking {
    operation: Operation,
    own: Slot,
    connection: Connection,
    server: ServerProcess,
    system: System,
}

impl Asking {
    fn set_up(
        context: &Context<'_>,
        cpu: Option<usize>,
        operation: Operation,
    ) -> Result<Self, Error> {
        let exe = &context.options.exe;
        let system = System::start(exe, cpu)?;
        let server = system.server(exe, cpu)?;
        let own = system.task().create_endpoint().map_err(failed("making an endpoint"))?.slot;
        let connection = server.connect_one(system.task(), &Options::default())?;
        Ok(Self { operation, own, connection, server, system })
    }

    fn once(&mut self) -> Result<Duration, Error> {
        let refused = |error| failed("asking the kernel")(error);
        let Self { own, system, connection, .. } = self;
        let (own, task) = (*own, system.task());
        match self.operation {
            Operation::Inspect => {
                let start = Instant::now();
                task.inspect(own).map_err(refused)?;
                Ok(start.elapsed())
            }
            Operation::Mint => {
                let start = Instant::now();
                let minted = task.mint(own, Rights::SEND, None).map_err(refused)?;
                let taken = start.elapsed();
                task.delete(minted.slot).map_err(refused)?;
                Ok(taken)
            }
            Operation::MintAndDelete => {
                let start = Instant::now();
                let minted = task.mint(own, Rights::SEND, None).map_err(refused)?;
                task.delete(minted.slot).map_err(refused)?;
                Ok(start.elapsed())
            }
            Operation::Move => {
                let start = Instant::now();
                self.own = task.move_capability(own).map_err(refused)?.slot;
                Ok(start.elapsed())
            }
            Operation::Send => {
                let start = Instant::now();
                let item = Offer {
                    slot: own,
                    rights: Rights::SEND,
                    badge: None,
                    limits: Limits::SAME,
                    travel: Travel::Mint,
                };
                let ticket = connection.offer(&[item]).map_err(refused)?;
                connection
                    .send(ACCEPT, &ticket.0.to_le_bytes(), ROOM)
                    .map_err(rendez::Error::from)
                    .and_then(rendez::Reply::ok)
                    .map_err(failed("sending a ticket"))?;
                Ok(start.elapsed())
            }
            Operation::Revoke(count) => {
                for _ in 0..count {
                    task.mint(own, Rights::SEND, None).map_err(refused)?;
                }
                let start = Instant::now();
                task.revoke(own).map_err(refused)?;
                Ok(start.elapsed())
            }
        }
    }
}

impl Subject for Asking {
    fn label(&self) -> &str {
        RENDEZ
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Block)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        if self.operation != Operation::Send {
            return repeat(length, || self.once());
        }
        self.server.serve(Wait::Adaptive)?;
        let sample = repeat(length, || self.once());
        self.server.stop(&mut self.connection)?;
        sample
    }
}

/// A bare round trip over a socket that keeps messages apart.
struct Bare {
    socket: OwnedFd,
    partner: Partner,
}

impl Bare {
    fn set_up(context: &Context<'_>, cpu: Option<usize>) -> Result<Self, Error> {
        let start = || -> io::Result<_> {
            let (socket, theirs) =
                socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
            let partner = launch::start_role(&context.options.exe, &Echo, &[], cpu, &[theirs])?;
            Ok((socket, partner))
        };
        let (socket, partner) = start().map_err(|error| Error::io(BARE, error))?;
        partner.hello()?;
        Ok(Self { socket, partner })
    }

    fn exchange(&self, message: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.socket, message)?;
        let mut answer = [0; MESSAGE];
        match rustix::io::read(&self.socket, answer.as_mut_slice())? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }
}

impl Subject for Bare {
    fn label(&self) -> &str {
        BARE
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Block)
    }

    fn class(&self) -> Class {
        Class::Baseline
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.partner.order(&[])?;
        let sample = repeat(length, || {
            let start = Instant::now();
            self.exchange(&[1; MESSAGE]).map_err(|error| Error::io(BARE, error))?;
            Ok(start.elapsed())
        });
        self.exchange(&[0]).map_err(|error| Error::io(BARE, error))?;
        self.partner.report()?;
        sample
    }
}

/// Answers each message with itself, until one of a single byte comes.
#[derive(Debug)]
pub(crate) struct Echo;

impl Role for Echo {
    fn name(&self) -> &'static str {
        "echo"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(Box::new(Echoing(socket)))
    }
}

struct Echoing(OwnedFd);

impl Actor for Echoing {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        let [] = exactly(order)?;
        let mut message = [0; MESSAGE];
        loop {
            let length = rustix::io::read(&self.0, message.as_mut_slice())?;
            rustix::io::write(&self.0, &message[..length])?;
            if length <= 1 {
                return Ok(Vec::new());
            }
        }
    }
}
