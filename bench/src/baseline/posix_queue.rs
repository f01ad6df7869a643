//! POSIX message queues, one for each direction, with blocking `mq_send` and `mq_receive`.
//!
//! A queue is made under a name of its own and unlinked at once: it lives on in its descriptors, and
//! ends with the last of them.
//!
//! # Safety
//!
//! An island of unsafe code. Its invariant: the handle in a [`Queue`] is the number of the descriptor
//! beside it, which is open as long as the [`Queue`] is, and alone is what closes it.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use nix::errno::Errno;
use nix::mqueue::{MQ_OFlag, MqAttr, MqdT, mq_close, mq_open, mq_receive, mq_send, mq_unlink};
use nix::sys::stat::Mode;

use super::{exactly, lacking};
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, answer};

/// Where Linux says how long a message may be.
const LIMIT: &str = "/proc/sys/fs/mqueue/msgsize_max";

/// Names tried before giving up.
const ATTEMPTS: u32 = 16;

/// Two POSIX message queues.
#[derive(Debug)]
pub(crate) struct PosixQueue;

impl Mechanism for PosixQueue {
    fn name(&self) -> &'static str {
        "posix-queue"
    }

    fn carries(&self, payload_bytes: usize) -> Result<(), String> {
        // What cannot be found out is found out by trying.
        let Some(most) = number(LIMIT) else { return Ok(()) };
        if payload_bytes <= most {
            return Ok(());
        }
        Err(format!("a POSIX message has at most {most} bytes here (fs.mqueue.msgsize_max)"))
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let new = || {
            create(setting.payload_bytes)
                .map_err(|error| lacking("a POSIX message queue (CONFIG_POSIX_MQUEUE)", error))
        };
        let (requests, answers) = (new()?, new()?);
        launcher.start(&[requests.ours.try_clone()?, answers.ours.try_clone()?])?;
        Ok(Box::new(QueueClient {
            write: Queue::over(requests.ours),
            read: Queue::over(answers.ours),
            alarm: Arc::new(Queue::over(answers.alarm)),
            abandoned: Arc::default(),
        }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [read, write] = exactly(descriptors)?;
        let payload = vec![0; setting.payload_bytes];
        Ok(Box::new(QueueServer { read: Queue::over(read), write: Queue::over(write), payload }))
    }
}

/// The number in a file of one line.
pub(super) fn number(path: &str) -> Option<usize> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A new queue.
struct Created {
    ours: OwnedFd,
    /// The same queue, opened once more so as never to wait.
    alarm: OwnedFd,
}

/// Makes a queue for one message of that length. Its name exists within this call only.
fn create(payload_bytes: usize) -> io::Result<Created> {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let length = payload_bytes.try_into().map_err(|_| io::ErrorKind::InvalidInput)?;
    let attributes = MqAttr::new(0, 1, length, 0);
    let flags = MQ_OFlag::O_RDWR | MQ_OFlag::O_CLOEXEC;
    let mode = Mode::S_IRUSR | Mode::S_IWUSR;
    for _ in 0..ATTEMPTS {
        // ORDERING: Relaxed; only that no number comes twice matters.
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("/rendez-bench-{}-{number}", std::process::id());
        let new = flags | MQ_OFlag::O_CREAT | MQ_OFlag::O_EXCL;
        let queue = match mq_open(name.as_str(), new, mode, Some(&attributes)) {
            Ok(queue) => queue,
            // Somebody else's, in another namespace of process numbers.
            Err(Errno::EEXIST) => continue,
            Err(error) => return Err(error.into()),
        };
        let again = mq_open(name.as_str(), flags | MQ_OFlag::O_NONBLOCK, mode, None);
        mq_unlink(name.as_str())?;
        return Ok(Created { ours: owned(queue)?, alarm: owned(again?)? });
    }
    Err(Errno::EEXIST.into())
}

/// A descriptor that closes itself in place of a handle that does not.
fn owned(queue: MqdT) -> io::Result<OwnedFd> {
    let descriptor = queue.as_fd().try_clone_to_owned();
    mq_close(queue)?;
    descriptor
}

/// An open queue.
#[derive(Debug)]
struct Queue {
    handle: MqdT,
    _descriptor: OwnedFd,
}

impl Queue {
    fn over(descriptor: OwnedFd) -> Self {
        // INVARIANT: established here. A handle is a descriptor's number on Linux.
        // SAFETY: the number is that of an open descriptor, and a handle closes nothing by itself.
        let handle = unsafe { MqdT::from_raw_fd(descriptor.as_raw_fd()) };
        Self { handle, _descriptor: descriptor }
    }

    #[inline]
    fn put(&self, payload: &[u8]) -> io::Result<()> {
        loop {
            match mq_send(&self.handle, payload, 0) {
                Ok(()) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    #[inline]
    fn take(&self, payload: &mut [u8]) -> io::Result<()> {
        let mut priority = 0;
        loop {
            match mq_receive(&self.handle, payload, &mut priority) {
                Ok(_) => return Ok(()),
                Err(Errno::EINTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

#[derive(Debug)]
struct QueueClient {
    write: Queue,
    read: Queue,
    alarm: Arc<Queue>,
    abandoned: Arc<AtomicBool>,
}

impl Client for QueueClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            self.write.put(payload)?;
            self.read.take(payload)?;
            // ORDERING: Relaxed; nothing is read that depends on it.
            if self.abandoned.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::TimedOut.into());
            }
            Ok(())
        })
    }

    fn rescue(&self) -> Option<Rescue> {
        let (alarm, abandoned) = (Arc::clone(&self.alarm), Arc::clone(&self.abandoned));
        Some(Arc::new(move || {
            abandoned.store(true, Ordering::SeqCst);
            // If the queue is full, the client finds something in it anyway.
            let _ = alarm.put(&[]);
        }))
    }
}

#[derive(Debug)]
struct QueueServer {
    read: Queue,
    write: Queue,
    payload: Vec<u8>,
}

impl Server for QueueServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        for _ in 0..block.exchanges {
            self.read.take(&mut self.payload)?;
            answer(&mut self.payload);
            self.write.put(&self.payload)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{PosixQueue, Queue, create};
    use crate::mechanism::Mechanism;

    #[test]
    fn a_queue_works_without_its_name() {
        let created = match create(64) {
            Ok(created) => created,
            Err(error) => {
                eprintln!("no POSIX message queues here ({error}): not tested");
                return;
            }
        };
        let own = format!("rendez-bench-{}-", std::process::id());
        if let Ok(names) = std::fs::read_dir("/dev/mqueue") {
            let left = names
                .filter_map(Result::ok)
                .any(|one| one.file_name().to_string_lossy().starts_with(&own));
            assert!(!left, "the name is gone");
        }
        let (queue, alarm) = (Queue::over(created.ours), Queue::over(created.alarm));
        queue.put(&[7; 64]).expect("sent");
        alarm.put(&[]).expect_err("a full queue, and it never waits");
        let mut out = [0; 64];
        queue.take(&mut out).expect("received");
        assert_eq!(out, [7; 64]);
        alarm.put(&[]).expect("there is room");
        queue.take(&mut out).expect("what wakes a reader");
    }

    #[test]
    fn the_limit_is_named() {
        assert!(PosixQueue.carries(8).is_ok());
        if super::number(super::LIMIT).is_some_and(|most| most < 1 << 24) {
            let reason = PosixQueue.carries(1 << 24).expect_err("more than the limit");
            assert!(reason.contains("msgsize_max"), "{reason}");
        }
    }
}
