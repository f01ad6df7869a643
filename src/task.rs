//! This process as the kernel knows it.

use crate::error::Error;
use crate::link::{Link, With};
use crate::runtime::Place;
use crate::spares::Spares;
use rendez_ipc_core::control::{ForkRegistration, adopt_inherited, register_for_fork};
use rendez_ipc_core::counters::PageFile;
use rendez_ipc_core::injection::Plan;
use rendez_ipc_core::platform::{Host, HostStatus, Platform};
use rendez_ipc_core::status::{PageWriter, StatusReader};
use rendez_protocol::kernel::{
    Answer, Capability, DoorRule, EndInfo, Give, Given, Hello, Hold, Limits, Offer, Provenance,
    Received, Request, TaskInfo, frame,
};
use rendez_protocol::limit::{DEADLINE_DEFAULT_MS, LABEL_BYTES_MAX};
use rendez_protocol::quota::{Allotment, Use};
use rendez_protocol::waits::{EndpointInfo, Held, TaskWaits};
use rendez_protocol::{ConnectionId, Rights, Slot, TaskId, Ticket, Version};
use rustix::net::sockopt::socket_peercred;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};
use rustix::process::geteuid;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// The absolute deadline that lies `after` from now, in ns of `CLOCK_MONOTONIC`.
#[must_use]
pub fn deadline_after(after: Duration) -> u64 {
    Host::now().saturating_add(u64::try_from(after.as_nanos()).unwrap_or(u64::MAX))
}

/// What a [`Task::revoke`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revoked {
    /// Capabilities deleted.
    pub capabilities: u32,
    /// Connections severed.
    pub connections: u32,
    /// Servers that have not acknowledged in time, at most
    /// [`UNACKNOWLEDGED_MAX`](rendez_protocol::limit::UNACKNOWLEDGED_MAX): each may still be handling
    /// a message that came over a severed connection.
    pub unacknowledged: Vec<TaskId>,
}

/// This process as the kernel knows it: its kernel socket, status segment, page and capabilities.
/// Cloning it is cheap; all clones are the same task, which ends with the last of them.
#[derive(Clone, Debug)]
pub struct Task {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    // Before `link`: it is taken off the list before its socket is closed.
    _fork: ForkRegistration,
    link: Arc<Link>,
    id: TaskId,
    version: Version,
    own: Received,
    given: Vec<Given>,
    status: Arc<StatusReader>,
    page: Arc<PageWriter>,
    spares: Spares,
}

impl Task {
    /// The task that this process is: over the kernel socket that it inherited if it was started as
    /// one, else through the front door that the environment names.
    ///
    /// # Errors
    /// [`Error::NoSystem`] if nobody is behind the door, [`Error::Stranger`] if it is another user;
    /// what the kernel says to the greeting.
    pub fn current() -> Result<Self, Error> {
        match Self::inherited()? {
            Some(task) => Ok(task),
            None => {
                let place = Place::find(None).map_err(|bad| {
                    Error::system(bad.to_string(), std::io::ErrorKind::InvalidInput)
                })?;
                Self::front_door(&place)
            }
        }
    }

    /// The task that this process was started as, `None` if it was not.
    ///
    /// # Errors
    /// If what it inherited is no kernel socket, or what the kernel says to the greeting.
    pub fn inherited() -> Result<Option<Self>, Error> {
        adopt_inherited()
            .map_err(|error| Error::system("taking the inherited kernel socket", error))?
            .map(Self::over)
            .transpose()
    }

    /// A task through the front door at `place`.
    ///
    /// # Errors
    /// As [`Task::current`].
    pub fn front_door(place: &Place) -> Result<Self, Error> {
        if let Some(uid) = place.stranger() {
            let own = geteuid().as_raw();
            return Err(Error::Stranger { path: place.directory.clone(), uid, own });
        }
        Self::knock(&place.socket(), |uid| place.trusts(uid))
    }

    /// A task through the front door that is the socket `path`. Whoever opened it must be the user
    /// of this process, wherever it is; for another user's system, see
    /// [`Place::owner`](crate::runtime::Place::owner).
    ///
    /// # Errors
    /// As [`Task::current`].
    pub fn front_door_at(path: &Path) -> Result<Self, Error> {
        Self::knock(path, |uid| uid == geteuid().as_raw())
    }

    /// A task through a front door that was opened by somebody who is trusted.
    fn knock(path: &Path, trusted: impl Fn(u32) -> bool) -> Result<Self, Error> {
        let no_system =
            |cause: rustix::io::Errno| Error::NoSystem { path: path.into(), cause: cause.into() };
        let socket =
            socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
                .map_err(|error| Error::system("making a socket", error))?;
        let address = SocketAddrUnix::new(path).map_err(no_system)?;
        connect(&socket, &address).map_err(no_system)?;
        // Who called listen, as Linux knows it.
        let uid = socket_peercred(&socket)
            .map_err(|error| Error::system("asking who is behind the front door", error))?
            .uid
            .as_raw();
        if !trusted(uid) {
            let own = geteuid().as_raw();
            return Err(Error::Stranger { path: path.into(), uid, own });
        }
        Self::over(socket)
    }

    /// The task at this end of a kernel socket that nobody has greeted over.
    ///
    /// # Errors
    /// What the kernel says to the greeting.
    pub fn over(socket: OwnedFd) -> Result<Self, Error> {
        let fork = register_for_fork(socket.as_fd())
            .map_err(|error| Error::system("installing the fork handler", error))?;
        let link = Link::new(socket).map_err(|error| Error::system("making an eventfd", error))?;
        let link = Arc::new(link);
        let mut greeting = Hello::OURS.to_bytes().to_vec();
        greeting.extend_from_slice(own_name().as_bytes());
        let (answer, mut descriptors) =
            link.ask_raw(frame::HELLO, &greeting, default_deadline())?;
        let Answer::Welcome { task: id, version, own, given } = answer else {
            return Err(out_of_turn(&answer));
        };
        let (Some(status), Some(page)) = (descriptors.pop_front(), descriptors.pop_front()) else {
            return Err(Error::Protocol("a welcome without its two descriptors".into()));
        };
        let status = StatusReader::map(status)
            .map_err(|error| Error::system("mapping the status segment", error))?;
        let page =
            PageWriter::map(page).map_err(|error| Error::system("mapping the task page", error))?;
        let task = Self {
            inner: Arc::new(Inner {
                _fork: fork,
                link,
                id,
                version,
                own,
                given,
                status: Arc::new(status),
                page: Arc::new(page),
                spares: Spares::new(),
            }),
        };
        task.done(&Request::PageMapped)?;
        Ok(task)
    }

    /// Who this task is.
    #[must_use]
    pub fn id(&self) -> TaskId {
        self.inner.id
    }

    /// The kernel's version.
    #[must_use]
    pub fn kernel_version(&self) -> Version {
        self.inner.version
    }

    /// A capability of the task to itself.
    #[must_use]
    pub fn own(&self) -> Received {
        self.inner.own
    }

    /// What the task was given at its start.
    #[must_use]
    pub fn given(&self) -> &[Given] {
        &self.inner.given
    }

    /// The capability that the task was given under `name`.
    ///
    /// # Errors
    /// [`Error::NotGiven`].
    pub fn given_as(&self, name: &str) -> Result<Received, Error> {
        self.given()
            .iter()
            .find(|given| given.name == name)
            .map(|given| given.capability)
            .ok_or_else(|| Error::NotGiven {
                name: name.into(),
                given: self.given().iter().map(|given| given.name.clone()).collect(),
            })
    }

    pub(crate) fn link(&self) -> &Link {
        &self.inner.link
    }

    /// The status word of one of the task's connections; `None` if there is no such word.
    pub(crate) fn host_status(&self, index: u32) -> Option<HostStatus> {
        let Inner { link, status, page, .. } = &*self.inner;
        let word =
            HostStatus::new(Arc::clone(status), Arc::clone(page), link.shared_socket(), index)?;
        Some(word.with_plan(Arc::clone(link) as Arc<dyn Plan>))
    }

    pub(crate) fn status(&self) -> &Arc<StatusReader> {
        &self.inner.status
    }

    pub(crate) fn page(&self) -> &Arc<PageWriter> {
        &self.inner.page
    }

    pub(crate) fn spares(&self) -> &Spares {
        &self.inner.spares
    }

    /// Asks the kernel, with the default deadline.
    ///
    /// # Errors
    /// What the kernel says, or that it does not answer.
    pub(crate) fn ask(&self, request: &Request) -> Result<With<Answer>, Error> {
        self.inner.link.ask(request, default_deadline())
    }

    pub(crate) fn done(&self, request: &Request) -> Result<(), Error> {
        match self.ask(request)?.0 {
            Answer::Done => Ok(()),
            other => Err(out_of_turn(&other)),
        }
    }

    fn slot(&self, request: &Request) -> Result<Received, Error> {
        match self.ask(request)?.0 {
            Answer::Slot(received) => Ok(received),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Makes an endpoint; the answer names a capability with all rights to it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create_endpoint(&self) -> Result<Received, Error> {
        self.slot(&Request::CreateEndpoint)
    }

    /// Says what becomes of connects to an endpoint while it has no server, by a capability with
    /// RECEIVE: they wait for the next one, so many and for so long, or fail at once. Unless it is
    /// said otherwise they wait for as long as somebody is left who could serve.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn hold(&self, endpoint: Slot, hold: Hold) -> Result<(), Error> {
        self.done(&Request::Hold { slot: endpoint, hold })
    }

    /// Makes a notification; the answer names a capability with all rights to it. A
    /// [`Notification`](crate::Notification) receives from it, a [`Poster`](crate::Poster) posts to it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create_notification(&self) -> Result<Received, Error> {
        self.slot(&Request::CreateNotification)
    }

    /// Makes a task that has not started, and gives it capabilities. The socket that comes back is
    /// what its process must inherit, its number in the environment variable
    /// [`SOCKET_VARIABLE`](rendez_protocol::kernel::SOCKET_VARIABLE).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create_task(
        &self,
        name: &str,
        give: Vec<Give>,
    ) -> Result<(Received, TaskId, OwnedFd), Error> {
        self.create_task_with(name, give, Vec::new())
    }

    /// As [`Task::create_task`], with so much of what this task may have set aside for the new one and
    /// those whom it creates. It returns when they have ended.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create_task_with(
        &self,
        name: &str,
        give: Vec<Give>,
        quotas: Vec<Allotment>,
    ) -> Result<(Received, TaskId, OwnedFd), Error> {
        match self.ask(&Request::CreateTask { name: name.into(), give, quotas })? {
            (Answer::Task { capability, id }, mut descriptors) => match descriptors.pop_front() {
                Some(socket) => Ok((capability, id, socket)),
                None => Err(Error::Protocol("a task without its socket".into())),
            },
            (other, _) => Err(out_of_turn(&other)),
        }
    }

    /// Derives a capability with `rights` and, if given, a badge.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mint(&self, slot: Slot, rights: Rights, badge: Option<u64>) -> Result<Received, Error> {
        self.mint_limited(slot, rights, badge, Limits::SAME)
    }

    /// Derives a capability with `rights`, if given a badge, and no more bits to post or priority
    /// than `limits` says.
    ///
    /// # Errors
    /// What the kernel says; that `limits` go beyond what `slot` has, among it.
    pub fn mint_limited(
        &self,
        slot: Slot,
        rights: Rights,
        badge: Option<u64>,
        limits: Limits,
    ) -> Result<Received, Error> {
        self.slot(&Request::Mint { slot, rights, badge, limits })
    }

    /// Moves a capability to a new slot; the old slot is stale.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn move_capability(&self, slot: Slot) -> Result<Received, Error> {
        self.slot(&Request::Move { slot })
    }

    /// Lets go of a capability.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn delete(&self, slot: Slot) -> Result<(), Error> {
        self.done(&Request::Delete { slot })
    }

    /// Deletes everything derived from a capability, and severs the connections made with that. The
    /// capability itself stays, and so do the connections that this task has made with it, and what
    /// it derives from it from now on.
    ///
    /// Nothing of what goes can be used once the kernel has the request. This waits until all of it
    /// is gone, which others' requests are served in between, and until each server (but this task
    /// itself) has said that it handles no more messages of the severed connections: for at most
    /// [`REVOKE_GRACE_MS`](rendez_protocol::limit::REVOKE_GRACE_MS). Servers say so between two
    /// messages, so one that is busy with a handler for longer is named in the answer, and may still
    /// be handling a message that it took before.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn revoke(&self, slot: Slot) -> Result<Revoked, Error> {
        match self.ask(&Request::Revoke { slot })?.0 {
            Answer::Revoked { capabilities, connections, unacknowledged } => {
                Ok(Revoked { capabilities, connections, unacknowledged })
            }
            other => Err(out_of_turn(&other)),
        }
    }

    /// Where a capability came from: who has had it and what it is derived from, back to who made
    /// the object. Needs INSPECT on it, since tasks are named.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn provenance(&self, slot: Slot) -> Result<Provenance, Error> {
        self.ask_provenance(slot, None)
    }

    /// The same of anybody's capability; `kernel` holds a capability to the kernel's own task, with
    /// INSPECT.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn provenance_of(
        &self,
        kernel: Slot,
        task: TaskId,
        slot: Slot,
    ) -> Result<Provenance, Error> {
        self.ask_provenance(kernel, Some((task, slot)))
    }

    fn ask_provenance(&self, slot: Slot, of: Option<(TaskId, Slot)>) -> Result<Provenance, Error> {
        match self.ask(&Request::Provenance { slot, of })?.0 {
            Answer::Provenance(provenance) => Ok(provenance),
            other => Err(out_of_turn(&other)),
        }
    }

    /// What a capability is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn inspect(&self, slot: Slot) -> Result<Capability, Error> {
        match self.ask(&Request::Inspect { slot })?.0 {
            Answer::Inspected(capability) => Ok(capability),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Puts capabilities into escrow for the other end of a connection.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn offer(&self, connection: ConnectionId, items: &[Offer]) -> Result<Ticket, Error> {
        match self.ask(&Request::Offer { connection, items: items.to_vec() })?.0 {
            Answer::Ticket(ticket) => Ok(ticket),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Takes what a ticket stands for.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn accept(&self, connection: ConnectionId, ticket: Ticket) -> Result<Vec<Received>, Error> {
        match self.ask(&Request::Accept { connection, ticket })?.0 {
            Answer::Received(received) => Ok(received),
            other => Err(out_of_turn(&other)),
        }
    }

    /// Asks to be told of an object's death or restart; a [`Server`](crate::Server) of this task
    /// hears of it through [`Service::watched`](crate::Service::watched).
    ///
    /// # Errors
    /// What the kernel says.
    pub fn watch(&self, slot: Slot) -> Result<(), Error> {
        self.done(&Request::Watch { slot })
    }

    /// Sends a task's process a POSIX signal.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn kill(&self, slot: Slot, signal: i32) -> Result<(), Error> {
        self.done(&Request::Kill { slot, signal })
    }

    /// Every task, as a capability to the kernel's own task with INSPECT lets one see.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn list(&self, kernel: Slot) -> Result<Vec<TaskInfo>, Error> {
        self.pages(|from| match self.ask(&Request::List { slot: kernel, from })?.0 {
            Answer::Tasks { tasks, next } => Ok((tasks, next)),
            other => Err(out_of_turn(&other)),
        })
    }

    /// How much a task uses of each quota, and of how much, by a capability with INSPECT to it or to
    /// the kernel's own task.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn quotas_of(&self, slot: Slot, task: TaskId) -> Result<Vec<Use>, Error> {
        match self.ask(&Request::Quotas { slot, task })?.0 {
            Answer::Quotas(uses) => Ok(uses),
            other => Err(out_of_turn(&other)),
        }
    }

    /// What all tasks say of their threads: whom they wait for, what they handle. By a capability to
    /// the kernel's own task with INSPECT. Claims of the tasks, but for whose a connection is.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn waits(&self, kernel: Slot) -> Result<Vec<TaskWaits>, Error> {
        let mut all: Vec<TaskWaits> = Vec::new();
        loop {
            let after = all.last().map(|waits| waits.task);
            match self.ask(&Request::Waits { slot: kernel, after })?.0 {
                Answer::Waits { tasks, more } => {
                    let more = more && !tasks.is_empty();
                    all.extend(tasks);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(out_of_turn(&other)),
            }
        }
    }

    /// Which task holds which capabilities, by a capability to the kernel's own task with INSPECT.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn capabilities(&self, kernel: Slot) -> Result<Vec<Held>, Error> {
        let mut all: Vec<Held> = Vec::new();
        loop {
            let after = all.last().map(|held| (held.holder, held.capability.slot));
            match self.ask(&Request::Capabilities { slot: kernel, after })?.0 {
                Answer::Capabilities { held, more } => {
                    let more = more && !held.is_empty();
                    all.extend(held);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(out_of_turn(&other)),
            }
        }
    }

    /// The endpoints that there are, and who serves them, by a capability to the kernel's own task
    /// with INSPECT.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn endpoints(&self, kernel: Slot) -> Result<Vec<EndpointInfo>, Error> {
        let mut all: Vec<EndpointInfo> = Vec::new();
        loop {
            let after = all.last().map(|endpoint| endpoint.endpoint);
            match self.ask(&Request::Endpoints { slot: kernel, after })?.0 {
                Answer::Endpoints { endpoints, more } => {
                    let more = more && !endpoints.is_empty();
                    all.extend(endpoints);
                    if !more {
                        return Ok(all);
                    }
                }
                other => return Err(out_of_turn(&other)),
            }
        }
    }

    /// The capabilities that a task holds, by a capability with INSPECT to it or to the kernel's own
    /// task.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn held_by(&self, slot: Slot, task: TaskId) -> Result<Vec<Received>, Error> {
        self.pages(|from| match self.ask(&Request::Held { slot, task, from })?.0 {
            Answer::Held { capabilities, next } => Ok((capabilities, next)),
            other => Err(out_of_turn(&other)),
        })
    }

    /// A task's ends of connections, by a capability with INSPECT to it or to the kernel's own task.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn ends_of(&self, slot: Slot, task: TaskId) -> Result<Vec<EndInfo>, Error> {
        self.pages(|from| match self.ask(&Request::Ends { slot, task, from })?.0 {
            Answer::Ends { ends, next } => Ok((ends, next)),
            other => Err(out_of_turn(&other)),
        })
    }

    /// All pages of something.
    fn pages<T>(
        &self,
        mut page: impl FnMut(u32) -> Result<(Vec<T>, Option<u32>), Error>,
    ) -> Result<Vec<T>, Error> {
        let mut all = Vec::new();
        let mut from = Some(0);
        while let Some(place) = from {
            let (more, next) = page(place)?;
            all.extend(more);
            // Places rise, so this ends.
            from = next.filter(|next| *next > place);
        }
        Ok(all)
    }

    /// The page of `task`, in which it counts what it does, by a capability to the kernel's own task
    /// with INSPECT. Asked for once, it can be read again and again without anybody's noticing.
    /// What it says is the task's own claim.
    ///
    /// # Errors
    /// What the kernel says: the task is dead, or its page not ready yet.
    pub fn page_of(&self, kernel: Slot, task: TaskId) -> Result<PageFile, Error> {
        match self.ask(&Request::Page { slot: kernel, task })? {
            (Answer::Page, mut descriptors) => {
                let page = descriptors
                    .pop_front()
                    .ok_or_else(|| Error::Protocol("a page without its descriptor".into()))?;
                PageFile::new(page).map_err(|error| Error::system("reading a task page", error))
            }
            (other, _) => Err(out_of_turn(&other)),
        }
    }

    /// Whether connections that this task makes or takes from now on are counted in its page. They
    /// are unless it says otherwise; what it costs is in `docs/guide/observing.md`.
    pub fn set_counting(&self, counting: bool) {
        self.inner.page.set_counting(counting);
    }

    /// Says whom the front door lets in and what they are given, by a capability to the kernel's own
    /// task with GRANT.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn set_front_door(&self, kernel: Slot, rules: Vec<DoorRule>) -> Result<(), Error> {
        self.done(&Request::FrontDoor { slot: kernel, rules })
    }
}

pub(crate) fn default_deadline() -> u64 {
    deadline_after(Duration::from_millis(DEADLINE_DEFAULT_MS))
}

pub(crate) fn out_of_turn(answer: &Answer) -> Error {
    Error::Protocol(format!("{answer:?}"))
}

/// The program's name, for people.
fn own_name() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.chars().filter(|c| !c.is_control()).take(LABEL_BYTES_MAX / 4).collect()
}
