//! What a task notices of a neighbour that has exhausted everything it may have.
//!
//! The neighbour has parts of its own, set aside by the task that created both. It holds nothing, or
//! all that it may hold, or it goes on asking for more and is refused every time.

use std::io;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rendez::protocol::kernel::{Give, KernelError, Limits};
use rendez::protocol::quota::{Allotment, Quota};
use rendez::{Connection, Error as Refused, Options, Rights, Slot, Task};

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch::{self, Partner};
use crate::mechanism::Wait;
use crate::report::{self, Class, Cores, Experiment, Plot};
use crate::role::{Actor, Role, exactly};
use crate::statistics::median;
use crate::system::{EMPTY, ServerProcess, System, failed};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "neighbour",
    question: "What does a task notice of a neighbour that has exhausted all that it may have?",
    usual: false,
    seconds: 6,
    run,
};

const ALONE: &str = "holds nothing";
const HOLDS: &str = "holds all that it may";
const ASKS: &str = "holds all, and asks for more";

/// What the neighbour may have.
const PARTS: [(Quota, u64); 2] = [(Quota::Capabilities, 4000), (Quota::Endpoints, 500)];

/// Order: take all that can be had.
const TAKE: u64 = 1;
/// Order: ask for more, for so many ns.
const ASK: u64 = 2;

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Timed {
    Request,
    Send,
}

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "A neighbour's quotas", ENTRY.question, Plot::Bars, None);
    context.note(
        "one task inspects a capability of its own, or sends to a server, again and again. Another has \
         4,000 capabilities and 500 endpoints set aside for it. A block's value is its median. While \
         the other asks for more, the kernel is kept awake: then a request waits for its turn, and \
         not for a wake-up. A send does not pass the kernel",
    );
    let Some(&cores) = context.cores(&[Cores::Two, Cores::One]).first() else {
        return Ok(experiment);
    };
    let cpu = context.cpus.get(cores.processors() - 1).copied();
    for (place, timed) in [Timed::Request, Timed::Send].into_iter().enumerate() {
        let case = match timed {
            Timed::Request => "a request to the kernel",
            Timed::Send => "a send",
        };
        let mut step = |label: &str, done: f64| {
            progress(&format!("{case}: {label}"), (place as f64 + done) / 2.0);
        };
        let subjects: Vec<Box<dyn Subject + '_>> = vec![
            Box::new(Beside::set_up(context, cpu, timed, ALONE)?),
            Box::new(Beside::set_up(context, cpu, timed, HOLDS)?),
            Box::new(Beside::set_up(context, cpu, timed, ASKS)?),
        ];
        let time = context.budget / 2;
        let mut plan = Plan::within(time, subjects.len(), context.quick());
        plan.block = Duration::from_millis(10);
        let rounds = time.as_secs_f64() / plan.block.as_secs_f64() / subjects.len() as f64;
        plan.rounds = (rounds as u32).clamp(5, 60);
        let all = interleave(context, plan, case, subjects, &mut step)?;
        for found in &all {
            if let Some(mut point) = found.point(cores, report::NS, &all, &[ALONE]) {
                point.case = Some(case.to_owned());
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}

/// A task, its server, and a neighbour.
struct Beside {
    label: &'static str,
    timed: Timed,
    own: Slot,
    connection: Connection,
    server: ServerProcess,
    neighbour: Partner,
    system: System,
}

impl Beside {
    fn set_up(
        context: &Context<'_>,
        cpu: Option<usize>,
        timed: Timed,
        label: &'static str,
    ) -> Result<Self, Error> {
        let exe = &context.options.exe;
        let system = System::start(exe, cpu)?;
        let server = system.server(exe, cpu)?;
        let own = system.task().create_endpoint().map_err(failed("making an endpoint"))?.slot;
        let connection = server.connect_one(system.task(), &Options::default())?;
        let give = Give {
            name: "from".into(),
            slot: own,
            rights: Rights::SEND | Rights::MINT,
            badge: None,
            limits: Limits::SAME,
        };
        let parts = PARTS.map(|(quota, amount)| Allotment { quota, amount }).to_vec();
        let (_, _, socket) = system
            .task()
            .create_task_with("glutton", vec![give], parts)
            .map_err(failed("making a task"))?;
        let neighbour = launch::start_role(exe, &Glutton, &[], cpu, &[socket])
            .map_err(|error| Error::io("starting a neighbour", error))?;
        neighbour.hello()?;
        if label != ALONE {
            neighbour.ask(&[TAKE, 0])?;
        }
        Ok(Self { label, timed, own, connection, server, neighbour, system })
    }

    fn once(&mut self) -> Result<(), Error> {
        match self.timed {
            Timed::Request => {
                self.system.task().inspect(self.own).map_err(failed("asking the kernel"))?;
            }
            Timed::Send => {
                let sent = self.connection.send(EMPTY, &[], 0).map(drop);
                sent.map_err(|error| Error::io("sending", io::Error::other(error)))?;
            }
        }
        Ok(())
    }

    fn repeat(&mut self, length: Duration) -> Result<Vec<u64>, Error> {
        let mut singles = Vec::new();
        let begin = Instant::now();
        while begin.elapsed() < length || singles.is_empty() {
            let start = Instant::now();
            self.once()?;
            singles.push(start.elapsed().as_nanos() as u64);
        }
        Ok(singles)
    }
}

impl Subject for Beside {
    fn label(&self) -> &str {
        self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Adaptive)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        if self.timed == Timed::Send {
            self.server.serve(Wait::Adaptive)?;
        }
        if self.label == ASKS {
            self.neighbour.order(&[ASK, length.as_nanos() as u64])?;
        }
        let singles = self.repeat(length);
        if self.label == ASKS {
            self.neighbour.report()?;
        }
        if self.timed == Timed::Send {
            self.server.stop(&mut self.connection)?;
        }
        let singles = singles?;
        let values: Vec<f64> = singles.iter().map(|ns| *ns as f64).collect();
        Ok(Sample { value: median(&values).unwrap_or_default(), singles, cpu_ns: None })
    }
}

/// A task that takes all that it can have.
#[derive(Debug)]
pub(crate) struct Glutton;

impl Role for Glutton {
    fn name(&self) -> &'static str {
        "glutton"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let task = Task::over(socket).map_err(io::Error::other)?;
        let from = task.given_as("from").map_err(io::Error::other)?.slot;
        Ok(Box::new(Taking { task, from }))
    }
}

struct Taking {
    task: Task,
    from: Slot,
}

impl Taking {
    /// Whether there was one more to be had.
    fn one(&self, endpoint: bool) -> io::Result<bool> {
        let asked = if endpoint {
            self.task.create_endpoint()
        } else {
            self.task.mint(self.from, Rights::SEND, None)
        };
        match asked {
            Ok(_) => Ok(true),
            Err(Refused::Kernel(KernelError::Quota { .. })) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Actor for Taking {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        let [what, ns] = exactly(order)?;
        match what {
            TAKE => {
                while self.one(true)? {}
                while self.one(false)? {}
            }
            ASK => {
                let begin = Instant::now();
                while begin.elapsed() < Duration::from_nanos(ns) {
                    if self.one(false)? {
                        return Err(io::Error::other("there was more to be had"));
                    }
                }
            }
            _ => return Err(io::ErrorKind::InvalidInput.into()),
        }
        Ok(Vec::new())
    }
}
