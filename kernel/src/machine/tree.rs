//! The derivation tree: who got what from whom.
//!
//! Every capability is a *node*, wherever it lies: in a slot, in escrow, at the front door. What
//! was made *with* a capability, an end of a connection or a connect that waits, is a node too, a
//! leaf below that capability. So one rule serves all of them: revoking takes everything below a
//! node, and deleting a node hangs what is below it under the node's parent. A connection
//! thereby outlives the capability that it was made with, and never the revocation of an ancestor.
//!
//! # Two lines of children
//!
//! Below a node hang, oldest first, what was *derived* from it and, in a line of its own, what its
//! holder *made* with it. A revocation of the node takes the first line and spares the second. What
//! is hung over when a node goes takes that node's place in the line of what was derived: its maker
//! is no longer the holder of what it hangs below.
//!
//! # Marks
//!
//! A revocation marks its node with the number of the youngest node there is: *doomed* is whatever
//! was derived from a marked node and is not younger than the mark. So it is visible at once, at the
//! price of a walk up for each look-up while anything is marked, and what the holder derives
//! meanwhile is not touched. Whoever reaps takes the first of the line, as long as it is doomed:
//! what is younger than the mark comes after, also where a node's children have taken its place,
//! since nothing is ever derived from what is doomed.
//!
//! # Nodes that are gone
//!
//! A marked node that goes, or one with so many children that hanging them over would take long,
//! stays as a place that nobody holds until its reaping is done, or its children hang elsewhere.
//!
//! # Invariants
//!
//! [`Tree::check`] looks at them:
//! 1. Links agree in both directions, and a parent is older than its children (so: no cycles).
//! 2. Rights never grow from parent to child.
//!    Nor do the bits that may be posted, nor the highest priority.
//! 3. A badge never changes from parent to child, unless the parent has none.
//! 4. What is counted below a node is what was derived from it and is not doomed.
//!
//! Depth has a limit, which those keep who derive; nothing here recurses all the same. Lines are
//! doubly linked: unlinking is quick, and a walk needs no memory.

use super::table::Table;
use crate::quota::over;
use rendez_protocol::kernel::{How, KernelError, Limits, ObjectKind};
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId, Ticket, limit};

use crate::effect::Side;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Children of a node that are hung over at once when it is removed.
const HUNG_OVER_MAX: usize = 16;

/// A node, while it exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NodeId {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// What a capability names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Object {
    /// A task, alive or dead.
    Task { task: TaskId, id: ObjectId },
    /// An endpoint.
    Endpoint(ObjectId),
    /// A notification.
    Notification(ObjectId),
    /// A region.
    Region(ObjectId),
}

impl Object {
    /// Its identity.
    pub(super) fn id(self) -> ObjectId {
        match self {
            Self::Task { id, .. }
            | Self::Endpoint(id)
            | Self::Notification(id)
            | Self::Region(id) => id,
        }
    }

    /// What sort it is.
    pub(super) fn kind(self) -> ObjectKind {
        match self {
            Self::Task { .. } => ObjectKind::Task,
            Self::Endpoint(_) => ObjectKind::Endpoint,
            Self::Notification(_) => ObjectKind::Notification,
            Self::Region(_) => ObjectKind::Region,
        }
    }
}

/// Where a node lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holder {
    /// A capability in a task's space.
    Slot(TaskId, Slot),
    /// A capability in escrow.
    Ticket(Ticket),
    /// A capability that the kernel keeps for those who come through the front door.
    FrontDoor,
    /// A connect that waits for a receiver of the endpoint, by its number in the queue.
    Parked(ObjectId, u64),
    /// One end of a connection.
    End(ConnectionId, Side),
    /// A capability that is gone: a place, for a while.
    Gone,
}

impl Holder {
    /// Whether the node is a capability, and not something made with one.
    pub(super) fn is_capability(self) -> bool {
        matches!(self, Self::Slot(..) | Self::Ticket(_) | Self::FrontDoor)
    }
}

/// What may be done with a capability, and how its holder is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Powers {
    pub(super) rights: Rights,
    /// 0 for none.
    pub(super) badge: u64,
    /// Those that may be posted with it.
    pub(super) bits: u64,
    /// The highest that its messages may have.
    pub(super) priority: u8,
}

impl Powers {
    /// Those of an object's first capability: all of them, with these rights.
    pub(super) const fn first(rights: Rights) -> Self {
        Self { rights, badge: 0, bits: u64::MAX, priority: limit::PRIORITY_MAX }
    }

    /// Whether nothing in `other` goes beyond these.
    pub(super) fn covers(&self, other: &Self) -> bool {
        self.rights.contains(other.rights)
            && other.bits & !self.bits == 0
            && other.priority <= self.priority
            && (self.badge == 0 || self.badge == other.badge)
    }
}

/// What is asked for when one capability is derived from another.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wish {
    pub(super) rights: Rights,
    pub(super) badge: Option<u64>,
    pub(super) limits: Limits,
}

/// What a node says, apart from its place in the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Node {
    /// What it names.
    pub(super) object: Object,
    /// What may be done with it.
    pub(super) powers: Powers,
    /// Where it lies.
    pub(super) holder: Holder,
    /// Whether its holder watches the object with it.
    pub(super) watches: bool,
}

/// Who has, or had, a capability, and how it came to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Origin {
    pub(super) task: TaskId,
    /// Of the task: it may be long gone when somebody asks.
    pub(super) name: Arc<str>,
    pub(super) how: How,
}

/// One step on the way of a capability.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) origin: Origin,
    pub(super) powers: Powers,
}

/// Steps between a node and its parent: of nodes that are gone, and of those who had it before.
#[derive(Clone, Debug, Default)]
struct Past {
    /// The nearest, nearest first.
    steps: Vec<Step>,
    /// How many more there were.
    omitted: u32,
}

impl Past {
    /// Adds what lies further away.
    fn extend(&mut self, further: impl IntoIterator<Item = Step>, omitted: u32) {
        for step in further {
            if self.steps.len() < limit::PROVENANCE_PAST_MAX && self.omitted == 0 {
                self.steps.push(step);
            } else {
                self.omitted = self.omitted.saturating_add(1);
            }
        }
        self.omitted = self.omitted.saturating_add(omitted);
    }
}

/// Which of its parent's lines a node is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Line {
    /// Derived from the parent, or hung over to it.
    Derived,
    /// Made with the parent by its holder.
    Made,
}

/// A pending revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// Which.
    pub(super) revocation: u64,
    /// Doomed is what was derived and is no younger.
    youngest: u64,
}

/// The ends of a line.
#[derive(Clone, Copy, Debug, Default)]
struct Ends {
    first: Option<NodeId>,
    last: Option<NodeId>,
}

#[derive(Debug)]
struct Place {
    node: Node,
    /// Nodes are numbered as they are made.
    serial: u64,
    parent: Option<NodeId>,
    line: Line,
    derived: Ends,
    made: Ends,
    previous: Option<NodeId>,
    next: Option<NodeId>,
    /// Capabilities derived from it, directly and indirectly, that are not doomed.
    below: u32,
    mark: Option<Mark>,
    /// Of a capability.
    origin: Option<Origin>,
    past: Past,
}

impl Place {
    fn ends(&mut self, line: Line) -> &mut Ends {
        match line {
            Line::Derived => &mut self.derived,
            Line::Made => &mut self.made,
        }
    }

    fn is_leaf(&self) -> bool {
        self.derived.first.is_none() && self.made.first.is_none()
    }

    /// Whether `child`, which hangs below it, is doomed by its mark.
    fn dooms(&self, child: &Self) -> bool {
        child.line == Line::Derived && self.mark.is_some_and(|mark| child.serial <= mark.youngest)
    }
}

/// What became of a node that was to be removed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Removed {
    pub(super) node: Node,
    /// Its place stays until its children have been hung over: [`Tree::hang_over`].
    pub(super) stays: bool,
}

/// All nodes of all objects: a forest.
#[derive(Debug, Default)]
pub(super) struct Tree {
    places: Table<NodeId, Place>,
    made: u64,
    /// Nodes that were removed or hung over, so far.
    pub(super) handled: u64,
    /// How many are marked.
    marked: usize,
}

impl Tree {
    /// Makes a node for what was made with `parent`.
    pub(super) fn make(&mut self, parent: NodeId, node: Node) -> NodeId {
        self.insert(Some(parent), node, Line::Made, None)
    }

    /// Makes a capability, below `parent` or, an object's first one, below nothing.
    pub(super) fn derive(&mut self, parent: Option<NodeId>, node: Node, origin: Origin) -> NodeId {
        let id = self.insert(parent, node, Line::Derived, Some(origin));
        self.count(id, 1);
        id
    }

    fn insert(
        &mut self,
        parent: Option<NodeId>,
        node: Node,
        line: Line,
        origin: Option<Origin>,
    ) -> NodeId {
        self.made = self.made.wrapping_add(1);
        let id = self.places.insert(Place {
            node,
            serial: self.made,
            parent: None,
            line,
            derived: Ends::default(),
            made: Ends::default(),
            previous: None,
            next: None,
            below: 0,
            mark: None,
            origin,
            past: Past::default(),
        });
        let last = parent.and_then(|parent| self.places.get_mut(parent)?.ends(line).last);
        self.link(id, parent, line, last);
        id
    }

    /// The node.
    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.places.get(id).map(|place| &place.node).filter(|node| node.holder != Holder::Gone)
    }

    /// The node, to change where it lies or whether it watches. Its powers stay.
    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        let node = self.places.get_mut(id).map(|place| &mut place.node);
        node.filter(|node| node.holder != Holder::Gone)
    }

    /// Takes a node out; those below it pass to its parent.
    ///
    /// Whoever removes many does it in the order of [`Tree::age`], oldest first or youngest first
    /// when nothing below survives: then every survivor is hung over only once.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<Removed> {
        let place = self.places.get_mut(id)?;
        let node = place.node;
        if node.holder == Holder::Gone {
            return None;
        }
        place.node.holder = Holder::Gone;
        place.node.watches = false;
        let marked = place.mark.is_some();
        if node.holder.is_capability() {
            self.count(id, -1);
        }
        self.handled = self.handled.wrapping_add(1);
        let stays = !marked && !self.hang_over(id, HUNG_OVER_MAX);
        Some(Removed { node, stays })
    }

    /// Hangs at most so many children of a node that is gone under its parent, in its place. True if
    /// none is left, and with them the place.
    pub(super) fn hang_over(&mut self, id: NodeId, most: usize) -> bool {
        for _ in 0..most {
            let Some(place) = self.places.get(id) else { return true };
            if place.node.holder != Holder::Gone || place.mark.is_some() {
                return true;
            }
            let Some(child) = place.derived.last.or(place.made.last) else { break };
            // Just after the place, so that the line keeps its order.
            let parent = place.parent;
            let step = place.origin.clone().map(|origin| {
                let powers = place.node.powers;
                (Step { origin, powers }, place.past.clone())
            });
            self.unlink(child);
            self.link(child, parent, Line::Derived, parent.map(|_| id));
            self.handled = self.handled.wrapping_add(1);
            let with = self.places.get(child).map_or(0, |of_child| {
                u32::from(of_child.node.holder.is_capability()).saturating_add(of_child.below)
            });
            if let Some(place) = self.places.get_mut(id) {
                place.below = place.below.saturating_sub(with);
            }
            if let (Some((step, past)), Some(of_child)) = (step, self.places.get_mut(child))
                && of_child.origin.is_some()
            {
                let further = core::iter::once(step).chain(past.steps);
                of_child.past.extend(further, past.omitted);
            }
        }
        let is_leaf = self.places.get(id).is_some_and(Place::is_leaf);
        if is_leaf {
            self.take_out(id);
        }
        is_leaf
    }

    /// Takes the place of a node that is gone out, with nothing below it.
    pub(super) fn take_out(&mut self, id: NodeId) {
        self.unlink(id);
        if self.places.remove(id).is_some_and(|place| place.mark.is_some()) {
            self.marked = self.marked.saturating_sub(1);
        }
    }

    /// Dooms what is derived from `id`: how many capabilities that is, and the revocation that is to
    /// reap them: this one, or an earlier one that is not done yet.
    pub(super) fn mark(&mut self, id: NodeId, revocation: u64) -> (u32, u64) {
        let youngest = self.made;
        let Some(place) = self.places.get_mut(id) else { return (0, revocation) };
        let doomed = core::mem::take(&mut place.below);
        let revocation = match &mut place.mark {
            Some(mark) => {
                mark.youngest = youngest;
                mark.revocation
            }
            none => {
                *none = Some(Mark { revocation, youngest });
                self.marked = self.marked.saturating_add(1);
                revocation
            }
        };
        self.count(id, i64::from(doomed).saturating_neg());
        (doomed, revocation)
    }

    /// All marks.
    pub(super) fn marks(&self) -> impl Iterator<Item = (NodeId, Mark)> {
        self.places.iter().filter_map(|(id, place)| Some((id, place.mark?)))
    }

    /// The node's pending revocation.
    pub(super) fn marked(&self, id: NodeId) -> Option<Mark> {
        self.places.get(id)?.mark
    }

    /// A revocation is done. True if the node is gone, so that what is left below it must be hung
    /// over.
    pub(super) fn unmark(&mut self, id: NodeId) -> bool {
        let Some(place) = self.places.get_mut(id) else { return false };
        if place.mark.take().is_some() {
            self.marked = self.marked.saturating_sub(1);
        }
        place.node.holder == Holder::Gone
    }

    /// Whether a pending revocation takes this node.
    pub(super) fn is_doomed(&self, id: NodeId) -> bool {
        if self.marked == 0 {
            return false;
        }
        let mut at = self.places.get(id);
        while let Some(place) = at {
            let parent = place.parent.and_then(|parent| self.places.get(parent));
            if parent.is_some_and(|parent| parent.dooms(place)) {
                return true;
            }
            at = parent;
        }
        false
    }

    /// Something that the mark at `top` dooms and that nothing hangs below. `near`, if it is still
    /// there, is doomed, and where to look first.
    pub(super) fn doomed_leaf(&self, top: NodeId, near: Option<NodeId>) -> Option<NodeId> {
        let start = match near.filter(|near| *near != top && self.places.contains(*near)) {
            Some(near) => near,
            None => {
                let of_top = self.places.get(top)?;
                let first = of_top.derived.first?;
                self.places.get(first).filter(|place| of_top.dooms(place)).map(|_| first)?
            }
        };
        let mut leaf = start;
        while let Some(below) =
            self.places.get(leaf).and_then(|place| place.made.first.or(place.derived.first))
        {
            leaf = below;
        }
        Some(leaf)
    }

    /// How many nodes removing it handles: itself, and those that are hung over at once.
    pub(super) fn cost_of_removing(&self, id: NodeId) -> usize {
        let Some(place) = self.places.get(id) else { return 1 };
        let next = |id: &NodeId| self.places.get(*id).and_then(|place| place.next);
        let line = |ends: Ends| core::iter::successors(ends.first, next).take(HUNG_OVER_MAX);
        let children = line(place.derived).chain(line(place.made)).take(HUNG_OVER_MAX).count();
        children.saturating_add(1)
    }

    /// What it hangs below.
    pub(super) fn parent(&self, id: NodeId) -> Option<NodeId> {
        self.places.get(id)?.parent
    }

    /// A capability that was minted for somebody came to them.
    pub(super) fn arrived(&mut self, id: NodeId, to: Origin) {
        if let Some(place) = self.places.get_mut(id) {
            place.origin = Some(to);
        }
    }

    /// A capability came to somebody else.
    pub(super) fn handed(&mut self, id: NodeId, to: Origin) {
        let Some(place) = self.places.get_mut(id) else { return };
        if let Some(origin) = place.origin.replace(to) {
            let before = core::mem::take(&mut place.past);
            let powers = place.node.powers;
            place.past.extend(core::iter::once(Step { origin, powers }), 0);
            place.past.extend(before.steps, before.omitted);
        }
    }

    /// The way of a capability, nearest first, and how many steps are left out.
    pub(super) fn provenance(&self, id: NodeId, most: usize) -> (Vec<Step>, u32) {
        let mut steps = Vec::new();
        let mut omitted: u32 = 0;
        let mut at = self.places.get(id);
        while let Some(place) = at {
            let own = place.origin.clone().map(|origin| Step { origin, powers: place.node.powers });
            for step in own.into_iter().chain(place.past.steps.iter().cloned()) {
                if steps.len() < most {
                    steps.push(step);
                } else {
                    omitted = omitted.saturating_add(1);
                }
            }
            omitted = omitted.saturating_add(place.past.omitted);
            at = place.parent.and_then(|parent| self.places.get(parent));
        }
        (steps, omitted)
    }

    /// A number that is smaller for older nodes; parents are older than their children.
    pub(super) fn age(&self, id: NodeId) -> u64 {
        self.places.get(id).map_or(0, |place| place.serial)
    }

    /// How many capabilities are derived from `id` that are not doomed.
    pub(super) fn descendants(&self, id: NodeId) -> u32 {
        self.places.get(id).map_or(0, |place| place.below)
    }

    /// How many capabilities `id` is derived from.
    pub(super) fn depth(&self, id: NodeId) -> u32 {
        let count = self.above(id).filter(|place| place.node.holder != Holder::Gone).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Whether something may be derived from `id`: no capability hangs too deep.
    pub(super) fn admits_below(&self, id: NodeId) -> Result<(), KernelError> {
        if self.above(id).count() < limit::DERIVATION_DEPTH_MAX {
            return Ok(());
        }
        let most = limit::DERIVATION_DEPTH_MAX as u64;
        Err(over("capabilities derived from one another in a row", most, most))
    }

    /// What it hangs below, nearest first.
    fn above(&self, id: NodeId) -> impl Iterator<Item = &Place> {
        let up = |place: &&Place| place.parent.and_then(|parent| self.places.get(parent));
        core::iter::successors(self.places.get(id).and_then(|place| up(&place)), up)
    }

    /// There are so many capabilities more below everything above `id`, up to where it is doomed.
    fn count(&mut self, id: NodeId, more: i64) {
        let mut at = id;
        while let Some(place) = self.places.get(at)
            && let Some(parent) = place.parent
            && let Some(above) = self.places.get(parent)
            && !above.dooms(place)
        {
            if let Some(above) = self.places.get_mut(parent) {
                let below = i64::from(above.below).saturating_add(more);
                above.below = u32::try_from(below).unwrap_or(0);
            }
            at = parent;
        }
    }

    /// All nodes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        let nodes = self.places.iter().map(|(id, place)| (id, &place.node));
        nodes.filter(|(_, node)| node.holder != Holder::Gone)
    }

    /// Panics unless the invariants hold.
    pub(super) fn check(&self) {
        for (id, place) in self.places.iter() {
            if let Some(parent) = place.parent {
                let Some(above) = self.places.get(parent) else {
                    panic!("{id:?} hangs under {parent:?}, which is gone")
                };
                assert!(above.serial < place.serial, "{parent:?} is younger than its child {id:?}");
                assert!(
                    above.node.powers.covers(&place.node.powers),
                    "powers grew from {:?} to {:?}",
                    above.node,
                    place.node
                );
                assert_eq!(above.node.object, place.node.object, "derived from another object");
                let holder = above.node.holder;
                assert!(
                    holder.is_capability() || holder == Holder::Gone,
                    "derived from what is no capability"
                );
                let ends = match place.line {
                    Line::Derived => above.derived,
                    Line::Made => above.made,
                };
                let before = match place.previous {
                    Some(previous) => self.places.get(previous).and_then(|it| it.next),
                    None => ends.first,
                };
                assert_eq!(before, Some(id), "the line is broken before {id:?}");
                if place.next.is_none() {
                    assert_eq!(ends.last, Some(id), "the line does not end with {id:?}");
                }
            } else {
                assert_eq!((place.previous, place.next), (None, None), "a root with siblings");
            }
            for (below, link) in [
                (place.derived.first, Some((id, Line::Derived))),
                (place.made.first, Some((id, Line::Made))),
                (place.next, place.parent.map(|parent| (parent, place.line))),
            ] {
                if let Some(below) = below {
                    let of_below =
                        self.places.get(below).and_then(|below| Some((below.parent?, below.line)));
                    assert_eq!(of_below, link, "{below:?} hangs elsewhere");
                }
            }
            assert!(
                place.line == Line::Derived || place.is_leaf(),
                "{id:?} was made with a capability, and something hangs below it"
            );
            let holder = place.node.holder;
            assert_eq!(
                place.origin.is_some(),
                holder.is_capability() || holder == Holder::Gone,
                "{id:?} came from nowhere"
            );
        }
        self.check_counts();
    }

    /// Counts once more, children before their parents.
    fn check_counts(&self) {
        let mut order: Vec<(u64, NodeId)> =
            self.places.iter().map(|(id, place)| (place.serial, id)).collect();
        order.sort_unstable();
        let mut below: BTreeMap<NodeId, u32> = BTreeMap::new();
        for (_, id) in order.into_iter().rev() {
            let Some(place) = self.places.get(id) else { continue };
            let under = below.get(&id).copied().unwrap_or(0);
            assert_eq!(place.below, under, "what is below {id:?} was miscounted");
            if let Some(parent) = place.parent
                && self.places.get(parent).is_some_and(|above| !above.dooms(place))
            {
                let own = u32::from(place.node.holder.is_capability());
                let of_parent = below.entry(parent).or_default();
                *of_parent = of_parent.saturating_add(under).saturating_add(own);
            }
        }
        let marked = self.places.iter().filter(|(_, place)| place.mark.is_some()).count();
        assert_eq!(self.marked, marked, "marks were miscounted");
    }

    /// Hangs `id` into a line of `parent`, after `previous` or, without one, at its start.
    fn link(&mut self, id: NodeId, parent: Option<NodeId>, line: Line, previous: Option<NodeId>) {
        let before = previous.and_then(|previous| self.places.get_mut(previous));
        let after = before.and_then(|before| before.next.replace(id));
        let after = match (previous, parent.and_then(|parent| self.places.get_mut(parent))) {
            (_, None) => None,
            (Some(_), Some(above)) => {
                if after.is_none() {
                    above.ends(line).last = Some(id);
                }
                after
            }
            (None, Some(above)) => {
                let ends = above.ends(line);
                let after = ends.first.replace(id);
                if after.is_none() {
                    ends.last = Some(id);
                }
                after
            }
        };
        if let Some(sibling) = after.and_then(|after| self.places.get_mut(after)) {
            sibling.previous = Some(id);
        }
        if let Some(place) = self.places.get_mut(id) {
            place.parent = parent;
            place.line = line;
            place.previous = previous;
            place.next = after;
        }
    }

    /// Takes `id` out of its line.
    fn unlink(&mut self, id: NodeId) {
        let Some(place) = self.places.get(id) else { return };
        let (parent, line, previous, next) = (place.parent, place.line, place.previous, place.next);
        match next.and_then(|next| self.places.get_mut(next)) {
            Some(sibling) => sibling.previous = previous,
            None => {
                if let Some(above) = parent.and_then(|parent| self.places.get_mut(parent)) {
                    above.ends(line).last = previous;
                }
            }
        }
        match previous.and_then(|previous| self.places.get_mut(previous)) {
            Some(sibling) => sibling.next = next,
            None => {
                if let Some(above) = parent.and_then(|parent| self.places.get_mut(parent)) {
                    above.ends(line).first = next;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Holder, Node, NodeId, Object, Origin, Powers, Tree};
    use crate::effect::Side;
    use rendez_protocol::kernel::How;
    use rendez_protocol::{ConnectionId, ObjectId, Rights, TaskId};

    fn node(holder: Holder) -> Node {
        Node {
            object: Object::Endpoint(ObjectId(1)),
            powers: Powers::first(Rights::SEND),
            holder,
            watches: false,
        }
    }

    fn origin() -> Origin {
        Origin { task: TaskId::KERNEL, name: "task".into(), how: How::Minted }
    }

    fn below(tree: &mut Tree, parent: Option<NodeId>) -> NodeId {
        tree.derive(parent, node(Holder::FrontDoor), origin())
    }

    fn capability(tree: &mut Tree, parent: Option<NodeId>) -> NodeId {
        let id = below(tree, parent);
        tree.check();
        id
    }

    fn end(tree: &mut Tree, parent: NodeId) -> NodeId {
        let connection = ConnectionId { index: 0, generation: 0 };
        tree.make(parent, node(Holder::End(connection, Side::Client)))
    }

    /// Everything that a revocation takes, in the order in which it is reaped.
    fn reap(tree: &mut Tree, top: NodeId) -> Vec<NodeId> {
        let mut taken = Vec::new();
        let mut near = None;
        while let Some(leaf) = tree.doomed_leaf(top, near) {
            assert!(tree.is_doomed(leaf));
            near = tree.parent(leaf);
            tree.remove(leaf);
            tree.check();
            taken.push(leaf);
        }
        tree.unmark(top);
        tree.check();
        taken
    }

    #[test]
    fn removing_hangs_children_under_the_grandparent() {
        let mut tree = Tree::default();
        let top = capability(&mut tree, None);
        let middle = capability(&mut tree, Some(top));
        let low: Vec<_> = (0..3).map(|_| capability(&mut tree, Some(middle))).collect();
        assert_eq!((tree.descendants(top), tree.depth(low[1])), (4, 2));
        tree.remove(middle);
        tree.check();
        assert_eq!((tree.descendants(top), tree.depth(low[1])), (3, 1));
        tree.remove(top);
        tree.check();
        assert_eq!((tree.depth(low[0]), tree.iter().count()), (0, 3));
    }

    #[test]
    fn many_children_are_hung_over_in_portions() {
        let mut tree = Tree::default();
        let top = capability(&mut tree, None);
        let middle = capability(&mut tree, Some(top));
        let low: Vec<_> = (0..100).map(|_| below(&mut tree, Some(middle))).collect();
        let own = end(&mut tree, middle);
        assert!(tree.remove(middle).unwrap().stays);
        tree.check();
        assert_eq!((tree.descendants(top), tree.depth(low[0]), tree.depth(low[99])), (100, 1, 1));
        assert!(tree.remove(middle).is_none(), "it is gone already");
        assert!(!tree.hang_over(middle, 10));
        tree.check();
        assert!(!tree.hang_over(middle, 40));
        tree.check();
        assert!(tree.hang_over(middle, 40));
        tree.check();
        assert!(tree.get(middle).is_none());
        tree.mark(top, 1);
        let taken = reap(&mut tree, top);
        assert_eq!(taken.len(), 101);
        assert!(taken.contains(&own) && low.iter().all(|low| taken.contains(low)));
    }

    #[test]
    fn revoking_spares_what_the_holder_made_with_it_itself() {
        let mut tree = Tree::default();
        let top = capability(&mut tree, None);
        let middle = capability(&mut tree, Some(top));
        let own = end(&mut tree, top);
        let theirs = end(&mut tree, middle);
        assert_eq!(tree.mark(top, 1), (1, 1));
        assert!(tree.is_doomed(middle) && tree.is_doomed(theirs));
        assert!(!tree.is_doomed(own) && !tree.is_doomed(top));
        assert_eq!(reap(&mut tree, top), [theirs, middle]);
        assert!(tree.get(own).is_some());

        let middle = capability(&mut tree, Some(top));
        let theirs = end(&mut tree, middle);
        tree.remove(middle);
        tree.check();
        tree.mark(top, 2);
        assert!(tree.is_doomed(theirs), "its maker is gone");
        assert_eq!(reap(&mut tree, top), [theirs]);
    }

    #[test]
    fn what_is_derived_while_it_is_reaped_stays() {
        let mut tree = Tree::default();
        let top = capability(&mut tree, None);
        let old: Vec<_> = (0..3).map(|_| capability(&mut tree, Some(top))).collect();
        let older = capability(&mut tree, Some(old[1]));
        tree.mark(top, 1);
        tree.check();
        let young = capability(&mut tree, Some(top));
        let younger = capability(&mut tree, Some(young));
        assert_eq!((tree.descendants(top), tree.is_doomed(younger)), (2, false));
        tree.remove(old[1]);
        tree.check();
        assert!(tree.is_doomed(older), "it hangs elsewhere, and is doomed all the same");
        assert!(!tree.remove(top).unwrap().stays);
        tree.check();
        let mut near = None;
        let mut taken = Vec::new();
        while let Some(leaf) = tree.doomed_leaf(top, near) {
            near = tree.parent(leaf);
            taken.push(leaf);
            tree.remove(leaf);
            tree.check();
        }
        assert_eq!(taken, [old[0], older, old[2]]);
        assert!(tree.unmark(top), "it is gone");
        assert!(tree.hang_over(top, 1));
        tree.check();
        assert_eq!((tree.depth(young), tree.depth(younger)), (0, 1));
    }

    #[test]
    fn where_it_came_from_is_known_when_those_between_are_gone() {
        let mut tree = Tree::default();
        let by = |index: u32, how| Origin {
            task: TaskId { index, generation: 0 },
            name: format!("task {index}").into(),
            how,
        };
        let mut chain = vec![tree.derive(None, node(Holder::FrontDoor), by(0, How::Created))];
        for index in 1..=7 {
            let last = *chain.last().unwrap();
            chain.push(tree.derive(Some(last), node(Holder::FrontDoor), by(index, How::Given)));
        }
        let last = chain[7];
        let way = |tree: &Tree| -> Vec<u32> {
            let (steps, _) = tree.provenance(last, 10);
            steps.iter().map(|step| step.origin.task.index).collect()
        };
        assert_eq!(way(&tree), [7, 6, 5, 4, 3, 2, 1, 0]);
        for gone in [chain[3], chain[5], chain[4], chain[6]] {
            tree.remove(gone);
            tree.check();
            assert_eq!(way(&tree), [7, 6, 5, 4, 3, 2, 1, 0]);
        }
        tree.remove(chain[2]);
        assert_eq!((way(&tree), tree.provenance(last, 10).1), (vec![7, 6, 5, 4, 3, 1, 0], 1));
        tree.handed(last, by(8, How::Moved));
        let (steps, omitted) = tree.provenance(last, 2);
        assert_eq!((steps[0].origin.clone(), steps[1].origin.task.index), (by(8, How::Moved), 7));
        assert_eq!(omitted, 7);
    }

    #[test]
    fn a_chain_of_any_depth_is_walked_without_recursion() {
        let mut tree = Tree::default();
        let top = below(&mut tree, None);
        let mut last = top;
        for _ in 0..2_000 {
            last = below(&mut tree, Some(last));
        }
        assert_eq!((tree.descendants(top), tree.depth(last)), (2_000, 2_000));
        assert!(tree.admits_below(last).is_err());
        tree.mark(top, 1);
        let mut near = None;
        while let Some(leaf) = tree.doomed_leaf(top, near) {
            near = tree.parent(leaf);
            tree.remove(leaf);
        }
        tree.unmark(top);
        assert_eq!(tree.iter().count(), 1);
    }
}
