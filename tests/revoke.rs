//! Revocation in a whole system: when it is answered no server begins with a message that came over
//! what was severed, or it is said which one might; where capabilities came from; who can still send.

mod common;

use common::{Assistant, Role, System, eventually, for_ever};
use rendez::protocol::kernel::{How, KernelError, Received, Senders};
use rendez::protocol::{ObjectId, Rights, limit};
use rendez::service::{Context, Message, Reply, Service};
use rendez::{Connection, Error, Revoked, SendError, Server, Slot, Task, Why};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Written down, then answered.
const COUNT: u16 = 1;
/// Written down, then answered when a file is there.
const STALL: u16 = 2;

const SENDS: Rights = Rights::SEND.union(Rights::MINT).union(Rights::GRANT).union(Rights::INSPECT);

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = Role::of_this_process() else { return };
    let task = role.task();
    let slot = task.given_as("serve").unwrap().slot;
    let log = OpenOptions::new().create(true).append(true).open(role.variable("LOG")).unwrap();
    let release = role.variable("RELEASE");
    let mut server = Server::new(&task).unwrap();
    server.serve(slot, None).unwrap();
    role.say("serves");
    let mut service = Counting { task, slot, log, release, role };
    let _ = server.run(&mut service);
}

struct Counting {
    task: Task,
    slot: Slot,
    log: File,
    release: PathBuf,
    role: Role,
}

impl Service for Counting {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        self.log.write_all(b".").unwrap();
        if message.operation == STALL {
            eventually("somebody lets it go on", || self.release.exists().then_some(()));
        }
        reply.ok(&[]);
    }

    fn no_senders(&mut self, _: &mut dyn Context, _: ObjectId, made: u64) {
        let now = self.task.inspect(self.slot).unwrap().senders.unwrap();
        self.role.say(format!("{made} {} {}", now.present, now.made));
    }
}

/// A server that writes down what it handles, and where.
struct Counted {
    server: Assistant,
    endpoint: Received,
    directory: tempfile::TempDir,
}

impl Counted {
    fn start(task: &Task) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let endpoint = task.create_endpoint().unwrap();
        let (log, release) = (directory.path().join("log"), directory.path().join("release"));
        let variables = [("LOG", log.as_os_str()), ("RELEASE", release.as_os_str())];
        let given = [("serve", endpoint.slot, Rights::RECEIVE)];
        let mut server = Assistant::start(task, "counting", &given, &variables);
        assert_eq!(server.hear(), "serves");
        Self { server, endpoint, directory }
    }

    fn handled(&self) -> u64 {
        std::fs::metadata(self.directory.path().join("log")).unwrap().len()
    }

    fn release(&self) {
        File::create(self.directory.path().join("release")).unwrap();
    }
}

/// How often a client was answered, and whether its last message may have been handled.
fn send_until_severed(mut connection: Connection) -> (u64, bool) {
    let mut answered = 0;
    loop {
        match connection.send(COUNT, &[], 0) {
            Ok(_) => answered += 1,
            Err(SendError::NotDelivered { why: Why::Revoked }) => return (answered, false),
            Err(SendError::Interrupted { why: Why::Revoked, .. }) => return (answered, true),
            Err(other) => panic!("{other}"),
        }
    }
}

#[test]
fn once_it_is_answered_no_handler_begins() {
    let system = System::start();
    let task = system.task();
    let it = Counted::start(&task);
    for _ in 0..20 {
        let before = it.handled();
        let parent = task.mint(it.endpoint.slot, SENDS, None).unwrap().slot;
        let child = task.mint(parent, SENDS, None).unwrap().slot;
        let open = || Connection::open(&task, child, &for_ever()).unwrap();
        let connections = [open(), open(), open()];
        let (answered, doubtful) = std::thread::scope(|scope| {
            let clients =
                connections.map(|connection| scope.spawn(|| send_until_severed(connection)));
            eventually("messages are handled", || (it.handled() > before + 50).then_some(()));
            let revoked = task.revoke(parent).unwrap();
            let handled = it.handled();
            let wanted = Revoked { capabilities: 1, connections: 3, unacknowledged: vec![] };
            assert_eq!(revoked, wanted);
            std::thread::sleep(Duration::from_millis(5));
            assert_eq!(it.handled(), handled, "a handler began after the answer");
            let ends = clients.map(|client| client.join().unwrap());
            let answered: u64 = ends.iter().map(|(answered, _)| answered).sum();
            (answered, ends.iter().filter(|(_, doubtful)| *doubtful).count() as u64)
        });
        let handled = it.handled() - before;
        assert!(
            (answered..=answered + doubtful).contains(&handled),
            "{handled} handled, {answered} answered, {doubtful} in doubt"
        );
        task.delete(parent).unwrap();
    }
}

#[test]
fn a_server_that_is_busy_for_too_long_is_named() {
    let system = System::start();
    let task = system.task();
    let it = Counted::start(&task);
    let parent = task.mint(it.endpoint.slot, SENDS, None).unwrap().slot;
    let child = task.mint(parent, SENDS, None).unwrap().slot;
    let mut connection = Connection::open(&task, child, &for_ever()).unwrap();
    std::thread::scope(|scope| {
        let client = scope.spawn(|| connection.send(STALL, &[], 0).map(drop));
        eventually("its handler runs", || (it.handled() == 1).then_some(()));
        let start = Instant::now();
        let revoked = task.revoke(parent).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(limit::REVOKE_GRACE_MS.into()));
        assert_eq!((revoked.capabilities, revoked.connections), (1, 1));
        assert_eq!(revoked.unacknowledged, [it.server.id]);
        let told = client.join().unwrap();
        assert!(matches!(told, Err(SendError::Interrupted { why: Why::Revoked, .. })), "{told:?}");
    });
    it.release();
    // It goes on as before, for those who may.
    let mut connection = Connection::open(&task, it.endpoint.slot, &for_ever()).unwrap();
    connection.send(COUNT, &[], 0).unwrap();
}

#[test]
fn where_a_capability_came_from_is_told_to_who_may_inspect_it() {
    let system = System::start();
    let task = system.task();
    let endpoint = task.create_endpoint().unwrap().slot;
    let minted = task.mint(endpoint, SENDS, Some(7)).unwrap().slot;
    let way = task.provenance(minted).unwrap();
    let seen: Vec<_> =
        way.steps.iter().map(|step| (step.task, step.how, step.badge, step.rights)).collect();
    let (own, rights) = (task.id(), task.inspect(endpoint).unwrap().itself.rights);
    assert_eq!(seen, [(own, How::Minted, 7, SENDS), (own, How::Created, 0, rights)]);
    assert_eq!(way.omitted, 0);
    task.delete(endpoint).unwrap();
    assert_eq!(task.provenance(minted).unwrap(), way, "it is not forgotten");

    let less = task.mint(minted, Rights::SEND, None).unwrap().slot;
    let refused = task.provenance(less).unwrap_err();
    assert!(matches!(
        refused,
        Error::Kernel(KernelError::MissingRights { missing: Rights::INSPECT, .. })
    ));
}

#[test]
fn a_server_hears_that_nobody_can_send_and_sees_whether_somebody_could_meanwhile() {
    let system = System::start();
    let task = system.task();
    let mut it = Counted::start(&task);
    let (endpoint, receive) = (it.endpoint.slot, Rights::RECEIVE | Rights::MINT);
    let watching = task.mint(endpoint, receive, None).unwrap().slot;
    let senders = || task.inspect(watching).unwrap().senders;
    assert_eq!(senders(), Some(Senders { present: 1, made: 1 }));
    let other = task.mint(endpoint, Rights::SEND, None).unwrap().slot;
    assert_eq!(senders(), Some(Senders { present: 2, made: 2 }));
    task.delete(endpoint).unwrap();
    task.delete(other).unwrap();
    assert_eq!(it.server.hear(), "2 0 2");
    assert_eq!(senders(), Some(Senders { present: 0, made: 2 }));
}
