//! Two bare rings, with an answer for each message: what a full transaction can be at most.
//!
//! An answer has no payload, and says that its message is read, so nobody needs to say how far it
//! is. As in the [bare ring](super::bare_ring): nothing is checked, nobody sleeps.

use std::hint;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;

use super::bare_ring::{PAYLOAD, Ring, SELDOM, spin};
use super::exactly;
use crate::role::{Actor, Role, exactly as numbers, thread_cpu_ns};

/// One end of two rings: it writes one and reads the other.
#[derive(Debug)]
pub(crate) struct Asker {
    requests: Ring,
    answers: Ring,
    /// Messages, of either ring.
    position: u64,
}

impl Asker {
    /// Two new rings, and the descriptors through which [`BareAnswers`] answers.
    pub(crate) fn create(lines: u32) -> io::Result<(Self, [OwnedFd; 2])> {
        let (requests, one) = Ring::create(lines)?;
        let (answers, other) = Ring::create(lines)?;
        Ok((Self { requests, answers, position: 0 }, [one, other]))
    }

    /// Has that many messages answered, as many in flight as a ring has lines, each quarter of which
    /// is taken in and then written anew at once.
    pub(crate) fn ask(&mut self, count: u64, pauses: u64) -> io::Result<()> {
        match pauses {
            0 => self.run::<0>(count),
            1 => self.run::<1>(count),
            _ => self.run::<SELDOM>(count),
        }
    }

    fn run<const PAUSES: u32>(&mut self, count: u64) -> io::Result<()> {
        let Self { requests, answers, position } = self;
        let (lines, answered) = (requests.lines(), answers.lines());
        let mask = lines.len() - 1;
        let (in_flight, chunk) = (lines.len() as u64, (lines.len() as u64 / 4).max(1));
        let (start, end) = (*position, *position + count);
        let mut payload = [0_u8; PAYLOAD];
        let mut asked = start;
        for taken in start..end {
            if (taken - start).is_multiple_of(chunk) {
                while asked < end.min(taken + in_flight) {
                    payload[..8].copy_from_slice(&asked.to_le_bytes());
                    let line = &lines[asked as usize & mask];
                    let words = hint::black_box(&payload).as_chunks().0;
                    for (word, bytes) in line.payload.iter().zip(words) {
                        // ORDERING: Relaxed; the turn's Release makes it visible.
                        word.store(u64::from_le_bytes(*bytes), Ordering::Relaxed);
                    }
                    // ORDERING(bare answers): Release; the payload comes first. Pairs with
                    // `Answerer::run`.
                    line.turn.store(requests.turn(asked), Ordering::Release);
                    asked += 1;
                }
            }
            let (line, turn) = (&answered[taken as usize & mask], answers.turn(taken));
            spin::<PAUSES, _>(|| {
                // ORDERING(bare answers): Acquire; the line is written again after it. Pairs with
                // `Answerer::run`.
                (line.turn.load(Ordering::Acquire) == turn).then_some(())
            })?;
        }
        *position = end;
        Ok(())
    }
}

/// The answering process. Arguments and orders as for [`BareRing`](super::BareRing).
#[derive(Debug)]
pub(crate) struct BareAnswers;

impl Role for BareAnswers {
    fn name(&self) -> &'static str {
        "bare-ring-answered"
    }

    fn enter(&self, arguments: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let [requests, answers] = exactly(descriptors)?;
        let [lines] = numbers(arguments)?;
        let lines = u32::try_from(lines).map_err(|_| io::ErrorKind::InvalidInput)?;
        let (requests, answers) = (Ring::map(requests, lines)?, Ring::map(answers, lines)?);
        Ok(Box::new(Answerer { requests, answers, position: 0 }))
    }
}

struct Answerer {
    requests: Ring,
    answers: Ring,
    position: u64,
}

impl Answerer {
    fn run<const PAUSES: u32>(&mut self, count: u64) -> io::Result<()> {
        let Self { requests, answers, position } = self;
        let (lines, answered) = (requests.lines(), answers.lines());
        let mask = lines.len() - 1;
        let mut payload = [0_u8; PAYLOAD];
        let end = *position + count;
        while *position < end {
            let (line, turn) = (&lines[*position as usize & mask], requests.turn(*position));
            spin::<PAUSES, _>(|| {
                // ORDERING(bare answers): Acquire; the payload is read after it. Pairs with
                // `Asker::run`.
                (line.turn.load(Ordering::Acquire) == turn).then_some(())
            })?;
            for (word, bytes) in line.payload.iter().zip(payload.as_chunks_mut().0) {
                // ORDERING: Relaxed; the turn's Acquire made it visible.
                *bytes = word.load(Ordering::Relaxed).to_le_bytes();
            }
            if hint::black_box(&payload)[..8] != position.to_le_bytes() {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "not what was written"));
            }
            // ORDERING(bare answers): Release; the payload was read before, so its line is free.
            // Pairs with `Asker::run`.
            answered[*position as usize & mask].turn.store(turn, Ordering::Release);
            *position += 1;
        }
        Ok(())
    }
}

impl Actor for Answerer {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        let [count, pauses] = numbers(order)?;
        let before = thread_cpu_ns();
        match pauses {
            0 => self.run::<0>(count),
            1 => self.run::<1>(count),
            _ => self.run::<SELDOM>(count),
        }?;
        Ok(vec![thread_cpu_ns() - before])
    }
}

#[cfg(test)]
mod tests {
    use super::{Asker, BareAnswers};
    use crate::role::Role;

    #[test]
    fn each_message_is_answered() {
        let (mut asker, memory) = Asker::create(8).expect("two memfds");
        let answering = std::thread::spawn(|| {
            let mut answerer = BareAnswers.enter(&[8], memory.into()).expect("mapped again");
            answerer.act(&[101, 8]).expect("all in order");
            answerer.act(&[3, 0]).expect("it goes on where it was");
        });
        asker.ask(101, 8).expect("answered to the end");
        asker.ask(3, 0).expect("answered to the end");
        answering.join().expect("no panic");
    }
}
