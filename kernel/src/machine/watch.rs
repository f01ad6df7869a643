//! Watching: being told of the death or restart of a capability's object.
//!
//! A watch belongs to the capability that it was set with. It moves with it within a space, and
//! ends when the capability is deleted, revoked or passed on.

use super::tree::{Holder, Node, NodeId, Object};
use super::{Machine, Reply};
use rendez_protocol::kernel::{Answer, Event, Fate};
use rendez_protocol::{ObjectId, Rights, Slot, TaskId};
use std::collections::BTreeSet;

impl Machine {
    /// Watches. Needs WATCH.
    pub(super) fn watch(&mut self, who: TaskId, transaction: u64, slot: Slot) -> Reply {
        let (id, node) = self.capability(who, slot)?;
        super::space::needs(slot, &node, Rights::WATCH)?;
        if !node.watches {
            let limit = self.quotas.watches;
            let Some(task) = self.tasks.get_mut(who) else { return Ok(None) };
            task.watches.admits(1, limit, "watches of a task")?;
            task.watches.add(1);
            if let Some(node) = self.tree.get_mut(id) {
                node.watches = true;
            }
            if let Some(watchers) = self.watchers(node.object) {
                watchers.insert(id);
            }
        }
        self.answer(who, transaction, Ok(Answer::Done));
        if let Object::Endpoint(id) | Object::Notification(id) = node.object {
            self.look_at_receiver(id);
        }
        if let Some(fate) = self.fate(node.object) {
            self.tell_watcher(id, fate);
        }
        Ok(None)
    }

    /// Ends the watch that a capability was set, if it was. `node` may be gone from the tree.
    pub(super) fn forget_watch(&mut self, id: NodeId, node: &Node) {
        if !node.watches {
            return;
        }
        if let Some(node) = self.tree.get_mut(id) {
            node.watches = false;
        }
        if let Some(watchers) = self.watchers(node.object) {
            watchers.remove(&id);
        }
        if let Holder::Slot(who, _) = node.holder
            && let Some(task) = self.tasks.get_mut(who)
        {
            task.watches.sub(1);
        }
    }

    /// Tells all who watch an endpoint.
    pub(super) fn tell_endpoint(&mut self, endpoint: ObjectId, fate: Fate) {
        let watchers = self.endpoints.get(&endpoint).map(|endpoint| endpoint.watchers.clone());
        for id in watchers.unwrap_or_default() {
            self.tell_watcher(id, fate);
        }
    }

    /// Tells one who watches; if nothing more can follow, the watch ends.
    pub(super) fn tell_watcher(&mut self, id: NodeId, what: Fate) {
        let Some(node) = self.tree.get(id).copied() else { return };
        let Holder::Slot(who, slot) = node.holder else { return };
        // Whoever is losing the capability hears nothing of what else goes, nor anything twice.
        if !node.watches || self.tree.is_doomed(id) {
            return;
        }
        self.tell(who, Event::Watched { slot, object: node.object.id(), what }, Vec::new());
        let is_last = match node.object {
            Object::Task { .. } | Object::Region(_) => true,
            Object::Endpoint(_) | Object::Notification(_) => what == Fate::Gone,
        };
        if is_last {
            self.forget_watch(id, &node);
        }
    }

    /// What has already become of an object.
    fn fate(&self, object: Object) -> Option<Fate> {
        match object {
            Object::Task { task, .. } => {
                (!self.tasks.contains(task)).then_some(Fate::Died { generation: 0 })
            }
            // It lives as long as a capability to it: who watches it has one.
            Object::Region(_) => None,
            Object::Endpoint(id) | Object::Notification(id) => match self.endpoints.get(&id) {
                Some(endpoint) if endpoint.receiver.is_some() => None,
                Some(endpoint) if !endpoint.receivers.is_zero() => {
                    Some(Fate::Died { generation: endpoint.generation })
                }
                _ => Some(Fate::Gone),
            },
        }
    }

    fn watchers(&mut self, object: Object) -> Option<&mut BTreeSet<NodeId>> {
        match object {
            Object::Task { task, .. } => Some(&mut self.tasks.get_mut(task)?.watchers),
            Object::Endpoint(id) | Object::Notification(id) => {
                Some(&mut self.endpoints.get_mut(&id)?.watchers)
            }
            Object::Region(_) => None,
        }
    }
}
