//! One connection with several transactions in flight, driven by one thread.

use std::io;
use std::time::{Duration, Instant};

use rendez::{Connection, Options};

use super::Context;
use crate::Error;
use crate::interleave::{Sample, Subject};
use crate::mechanism::Wait;
use crate::report::Class;
use crate::role::thread_cpu_ns;
use crate::system::{EMPTY, Served, ServerProcess, System, wait};

/// Bytes of a request: it fits into one line.
const PAYLOAD: usize = 40;

/// Fewest transactions between two looks at the clock.
const STRIDE: u32 = 256;

/// What is sent, and how much of it at once.
#[derive(Debug, Clone, Copy)]
pub(super) struct Shape {
    /// The operation: the reply is the request, one higher, or [`EMPTY`].
    pub(super) operation: u16,
    /// The longest reply, in bytes.
    pub(super) room: usize,
    /// Lines of both rings.
    pub(super) lines: u32,
    /// Transactions in flight.
    pub(super) window: u32,
    /// Replies that are taken, and then requests that are begun, in one go.
    pub(super) chunk: u32,
}

/// A connection, and its server in a process of its own.
pub(super) struct Pipeline {
    label: String,
    wait: Wait,
    shape: Shape,
    // Before the server's process, which then ends by itself.
    connection: Connection,
    server: ServerProcess,
    sequence: u64,
    /// Transactions and the first eight bytes of the replies that they should get, oldest first from
    /// the place where the next chunk begins.
    flight: Vec<(u64, u64)>,
}

impl Pipeline {
    /// Starts a server on the partner's processor and connects.
    pub(super) fn set_up(
        context: &Context<'_>,
        system: &System,
        label: &str,
        policy: Wait,
        shape: Shape,
    ) -> Result<Self, Error> {
        let server = system.server(&context.options.exe, context.cpus.get(1).copied())?;
        let ring = rendez_protocol::kernel::Shape { lines: shape.lines, ..Default::default() };
        let options =
            Options { requests: ring, replies: ring, wait: wait(policy), ..Options::default() };
        let connection = server.connect_one(system.task(), &options)?;
        let (label, flight) = (label.to_owned(), vec![(0, 0); shape.window as usize]);
        Ok(Self { label, wait: policy, shape, connection, server, sequence: 0, flight })
    }

    /// Keeps the window full for about that long; answers how many were completed in what time.
    fn pump(&mut self, length: Duration) -> io::Result<(u64, Duration)> {
        let Shape { window, chunk, .. } = self.shape;
        let mut flight = std::mem::take(&mut self.flight);
        for place in &mut flight {
            *place = self.begin()?;
        }
        let laps = STRIDE.div_ceil(window);
        let mut turn = |own: &mut Self| -> io::Result<()> {
            for _ in 0..laps {
                for places in flight.chunks_exact_mut(chunk as usize) {
                    for place in places.iter() {
                        own.finish(*place)?;
                    }
                    for place in places {
                        *place = own.begin()?;
                    }
                }
            }
            Ok(())
        };
        turn(self)?;
        let start = Instant::now();
        let mut count = 0;
        let mut took = Duration::ZERO;
        while took < length {
            turn(self)?;
            count += u64::from(laps * window);
            took = start.elapsed();
        }
        for place in &flight {
            self.finish(*place)?;
        }
        self.flight = flight;
        Ok((count, took))
    }

    #[inline]
    fn begin(&mut self) -> io::Result<(u64, u64)> {
        let Shape { operation, room, .. } = self.shape;
        self.sequence += 1;
        let mut payload = [0; PAYLOAD];
        payload[..8].copy_from_slice(&self.sequence.to_le_bytes());
        let begun = self.connection.begin_quietly(operation, &payload, room);
        Ok((begun.map_err(io::Error::other)?, self.sequence + 1))
    }

    #[inline]
    fn finish(&mut self, (transaction, expected): (u64, u64)) -> io::Result<()> {
        let reply = self.connection.finish(transaction).map_err(io::Error::other)?;
        let right = match self.shape.operation {
            EMPTY => reply.payload.is_empty(),
            _ => reply.payload.first_chunk() == Some(&expected.to_le_bytes()),
        };
        if right && reply.status.is_ok() {
            return Ok(());
        }
        let text = format!("request {} was answered wrongly", expected - 1);
        Err(io::Error::new(io::ErrorKind::InvalidData, text))
    }
}

impl Subject for Pipeline {
    fn label(&self) -> &str {
        &self.label
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.wait)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.server.serve(self.wait)?;
        let before = thread_cpu_ns();
        let pumped = self.pump(length).map_err(|error| Error::io(&*self.label, error))?;
        let own = thread_cpu_ns() - before;
        let Served { cpu_ns, .. } = self.server.stop(&mut self.connection)?;
        let (count, took) = pumped;
        Ok(Sample {
            value: count as f64 / took.as_secs_f64(),
            singles: Vec::new(),
            cpu_ns: Some((own + cpu_ns) as f64 / count as f64),
        })
    }
}
