//! Spinners of idle priority, so that no processor halts.
//!
//! Waking a halted core takes tens of microseconds on many machines, and far longer on a virtual one,
//! whose hypervisor has to be asked. A spinner that Linux runs only when nothing else wants the
//! processor keeps it from halting and takes next to nothing from anybody: what remains is the cost
//! of the software.
//!
//! The spinners are threads, so they end with the process whatever happens to it. Outside
//! [`Spinners::during`] they sleep.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::{hint, io};

use crate::Error;
use crate::idle_priority;
use crate::launch;
use crate::role::thread_cpu_ns;

/// Looks at the flag between two pauses.
const LOOKS: u32 = 1 << 10;

/// One spinner per processor.
#[derive(Debug)]
pub(crate) struct Spinners {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    spin: AtomicBool,
    /// Spinners at rest, whose processor time is in `cpu_ns`.
    resting: AtomicUsize,
    cpu_ns: AtomicU64,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// Counts the times that spinning was asked for.
    turn: u64,
    ended: bool,
}

impl Spinners {
    /// One on each of these processors, asleep.
    ///
    /// # Errors
    /// If a thread cannot be started; or if Linux refuses idle priority or the processor: spinners
    /// that get in the way are worse than none.
    pub(crate) fn new(cpus: &[usize]) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let mut spinners = Self { shared, threads: Vec::new() };
        let (ready, started) = std::sync::mpsc::channel();
        for &cpu in cpus {
            let shared = Arc::clone(&spinners.shared);
            let ready = ready.clone();
            let thread = thread::Builder::new()
                .name(format!("spinner-{cpu}"))
                .spawn(move || {
                    let place = idle_priority::take()
                        .and_then(|()| launch::pin(cpu).map_err(io::Error::other));
                    let refused = place.is_err();
                    // Whoever started this waits for it.
                    let _ = ready.send(place);
                    if !refused {
                        spin(&shared);
                    }
                })
                .map_err(|error| Error::io("starting a spinner", error))?;
            spinners.threads.push(thread);
        }
        for _ in cpus {
            let place = started.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()));
            place.map_err(|error| Error::io("giving a spinner its place", error))?;
        }
        Ok(spinners)
    }

    /// Does this while all spin. Answers what it gave.
    pub(crate) fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        let shared = &*self.shared;
        // ORDERING: SeqCst throughout; none of this is on a measured path.
        shared.resting.store(0, Ordering::SeqCst);
        shared.spin.store(true, Ordering::SeqCst);
        shared.state.lock().unwrap_or_else(PoisonError::into_inner).turn += 1;
        shared.changed.notify_all();
        let resting = Rest(self);
        let done = work();
        drop(resting);
        done
    }

    /// Processor time that all spinners have used, up to the last time that they went to rest.
    pub(crate) fn cpu_ns(&self) -> u64 {
        self.shared.cpu_ns.load(Ordering::SeqCst)
    }
}

/// Lets the spinners rest when it is dropped, also when a panic passes.
struct Rest<'a>(&'a Spinners);

impl Drop for Rest<'_> {
    fn drop(&mut self) {
        let shared = &*self.0.shared;
        shared.spin.store(false, Ordering::SeqCst);
        let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        // Asleep here, this thread leaves its processor to the spinner that has to see the flag.
        while shared.resting.load(Ordering::SeqCst) < self.0.threads.len() {
            state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Drop for Spinners {
    fn drop(&mut self) {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.notify_all();
        for thread in self.threads.drain(..) {
            // It panics nowhere; and if it did, it has said so.
            let _ = thread.join();
        }
    }
}

/// A spinner's life.
fn spin(shared: &Shared) {
    let mut turn = 0;
    let mut booked = 0;
    loop {
        {
            let mut state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
            while state.turn == turn && !state.ended {
                state = shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            if state.ended {
                return;
            }
            turn = state.turn;
        }
        while shared.spin.load(Ordering::SeqCst) {
            for _ in 0..LOOKS {
                hint::spin_loop();
            }
        }
        let _state = shared.state.lock().unwrap_or_else(PoisonError::into_inner);
        let used = thread_cpu_ns();
        shared.cpu_ns.fetch_add(used - booked, Ordering::SeqCst);
        booked = used;
        shared.resting.fetch_add(1, Ordering::SeqCst);
        shared.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::Spinners;
    use std::time::{Duration, Instant};

    #[test]
    fn spinners_spin_during_the_work_and_never_outside() {
        let cpus = crate::machine::choose_cpus();
        let spinners = Spinners::new(&cpus[..1]).expect("idle priority is for everybody");
        assert_eq!(spinners.cpu_ns(), 0, "asleep at first");
        for round in 1..=3 {
            let until = Instant::now() + Duration::from_millis(5);
            let answer = spinners.during(|| {
                while Instant::now() < until {
                    std::thread::sleep(Duration::from_millis(1));
                }
                round
            });
            assert_eq!(answer, round);
        }
        let used = spinners.cpu_ns();
        std::thread::sleep(Duration::from_millis(5));
        assert_eq!(spinners.cpu_ns(), used, "asleep again");
    }

    #[test]
    fn a_place_that_cannot_be_had_is_an_error() {
        assert!(Spinners::new(&[usize::MAX]).is_err());
    }
}
