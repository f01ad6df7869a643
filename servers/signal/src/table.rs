//! Who subscribes to what and is in which group, kept from both sides: by name for raising, by
//! connection for cleaning up.

use crate::limit;
use rendez_protocol::signal::Listing;
use rendez_protocol::{ConnectionId, Slot};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// One connection's interest in one signal.
#[derive(Debug, Default)]
pub(crate) struct Subscription {
    /// The bit of the notification word.
    pub(crate) bit: u8,
    /// Whether it is held back.
    pub(crate) masked: bool,
    /// Whether it was raised while it was held back.
    pub(crate) pending: bool,
    /// A task that gets a POSIX signal too, and which.
    pub(crate) delivery: Option<(Slot, i32)>,
}

#[derive(Debug, Default)]
struct Client {
    signals: BTreeSet<Box<str>>,
    groups: BTreeSet<Box<str>>,
}

/// Signals, groups and connections.
#[derive(Debug, Default)]
pub(crate) struct Table {
    signals: BTreeMap<Box<str>, BTreeMap<ConnectionId, Subscription>>,
    groups: BTreeMap<Box<str>, BTreeSet<ConnectionId>>,
    clients: HashMap<ConnectionId, Client>,
    subscriptions: usize,
    memberships: usize,
}

/// Why something could not be added.
#[derive(Debug)]
pub(crate) enum NoRoom {
    /// The connection has ended, or never was.
    NotConnected,
    /// A limit is reached: what, and how many.
    Limit(&'static str, usize),
}

impl Table {
    pub(crate) fn connect(&mut self, connection: ConnectionId) {
        self.clients.entry(connection).or_default();
    }

    /// Forgets a connection; the capabilities that its subscriptions held.
    pub(crate) fn disconnect(&mut self, connection: ConnectionId) -> Vec<Slot> {
        let Some(client) = self.clients.remove(&connection) else { return Vec::new() };
        for group in client.groups {
            self.remove_member(connection, &group);
        }
        let mut slots = Vec::new();
        for signal in client.signals {
            let removed = self.remove_subscriber(connection, &signal);
            slots.extend(removed.and_then(|subscription| subscription.delivery).map(|(s, _)| s));
        }
        slots
    }

    /// Subscribes, or changes the bit of a subscription that is there.
    pub(crate) fn subscribe(
        &mut self,
        connection: ConnectionId,
        signal: &str,
        bit: u8,
    ) -> Result<(), NoRoom> {
        if let Some(subscription) = self.subscription(connection, signal) {
            subscription.bit = bit;
            return Ok(());
        }
        let client = self.clients.get_mut(&connection).ok_or(NoRoom::NotConnected)?;
        if client.signals.len() >= limit::SUBSCRIPTIONS_PER_CONNECTION {
            let what = "subscriptions of one connection";
            return Err(NoRoom::Limit(what, limit::SUBSCRIPTIONS_PER_CONNECTION));
        }
        if self.subscriptions >= limit::SUBSCRIPTIONS {
            return Err(NoRoom::Limit("subscriptions", limit::SUBSCRIPTIONS));
        }
        client.signals.insert(signal.into());
        let subscribers = self.signals.entry(signal.into()).or_default();
        subscribers.insert(connection, Subscription { bit, ..Subscription::default() });
        self.subscriptions += 1;
        Ok(())
    }

    /// Ends a subscription.
    pub(crate) fn unsubscribe(
        &mut self,
        connection: ConnectionId,
        signal: &str,
    ) -> Option<Subscription> {
        self.clients.get_mut(&connection)?.signals.remove(signal);
        self.remove_subscriber(connection, signal)
    }

    fn remove_subscriber(
        &mut self,
        connection: ConnectionId,
        signal: &str,
    ) -> Option<Subscription> {
        let subscribers = self.signals.get_mut(signal)?;
        let removed = subscribers.remove(&connection)?;
        if subscribers.is_empty() {
            self.signals.remove(signal);
        }
        self.subscriptions -= 1;
        Some(removed)
    }

    /// A connection's subscription.
    pub(crate) fn subscription(
        &mut self,
        connection: ConnectionId,
        signal: &str,
    ) -> Option<&mut Subscription> {
        self.signals.get_mut(signal)?.get_mut(&connection)
    }

    /// The subscribers of a signal, all or those in a group.
    pub(crate) fn subscribers(
        &mut self,
        signal: &str,
        group: Option<&str>,
    ) -> impl Iterator<Item = (ConnectionId, &mut Subscription)> {
        let members = group.map(|group| self.groups.get(group));
        let is_meant = move |connection: &ConnectionId| match members {
            None => true,
            Some(members) => members.is_some_and(|members| members.contains(connection)),
        };
        let subscribers = self.signals.get_mut(signal).into_iter().flatten();
        subscribers
            .filter(move |(connection, _)| is_meant(connection))
            .map(|(connection, subscription)| (*connection, subscription))
    }

    /// The masked signals that are pending for a connection, in order.
    pub(crate) fn pending(&self, connection: ConnectionId) -> Vec<&str> {
        let signals = self.clients.get(&connection).map(|client| &client.signals);
        let is_pending = |signal: &&str| {
            let subscription = self.signals.get(*signal).and_then(|all| all.get(&connection));
            subscription.is_some_and(|subscription| subscription.pending)
        };
        signals.into_iter().flatten().map(|signal| &**signal).filter(is_pending).collect()
    }

    /// Joins a group; nothing happens if the connection is in it.
    pub(crate) fn join(&mut self, connection: ConnectionId, group: &str) -> Result<(), NoRoom> {
        let client = self.clients.get_mut(&connection).ok_or(NoRoom::NotConnected)?;
        if client.groups.contains(group) {
            return Ok(());
        }
        if client.groups.len() >= limit::GROUPS_PER_CONNECTION {
            let what = "groups of one connection";
            return Err(NoRoom::Limit(what, limit::GROUPS_PER_CONNECTION));
        }
        if self.memberships >= limit::MEMBERSHIPS {
            return Err(NoRoom::Limit("memberships", limit::MEMBERSHIPS));
        }
        client.groups.insert(group.into());
        self.groups.entry(group.into()).or_default().insert(connection);
        self.memberships += 1;
        Ok(())
    }

    /// Leaves a group; whether the connection was in it.
    pub(crate) fn leave(&mut self, connection: ConnectionId, group: &str) -> bool {
        if let Some(client) = self.clients.get_mut(&connection) {
            client.groups.remove(group);
        }
        self.remove_member(connection, group)
    }

    fn remove_member(&mut self, connection: ConnectionId, group: &str) -> bool {
        let Some(members) = self.groups.get_mut(group) else { return false };
        let was = members.remove(&connection);
        if members.is_empty() {
            self.groups.remove(group);
        }
        self.memberships -= usize::from(was);
        was
    }

    /// Everything that has a subscriber or a member.
    pub(crate) fn listing(&self) -> Listing {
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Listing {
            signals: self.signals.iter().map(|(k, v)| (k.to_string(), count(v.len()))).collect(),
            groups: self.groups.iter().map(|(k, v)| (k.to_string(), count(v.len()))).collect(),
        }
    }
}
