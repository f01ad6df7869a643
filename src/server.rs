//! The server loop: one thread that receives from all its clients.

use crate::arenas::{Arenas, Attach};
use crate::crew::{Crew, Hand, Handed, Moved, Unsettled};
use crate::error::Error;
use crate::region::EmptyRegion;
use crate::service::{Caller, Context, Message, Reply, Service};
use crate::stock::Stock;
use crate::task::{Task, out_of_turn};
use parking_lot::Mutex;
use rendez_ipc_core::counters::{Identity, Side, ThreadCounters, server_counters};
use rendez_ipc_core::half::{Ours, Theirs};
use rendez_ipc_core::platform::{Host, HostBell, Platform};
use rendez_ipc_core::receive::{Key, Receiver, Turn};
use rendez_ipc_core::ring::Buffer;
use rendez_ipc_core::segment::{OwnSegment, PeerSegment};
use rendez_ipc_core::server::{Port, ServerEnd, Taken};
use rendez_ipc_core::wait::Wait;
use rendez_protocol::kernel::{
    Answer, Doorbell, Event, KernelError, ObjectKind, Offer, Received, Request,
};
use rendez_protocol::message::Header;
use rendez_protocol::status::{ConnectionState, Why};
use rendez_protocol::{ConnectionId, Interface, Rights, Slot, Ticket};
use std::collections::{HashMap, VecDeque};
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::time::Instant;

/// Descriptors of the loop's own, before those of the service.
const KERNEL: u32 = 0;
const EVENTS_READ: u32 = 1;
const INBOX: u32 = 2;
const OF_SERVICE: u32 = 16;
/// Events of the kernel's that are handled before messages have their turn again.
const EVENTS_PER_TURN: usize = 16;

/// Serves endpoints of one task, in one thread or several.
#[derive(Debug)]
pub struct Server {
    receiver: Receiver,
    world: World,
    buffer: Buffer,
    /// By the place of the connection's key.
    callers: Vec<Option<Caller>>,
    /// Who posts to a notification, by the same.
    posters: HashMap<usize, Caller>,
    /// The capabilities of the notifications that it is bound to.
    bound: Vec<Slot>,
    /// Whether the service's descriptors are in the receiver.
    registered: bool,
    arenas: Arenas,
    stock: Stock,
    wait: Wait,
    /// Whether another thread has ended, and this one is to.
    ends: bool,
    /// Whether this one takes the task's events: not so the others of several threads.
    first: bool,
}

/// The ports of all connections of a server, whichever thread has them.
type Ports = Arc<Mutex<HashMap<ConnectionId, Arc<Port<Host>>>>>;

/// All of a server but what a message is read with: what its service may use meanwhile.
#[derive(Debug)]
struct World {
    task: Task,
    keys: HashMap<ConnectionId, Key>,
    ports: Ports,
    /// Where several threads serve.
    hand: Option<Hand>,
}

impl Server {
    /// A server of `task` that waits by [`Wait::Adaptive`]. A task has one at a time: it takes all
    /// of the task's events.
    ///
    /// # Errors
    /// If the task has a server; what Linux says.
    pub fn new(task: &Task) -> Result<Self, Error> {
        let system = |error| Error::system("setting up epoll", error);
        if !task.link().begin_serving() {
            return Err(system(std::io::Error::new(
                std::io::ErrorKind::AlreadyExists,
                "this task has a Server already, which takes all of its events",
            )));
        }
        Self::set_up(task).map_err(|error| {
            task.link().end_serving();
            system(error)
        })
    }

    fn set_up(task: &Task) -> std::io::Result<Self> {
        let mut receiver = Receiver::new(Wait::Adaptive, Some(task.status().clone()))?;
        receiver.set_counters(ThreadCounters::new(task.page()));
        receiver.add_descriptor(task.link().socket(), KERNEL)?;
        receiver.add_descriptor(task.link().events_read(), EVENTS_READ)?;
        let mut server = Self::over(receiver, task, Ports::default(), Arenas::new());
        server.first = true;
        server.stock = Stock::new(task);
        Ok(server)
    }

    fn over(receiver: Receiver, task: &Task, ports: Ports, arenas: Arenas) -> Self {
        Self {
            receiver,
            world: World { task: task.clone(), keys: HashMap::new(), ports, hand: None },
            buffer: Buffer::new(),
            callers: Vec::new(),
            posters: HashMap::new(),
            bound: Vec::new(),
            registered: false,
            arenas,
            stock: Stock::none(),
            wait: Wait::Adaptive,
            ends: false,
            first: false,
        }
    }

    /// Changes how the server waits.
    pub const fn set_wait(&mut self, wait: Wait) {
        self.wait = wait;
        self.receiver.set_wait(wait);
    }

    /// Changes how large an arena this server accepts, in bytes of what can be lent, in each
    /// direction: 64 MiB unless said otherwise. Bounds what one client's leases, and messages longer
    /// than its ring, can be.
    pub const fn set_arena_bytes_max(&mut self, bytes: u32) {
        self.arenas.set_limit(bytes);
    }

    /// Becomes the receiver of an endpoint, which speaks `interface` (`None` accepts any client).
    /// Answers the endpoint's incarnation.
    ///
    /// # Errors
    /// What the kernel says: RECEIVE is missing, or somebody else serves it.
    pub fn serve(&self, slot: Slot, interface: Option<Interface>) -> Result<u32, Error> {
        match self.world.task.ask(&Request::Serve { slot, interface })?.0 {
            Answer::Serving { generation, .. } => Ok(generation),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Becomes the receiver of a notification too, so that one loop waits for messages and for bits:
    /// [`Service::notified`] is told of them, with a [`Caller`] whose `endpoint` is the notification
    /// and whose badge is the poster's. Answers the notification's incarnation.
    ///
    /// ```no_run
    /// use rendez::service::{Caller, Context, Message, Reply, Service};
    /// use rendez::{Server, Task};
    ///
    /// struct Store { stale: u64 }
    /// impl Service for Store {
    ///     fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
    ///         reply.ok(message.payload);
    ///     }
    ///     fn notified(&mut self, _: &mut dyn Context, _: &Caller, bits: u64) {
    ///         self.stale |= bits;
    ///     }
    /// }
    ///
    /// let task = Task::current()?;
    /// let (endpoint, changed) = (task.create_endpoint()?, task.create_notification()?);
    /// let mut server = Server::new(&task)?;
    /// server.serve(endpoint.slot, None)?;
    /// server.bind(changed.slot)?;
    /// server.run(&mut Store { stale: 0 })?;
    /// # Ok::<(), rendez::Error>(())
    /// ```
    ///
    /// # Errors
    /// What the kernel says: it is no notification, RECEIVE is missing, or somebody else receives.
    pub fn bind(&mut self, slot: Slot) -> Result<u32, Error> {
        let found = self.world.task.inspect(slot)?.itself.kind;
        if found != ObjectKind::Notification {
            let wanted = ObjectKind::Notification;
            return Err(KernelError::WrongObject { slot, wanted, found }.into());
        }
        let generation = self.serve(slot, None)?;
        self.bound.push(slot);
        Ok(generation)
    }

    /// How many clients and posters are connected.
    #[must_use]
    pub fn connections(&self) -> usize {
        match &self.world.hand {
            Some(hand) => hand.crew.connections(),
            None => self.receiver.len(),
        }
    }

    /// Serves until the service says that it has finished, or the kernel is gone.
    ///
    /// # Errors
    /// [`Error::KernelGone`]: the system has ended, and so should this process. What Linux says.
    pub fn run(&mut self, service: &mut impl Service) -> Result<(), Error> {
        while !service.finished() && !self.ends {
            self.step(service)?;
        }
        self.ends = false;
        Ok(())
    }

    /// Serves with `threads` threads, this one among them, until the service of one of them says that
    /// it has finished, or the kernel is gone; then all end. Each thread runs a service of its own,
    /// which `make` makes there when it is told the thread's number: 0 is this one.
    ///
    /// A client's connection belongs to one thread at a time, so that its messages are handled one
    /// after the other; new ones go to the thread with the fewest. A thread that never rests gives
    /// busy connections away, if its service [lets it](Service::may_move). Of a client, the service of
    /// the thread that has it then is told: [`connected`](Service::connected) and
    /// [`disconnected`](Service::disconnected) once each, of one client perhaps in different threads.
    /// [`Service::watched`] is told to those who asked, [`Service::no_senders`] to all.
    ///
    /// # Errors
    /// As [`Server::run`]; what Linux says to more threads.
    ///
    /// # Panics
    /// If a service does, after the other threads have ended.
    pub fn run_on<S: Service>(
        &mut self,
        threads: usize,
        make: impl Fn(usize) -> S + Sync,
    ) -> Result<(), Error> {
        let system = |error| Error::system("setting up the threads of a server", error);
        let mut others = Vec::new();
        for _ in 1..threads.max(1) {
            // The first thread alone looks at the task's own status word.
            let mut receiver = Receiver::new(self.wait, None).map_err(system)?;
            receiver.set_counters(ThreadCounters::new(self.world.task.page()));
            let (task, ports) = (&self.world.task, Arc::clone(&self.world.ports));
            others.push(Self::over(receiver, task, ports, self.arenas.of_another_thread()));
        }
        let busy = |server: &Self| Arc::clone(server.receiver.gauge());
        let gauges = std::iter::once(busy(self)).chain(others.iter().map(busy)).collect();
        let mut hands = Crew::gather(gauges).map_err(system)?.into_iter();
        for server in std::iter::once(&mut *self).chain(&mut others) {
            let Some(hand) = hands.next() else { break };
            server.receiver.add_edge(hand.bell(), INBOX).map_err(system)?;
            for _ in 0..server.receiver.len() {
                hand.crew.count(hand.index, true);
            }
            server.world.hand = Some(hand);
        }
        let make = &make;
        let ended = std::thread::scope(|scope| {
            let mut running = Vec::new();
            for (index, mut server) in (1..).zip(others) {
                let thread = std::thread::Builder::new().name(format!("server-{index}"));
                let run = move || server.run(&mut make(index));
                match thread.spawn_scoped(scope, run) {
                    Ok(thread) => running.push(thread),
                    Err(error) => {
                        self.leave_crew();
                        return Err(system(error));
                    }
                }
            }
            // A panic here is not to leave the others waiting for the end.
            let ended = catch_unwind(AssertUnwindSafe(|| self.run(&mut make(0))));
            self.leave_crew();
            running
                .into_iter()
                .map(std::thread::ScopedJoinHandle::join)
                .chain([ended])
                .map(|result| result.unwrap_or_else(|panic| resume_unwind(panic)))
                .fold(Ok(()), Result::and)
        });
        self.registered = false;
        ended
    }

    /// Ends the other threads.
    fn leave_crew(&mut self) {
        if let Some(hand) = self.world.hand.take() {
            let _ = self.receiver.remove_descriptor(hand.bell());
        }
    }

    #[cold]
    fn register(&mut self, service: &impl Service) -> Result<(), Error> {
        self.registered = true;
        self.receiver.counters().here();
        for (place, descriptor) in (OF_SERVICE..).zip(service.descriptors()) {
            self.receiver
                .add_descriptor(descriptor, place)
                .map_err(|error| Error::system("adding a service's descriptor to epoll", error))?;
        }
        Ok(())
    }

    /// Waits for one thing to happen and handles it. It is always the same service that a server
    /// runs: its descriptors are asked for once.
    ///
    /// # Errors
    /// As [`Server::run`].
    #[inline]
    pub fn step(&mut self, service: &mut impl Service) -> Result<(), Error> {
        if !self.registered {
            self.register(service)?;
        }
        let deadline = service.next_deadline().map_or(u64::MAX, |at| {
            let left = at.saturating_duration_since(Instant::now());
            Host::now().saturating_add(u64::try_from(left.as_nanos()).unwrap_or(u64::MAX))
        });
        let turn = self
            .receiver
            .next(&mut self.buffer, self.stock.at_latest(deadline))
            .map_err(|error| Error::system("waiting for messages", error))?;
        match turn {
            Turn::Message(key, taken) => {
                let Some(Some(caller)) = self.callers.get(key.index()) else {
                    self.not_a_client(key, service);
                    return Ok(());
                };
                let Some(port) = self.receiver.port(key) else { return Ok(()) };
                self.receiver.counters().handles(port.handled(taken.transaction));
                if self.buffer.flags() & Header::LEASED != 0 {
                    self.leased(key, taken, service);
                    return Ok(());
                }
                let message = Message {
                    caller,
                    operation: taken.operation,
                    payload: self.buffer.as_slice(),
                    leases: &[],
                    deadline_ns: taken.deadline,
                    room: taken.room_bytes(),
                    priority: taken.priority,
                };
                service.receive(&mut self.world, message, Reply::ring(port, taken));
                if let Some(hand) = &mut self.world.hand
                    && let Some(to) = hand.overloaded(self.receiver.rests(), self.receiver.polled())
                {
                    self.give_away(key, to, service);
                }
            }
            Turn::Notified(key, bits) => {
                let poster = || self.posters.get(&key.index());
                let caller = self.callers.get(key.index()).and_then(Option::as_ref);
                if let Some(caller) = caller.or_else(poster) {
                    service.notified(&mut self.world, caller, bits);
                }
            }
            Turn::Ended(key, _) => self.forget(key, service, Why::Closed),
            Turn::Fault(key, _fault) => self.forget(key, service, Why::Protocol),
            Turn::Descriptor(KERNEL | EVENTS_READ) | Turn::Kernel => self.kernel_events(service)?,
            Turn::Descriptor(INBOX) => self.look_into_inbox(service),
            Turn::Descriptor(token) => {
                service.ready(&mut self.world, token.saturating_sub(OF_SERVICE) as usize);
            }
            Turn::Deadline if self.stock.is_due() => self.stock.replenish(&self.world.task),
            Turn::Deadline => service.expired(&mut self.world, Instant::now()),
        }
        Ok(())
    }

    /// A message on what is no client's connection: no honest poster sends one.
    #[cold]
    fn not_a_client(&mut self, key: Key, service: &mut impl Service) {
        if self.posters.contains_key(&key.index()) {
            self.forget(key, service, Why::Protocol);
        }
    }

    /// Handles a message whose payload begins with lease descriptors.
    #[inline(never)]
    fn leased(&mut self, key: Key, taken: Taken, service: &mut impl Service) {
        let Some(Some(caller)) = self.callers.get(key.index()) else { return };
        let Some(port) = self.receiver.port(key) else { return };
        let world = &mut self.world;
        let handled =
            self.arenas.receive(caller, port, taken, self.buffer.as_slice(), |message, reply| {
                service.receive(world, message, reply);
            });
        if handled.is_err() {
            self.forget(key, service, Why::Protocol);
        }
    }

    fn kernel_events(&mut self, service: &mut impl Service) -> Result<(), Error> {
        for _ in 0..EVENTS_PER_TURN {
            let Some((event, descriptors)) = self.world.task.link().take_event()? else {
                return Ok(());
            };
            match event {
                Event::Incoming { kind: ObjectKind::Notification, .. } => {
                    // Posters stay with this thread.
                    if let Some(hand) = &self.world.hand {
                        hand.crew.count(hand.index, true);
                    }
                    self.incoming(event, descriptors, service);
                }
                Event::Incoming { connection, replies, spare, .. } => {
                    self.stock.used(spare.is_some(), replies);
                    let Some(hand) = &self.world.hand else {
                        self.incoming(event, descriptors, service);
                        continue;
                    };
                    let to = hand.crew.least_loaded();
                    hand.crew.count(to, true);
                    if to == hand.index {
                        self.incoming(event, descriptors, service);
                    } else {
                        let unsettled = Unsettled::new(&self.world.task, connection);
                        hand.crew.hand(to, Handed::Incoming(unsettled, event, descriptors));
                    }
                }
                Event::Closed { connection, .. } => {
                    if !self.world.keys.contains_key(&connection)
                        && let Some(hand) = &self.world.hand
                    {
                        // Whoever has it, or will have when it arrives there.
                        hand.crew.tell_others(&event);
                    }
                    self.told(&event, service);
                }
                Event::Watched { slot, .. } => {
                    let hand = self.world.hand.as_ref();
                    if hand.is_none_or(|hand| hand.crew.tell_watchers(slot, &event)) {
                        self.told(&event, service);
                    }
                }
                Event::NoSenders { .. } => {
                    if let Some(hand) = &self.world.hand {
                        hand.crew.tell_others(&event);
                    }
                    self.told(&event, service);
                }
                Event::Attach { connection, arena, requests, replies } => {
                    // Of a connection that has just ended: that was the end of its arenas too.
                    let Some(port) = self.world.port(connection) else { continue };
                    let task = self.world.task.clone();
                    let attach =
                        Attach { task, port, connection, arena, requests, replies, descriptors };
                    self.arenas.attach(attach);
                }
                Event::Detached { connection, arena } => {
                    if let Some(port) = self.world.port(connection) {
                        self.arenas.detach(&port, arena);
                    }
                }
            }
        }
        Ok(())
    }

    /// What one thread knows, its kernel's socket aside.
    fn told(&mut self, event: &Event, service: &mut impl Service) {
        match event {
            Event::Closed { connection, .. } => {
                if let Some(key) = self.world.keys.get(connection) {
                    self.forget(*key, service, Why::Closed);
                }
            }
            Event::Watched { slot, what, .. } => service.watched(&mut self.world, *slot, *what),
            Event::NoSenders { endpoint, made } => {
                service.no_senders(&mut self.world, *endpoint, *made);
            }
            Event::Incoming { .. } | Event::Attach { .. } | Event::Detached { .. } => {}
        }
    }

    /// What other threads of the server have handed to this one.
    #[cold]
    fn look_into_inbox(&mut self, service: &mut impl Service) {
        while let Some(handed) = self.world.hand.as_ref().and_then(Hand::take) {
            match handed {
                Handed::Incoming(unsettled, event, descriptors) => {
                    unsettled.settle();
                    self.incoming(event, descriptors, service);
                }
                Handed::Moved(unsettled, moved) => {
                    unsettled.settle();
                    self.adopt(*moved, service);
                }
                Handed::Event(event) => self.told(&event, service),
                Handed::End => self.ends = true,
            }
        }
    }

    /// Gives a connection, on which a message has just been handled, to another thread.
    #[cold]
    fn give_away(&mut self, key: Key, to: usize, service: &mut impl Service) {
        let Some(Some(caller)) = self.callers.get(key.index()) else { return };
        if !service.may_move(caller) {
            return;
        }
        let Some((end, doorbell)) = self.receiver.take(key) else { return };
        let Some(caller) = self.callers.get_mut(key.index()).and_then(Option::take) else { return };
        self.world.keys.remove(&caller.connection);
        if let Some(hand) = &self.world.hand {
            hand.crew.count(hand.index, false);
            hand.crew.count(to, true);
            let unsettled = Unsettled::new(&self.world.task, caller.connection);
            hand.crew.hand(to, Handed::Moved(unsettled, Box::new(Moved { end, doorbell, caller })));
        }
    }

    /// Takes a connection in that was another thread's.
    fn adopt(&mut self, moved: Moved, service: &mut impl Service) {
        let Moved { end, doorbell, caller } = moved;
        let (connection, open) = (caller.connection, end.state() == ConnectionState::Open);
        match self.receiver.add(end, doorbell) {
            Ok(key) => {
                self.keep(key, caller);
                // Its end may have been told of while nobody had it.
                if !open {
                    self.forget(key, service, Why::Closed);
                }
            }
            Err(_) => {
                self.world.gone(connection, &mut self.arenas, Why::Quota);
                service.disconnected(&mut self.world, &caller);
            }
        }
    }

    /// Notes whose connection is at `key`.
    fn keep(&mut self, key: Key, caller: Caller) {
        self.world.keys.insert(caller.connection, key);
        if self.callers.len() <= key.index() {
            self.callers.resize(key.index() + 1, None);
        }
        self.callers[key.index()] = Some(caller);
    }

    fn incoming(
        &mut self,
        event: Event,
        descriptors: VecDeque<OwnedFd>,
        service: &mut impl Service,
    ) {
        let Event::Incoming { connection, .. } = event else { return };
        if let Err(why) = self.admit(event, descriptors, service) {
            self.world.count_one_less();
            self.world.task.link().tell(&Request::Disconnect { connection, why });
        }
    }

    /// Maps a new connection and takes it into the loop.
    fn admit(
        &mut self,
        event: Event,
        mut descriptors: VecDeque<OwnedFd>,
        service: &mut impl Service,
    ) -> Result<(), Why> {
        let Event::Incoming {
            connection,
            endpoint,
            kind,
            status_index,
            badge,
            rights,
            bits,
            priority,
            client,
            credentials,
            interface,
            requests,
            replies,
            rings,
            spare,
        } = event
        else {
            return Ok(());
        };
        // Linux drops descriptors that this process has no room for.
        let mut next = || descriptors.pop_front().ok_or(Why::Quota);
        let own = match spare {
            None => Some(next()?),
            Some(_) => None,
        };
        let (peer, doorbell) = (next()?, next()?);
        let bell = match rings {
            Doorbell::Futex => HostBell::Futex,
            Doorbell::Event => HostBell::Event(next()?),
        };
        // What Linux refuses here is a limit of this process: descriptors or mappings.
        let task = &self.world.task;
        let own = match own {
            Some(own) => OwnSegment::map(own, replies).map_err(|_| Why::Quota)?,
            None => spare.and_then(|spare| task.spares().take(spare)).ok_or(Why::Quota)?,
        };
        let peer = PeerSegment::map(peer, requests).map_err(|_| Why::Protocol)?;
        let status = task.host_status(status_index).ok_or(Why::Protocol)?;
        let mask = if rights.contains(Rights::POST) { bits } else { 0 };
        let (ours, theirs) = (Ours::over(own), Theirs::over(peer));
        let mut end = ServerEnd::new(ours, theirs, status, bell, mask);
        end.set_ceiling(priority);
        let whose = Identity { connection, peer: client, side: Side::Server, status_index };
        end.set_counters(server_counters(task.page(), whose));
        let caller = Caller {
            connection,
            task: client,
            endpoint,
            badge,
            rights,
            bits,
            priority,
            credentials,
            interface,
        };
        if kind == ObjectKind::Notification {
            return self.admit_poster(caller, end, doorbell);
        }
        service.connected(&mut self.world, &caller).map_err(|_| Why::Denied)?;
        let port = end.port().clone();
        let key = match self.receiver.add(end, doorbell) {
            Ok(key) => key,
            Err(_) => {
                service.disconnected(&mut self.world, &caller);
                return Err(Why::Quota);
            }
        };
        self.world.ports.lock().insert(connection, port);
        self.keep(key, caller);
        if spare.is_none() {
            self.world.task.link().tell(&Request::Mapped { connection, doorbell: Doorbell::Event });
        }
        Ok(())
    }

    /// Takes a poster's connection in. No bit is taken before the kernel has said that it is complete:
    /// its poster relies on that.
    fn admit_poster(
        &mut self,
        caller: Caller,
        end: ServerEnd<Host>,
        doorbell: OwnedFd,
    ) -> Result<(), Why> {
        let connection = caller.connection;
        let mapped = Request::Mapped { connection, doorbell: Doorbell::Event };
        // Whatever has come in between has ended the connection.
        self.world.task.ask(&mapped).map_err(|_| Why::Closed)?;
        let port = end.port().clone();
        let key = self.receiver.add(end, doorbell).map_err(|_| Why::Quota)?;
        self.world.ports.lock().insert(connection, port);
        self.world.keys.insert(connection, key);
        self.posters.insert(key.index(), caller);
        Ok(())
    }

    /// Takes a connection out of the loop and tells the kernel: `why`, or, if the kernel has ended
    /// it, that its status word is not looked at any more.
    fn forget(&mut self, key: Key, service: &mut impl Service, why: Why) {
        let Some(mut end) = self.receiver.remove(key) else { return };
        if let Some(poster) = self.posters.remove(&key.index()) {
            // What it posted last, unless it may not any more.
            let bits = match end.state() {
                ConnectionState::Revoked => 0,
                _ => end.take_notifications(),
            };
            if bits != 0 && why != Why::Protocol {
                service.notified(&mut self.world, &poster, bits);
            }
            self.world.keys.remove(&poster.connection);
            self.world.gone(poster.connection, &mut self.arenas, why);
            return;
        }
        let Some(caller) = self.callers.get_mut(key.index()).and_then(Option::take) else { return };
        let connection = caller.connection;
        self.world.keys.remove(&connection);
        self.world.gone(connection, &mut self.arenas, why);
        service.disconnected(&mut self.world, &caller);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Whoever serves next is not to find connections of which it knows nothing.
        let connections: Vec<_> =
            self.world.keys.drain().map(|(connection, _)| connection).collect();
        for connection in connections {
            self.world.gone(connection, &mut self.arenas, Why::Closed);
        }
        for slot in &self.bound {
            self.world.task.link().tell(&Request::StopReceiving { slot: *slot });
        }
        if self.first {
            self.world.task.link().end_serving();
        }
    }
}

impl World {
    fn port(&self, connection: ConnectionId) -> Option<Arc<Port<Host>>> {
        self.ports.lock().get(&connection).cloned()
    }

    fn count_one_less(&self) {
        if let Some(hand) = &self.hand {
            hand.crew.count(hand.index, false);
        }
    }

    /// Lets go of a connection that no receiver has any more.
    fn gone(&self, connection: ConnectionId, arenas: &mut Arenas, why: Why) {
        let port = self.ports.lock().remove(&connection);
        if let Some(port) = port {
            arenas.forget(&port);
        }
        self.count_one_less();
        self.task.link().tell(&Request::Disconnect { connection, why });
    }
}

/// What the kernel said, or, if it said nothing, that it is gone.
fn kernel_error(error: Error) -> KernelError {
    match error {
        Error::Kernel(error) => error,
        other => {
            KernelError::System { doing: "asking the kernel".into(), error: other.to_string() }
        }
    }
}

impl Context for World {
    fn accept(
        &mut self,
        connection: ConnectionId,
        ticket: Ticket,
    ) -> Result<Vec<Received>, KernelError> {
        self.task.accept(connection, ticket).map_err(kernel_error)
    }

    fn offer(&mut self, connection: ConnectionId, items: &[Offer]) -> Result<Ticket, KernelError> {
        self.task.offer(connection, items).map_err(kernel_error)
    }

    fn delete(&mut self, slot: Slot) -> Result<(), KernelError> {
        self.task.delete(slot).map_err(kernel_error)
    }

    fn revoke(&mut self, slot: Slot) -> Result<(), KernelError> {
        self.task.revoke(slot).map(drop).map_err(kernel_error)
    }

    fn create_region(&mut self, bytes: u64) -> Result<EmptyRegion, KernelError> {
        self.task.create_empty_region(bytes).map_err(kernel_error)
    }

    fn watch(&mut self, slot: Slot) -> Result<(), KernelError> {
        // Before the kernel can tell of it.
        if let Some(hand) = &self.hand {
            hand.crew.watches(slot, hand.index);
        }
        self.task.watch(slot).map_err(kernel_error)
    }

    fn kill(&mut self, task: Slot, signal: i32) -> Result<(), KernelError> {
        self.task.kill(task, signal).map_err(kernel_error)
    }

    fn post(&mut self, connection: ConnectionId, bits: u64) {
        if let Some(port) = self.port(connection) {
            port.post(bits);
        }
    }
}
