//! Order of service: by priority, in turn among those of one priority, and nobody above what his
//! capability allows.

mod common;

use common::{System, for_ever};
use rendez::protocol::Rights;
use rendez::protocol::kernel::Limits;
use rendez::service::{Context, Message, Reply, Service};
use rendez::{Connection, Options, Server, Task};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

/// Say that the handler is here, and stay in it until told to go on.
const GATE: u16 = 1;
/// Note down the payload, and the priority.
const NOTE: u16 = 2;
/// End the server.
const FINISH: u16 = 3;

const PATIENCE: Duration = Duration::from_secs(60);

struct Notes {
    here: Sender<()>,
    go_on: Receiver<()>,
    notes: Vec<(u8, u8)>,
    finished: bool,
}

impl Service for Notes {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
        match message.operation {
            GATE => {
                self.here.send(()).unwrap();
                self.go_on.recv_timeout(PATIENCE).unwrap();
            }
            NOTE => self.notes.push((message.payload[0], message.priority)),
            FINISH => self.finished = true,
            other => panic!("no operation {other}"),
        }
        reply.ok(&[]);
    }

    fn finished(&self) -> bool {
        self.finished
    }
}

/// Who was served when, if all of these senders had a message in their rings: name, priority that
/// it claims, ceiling of its capability, messages.
fn served(senders: &[(u8, u8, Option<u8>, usize)]) -> Vec<(u8, u8)> {
    let system = System::start();
    let task: Task = system.task();
    let endpoint = task.create_endpoint().unwrap();
    let ((here, is_here), (tell, go_on)) = (channel(), channel());
    let serving = thread::spawn({
        let task = task.clone();
        move || {
            let mut server = Server::new(&task).unwrap();
            server.serve(endpoint.slot, None).unwrap();
            let mut notes = Notes { here, go_on, notes: Vec::new(), finished: false };
            server.run(&mut notes).unwrap();
            notes.notes
        }
    });
    let connect = |priority, ceiling| {
        let limits = Limits { bits: None, priority: ceiling };
        let rights = Rights::SEND;
        let slot = task.mint_limited(endpoint.slot, rights, None, limits).unwrap().slot;
        Connection::open(&task, slot, &Options { priority, ..for_ever() }).unwrap()
    };
    let mut gate = connect(1, None);
    let mut all: Vec<_> = senders
        .iter()
        .map(|&(name, priority, ceiling, count)| (name, connect(priority, ceiling), count))
        .collect();
    let held = gate.begin(GATE, &[], 0).unwrap();
    is_here.recv_timeout(PATIENCE).unwrap();
    let mut begun = Vec::new();
    for (name, connection, count) in &mut all {
        begun.extend((0..*count).map(|_| connection.begin(NOTE, &[*name], 0).unwrap()));
    }
    tell.send(()).unwrap();
    gate.finish(held).unwrap();
    let mut begun = begun.into_iter();
    for (_, connection, count) in &mut all {
        for transaction in begun.by_ref().take(*count) {
            connection.finish(transaction).unwrap();
        }
    }
    gate.send(FINISH, &[], 0).unwrap();
    serving.join().unwrap()
}

#[test]
fn messages_are_served_by_priority_and_in_turn_among_equals() {
    let order = served(&[(1, 0, None, 2), (2, 9, None, 2), (3, 5, None, 1), (4, 9, None, 2)]);
    let names: Vec<u8> = order.iter().map(|(name, _)| *name).collect();
    assert!([2, 4].iter().all(|name| names[..2].contains(name)), "not in turn: {order:?}");
    assert!([2, 4].iter().all(|name| names[2..4].contains(name)), "not in turn: {order:?}");
    assert_eq!(names[4..], [3, 1, 1]);
    let priorities: Vec<u8> = order.iter().map(|(_, priority)| *priority).collect();
    assert_eq!(priorities, [9, 9, 9, 9, 5, 0, 0]);
}

#[test]
fn a_claim_beyond_the_capability_is_clamped() {
    let order = served(&[(1, 127, Some(2), 1), (2, 3, None, 1), (3, 127, Some(0), 1)]);
    assert_eq!(order, [(2, 3), (1, 2), (3, 0)]);
}

#[test]
fn many_connections_are_served_by_priority_too() {
    let senders: Vec<_> = (0..40).map(|name| (name, name / 10, None, 1)).collect();
    let order = served(&senders);
    let priorities: Vec<u8> = order.iter().map(|(_, priority)| *priority).collect();
    assert_eq!(priorities.len(), 40);
    assert!(priorities.is_sorted_by(|before, after| before >= after), "{priorities:?}");
}
