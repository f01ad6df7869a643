//! What others feel of a large revocation: requests of one task to the kernel, while another task has
//! ten thousand capabilities revoked and while it has not.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rendez::protocol::kernel::{Give, Limits};
use rendez::{Rights, Slot, Task};

use super::Context;
use crate::Error;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::launch::{self, Partner};
use crate::mechanism::Wait;
use crate::report::{self, Class, Cores, Experiment};
use crate::role::{Actor, Role, exactly};
use crate::statistics::quantile;
use crate::system::{System, failed};

/// Capabilities that are revoked at a time.
const DESCENDANTS: u64 = 10_000;
/// What the point is called in the report.
const CASE: &str = "p99 of inspecting while another task revokes 10,000";
const IDLE: &str = "nothing revoked";
const MEANWHILE: &str = "10,000 revoked meanwhile";

/// Requests at the beginning and at the end of a revocation that are left out.
const AROUND: usize = 3;

/// Order: derive so many capabilities.
const DERIVE: u64 = 1;
/// Order: revoke them.
const REVOKE: u64 = 2;

/// Most rounds: each derives ten thousand capabilities, several times.
const ROUNDS: u32 = 24;

/// Adds what was measured for about `time` to the experiment.
pub(super) fn measure(
    context: &Context<'_>,
    time: Duration,
    experiment: &mut Experiment,
    progress: &mut dyn FnMut(&str, f64),
) -> Result<(), Error> {
    let Some(&cores) = context.cores(&[Cores::Two, Cores::One]).first() else { return Ok(()) };
    context.note(
        "while 10,000 capabilities of one task are revoked, which takes the kernel many portions, \
         another task inspects one of its own, again and again; a block is as many revocations as \
         there is time for. The first three and the last three requests of each are left out: while \
         they run, so do the laboratory's processes that begin it and end it. A block's value is its \
         99th percentile, and the ratio that of these",
    );
    let cpu = context.cpus.get(cores.processors() - 1).copied();
    let system = System::start(&context.options.exe, cpu)?;
    let own = system.task().create_endpoint().map_err(failed("making an endpoint"))?.slot;
    let give = Give {
        name: "from".into(),
        slot: own,
        rights: Rights::SEND | Rights::MINT | Rights::GRANT,
        badge: None,
        limits: Limits::SAME,
    };
    let (_, _, socket) =
        system.task().create_task("revoker", vec![give]).map_err(failed("making a task"))?;
    let revoker = launch::start_role(&context.options.exe, &Revoker, &[], cpu, &[socket])
        .map_err(|error| Error::io("starting a task that revokes", error))?;
    revoker.hello()?;
    let subjects: Vec<Box<dyn Subject + '_>> = vec![
        Box::new(Asking { task: system.task(), own, revoker: None }),
        Box::new(Asking { task: system.task(), own, revoker: Some(&revoker) }),
    ];
    // Most of a block goes by with deriving what is revoked then, next to the kernel.
    let block = Duration::from_millis(if context.quick() { 80 } else { 200 });
    let rounds = (time.as_secs_f64() / block.as_secs_f64() / 2.5) as u32;
    let mut plan = Plan::within(time, subjects.len(), context.quick());
    (plan.block, plan.rounds) = (block, rounds.clamp(3, ROUNDS));
    let all = interleave(context, plan, CASE, subjects, progress)?;
    for found in &all {
        if let Some(mut point) = found.point(cores, report::NS, &all, &[IDLE]) {
            point.case = Some(CASE.to_owned());
            experiment.add(&found.label, found.wait, found.class, point);
        }
    }
    Ok(())
}

/// A task that asks the kernel for little, and one that has it revoke much, or not.
struct Asking<'s> {
    task: &'s Task,
    own: Slot,
    revoker: Option<&'s Partner>,
}

impl Asking<'_> {
    /// Asks until `ends` says so; how long each answer took.
    fn ask(&self, ends: impl Fn() -> bool) -> Result<Vec<u64>, Error> {
        let mut singles = Vec::new();
        while !ends() || singles.is_empty() {
            let start = Instant::now();
            self.task.inspect(self.own).map_err(failed("asking the kernel"))?;
            singles.push(start.elapsed().as_nanos() as u64);
        }
        Ok(singles)
    }

    /// Has everything revoked, and asks until that is done.
    fn ask_meanwhile(&self, revoker: &Partner) -> Result<Vec<u64>, Error> {
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            revoker.order(&[REVOKE, DESCENDANTS])?;
            let waiting = scope.spawn(|| {
                let report = revoker.report();
                // ORDERING: Relaxed; it says only that it is over.
                done.store(true, Ordering::Relaxed);
                report.map(drop)
            });
            let singles = self.ask(|| done.load(Ordering::Relaxed));
            let failed = || Error::io(MEANWHILE, io::Error::from(io::ErrorKind::Other));
            waiting.join().map_err(|_| failed())??;
            let mut singles = singles?;
            singles.truncate(singles.len().saturating_sub(AROUND).max(1));
            singles.drain(..AROUND.min(singles.len() - 1));
            Ok(singles)
        })
    }
}

impl Subject for Asking<'_> {
    fn label(&self) -> &str {
        if self.revoker.is_some() { MEANWHILE } else { IDLE }
    }

    fn wait(&self) -> Option<Wait> {
        Some(Wait::Block)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        let start = Instant::now();
        let singles = match self.revoker {
            None => self.ask(|| start.elapsed() >= length)?,
            Some(revoker) => {
                let mut singles = Vec::new();
                while start.elapsed() < length {
                    revoker.ask(&[DERIVE, DESCENDANTS])?;
                    singles.extend(self.ask_meanwhile(revoker)?);
                }
                singles
            }
        };
        let values: Vec<f64> = singles.iter().map(|ns| *ns as f64).collect();
        Ok(Sample { value: quantile(&values, 0.99).unwrap_or_default(), singles, cpu_ns: None })
    }
}

/// A task that derives capabilities and revokes them.
#[derive(Debug)]
pub(crate) struct Revoker;

impl Role for Revoker {
    fn name(&self) -> &'static str {
        "revoker"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let task = Task::over(socket).map_err(io::Error::other)?;
        let from = task.given_as("from").map_err(io::Error::other)?.slot;
        Ok(Box::new(Revoking { task, from }))
    }
}

struct Revoking {
    task: Task,
    from: Slot,
}

impl Actor for Revoking {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        let [what, count] = exactly(order)?;
        match what {
            DERIVE => {
                for _ in 0..count {
                    self.task.mint(self.from, Rights::SEND, None).map_err(io::Error::other)?;
                }
                Ok(Vec::new())
            }
            REVOKE => {
                let revoked = self.task.revoke(self.from).map_err(io::Error::other)?;
                if u64::from(revoked.capabilities) == count {
                    Ok(Vec::new())
                } else {
                    Err(io::Error::other(format!("{revoked:?} where {count} were derived")))
                }
            }
            _ => Err(io::ErrorKind::InvalidInput.into()),
        }
    }
}
