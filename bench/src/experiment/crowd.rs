//! Many client threads of one process in a closed loop, started and stopped together.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;

/// Stack of a client thread, in bytes: it does next to nothing.
const STACK: usize = 256 << 10;

/// The part of a block before counting begins: until all threads run and have found their pace.
const RAMP: u32 = 4;

/// A client that sends and waits.
pub(super) trait Caller: Send + 'static {
    /// Sends this number; answers the first eight bytes of the reply.
    fn exchange(&mut self, number: u64) -> io::Result<u64>;

    /// Tells the server to rest.
    fn stop(&mut self) -> io::Result<()>;
}

/// What a crowd did in one block.
#[derive(Debug, Clone, Copy)]
pub(super) struct Counted {
    /// Transactions while they were counted.
    pub(super) count: u64,
    /// How long they were counted.
    pub(super) took: Duration,
    /// Transactions in the whole block.
    pub(super) all: u64,
    /// Clients without a single one.
    pub(super) starved: usize,
}

/// The threads, asleep between blocks.
pub(super) struct Crowd<C> {
    shared: Arc<Shared<C>>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared<C> {
    callers: Vec<Mutex<C>>,
    /// Transactions of each client in all blocks, written by its thread only.
    counts: Vec<Padded>,
    running: AtomicBool,
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Stage {
    /// Number of the latest block.
    block: u64,
    /// Threads that are still in it.
    active: usize,
    ended: bool,
    failure: Option<io::Error>,
}

/// A counter with a cache line of its own.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Padded(AtomicU64);

impl<C: Caller> Crowd<C> {
    /// A thread for each caller; they run where this thread may run.
    pub(super) fn new(callers: Vec<C>) -> Result<Self, Error> {
        let shared = Arc::new(Shared {
            counts: callers.iter().map(|_| Padded::default()).collect(),
            callers: callers.into_iter().map(Mutex::new).collect(),
            running: AtomicBool::new(false),
            stage: Mutex::default(),
            changed: Condvar::new(),
        });
        let mut crowd = Self { shared: Arc::clone(&shared), threads: Vec::new() };
        for index in 0..shared.callers.len() {
            let shared = Arc::clone(&shared);
            let thread = thread::Builder::new()
                .name(format!("client-{index}"))
                .stack_size(STACK)
                .spawn(move || shared.client(index))
                .map_err(|error| Error::io("starting a client thread", error))?;
            crowd.threads.push(thread);
        }
        Ok(crowd)
    }

    /// Lets all run, counts for about that long, and has the server rest.
    pub(super) fn block(&self, length: Duration) -> io::Result<Counted> {
        let Shared { callers, counts, running, changed, .. } = &*self.shared;
        let before: Vec<u64> = counts.iter().map(Padded::get).collect();
        // ORDERING: Relaxed; the lock below publishes it.
        running.store(true, Ordering::Relaxed);
        {
            let mut stage = self.shared.stage();
            stage.block += 1;
            stage.active = callers.len();
        }
        changed.notify_all();
        thread::sleep(length / RAMP);
        let (from, start) = self.look();
        thread::sleep(length);
        let (to, end) = self.look();
        // ORDERING: Relaxed; each thread sees it before long, and nothing depends on when.
        running.store(false, Ordering::Relaxed);
        let mut stage = self.shared.stage();
        while stage.active > 0 {
            stage = changed.wait(stage).unwrap_or_else(PoisonError::into_inner);
        }
        let failure = stage.failure.take();
        drop(stage);
        if let Some(first) = callers.first() {
            first.lock().unwrap_or_else(PoisonError::into_inner).stop()?;
        }
        failure.map_or(Ok(()), Err)?;
        let done = counts.iter().zip(before).map(|(count, before)| count.get() - before);
        let (mut all, mut starved) = (0, 0);
        for count in done {
            all += count;
            starved += usize::from(count == 0);
        }
        Ok(Counted { count: to - from, took: end - start, all, starved })
    }

    /// The sum of all counts, and when it was so.
    fn look(&self) -> (u64, Instant) {
        /// Beyond this, this thread lost the processor while it looked, and looks again.
        const AT_ONCE: Duration = Duration::from_micros(50);
        const ATTEMPTS: u32 = 8;
        let mut attempt = 1;
        loop {
            let start = Instant::now();
            let sum = self.shared.counts.iter().map(Padded::get).sum();
            let took = start.elapsed();
            if took < AT_ONCE || attempt == ATTEMPTS {
                return (sum, start + took / 2);
            }
            attempt += 1;
        }
    }
}

impl Padded {
    fn get(&self) -> u64 {
        // ORDERING: Relaxed; a count by itself.
        self.0.load(Ordering::Relaxed)
    }
}

impl<C: Caller> Shared<C> {
    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The thread of one client.
    fn client(&self, index: usize) {
        let mut block = 0;
        loop {
            {
                let mut stage = self.stage();
                while stage.block == block && !stage.ended {
                    stage = self.changed.wait(stage).unwrap_or_else(PoisonError::into_inner);
                }
                if stage.ended {
                    return;
                }
                block = stage.block;
            }
            let result = self.run(index);
            let mut stage = self.stage();
            if let Err(error) = result {
                stage.failure.get_or_insert(error);
            }
            stage.active -= 1;
            if stage.active == 0 {
                self.changed.notify_all();
            }
        }
    }

    fn run(&self, index: usize) -> io::Result<()> {
        let mut caller = self.callers[index].lock().unwrap_or_else(PoisonError::into_inner);
        let counter = &self.counts[index].0;
        let mut count = counter.load(Ordering::Relaxed);
        while self.running.load(Ordering::Relaxed) {
            let answered = caller.exchange(count)?;
            if answered != count + 1 {
                let text = format!("request {count} was answered with {answered}");
                return Err(io::Error::new(io::ErrorKind::InvalidData, text));
            }
            count += 1;
            counter.store(count, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<C> Drop for Crowd<C> {
    fn drop(&mut self) {
        self.shared.stage.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It panics nowhere; and if it did, it has said so.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Caller, Crowd};
    use std::io;
    use std::time::Duration;

    /// Answers itself, until it has had enough.
    struct Own(u64);

    impl Caller for Own {
        fn exchange(&mut self, number: u64) -> io::Result<u64> {
            if number < self.0 { Ok(number + 1) } else { Err(io::ErrorKind::BrokenPipe.into()) }
        }

        fn stop(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn all_run_and_all_stop() {
        let crowd = Crowd::new((0..8).map(|_| Own(u64::MAX)).collect()).expect("threads");
        for _ in 0..3 {
            let counted = crowd.block(Duration::from_millis(5)).expect("no failure");
            assert!(counted.all >= counted.count);
            assert!(counted.took >= Duration::from_millis(5));
        }
    }

    #[test]
    fn a_failing_client_fails_the_block() {
        let crowd = Crowd::new(vec![Own(u64::MAX), Own(10)]).expect("threads");
        let error = loop {
            // The second one fails once it has run at all.
            if let Err(error) = crowd.block(Duration::from_millis(5)) {
                break error;
            }
        };
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
