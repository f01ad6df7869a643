//! The assistant's own side: what an attack has at hand.

use crate::common::Role;
use crate::common::raw::{Memory, RawConnection, RawTask, at, knock, request};
use crate::table::{ATTACKS, Attacker, Deed};
use crate::victim::ECHO;
use rendez::protocol::kernel::{Answer, Hello, KernelError, Request, Shape};
use rendez::protocol::message::Header;
use rendez::protocol::status::ConnectionState;
use rendez::{Slot, Status};
use rendez_ipc_core::control::adopt_inherited;
use std::os::fd::OwnedFd;

/// A hostile task.
pub(crate) struct Hostile {
    pub(crate) task: RawTask,
    pub(crate) role: Role,
}

/// Does what the role's code says, then says that it is done and waits to be killed; unless it is one that
/// ends before it has a task, or with it.
pub(crate) fn perform(role: Role) {
    let attack = ATTACKS.iter().find(|attack| attack.code == role.name).expect("in the table");
    let socket = adopt_inherited().unwrap().expect("started as a task");
    let deed = match attack.deed {
        Deed::Bare(deed) => {
            deed(socket, &role);
            role.say("done");
            role.wait_for_ever();
        }
        Deed::Task(deed) => deed,
    };
    let task = RawTask::greet(socket, Hello::OURS).unwrap();
    let mut hostile = Hostile { task, role };
    deed(&mut hostile);
    if attack.attacker == Attacker::Stays {
        // It still is a task like any other, as far as it speaks the truth.
        hostile.task.endpoint();
    }
    hostile.role.say("done");
    hostile.role.wait_for_ever();
}

impl Hostile {
    /// The capability, SEND and WATCH, to the victim that serves.
    pub(crate) fn victim(&self) -> Slot {
        self.task.given("victim").slot
    }

    /// Connects to the victim as an honest client does.
    pub(crate) fn connect(&mut self) -> RawConnection {
        self.task.connect(self.victim())
    }

    /// Becomes the server of the victim that sends, and takes it in.
    pub(crate) fn take_in(&mut self) -> RawConnection {
        self.serve();
        self.task.take_in()
    }

    /// Becomes the server of the victim that sends.
    pub(crate) fn serve(&mut self) {
        let slot = self.task.given("serve").slot;
        let serving = self.task.ask(&Request::Serve { slot, interface: None }).0;
        assert!(matches!(serving, Answer::Serving { .. }), "{serving:?}");
        self.role.say("serves");
    }

    /// Waits until the connection is ended, for breaking the protocol.
    #[track_caller]
    pub(crate) fn is_shown_out(&mut self, connection: &RawConnection) {
        assert_eq!(self.task.closed(connection), ConnectionState::Protocol);
    }

    /// Whether the connection is there still.
    #[track_caller]
    pub(crate) fn is_open(&self, connection: &RawConnection) {
        assert_eq!(self.task.state(connection), ConnectionState::Open);
    }

    /// The path of the front door.
    pub(crate) fn door(&self) -> std::path::PathBuf {
        self.role.variable("DOOR")
    }

    /// A socket to the front door.
    pub(crate) fn knock(&self) -> OwnedFd {
        knock(&self.door())
    }
}

/// The shape of all rings here.
pub(crate) fn lines() -> u64 {
    u64::from(Shape::default().lines)
}

/// Sends `count` honest requests one after the other, letting go of each reply; the next position.
pub(crate) fn honest(connection: &mut RawConnection, count: u64) -> u64 {
    let mut last = 0;
    for _ in 0..count {
        last = connection.publish(request(ECHO, 64), b"honest");
        assert_eq!(connection.reply(last), Status::OK.0);
        connection.own.store(at::FREED, last + 1);
    }
    last + 1
}

/// As [`honest`], letting go of no reply; the last of them is not waited for.
pub(crate) fn hoard(connection: &mut RawConnection, count: u64) {
    for number in 1..=count {
        let position = connection.publish(request(ECHO, 0), b"hoarded");
        if number < count {
            connection.reply(position);
        }
    }
}

/// The header of a reply to a transaction.
pub(crate) fn reply_to(transaction: u64) -> Header {
    Header { word: transaction, ..request(0, 0) }
}

/// Waits for the first request in a client's ring.
pub(crate) fn question(connection: &RawConnection) {
    crate::common::eventually("the question", || {
        (connection.peer.load_u32(connection.peer.line(0)) == 1).then_some(())
    });
}

/// What a request is refused with, as over quota; anything else fails.
#[track_caller]
pub(crate) fn over_quota(error: &KernelError) {
    assert!(matches!(error, KernelError::Quota { .. }), "{error:?}");
}

/// Writes rubbish into the words of `memory` from `from` to `to`, in bytes.
pub(crate) fn scribble(memory: &Memory, from: usize, to: usize, mut number: impl FnMut() -> u64) {
    for offset in (from..to).step_by(8) {
        memory.store(offset, number());
    }
}
