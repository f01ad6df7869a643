//! What a way to pass a message has to offer to be measured.
//!
//! A mechanism has two halves in two processes: a [`Client`], which sends, in the process of
//! [`run`](crate::run); and a [`Server`], which answers, in a partner process. Both work in blocks:
//! told how many round trips a block has, the server serves exactly that many and then rests, so
//! that a mechanism that spins burns nothing while others are measured.
//!
//! The answer to a request is the request with its first eight bytes, read as a little-endian
//! number, one higher ([`answer`]); the client's [`Recorder`] checks each one.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::baseline::{self, SharedMemory, Sockets};
use crate::launch::Launcher;
use crate::notification::Notifications;
#[cfg(feature = "peers")]
use crate::peers;
use crate::recorder::Recorder;
use crate::rendez::{Rendez, Uncounted};
use crate::report::Class;

/// All mechanisms, in the order of the report. **This is where a new one is added.**
#[must_use]
pub fn all() -> &'static [&'static dyn Mechanism] {
    static ALL: &[&dyn Mechanism] = &[
        &baseline::Floor,
        &baseline::Copying,
        &SharedMemory::Spin,
        &SharedMemory::Yield,
        &SharedMemory::Futex,
        &SharedMemory::Semaphore,
        &baseline::Eventfd,
        &SharedMemory::MappedFile(Wait::Spin),
        &SharedMemory::MappedFile(Wait::Block),
        &baseline::Pipe,
        &baseline::NamedPipe,
        &Sockets::UnixStream,
        &Sockets::UnixDatagram,
        &Sockets::UnixSeqpacket,
        &Sockets::Tcp,
        &Sockets::Udp,
        &baseline::PosixQueue,
        &baseline::SystemVQueue,
        &baseline::PseudoTerminal,
        &baseline::QueuedSignal,
        &baseline::RegularFile(Wait::Spin),
        &baseline::RegularFile(Wait::Block),
        &Rendez(Wait::Spin),
        &Rendez(Wait::Adaptive),
        &Rendez(Wait::Block),
        #[cfg(feature = "peers")]
        &peers::Iceoryx2(Wait::Spin),
        #[cfg(feature = "peers")]
        &peers::Iceoryx2(Wait::Block),
        #[cfg(feature = "peers")]
        &peers::IpcChannel,
        #[cfg(feature = "peers")]
        &peers::Zbus,
        #[cfg(feature = "peers")]
        &peers::CapnpRpc,
        #[cfg(feature = "peers")]
        &peers::Tarpc,
        #[cfg(feature = "peers")]
        &peers::Tonic,
    ];
    ALL
}

/// Mechanisms that only an experiment of their own measures.
static APART: &[&dyn Mechanism] = &[
    &Uncounted(Wait::Spin),
    &Uncounted(Wait::Block),
    &Notifications(Wait::Spin),
    &Notifications(Wait::Block),
];

/// How a mechanism with a choice waits for its peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wait {
    /// Never sleeps.
    Spin,
    /// Spins for about as long as a wake-up costs, then sleeps.
    Adaptive,
    /// Sleeps at once.
    Block,
}

impl fmt::Display for Wait {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.pad(match self {
            Self::Spin => "spin",
            Self::Adaptive => "adaptive",
            Self::Block => "block",
        })
    }
}

/// What a mechanism is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Setting {
    /// Bytes of each request and of each answer: a multiple of 8, at least 8.
    pub payload_bytes: usize,
    /// 2 if client and partner have a core each, 1 if they share one.
    pub cores: usize,
}

/// One block, as both halves are told of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Block {
    /// Round trips in this block. The server serves exactly as many.
    pub exchanges: u32,
    /// Which variant of the mechanism, below [`Client::variants`].
    pub variant: u32,
}

/// A way to pass a message between two processes.
pub trait Mechanism: fmt::Debug + Sync {
    /// The name in the report.
    fn name(&self) -> &'static str;

    /// The wait policy, for a mechanism with a choice. Each policy is a mechanism of its own here.
    fn wait(&self) -> Option<Wait> {
        None
    }

    /// How it waits, with or without a choice, so that like can be compared with like. One that
    /// only yields its processor never sleeps, and so counts as spinning.
    fn waits(&self) -> Wait {
        self.wait().unwrap_or(Wait::Block)
    }

    /// What kind of thing it is, for the report.
    fn class(&self) -> Class {
        Class::Baseline
    }

    /// Whether it carries payloads of that size.
    ///
    /// # Errors
    /// The limit and where it comes from, to be shown: `"a datagram holds at most 65507 bytes"`.
    fn carries(&self, payload_bytes: usize) -> Result<(), String> {
        let _ = payload_bytes;
        Ok(())
    }

    /// Whether it makes sense with this number of cores. One that only spins does not with 1.
    fn runs_on(&self, cores: usize) -> bool {
        let _ = cores;
        true
    }

    /// Parent process: sets the mechanism up. It calls [`Launcher::start`] exactly once, which
    /// starts the partner and hands it descriptors; there, [`serve`](Self::serve) runs
    /// meanwhile, so this may exchange whatever both need to meet.
    ///
    /// # Errors
    /// [`Unsupported`](io::ErrorKind::Unsupported) if this machine lacks what the mechanism needs,
    /// or does not permit it: the text says what, and the run goes on without the mechanism.
    /// Anything else that Linux refused is a failure.
    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>>;

    /// Partner process: the answering half, given the descriptors handed to [`Launcher::start`].
    ///
    /// # Errors
    /// Whatever Linux refused; it is reported to the parent process.
    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>>;
}

/// What sets a stuck client free, called from another thread, perhaps repeatedly.
pub type Rescue = Arc<dyn Fn() + Send + Sync>;

/// The sending half of a mechanism.
pub trait Client {
    /// How many variants each block tries; the best one counts.
    fn variants(&self) -> u32 {
        1
    }

    /// Called before each block, while the partner prepares too.
    ///
    /// # Errors
    /// Whatever Linux refused.
    fn prepare(&mut self, block: Block) -> io::Result<()> {
        let _ = block;
        Ok(())
    }

    /// One block: hands one round trip to [`Recorder::run`], whose loop is compiled for it.
    ///
    /// # Errors
    /// What the round trip or the recorder reported.
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()>;

    /// What the watchdog calls after it has killed the partner, if the client would not notice
    /// that by itself.
    fn rescue(&self) -> Option<Rescue> {
        None
    }
}

/// The answering half of a mechanism.
pub trait Server {
    /// Serves exactly as many round trips as the block says, then returns.
    ///
    /// # Errors
    /// Whatever Linux refused; it is reported to the parent process.
    fn block(&mut self, block: Block) -> io::Result<()>;
}

/// Turns a request into its answer: adds one to the first eight bytes.
#[inline]
pub fn answer(payload: &mut [u8]) {
    if let Some(first) = payload.first_chunk_mut::<8>() {
        *first = u64::from_le_bytes(*first).wrapping_add(1).to_le_bytes();
    }
}

/// The name that tells apart what shares a name: `pipe`, `rendez-spin`.
#[must_use]
pub fn label(mechanism: &dyn Mechanism) -> String {
    match mechanism.wait() {
        None => mechanism.name().to_owned(),
        Some(wait) => format!("{}-{wait}", mechanism.name()),
    }
}

/// The mechanism with that label.
#[must_use]
pub fn find(wanted: &str) -> Option<&'static dyn Mechanism> {
    all().iter().chain(APART).copied().find(|one| label(*one) == wanted)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::{Wait, all, answer, find, label};

    #[test]
    fn labels_are_distinct_and_found() {
        let labels: HashSet<_> = all().iter().map(|one| label(*one)).collect();
        assert_eq!(labels.len(), all().len());
        for wanted in labels {
            assert_eq!(label(find(&wanted).expect("listed above")), wanted);
        }
        assert!(find("nothing").is_none());
    }

    #[test]
    fn an_answer_is_one_higher() {
        let mut payload = [255, 0, 0, 0, 0, 0, 0, 0, 9];
        answer(&mut payload);
        assert_eq!(payload, [0, 1, 0, 0, 0, 0, 0, 0, 9]);
    }

    #[test]
    fn wait_policies_are_lower_case_in_json() {
        assert_eq!(serde_json::to_string(&Wait::Adaptive).expect("plain"), "\"adaptive\"");
        assert_eq!(Wait::Adaptive.to_string(), "adaptive");
    }
}
