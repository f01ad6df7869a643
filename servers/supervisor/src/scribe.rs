//! The scribe: a thread that passes on what tasks say. Standard error may be a terminal that somebody
//! has stopped: the scribe waits then, and the supervisor does not. What there is no room for
//! meanwhile is left out, and that is said.

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};

/// Lines that may wait.
const LINES_MAX: usize = 1024;

/// The supervisor's side of the scribe.
#[derive(Debug)]
pub(crate) struct Scribe {
    lines: SyncSender<String>,
    lost: u64,
}

impl Scribe {
    /// Starts the thread.
    ///
    /// # Errors
    /// What Linux says.
    pub(crate) fn start() -> io::Result<Self> {
        let (lines, to_write) = sync_channel::<String>(LINES_MAX);
        std::thread::Builder::new().name("scribe".into()).spawn(move || {
            for line in to_write {
                // Nobody who reads: nobody to tell.
                let _ = io::stderr().write_all(line.as_bytes());
            }
        })?;
        Ok(Self { lines, lost: 0 })
    }

    /// Passes a line on, with its newline.
    pub(crate) fn write(&mut self, line: String) {
        if self.lost > 0 {
            let lost = format!("supervisor: {} lines were left out here\n", self.lost);
            match self.lines.try_send(lost) {
                Ok(()) => self.lost = 0,
                Err(_) => {
                    self.lost += 1;
                    return;
                }
            }
        }
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.lost += 1;
        }
    }
}
