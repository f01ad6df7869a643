//! A task without the library: it speaks frames with the kernel itself and writes what it likes
//! into its own segments.
//!
//! # Safety
//! An island of `unsafe`: a mapping stays for as long as the [`Memory`] that made it, its length is
//! checked before each access, and everything in it is read and written as atomics. Other processes
//! read what is written here; that it may be rubbish is the point.

use rendez::protocol::kernel::{
    Answer, Doorbell, Event, Given, Hello, KernelError, Limits, Offer, Received, Request,
    SEGMENT_HEADER_BYTES, Shape, Travel, frame,
};
use rendez::protocol::limit::INLINE_BYTES;
use rendez::protocol::message::{Header, area_bytes, room_for};
use rendez::protocol::status::ConnectionState;
use rendez::protocol::{ConnectionId, Rights, Slot, TaskId, decode, encode, name};
use rendez_ipc_core::control::{Frame, Mode, receive_frame, send_frame};
use rendez_ipc_core::status::{PageWriter, SEALS, StatusReader};
use rustix::mm::{MapFlags, ProtFlags, mmap, munmap};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::thread::futex;
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

/// Where things lie in a segment; see `docs/reference/memory-layout.md`.
pub(crate) mod at {
    pub(crate) const DOORBELL: usize = 0;
    pub(crate) const RANG_AT: usize = 8;
    pub(crate) const ASLEEP: usize = 128;
    pub(crate) const CPU: usize = 132;
    pub(crate) const TAKEN: usize = 256;
    pub(crate) const FREED: usize = 264;
    pub(crate) const POSTED: usize = 384;
    pub(crate) const ACKNOWLEDGED: usize = 512;
}

/// Mapped memory.
pub(crate) struct Memory {
    start: NonNull<u8>,
    length: usize,
    lines: usize,
}

// SAFETY: plain memory, reached through atomics only.
unsafe impl Send for Memory {}
// SAFETY: as for `Send`.
unsafe impl Sync for Memory {}

impl Memory {
    fn map(descriptor: &OwnedFd, shape: Shape, protection: ProtFlags) -> Self {
        Self::map_bytes(descriptor, shape.segment_bytes(), shape.lines as usize, protection)
    }

    fn map_bytes(descriptor: &OwnedFd, length: usize, lines: usize, protection: ProtFlags) -> Self {
        assert_eq!(rustix::fs::fstat(descriptor).unwrap().st_size, length as i64);
        // SAFETY: a fresh mapping at a place that Linux chooses; the file has this length, checked.
        let start = unsafe {
            mmap(std::ptr::null_mut(), length, protection, MapFlags::SHARED, descriptor, 0)
        };
        let start = NonNull::new(start.unwrap().cast()).unwrap();
        Self { start, length, lines }
    }

    /// An arena of one's own, populated, and sealed once it is mapped.
    pub(crate) fn own_arena(descriptor: &OwnedFd, bytes: usize) -> Self {
        rustix::io::pwrite(descriptor, &vec![0; bytes], 0).unwrap();
        let own = Self::map_bytes(descriptor, bytes, 1, ProtFlags::READ | ProtFlags::WRITE);
        rustix::fs::fcntl_add_seals(descriptor, SEALS).unwrap();
        own
    }

    /// A segment of one's own, populated, and sealed once it is mapped.
    pub(crate) fn own(descriptor: &OwnedFd, shape: Shape) -> Self {
        rustix::io::pwrite(descriptor, &vec![0; shape.segment_bytes()], 0).unwrap();
        let own = Self::map(descriptor, shape, ProtFlags::READ | ProtFlags::WRITE);
        rustix::fs::fcntl_add_seals(descriptor, SEALS).unwrap();
        own
    }

    /// A segment of one's own that is sealed and not populated.
    pub(crate) fn own_with_a_hole(descriptor: &OwnedFd, shape: Shape) -> Self {
        let own = Self::map(descriptor, shape, ProtFlags::READ | ProtFlags::WRITE);
        rustix::fs::fcntl_add_seals(descriptor, SEALS).unwrap();
        own
    }

    /// A segment of somebody else's.
    pub(crate) fn theirs(descriptor: &OwnedFd, shape: Shape) -> Self {
        Self::map(descriptor, shape, ProtFlags::READ)
    }

    /// Whether Linux lets nobody map the beginning of a file for writing.
    pub(crate) fn is_not_writable(descriptor: &OwnedFd, bytes: usize) -> bool {
        let (protection, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED);
        // SAFETY: a fresh mapping at a place that Linux chooses, which nobody looks at.
        let mapped = unsafe { mmap(std::ptr::null_mut(), bytes, protection, flags, descriptor, 0) };
        mapped.is_err()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.length
    }

    fn at<T>(&self, offset: usize) -> NonNull<T> {
        assert!(offset.is_multiple_of(align_of::<T>()) && offset + size_of::<T>() <= self.length);
        // SAFETY: within the mapping, checked just now.
        unsafe { self.start.add(offset) }.cast()
    }

    pub(crate) fn load(&self, offset: usize) -> u64 {
        // SAFETY: mapped and aligned, checked by `at`; an atomic.
        unsafe { self.at::<AtomicU64>(offset).as_ref() }.load(Ordering::SeqCst)
    }

    pub(crate) fn load_u32(&self, offset: usize) -> u32 {
        // SAFETY: as in `load`.
        unsafe { self.at::<AtomicU32>(offset).as_ref() }.load(Ordering::SeqCst)
    }

    pub(crate) fn store(&self, offset: usize, value: u64) {
        // SAFETY: as in `load`; callers store to their own segments, which are mapped for writing.
        unsafe { self.at::<AtomicU64>(offset).as_ref() }.store(value, Ordering::SeqCst);
    }

    pub(crate) fn store_u32(&self, offset: usize, value: u32) {
        // SAFETY: as in `store`.
        unsafe { self.at::<AtomicU32>(offset).as_ref() }.store(value, Ordering::SeqCst);
    }

    /// A word, to sleep on.
    pub(crate) fn word(&self, offset: usize) -> &AtomicU32 {
        // SAFETY: as in `load`; it lives as long as the mapping.
        unsafe { self.at::<AtomicU32>(offset).as_ref() }
    }

    pub(crate) fn store_bytes(&self, offset: usize, bytes: &[u8]) {
        for (place, byte) in bytes.iter().enumerate() {
            // SAFETY: as in `store`.
            unsafe { self.at::<AtomicU8>(offset + place).as_ref() }.store(*byte, Ordering::SeqCst);
        }
    }

    /// Where the line of message `position` lies.
    pub(crate) fn line(&self, position: u64) -> usize {
        SEGMENT_HEADER_BYTES + (position as usize % self.lines) * 64
    }

    /// The turn that message `position` has.
    pub(crate) fn turn(&self, position: u64) -> u32 {
        (position / self.lines as u64) as u32 + 1
    }

    /// Publishes message `position` as an honest writer does, its payload within the line.
    pub(crate) fn publish(&self, position: u64, header: Header, payload: &[u8]) {
        let line = self.line(position);
        let header = Header { length: payload.len() as u32, ..header };
        self.store_bytes(line + 8, &header.to_bytes());
        self.store_bytes(line + 24, payload);
        self.store_u32(line, self.turn(position));
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: mapped with this length, and nothing borrows it any more.
        let _ = unsafe { munmap(self.start.as_ptr().cast(), self.length) };
    }
}

/// Forks a child that runs no code of ours but sleeps, for a minute or two; its process.
pub(crate) fn fork_a_sleeper() -> u32 {
    // SAFETY: the child makes async-signal-safe calls only, and never returns.
    match unsafe { nix::unistd::fork() }.unwrap() {
        nix::unistd::ForkResult::Parent { child } => child.as_raw().cast_unsigned(),
        nix::unistd::ForkResult::Child => {
            nix::unistd::alarm::set(120);
            loop {
                nix::unistd::pause();
            }
        }
    }
}

/// The header of a request with room for a reply of `room` bytes and no deadline.
pub(crate) fn request(operation: u16, room: usize) -> Header {
    Header { length: 0, flags: 0, code: operation, room: room_for(room), word: 0 }
}

/// What is asked to derive a capability with fewer rights.
pub(crate) fn mint(slot: Slot, rights: Rights, badge: Option<u64>) -> Request {
    Request::Mint { slot, rights, badge, limits: Limits::SAME }
}

/// What is asked to offer a capability to the other end of a connection.
pub(crate) fn offer(
    connection: ConnectionId,
    slot: Slot,
    rights: Rights,
    travel: Travel,
) -> Request {
    let item = Offer { slot, rights, badge: None, limits: Limits::SAME, travel };
    Request::Offer { connection, items: vec![item] }
}

/// A task that speaks for itself.
pub(crate) struct RawTask {
    pub(crate) socket: OwnedFd,
    pub(crate) id: TaskId,
    /// Its capability to itself.
    pub(crate) own: Received,
    pub(crate) given: Vec<Given>,
    pub(crate) status: StatusReader,
    pub(crate) page: Arc<PageWriter>,
    transaction: u64,
    events: VecDeque<(Event, Vec<OwnedFd>)>,
    /// Answers that came before they were waited for.
    answers: HashMap<u64, (Answer, Vec<OwnedFd>)>,
}

/// A connection of such a task, at whichever end.
pub(crate) struct RawConnection {
    pub(crate) id: ConnectionId,
    pub(crate) status_index: u32,
    pub(crate) own: Memory,
    pub(crate) peer: Memory,
    /// Rings the other end, if that is rung so.
    pub(crate) bell: Option<OwnedFd>,
    position: u64,
    /// Bytes of the payload area that were used.
    used: usize,
}

/// Connects to a front door.
pub(crate) fn knock(path: &Path) -> OwnedFd {
    let socket = rustix::net::socket_with(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::connect(&socket, &SocketAddrUnix::new(path).unwrap()).unwrap();
    socket
}

/// The next frame, or `None` at the end; a reset is an end too.
pub(crate) fn next(socket: &OwnedFd) -> Option<Frame> {
    let patience = Some(Duration::from_secs(60));
    sockopt::set_socket_timeout(socket, sockopt::Timeout::Recv, patience).unwrap();
    match receive_frame(socket, Mode::Wait) {
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => None,
        other => other.expect("a frame in time"),
    }
}

impl RawTask {
    /// Greets over a socket.
    pub(crate) fn greet(socket: OwnedFd, hello: Hello) -> Result<Self, KernelError> {
        Self::greet_with(socket, hello, |_| ())
    }

    /// As [`RawTask::greet`], after `write` has written into the task page.
    pub(crate) fn greet_with(
        socket: OwnedFd,
        hello: Hello,
        write: impl FnOnce(&OwnedFd),
    ) -> Result<Self, KernelError> {
        send_frame(&socket, 1, frame::HELLO, &hello.to_bytes(), &[], Mode::Wait).unwrap();
        let frame = next(&socket).expect("an answer to the greeting");
        let (id, own, given) = match decode(&frame.payload).unwrap() {
            Answer::Welcome { task, own, given, .. } => (task, own, given),
            Answer::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        };
        let [status, page] = <[OwnedFd; 2]>::try_from(frame.descriptors).unwrap();
        write(&page);
        let mut task = Self {
            socket,
            id,
            own,
            given,
            status: StatusReader::map(status).unwrap(),
            page: Arc::new(PageWriter::map(page).unwrap()),
            transaction: 1,
            events: VecDeque::new(),
            answers: HashMap::new(),
        };
        assert_eq!(task.ask(&Request::PageMapped).0, Answer::Done);
        Ok(task)
    }

    pub(crate) fn given(&self, name: &str) -> Received {
        self.given.iter().find(|given| given.name == name).unwrap().capability
    }

    pub(crate) fn send(&mut self, request: &Request) -> u64 {
        self.transaction += 1;
        let payload = encode(request);
        send_frame(&self.socket, self.transaction, frame::REQUEST, &payload, &[], Mode::Wait)
            .unwrap();
        self.transaction
    }

    fn keep(&mut self, frame: Frame) {
        if frame.header.code == frame::EVENT {
            self.events.push_back((decode(&frame.payload).unwrap(), frame.descriptors));
        } else {
            let answer = (decode(&frame.payload).unwrap(), frame.descriptors);
            self.answers.insert(frame.transaction, answer);
        }
    }

    pub(crate) fn answer(&mut self, transaction: u64) -> (Answer, Vec<OwnedFd>) {
        loop {
            if let Some(answer) = self.answers.remove(&transaction) {
                return answer;
            }
            let frame = next(&self.socket).expect("the kernel is there");
            self.keep(frame);
        }
    }

    pub(crate) fn ask(&mut self, request: &Request) -> (Answer, Vec<OwnedFd>) {
        let transaction = self.send(request);
        self.answer(transaction)
    }

    /// As [`RawTask::ask`], of what must be refused.
    #[track_caller]
    pub(crate) fn refused(&mut self, request: &Request) -> KernelError {
        match self.ask(request).0 {
            Answer::Error(error) => error,
            other => panic!("{request:?} is not refused: {other:?}"),
        }
    }

    /// A new endpoint, with all rights.
    pub(crate) fn endpoint(&mut self) -> Received {
        match self.ask(&Request::CreateEndpoint).0 {
            Answer::Slot(endpoint) => endpoint,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) fn event(&mut self) -> (Event, Vec<OwnedFd>) {
        while self.events.is_empty() {
            let frame = next(&self.socket).expect("the kernel is there");
            self.keep(frame);
        }
        self.events.pop_front().unwrap()
    }

    /// Events that have come and were not asked for.
    pub(crate) fn pending(&self) -> impl Iterator<Item = &Event> {
        self.events.iter().map(|(event, _)| event)
    }

    /// Whether the kernel has not ended this task's socket; what came meanwhile is lost.
    pub(crate) fn socket_lives(&self) -> bool {
        loop {
            match receive_frame(&self.socket, Mode::Now) {
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(error) => return error.kind() == std::io::ErrorKind::WouldBlock,
            }
        }
    }

    /// Connects to an endpoint as an honest client does.
    pub(crate) fn connect(&mut self, slot: Slot) -> RawConnection {
        self.try_connect(slot).unwrap()
    }

    /// As [`RawTask::connect`], where it may be refused.
    pub(crate) fn try_connect(&mut self, slot: Slot) -> Result<RawConnection, KernelError> {
        let shape = Shape::default();
        let (id, status_index, own) = self.begin_to_connect(slot)?;
        let own = Memory::own(&own, shape);
        let mapped = Request::Mapped { connection: id, doorbell: Doorbell::Futex };
        let (answer, mut descriptors) = self.ask(&mapped);
        let rings = match answer {
            Answer::Connected { rings, .. } => rings,
            Answer::Error(error) => return Err(error),
            other => panic!("{other:?}"),
        };
        let bell = (rings == Doorbell::Event).then(|| descriptors.pop().unwrap());
        let peer = Memory::theirs(&descriptors[0], shape);
        Ok(RawConnection { id, status_index, own, peer, bell, position: 0, used: 0 })
    }

    /// Connects to a notification, to which somebody receives, as an honest poster does.
    pub(crate) fn connect_to_post(&mut self, slot: Slot) -> RawConnection {
        let shape = Shape::SMALLEST;
        let doorbell = Doorbell::Futex;
        let request =
            Request::Connect { slot, interface: None, requests: shape, replies: shape, doorbell };
        let (answer, descriptors) = self.ask(&request);
        let Answer::Connecting { connection: id, status_index } = answer else {
            panic!("{answer:?}")
        };
        let own = Memory::own(&descriptors[0], shape);
        let (answer, mut descriptors) = self.ask(&Request::Mapped { connection: id, doorbell });
        let Answer::Connected { rings: Doorbell::Event, .. } = answer else { panic!("{answer:?}") };
        let bell = descriptors.pop();
        let peer = Memory::theirs(&descriptors[0], shape);
        RawConnection { id, status_index, own, peer, bell, position: 0, used: 0 }
    }

    /// The first half of connecting: which connection, its status word, its own segment.
    pub(crate) fn begin_to_connect(
        &mut self,
        slot: Slot,
    ) -> Result<(ConnectionId, u32, OwnedFd), KernelError> {
        let request = Request::Connect {
            slot,
            interface: None,
            requests: Shape::default(),
            replies: Shape::default(),
            doorbell: Doorbell::Futex,
        };
        match self.ask(&request) {
            (Answer::Connecting { connection, status_index }, mut descriptors) => {
                Ok((connection, status_index, descriptors.pop().unwrap()))
            }
            (Answer::Error(error), _) => Err(error),
            (other, _) => panic!("{other:?}"),
        }
    }

    /// Takes the next client in, as an honest server that is rung by futex does.
    pub(crate) fn take_in(&mut self) -> RawConnection {
        let (event, descriptors) = loop {
            match self.event() {
                // Of one that came before.
                (Event::Closed { .. }, _) => {}
                other => break other,
            }
        };
        let Event::Incoming { connection, status_index, requests, replies, .. } = event else {
            panic!("{event:?}")
        };
        let own = Memory::own(&descriptors[0], replies);
        let peer = Memory::theirs(&descriptors[1], requests);
        let mapped = Request::Mapped { connection, doorbell: Doorbell::Futex };
        assert_eq!(self.ask(&mapped).0, Answer::Done);
        RawConnection { id: connection, status_index, own, peer, bell: None, position: 0, used: 0 }
    }

    /// Serves `path` without the library, as somebody whom clients find through the name server.
    pub(crate) fn serve_as(&mut self, path: &str) {
        let Answer::Slot(endpoint) = self.ask(&Request::CreateEndpoint).0 else { panic!() };
        let serving = self.ask(&Request::Serve { slot: endpoint.slot, interface: None }).0;
        assert!(matches!(serving, Answer::Serving { generation: 1, .. }), "{serving:?}");
        let mut names = self.connect(self.given("register").slot);
        let rights = Rights::SEND | Rights::MINT | Rights::GRANT;
        let offer = offer(names.id, endpoint.slot, rights, Travel::Mint);
        let Answer::Ticket(ticket) = self.ask(&offer).0 else { panic!() };
        let payload = encode(&name::Register { path, ticket });
        let position = names.publish(request(name::operation::REGISTER, 64), &payload);
        assert_eq!(names.reply(position), 0);
        // Or its name would go with the connection.
        std::mem::forget(names);
    }

    /// Looks a short path up, whose answer fits a line.
    pub(crate) fn look_up(&mut self, path: &str) -> Slot {
        let mut names = self.connect(self.given("name").slot);
        let payload = encode(&name::LookUp { path, rights: None, wait: true });
        let position = names.publish(request(name::operation::LOOK_UP, 64), &payload);
        assert_eq!(names.reply(position), 0);
        let line = names.peer.line(position);
        let length = names.peer.load(line + 8) as usize & 0xff_ffff;
        let bytes: Vec<u8> =
            (0..5).flat_map(|word| names.peer.load(line + 24 + 8 * word).to_le_bytes()).collect();
        let found: name::Found<'_> = decode(&bytes[..length]).unwrap();
        let accept = Request::Accept { connection: names.id, ticket: found.ticket };
        match self.ask(&accept).0 {
            Answer::Received(received) => received[0].slot,
            other => panic!("{other:?}"),
        }
    }

    /// Takes a client's arenas in, as an honest server does: the id, and the server's own.
    pub(crate) fn take_in_arenas(&mut self, of: &RawConnection) -> (u32, Memory) {
        let (event, descriptors) = self.event();
        let Event::Attach { connection, arena, replies, .. } = event else { panic!("{event:?}") };
        assert_eq!(connection, of.id);
        let own = Memory::own_arena(&descriptors[0], replies as usize);
        assert_eq!(self.ask(&Request::ArenaMapped { connection, arena }).0, Answer::Done);
        (arena.0, own)
    }

    /// Attaches a pair of arenas as an honest client does: its id, and the client's own.
    pub(crate) fn attach(
        &mut self,
        connection: &RawConnection,
        requests: u32,
        replies: u32,
    ) -> (u32, Memory) {
        let connection = connection.id;
        let request = Request::Attach { connection, requests, replies };
        let (answer, descriptors) = self.ask(&request);
        let Answer::Attaching { arena, .. } = answer else { panic!("{answer:?}") };
        let own = Memory::own_arena(&descriptors[0], requests as usize);
        let (answer, _) = self.ask(&Request::ArenaMapped { connection, arena });
        assert_eq!(answer, Answer::Attached);
        (arena.0, own)
    }

    pub(crate) fn state(&self, connection: &RawConnection) -> ConnectionState {
        self.status.state(connection.status_index)
    }

    /// Waits until the other end has closed a connection; the state that its word then has.
    pub(crate) fn closed(&mut self, connection: &RawConnection) -> ConnectionState {
        loop {
            match self.event().0 {
                Event::Closed { connection: id, .. } if id == connection.id => {
                    return self.state(connection);
                }
                _ => {}
            }
        }
    }
}

impl RawConnection {
    pub(crate) fn ring(&self) {
        if let Some(bell) = &self.bell {
            let _ = rustix::io::write(bell, &1_u64.to_ne_bytes());
        } else {
            let rung = self.own.load_u32(at::DOORBELL).wrapping_add(1);
            self.own.store_u32(at::DOORBELL, rung);
            let word = self.own.word(at::DOORBELL);
            futex::wake(word, futex::Flags::empty(), i32::MAX as u32).unwrap();
        }
    }

    /// Publishes a request as an honest client does, and rings; which one it is.
    pub(crate) fn publish(&mut self, header: Header, payload: &[u8]) -> u64 {
        let position = self.position;
        self.position += 1;
        self.own.publish(position, header, payload);
        self.ring();
        position
    }

    /// As [`RawConnection::publish`], of a payload that may be longer than a line and must not come
    /// to the area's end.
    pub(crate) fn publish_long(&mut self, header: Header, payload: &[u8]) -> u64 {
        let (within, beyond) = payload.split_at(payload.len().min(INLINE_BYTES));
        let area = self.own.line(self.own.lines as u64 - 1) + 64;
        self.own.store_bytes(area.next_multiple_of(4096) + self.used, beyond);
        self.used += area_bytes(payload.len());
        let position = self.position;
        self.position += 1;
        let line = self.own.line(position);
        let header = Header { length: payload.len() as u32, ..header };
        self.own.store_bytes(line + 8, &header.to_bytes());
        self.own.store_bytes(line + 24, within);
        self.own.store_u32(line, self.own.turn(position));
        self.ring();
        position
    }

    /// Waits for the reply that is the `position`th in the server's ring; its status.
    pub(crate) fn reply(&self, position: u64) -> u16 {
        let line = self.peer.line(position);
        super::eventually("a reply", || {
            (self.peer.load_u32(line) == self.peer.turn(position)).then_some(())
        });
        (self.peer.load(line + 8) >> 32) as u16
    }
}
