//! One block of one mechanism, without measuring anything: does it pass messages at all?
//!
//! Who adds a mechanism begins here.

use std::io;
use std::path::Path;

use crate::Error;
use crate::launch::Launcher;
use crate::mechanism::{Block, Mechanism, Setting, label};
use crate::recorder::Recorder;
use crate::watchdog::Watchdog;

/// Sets a mechanism up, with its partner in a process of its own, and runs each variant of its block
/// twice, as short as a block can be. Every answer is checked. It answers how many round trips there
/// were. Neither process is pinned to a processor.
///
/// `exe` is the executable to start, as in [`Options::exe`](crate::Options::exe).
///
/// # Errors
/// What went wrong in either process; [`Io`](Error::Io) with a source of the kind
/// [`Unsupported`](io::ErrorKind::Unsupported) if the mechanism is not to be had here, or does not
/// carry such a payload.
pub fn trial(exe: &Path, mechanism: &dyn Mechanism, setting: Setting) -> Result<u32, Error> {
    let label = label(mechanism);
    mechanism.carries(setting.payload_bytes).map_err(|limit| {
        Error::io(label.clone(), io::Error::new(io::ErrorKind::Unsupported, limit))
    })?;
    let watchdog = Watchdog::new()?;
    let mut launcher = Launcher::new(exe, label.clone(), setting, None);
    let mut client = mechanism
        .connect(setting, &mut launcher)
        .map_err(|error| Error::io(format!("setting {label} up"), error))?;
    let partner = launcher.into_partner()?;
    watchdog.guard(&label, partner.child(), client.rescue(), || partner.hello())?;

    let mut recorder = Recorder::new(setting.payload_bytes, 0);
    let exchanges = recorder.whole(0);
    let mut made = 0;
    for _ in 0..2 {
        for variant in 0..client.variants().max(1) {
            let block = Block { exchanges, variant };
            let rescue = client.rescue();
            watchdog.guard(&label, partner.child(), rescue, || {
                recorder.begin(exchanges);
                partner.begin(block)?;
                client
                    .prepare(block)
                    .and_then(|()| client.block(&mut recorder))
                    .map_err(|error| Error::io(label.clone(), error))?;
                partner.finish()
            })?;
            made += exchanges;
        }
    }
    Ok(made)
}
