//! A task's end of its kernel socket, shared by the task's threads.
//!
//! Any thread may ask. Whoever waits for an answer and finds nobody reading reads for all: answers
//! go to those who asked, events into a queue that the server loop takes from. An eventfd tells the
//! server loop of events that another thread has read.

use crate::error::Error;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use parking_lot::{Condvar, Mutex};
use rendez_ipc_core::control::{Mode, receive_frame, send_frame};
use rendez_ipc_core::injection::Injections;
use rendez_ipc_core::platform::{Host, Platform};
use rendez_protocol::kernel::{Answer, Event, Request, frame};
use rendez_protocol::{ObjectId, Why, decode, encode};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// An answer or event with the descriptors that came with it.
pub(crate) type With<T> = (T, VecDeque<OwnedFd>);

#[derive(Debug)]
pub(crate) struct Link {
    socket: Arc<OwnedFd>,
    next: AtomicU64,
    /// Whether a server loop takes the events; without one they are dropped.
    served: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
    events_read: OwnedFd,
    injections: Mutex<Injections>,
}

#[derive(Debug, Default)]
struct State {
    /// Questions asked, and their answers once they are there.
    asked: HashMap<u64, Option<With<Answer>>>,
    events: VecDeque<With<Event>>,
    /// Rung when a connection has ended, by whoever reads of it: those who wait for many, of which
    /// this task is the client.
    bells: Vec<Arc<OwnedFd>>,
    /// Who is told of posters that come to a notification, by its identity.
    listeners: HashMap<ObjectId, Arc<Listener>>,
    /// What must be let go of: it came in answers that nobody waits for any more.
    unwanted: Vec<Request>,
    reading: bool,
    gone: bool,
}

/// Where events of the notifications that one thread receives from are put, by whoever reads them.
#[derive(Debug)]
pub(crate) struct Listener {
    events: Mutex<VecDeque<With<Event>>>,
    /// Written to for each of them, and never read.
    bell: OwnedFd,
}

impl Listener {
    pub(crate) fn new() -> io::Result<Self> {
        let bell = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { events: Mutex::default(), bell })
    }

    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// The next event, if one is there.
    pub(crate) fn take(&self) -> Option<With<Event>> {
        self.events.lock().pop_front()
    }

    fn put(&self, event: With<Event>) {
        self.events.lock().push_back(event);
        // A full counter is an event already.
        let _ = rustix::io::write(&self.bell, &1u64.to_ne_bytes());
    }
}

impl Link {
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        raise_descriptor_limit();
        Ok(Self {
            socket: Arc::new(socket),
            next: AtomicU64::new(1),
            served: AtomicBool::new(false),
            state: Mutex::default(),
            changed: Condvar::new(),
            events_read: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            injections: Mutex::default(),
        })
    }

    /// What is known of the faults that somebody wants to see in this task's transactions.
    pub(crate) fn injections(&self) -> &Mutex<Injections> {
        &self.injections
    }

    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// The socket, for who has to know whether there still is a kernel.
    pub(crate) fn shared_socket(&self) -> Arc<OwnedFd> {
        Arc::clone(&self.socket)
    }

    /// Makes the caller the one that takes this task's events; false if somebody is already.
    pub(crate) fn begin_serving(&self) -> bool {
        // Relaxed: the flag only lets one caller through.
        !self.served.swap(true, Ordering::Relaxed)
    }

    /// Whether somebody takes this task's events.
    pub(crate) fn is_served(&self) -> bool {
        // Relaxed: whoever asks can only be too early or too late.
        self.served.load(Ordering::Relaxed)
    }

    /// Ends what [`Link::begin_serving`] began.
    pub(crate) fn end_serving(&self) {
        self.served.store(false, Ordering::Relaxed);
    }

    /// Readable when another thread has read an event.
    pub(crate) fn events_read(&self) -> BorrowedFd<'_> {
        self.events_read.as_fd()
    }

    /// An eventfd that is written to, and never read, whenever a connection of the task has ended
    /// or the kernel is gone.
    pub(crate) fn hear_of_ends(&self) -> io::Result<Arc<OwnedFd>> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        self.state.lock().bells.push(Arc::clone(&bell));
        Ok(bell)
    }

    /// Ends what [`Link::hear_of_ends`] began.
    pub(crate) fn hear_no_more(&self, bell: &Arc<OwnedFd>) {
        self.state.lock().bells.retain(|other| !Arc::ptr_eq(other, bell));
    }

    /// Has `listener` told of those who connect to a notification; false if somebody is already.
    pub(crate) fn listen(&self, notification: ObjectId, listener: &Arc<Listener>) -> bool {
        match self.state.lock().listeners.entry(notification) {
            Entry::Occupied(_) => false,
            Entry::Vacant(entry) => {
                entry.insert(Arc::clone(listener));
                true
            }
        }
    }

    /// Ends what [`Link::listen`] began.
    pub(crate) fn listen_no_more(&self, notification: ObjectId) {
        self.state.lock().listeners.remove(&notification);
    }

    /// Reads what is there and puts it where it belongs, unless somebody reads already.
    pub(crate) fn take_in(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        loop {
            if state.gone {
                return Err(Error::KernelGone);
            }
            if state.reading {
                return Ok(());
            }
            state.reading = true;
            drop(state);
            let frame = self.read(Some(0));
            state = self.state.lock();
            state.reading = false;
            self.changed.notify_all();
            if !self.sort(&mut state, frame, true)? {
                return Ok(());
            }
        }
    }

    /// Asks and waits for the answer until `deadline` (ns).
    pub(crate) fn ask(&self, request: &Request, deadline: u64) -> Result<With<Answer>, Error> {
        self.ask_raw(frame::REQUEST, &encode(request), deadline)
    }

    pub(crate) fn ask_raw(
        &self,
        code: u16,
        payload: &[u8],
        deadline: u64,
    ) -> Result<With<Answer>, Error> {
        // Relaxed: only different numbers are wanted.
        let transaction = self.next.fetch_add(1, Ordering::Relaxed);
        self.state.lock().asked.insert(transaction, None);
        if let Err(error) = self.send(transaction, code, payload) {
            self.state.lock().asked.remove(&transaction);
            return Err(error);
        }
        let asked_at = Host::now();
        let answer = self.await_answer(transaction, deadline);
        self.let_go();
        match answer? {
            Some((Answer::Error(error), _)) => Err(error.into()),
            Some(answer) => Ok(answer),
            None => {
                self.tell(&Request::Cancel { transaction });
                Err(Error::KernelSilent { ms: (Host::now() - asked_at) / 1_000_000 })
            }
        }
    }

    /// Asks, and leaves it to [`Link::answer_to`] to take the answer, whenever it comes.
    pub(crate) fn ask_later(&self, request: &Request) -> Result<u64, Error> {
        // Relaxed: as in `ask_raw`.
        let transaction = self.next.fetch_add(1, Ordering::Relaxed);
        self.state.lock().asked.insert(transaction, None);
        self.send(transaction, frame::REQUEST, &encode(request)).inspect_err(|_| {
            self.forget(transaction);
        })?;
        Ok(transaction)
    }

    /// The answer to a request that was begun with [`Link::ask_later`]; waits for it until `deadline`
    /// (ns).
    pub(crate) fn answer_to(&self, transaction: u64, deadline: u64) -> Result<With<Answer>, Error> {
        let asked_at = Host::now();
        match self.await_answer(transaction, deadline)? {
            Some((Answer::Error(error), _)) => Err(error.into()),
            Some(answer) => Ok(answer),
            None => Err(Error::KernelSilent { ms: (Host::now() - asked_at) / 1_000_000 }),
        }
    }

    /// Nobody waits for that answer any more.
    pub(crate) fn forget(&self, transaction: u64) {
        self.state.lock().asked.remove(&transaction);
    }

    /// Tells the kernel of what came in answers that nobody waited for any more.
    fn let_go(&self) {
        let unwanted = core::mem::take(&mut self.state.lock().unwanted);
        for request in unwanted {
            self.tell(&request);
        }
    }

    /// Asks without wanting to know the answer.
    pub(crate) fn tell(&self, request: &Request) {
        // Relaxed: as in `ask_raw`. A failure means that the kernel is gone, which the next question
        // or the server loop finds out.
        let transaction = self.next.fetch_add(1, Ordering::Relaxed);
        let _ = self.send(transaction, frame::REQUEST, &encode(request));
    }

    /// Sends a frame. Takes answers in while there is no room for it: the kernel reads nothing from
    /// a task that does not read its answers.
    fn send(&self, transaction: u64, code: u16, payload: &[u8]) -> Result<(), Error> {
        loop {
            let error = match send_frame(self.socket(), transaction, code, payload, &[], Mode::Now)
            {
                Ok(()) => return Ok(()),
                Err(error) => error,
            };
            match error.kind() {
                io::ErrorKind::WouldBlock => self.make_room()?,
                io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset => {
                    return Err(Error::KernelGone);
                }
                _ => return Err(Error::system("sending a request to the kernel", error)),
            }
        }
    }

    /// Waits until there is room for a frame, or something was read that was in its way.
    fn make_room(&self) -> Result<(), Error> {
        let mut state = self.state.lock();
        // Somebody who reads already makes room for us too.
        let read = !state.reading;
        state.reading |= read;
        drop(state);
        let interest = if read { PollFlags::IN | PollFlags::OUT } else { PollFlags::OUT };
        let mut polled = [PollFd::new(&self.socket, interest)];
        let found = poll(&mut polled, Some(&Timespec { tv_sec: 1, tv_nsec: 0 }));
        let readable = read && found.is_ok() && polled[0].revents().contains(PollFlags::IN);
        let frame = if readable { self.read(Some(0)) } else { Ok(None) };
        if read {
            let mut state = self.state.lock();
            state.reading = false;
            self.changed.notify_all();
            self.sort(&mut state, frame, true)?;
        }
        Ok(())
    }

    fn await_answer(&self, transaction: u64, deadline: u64) -> Result<Option<With<Answer>>, Error> {
        let mut state = self.state.lock();
        loop {
            if let Some(Some(_)) = state.asked.get(&transaction) {
                return Ok(state.asked.remove(&transaction).flatten());
            }
            if state.gone {
                state.asked.remove(&transaction);
                return Err(Error::KernelGone);
            }
            let now = Host::now();
            if now >= deadline {
                state.asked.remove(&transaction);
                return Ok(None);
            }
            if state.reading {
                let left = std::time::Duration::from_nanos(deadline - now).min(MAX_WAIT);
                let _ = self.changed.wait_for(&mut state, left);
                continue;
            }
            state.reading = true;
            drop(state);
            let frame = self.read(Some(deadline - now));
            state = self.state.lock();
            state.reading = false;
            self.changed.notify_all();
            self.sort(&mut state, frame, true)?;
        }
    }

    /// The next event, if one is there.
    pub(crate) fn take_event(&self) -> Result<Option<With<Event>>, Error> {
        let mut state = self.state.lock();
        let _ = rustix::io::read(&self.events_read, &mut [0; 8]);
        while state.events.is_empty() {
            if state.gone {
                return Err(Error::KernelGone);
            }
            if state.reading {
                return Ok(None);
            }
            state.reading = true;
            drop(state);
            let frame = self.read(Some(0));
            state = self.state.lock();
            state.reading = false;
            self.changed.notify_all();
            if !self.sort(&mut state, frame, false)? {
                return Ok(None);
            }
        }
        let event = state.events.pop_front();
        if !state.events.is_empty() {
            let _ = rustix::io::write(&self.events_read, &1u64.to_ne_bytes());
        }
        Ok(event)
    }

    /// Waits for a frame for at most `ns` and reads it; `Ok(None)` if there is none.
    fn read(&self, ns: Option<u64>) -> io::Result<Option<Option<rendez_ipc_core::control::Frame>>> {
        let timeout = ns.map(|ns| Timespec {
            tv_sec: (ns / 1_000_000_000).min(i64::MAX as u64) as i64,
            tv_nsec: (ns % 1_000_000_000) as i64,
        });
        let mut polled = [PollFd::new(&self.socket, PollFlags::IN)];
        match poll(&mut polled, timeout.as_ref()) {
            Ok(0) | Err(rustix::io::Errno::INTR) => return Ok(None),
            Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
        match receive_frame(self.socket(), Mode::Now) {
            Ok(frame) => Ok(Some(frame)),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Some(None)),
            Err(error) => Err(error),
        }
    }

    /// Puts what was read where it belongs; whether anything was read.
    fn sort(
        &self,
        state: &mut State,
        read: io::Result<Option<Option<rendez_ipc_core::control::Frame>>>,
        tell_server: bool,
    ) -> Result<bool, Error> {
        let frame = match read.map_err(|error| Error::system("reading from the kernel", error))? {
            None => return Ok(false),
            Some(None) => {
                state.gone = true;
                ring(&state.bells);
                let _ = rustix::io::write(&self.events_read, &1u64.to_ne_bytes());
                return Ok(true);
            }
            Some(Some(frame)) => frame,
        };
        let descriptors = VecDeque::from(frame.descriptors);
        match frame.header.code {
            frame::ANSWER => {
                let answer = decode(&frame.payload)?;
                match state.asked.get_mut(&frame.transaction) {
                    Some(place) => *place = Some((answer, descriptors)),
                    // Its descriptors are closed here; what it brought is let go of.
                    None => state.unwanted.extend(brought(answer)),
                }
            }
            frame::EVENT => {
                let event = decode(&frame.payload)?;
                if matches!(event, Event::Closed { .. }) {
                    ring(&state.bells);
                }
                if let Event::Incoming { endpoint, .. } = &event
                    && let Some(listener) = state.listeners.get(endpoint)
                {
                    listener.put((event, descriptors));
                    return Ok(true);
                }
                // Relaxed: whoever begins to serve asks for events only afterwards.
                if !self.served.load(Ordering::Relaxed) {
                    return Ok(true);
                }
                state.events.push_back((event, descriptors));
                if tell_server {
                    let _ = rustix::io::write(&self.events_read, &1u64.to_ne_bytes());
                }
            }
            other => return Err(Error::Protocol(format!("a frame of unknown code {other}"))),
        }
        Ok(true)
    }
}

fn ring(bells: &[Arc<OwnedFd>]) {
    for bell in bells {
        // A full counter is an event already.
        let _ = rustix::io::write(bell, &1u64.to_ne_bytes());
    }
}

/// The requests that let go of what an answer brought.
fn brought(answer: Answer) -> Vec<Request> {
    match answer {
        Answer::Connecting { connection, .. } | Answer::Connected { connection, .. } => {
            vec![Request::Disconnect { connection, why: Why::Closed }]
        }
        Answer::Spare { spare } => vec![Request::DropSpare { spare }],
        Answer::Attaching { connection, arena } => vec![Request::Detach { connection, arena }],
        Answer::Slot(received) | Answer::Region(received) => {
            vec![Request::Delete { slot: received.slot }]
        }
        Answer::Task { capability, .. } => vec![Request::Delete { slot: capability.slot }],
        Answer::Received(received) => {
            received.into_iter().map(|one| Request::Delete { slot: one.slot }).collect()
        }
        _ => Vec::new(),
    }
}

/// Raises the soft limit of open descriptors to the hard one: a server has one for each connection,
/// and who runs out refuses clients. Where Linux does not allow it, the limit stays.
fn raise_descriptor_limit() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard, hard);
    }
}

/// How long a thread waits for another to read before it looks again.
const MAX_WAIT: std::time::Duration = std::time::Duration::from_secs(1);
