//! A terminal that shows a screen and gives keys; it is left as it was found, whatever ends this.
//!
//! Keys come one by one and unechoed, and the screen is the second one that terminals keep. Signals
//! that would end the process are keys too, as far as this thread is concerned, so that the way out
//! is always the same.

use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{
    OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetwinsize, tcsetattr,
};
use std::io::{self, Stdin, Stdout, Write};
use std::time::{Duration, Instant};

/// A key, or what is like one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Key {
    /// None was pressed in time.
    None,
    /// `q`, Ctrl-C, the end of the input, or a signal to end.
    Quit,
    Up,
    Down,
    /// The terminal has another size.
    Resized,
    /// Any other, of which only ASCII means anything.
    Character(u8),
}

/// The terminal, while it is ours.
#[derive(Debug)]
pub(super) struct Terminal {
    input: Stdin,
    output: Stdout,
    signals: SignalFd,
    blocked_before: SigSet,
    before: Termios,
}

/// The second screen, cleared, without a cursor and without lines that wrap.
const ENTER: &str = "\x1b[?1049h\x1b[2J\x1b[?25l\x1b[?7l";
/// The reverse.
const LEAVE: &str = "\x1b[?7h\x1b[?25h\x1b[?1049l";
/// What is shown between these appears at once, where the terminal knows them.
const BEGIN: &str = "\x1b[?2026h\x1b[H";
const END: &str = "\x1b[?2026l";
/// What a terminal is taken to be that does not say how large it is.
const SIZE: (usize, usize) = (80, 24);

impl Terminal {
    /// Takes it over.
    ///
    /// # Errors
    /// What Linux says.
    pub(super) fn open() -> io::Result<Self> {
        let (input, output) = (io::stdin(), io::stdout());
        let before = tcgetattr(&input)?;
        let wanted: SigSet = [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP, Signal::SIGWINCH]
            .into_iter()
            .collect();
        let blocked_before = SigSet::thread_get_mask()?;
        wanted.thread_block()?;
        let signals =
            SignalFd::with_flags(&wanted, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        // From here on dropping it gives everything back.
        let mut terminal = Self { input, output, signals, blocked_before, before: before.clone() };
        let mut raw = before;
        raw.make_raw();
        raw.special_codes[SpecialCodeIndex::VMIN] = 0;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        tcsetattr(&terminal.input, OptionalActions::Flush, &raw)?;
        terminal.output.write_all(ENTER.as_bytes())?;
        terminal.output.flush()?;
        Ok(terminal)
    }

    /// Columns and lines.
    pub(super) fn size(&self) -> (usize, usize) {
        match tcgetwinsize(&self.output) {
            Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
                (size.ws_col.into(), size.ws_row.into())
            }
            _ => SIZE,
        }
    }

    /// Shows these lines.
    ///
    /// # Errors
    /// What Linux says.
    pub(super) fn show(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::from(BEGIN);
        for (place, line) in lines.iter().enumerate() {
            if place > 0 {
                text.push_str("\r\n");
            }
            text.push_str(line);
            // The rest of the line.
            text.push_str("\x1b[K");
        }
        text.push_str("\x1b[J");
        text.push_str(END);
        self.output.write_all(text.as_bytes())?;
        self.output.flush()
    }

    /// The next key, if one is pressed within `patience`, and what is left of that.
    ///
    /// # Errors
    /// What Linux says.
    pub(super) fn key(&mut self, patience: Duration) -> io::Result<(Key, Duration)> {
        let until = Instant::now() + patience;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            let timeout = Timespec {
                tv_sec: left.as_secs().try_into().unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            let mut polled = [
                PollFd::new(&self.input, PollFlags::IN),
                PollFd::new(&self.signals, PollFlags::IN),
            ];
            match poll(&mut polled, Some(&timeout)) {
                Ok(0) => return Ok((Key::None, Duration::ZERO)),
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Err(error.into()),
            }
            let pressed = !polled[0].revents().is_empty();
            if let Some(signal) = self.signals.read_signal()? {
                let resized = signal.ssi_signo == Signal::SIGWINCH as u32;
                return Ok((if resized { Key::Resized } else { Key::Quit }, left));
            }
            if pressed {
                let mut bytes = [0; 16];
                let count = rustix::io::read(&self.input, &mut bytes)?;
                let key = key(&bytes[..count]);
                return Ok((key, until.saturating_duration_since(Instant::now())));
            }
        }
    }
}

/// What was pressed. Several keys at once count as the first.
fn key(bytes: &[u8]) -> Key {
    match bytes {
        [] | [b'q' | b'Q' | 3 | 4, ..] => Key::Quit,
        [0x1b, b'[' | b'O', b'A', ..] | [b'k', ..] => Key::Up,
        [0x1b, b'[' | b'O', b'B', ..] | [b'j', ..] => Key::Down,
        [byte, ..] => Key::Character(*byte),
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // If these fail the terminal is gone.
        let _ = self.output.write_all(LEAVE.as_bytes());
        let _ = self.output.flush();
        let _ = tcsetattr(&self.input, OptionalActions::Flush, &self.before);
        let _ = self.blocked_before.thread_set_mask();
    }
}

#[cfg(test)]
mod tests {
    use super::{Key, key};

    #[test]
    fn keys_are_told_apart() {
        for (bytes, expected) in [
            (&b""[..], Key::Quit),
            (b"q", Key::Quit),
            (b"\x03", Key::Quit),
            (b"\x1b[A", Key::Up),
            (b"\x1bOB", Key::Down),
            (b"s", Key::Character(b's')),
            (b"\xff\xfe", Key::Character(0xff)),
        ] {
            assert_eq!(key(bytes), expected, "{bytes:?}");
        }
    }
}
