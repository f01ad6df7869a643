//! Many connections: one client thread that drives a set of them, servers of several threads, one
//! client shared by many threads.

mod common;

use common::{Assistant, Role, System, for_ever};
use rendez::protocol::Rights;
use rendez::protocol::kernel::{Received, Shape};
use rendez::service::{Caller, Context, Message, Reply, ReplyRight, Service};
use rendez::{
    Arrival, Connection, ConnectionSet, Error, NEVER, Options, Pool, Revoked, SendError, Server,
    Task, Wait, Why,
};
use rustix::process::Signal;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

const ECHO: u16 = 1;
/// Keep the right to reply, and never use it.
const HOLD: u16 = 2;
/// Keep it until the next echo for whatever client.
const NEXT: u16 = 3;
/// Answer which thread of the server this is, and how many clients all threads have.
const WHO: u16 = 4;
/// End the server.
const FINISH: u16 = 5;
/// Panic.
const PANIC: u16 = 6;
/// Post this to the sender, then answer.
const POST: u16 = 7;

const THREADS: usize = 3;

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    let mut server = Server::new(&task).unwrap();
    server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
    let shared = Shared::default();
    let make =
        |thread| Part { thread, shared: &shared, finished: false, moves: role.name == "moves" };
    match role.name.as_str() {
        "one thread" => server.run(&mut make(0)).unwrap(),
        "threads" | "moves" => {
            let ended = server.run_on(THREADS, make);
            drop(server);
            role.say(format!("{ended:?}"));
            role.wait_for_ever();
        }
        other => panic!("no part is called {other}"),
    }
}

#[derive(Default)]
struct Shared {
    held: Mutex<Vec<ReplyRight>>,
    next: Mutex<Vec<ReplyRight>>,
    /// Clients that came and have not gone.
    clients: AtomicUsize,
    /// In whose handler is somebody now?
    within: Mutex<HashSet<u64>>,
}

struct Part<'a> {
    thread: usize,
    shared: &'a Shared,
    finished: bool,
    moves: bool,
}

impl Service for Part<'_> {
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        let connection = message.caller.connection.to_bits();
        assert!(
            self.shared.within.lock().unwrap().insert(connection),
            "two threads in one handler"
        );
        match message.operation {
            ECHO => {
                for kept in self.shared.next.lock().unwrap().drain(..) {
                    kept.ok(b"later, from whatever thread");
                }
                reply.ok(message.payload);
            }
            HOLD => self.shared.held.lock().unwrap().push(reply.keep()),
            NEXT => self.shared.next.lock().unwrap().push(reply.keep()),
            WHO => reply.ok(&[self.thread as u8, self.shared.clients.load(Relaxed) as u8]),
            FINISH => {
                self.finished = true;
                reply.ok(&[]);
            }
            PANIC => panic!("as it was told"),
            POST => {
                context.post(message.caller.connection, 0b101);
                reply.ok(&[]);
            }
            other => panic!("no operation {other}"),
        }
        self.shared.within.lock().unwrap().remove(&connection);
    }

    fn connected(
        &mut self,
        _: &mut dyn Context,
        _: &Caller,
    ) -> Result<(), rendez::service::Refusal> {
        self.shared.clients.fetch_add(1, Relaxed);
        Ok(())
    }

    fn disconnected(&mut self, _: &mut dyn Context, _: &Caller) {
        self.shared.clients.fetch_sub(1, Relaxed);
    }

    fn may_move(&mut self, _: &Caller) -> bool {
        self.moves
    }

    fn finished(&self) -> bool {
        self.finished
    }
}

fn server(task: &Task, role: &str) -> (Assistant, Received) {
    let endpoint = task.create_endpoint().unwrap();
    let given = [("serve", endpoint.slot, Rights::RECEIVE)];
    (Assistant::start(task, role, &given, &[]), endpoint)
}

fn small() -> Options {
    let shape = Shape { lines: 16, ..Shape::default() };
    Options { requests: shape, replies: shape, ..for_ever() }
}

/// What the next answer is, of whatever member.
fn answer(set: &mut ConnectionSet) -> (rendez::Member, u64, Result<Vec<u8>, SendError>) {
    match set.next(NEVER).unwrap() {
        Some(Arrival::Answer { member, transaction, outcome }) => {
            (member, transaction, outcome.map(|reply| reply.ok().unwrap().to_vec()))
        }
        other => panic!("no answer: {other:?}"),
    }
}

fn soon(ms: u64) -> u64 {
    rendez::deadline_after(Duration::from_millis(ms))
}

// ---- sets

#[test]
fn a_set_gets_every_reply_on_the_connection_that_asked() {
    let system = System::start();
    let task = system.task();
    let (_server, endpoint) = server(&task, "one thread");
    for wait in [Wait::Adaptive, Wait::Block, Wait::Spin] {
        let mut set = ConnectionSet::new(&task).unwrap();
        set.set_wait(wait);
        let members: Vec<_> =
            (0..100).map(|_| set.connect(endpoint.slot, &small()).unwrap()).collect();
        let mut open = HashMap::new();
        let mut number = 0u64;
        let mut begin = |set: &mut ConnectionSet, open: &mut HashMap<_, u64>, member| {
            number += 1;
            let transaction = set.begin(member, ECHO, &number.to_le_bytes(), 8).unwrap();
            assert_eq!(open.insert((member, transaction), number), None);
        };
        for member in &members {
            // As many as a ring carries, and not one more.
            for _ in 0..16 {
                begin(&mut set, &mut open, *member);
            }
            let full = set.begin(*member, ECHO, &[], 8);
            assert_eq!(full, Err(SendError::NotDelivered { why: Why::Full }));
        }
        for round in 0..4000 {
            let (member, transaction, reply) = answer(&mut set);
            let number = open.remove(&(member, transaction)).expect("one that was asked");
            assert_eq!(reply.unwrap(), number.to_le_bytes());
            if round < 2000 {
                begin(&mut set, &mut open, member);
            }
            if open.is_empty() {
                break;
            }
        }
        assert_eq!((open.len(), set.in_flight()), (0, 0));
        assert_eq!(set.next(soon(20)).unwrap(), None, "nothing else comes");
        // After a rest everybody is quiet, and wakes again.
        begin(&mut set, &mut open, members[57]);
        assert_eq!(answer(&mut set).0, members[57]);
    }
}

#[test]
fn a_set_hears_of_deadlines_cancels_and_posts() {
    let system = System::start();
    let task = system.task();
    let (_server, endpoint) = server(&task, "one thread");
    let mut set = ConnectionSet::new(&task).unwrap();
    let [a, b] = [(); 2].map(|()| set.connect(endpoint.slot, &small()).unwrap());
    let late = set.begin_until(a, HOLD, &[], 8, soon(30)).unwrap();
    let echoed = set.begin(b, ECHO, b"meanwhile", 64).unwrap();
    assert_eq!(answer(&mut set), (b, echoed, Ok(b"meanwhile".to_vec())));
    let (member, transaction, outcome) = answer(&mut set);
    assert_eq!((member, transaction), (a, late));
    assert!(
        matches!(outcome, Err(SendError::Interrupted { why: Why::Deadline, .. })),
        "{outcome:?}"
    );
    let held = set.begin(a, HOLD, &[], 8).unwrap();
    let echoed = set.begin(a, ECHO, b"behind it", 64).unwrap();
    assert_eq!(answer(&mut set), (a, echoed, Ok(b"behind it".to_vec())));
    set.cancel(a, held);
    let (member, transaction, outcome) = answer(&mut set);
    assert_eq!((member, transaction), (a, held));
    assert!(
        matches!(outcome, Err(SendError::Interrupted { why: Why::Cancelled, .. })),
        "{outcome:?}"
    );
    let posted = set.begin(b, POST, &[], 8).unwrap();
    let mut seen = (false, false);
    while seen != (true, true) {
        match set.next(NEVER).unwrap() {
            Some(Arrival::Notified { member, bits: 0b101 }) if member == b => seen.0 = true,
            Some(Arrival::Answer { transaction, .. }) if transaction == posted => seen.1 = true,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(set.in_flight(), 0);
}

/// Reproduces: of a transaction that no server had taken when it was cancelled, nothing was ever told.
#[test]
fn a_set_is_told_of_what_was_cancelled_before_a_server_took_it() {
    let system = System::start();
    let task = system.task();
    let (server, endpoint) = server(&task, "one thread");
    let mut set = ConnectionSet::new(&task).unwrap();
    let [a, b] = [(); 2].map(|()| set.connect(endpoint.slot, &small()).unwrap());
    set.begin(a, ECHO, b"it serves", 64).unwrap();
    assert_eq!(answer(&mut set).2, Ok(b"it serves".to_vec()));
    let pid = server.child.id();
    common::signal(pid, Signal::STOP);
    common::eventually("it is stopped", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
        stat.rsplit_once(") ").filter(|(_, state)| state.starts_with('T')).map(drop)
    });
    let cancelled = Err(SendError::NotDelivered { why: Why::Cancelled });
    let early = set.begin(a, ECHO, b"never run", 64).unwrap();
    set.cancel(a, early);
    assert_eq!(answer(&mut set), (a, early, cancelled));
    // What was cancelled on a member that leaves is not told of, and not counted any more.
    let gone = set.begin(b, ECHO, b"never run", 64).unwrap();
    set.cancel(b, gone);
    assert_eq!(set.in_flight(), 1);
    set.remove(b);
    assert_eq!((set.in_flight(), set.next(soon(20)).unwrap()), (0, None));
    common::signal(pid, Signal::CONT);
    set.begin(a, ECHO, b"serves on", 64).unwrap();
    assert_eq!(answer(&mut set).2, Ok(b"serves on".to_vec()));
}

#[test]
fn a_set_is_told_what_became_of_everything_when_a_server_dies() {
    let system = System::start();
    let task = system.task();
    let (_lives, other) = server(&task, "one thread");
    for wait in [Wait::Adaptive, Wait::Spin] {
        let (mut dies, mortal) = server(&task, "one thread");
        let mut set = ConnectionSet::new(&task).unwrap();
        set.set_wait(wait);
        let survivor = set.connect(other.slot, &small()).unwrap();
        let quiet = set.connect(mortal.slot, &small()).unwrap();
        let busy = set.connect(mortal.slot, &small()).unwrap();
        let mut open: HashSet<_> = (0..5).map(|_| set.begin(busy, HOLD, &[], 8).unwrap()).collect();
        let echoed = set.begin(busy, ECHO, b"all five are taken", 64).unwrap();
        assert_eq!(answer(&mut set).1, echoed);
        dies.kill();
        let mut ended = HashSet::new();
        while ended.len() < 2 {
            match set.next(NEVER).unwrap() {
                Some(Arrival::Answer { member, transaction, outcome }) => {
                    assert!(member == busy && open.remove(&transaction));
                    assert!(matches!(outcome, Err(SendError::Interrupted { why: Why::Dead, .. })));
                }
                Some(Arrival::Ended { member, why: Why::Dead }) => {
                    assert!(member == quiet || (member == busy && open.is_empty()));
                    assert!(ended.insert(member));
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!((set.len(), set.in_flight()), (1, 0));
        let gone = set.begin(busy, ECHO, &[], 8);
        assert_eq!(gone, Err(SendError::NotDelivered { why: Why::Closed }));
        set.begin(survivor, ECHO, b"goes on", 64).unwrap();
        assert_eq!(answer(&mut set).2, Ok(b"goes on".to_vec()));
    }
}

// ---- several threads

/// Which thread answers on each of these connections.
fn who(connections: &mut [Connection]) -> Vec<u8> {
    connections
        .iter_mut()
        .map(|connection| connection.send(WHO, &[], 8).unwrap().ok().unwrap()[0])
        .collect()
}

fn connections(task: &Task, endpoint: Received, count: usize) -> Vec<Connection> {
    (0..count).map(|_| Connection::open(task, endpoint.slot, &small()).unwrap()).collect()
}

#[test]
fn threads_share_connections_and_end_together() {
    let system = System::start();
    let task = system.task();
    let (mut server, endpoint) = server(&task, "threads");
    let mut connections = connections(&task, endpoint, 9);
    let mut by_thread = [0; THREADS];
    for thread in who(&mut connections) {
        by_thread[usize::from(thread)] += 1;
    }
    assert_eq!(by_thread, [3; THREADS]);
    // A right that one thread keeps, another uses.
    let begun = connections[0].begin(NEXT, &[], 64).unwrap();
    // What is behind it is answered: so it is taken.
    connections[0].send(WHO, &[], 8).unwrap();
    let first = connections[1].send(ECHO, b"an echo", 64).unwrap();
    assert_eq!(first.ok().unwrap(), b"an echo");
    let later = connections[0].finish(begun).unwrap();
    assert_eq!(later.ok().unwrap(), b"later, from whatever thread");
    // Who has gone makes room where he was.
    let gone = usize::from(who(&mut connections)[8]);
    connections.pop();
    let mut one = common::eventually("a new connection goes where one has gone", || {
        let mut one = Connection::open(&task, endpoint.slot, &small()).unwrap();
        let thread = one.send(WHO, &[], 8).unwrap().ok().unwrap()[0];
        (usize::from(thread) == gone).then_some(one)
    });
    one.send(FINISH, &[], 8).unwrap();
    assert_eq!(server.hear(), "Ok(())");
    for connection in &mut connections {
        let error = connection.send(ECHO, &[], 8).unwrap_err();
        assert_eq!(error, SendError::NotDelivered { why: Why::Closed });
    }
}

#[test]
fn a_handler_that_panics_ends_all_threads() {
    let system = System::start();
    let task = system.task();
    for thread in 0..THREADS {
        let (mut server, endpoint) = server(&task, "threads");
        let mut connections = connections(&task, endpoint, THREADS);
        let told = connections[thread].send(PANIC, &[], 8).unwrap_err();
        assert!(matches!(told, SendError::Interrupted { why: Why::Dropped, .. }), "{told}");
        assert!(!server.child.wait().unwrap().success());
        for connection in &mut connections {
            assert!(connection.send(ECHO, &[], 8).is_err());
        }
    }
}

#[test]
fn the_threads_of_a_server_forget_whoever_goes() {
    let system = System::start();
    let task = system.task();
    let (_server, endpoint) = server(&task, "threads");
    let mut stays = Connection::open(&task, endpoint.slot, &small()).unwrap();
    for _ in 0..3 {
        // By revoking, which ends the connections behind all threads at once.
        let parent = task.mint(endpoint.slot, endpoint.rights, None).unwrap();
        let gone = connections(&task, task.mint(parent.slot, Rights::SEND, None).unwrap(), 7);
        let wanted = Revoked { capabilities: 1, connections: 7, unacknowledged: vec![] };
        assert_eq!(task.revoke(parent.slot).unwrap(), wanted);
        task.delete(parent.slot).unwrap();
        for mut connection in gone {
            assert!(connection.send(ECHO, &[], 8).is_err());
        }
    }
    common::eventually("all who have gone are forgotten", || {
        let clients = stays.send(WHO, &[], 8).unwrap().ok().unwrap()[1];
        (clients == 1).then_some(())
    });
}

#[test]
fn a_thread_that_never_rests_gives_connections_away() {
    let system = System::start();
    let task = system.task();
    let (_server, endpoint) = server(&task, "moves");
    let mut set = ConnectionSet::new(&task).unwrap();
    let members: Vec<_> =
        (0..4 * THREADS).map(|_| set.connect(endpoint.slot, &small()).unwrap()).collect();
    let mut threads = HashMap::new();
    for member in &members {
        set.begin(*member, WHO, &[], 8).unwrap();
    }
    for _ in &members {
        let (member, _, reply) = answer(&mut set);
        threads.insert(member, reply.unwrap()[0]);
    }
    // Only what the first thread has is busy now, with as much as goes in: until it has moved.
    let busy: Vec<_> = members.iter().filter(|member| threads[*member] == 0).copied().collect();
    assert_eq!(busy.len(), 4);
    for member in &busy {
        for _ in 0..16 {
            set.begin(*member, WHO, &[], 8).unwrap();
        }
    }
    let mut answers = HashMap::<_, u64>::new();
    // Not `eventually`, which rests between two looks. The watchdog ends it if nobody ever moves.
    loop {
        let (member, transaction, reply) = answer(&mut set);
        let expected = answers.entry(member).or_insert(transaction);
        assert_eq!(*expected, transaction, "in order, and none twice, moved or not");
        *expected += 1;
        set.begin(member, WHO, &[], 8).unwrap();
        if reply.unwrap()[0] != 0 {
            break;
        }
    }
    // What was in flight while it moved arrives, and so do the others' answers.
    while set.in_flight() > 0 {
        answer(&mut set).2.unwrap();
    }
    assert_eq!(set.next(soon(20)).unwrap(), None);
}

// ---- pools

#[test]
fn threads_that_share_a_pool_get_their_own_replies() {
    let system = System::start();
    let task = system.task();
    let (_server, endpoint) = server(&task, "one thread");
    let shape = Shape { lines: 4, ..Shape::default() };
    for wait in [Wait::Adaptive, Wait::Block] {
        // Room for eight at once, for twelve threads.
        let options = Options { requests: shape, replies: shape, wait, ..Options::default() };
        let pool = Pool::connect(&task, endpoint.slot, options, 2).unwrap();
        std::thread::scope(|scope| {
            // One waits in vain, and is in nobody's way.
            let held = scope.spawn(|| pool.exchange(HOLD, &[], 8, Duration::from_millis(300)));
            for thread in 0..12u64 {
                let pool = pool.clone();
                scope.spawn(move || {
                    for n in 0..200 {
                        let number = (thread << 32 | n).to_le_bytes();
                        assert_eq!(pool.send(ECHO, &number, 8).unwrap(), number);
                    }
                });
            }
            // On a busy machine the server may not even have come to it.
            let held = held.join().unwrap();
            let late = matches!(held, Err(Error::Send(error)) if error.why() == Why::Deadline);
            assert!(late, "{held:?}");
        });
        assert_eq!(pool.connections(), 2);
    }
}

#[test]
fn a_pool_outlives_its_server() {
    let system = System::start();
    let task = system.task();
    let (mut first, endpoint) = server(&task, "one thread");
    let pool = Pool::connect(&task, endpoint.slot, Options::default(), 2).unwrap();
    assert_eq!(pool.send(ECHO, b"first", 64).unwrap(), b"first");
    std::thread::scope(|scope| {
        let held: Vec<_> = (0..3)
            .map(|_| scope.spawn(|| pool.exchange(HOLD, &[], 8, Duration::from_secs(60))))
            .collect();
        // They are taken when what came behind them is answered: of each, on either connection.
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(pool.send(ECHO, b"behind", 64).unwrap(), b"behind");
        first.kill();
        for held in held {
            let outcome = held.join().unwrap();
            let dead =
                matches!(outcome, Err(Error::Send(SendError::Interrupted { why: Why::Dead, .. })));
            assert!(dead, "{outcome:?}");
        }
    });
    let given = [("serve", endpoint.slot, Rights::RECEIVE)];
    let _second = Assistant::start(&task, "one thread", &given, &[]);
    assert_eq!(pool.send(ECHO, b"second", 64).unwrap(), b"second");
}
