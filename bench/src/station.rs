//! A mechanism, set up in two processes, and measured block by block.

use std::io;
use std::time::{Duration, Instant};

use crate::Error;
use crate::experiment::Context;
use crate::interleave::{Sample, Subject};
use crate::launch::{Launcher, Partner};
use crate::mechanism::{Block, Client, Mechanism, Setting, Wait, label};
use crate::recorder::Recorder;
use crate::report::{Class, Cores};
use crate::role::thread_cpu_ns;
use crate::schedule::Schedule;
use crate::statistics::median;

/// Most round trips in one block.
const MOST: u32 = 1 << 22;

/// A mechanism, set up and waiting for its next block.
pub(crate) struct Station<'c> {
    context: &'c Context<'c>,
    mechanism: &'static dyn Mechanism,
    label: String,
    cores: Cores,
    listed: bool,
    // The client's half goes before the partner, which then ends by itself.
    client: Box<dyn Client>,
    partner: Partner,
    recorder: Recorder,
    /// Mean of a round trip lately, in nanoseconds, to plan the next block with.
    expected_ns: f64,
}

impl<'c> Station<'c> {
    /// Sets a mechanism up, and measures short blocks that grow, until its cost is known well enough
    /// to plan with. `None`, and a note, if it does not carry that payload, does not make sense on so
    /// many cores, or is not to be had here.
    ///
    /// # Errors
    /// Anything else.
    pub(crate) fn set_up(
        context: &'c Context<'c>,
        mechanism: &'static dyn Mechanism,
        payload_bytes: usize,
        cores: Cores,
        listed: bool,
    ) -> Result<Option<Self>, Error> {
        let label = label(mechanism);
        if !mechanism.runs_on(cores.processors()) {
            return Ok(None);
        }
        if let Err(limit) = mechanism.carries(payload_bytes) {
            context.note(format!("{label}: {limit}"));
            return Ok(None);
        }
        let setting = Setting { payload_bytes, cores: cores.processors() };
        let cpu = context.cpus.get(setting.cores - 1).copied();
        let mut launcher = Launcher::new(&context.options.exe, label.clone(), setting, cpu);
        let client = match mechanism.connect(setting, &mut launcher) {
            Ok(client) => client,
            Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                context.note(format!("{label} is left out: {error}"));
                return Ok(None);
            }
            Err(error) => return Err(Error::io(format!("setting {label} up"), error)),
        };
        let partner = launcher.into_partner()?;
        let remark =
            context.watchdog.guard(&label, partner.child(), client.rescue(), || partner.hello())?;
        if let Some(remark) = remark {
            context.note(format!("partner: {remark}"));
        }
        let mut station = Self {
            context,
            mechanism,
            label,
            cores,
            listed,
            client,
            partner,
            recorder: Recorder::new(payload_bytes, context.clock_cost_ns),
            expected_ns: f64::MAX,
        };
        for microseconds in [100, 1000] {
            station.block(Duration::from_micros(microseconds))?;
        }
        Ok(Some(station))
    }

    /// A block of so many round trips with a fixed gap between their starts, each timed from the
    /// start that was meant for it. The generator's own processor time does not count.
    pub(crate) fn scheduled(&mut self, gap_ns: u64, exchanges: u32) -> Result<Sample, Error> {
        self.recorder.follow(Schedule::every(gap_ns));
        let before = thread_cpu_ns();
        let partner_ns = self.variant(Block { exchanges, variant: 0 })?;
        let own_ns = (thread_cpu_ns() - before).saturating_sub(self.recorder.generator_ns());
        let singles = self.recorder.singles().to_vec();
        let values: Vec<f64> = singles.iter().map(|ns| *ns as f64).collect();
        let value = median(&values).unwrap_or_default();
        let cpu_ns = Some((own_ns + partner_ns) as f64 / f64::from(exchanges.max(1)));
        Ok(Sample { value, singles, cpu_ns })
    }

    /// What a round trip took lately, in nanoseconds, with nothing between two of them.
    pub(crate) const fn expected_ns(&self) -> f64 {
        self.expected_ns
    }

    /// One variant of one block; answers the partner's processor time, in nanoseconds.
    fn variant(&mut self, block: Block) -> Result<u64, Error> {
        let Self { client, partner, label, recorder, context, .. } = self;
        let label = label.as_str();
        let rescue = client.rescue();
        context.watchdog.guard(label, partner.child(), rescue, || {
            recorder.begin(block.exchanges);
            partner.begin(block)?;
            let done = client.prepare(block).and_then(|()| client.block(recorder));
            if let Err(error) = done {
                // A client that failed of itself leaves a partner that waits for more: what the
                // partner says comes first, the watchdog sees to it that something comes.
                return Err(match error.kind() {
                    io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset => {
                        partner.reason().unwrap_or_else(|| Error::io(label, error))
                    }
                    _ => Error::io(label, error),
                });
            }
            partner.finish()
        })
    }
}

impl Subject for Station<'_> {
    fn label(&self) -> &str {
        &self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.mechanism.waits())
    }

    fn class(&self) -> Class {
        self.mechanism.class()
    }

    fn listed(&self) -> bool {
        self.listed
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        let context = self.context;
        let variants = self.client.variants().max(1);
        let share = length.as_nanos() as f64 / f64::from(variants);
        let wanted = (share / self.expected_ns).min(f64::from(MOST)) as u32;
        let exchanges = self.recorder.whole(wanted);
        let mut best: Option<Sample> = None;
        let start = Instant::now();
        for variant in 0..variants {
            let cpu_before = context.own_cpu_ns();
            let partner_ns =
                context.on(self.cores, || self.variant(Block { exchanges, variant }))?;
            // A spinner books what it used just before it sleeps, and the rest of it the next time:
            // that can be more than a block of one exchange.
            let own_ns = context.own_cpu_ns().saturating_sub(cpu_before);
            let cpu_ns = (own_ns + partner_ns) as f64 / f64::from(exchanges);
            if let Some(value) = median(self.recorder.batches())
                && best.as_ref().is_none_or(|best| value < best.value)
            {
                let singles = self.recorder.singles().to_vec();
                best = Some(Sample { value, singles, cpu_ns: Some(cpu_ns) });
            }
        }
        let took = start.elapsed();
        self.expected_ns =
            (took.as_nanos() as f64 / f64::from(exchanges) / f64::from(variants)).max(1.0);
        best.ok_or_else(|| Error::Partner {
            mechanism: self.label.clone(),
            reason: "the client's half did not use the recorder".into(),
        })
    }
}
