//! The loop around round trips: counts them, times them, checks their answers.

use std::io;
use std::time::Instant;

use crate::role::now_ns;
use crate::schedule::Schedule;

/// Round trips that are timed together, and as many again that are timed one by one, where reading
/// the clock would count. Fewer with a payload so large that it does not.
pub const BATCH: u32 = 16;

/// Payloads up to this are timed in batches of [`BATCH`].
const SMALL_BYTES: usize = 4096;

/// Payloads up to this are timed in batches of four; larger ones one by one.
const MEDIUM_BYTES: usize = 64 << 10;

/// What the clock costs: the median of reading it twice in a row, in nanoseconds.
pub(crate) fn clock_cost_ns() -> u64 {
    let mut costs: Vec<u64> = (0..10_001)
        .map(|_| {
            let before = Instant::now();
            let after = Instant::now();
            nanoseconds(before, after)
        })
        .collect();
    costs.sort_unstable();
    costs[costs.len() / 2]
}

fn nanoseconds(before: Instant, after: Instant) -> u64 {
    u64::try_from(after.duration_since(before).as_nanos()).unwrap_or(u64::MAX)
}

/// Runs and times the round trips of one block.
#[derive(Debug)]
pub struct Recorder {
    exchanges: u32,
    /// Round trips of a batch; as many at the start of a block are not timed, while caches and cores
    /// wake up.
    batch: u32,
    clock_cost_ns: u64,
    sequence: u64,
    payload: Vec<u8>,
    batches: Vec<f64>,
    singles: Vec<u64>,
    /// When round trips start, if not as soon as the one before is over.
    schedule: Option<Schedule>,
}

impl Recorder {
    pub(crate) fn new(payload_bytes: usize, clock_cost_ns: u64) -> Self {
        let payload = (0..payload_bytes).map(|at| at as u8).collect();
        let batch = if payload_bytes <= SMALL_BYTES {
            BATCH
        } else if payload_bytes <= MEDIUM_BYTES {
            4
        } else {
            1
        };
        Self {
            exchanges: 0,
            batch,
            clock_cost_ns,
            sequence: 0,
            payload,
            batches: Vec::new(),
            singles: Vec::new(),
            schedule: None,
        }
    }

    /// From now on round trips start when the schedule says so, and each is timed by itself, from
    /// the time at which it was meant to start.
    pub(crate) const fn follow(&mut self, schedule: Schedule) {
        self.schedule = Some(schedule);
    }

    /// Processor time that the latest block took to wait for scheduled starts, in nanoseconds.
    pub(crate) fn generator_ns(&self) -> u64 {
        self.schedule.map_or(0, |schedule| schedule.generator_ns())
    }

    /// The number of round trips nearest below `wanted` that a block can have.
    pub(crate) fn whole(&self, wanted: u32) -> u32 {
        let unit = 2 * self.batch;
        self.batch + (wanted.saturating_sub(self.batch) / unit).max(1) * unit
    }

    /// Makes ready for a block of that many round trips, which [`whole`](Self::whole) has rounded.
    pub(crate) fn begin(&mut self, exchanges: u32) {
        self.exchanges = exchanges;
        self.batches.clear();
        self.singles.clear();
        let units = (exchanges / (2 * self.batch) + 1) as usize;
        self.batches.reserve(units);
        self.singles.reserve(units * self.batch as usize);
    }

    /// Mean of a round trip in each batch, in nanoseconds.
    pub(crate) fn batches(&self) -> &[f64] {
        &self.batches
    }

    /// Round trips timed one by one, in nanoseconds, without the cost of the clock.
    pub(crate) fn singles(&self) -> &[u64] {
        &self.singles
    }

    /// Runs a whole block. `exchange` sends the payload that it is given and overwrites it with the
    /// answer.
    ///
    /// # Errors
    /// What `exchange` reports; `InvalidData` if an answer is not that of its request.
    #[inline]
    pub fn run(&mut self, mut exchange: impl FnMut(&mut [u8]) -> io::Result<()>) -> io::Result<()> {
        if let Some(mut schedule) = self.schedule {
            schedule.begin();
            let result = self.scheduled(&mut schedule, &mut exchange);
            self.schedule = Some(schedule);
            return result;
        }
        let batch = self.batch;
        for _ in 0..batch {
            one(&mut self.sequence, &mut self.payload, &mut exchange)?;
        }
        for _ in 0..(self.exchanges.saturating_sub(batch)) / (2 * batch) {
            let before = Instant::now();
            for _ in 0..batch {
                one(&mut self.sequence, &mut self.payload, &mut exchange)?;
            }
            let mut last = Instant::now();
            self.batches.push(nanoseconds(before, last) as f64 / f64::from(batch));
            for _ in 0..batch {
                one(&mut self.sequence, &mut self.payload, &mut exchange)?;
                let now = Instant::now();
                self.singles.push(nanoseconds(last, now).saturating_sub(self.clock_cost_ns));
                last = now;
            }
        }
        Ok(())
    }

    /// As many round trips as the block has, each when its time has come.
    #[inline(never)]
    fn scheduled(
        &mut self,
        schedule: &mut Schedule,
        exchange: &mut impl FnMut(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        for _ in 0..self.exchanges {
            let intended = schedule.wait();
            one(&mut self.sequence, &mut self.payload, exchange)?;
            self.singles.push(now_ns() - intended);
        }
        Ok(())
    }
}

/// One round trip, with a number to know its answer by.
#[inline(always)]
fn one(
    sequence: &mut u64,
    payload: &mut [u8],
    exchange: &mut impl FnMut(&mut [u8]) -> io::Result<()>,
) -> io::Result<()> {
    *sequence = sequence.wrapping_add(2);
    if let Some(first) = payload.first_chunk_mut::<8>() {
        *first = sequence.to_le_bytes();
    }
    exchange(payload)?;
    let answered = payload.first_chunk::<8>().map(|first| u64::from_le_bytes(*first));
    if answered != Some(sequence.wrapping_add(1)) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("request {sequence} was answered with {answered:?}, not with one more"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{BATCH, Recorder};
    use crate::mechanism::answer;

    #[test]
    fn a_block_has_exactly_its_round_trips() {
        for (bytes, batch) in [(16, BATCH), (8192, 4), (1 << 20, 1)] {
            for wanted in [0, 1, 3 * batch, 100, 1000] {
                let mut recorder = Recorder::new(bytes, 0);
                let exchanges = recorder.whole(wanted);
                assert!(exchanges >= 3 * batch);
                assert!(exchanges <= wanted.max(3 * batch));
                recorder.begin(exchanges);
                let mut count = 0;
                recorder
                    .run(|payload| {
                        count += 1;
                        answer(payload);
                        Ok(())
                    })
                    .expect("every answer is right");
                assert_eq!(count, exchanges);
                assert_eq!(recorder.batches().len() * batch as usize, recorder.singles().len());
            }
        }
    }

    #[test]
    fn a_wrong_answer_is_noticed() {
        let mut recorder = Recorder::new(8, 0);
        let exchanges = recorder.whole(0);
        recorder.begin(exchanges);
        let error = recorder.run(|_| Ok(())).expect_err("an echo is not an answer");
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    }
}
