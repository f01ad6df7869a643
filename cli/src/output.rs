//! What a command says: aligned and coloured for people on a terminal, plain in a pipe, JSON for
//! scripts.

use crate::failure::Failure;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Where and how to say things. Colours are stripped where the stream is no terminal.
#[derive(Clone, Copy, Debug)]
pub struct Output {
    json: bool,
}

/// For what went well.
pub const GOOD: Style = AnsiColor::Green.on_default().bold();
/// For what did not.
pub const BAD: Style = AnsiColor::Red.on_default().bold();
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
            let _ = writeln!(anstream::stdout(), "{text}");
        }
    }

    /// Says a value to scripts; nothing if it is people who listen.
    pub fn value<T: Serialize + ?Sized>(&self, value: &T) {
        if self.json {
            let text = serde_json::to_string_pretty(value).unwrap_or_else(|error| {
                serde_json::json!({ "error": error.to_string() }).to_string()
            });
            let _ = writeln!(std::io::stdout(), "{text}");
        }
    }

    /// Says why the command failed: to people on standard error, to scripts as `{"error": …}`.
    pub fn failure(&self, failure: &Failure) {
        if self.json {
            self.value(
                &serde_json::json!({ "error": failure.to_string(), "code": failure.code() }),
            );
        } else {
            let _ = writeln!(anstream::stderr(), "{BAD}error:{BAD:#} {failure}");
        }
    }
}

/// `rows` as lines with aligned columns, under `head` in bold.
#[must_use]
pub fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &[String]| {
        let mut text = String::new();
        for (place, (cell, width)) in cells.iter().zip(&widths).enumerate() {
            if place + 1 == cells.len() {
                text.push_str(cell);
            } else {
                text.push_str(&format!("{cell:<width$}  "));
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
