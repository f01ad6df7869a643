//! One connection on which transactions are taken apart by stamps, or measured whole.

use std::cell::RefCell;
use std::hint::black_box;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use rendez::{Connection, Options};

use super::super::Context;
use crate::Error;
use crate::interleave::{Sample, Subject};
use crate::mechanism::Wait;
use crate::report::{Class, WHOLE};
use crate::role::now_ns;
use crate::steps::{self, Stamps};
use crate::system::{FIVE, STAMP, ServerProcess, System, wait};

/// What lies between two stamps, in ns, without the reading of the clock where it is on the way.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Spans {
    /// The client encodes.
    pub(super) encode: f64,
    /// It writes and publishes the request, and rings a server that visibly sleeps.
    pub(super) publish: f64,
    /// It makes sure that the server does not sleep, while the request is already on its way.
    pub(super) look: f64,
    /// From there to the handler.
    pub(super) there: f64,
    /// The handler decodes.
    pub(super) decode: f64,
    /// It does what it is there for.
    pub(super) serve: f64,
    /// It encodes.
    pub(super) reply_encode: f64,
    /// The server writes and publishes the reply, and makes sure that the client does not sleep.
    pub(super) reply: f64,
    /// From there to the client's having it.
    pub(super) back: f64,
    /// The client decodes.
    pub(super) reply_decode: f64,
}

impl Spans {
    /// Readings of the clock that lie on the way of one transaction.
    pub(super) const READINGS: u32 = 7;

    /// Each of them, of many, put together by `merge`.
    pub(super) fn each(many: &[Self], merge: fn(Vec<f64>) -> f64) -> Self {
        let of = |span: fn(&Self) -> f64| merge(many.iter().map(span).collect());
        Self {
            encode: of(|spans| spans.encode),
            publish: of(|spans| spans.publish),
            look: of(|spans| spans.look),
            there: of(|spans| spans.there),
            decode: of(|spans| spans.decode),
            serve: of(|spans| spans.serve),
            reply_encode: of(|spans| spans.reply_encode),
            reply: of(|spans| spans.reply),
            back: of(|spans| spans.back),
            reply_decode: of(|spans| spans.reply_decode),
        }
    }

    /// All of them: the transaction.
    #[cfg(test)]
    pub(super) fn sum(&self) -> f64 {
        let there = self.encode + self.publish + self.look + self.there;
        let handler = self.decode + self.serve + self.reply_encode;
        there + handler + self.reply + self.back + self.reply_decode
    }
}

/// The mean of the values between the quartiles: unlike medians, means add up.
pub(super) fn middle(mut values: Vec<f64>) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let quarter = values.len() / 4;
    let middle = &values[quarter..values.len() - quarter];
    middle.iter().sum::<f64>() / middle.len().max(1) as f64
}

/// What reading the clock costs, in ns.
pub(super) fn reading_ns() -> f64 {
    const READINGS: u32 = 20_000;
    let start = now_ns();
    for _ in 0..READINGS {
        black_box(now_ns());
    }
    (now_ns() - start) as f64 / f64::from(READINGS + 1)
}

/// The spans of blocks.
pub(super) type Blocks = Rc<RefCell<Vec<Spans>>>;

/// When the client did what, in ns.
#[derive(Debug, Clone, Copy)]
struct Own {
    before: u64,
    encoded: u64,
    published: u64,
    looked: u64,
    answered: u64,
    decoded: u64,
}

/// One connection, with stamps and without by turns: connections differ by where their pages lie.
pub(super) struct Probe {
    wait: Wait,
    // Before the server's process, which then ends by itself.
    connection: Connection,
    server: ServerProcess,
    blocks: Blocks,
    reading_ns: f64,
    sequence: u64,
}

impl Probe {
    /// Connects to a server of its own. The spans of each block go to `blocks`.
    pub(super) fn set_up(
        context: &Context<'_>,
        system: &System,
        policy: Wait,
        blocks: Blocks,
    ) -> Result<Self, Error> {
        let server = system.server(&context.options.exe, context.cpus.get(1).copied())?;
        let options = Options { wait: wait(policy), ..Options::default() };
        let connection = server.connect_one(system.task(), &options)?;
        let reading_ns = reading_ns();
        Ok(Self { wait: policy, connection, server, blocks, reading_ns, sequence: 0 })
    }

    #[inline]
    fn numbers(&mut self) -> [u64; 5] {
        self.sequence += 1;
        black_box([self.sequence, 2, 3, 4, 5])
    }

    /// The whole, without stamps in between, as any program sends.
    fn plain(&mut self, length: Duration) -> io::Result<f64> {
        let mut values = Vec::new();
        let start = now_ns();
        let mut after = start;
        while after - start < nanoseconds(length) || values.len() < 2 {
            let numbers = self.numbers();
            let before = now_ns();
            let bytes = black_box(steps::encode(&numbers));
            let reply =
                self.connection.send(FIVE, &bytes, steps::BYTES).map_err(io::Error::other)?;
            let answer = black_box(steps::decode(reply.payload));
            after = now_ns();
            if answer != Some(numbers.map(|number| number + 1)) {
                return Err(io::ErrorKind::InvalidData.into());
            }
            values.push(self.within(before, after));
        }
        Ok(middle(values))
    }

    /// With stamps: all spans.
    fn stamped(&mut self, length: Duration) -> io::Result<Spans> {
        let mut found = Vec::new();
        // The server's stamps of a transaction come with the reply to the next.
        let mut last: Option<Own> = None;
        let start = now_ns();
        loop {
            let numbers = self.numbers();
            let before = now_ns();
            let bytes = black_box(steps::encode(&numbers));
            let encoded = now_ns();
            let begun = self.connection.begin_quietly(STAMP, &bytes, steps::BYTES);
            let published = now_ns();
            self.connection.flush();
            let looked = now_ns();
            let begun = begun.map_err(io::Error::other)?;
            let reply = self.connection.finish(begun).map_err(io::Error::other)?;
            let answered = now_ns();
            let answer = black_box(steps::decode(reply.payload));
            let decoded = now_ns();
            let server = Stamps::of(answer.ok_or(io::ErrorKind::InvalidData)?);
            let own = Own { before, encoded, published, looked, answered, decoded };
            if let Some(last) = last.replace(own) {
                let in_order = last.encoded <= server.received && server.encoded <= last.answered;
                if !in_order || server.replied > decoded {
                    let text = "the clock is not the same at both ends, or the server is wrong";
                    return Err(io::Error::new(io::ErrorKind::InvalidData, text));
                }
                found.push(self.spans(last, server));
            }
            if decoded - start >= nanoseconds(length) && found.len() >= 2 {
                return Ok(Spans::each(&found, middle));
            }
        }
    }

    /// The spans of one transaction. Whoever publishes or rings may still be at it when the other is
    /// awake already: such a step ends where the other's begins.
    fn spans(&self, own: Own, server: Stamps) -> Spans {
        let published = own.published.min(server.received);
        let looked = own.looked.min(server.received);
        let replied = server.replied.min(own.answered);
        Spans {
            encode: self.within(own.before, own.encoded),
            publish: self.within(own.encoded, published),
            look: (looked - published) as f64,
            there: (server.received - looked) as f64,
            decode: self.within(server.received, server.decoded),
            serve: self.within(server.decoded, server.served),
            reply_encode: self.within(server.served, server.encoded),
            reply: self.within(server.encoded, replied),
            back: (own.answered - replied) as f64,
            reply_decode: self.within(own.answered, own.decoded),
        }
    }

    /// The time from one stamp to the next of one process, less one reading.
    #[inline]
    fn within(&self, from: u64, to: u64) -> f64 {
        to as f64 - from as f64 - self.reading_ns
    }
}

fn nanoseconds(length: Duration) -> u64 {
    u64::try_from(length.as_nanos()).unwrap_or(u64::MAX)
}

impl Subject for Probe {
    fn label(&self) -> &str {
        WHOLE
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.wait)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    /// The whole for one half, the spans in the other.
    fn block(&mut self, length: Duration) -> Result<Sample, Error> {
        self.server.serve(self.wait)?;
        let whole = self.plain(length / 2);
        let spans = whole.is_ok().then(|| self.stamped(length / 2));
        self.server.stop(&mut self.connection)?;
        let failed = |error| Error::io("taking a send apart", error);
        let value = whole.map_err(failed)?;
        if let Some(spans) = spans {
            self.blocks.borrow_mut().push(spans.map_err(failed)?);
        }
        Ok(Sample { value, singles: Vec::new(), cpu_ns: None })
    }
}

#[cfg(test)]
mod tests {
    use super::{Spans, middle};

    #[test]
    fn strays_do_not_count() {
        assert!((middle(vec![100.0, 2.0, 1.0, 4.0]) - 3.0).abs() < 1e-9);
        assert!(middle(Vec::new()).abs() < 1e-9);
    }

    #[test]
    fn each_span_is_put_together_by_itself() {
        let one = Spans { encode: 1.0, back: 7.0, ..Spans::default() };
        let other = Spans { encode: 3.0, look: 2.0, ..Spans::default() };
        let both = Spans::each(&[one, other], |values| values.iter().sum());
        assert_eq!(both, Spans { encode: 4.0, look: 2.0, back: 7.0, ..Spans::default() });
        assert!((both.sum() - 13.0).abs() < 1e-9);
    }
}
