//! Signals between tasks, and to and from POSIX.

use super::show::{Bar, Outcome};
use super::stage::Stage;
use super::talk::{Said, now_ns, say};
use crate::failure::{FAILED, Failure};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::unistd::Pid;
use rendez::protocol::kernel::{Limits, Offer, Travel};
use rendez::protocol::signal::{self, Bridge, Deliver, Mask, Raise, Subscribe, operation};
use rendez::protocol::{decode, encode};
use rendez::{Client, Connection, Error, Options, Rights, Task};
use serde_json::json;
use std::time::Duration;

/// The signals, whose bits are their places: one that is heard at once, one that is masked at
/// first, one that SIGUSR1 raises, one that arrives as SIGUSR2.
const SIGNALS: [&str; 4] = ["demo/now", "demo/later", "demo/usr1", "demo/usr2"];
/// How long a signal is waited for.
const PATIENCE: Duration = Duration::from_secs(10);

/// Passes signals from one task to another.
pub(super) fn show(stage: &Stage, _: &Bar) -> Result<Outcome, Failure> {
    let [now, later, usr1, usr2] = SIGNALS;
    let mut listener = stage.part("listen", &[("signal", stage.signal.slot, Rights::SEND)], &[])?;
    listener.ready()?;

    let (from, raised) = raise(stage, now)?;
    let heard = heard(&mut listener, 1)?;
    let micros = heard.saturating_sub(raised) / 1000;
    let to = listener.id;
    let mut details = vec![format!("{from} raised {now}: bit 0 was with {to} {micros} µs later")];

    let (from, _) = raise(stage, later)?;
    listener.go_on()?;
    let (pending, bits) = listener.expect(|said| match said {
        Said::Pending { signals, bits } => Some((signals.clone(), *bits)),
        _ => None,
    })?;
    if bits != 0 || pending != [later] {
        return Err(Failure::new(
            FAILED,
            format!("{later} is masked; pending: {pending:?}, bits that came: {bits:#b}"),
        ));
    }
    self::heard(&mut listener, 2)?;
    details.push(format!(
        "{from} raised {later}, which {to} masks: held back as pending, there once unmasked"
    ));

    let definer = stage.look_up_with("/signal", Rights::SEND | Rights::REGISTER)?;
    let server = Client::connect(&stage.task, definer, Options::speaking(signal::interface()))?;
    let bridge = Bridge { posix: Signal::SIGUSR1 as i32, signal: usr1 };
    server.send(operation::BRIDGE, &encode(&bridge), 256)?;
    let pid = stage.pid("signal")?;
    kill(Pid::from_raw(pid), Signal::SIGUSR1)
        .map_err(|error| Failure::system("sending SIGUSR1 to the signal server", error))?;
    self::heard(&mut listener, 4)?;
    details.push(format!("SIGUSR1 to process {pid}, the signal server, was raised as {usr1}"));

    let (from, _) = raise(stage, usr2)?;
    self::heard(&mut listener, 8)?;
    let posix = listener.expect(|said| match said {
        Said::Posix { signal } => Some(signal.clone()),
        _ => None,
    })?;
    details.push(format!(
        "{from} raised {usr2}: process {} got {posix}, by a capability with KILL to itself",
        listener.pid()
    ));
    Ok(Outcome {
        text: format!("4 signals passed to {to}, the first in {micros} µs"),
        details,
        figures: json!({ "first_signal_us": micros }),
    })
}

/// Has a new task raise a signal; which task, and when.
fn raise(stage: &Stage, name: &str) -> Result<(rendez::protocol::TaskId, u64), Failure> {
    let rights = Rights::SEND | Rights::WRITE;
    let mut raiser = stage.part("raise", &[("signal", stage.signal.slot, rights)], &[name])?;
    let (reached, at_ns) = raiser.expect(|said| match said {
        Said::Raised { reached, at_ns } => Some((*reached, *at_ns)),
        _ => None,
    })?;
    if reached != 1 {
        return Err(Failure::new(FAILED, format!("{name} reached {reached} subscribers, not 1")));
    }
    Ok((raiser.id, at_ns))
}

/// Waits until the listener has heard just `wanted`; when that was.
fn heard(listener: &mut super::stage::Part, wanted: u64) -> Result<u64, Failure> {
    let (bits, at_ns) = listener.expect(|said| match said {
        Said::Heard { bits, at_ns } => Some((*bits, *at_ns)),
        _ => None,
    })?;
    if bits == wanted {
        return Ok(at_ns);
    }
    Err(Failure::new(FAILED, format!("the bits {bits:#b} came where {wanted:#b} were raised")))
}

/// The process that raises a signal.
pub(super) fn raise_part(task: &Task, name: &str) -> Result<(), Failure> {
    let mut connection = connect(task)?;
    let request = encode(&Raise { signal: name, group: "" });
    let at_ns = now_ns();
    let reply = connection.send(operation::RAISE, &request, 256).map_err(Error::from)?;
    let reached = decode(reply.ok()?).map_err(Error::from)?;
    say(&Said::Raised { reached, at_ns });
    Ok(())
}

/// To be called before [`listen_part`], while the process has one thread.
pub(super) fn block_posix() -> Result<(), Failure> {
    SigSet::from(Signal::SIGUSR2)
        .thread_block()
        .map_err(|error| Failure::system("blocking SIGUSR2", error))
}

/// The process that is told of signals.
pub(super) fn listen_part(task: &Task) -> Result<(), Failure> {
    let mut connection = connect(task)?;
    for (bit, signal) in (0..).zip(SIGNALS) {
        send(&mut connection, operation::SUBSCRIBE, &encode(&Subscribe { signal, bit }))?;
    }
    let [_, later, _, usr2] = SIGNALS;
    send(&mut connection, operation::MASK, &encode(&Mask { signal: later, masked: true }))?;
    let own = Offer {
        slot: task.own().slot,
        rights: Rights::KILL,
        badge: None,
        limits: Limits::SAME,
        travel: Travel::Mint,
    };
    let ticket = connection.offer(&[own])?;
    let deliver = Deliver { signal: usr2, ticket, posix: Signal::SIGUSR2 as i32 };
    send(&mut connection, operation::DELIVER, &encode(&deliver))?;
    say(&Said::Ready);
    hear(&mut connection)?;
    super::wait_to_go_on();
    let bits = connection.take_notifications();
    let pending = send(&mut connection, operation::PENDING, &[])?;
    say(&Said::Pending { signals: decode(&pending).map_err(Error::from)?, bits });
    send(&mut connection, operation::MASK, &encode(&Mask { signal: later, masked: false }))?;
    for _ in 0..3 {
        hear(&mut connection)?;
    }
    let signal = SigSet::from(Signal::SIGUSR2)
        .wait()
        .map_err(|error| Failure::system("waiting for SIGUSR2", error))?;
    say(&Said::Posix { signal: signal.to_string() });
    Ok(())
}

fn hear(connection: &mut Connection) -> Result<(), Failure> {
    let bits = connection.wait_notifications(PATIENCE).map_err(Error::from)?;
    say(&Said::Heard { bits, at_ns: now_ns() });
    Ok(())
}

fn connect(task: &Task) -> Result<Connection, Failure> {
    let slot = task.given_as("signal")?.slot;
    Ok(Connection::open(task, slot, &Options::speaking(signal::interface()))?)
}

fn send(connection: &mut Connection, operation: u16, payload: &[u8]) -> Result<Vec<u8>, Failure> {
    let reply = connection.send(operation, payload, 1024).map_err(Error::from)?;
    Ok(reply.ok()?.to_vec())
}
