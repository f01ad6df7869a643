//! What a task says on its standard output and error: cut into lines, the last of which are kept.
//! No pipe here.

use std::collections::VecDeque;

/// The lines of a task that are kept.
pub const LINES_MAX: usize = 32;
/// The bytes of a line that are kept.
pub const LINE_BYTES_MAX: usize = 400;

/// The last lines of a task.
#[derive(Debug, Default)]
pub struct Log {
    lines: VecDeque<String>,
    /// A line that has not ended yet.
    open: Vec<u8>,
    /// Bytes of it that were left out.
    cut: usize,
}

impl Log {
    /// Takes in what was said; answers the lines that it completes.
    pub fn take(&mut self, bytes: &[u8]) -> Vec<String> {
        let mut complete = Vec::new();
        for (place, piece) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if place > 0 {
                complete.extend(self.end_line());
            }
            let room = LINE_BYTES_MAX - self.open.len();
            self.open.extend_from_slice(&piece[..piece.len().min(room)]);
            self.cut += piece.len().saturating_sub(room);
        }
        complete
    }

    /// The task has ended, perhaps in the middle of a line: answers that.
    pub fn end(&mut self) -> Option<String> {
        if self.open.is_empty() { None } else { self.end_line() }
    }

    /// The lines kept; from now on it is another incarnation that speaks.
    pub fn next_incarnation(&mut self) -> Vec<String> {
        self.open.clear();
        self.cut = 0;
        self.lines.drain(..).collect()
    }

    fn end_line(&mut self) -> Option<String> {
        let mut line = String::from_utf8_lossy(&std::mem::take(&mut self.open)).into_owned();
        if std::mem::take(&mut self.cut) > 0 {
            line.push('…');
        }
        if self.lines.len() == LINES_MAX {
            self.lines.pop_front();
        }
        self.lines.push_back(line.clone());
        Some(line)
    }
}

/// `line` as it is passed on: with the task's name, and nothing that could move a cursor.
#[must_use]
pub fn prefixed(name: &str, line: &str) -> String {
    let mut text = format!("{name}: ");
    for c in line.chars() {
        if c.is_control() && c != '\t' {
            text.extend(c.escape_debug());
        } else {
            text.push(c);
        }
    }
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::{LINE_BYTES_MAX, LINES_MAX, Log, prefixed};

    #[test]
    fn lines_come_in_pieces() {
        let mut log = Log::default();
        assert!(log.take(b"on").is_empty());
        assert_eq!(log.take(b"e\ntwo\nthr"), ["one", "two"]);
        assert_eq!(log.end().as_deref(), Some("thr"));
        assert_eq!(log.end(), None);
        assert_eq!(log.next_incarnation(), ["one", "two", "thr"]);
        assert!(log.next_incarnation().is_empty());
    }

    #[test]
    fn whatever_is_said_little_is_kept() {
        let mut log = Log::default();
        for _ in 0..1000 {
            log.take(&[b'x'; 4096]);
        }
        for number in 0..1000 {
            log.take(format!("\n{number}").as_bytes());
        }
        log.take(b"\n");
        let kept = log.next_incarnation();
        assert_eq!(kept.len(), LINES_MAX);
        assert_eq!(kept.last().map(String::as_str), Some("999"));
        log.take(&[b'x'; 4096]);
        let line = log.end().unwrap();
        assert!(line.ends_with('…') && line.len() < LINE_BYTES_MAX + 4);
        assert!(log.take(b"\xff\xfe\n")[0].contains('\u{fffd}'));
    }

    #[test]
    fn what_is_passed_on_obeys_the_reader() {
        assert_eq!(prefixed("a", "b\u{1b}[2J\tc"), "a: b\\u{1b}[2J\tc\n");
    }
}
