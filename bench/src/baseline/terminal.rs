//! The communications file: a pseudo-terminal, one side a file that the other side answers.
//!
//! The client has the controlling side, the partner the side that looks like a terminal. It is in
//! raw mode, so that bytes go through as they are; and it is no process's controlling terminal, so
//! that nobody gets a signal when it goes away.

use std::io;
use std::os::fd::OwnedFd;

use rustix::pty::{OpenptFlags, grantpt, ioctl_tiocgptpeer, openpt, unlockpt};
use rustix::termios::{OptionalActions, tcgetattr, tcsetattr};

use super::bytes::{Ends, server};
use super::{exactly, lacking};
use crate::Launcher;
use crate::mechanism::{Client, Mechanism, Server, Setting};

/// A pair of ends of one pseudo-terminal.
#[derive(Debug)]
pub(crate) struct PseudoTerminal;

impl Mechanism for PseudoTerminal {
    fn name(&self) -> &'static str {
        "pseudo-terminal"
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (mine, theirs) =
            open().map_err(|error| lacking("a pseudo-terminal (/dev/ptmx, devpts)", error))?;
        launcher.start(&[theirs])?;
        Ok(Box::new(Ends::new(mine, None)))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [terminal] = exactly(descriptors)?;
        Ok(server(setting, Ends::new(terminal, None)))
    }
}

fn open() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let controller = openpt(flags)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    let terminal = ioctl_tiocgptpeer(&controller, flags)?;
    let mut mode = tcgetattr(&terminal)?;
    mode.make_raw();
    tcsetattr(&terminal, OptionalActions::Now, &mode)?;
    Ok((controller, terminal))
}

#[cfg(test)]
mod tests {
    use super::open;

    #[test]
    fn bytes_go_through_as_they_are() {
        let Ok((controller, terminal)) = open() else {
            eprintln!("no pseudo-terminals here: not tested");
            return;
        };
        let all: Vec<u8> = (0..=255).collect();
        for (from, to) in [(&controller, &terminal), (&terminal, &controller)] {
            assert_eq!(rustix::io::write(from, &all).expect("written"), all.len());
            let mut out = Vec::new();
            while out.len() < all.len() {
                let mut part = [0; 256];
                let count = rustix::io::read(to, &mut part).expect("read");
                out.extend_from_slice(&part[..count]);
            }
            assert_eq!(out, all);
        }
    }
}
