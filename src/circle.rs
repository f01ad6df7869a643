//! Asking the kernel whether a wait is one of a circle, in which everybody waits for somebody else.
//!
//! Only a thread of a server asks, for only such a thread can be waited for; and only after a while,
//! from within its sleep ([`waits`](rendez_ipc_core::waits)). What it is told ends its send.

use crate::link::Link;
use crate::task::{Task, deadline_after};
use parking_lot::Mutex;
use rendez_ipc_core::waits::{Asked, Inquirer};
use rendez_protocol::ConnectionId;
use rendez_protocol::kernel::{Answer, Request};
use rendez_protocol::waits::{Look, Member};
use std::sync::Arc;
use std::time::Duration;

/// How long the kernel may take to answer. The wait itself goes on meanwhile, unlooked at.
const PATIENCE: Duration = Duration::from_secs(1);

/// Asks for one connection.
#[derive(Debug)]
pub(crate) struct Inquiry {
    task: Task,
    connection: ConnectionId,
    circle: Mutex<Vec<Option<Member>>>,
}

impl Inquiry {
    pub(crate) fn new(task: &Task, connection: ConnectionId) -> Arc<Self> {
        Arc::new(Self { task: task.clone(), connection, circle: Mutex::default() })
    }

    /// The members of the circle that was found last.
    pub(crate) fn circle(&self) -> Vec<Option<Member>> {
        self.circle.lock().clone()
    }

    fn link(&self) -> &Link {
        self.task.link()
    }
}

impl Inquirer for Inquiry {
    fn ask(&self, transaction: u64) -> Asked {
        let request = Request::LookForCircle { connection: self.connection, transaction };
        match self.link().ask(&request, deadline_after(PATIENCE)) {
            Ok((Answer::Circle(Look::Suspected), _)) => Asked::Suspected,
            Ok((Answer::Circle(Look::Deadlock(members)), _)) => {
                *self.circle.lock() = members;
                Asked::Deadlock
            }
            // An error too: the connection has ended, or the kernel has, which the wait finds out.
            _ => Asked::Nothing,
        }
    }
}
