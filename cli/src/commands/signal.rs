//! `rendez signal`: named signals.

use super::name_space::unreachable;
use crate::arguments::SignalAction;
use crate::failure::{DEADLINE, Failure};
use crate::output::{DIM, Output, printable, table};
use rendez::protocol::limit::AREA_BYTES_DEFAULT;
use rendez::protocol::signal::{Listing, Raise, Subscribe, interface, operation};
use rendez::protocol::{decode, encode};
use rendez::{Connection, Error, Options, Task};
use std::time::{Duration, Instant};

/// Where the signal server is.
const PATH: &str = "/signal";
/// The bit of the connection that tells of the signal that is waited for.
const BIT: u8 = 0;

/// Raises, waits, or lists.
///
/// # Errors
/// What the signal server says; that the time is over.
pub(super) fn run(task: &Task, action: &SignalAction, output: &Output) -> Result<(), Failure> {
    let (server, _, _) = task.look_up(PATH, None, None)?;
    let connection = Connection::open(task, server.slot, &Options::speaking(interface()))
        .map_err(|error| unreachable(error, PATH))?;
    match action {
        SignalAction::Raise { name, group } => raise(connection, name, group, output),
        SignalAction::Wait { name, group, timeout_ms } => {
            wait(connection, name, group.as_deref(), Duration::from_millis(*timeout_ms), output)
        }
        SignalAction::List => list(connection, output),
    }
}

/// Sends and answers the reply, as an error of the library if there is none.
fn send(connection: &mut Connection, operation: u16, request: &[u8]) -> Result<Vec<u8>, Error> {
    let room = AREA_BYTES_DEFAULT as usize;
    Ok(connection.send(operation, request, room)?.ok()?.to_vec())
}

fn raise(
    mut connection: Connection,
    signal: &str,
    group: &str,
    output: &Output,
) -> Result<(), Failure> {
    let reply = send(&mut connection, operation::RAISE, &encode(&Raise { signal, group }))?;
    let reached: u32 = decode(&reply).map_err(Error::from)?;
    output.value(&serde_json::json!({ "signal": signal, "reached": reached }));
    let plural = if reached == 1 { "" } else { "s" };
    output.line(format_args!("{}: reached {reached} subscriber{plural}", printable(signal)));
    Ok(())
}

fn wait(
    mut connection: Connection,
    signal: &str,
    group: Option<&str>,
    timeout: Duration,
    output: &Output,
) -> Result<(), Failure> {
    let started = Instant::now();
    if let Some(group) = group {
        send(&mut connection, operation::JOIN, &encode(group))?;
    }
    send(&mut connection, operation::SUBSCRIBE, &encode(&Subscribe { signal, bit: BIT }))?;
    loop {
        let left = timeout.saturating_sub(started.elapsed());
        if connection.wait_notifications(left).map_err(Error::from)? & (1 << BIT) != 0 {
            break;
        }
        if left.is_zero() {
            let text =
                format!("{} was not raised within {} ms", printable(signal), timeout.as_millis());
            return Err(Failure::new(DEADLINE, text));
        }
    }
    let waited_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    output.value(&serde_json::json!({ "signal": signal, "waited_ms": waited_ms }));
    output.line(format_args!("{}: raised {DIM}after {waited_ms} ms{DIM:#}", printable(signal)));
    Ok(())
}

fn list(mut connection: Connection, output: &Output) -> Result<(), Failure> {
    let reply = send(&mut connection, operation::LIST, &encode(&()))?;
    let listing: Listing = decode(&reply).map_err(Error::from)?;
    let named = |pairs: &[(String, u32)], what: &str| -> Vec<_> {
        pairs.iter().map(|(name, count)| serde_json::json!({ "name": name, what: count })).collect()
    };
    output.value(&serde_json::json!({
        "signals": named(&listing.signals, "subscribers"),
        "groups": named(&listing.groups, "members"),
    }));
    for (pairs, head) in
        [(&listing.signals, ["SIGNAL", "SUBSCRIBERS"]), (&listing.groups, ["GROUP", "MEMBERS"])]
    {
        if !pairs.is_empty() {
            let rows: Vec<_> = pairs
                .iter()
                .map(|(name, count)| vec![printable(name).into_owned(), count.to_string()])
                .collect();
            output.line(table(&head, &rows));
        }
    }
    if listing.signals.is_empty() && listing.groups.is_empty() {
        output.line(format_args!("{DIM}nobody subscribes to anything{DIM:#}"));
    }
    Ok(())
}
