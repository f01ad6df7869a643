//! The derivation tree: who got what from whom.
//!
//! Every capability is a *node*, wherever it lies: in a slot, in escrow, at the front door. What
//! was made *with* a capability, an end of a connection or a connect that waits, is a node too, a
//! leaf below that capability. So one rule serves all of them: revoking takes everything below a
//! node, and deleting a node hangs what is below it under the node's parent. A connection
//! thereby outlives the capability that it was made with, and never the revocation of an ancestor.
//!
//! Invariants, which [`Tree::check`] looks at:
//! 1. Links agree in both directions, and a parent is older than its children (so: no cycles).
//! 2. Rights never grow from parent to child.
//!    Nor do the bits that may be posted, nor the highest priority.
//! 3. A badge never changes from parent to child, unless the parent has none.
//!
//! Depth is in the hands of whoever mints, so nothing here recurses. Children are a doubly linked
//! list: unlinking is quick, and a walk needs no memory.

use super::table::Table;
use rendez_protocol::kernel::{Limits, ObjectKind};
use rendez_protocol::{ConnectionId, ObjectId, Rights, Slot, TaskId, Ticket};

use crate::effect::Side;

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
        Self { rights, badge: 0, bits: u64::MAX, priority: u8::MAX }
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

#[derive(Debug)]
struct Place {
    node: Node,
    /// Nodes are numbered as they are made.
    serial: u64,
    /// Whether what it was made from is gone, so that it hangs under a remoter ancestor.
    rehung: bool,
    parent: Option<NodeId>,
    first_child: Option<NodeId>,
    previous: Option<NodeId>,
    next: Option<NodeId>,
}

/// All nodes of all objects: a forest.
#[derive(Debug, Default)]
pub(super) struct Tree {
    places: Table<NodeId, Place>,
    made: u64,
}

impl Tree {
    /// Makes a node, below `parent` or, for an object's first capability, below nothing.
    pub(super) fn insert(&mut self, parent: Option<NodeId>, node: Node) -> NodeId {
        self.made = self.made.wrapping_add(1);
        let id = self.places.insert(Place {
            node,
            serial: self.made,
            rehung: false,
            parent: None,
            first_child: None,
            previous: None,
            next: None,
        });
        self.link(id, parent);
        id
    }

    /// The node.
    pub(super) fn get(&self, id: NodeId) -> Option<&Node> {
        self.places.get(id).map(|place| &place.node)
    }

    /// The node, to change where it lies or whether it watches. Its powers stay.
    pub(super) fn get_mut(&mut self, id: NodeId) -> Option<&mut Node> {
        self.places.get_mut(id).map(|place| &mut place.node)
    }

    /// Takes a node out; those below it pass to its parent.
    ///
    /// It costs a step for each child. Whoever removes many does it in the order of
    /// [`Tree::age`], oldest first or youngest first when nothing below survives: then every
    /// survivor is hung over only once.
    pub(super) fn remove(&mut self, id: NodeId) -> Option<Node> {
        let mut child = self.places.get(id)?.first_child;
        self.unlink(id);
        let place = self.places.remove(id)?;
        while let Some(moved) = child {
            let Some(of_child) = self.places.get_mut(moved) else { break };
            child = of_child.next;
            of_child.rehung = true;
            self.link(moved, place.parent);
        }
        Some(place.node)
    }

    /// A number that is smaller for older nodes; parents are older than their children.
    pub(super) fn age(&self, id: NodeId) -> u64 {
        self.places.get(id).map_or(0, |place| place.serial)
    }

    /// Everything that a revocation of `id` takes, parents before children: what is below it,
    /// except for what its own holder made with it.
    pub(super) fn revocable(&self, id: NodeId) -> Vec<NodeId> {
        self.below(id)
            .filter(|(_, place)| {
                place.node.holder.is_capability() || place.rehung || place.parent != Some(id)
            })
            .map(|(below, _)| below)
            .collect()
    }

    /// How many capabilities are derived from `id`.
    pub(super) fn descendants(&self, id: NodeId) -> u32 {
        let count = self.below(id).filter(|(_, place)| place.node.holder.is_capability()).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// How many capabilities `id` is derived from.
    pub(super) fn depth(&self, id: NodeId) -> u32 {
        let up = |id: &NodeId| self.places.get(*id).and_then(|place| place.parent);
        let count = core::iter::successors(up(&id), up).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// All nodes.
    pub(super) fn iter(&self) -> impl Iterator<Item = (NodeId, &Node)> {
        self.places.iter().map(|(id, place)| (id, &place.node))
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
                assert!(above.node.holder.is_capability(), "derived from what is no capability");
                let before = place.previous.map_or(above.first_child, |previous| {
                    self.places.get(previous).and_then(|previous| previous.next)
                });
                assert_eq!(before, Some(id), "the list of children is broken before {id:?}");
            } else {
                assert_eq!((place.previous, place.next), (None, None), "a root with siblings");
            }
            for (below, link) in [(place.first_child, Some(id)), (place.next, place.parent)] {
                if let Some(below) = below {
                    let of_below = self.places.get(below).map(|below| below.parent);
                    assert_eq!(of_below, Some(link), "{below:?} has another parent");
                }
            }
        }
    }

    /// Walks everything below `top`, parents before children, without memory of its own.
    fn below(&self, top: NodeId) -> impl Iterator<Item = (NodeId, &Place)> {
        let first = self.places.get(top).and_then(|place| place.first_child);
        core::iter::successors(first, move |id| {
            let place = self.places.get(*id)?;
            if place.first_child.is_some() {
                return place.first_child;
            }
            let mut place = place;
            loop {
                if place.next.is_some() {
                    return place.next;
                }
                let parent = place.parent.filter(|parent| *parent != top)?;
                place = self.places.get(parent)?;
            }
        })
        .filter_map(|id| Some((id, self.places.get(id)?)))
    }

    /// Hangs `id` under `parent`, before its other children.
    fn link(&mut self, id: NodeId, parent: Option<NodeId>) {
        let next = parent.and_then(|parent| {
            let above = self.places.get_mut(parent)?;
            above.first_child.replace(id)
        });
        if let Some(sibling) = next.and_then(|next| self.places.get_mut(next)) {
            sibling.previous = Some(id);
        }
        if let Some(place) = self.places.get_mut(id) {
            place.parent = parent;
            place.previous = None;
            place.next = next;
        }
    }

    /// Takes `id` out of its parent's children.
    fn unlink(&mut self, id: NodeId) {
        let Some(place) = self.places.get(id) else { return };
        let (parent, previous, next) = (place.parent, place.previous, place.next);
        if let Some(sibling) = next.and_then(|next| self.places.get_mut(next)) {
            sibling.previous = previous;
        }
        if let Some(sibling) = previous.and_then(|previous| self.places.get_mut(previous)) {
            sibling.next = next;
        } else if let Some(above) = parent.and_then(|parent| self.places.get_mut(parent)) {
            above.first_child = next;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Holder, Node, NodeId, Object, Powers, Tree};
    use crate::effect::Side;
    use rendez_protocol::{ConnectionId, ObjectId, Rights};

    fn node(holder: Holder) -> Node {
        Node {
            object: Object::Endpoint(ObjectId(1)),
            powers: Powers::first(Rights::SEND),
            holder,
            watches: false,
        }
    }

    fn capability(tree: &mut Tree, parent: Option<NodeId>) -> NodeId {
        let id = tree.insert(parent, node(Holder::FrontDoor));
        tree.check();
        id
    }

    fn end(tree: &mut Tree, parent: NodeId) -> NodeId {
        let connection = ConnectionId { index: 0, generation: 0 };
        tree.insert(Some(parent), node(Holder::End(connection, Side::Client)))
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
    fn revoking_spares_what_the_holder_made_with_it_itself() {
        let mut tree = Tree::default();
        let top = capability(&mut tree, None);
        let middle = capability(&mut tree, Some(top));
        let own = end(&mut tree, top);
        let theirs = end(&mut tree, middle);
        assert_eq!(tree.revocable(top), [middle, theirs]);
        assert!(tree.revocable(middle).is_empty());
        tree.remove(middle);
        tree.check();
        assert_eq!(tree.revocable(top), [theirs]);
        assert!(tree.get(own).is_some());
    }

    #[test]
    fn a_chain_of_any_depth_is_walked_without_recursion() {
        let mut tree = Tree::default();
        let top = tree.insert(None, node(Holder::FrontDoor));
        let mut last = top;
        for _ in 0..100_000 {
            last = tree.insert(Some(last), node(Holder::FrontDoor));
        }
        assert_eq!((tree.descendants(top), tree.depth(last)), (100_000, 100_000));
        for below in tree.revocable(top).into_iter().rev() {
            tree.remove(below);
        }
        assert_eq!(tree.iter().count(), 1);
    }
}
