//! A mebibyte at once: by lease and by region.

use std::time::{Duration, Instant};

use rendez::lease::Room;
use rendez::protocol::kernel::{Limits, Offer, Travel};
use rendez::{Connection, Options, Rights};

use super::{Context, Entry};
use crate::Error;
use crate::interleave::{Plan, Sample, Subject, interleave};
use crate::mechanism::{self, Wait};
use crate::report::{self, Class, Cores, Experiment, Plot};
use crate::station::Station;
use crate::statistics::median;
use crate::system::{
    ANSWER, LENT_BACK, LENT_ONLY, REGION_TAKE, REGION_USE, ServerProcess, System, failed, wait,
};

/// In the table of experiments.
pub(super) const ENTRY: Entry = Entry {
    name: "bulk",
    question: "What does it cost to pass a mebibyte, by lease and by region?",
    usual: true,
    seconds: 8,
    run,
};

/// Bytes that are passed.
const BYTES: usize = 1 << 20;
/// Bytes of a small request and of its reply.
const SMALL: usize = 40;

/// The case of everything that moves all bytes, and that of what moves none.
const MOVED: &str = "1 MiB each way, written and read";
const UNTOUCHED: &str = "1 MiB, not touched";

const POLICY: Wait = Wait::Spin;
const REFERENCE: &str = "rendez-spin, 40 bytes";
const COPY: &str = "copy";

/// A way to pass a mebibyte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// None: a small request, for comparison.
    Small,
    /// Lent in both directions, written and read once on each side.
    Lease,
    /// Lent, and not touched by anybody.
    LeaseUntouched,
    /// Named: the server has mapped the region already.
    RegionMapped,
    /// Made, filled, sealed, sent, mapped and let go of.
    RegionFirst,
}

const WAYS: [(&str, &str, Way); 5] = [
    (MOVED, "rendez-spin, lease", Way::Lease),
    (MOVED, "rendez-spin, region for the first time (one way)", Way::RegionFirst),
    (UNTOUCHED, REFERENCE, Way::Small),
    (UNTOUCHED, "rendez-spin, lease", Way::LeaseUntouched),
    (UNTOUCHED, "rendez-spin, region already mapped", Way::RegionMapped),
];

fn run(context: &Context<'_>, progress: &mut dyn FnMut(&str, f64)) -> Result<Experiment, Error> {
    let mut experiment =
        Experiment::new(ENTRY.name, "A mebibyte at once", ENTRY.question, Plot::Bars, None);
    if context.cores(&[Cores::Two]).is_empty() {
        return Ok(experiment);
    }
    context.note(
        "written and read: the client copies a mebibyte into the lease, the server copies it out, \
         copies a mebibyte into a lease of its reply, the client copies that out. The bare copy does \
         the same through memory that both share. A region's first transfer is one way: made, filled, \
         sealed, offered, sent, accepted, mapped and read once by the server, let go of by both",
    );
    let exe = &context.options.exe;
    let system = System::start(exe, None)?;
    for (index, case) in [MOVED, UNTOUCHED].into_iter().enumerate() {
        let mut subjects: Vec<Box<dyn Subject + '_>> = Vec::new();
        if case == MOVED
            && context.wants(COPY)
            && let Some(copy) = mechanism::find(COPY)
            && let Some(copy) = Station::set_up(context, copy, BYTES, Cores::Two, true)?
        {
            subjects.push(Box::new(copy));
        }
        for (_, label, way) in WAYS.into_iter().filter(|(of, ..)| *of == case) {
            if context.wants(label) || context.wants("rendez-spin") {
                let server = system.server(exe, context.cpus.get(1).copied())?;
                subjects.push(Box::new(Passing::set_up(&system, server, label, way)?));
            }
        }
        if subjects.is_empty() {
            continue;
        }
        let plan = Plan::within(context.budget / 2, subjects.len(), context.quick());
        let all = interleave(context, plan, case, subjects, &mut |label, done| {
            progress(&format!("{label}: {case}"), (index as f64 + done) / 2.0);
        })?;
        for found in &all {
            if let Some(mut point) = found.point(Cores::Two, report::NS, &all, &[COPY, REFERENCE]) {
                point.case = Some(case.to_owned());
                experiment.add(&found.label, found.wait, found.class, point);
            }
        }
    }
    Ok(experiment)
}

/// One connection, and a way to pass a mebibyte over it.
struct Passing<'c> {
    label: &'static str,
    way: Way,
    system: &'c System,
    // Before the server's process, which then ends by itself.
    connection: Connection,
    server: ServerProcess,
    /// What is passed, or where it arrives.
    bytes: Vec<u8>,
    sequence: u64,
}

impl<'c> Passing<'c> {
    fn set_up(
        system: &'c System,
        server: ServerProcess,
        label: &'static str,
        way: Way,
    ) -> Result<Self, Error> {
        let options = Options { wait: wait(POLICY), ..Options::default() };
        let connection = server.connect_one(system.task(), &options)?;
        let bytes = (0..BYTES).map(|at| at as u8).collect();
        let mut passing = Self { label, way, system, connection, server, bytes, sequence: 0 };
        if way == Way::RegionMapped {
            passing.server.serve(POLICY)?;
            let sent = passing.send_region();
            passing.server.stop(&mut passing.connection)?;
            sent.map_err(failed("sending a region"))?;
        }
        Ok(passing)
    }

    /// Makes a region, fills it, seals it, and has the server map it.
    fn send_region(&mut self) -> Result<(), rendez::Error> {
        let task = self.system.task();
        let mut region = task.create_region(BYTES as u64)?;
        region.bytes_mut()[..BYTES].copy_from_slice(&self.bytes);
        let slot = region.seal()?.slot;
        let item = Offer {
            slot,
            rights: Rights::MAP_READ,
            badge: None,
            limits: Limits::SAME,
            travel: Travel::Mint,
        };
        let ticket = self.connection.offer(&[item])?;
        self.connection.send(REGION_TAKE, &ticket.0.to_le_bytes(), 256)?.ok()?;
        task.delete(slot)
    }

    #[inline]
    fn once(&mut self) -> Result<(), rendez::Error> {
        self.sequence += 2;
        let number = self.sequence.to_le_bytes();
        let Self { connection, bytes, .. } = self;
        let mut small = [0; SMALL];
        small[..8].copy_from_slice(&number);
        match self.way {
            Way::Small => {
                let reply = connection.send(ANSWER, &small, SMALL)?.ok()?;
                check(reply, self.sequence + 1)
            }
            Way::Lease => {
                bytes[..8].copy_from_slice(&number);
                let mut lease = connection.lease(BYTES)?;
                lease.copy_from_slice(bytes);
                let room = Room::payload(0).lending(BYTES);
                let reply = connection.send_leased(LENT_BACK, &[], [lease], room)?;
                let (_, leases) = reply.ok()?;
                let read = leases.first().map_or(0, |lease| lease.copy_to(0, bytes));
                if read == BYTES { check(bytes, self.sequence + 1) } else { check(&[], 0) }
            }
            Way::LeaseUntouched => {
                let lease = connection.lease(BYTES)?;
                let reply = connection.send_leased(LENT_ONLY, &small, [lease], SMALL)?;
                check(reply.ok()?.0, self.sequence + 1)
            }
            Way::RegionMapped => {
                let reply = connection.send(REGION_USE, &small, SMALL)?.ok()?;
                check(reply, self.sequence + 1)
            }
            Way::RegionFirst => self.send_region(),
        }
    }

    fn pump(&mut self, length: Duration) -> Result<Vec<f64>, rendez::Error> {
        /// What is fast is timed several times together.
        const BATCH: u32 = 16;
        let batch = match self.way {
            Way::Lease | Way::RegionFirst => 1,
            Way::Small | Way::LeaseUntouched | Way::RegionMapped => BATCH,
        };
        let mut values = Vec::new();
        let start = Instant::now();
        // The first one finds caches cold.
        while start.elapsed() < length || values.len() < 2 {
            let before = Instant::now();
            for _ in 0..batch {
                self.once()?;
            }
            values.push(before.elapsed().as_nanos() as f64 / f64::from(batch));
        }
        values.remove(0);
        Ok(values)
    }
}

/// Whether a reply begins with this number.
fn check(reply: &[u8], expected: u64) -> Result<(), rendez::Error> {
    if reply.first_chunk() == Some(&expected.to_le_bytes()) {
        return Ok(());
    }
    Err(rendez::Error::system("comparing a reply", std::io::ErrorKind::InvalidData))
}

impl Subject for Passing<'_> {
    fn label(&self) -> &str {
        self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(POLICY)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.server.serve(POLICY)?;
        let pumped = self.pump(length);
        self.server.stop(&mut self.connection)?;
        let values = pumped.map_err(failed(self.label))?;
        Ok(Sample { value: median(&values).unwrap_or_default(), singles: Vec::new(), cpu_ns: None })
    }
}
