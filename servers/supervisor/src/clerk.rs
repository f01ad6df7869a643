//! The clerk: a thread that asks the name server and opens connections for the supervisor, which
//! itself waits for nobody. Whatever hangs, hangs here.

use crate::names::{AGAIN_FIRST, AGAIN_MAX, Name};
use rendez::{Connection, Options, Registration, Rights, Slot, Task};
use rendez_protocol::kernel::Received;
use rustix::event::{EventfdFlags, eventfd};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::time::{Duration, Instant};

/// How long the name server may take for one step.
const STEP_TIMEOUT: Duration = Duration::from_secs(1);
/// How often a name that is not there yet is looked up.
const LOOK_UP_PAUSE: Duration = Duration::from_millis(100);

/// What the clerk is to do.
#[derive(Debug)]
pub(crate) enum Job {
    /// Register all names with the name server, which serves anew. What fails is tried again.
    Register,
    /// The name server is gone, and the names with it.
    Forget,
    /// Look a name up that a task is to get, until it is there.
    LookUp {
        /// The task, and which of what it gets.
        of: (usize, usize),
        /// The name.
        path: String,
        /// With which rights it is wanted.
        rights: Rights,
    },
    /// Open and close a connection to an endpoint.
    Nudge {
        /// Whose it is.
        task: usize,
        /// The endpoint.
        slot: Slot,
    },
}

/// What the clerk has done.
#[derive(Debug)]
pub(crate) enum Told {
    /// All names are registered.
    Registered,
    /// They are not, and why; it will be tried again.
    NotRegistered(String),
    /// A name has been found.
    Found((usize, usize), Received),
    /// A connection was opened, or could not be.
    Nudged(usize),
}

/// The supervisor's side of the clerk.
#[derive(Debug)]
pub(crate) struct Clerk {
    jobs: Sender<Job>,
    told: Receiver<Told>,
    bell: Arc<OwnedFd>,
}

impl Clerk {
    /// Starts the thread. `name_server`: an own capability to it; `names`: what it is to be told.
    ///
    /// # Errors
    /// What Linux says.
    pub(crate) fn start(
        task: Task,
        name_server: Option<Slot>,
        names: Vec<Name>,
    ) -> io::Result<Self> {
        let bell = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
        let ((jobs, orders), (tell, told)) = (mpsc::channel(), mpsc::channel());
        let desk = Desk {
            task,
            name_server,
            names,
            tell,
            bell: Arc::clone(&bell),
            registrations: Vec::new(),
            again: None,
            missing: Vec::new(),
        };
        std::thread::Builder::new().name("clerk".into()).spawn(move || desk.work(&orders))?;
        Ok(Self { jobs, told, bell })
    }

    /// Has something done.
    pub(crate) fn ask(&self, job: Job) {
        // Without a clerk nothing is done; it ends with the process.
        let _ = self.jobs.send(job);
    }

    /// Readable when something has been done.
    pub(crate) fn bell(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// What has been done since.
    pub(crate) fn hear(&self) -> Vec<Told> {
        let _ = rustix::io::read(&self.bell, &mut [0; 8]);
        self.told.try_iter().collect()
    }
}

/// A registration that failed is tried again.
struct Again {
    at: Instant,
    /// How long to wait if it fails once more.
    then: Duration,
}

/// A name that is wanted.
struct Missing {
    of: (usize, usize),
    path: String,
    rights: Rights,
    at: Instant,
}

/// The clerk's own side.
struct Desk {
    task: Task,
    name_server: Option<Slot>,
    names: Vec<Name>,
    tell: Sender<Told>,
    bell: Arc<OwnedFd>,
    registrations: Vec<Registration>,
    again: Option<Again>,
    missing: Vec<Missing>,
}

impl Desk {
    fn work(mut self, orders: &Receiver<Job>) {
        loop {
            let due = self.missing.iter().map(|one| one.at);
            let due = due.chain(self.again.as_ref().map(|again| again.at)).min();
            let order = match due {
                Some(due) => orders.recv_timeout(due.saturating_duration_since(Instant::now())),
                None => orders.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            match order {
                Ok(Job::Register) => self.register(AGAIN_FIRST),
                Ok(Job::Forget) => self.forget(),
                Ok(Job::LookUp { of, path, rights }) => {
                    self.missing.push(Missing { of, path, rights, at: Instant::now() });
                }
                Ok(Job::Nudge { task, slot }) => {
                    let options = Options { timeout: STEP_TIMEOUT, ..Options::default() };
                    drop(Connection::open(&self.task, slot, &options));
                    self.say(Told::Nudged(task));
                }
                Err(RecvTimeoutError::Timeout) => self.due(),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn say(&self, told: Told) {
        if self.tell.send(told).is_ok() {
            let _ = rustix::io::write(&self.bell, &1_u64.to_ne_bytes());
        }
    }

    fn forget(&mut self) {
        self.again = None;
        self.registrations.clear();
    }

    /// Registers all names. `patience`: when to try again if that fails.
    fn register(&mut self, patience: Duration) {
        self.forget();
        match self.try_register() {
            Ok(registrations) => {
                self.registrations = registrations;
                self.say(Told::Registered);
            }
            // Names go with their task's last connection, so one that was registered after all, when
            // nobody waited for it any more, does not stand in its own way.
            Err(error) => {
                let then = (patience * 2).min(AGAIN_MAX);
                self.again = Some(Again { at: Instant::now() + patience, then });
                self.say(Told::NotRegistered(error.to_string()));
            }
        }
    }

    fn try_register(&self) -> Result<Vec<Registration>, rendez::Error> {
        let Some(server) = self.name_server else { return Ok(Vec::new()) };
        let register = |name: &Name| {
            self.task.register_through(server, &name.path, name.slot, name.rights, STEP_TIMEOUT)
        };
        self.names.iter().map(register).collect()
    }

    /// What is to be tried again is.
    fn due(&mut self) {
        let now = Instant::now();
        if let Some(Again { at, then }) = self.again
            && at <= now
        {
            self.register(then);
        }
        let Some(server) = self.name_server else { return };
        // One at a time: an order may have come meanwhile.
        let Some(place) = self.missing.iter().position(|one| one.at <= now) else { return };
        let one = &mut self.missing[place];
        match self.task.look_up_through(server, &one.path, one.rights, STEP_TIMEOUT) {
            Ok(found) => {
                let one = self.missing.swap_remove(place);
                self.say(Told::Found(one.of, found));
            }
            Err(_) => one.at = Instant::now() + LOOK_UP_PAUSE,
        }
    }
}
