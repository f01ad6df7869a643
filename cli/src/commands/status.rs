//! `rendez status`: whether a system is running, and how its servers are.

use super::deaths::duration;
use super::supervisor::Supervisor;
use crate::failure::{FAILED, Failure};
use crate::output::{BAD, DIM, GOOD, HEAD, Output, WARN, printable, table};
use rendez::Task;
use rendez::protocol::supervisor::{Server, State};
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

/// Says how the system is. The exit code says whether all its tasks are as they should be.
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
        table(&["TASK", "STATE", "PID", "UP", "STARTS", "RESTARTS", "LAST END"], &rows)
    ));
    let good = |server: &Server| matches!(server.state, State::Ready | State::Ended);
    Ok(if servers.iter().all(good) { 0 } else { FAILED })
}

fn row(server: &Server) -> Vec<String> {
    vec![
        printable(&server.name).into_owned(),
        state(&server.state),
        server.pid.map_or("-".into(), |pid| pid.to_string()),
        server.pid.map_or("-".into(), |_| duration(server.up_ms)),
        server.starts.to_string(),
        server.restarts.to_string(),
        if server.last_end.is_empty() {
            "-".into()
        } else {
            printable(&server.last_end).into_owned()
        },
    ]
}

/// Where a task is in its life, for people.
pub(super) fn state(state: &State) -> String {
    match state {
        State::Ready => format!("{GOOD}ready{GOOD:#}"),
        State::Ended => format!("{DIM}ended{DIM:#}"),
        State::Starting => format!("{WARN}starting{WARN:#}"),
        State::Waiting { on } => format!("{WARN}waiting{WARN:#} for {}", printable(on)),
        State::BackingOff { in_ms } => {
            format!("{WARN}backing off{WARN:#}, restarts in {}", duration(*in_ms))
        }
        State::Stuck { for_ms } => format!("{BAD}stuck{BAD:#} for {}", duration(*for_ms)),
        State::Failed { why } => format!("{BAD}failed{BAD:#}: {}", printable(why)),
    }
}
