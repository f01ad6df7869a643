//! What a command says: aligned and coloured for people on a terminal, plain in a pipe, JSON for
//! scripts.

use crate::failure::{FAILED, Failure};
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal, Write};
use std::sync::atomic::{AtomicBool, Ordering};

/// Where and how to say things. Colours are stripped where the stream is no terminal.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

/// Whether something that was said on standard output was lost, other than because nobody reads on.
static LOST: AtomicBool = AtomicBool::new(false);

/// For what went well.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For what did not.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
/// For what could be better.
pub const WARN: Style = AnsiColor::Yellow.on_default().bold();
/// For what is beside the point.
pub const DIM: Style = Style::new().dimmed();
/// For headings.
pub const HEAD: Style = Style::new().bold();

impl Output {
    /// JSON if `json`.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether JSON is wanted.
    #[must_use]
    pub const fn is_json(&self) -> bool {
        self.json
    }

    /// Whether people look at standard error while this runs.
    #[must_use]
    pub fn shows_progress(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }

    /// Says a line to people; nothing if JSON is wanted.
    pub fn line(&self, text: impl std::fmt::Display) {
        if !self.json {
            note(writeln!(anstream::stdout(), "{text}"));
        }
    }

    /// Shows what is wrong with a text, on standard error; nothing if JSON is wanted.
    pub fn picture(&self, text: impl std::fmt::Display) {
        if !self.json {
            let _ = writeln!(anstream::stderr(), "{text}");
        }
    }

    /// Says a value to scripts; nothing if it is people who listen.
    pub fn value<T: Serialize + ?Sized>(&self, value: &T) {
        if self.json {
            let text = serde_json::to_string_pretty(value).unwrap_or_else(|error| {
                serde_json::json!({ "error": error.to_string() }).to_string()
            });
            note(writeln!(std::io::stdout(), "{text}"));
        }
    }

    /// Whether all that was said reached standard output. A reader that had enough (`| head`) is no
    /// failure.
    ///
    /// # Errors
    /// If some of it was lost.
    pub fn finish(&self) -> Result<(), Failure> {
        note(std::io::stdout().flush());
        // ORDERING: Relaxed; a flag by itself.
        if LOST.load(Ordering::Relaxed) {
            return Err(Failure::new(
                FAILED,
                "standard output could not be written: is its disk full?",
            ));
        }
        Ok(())
    }

    /// Says why the command failed: to people on standard error, to scripts as `{"error": …}`.
    pub fn failure(&self, failure: &Failure) {
        if failure.code() == 0 {
            // Nobody reads on: nobody is told.
        } else if self.json {
            self.value(
                &serde_json::json!({ "error": failure.to_string(), "code": failure.code() }),
            );
        } else {
            let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {failure}");
        }
    }
}

fn note(written: std::io::Result<()>) {
    if written.is_err_and(|error| error.kind() != ErrorKind::BrokenPipe) {
        // ORDERING: Relaxed; as in `finish`.
        LOST.store(true, Ordering::Relaxed);
    }
}

/// `text`, which somebody else wrote, with its control characters escaped: it cannot move the cursor
/// or begin a line of its own.
#[must_use]
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.chars().any(char::is_control) {
        return text.into();
    }
    let escape = |c: char| {
        if c.is_control() { c.escape_debug().to_string() } else { c.to_string() }
    };
    text.chars().map(escape).collect::<String>().into()
}

/// A number of bytes for people: `1.5 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    match count {
        0..1024 => format!("{count} B"),
        _ => indicatif::BinaryBytes(count).to_string(),
    }
}

/// The columns that `cell` takes, without its colours.
fn width(cell: &str) -> usize {
    anstream::adapter::strip_str(cell).to_string().chars().count()
}

/// `rows` as lines with aligned columns, under `head` in bold.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| width(cell)).collect();
    for row in rows {
        for (widest, cell) in widths.iter_mut().zip(row) {
            *widest = (*widest).max(width(cell));
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (place, (cell, widest)) in cells.iter().zip(&widths).enumerate() {
            text.push_str(cell);
            if place + 1 < cells.len() {
                text.extend(std::iter::repeat_n(' ', widest - width(cell) + 2));
            }
        }
        text.trim_end().to_owned()
    };
    let head: Vec<String> = head.iter().map(|cell| (*cell).to_owned()).collect();
    let mut text = format!("{HEAD}{}{HEAD:#}", line(&head));
    for row in rows {
        text.push('\n');
        text.push_str(&line(row));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::{BAD, bytes, printable, table};

    #[test]
    fn columns_are_aligned_whatever_their_colours() {
        let rows = [
            vec!["a".to_owned(), "b".to_owned()],
            vec![format!("{BAD}long{BAD:#}"), "c".to_owned()],
        ];
        let plain = anstream::adapter::strip_str(&table(&["x", "y"], &rows)).to_string();
        assert_eq!(plain, "x     y\na     b\nlong  c");
    }

    #[test]
    fn control_characters_are_shown_not_obeyed() {
        assert_eq!(printable("näme"), "näme");
        assert_eq!(printable("a\nb\u{1b}[1m"), "a\\nb\\u{1b}[1m");
    }

    #[test]
    fn sizes() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1023), "1023 B");
        assert_eq!(bytes(1536), "1.50 KiB");
    }
}
