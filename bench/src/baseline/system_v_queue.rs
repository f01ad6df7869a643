//! A System V message queue, with blocking `msgsnd` and `msgrcv`; requests and answers are messages
//! of two types.
//!
//! Such a queue has no descriptor and outlives every process, and whoever removes it early wakes all
//! who wait there. So the *partner* makes it, and a thread there looks after it: it sleeps on a pipe
//! whose other end only the client has, and when the client ends, however it does, removes the queue
//! and ends the process. When the partner ends, the client removes it. A queue is left behind only
//! where both are killed at the same moment; what ends a group of processes as a matter of routine,
//! like the interrupt key, the partner waits out.
//!
//! # Safety
//!
//! An island of unsafe code. Its invariant: a [`Message`] is laid out as `msgsnd` and `msgrcv` want
//! it, a `long` and then the text, and is never told to be longer than it is.

use std::fs::File;
use std::io::{self, Read, Write};
use std::mem::size_of_val;
use std::os::fd::OwnedFd;
use std::process;
use std::sync::Arc;
use std::thread;

use nix::sys::signal::{SigSet, Signal};
use rustix::process::set_parent_process_death_signal;

use super::posix_queue::number;
use super::{exactly, lacking};
use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, answer};

/// Where Linux says how long a message may be, and how long all in a queue may be together.
const LIMITS: [(&str, &str); 2] =
    [("/proc/sys/kernel/msgmax", "kernel.msgmax"), ("/proc/sys/kernel/msgmnb", "kernel.msgmnb")];

/// Types of messages.
const REQUEST: libc::c_long = 1;
const ANSWER: libc::c_long = 2;

/// A System V message queue.
#[derive(Debug)]
pub(crate) struct SystemVQueue;

impl Mechanism for SystemVQueue {
    fn name(&self) -> &'static str {
        "system-v-queue"
    }

    fn carries(&self, payload_bytes: usize) -> Result<(), String> {
        for (path, name) in LIMITS {
            // What cannot be found out is found out by trying.
            if let Some(most) = number(path)
                && payload_bytes > most
            {
                return Err(format!("a System V message has at most {most} bytes here ({name})"));
            }
        }
        Ok(())
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        // Made and removed, to find out what this machine lacks before there is a partner to say so.
        drop(
            Queue::create()
                .map_err(|error| lacking("a System V message queue (CONFIG_SYSVIPC)", error))?,
        );
        let (life_out, life) = io::pipe()?;
        let (mut hello, hello_in) = io::pipe()?;
        launcher.start(&[life_out.into(), hello_in.into()])?;
        let mut id = [0; 4];
        hello.read_exact(&mut id)?;
        let queue = Arc::new(Queue { id: i32::from_ne_bytes(id) });
        let message = Message::new(setting.payload_bytes);
        Ok(Box::new(QueueClient { queue, message, _life: life.into() }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let [life, hello] = exactly(descriptors)?;
        stay()?;
        let queue = Arc::new(Queue::create()?);
        let watched = Arc::clone(&queue);
        thread::Builder::new().name("remover".into()).spawn(move || {
            // Nothing is ever written there: this returns when the client is gone.
            let _ = File::from(life).read(&mut [0]);
            watched.remove();
            process::exit(0);
        })?;
        File::from(hello).write_all(&queue.id.to_ne_bytes())?;
        let message = Message::new(setting.payload_bytes);
        Ok(Box::new(QueueServer { queue, message }))
    }
}

/// Partner: outlives its client for as long as it takes to remove the queue.
fn stay() -> io::Result<()> {
    let mut waited_out = SigSet::empty();
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGTERM] {
        waited_out.add(signal);
    }
    waited_out.thread_block()?;
    set_parent_process_death_signal(None)?;
    Ok(())
}

/// The queue, removed when dropped: by either process, whichever comes first.
#[derive(Debug)]
struct Queue {
    id: libc::c_int,
}

impl Queue {
    fn create() -> io::Result<Self> {
        // SAFETY: no memory is involved.
        let id = unsafe { libc::msgget(libc::IPC_PRIVATE, libc::IPC_CREAT | 0o600) };
        if id < 0 { Err(io::Error::last_os_error()) } else { Ok(Self { id }) }
    }

    /// Removes the queue, waking all who wait. That it is gone already is as good.
    fn remove(&self) {
        // SAFETY: removing takes no memory.
        unsafe { libc::msgctl(self.id, libc::IPC_RMID, std::ptr::null_mut()) };
    }

    #[inline]
    fn put(&self, message: &mut Message, kind: libc::c_long) -> io::Result<()> {
        message.words[0] = kind;
        loop {
            // SAFETY: the module's invariant.
            let done = unsafe {
                libc::msgsnd(self.id, message.words.as_ptr().cast(), message.payload_bytes, 0)
            };
            if done == 0 {
                return Ok(());
            }
            interrupted(io::Error::last_os_error())?;
        }
    }

    #[inline]
    fn take(&self, message: &mut Message, kind: libc::c_long) -> io::Result<()> {
        loop {
            let (at, bytes) = (message.words.as_mut_ptr().cast(), message.payload_bytes);
            // SAFETY: the module's invariant.
            let done = unsafe { libc::msgrcv(self.id, at, bytes, kind, 0) };
            if done >= 0 {
                return Ok(());
            }
            interrupted(io::Error::last_os_error())?;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.remove();
    }
}

/// Goes on after an interruption. That the queue is gone means that the other side is.
fn interrupted(error: io::Error) -> io::Result<()> {
    match error.raw_os_error() {
        Some(libc::EINTR) => Ok(()),
        Some(libc::EIDRM | libc::EINVAL) => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Err(error),
    }
}

/// A message as the system calls want it: its type, then its text.
#[derive(Debug)]
struct Message {
    words: Vec<libc::c_long>,
    payload_bytes: usize,
}

impl Message {
    fn new(payload_bytes: usize) -> Self {
        let word = size_of::<libc::c_long>();
        Self { words: vec![0; 1 + payload_bytes.div_ceil(word)], payload_bytes }
    }

    fn text(&mut self) -> &mut [u8] {
        let words = &mut self.words[1..];
        let bytes = size_of_val(words).min(self.payload_bytes);
        // SAFETY: numbers may be looked at as bytes, and are valid whatever these are; there are that
        // many, and they are borrowed as long.
        unsafe { std::slice::from_raw_parts_mut(words.as_mut_ptr().cast(), bytes) }
    }
}

#[derive(Debug)]
struct QueueClient {
    queue: Arc<Queue>,
    message: Message,
    /// Its end tells the partner of the client's.
    _life: OwnedFd,
}

impl Client for QueueClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        let Self { queue, message, .. } = self;
        recorder.run(|payload| {
            message.text().copy_from_slice(payload);
            queue.put(message, REQUEST)?;
            queue.take(message, ANSWER)?;
            payload.copy_from_slice(message.text());
            Ok(())
        })
    }

    fn rescue(&self) -> Option<Rescue> {
        let queue = Arc::clone(&self.queue);
        Some(Arc::new(move || queue.remove()))
    }
}

impl Drop for QueueClient {
    fn drop(&mut self) {
        // Somebody may still have a share in the queue: what would set this client free.
        self.queue.remove();
    }
}

#[derive(Debug)]
struct QueueServer {
    queue: Arc<Queue>,
    message: Message,
}

impl Server for QueueServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        for _ in 0..block.exchanges {
            self.queue.take(&mut self.message, REQUEST)?;
            answer(self.message.text());
            self.queue.put(&mut self.message, ANSWER)?;
        }
        Ok(())
    }
}

impl Drop for QueueServer {
    fn drop(&mut self) {
        // The thread that looks after the queue has a share in it.
        self.queue.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::{ANSWER, Message, Queue, REQUEST, SystemVQueue};
    use crate::mechanism::Mechanism;

    #[test]
    fn a_queue_keeps_types_apart_and_is_gone_when_dropped() {
        let queue = match Queue::create() {
            Ok(queue) => queue,
            Err(error) => {
                eprintln!("no System V message queues here ({error}): not tested");
                return;
            }
        };
        let (mut one, mut two) = (Message::new(16), Message::new(16));
        one.text().fill(1);
        two.text().fill(2);
        queue.put(&mut one, REQUEST).expect("sent");
        queue.put(&mut two, ANSWER).expect("sent");
        queue.take(&mut one, ANSWER).expect("received");
        assert_eq!(one.text(), [2; 16]);
        queue.take(&mut one, REQUEST).expect("received");
        assert_eq!(one.text(), [1; 16]);
        let same = Queue { id: queue.id };
        drop(queue);
        let error = same.put(&mut one, REQUEST).expect_err("nothing is left");
        assert_eq!(error.kind(), std::io::ErrorKind::UnexpectedEof);
    }

    #[test]
    fn the_limit_is_named() {
        assert!(SystemVQueue.carries(8).is_ok());
        if super::number(super::LIMITS[0].0).is_some_and(|most| most < 1 << 24) {
            let reason = SystemVQueue.carries(1 << 24).expect_err("more than the limit");
            assert!(reason.contains("kernel.msgm"), "{reason}");
        }
    }
}
