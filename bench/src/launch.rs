//! The partner process: how it is started, what it is told, how it ends.
//!
//! The parent runs an executable again, with the hidden subcommand [`PARTNER`]. The child's standard
//! input is one end of a control socket that keeps messages apart; descriptors follow through it.
//! (That way nothing runs between fork and exec, and no descriptor number is taken on trust.)
//!
//! Child and parent say, each message one byte of kind and then text or numbers:
//!
//! | from | message | meaning |
//! |---|---|---|
//! | parent | `start` + descriptors | set the mechanism up |
//! | child | `hello` + text | done; the text, if any, is a remark for the report |
//! | parent | `block` + exchanges, variant | prepare for that many round trips |
//! | child | `ready` | preparing to serve: send |
//! | child | `done` + ns | all served, with that much processor time; asleep until the next `block` |
//! | parent | `order` + numbers | what an actor is to do next |
//! | child | `failed` + text | it could not |
//!
//! Beside the answering half of a mechanism, a partner can be any [role](crate::role) of an
//! experiment: its orders and what `done` brings back are numbers of the role's own.
//!
//! The child ends when the socket closes. It also asks Linux to be killed when its parent dies, since
//! it does not look at the socket while it serves, and sets an alarm clock during each block in case
//! its parent lives but no longer sends.

use std::fmt;
use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use rustix::process::Signal;
use rustix::thread::{CpuSet, sched_setaffinity};

use crate::Error;
use crate::mechanism::{self, Block, Setting};
use crate::role::{self, Role, process_cpu_ns};
use crate::watchdog;

/// The hidden subcommand that leads to [`partner`].
pub const PARTNER: &str = "bench-partner";

/// Most descriptors that a mechanism may hand to its partner.
const DESCRIPTORS: usize = 16;

/// Longest message on the control socket, in bytes.
const MESSAGE: usize = 1024;

const START: u8 = 1;
const HELLO: u8 = 2;
const BLOCK: u8 = 3;
const READY: u8 = 4;
const DONE: u8 = 5;
const FAILED: u8 = 6;
const ORDER: u8 = 7;

/// The first argument of a partner that plays a role.
const ROLE: &str = "role";

/// How long a partner may take to end by itself, before it is killed.
const FAREWELL: Duration = Duration::from_secs(1);

/// Starts the partner process of one mechanism in one setting.
#[derive(Debug)]
pub struct Launcher {
    exe: PathBuf,
    label: String,
    setting: Setting,
    cpu: Option<usize>,
    partner: Option<Partner>,
}

impl Launcher {
    pub(crate) fn new(exe: &Path, label: String, setting: Setting, cpu: Option<usize>) -> Self {
        Self { exe: exe.to_owned(), label, setting, cpu, partner: None }
    }

    /// The executable that partners are made of, for a mechanism that needs further processes.
    #[must_use]
    pub fn exe(&self) -> &Path {
        &self.exe
    }

    /// Starts the partner and hands it these descriptors, in this order. It returns at once;
    /// [`Mechanism::serve`](crate::Mechanism::serve) runs there meanwhile. The caller's own copies of the
    /// descriptors should be closed, so that either side sees the other's end.
    ///
    /// # Errors
    /// If the executable cannot be started, or if a partner was started already.
    pub fn start(&mut self, descriptors: &[OwnedFd]) -> io::Result<()> {
        if self.partner.is_some() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "a mechanism starts one partner, not two",
            ));
        }
        let arguments = [
            self.label.clone(),
            self.setting.payload_bytes.to_string(),
            self.setting.cores.to_string(),
            on(self.cpu),
        ];
        let partner = self.partner.insert(spawn(&self.exe, &self.label, &arguments)?);
        partner.hand_over(descriptors)
    }

    /// The partner that the mechanism has started.
    pub(crate) fn into_partner(self) -> Result<Partner, Error> {
        self.partner.ok_or_else(|| Error::Partner {
            mechanism: self.label,
            reason: "the mechanism did not start one".into(),
        })
    }
}

/// The processor as an argument.
fn on(cpu: Option<usize>) -> String {
    cpu.map_or_else(|| "-".to_owned(), |cpu| cpu.to_string())
}

fn spawn(exe: &Path, label: &str, arguments: &[String]) -> io::Result<Partner> {
    let (control, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    let child = Command::new(exe)
        .arg(PARTNER)
        .args(arguments)
        .stdin(Stdio::from(theirs))
        .stdout(Stdio::null())
        .spawn()
        .map_err(|error| {
            io::Error::new(error.kind(), format!("starting {}: {error}", exe.display()))
        })?;
    Ok(Partner {
        label: label.to_owned(),
        control: Some(control),
        child: Arc::new(Mutex::new(child)),
    })
}

/// Starts a partner process that plays a role, on that processor or wherever this thread may run,
/// and hands it these descriptors. It returns at once: [`Partner::hello`] waits until the role has
/// been entered.
pub(crate) fn start_role(
    exe: &Path,
    role: &dyn Role,
    arguments: &[u64],
    cpu: Option<usize>,
    descriptors: &[OwnedFd],
) -> io::Result<Partner> {
    let words = [ROLE.to_owned(), role.name().to_owned(), on(cpu)];
    let words: Vec<String> =
        words.into_iter().chain(arguments.iter().map(ToString::to_string)).collect();
    let partner = spawn(exe, role.name(), &words)?;
    partner.hand_over(descriptors)?;
    Ok(partner)
}

/// A partner process, as its parent sees it.
pub(crate) struct Partner {
    label: String,
    control: Option<OwnedFd>,
    child: Arc<Mutex<Child>>,
}

impl fmt::Debug for Partner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Partner").field("label", &self.label).finish_non_exhaustive()
    }
}

impl Partner {
    pub(crate) fn child(&self) -> Arc<Mutex<Child>> {
        Arc::clone(&self.child)
    }

    /// Waits until the partner has set its half up; gives the remark that it made, if any.
    pub(crate) fn hello(&self) -> Result<Option<String>, Error> {
        let remark = self.expect(HELLO)?;
        Ok((!remark.is_empty()).then_some(remark))
    }

    /// Wakes the partner for a block, and waits until it is about to serve.
    pub(crate) fn begin(&self, block: Block) -> Result<(), Error> {
        let mut message = [BLOCK; 9];
        message[1..5].copy_from_slice(&block.exchanges.to_le_bytes());
        message[5..9].copy_from_slice(&block.variant.to_le_bytes());
        let control = self.control.as_ref().ok_or_else(|| self.failed("has been ended"))?;
        send(control, &message, &[]).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => self.failed("it ended unexpectedly"),
            _ => self.failed(error),
        })?;
        self.expect(READY).map(drop)
    }

    /// Waits until the partner has served the block and gone to sleep; answers the processor time
    /// that it took there, in ns.
    pub(crate) fn finish(&self) -> Result<u64, Error> {
        Ok(self.report()?.first().copied().unwrap_or_default())
    }

    /// Tells an actor what to do next, and waits until it begins.
    pub(crate) fn order(&self, order: &[u64]) -> Result<(), Error> {
        let control = self.control.as_ref().ok_or_else(|| self.failed("has been ended"))?;
        send(control, &numbers(ORDER, order), &[]).map_err(|error| self.failed(error))?;
        self.expect(READY).map(drop)
    }

    /// Waits until an actor has done what it was ordered; answers what it found.
    pub(crate) fn report(&self) -> Result<Vec<u64>, Error> {
        Ok(read_numbers(&self.expect_bytes(DONE)?))
    }

    /// [`order`](Self::order) and [`report`](Self::report) in one.
    pub(crate) fn ask(&self, order: &[u64]) -> Result<Vec<u64>, Error> {
        self.order(order)?;
        self.report()
    }

    /// Linux's number of the process.
    pub(crate) fn pid(&self) -> u32 {
        self.child.lock().unwrap_or_else(PoisonError::into_inner).id()
    }

    /// What the partner said about an error, if it said anything: to be asked for when the client's
    /// half failed, since the cause is often on the other side.
    pub(crate) fn reason(&self) -> Option<Error> {
        match self.finish() {
            Err(error @ Error::Partner { .. }) => Some(error),
            _ => None,
        }
    }

    fn hand_over(&self, descriptors: &[OwnedFd]) -> io::Result<()> {
        let control = self.control.as_ref().ok_or(io::ErrorKind::NotConnected)?;
        send(control, &[START], descriptors)
    }

    fn expect(&self, kind: u8) -> Result<String, Error> {
        Ok(String::from_utf8_lossy(&self.expect_bytes(kind)?).into_owned())
    }

    fn expect_bytes(&self, kind: u8) -> Result<Vec<u8>, Error> {
        let control = self.control.as_ref().ok_or_else(|| self.failed("has been ended"))?;
        let (message, _) = receive(control).map_err(|error| self.failed(error))?;
        let (first, rest) =
            message.split_first().ok_or_else(|| self.failed("it ended unexpectedly"))?;
        match *first {
            found if found == kind => Ok(rest.to_vec()),
            FAILED => Err(self.failed(String::from_utf8_lossy(rest))),
            other => Err(self.failed(format!("it said {other} where {kind} was expected"))),
        }
    }

    fn failed(&self, reason: impl ToString) -> Error {
        Error::Partner { mechanism: self.label.clone(), reason: reason.to_string() }
    }
}

impl Drop for Partner {
    fn drop(&mut self) {
        drop(self.control.take());
        let mut child = self.child.lock().unwrap_or_else(PoisonError::into_inner);
        let until = Instant::now() + FAREWELL;
        while matches!(child.try_wait(), Ok(None)) {
            if Instant::now() >= until {
                // Both can fail only if it has ended after all.
                let _ = child.kill();
                let _ = child.wait();
                break;
            }
            thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The partner process: what the hidden subcommand [`PARTNER`] runs, with the arguments after it.
/// It returns when the parent process is done with it.
///
/// # Errors
/// If the arguments are not those of the parent process, or if something failed; the parent
/// has then been told already.
pub fn partner(args: &[String]) -> Result<(), Error> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Error::io("asking to end with the parent process", error))?;
    let control = io::stdin()
        .as_fd()
        .try_clone_to_owned()
        .map_err(|error| Error::io("taking the control socket from standard input", error))?;
    let result = match args.split_first() {
        Some((first, rest)) if first == ROLE => play(&control, rest),
        _ => serve(&control, args),
    };
    if let Err(error) = &result {
        let mut message = vec![FAILED];
        let text = match error {
            Error::Partner { reason, .. } => reason.clone(),
            other => other.to_string(),
        };
        message.extend(text.bytes().take(MESSAGE - 1));
        // If the parent is gone, nobody is left to be told.
        let _ = send(&control, &message, &[]);
    }
    result
}

fn serve(control: &OwnedFd, args: &[String]) -> Result<(), Error> {
    let bad = |reason: &str| Error::Arguments { reason: reason.to_owned() };
    let [label, payload, cores, cpu] = args else {
        return Err(bad("four arguments expected"));
    };
    let mechanism = mechanism::find(label).ok_or_else(|| bad("no such mechanism"))?;
    let setting = Setting {
        payload_bytes: payload.parse().map_err(|_| bad("the payload is not a number"))?,
        cores: cores.parse().map_err(|_| bad("the number of cores is not a number"))?,
    };
    if setting.payload_bytes > crate::options::MAX_PAYLOAD {
        return Err(bad("the payload is too large"));
    }
    let remark = match cpu.as_str() {
        "-" => None,
        number => pin(number.parse().map_err(|_| bad("the processor is not a number"))?).err(),
    };
    let failed =
        |error: io::Error| Error::Partner { mechanism: label.clone(), reason: error.to_string() };

    let (message, descriptors) = receive(control).map_err(failed)?;
    if message != [START] {
        return Err(bad("standard input is not a control socket"));
    }
    let mut server = mechanism.serve(setting, descriptors).map_err(failed)?;
    let mut hello = vec![HELLO];
    hello.extend(remark.unwrap_or_default().bytes());
    send(control, &hello, &[]).map_err(failed)?;

    loop {
        let (message, _) = receive(control).map_err(failed)?;
        let (exchanges, variant) = match message.as_slice() {
            [] => return Ok(()),
            &[BLOCK, a, b, c, d, e, f, g, h] => {
                (u32::from_le_bytes([a, b, c, d]), u32::from_le_bytes([e, f, g, h]))
            }
            _ => return Err(bad("an unknown message on the control socket")),
        };
        nix::unistd::alarm::set(2 * watchdog::PATIENCE_SECONDS);
        send(control, &[READY], &[]).map_err(failed)?;
        let before = process_cpu_ns();
        server.block(Block { exchanges, variant }).map_err(failed)?;
        let cpu_ns = process_cpu_ns() - before;
        nix::unistd::alarm::cancel();
        send(control, &numbers(DONE, &[cpu_ns]), &[]).map_err(failed)?;
    }
}

/// A message of numbers.
fn numbers(kind: u8, numbers: &[u64]) -> Vec<u8> {
    std::iter::once(kind).chain(numbers.iter().flat_map(|number| number.to_le_bytes())).collect()
}

fn read_numbers(bytes: &[u8]) -> Vec<u64> {
    bytes.as_chunks::<8>().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect()
}

/// The partner process of an experiment: enters a role and does what it is ordered.
fn play(control: &OwnedFd, args: &[String]) -> Result<(), Error> {
    let bad = |reason: &str| Error::Arguments { reason: reason.to_owned() };
    let [name, cpu, arguments @ ..] = args else { return Err(bad("a role and a processor")) };
    let role = role::find(name).ok_or_else(|| bad("no such role"))?;
    let arguments: Vec<u64> = arguments
        .iter()
        .map(|argument| argument.parse().map_err(|_| bad("an argument is not a number")))
        .collect::<Result<_, _>>()?;
    let remark = match cpu.as_str() {
        "-" => None,
        number => pin(number.parse().map_err(|_| bad("the processor is not a number"))?).err(),
    };
    let failed =
        |error: io::Error| Error::Partner { mechanism: name.clone(), reason: error.to_string() };
    let (message, descriptors) = receive(control).map_err(failed)?;
    if message != [START] {
        return Err(bad("standard input is not a control socket"));
    }
    let mut actor = role.enter(&arguments, descriptors).map_err(failed)?;
    let mut hello = vec![HELLO];
    hello.extend(remark.unwrap_or_default().bytes());
    send(control, &hello, &[]).map_err(failed)?;
    loop {
        let (message, _) = receive(control).map_err(failed)?;
        let order = match message.as_slice() {
            [] => return Ok(()),
            [ORDER, order @ ..] => read_numbers(order),
            _ => return Err(bad("an unknown message on the control socket")),
        };
        nix::unistd::alarm::set(2 * watchdog::PATIENCE_SECONDS);
        send(control, &[READY], &[]).map_err(failed)?;
        let found = actor.act(&order).map_err(failed)?;
        nix::unistd::alarm::cancel();
        send(control, &numbers(DONE, &found), &[]).map_err(failed)?;
    }
}

/// Pins the calling thread, and those that it will start, to one processor.
///
/// # Errors
/// A remark for the report, if Linux refused; one goes on unpinned.
pub(crate) fn pin(cpu: usize) -> Result<(), String> {
    let refused = |why: &dyn fmt::Display| {
        format!("not pinned to processor {cpu} ({why}): Linux moves it about at will")
    };
    if cpu >= CpuSet::MAX_CPU {
        return Err(refused(&"its number is too high"));
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).map_err(|error| refused(&error))
}

fn send(socket: &OwnedFd, message: &[u8], descriptors: &[OwnedFd]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
    // The space has room for alignment, and so sometimes for one more.
    let fits = borrowed.len() <= DESCRIPTORS
        && (borrowed.is_empty() || ancillary.push(SendAncillaryMessage::ScmRights(&borrowed)));
    if !fits {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors"));
    }
    loop {
        match sendmsg(socket, &[IoSlice::new(message)], &mut ancillary, SendFlags::NOSIGNAL) {
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Receives one message; an empty one if the other end is gone.
fn receive(socket: &OwnedFd) -> io::Result<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(DESCRIPTORS))];
    let mut message = vec![0; MESSAGE];
    loop {
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = recvmsg(
            socket,
            &mut [IoSliceMut::new(&mut message)],
            &mut ancillary,
            RecvFlags::CMSG_CLOEXEC,
        );
        match received {
            Ok(received) => {
                let mut descriptors = Vec::new();
                for part in ancillary.drain() {
                    if let RecvAncillaryMessage::ScmRights(rights) = part {
                        descriptors.extend(rights);
                    }
                }
                message.truncate(received.bytes);
                return Ok((message, descriptors));
            }
            Err(Errno::INTR) => {}
            Err(Errno::CONNRESET) => return Ok((Vec::new(), Vec::new())),
            Err(error) => return Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DESCRIPTORS, receive, send};
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

    #[test]
    fn messages_carry_descriptors_in_order() {
        let (one, two) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket pair");
        let (read, write) = std::io::pipe().expect("a pipe");
        send(&one, b"hello", &[write.into(), read.into()]).expect("sent");
        let (message, descriptors) = receive(&two).expect("received");
        assert_eq!(message, b"hello");
        assert_eq!(descriptors.len(), 2);
        rustix::io::write(&descriptors[0], b"x").expect("the writing end came first");

        let many: Vec<_> =
            (0..=DESCRIPTORS).map(|_| descriptors[0].try_clone().expect("a copy")).collect();
        assert!(send(&one, b"too many", &many).is_err());

        drop(one);
        assert!(receive(&two).expect("an end is no error").0.is_empty());
    }

    #[test]
    fn arguments_by_hand_are_refused() {
        let (_one, two) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .expect("a socket pair");
        for args in [vec![], vec!["floor", "8", "2"], vec!["pigeon", "8", "2", "-"]] {
            let args: Vec<String> = args.into_iter().map(String::from).collect();
            assert!(matches!(super::serve(&two, &args), Err(crate::Error::Arguments { .. })));
        }
    }
}
