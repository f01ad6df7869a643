//! What ends a round trip that never comes back.
//!
//! A thread that looks a few times a second whether the current block has passed its time, or its
//! partner has ended. In the first case it kills the partner; in both it sets the client free.

use std::process::{Child, ExitStatus};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::Error;
use crate::mechanism::Rescue;

/// How long a block, or setting a partner up, may take.
pub(crate) const PATIENCE_SECONDS: u32 = 20;

const LOOK: Duration = Duration::from_millis(200);

/// The partner to kill, and what sets its client free.
type Watched = (Arc<Mutex<Child>>, Option<Rescue>);

/// Why the watchdog set a client free.
enum Freed {
    Late,
    Ended(ExitStatus),
}

struct State {
    start: Instant,
    patience: Duration,
    /// Milliseconds since `start`; 0 while nothing is watched.
    deadline_ms: AtomicU64,
    /// Why the client was set free, if it was.
    freed: Mutex<Option<Freed>>,
    ended: AtomicBool,
    watched: Mutex<Option<Watched>>,
}

impl State {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// The thread, and what it looks at.
pub(crate) struct Watchdog {
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Watchdog {
    pub(crate) fn new() -> Result<Self, Error> {
        Self::with_patience(Duration::from_secs(PATIENCE_SECONDS.into()))
    }

    fn with_patience(patience: Duration) -> Result<Self, Error> {
        let state = Arc::new(State {
            start: Instant::now(),
            patience,
            deadline_ms: AtomicU64::new(0),
            freed: Mutex::new(None),
            ended: AtomicBool::new(false),
            watched: Mutex::new(None),
        });
        let looked_at = Arc::clone(&state);
        let thread = thread::Builder::new()
            .name("watchdog".into())
            .spawn(move || watch(&looked_at))
            .map_err(|error| Error::io("starting the watchdog thread", error))?;
        Ok(Self { state, thread: Some(thread) })
    }

    /// Runs `work`, which waits for that partner, but not for ever.
    pub(crate) fn guard<T>(
        &self,
        label: &str,
        child: Arc<Mutex<Child>>,
        rescue: Option<Rescue>,
        work: impl FnOnce() -> Result<T, Error>,
    ) -> Result<T, Error> {
        let state = &self.state;
        *state.watched.lock().unwrap_or_else(PoisonError::into_inner) = Some((child, rescue));
        let patience_ms = u64::try_from(state.patience.as_millis()).unwrap_or(u64::MAX);
        // ORDERING: SeqCst throughout; none of this is on a measured path.
        state.deadline_ms.store((state.now_ms() + patience_ms).max(1), Ordering::SeqCst);
        let result = work();
        state.deadline_ms.store(0, Ordering::SeqCst);
        let freed = state.freed.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mechanism = label.to_owned();
        match (result, freed) {
            (Err(_), Some(Freed::Late)) => {
                Err(Error::Stuck { mechanism, seconds: state.patience.as_secs() })
            }
            (Err(Error::Io { .. }), Some(Freed::Ended(status))) => Err(Error::Partner {
                mechanism,
                reason: format!("it ended unexpectedly: {status}"),
            }),
            (result, _) => result,
        }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.state.ended.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.thread().unpark();
            // It panics nowhere; and if it did, it has said so.
            let _ = thread.join();
        }
    }
}

fn watch(state: &State) {
    while !state.ended.load(Ordering::SeqCst) {
        thread::park_timeout(LOOK);
        let deadline = state.deadline_ms.load(Ordering::SeqCst);
        if deadline == 0 {
            continue;
        }
        let watched = state.watched.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((child, rescue)) = watched.as_ref() else { continue };
        let mut child = child.lock().unwrap_or_else(PoisonError::into_inner);
        let freed = match child.try_wait() {
            Ok(Some(status)) => Freed::Ended(status),
            _ if state.now_ms() < deadline => continue,
            _ => {
                // It may have ended just now.
                let _ = child.kill();
                Freed::Late
            }
        };
        state.freed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(freed);
        if let Some(rescue) = rescue {
            rescue();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Watchdog;
    use crate::Error;
    use std::process::{Command, Stdio};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, Mutex};
    use std::thread;
    use std::time::Duration;

    #[test]
    fn a_stuck_block_is_ended_and_named() {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("sleep");
        let child = Arc::new(Mutex::new(child));
        let freed = Arc::new(AtomicBool::new(false));
        let rescue = Arc::clone(&freed);
        let watchdog = Watchdog::with_patience(Duration::from_millis(10)).expect("a thread");
        let result: Result<(), Error> = watchdog.guard(
            "slow",
            Arc::clone(&child),
            Some(Arc::new(move || rescue.store(true, Ordering::SeqCst))),
            || {
                while !freed.load(Ordering::SeqCst) {
                    thread::sleep(Duration::from_millis(1));
                }
                Err(Error::Arguments { reason: "set free".into() })
            },
        );
        assert!(matches!(result, Err(Error::Stuck { mechanism, .. }) if mechanism == "slow"));
        child.lock().expect("unpoisoned").wait().expect("killed");
    }
}
