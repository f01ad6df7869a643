//! `rendez stat`: what is known of a name or file.

use super::name_space::{Files, Place, SMALL, Target, find, kind_name, unreachable};
use crate::arguments::NamePath;
use crate::failure::Failure;
use crate::output::{HEAD, Output, bytes, printable};
use rendez::{Connection, Options, Task};
use serde::Serialize;

/// What is known.
#[derive(Debug, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
enum Known {
    /// A directory of names.
    Names { path: String, entries: usize },
    /// A registered server.
    Server {
        path: String,
        /// What it speaks, if it says.
        interface: Option<String>,
        /// The task that serves.
        task: String,
        /// What a capability to it can do, as letters.
        rights: String,
        /// How often it has been served, this time included.
        incarnation: u32,
    },
    /// A file, or what else a file server has.
    #[serde(untagged)]
    File {
        path: String,
        kind: &'static str,
        size: u64,
        mode: String,
        modified: String,
        modified_ns: i64,
    },
}

/// Says what is known of `path`.
///
/// # Errors
/// If it is not there.
pub(super) fn run(task: &Task, path: &NamePath, output: &Output) -> Result<(), Failure> {
    let known = match find(task, path)? {
        Target::Names(entries) => Known::Names { path: path.to_string(), entries: entries.len() },
        Target::Server(place) if place.rest.is_empty() => server(task, &place)?,
        Target::Server(place) => file(task, place)?,
    };
    output.value(&known);
    for (name, value) in lines(&known) {
        output.line(format_args!("{HEAD}{name:<12}{HEAD:#}{value}"));
    }
    Ok(())
}

fn server(task: &Task, place: &Place) -> Result<Known, Failure> {
    let connection = Connection::open(task, place.capability.slot, &Options::default())
        .map_err(|error| unreachable(error, &place.name))?;
    Ok(Known::Server {
        path: place.name.clone(),
        interface: connection.interface().map(ToString::to_string),
        task: connection.server().to_string(),
        rights: place.capability.rights.to_letters(),
        incarnation: connection.generation(),
    })
}

fn file(task: &Task, place: Place) -> Result<Known, Failure> {
    let files = Files::of(task, place, SMALL)?;
    let stat = files.stat().map_err(|error| files.failure(error))?;
    Ok(Known::File {
        path: files.path(),
        kind: kind_name(stat.kind),
        size: stat.size,
        mode: format!("{:04o}", stat.mode & 0o7777),
        modified: utc(stat.modified_ns),
        modified_ns: stat.modified_ns,
    })
}

fn lines(known: &Known) -> Vec<(&'static str, String)> {
    let path = |path: &str| ("path", printable(path).into_owned());
    match known {
        Known::Names { path: name, entries } => {
            let kind = format!("directory of names ({entries})");
            vec![path(name), ("kind", kind)]
        }
        Known::Server { path: name, interface, task, rights, incarnation } => vec![
            path(name),
            ("kind", "server".into()),
            (
                "interface",
                interface.as_deref().map_or("not said".into(), |it| printable(it).into()),
            ),
            ("served by", format!("{task}, incarnation {incarnation}")),
            ("rights", format!("{rights} (what can be had of it; see `rendez run --help`)")),
        ],
        Known::File { path: name, kind, size, mode, modified, .. } => vec![
            path(name),
            ("kind", (*kind).into()),
            (
                "size",
                if *size < 1024 { bytes(*size) } else { format!("{} ({size} B)", bytes(*size)) },
            ),
            ("mode", mode.clone()),
            ("modified", modified.clone()),
        ],
    }
}

/// A time in ns since 1970 as a date.
fn utc(ns: i64) -> String {
    let seconds = ns.div_euclid(1_000_000_000);
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    // Days since 1 March 0000, in the Gregorian calendar; its year ends with the leap day.
    let days = days + 719_468;
    let (era, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    format!(
        "{:04}-{month:02}-{of_month:02} {:02}:{:02}:{:02} UTC",
        era * 400 + year + later,
        second / 3_600,
        second / 60 % 60,
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use super::utc;

    #[test]
    fn dates() {
        for (seconds, date) in [
            (0, "1970-01-01 00:00:00 UTC"),
            (-1, "1969-12-31 23:59:59 UTC"),
            (951_782_400, "2000-02-29 00:00:00 UTC"),
            (951_868_800, "2000-03-01 00:00:00 UTC"),
            (1_700_000_000, "2023-11-14 22:13:20 UTC"),
            (4_107_542_400, "2100-03-01 00:00:00 UTC"),
        ] {
            assert_eq!(utc(seconds * 1_000_000_000), date);
        }
        // The whole range is a date of some sort.
        let _ = (utc(i64::MIN), utc(i64::MAX));
    }
}
