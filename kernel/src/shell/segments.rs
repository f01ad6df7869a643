//! The descriptors of connections and arenas: made when first named, let go of when passed on.

use super::closer::Closing;
use crate::effect::{Pair, Side};
use crate::quota::over;
use rendez_ipc_core::status::{PAGE_BYTES, SEALS, has_hole, memory_file};
use rendez_protocol::kernel::KernelError;
use rendez_protocol::{SpareId, TaskId};
use rustix::event::{EventfdFlags, epoll, eventfd};
use rustix::fs::SealFlags;
use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

/// Files of more bytes are closed by a closer: whoever closes last frees the memory, and that takes
/// its time.
const LARGE_BYTES: usize = 256 << 10;

/// A descriptor on its way to a task. Frames that wait share it with the table.
pub(super) type Shared = Rc<Held>;

/// A descriptor that the kernel has for a while.
#[derive(Debug)]
pub(super) struct Held {
    /// There until it is dropped.
    descriptor: Option<OwnedFd>,
    /// Who closes it, if that may take long.
    closing: Option<Closing>,
}

impl Held {
    /// A descriptor that is closed where it is dropped.
    pub(super) fn new(descriptor: OwnedFd) -> Self {
        Self { descriptor: Some(descriptor), closing: None }
    }

    /// A memory file of so many bytes.
    pub(super) fn file(file: OwnedFd, bytes: usize, closing: &Closing) -> Self {
        let closing = (bytes > LARGE_BYTES).then(|| closing.clone());
        Self { descriptor: Some(file), closing }
    }
}

impl AsFd for Held {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.descriptor {
            Some(descriptor) => descriptor.as_fd(),
            // It is taken by those who consume `self`.
            None => unreachable!("a descriptor that was taken"),
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if let (Some(descriptor), Some(closing)) = (self.descriptor.take(), &self.closing) {
            closing.close(descriptor);
        }
    }
}

/// All pairs of segments that still cost the kernel descriptors.
#[derive(Debug)]
pub(super) struct Segments {
    pairs: HashMap<Pair, Made>,
    spares: HashMap<(TaskId, SpareId), End>,
    /// How many spares there may be, of all tasks together: each costs up to three descriptors.
    spares_max: usize,
    /// How many pairs are being made for each task that asked for some: between the first
    /// descriptor that is made and the last that has gone out.
    making: HashMap<TaskId, usize>,
    making_max: usize,
    closing: Closing,
}

/// A pair of segments, and what else the two ends of a connection get.
#[derive(Debug)]
struct Made {
    ends: [End; 2],
    /// Whose account it is on, while it is being made.
    maker: Option<TaskId>,
}

/// What belongs to one side.
#[derive(Debug)]
struct End {
    /// Bytes of the segment that this side writes.
    bytes: usize,
    /// That segment, from when its owner is told until its reader is.
    segment: Option<Shared>,
    sealed: bool,
    /// The eventfd that rings this side and the epoll instance on which it waits, each until it
    /// has been passed on.
    bell: Bell,
}

#[derive(Debug)]
enum Bell {
    NotMade,
    Made { ring: Option<Shared>, wait: Option<Shared> },
}

fn index(side: Side) -> usize {
    match side {
        Side::Client => 0,
        Side::Server => 1,
    }
}

/// A refusal that says what Linux said.
pub(super) fn system(doing: &str, error: impl Into<io::Error>) -> KernelError {
    KernelError::System { doing: doing.into(), error: error.into().to_string() }
}

impl Segments {
    /// `making_max`: how many connections, and pairs of arenas, a task may have in the making;
    /// `spares_max`: how many spares all tasks may have together.
    pub(super) fn new(making_max: usize, spares_max: usize, closing: Closing) -> Self {
        Self {
            pairs: HashMap::new(),
            spares: HashMap::new(),
            spares_max,
            making: HashMap::new(),
            making_max,
            closing,
        }
    }

    /// A task's page. Its owner decides how much memory is behind it, so its last close may take long.
    pub(super) fn page(&self) -> io::Result<Shared> {
        let file = memory_file("rendez-task-page", PAGE_BYTES)?;
        Ok(Rc::new(Held::file(file, PAGE_BYTES, &self.closing)))
    }

    /// Remembers the sizes of two segments.
    pub(super) fn make(&mut self, pair: Pair, client: usize, server: usize) {
        let made = Made { ends: [End::new(client), End::new(server)], maker: None };
        self.pairs.insert(pair, made);
    }

    /// Puts what `pair` costs while it is being made on `maker`'s account.
    pub(super) fn charge(&mut self, pair: Pair, maker: TaskId) -> Result<(), KernelError> {
        let charged = self.making.entry(maker).or_default();
        if *charged >= self.making_max {
            let what = "connections and arenas of one task in the making";
            return Err(over(what, self.making_max as u64, *charged as u64));
        }
        if let Some(made) = self.pairs.get_mut(&pair)
            && made.maker.is_none()
        {
            made.maker = Some(maker);
            *charged = charged.saturating_add(1);
        }
        Ok(())
    }

    /// Lets go of all that is left of a pair, a bell among it that its waiter does not want since it
    /// waits by futex: it costs no descriptor any more, and is on nobody's account.
    pub(super) fn forget(&mut self, pair: Pair) {
        let maker = self.pairs.remove(&pair).and_then(|made| made.maker);
        if let Some(maker) = maker
            && let Some(charged) = self.making.get_mut(&maker)
        {
            *charged = charged.saturating_sub(1);
            if *charged == 0 {
                self.making.remove(&maker);
            }
        }
    }

    /// Remembers the size of a spare.
    pub(super) fn make_spare(&mut self, task: TaskId, spare: SpareId, bytes: usize) {
        self.spares.insert((task, spare), End::new(bytes));
    }

    /// A spare, for its owner.
    pub(super) fn spare(&mut self, task: TaskId, spare: SpareId) -> Result<Shared, KernelError> {
        if self.spares.len() > self.spares_max {
            let (most, count) = (self.spares_max as u64, self.spares.len() as u64);
            return Err(over("spares of all tasks together", most, count));
        }
        let end = self.spares.get_mut(&(task, spare)).ok_or(KernelError::BadSpare(spare))?;
        end.own(&self.closing)
    }

    /// Whether a spare is sealed and whole; with a `bell`, it has one from now on.
    pub(super) fn check_spare(
        &mut self,
        task: TaskId,
        spare: SpareId,
        bell: bool,
    ) -> Result<(), KernelError> {
        let end = self.spares.get_mut(&(task, spare)).ok_or(KernelError::BadSpare(spare))?;
        end.check(&spare)?;
        if bell {
            end.bell.made()?;
        }
        Ok(())
    }

    /// A spare becomes the segment of `side` of a pair. The client pays for what that is in the
    /// making.
    pub(super) fn use_spare(
        &mut self,
        task: TaskId,
        spare: SpareId,
        pair: Pair,
        side: Side,
    ) -> Result<(), KernelError> {
        let end = self.spares.remove(&(task, spare)).ok_or(KernelError::BadSpare(spare))?;
        *self.end(pair, side)? = end;
        if side == Side::Client { self.charge(pair, task) } else { Ok(()) }
    }

    /// Lets go of a spare.
    pub(super) fn forget_spare(&mut self, task: TaskId, spare: SpareId) {
        self.spares.remove(&(task, spare));
    }

    /// Lets go of all spares of a task.
    pub(super) fn forget_spares(&mut self, task: TaskId) {
        self.spares.retain(|(owner, _), _| *owner != task);
    }

    fn end(&mut self, pair: Pair, side: Side) -> Result<&mut End, KernelError> {
        self.pairs
            .get_mut(&pair)
            .and_then(|made| made.ends.get_mut(index(side)))
            .ok_or_else(|| KernelError::Order(format!("{pair:?} is not being made")))
    }

    /// The segment that `side` writes, for its owner; made now if it is not there yet.
    pub(super) fn own(&mut self, pair: Pair, side: Side) -> Result<Shared, KernelError> {
        let closing = self.closing.clone();
        self.end(pair, side)?.own(&closing)
    }

    /// Whether the segment that `side` has populated is sealed and whole.
    pub(super) fn check(&mut self, pair: Pair, side: Side) -> Result<(), KernelError> {
        self.end(pair, side)?.check(&pair)
    }

    /// The segment that `side` writes, sealed, for its reader: it goes out once.
    pub(super) fn sealed(&mut self, pair: Pair, side: Side) -> Result<Shared, KernelError> {
        let end = self.end(pair, side)?;
        let unsealed = || KernelError::Order(format!("{pair:?} has no sealed segment"));
        if end.sealed { end.segment.take().ok_or_else(unsealed) } else { Err(unsealed()) }
    }

    /// The eventfd that rings `side`, for the other side: it goes out once.
    pub(super) fn ring(&mut self, pair: Pair, side: Side) -> Result<Shared, KernelError> {
        let (ring, _) = self.end(pair, side)?.bell.made()?;
        ring.take().ok_or_else(|| KernelError::Order(format!("{pair:?}: bell given away")))
    }

    /// The epoll instance on which `side` waits: it goes out once.
    pub(super) fn wait(&mut self, pair: Pair, side: Side) -> Result<Shared, KernelError> {
        let (_, wait) = self.end(pair, side)?.bell.made()?;
        wait.take().ok_or_else(|| KernelError::Order(format!("{pair:?}: bell given away")))
    }
}

impl End {
    fn new(bytes: usize) -> Self {
        Self { bytes, segment: None, sealed: false, bell: Bell::NotMade }
    }

    /// The segment, for its owner; made now if it is not there yet.
    fn own(&mut self, closing: &Closing) -> Result<Shared, KernelError> {
        let segment = match self.segment.take() {
            Some(segment) => segment,
            None => {
                let file = memory_file("rendez-segment", self.bytes)
                    .map_err(|error| system("making a segment", error))?;
                Rc::new(Held::file(file, self.bytes, closing))
            }
        };
        self.segment = Some(Rc::clone(&segment));
        Ok(segment)
    }

    /// Whether the segment is sealed and whole.
    fn check(&mut self, whose: &dyn core::fmt::Debug) -> Result<(), KernelError> {
        let Some(segment) = &self.segment else {
            return Err(KernelError::Order(format!("{whose:?} has no segment to look at yet")));
        };
        check(segment, self.bytes, SEALS, "segment")?;
        self.sealed = true;
        Ok(())
    }
}

impl Bell {
    fn made(&mut self) -> Result<(&mut Option<Shared>, &mut Option<Shared>), KernelError> {
        if let Self::NotMade = self {
            let (ring, wait) = make_bell().map_err(|error| system("making a doorbell", error))?;
            *self = Self::Made {
                ring: Some(Rc::new(Held::new(ring))),
                wait: Some(Rc::new(Held::new(wait))),
            };
        }
        match self {
            Self::Made { ring, wait } => Ok((ring, wait)),
            Self::NotMade => Err(KernelError::Order("a doorbell that is not made".into())),
        }
    }
}

/// An eventfd, edge-triggered in an epoll instance of its own: the ringer gets the one, the waiter
/// the other, so that neither can do to the other's what the two could to a shared description.
fn make_bell() -> io::Result<(OwnedFd, OwnedFd)> {
    let ring = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let wait = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let edge = epoll::EventFlags::IN | epoll::EventFlags::ET;
    epoll::add(&wait, &ring, epoll::EventData::new_u64(0), edge)?;
    Ok((ring, wait))
}

/// Whether a file's owner has sealed it, so that its present mappings are the last that write, and
/// whether it is whole.
///
/// It only looks. To add a seal Linux takes the file's lock, and its owner can hold that for as
/// long as it likes: in a `write` from memory whose page it does not provide.
pub(super) fn check(
    file: &Held,
    bytes: usize,
    wanted: SealFlags,
    what: &str,
) -> Result<(), KernelError> {
    let look = |error: io::Error| system(&format!("looking at a {what}"), error);
    // First the seals: once they are there, neither size nor holes change any more. What was under
    // way under the file's lock when they were added was over by then.
    let seals = rustix::fs::fcntl_get_seals(file).map_err(|error| look(error.into()))?;
    if !seals.contains(wanted) {
        return Err(KernelError::Order(format!(
            "the {what} lacks the seals {:?}; map it, populate it, seal it, then say so",
            wanted.difference(seals)
        )));
    }
    let found = rustix::fs::fstat(file).map_err(|error| look(error.into()))?.st_size;
    if u64::try_from(found) != Ok(bytes as u64) {
        return Err(KernelError::BadValue {
            what: format!("the {what}'s size in bytes"),
            value: u64::try_from(found).unwrap_or(0),
            allowed: bytes.to_string(),
        });
    }
    if has_hole(file.as_fd(), bytes).map_err(look)? {
        return Err(KernelError::Order(format!(
            "the {what} has a hole; populate all of it before saying that it is mapped"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::closer::Closers;
    use super::{Bell, Held, LARGE_BYTES, Pair, SEALS, Segments, Side};
    use rendez_protocol::kernel::KernelError;
    use rendez_protocol::{ArenaId, ConnectionId, TaskId};
    use rustix::fs::SealFlags;
    use std::rc::Rc;

    const ID: ConnectionId = ConnectionId { index: 1, generation: 0 };
    const CONNECTION: Pair = Pair::Connection(ID);

    fn segments(making_max: usize) -> (Segments, Closers) {
        let closers = Closers::start(|| Ok(())).unwrap();
        (Segments::new(making_max, 1, closers.closing()), closers)
    }

    #[test]
    fn descriptors_leave_the_table_as_they_go_out() {
        let (mut segments, _closers) = segments(1);
        segments.make(CONNECTION, 8192, 4096);
        let own = segments.own(CONNECTION, Side::Client).unwrap();
        rustix::fs::fcntl_add_seals(&*own, SEALS).unwrap();
        assert!(matches!(segments.check(CONNECTION, Side::Client), Err(KernelError::Order(_))));
        assert!(segments.sealed(CONNECTION, Side::Client).is_err(), "a hole");

        let own_server = segments.own(CONNECTION, Side::Server).unwrap();
        rustix::io::write(&*own_server, &[1; 4096]).unwrap();
        rustix::fs::fcntl_add_seals(&*own_server, SEALS).unwrap();
        segments.check(CONNECTION, Side::Server).unwrap();
        let sealed = segments.sealed(CONNECTION, Side::Server).unwrap();
        assert!(Rc::ptr_eq(&sealed, &own_server));
        assert_eq!(Rc::strong_count(&sealed), 2, "the table has let go");
        assert!(rustix::io::write(&*sealed, &[1]).is_err());

        let ring = segments.ring(CONNECTION, Side::Client).unwrap();
        let wait = segments.wait(CONNECTION, Side::Client).unwrap();
        assert!(segments.ring(CONNECTION, Side::Client).is_err());
        assert_eq!((Rc::strong_count(&ring), Rc::strong_count(&wait)), (1, 1));
        segments.forget(CONNECTION);
        assert_eq!(Rc::strong_count(&own), 1);
    }

    #[test]
    fn a_connection_that_is_made_costs_no_descriptor() {
        let (mut segments, _closers) = segments(1);
        segments.make(CONNECTION, 4096, 4096);
        // A server is given where it could wait before it chooses to wait by futex.
        drop(segments.wait(CONNECTION, Side::Server).unwrap());
        let Bell::Made { ring: Some(ring), .. } = &segments.pairs[&CONNECTION].ends[1].bell else {
            panic!()
        };
        let ring = Rc::downgrade(ring);
        segments.forget(CONNECTION);
        assert_eq!(ring.strong_count(), 0);
        assert!(segments.ring(CONNECTION, Side::Server).is_err());
    }

    #[test]
    fn what_is_in_the_making_is_on_somebodys_account() {
        let (mut segments, _closers) = segments(1);
        let task = |index| TaskId { index, generation: 0 };
        let other = Pair::Arena(ID, ArenaId(1));
        segments.make(CONNECTION, 4096, 4096);
        segments.make(other, 4096, 4096);
        segments.charge(CONNECTION, task(1)).unwrap();
        let refused = segments.charge(other, task(1));
        assert!(matches!(refused, Err(KernelError::Quota { limit: 1, .. })));
        segments.charge(other, task(2)).unwrap();
        segments.forget(other);
        segments.forget(CONNECTION);
        segments.forget(CONNECTION);
        assert!(segments.making.is_empty());
    }

    #[test]
    fn an_owner_that_does_not_seal_is_refused_and_nobody_seals_for_it() {
        let (mut segments, _closers) = segments(1);
        segments.make(CONNECTION, 4096, 4096);
        let refused = |segments: &mut Segments, side| {
            let Err(KernelError::Order(text)) = segments.check(CONNECTION, side) else { panic!() };
            assert!(text.contains("lacks the seals"), "{text}");
        };
        let own = segments.own(CONNECTION, Side::Client).unwrap();
        rustix::io::write(&*own, &[1; 4096]).unwrap();
        refused(&mut segments, Side::Client);
        // To add one could wait for the owner, for ever.
        let seals = rustix::fs::fcntl_get_seals(&*own).unwrap();
        assert!(!seals.intersects(SealFlags::FUTURE_WRITE | SealFlags::SEAL), "{seals:?}");
        // Sealed in a way that cannot be completed.
        let own = segments.own(CONNECTION, Side::Server).unwrap();
        rustix::io::write(&*own, &[1; 4096]).unwrap();
        rustix::fs::fcntl_add_seals(&*own, SealFlags::SEAL).unwrap();
        refused(&mut segments, Side::Server);
    }

    #[test]
    fn a_large_file_is_closed_elsewhere() {
        use std::io::Read;
        use std::os::fd::AsFd;
        let (segments, closers) = segments(1);
        // Stands for a large file: its last close shows at the other end.
        let (mut other, file) = std::io::pipe().unwrap();
        let large = Held::file(file.into(), LARGE_BYTES + 1, &segments.closing);
        assert!(rustix::io::fcntl_getfd(large.as_fd()).is_ok());
        drop(large);
        assert_eq!(other.read(&mut [0]).unwrap(), 0, "closed, by whoever it was");
        // Without closers it is closed where it is dropped.
        let (mut other, file) = std::io::pipe().unwrap();
        let late = Held::file(file.into(), LARGE_BYTES + 1, &segments.closing);
        drop(closers);
        drop(late);
        assert_eq!(other.read(&mut [0]).unwrap(), 0);
    }
}
