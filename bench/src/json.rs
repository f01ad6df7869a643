//! Reports as JSON: one line per point, and errors that say what to do.

use std::io;
use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::ser::{Formatter, PrettyFormatter};

use crate::Error;
use crate::report::{FORMAT, Report};

/// What is nested deeper than this stays on one line. A point is.
const DEEPEST: usize = 6;

/// The report as JSON, a line per point.
///
/// # Errors
/// None that is known; a report holds nothing that JSON cannot express.
pub(crate) fn write(report: &Report) -> Result<String, serde_json::Error> {
    let mut bytes = Vec::new();
    let formatter = Lines { pretty: PrettyFormatter::with_indent(b" "), depth: 0 };
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
    report.serialize(&mut serializer)?;
    String::from_utf8(bytes).map_err(serde::ser::Error::custom)
}

/// Reads a report from a file.
///
/// # Errors
/// If the file cannot be read, is cut off, is no JSON, no report, or one of another format. Each
/// names the file and says what to do.
pub(crate) fn load(path: &Path) -> Result<Report, Error> {
    let text = std::fs::read_to_string(path)
        .map_err(|error| Error::io(format!("reading {}", path.display()), error))?;
    read(&text).map_err(|what| Error::Unreadable { path: path.to_owned(), what })
}

/// As much of a report as tells whether it is one, and of which format.
#[derive(Deserialize)]
struct Outline {
    format: Option<u32>,
    machine: Option<serde::de::IgnoredAny>,
    rows: Option<serde::de::IgnoredAny>,
    experiments: Option<serde::de::IgnoredAny>,
}

/// Whether an error comes of the text's end. What is left of a number need not be one, as in `12.`:
/// that is wrong in the last byte.
fn is_cut_off(error: &serde_json::Error, text: &str) -> bool {
    let last = text.lines().last().unwrap_or_default();
    let at_end = error.line() >= text.lines().count() && error.column() >= last.len();
    error.is_eof() || (error.is_syntax() && at_end && text.starts_with('{'))
}

/// Reads a report, or says what is wrong with it and what to do.
fn read(text: &str) -> Result<Report, String> {
    let place =
        |error: &serde_json::Error| format!("line {}, column {}", error.line(), error.column());
    if text.trim().is_empty() {
        return Err("it is empty: the run that was to write it did not finish; repeat it".into());
    }
    let outline: Outline = serde_json::from_str(text).map_err(|error| {
        use serde_json::error::Category;
        let place = place(&error);
        match error.classify() {
            _ if is_cut_off(&error, text) => {
                format!("it is cut off ({place}): copy it again, or repeat the run that wrote it")
            }
            Category::Syntax => format!(
                "it is not JSON ({error}): give a file that `rendez bench --json FILE` wrote"
            ),
            _ => format!(
                "it is not a report ({error}): give a file that `rendez bench --json FILE` wrote"
            ),
        }
    })?;
    match outline {
        Outline { format: Some(FORMAT), .. } => serde_json::from_str(text).map_err(|error| {
            format!("it says that it is a report, but it is damaged ({error}): repeat the run that wrote it")
        }),
        Outline { format: Some(other), experiments: Some(_), .. } => Err(format!(
            "it is a report of format {other}, and this version reads format {FORMAT}: repeat the \
             run with this version, or compare with the version that wrote it"
        )),
        Outline { format: None, machine: Some(_), rows: Some(_), .. } => Err(format!(
            "it is a report of format 1, from an older version, and this one reads format {FORMAT}: \
             repeat the run with this version"
        )),
        _ => Err("it is JSON, but not a report: give a file that `rendez bench --json FILE` wrote".into()),
    }
}

/// Indents as usual, but only the outer levels.
struct Lines {
    pretty: PrettyFormatter<'static>,
    depth: usize,
}

impl Lines {
    const fn opens(&mut self) -> bool {
        self.depth += 1;
        self.depth <= DEEPEST
    }

    const fn closes(&mut self) -> bool {
        self.depth -= 1;
        self.depth < DEEPEST
    }
}

impl Formatter for Lines {
    fn begin_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.opens() { self.pretty.begin_array(writer) } else { writer.write_all(b"[") }
    }

    fn end_array<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.closes() { self.pretty.end_array(writer) } else { writer.write_all(b"]") }
    }

    fn begin_array_value<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if self.depth <= DEEPEST {
            self.pretty.begin_array_value(writer, first)
        } else if first {
            Ok(())
        } else {
            writer.write_all(b",")
        }
    }

    fn end_array_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.depth <= DEEPEST { self.pretty.end_array_value(writer) } else { Ok(()) }
    }

    fn begin_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.opens() { self.pretty.begin_object(writer) } else { writer.write_all(b"{") }
    }

    fn end_object<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.closes() { self.pretty.end_object(writer) } else { writer.write_all(b"}") }
    }

    fn begin_object_key<W: ?Sized + io::Write>(
        &mut self,
        writer: &mut W,
        first: bool,
    ) -> io::Result<()> {
        if self.depth <= DEEPEST {
            self.pretty.begin_object_key(writer, first)
        } else if first {
            Ok(())
        } else {
            writer.write_all(b",")
        }
    }

    fn begin_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        writer.write_all(if self.depth <= DEEPEST { b": " } else { b":" })
    }

    fn end_object_value<W: ?Sized + io::Write>(&mut self, writer: &mut W) -> io::Result<()> {
        if self.depth <= DEEPEST { self.pretty.end_object_value(writer) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::{read, write};
    use crate::report::samples::report;

    #[test]
    fn there_and_back() {
        let report = report();
        let text = write(&report).expect("plain data");
        assert_eq!(read(&text), Ok(report));
    }

    #[test]
    fn a_point_is_a_line() {
        let report = report();
        let points = report
            .experiments
            .iter()
            .flat_map(|experiment| &experiment.series)
            .flat_map(|series| &series.points)
            .count();
        let text = write(&report).expect("plain data");
        let lines = text.lines().filter(|line| line.contains("\"summary\":{")).count();
        assert_eq!(lines, points, "{text}");
        assert!(text.lines().all(|line| !line.ends_with(' ')), "{text}");
    }

    #[test]
    fn wherever_it_is_cut_off_that_is_said() {
        let text = write(&report()).expect("plain data");
        let end = text.trim_end().len();
        for (at, _) in text[..end].char_indices().skip(1) {
            let what = read(&text[..at]).expect_err("a part of a report");
            assert!(what.contains("cut off (line ") && what.contains("repeat"), "{at}: {what}");
        }
        assert!(read(" \n").expect_err("nothing").contains("empty"));
    }

    #[test]
    fn what_is_no_report_is_told_apart() {
        for (text, expected) in [
            ("hello", "not JSON"),
            ("[1, 2]", "not a report"),
            ("{\"name\": \"x\"}", "not a report"),
            ("{\"machine\": {}, \"quick\": true, \"rows\": [], \"notes\": []}", "format 1"),
            ("{\"format\": 3, \"machine\": {}, \"experiments\": []}", "format 3"),
            ("{\"format\": 2, \"machine\": {}, \"experiments\": []}", "damaged"),
        ] {
            let what = read(text).expect_err("no report");
            assert!(what.contains(expected), "{text}: {what}");
        }
    }
}
