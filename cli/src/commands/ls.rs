//! `rendez ls`: what is in a directory of names, or of files.

use super::name_space::{Files, Place, SMALL, Target, find, kind_name};
use crate::arguments::NamePath;
use crate::failure::Failure;
use crate::output::{HEAD, Output, bytes, printable, table};
use rendez::Task;
use rendez::protocol::file::{Kind, status};
use serde::Serialize;

/// One entry.
#[derive(Debug, Serialize)]
struct Entry {
    name: String,
    /// `names`, `server`, or a sort of file.
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
}

/// Lists `path`.
///
/// # Errors
/// If it is not there, or cannot be looked into.
pub(super) fn run(
    task: &Task,
    path: &NamePath,
    long: bool,
    output: &Output,
) -> Result<(), Failure> {
    let entries = match find(task, path)? {
        Target::Names(names) => names
            .into_iter()
            .map(|entry| {
                let kind = if entry.registered { "server" } else { "names" };
                Entry { name: entry.name, kind, size: None }
            })
            .collect(),
        Target::Server(place) => inside(task, place)?,
    };
    output.value(&entries);
    if long && !entries.is_empty() {
        let rows: Vec<_> = entries.iter().map(row).collect();
        output.line(table(&["KIND", "SIZE", "NAME"], &rows));
    } else {
        for entry in &entries {
            output.line(shown(entry));
        }
    }
    Ok(())
}

/// The entries of a directory at a server; what is no directory is its own only entry.
fn inside(task: &Task, place: Place) -> Result<Vec<Entry>, Failure> {
    let files = Files::of(task, place, SMALL)?;
    let entry = |name: String, kind, size| Entry {
        name,
        kind: kind_name(kind),
        size: (kind == Kind::File).then_some(size),
    };
    match files.list() {
        Ok(entries) => {
            Ok(entries.into_iter().map(|found| entry(found.name, found.kind, found.size)).collect())
        }
        Err(error) if error.status() == Some(status::NOT_DIRECTORY) => {
            let stat = files.stat().map_err(|error| files.failure(error))?;
            Ok(vec![entry(files.path(), stat.kind, stat.size)])
        }
        Err(error) => Err(files.failure(error)),
    }
}

fn shown(entry: &Entry) -> String {
    let name = printable(&entry.name);
    match entry.kind {
        "names" | "directory" => format!("{HEAD}{name}{HEAD:#}/"),
        _ => name.into_owned(),
    }
}

fn row(entry: &Entry) -> Vec<String> {
    vec![entry.kind.into(), entry.size.map(bytes).unwrap_or_default(), shown(entry)]
}
