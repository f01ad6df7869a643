//! `rendez status`: whether a system is running, and how its servers are.

use super::supervisor::Supervisor;
use crate::failure::{FAILED, Failure};
use crate::output::{BAD, GOOD, HEAD, Output, printable, table};
use rendez::Task;
use rendez::protocol::supervisor::Server;
use rendez::runtime::Place;
use serde::Serialize;

/// What there is to say.
#[derive(Debug, Serialize)]
struct Status<'a> {
    running: bool,
    instance: &'a str,
    socket: std::path::PathBuf,
    kernel_version: String,
    servers: &'a [Server],
}

/// Says how the system is. The exit code says whether all its servers live.
///
/// # Errors
/// If none is running, or the supervisor does not answer.
pub(super) fn run(place: &Place, task: &Task, output: &Output) -> Result<u8, Failure> {
    let servers = Supervisor::of(task)?.list()?;
    let status = Status {
        running: true,
        instance: &place.instance,
        socket: place.socket(),
        kernel_version: task.kernel_version().to_string(),
        servers: &servers,
    };
    output.value(&status);
    for (name, value) in [
        ("instance", status.instance.to_owned()),
        ("front door", status.socket.display().to_string()),
        ("kernel", format!("speaks version {}", status.kernel_version)),
    ] {
        output.line(format_args!("{HEAD}{name:<12}{HEAD:#}{value}"));
    }
    let rows: Vec<_> = servers.iter().map(row).collect();
    output.line(format_args!(
        "\n{}",
        table(&["SERVER", "STATE", "PID", "STARTS", "LAST END"], &rows)
    ));
    Ok(if servers.iter().all(|server| server.pid.is_some()) { 0 } else { FAILED })
}

fn row(server: &Server) -> Vec<String> {
    let state = if server.pid.is_some() {
        format!("{GOOD}up{GOOD:#}")
    } else {
        format!("{BAD}down{BAD:#}")
    };
    vec![
        printable(&server.name).into_owned(),
        state,
        server.pid.map_or("-".into(), |pid| pid.to_string()),
        server.starts.to_string(),
        if server.last_end.is_empty() {
            "-".into()
        } else {
            printable(&server.last_end).into_owned()
        },
    ]
}
