//! `rendez down`: stops the running system.

use super::supervisor::Supervisor;
use crate::failure::{DEADLINE, Failure};
use crate::output::Output;
use nix::fcntl::{Flock, FlockArg};
use rendez::Task;
use rendez::runtime::Place;
use std::fs::File;
use std::time::{Duration, Instant};

/// How long the system may take to end.
const TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks.
const PAUSE: Duration = Duration::from_millis(10);

/// Asks the supervisor to stop, and waits until the front door is gone.
///
/// # Errors
/// If nothing is running, or it does not end.
pub(super) fn run(place: &Place, task: Task, output: &Output) -> Result<(), Failure> {
    Supervisor::of(&task)?.stop()?;
    drop(task);
    let late = Instant::now() + TIMEOUT;
    while !ended(place) {
        if Instant::now() > late {
            let socket = place.socket();
            return Err(Failure::new(
                DEADLINE,
                format!(
                    "the system was told to stop, and is still there after {} s (front door {})",
                    TIMEOUT.as_secs(),
                    socket.display()
                ),
            ));
        }
        std::thread::sleep(PAUSE);
    }
    output.value(&serde_json::json!({ "stopped": place.instance }));
    output.line("stopped");
    Ok(())
}

/// Whether the system has let go of its lock; it does that last.
fn ended(place: &Place) -> bool {
    // The front door first: taking the lock of a system that lives would disturb nobody but one that
    // is just starting.
    if place.socket().exists() && Task::front_door(place).is_ok() {
        return false;
    }
    match File::open(place.lock()) {
        Err(_) => true,
        Ok(file) => Flock::lock(file, FlockArg::LockSharedNonblock).is_ok(),
    }
}
