//! Everything that must hold between two requests.
//!
//! What the machine keeps twice, because it is looked up from two sides, is compared; what it
//! counts is counted again.

use super::Machine;
use super::account::AccountId;
use super::connection::{Connection, Phase};
use super::endpoint::Wait;
use super::region::{READABLE, WRITABLE};
use super::space::Cell;
use super::task::{Share, Task};
use super::tree::{Holder, Object};
use super::words::Words;
use crate::effect::Side;
use crate::quota::Count;
use rendez_protocol::injection::{INJECTIONS_MAX, Phase as InjectedPhase};
use rendez_protocol::kernel::{ObjectKind, RegionKind, Travel};
use rendez_protocol::quota::Quota;
use rendez_protocol::{Rights, TaskId, limit};
use std::collections::{BTreeMap, BTreeSet};

impl Machine {
    /// Checks everything that must hold between two requests. For tests.
    ///
    /// # Panics
    /// If something does not hold.
    pub fn check(&self) {
        assert!(self.effects.is_empty(), "effects were left behind");
        self.tree.check();
        self.check_holders();
        for (id, task) in self.tasks.iter() {
            self.check_task(id, task);
        }
        self.check_accounts();
        self.check_endpoints();
        self.check_regions();
        self.check_connections();
        self.check_escrow();
        self.check_revocations();
    }

    /// Every node lies where it says, and there only.
    fn check_holders(&self) {
        for (id, node) in self.tree.iter() {
            match node.holder {
                Holder::Slot(who, slot) => {
                    let cell = self.tasks.get(who).and_then(|task| task.space.get(slot));
                    let buried = self.remains.get(&who);
                    let left =
                        || buried.is_some_and(|it| it.held.iter().any(|held| held.0.1 == id));
                    let held = cell == Some(&Cell::Held(id)) || left();
                    assert!(held, "{who} does not hold {node:?}");
                }
                Holder::Ticket(ticket) => {
                    let items = self.escrow.get(&ticket).map(|escrow| &escrow.items);
                    let found = items.is_some_and(|items| items.iter().any(|it| it.node == id));
                    assert!(found, "{node:?} is not in escrow");
                }
                Holder::FrontDoor => {
                    let found = self.front_door.kept().any(|(_, kept)| *kept == id);
                    assert!(found, "{node:?} is not at the front door");
                }
                Holder::Parked(endpoint, number) => {
                    let parked =
                        self.endpoints.get(&endpoint).and_then(|it| it.parked.get(&number));
                    assert_eq!(parked.map(|it| it.node), Some(id), "{node:?} does not wait");
                }
                Holder::Gone => panic!("{id:?} is gone and a node"),
                Holder::End(connection, side) => {
                    let end = self.connections.get(connection).map(|it| it.end(side).node);
                    assert_eq!(end, Some(id), "{node:?} is no end of its connection");
                }
            }
            if node.watches {
                assert!(matches!(node.holder, Holder::Slot(..)), "{node:?} watches from nowhere");
            }
        }
        for (name, id) in self.front_door.kept() {
            let holder = self.tree.get(*id).map(|node| node.holder);
            assert_eq!(holder, Some(Holder::FrontDoor), "{name} is not kept");
        }
    }

    fn check_task(&self, id: TaskId, task: &Task) {
        let mut watches: u64 = 0;
        for (slot, cell) in task.space.iter() {
            match cell {
                Cell::Held(node) => {
                    let node = self.tree.get(*node).copied();
                    assert_eq!(node.map(|node| node.holder), Some(Holder::Slot(id, slot)));
                    watches = watches.saturating_add(node.is_some_and(|node| node.watches).into());
                }
                Cell::Reserved => {
                    let moved = self
                        .escrow
                        .values()
                        .filter(|escrow| escrow.offerer == id)
                        .flat_map(|escrow| &escrow.items)
                        .filter(|item| item.travel == Travel::Move && item.slot == slot)
                        .count();
                    assert_eq!(moved, 1, "{slot} of {id} is reserved for nothing");
                }
            }
        }
        let offered = || self.escrow.values().filter(|escrow| escrow.offerer == id);
        let minted = offered()
            .flat_map(|escrow| &escrow.items)
            .filter(|item| item.travel == Travel::Mint)
            .count();
        let waits = task.waits.values();
        let revocations = waits.filter(|wait| matches!(wait, Wait::Revocation(_))).count();
        counted(task.revocations, revocations, "revocations");
        for (severed, id) in &task.severed {
            assert!(task.lingering.contains_key(severed), "{severed:?} of {id} is looked at");
        }
        counted(task.capabilities, task.space.len().saturating_add(minted), "capabilities");
        counted(task.tickets, offered().count(), "tickets");
        counted(task.watches, usize::try_from(watches).unwrap_or(usize::MAX), "watches");
        let made =
            |kind| self.endpoints.values().filter(|it| it.maker == id && it.kind == kind).count();
        counted(task.endpoints, made(ObjectKind::Endpoint), "endpoints");
        counted(task.notifications, made(ObjectKind::Notification), "notifications");

        let regions = || self.regions.values().filter(|region| region.maker == id);
        counted(task.regions, regions().count(), "regions");
        let bytes: u64 = regions().map(|region| region.bytes).sum();
        assert_eq!(task.region_bytes.get(), bytes, "bytes of the regions of {id}");

        let ends = |side: Side| task.connections.values().filter(move |(_, it)| *it == side);
        counted(task.client_connections, ends(Side::Client).count(), "connections of a client");
        counted(task.server_connections, ends(Side::Server).count(), "connections of a server");
        let bytes: u64 = ends(Side::Client)
            .filter_map(|(id, _)| self.connections.get(*id))
            .map(|connection| {
                let arenas: u64 = connection.arenas.values().map(|arena| arena.bytes()).sum();
                connection.bytes().saturating_add(arenas)
            })
            .sum();
        let spares = task.spares.values().map(|spare| spare.shape.segment_bytes() as u64);
        let bytes = bytes.saturating_add(spares.sum());
        assert_eq!(task.segment_bytes.get(), bytes, "bytes of {id}");
        assert!(task.spares.len() <= self.quotas.spares as usize, "spares of {id}");
        assert!(task.spares.keys().all(|spare| (1..=task.spares_ever).contains(&spare.0)));
        let mut shares: BTreeMap<TaskId, Share> = BTreeMap::new();
        let met = |it: &&Connection| it.sides().contains(&Side::Server);
        let connections = ends(Side::Client).filter_map(|(id, _)| self.connections.get(*id));
        for connection in connections.filter(met) {
            let share = shares.entry(connection.server.task).or_default();
            share.connections.add(1);
            share.reply_bytes.add(connection.wanted.reply_bytes());
            for arena in connection.arenas.values() {
                share.reply_bytes.add(arena.replies.into());
            }
        }
        assert_eq!(task.shares, shares, "shares of {id}");

        let quotas = &self.quotas;
        let within = [
            (task.capabilities.get(), quotas.capabilities.into()),
            (task.tickets.get(), quotas.tickets.into()),
            (task.watches.get(), quotas.watches.into()),
            (task.endpoints.get(), quotas.endpoints.into()),
            (task.notifications.get(), quotas.notifications.into()),
            (task.client_connections.get(), quotas.client_connections.into()),
            (task.server_connections.get(), quotas.server_connections.into()),
            (task.regions.get(), quotas.regions.into()),
            (task.region_bytes.get(), quotas.region_bytes),
            (task.segment_bytes.get(), quotas.segment_bytes),
            (
                task.shares.values().map(|share| share.connections.get()).max().unwrap_or(0),
                quotas.connections_to_one_server.into(),
            ),
            (
                task.shares.values().map(|share| share.reply_bytes.get()).max().unwrap_or(0),
                quotas.reply_bytes_of_one_server,
            ),
        ];
        assert!(within.iter().all(|(used, limit)| used <= limit), "{id} is over quota");

        let used: BTreeSet<u32> = task.connections.keys().copied().collect();
        let free: BTreeSet<u32> = task.words.used.iter().copied().collect();
        assert_eq!(free.len(), task.words.used.len(), "a status word is free twice");
        assert!(used.is_disjoint(&free), "a status word is both free and used");
        assert_eq!(
            used.len().saturating_add(task.words.free()).saturating_add(task.lingering.len()),
            Words::ALL as usize,
            "status words of {id}"
        );
        assert!(used.iter().chain(&free).all(|index| (1..task.words.fresh).contains(index)));

        for (transaction, wait) in &task.waits {
            let holds = match wait {
                Wait::Revocation(revocation) => {
                    self.waits_for_revocation(id, *transaction, *revocation)
                }
                Wait::Connect(endpoint, number) => {
                    let parked = self.endpoints.get(endpoint).and_then(|it| it.parked.get(number));
                    parked.is_some_and(|it| it.client == id && it.transaction == *transaction)
                }
                Wait::Mapped(connection) => {
                    self.connections.get(*connection).is_some_and(|connection| {
                        connection.client.task == id
                            && matches!(
                                connection.phase,
                                Phase::ClientSeals { client }
                                | Phase::Stands { client }
                                | Phase::ServerMaps { client }
                                | Phase::Telling { client }
                                | Phase::ServerSeals { client, .. } if client == *transaction
                            )
                    })
                }
                Wait::Arena(connection, arena) => {
                    let arena =
                        self.connections.get(*connection).and_then(|it| it.arenas.get(arena));
                    arena.and_then(|arena| arena.waiting(Side::Client)) == Some(*transaction)
                }
            };
            assert!(holds, "transaction {transaction} of {id} waits for nothing");
        }
        let injections = &task.injections;
        assert!(injections.pending.len() <= INJECTIONS_MAX, "too many injections into {id}");
        for (injection, what) in &injections.pending {
            assert!((1..=injections.ever).contains(&injection.0), "{injection} of {id}");
            assert_eq!(what.check(), Ok(()));
            assert_ne!(what.phase, InjectedPhase::Now, "one for now is not kept");
        }
        for child in &task.children {
            assert_eq!(self.tasks.get(*child).map(|child| child.parent), Some(Some(id)));
        }
        for watcher in &task.watchers {
            let node = self.tree.get(*watcher);
            assert!(node.is_some_and(|node| {
                node.watches && matches!(node.object, Object::Task { task, .. } if task == id)
            }));
        }
    }

    /// What is drawn on and set aside adds up.
    fn check_accounts(&self) {
        let mut used: BTreeMap<(AccountId, usize), u64> = BTreeMap::new();
        let mut tasks: BTreeMap<AccountId, u32> = BTreeMap::new();
        let mut uses = |account: AccountId, quota: Quota, amount: u64| {
            let sum = used.entry((account, quota as usize)).or_default();
            *sum = sum.saturating_add(amount);
        };
        for (_, task) in self.tasks.iter().filter(|(id, _)| *id != TaskId::KERNEL) {
            for ((account, quota), amount) in
                task.draws.iter().zip(Quota::SHARED).zip(task.returned())
            {
                uses(*account, quota, amount);
            }
            for account in BTreeSet::from(task.draws) {
                let sum = tasks.entry(account).or_default();
                *sum = sum.saturating_add(1);
            }
        }
        for endpoint in self.endpoints.values() {
            uses(endpoint.account, Quota::Endpoints, 1);
        }
        for region in self.regions.values() {
            let [.., of_regions, of_bytes] = region.draws;
            uses(of_regions, Quota::Regions, 1);
            uses(of_bytes, Quota::Bytes, region.bytes);
        }
        self.accounts.check(&used, &tasks);
    }

    fn check_endpoints(&self) {
        for (id, endpoint) in &self.endpoints {
            let object = match endpoint.kind {
                ObjectKind::Notification => Object::Notification(*id),
                _ => Object::Endpoint(*id),
            };
            self.check_standing(*id, endpoint);
            let nodes = || {
                let named = |node: &Object| *node == object;
                self.tree
                    .iter()
                    .filter(move |(_, it)| named(&it.object) && it.holder.is_capability())
            };
            let with =
                |right: Rights| nodes().filter(|(_, it)| it.powers.rights.contains(right)).count();
            counted(endpoint.capabilities, nodes().count(), "capabilities to an endpoint");
            counted(endpoint.receivers, with(Rights::RECEIVE), "capabilities with RECEIVE");
            counted(endpoint.senders, with(endpoint.sends()), "capabilities to send or post with");
            assert!(!endpoint.capabilities.is_zero(), "{id:?} lives without capabilities");
            let watchers: BTreeSet<_> =
                nodes().filter(|(_, it)| it.watches).map(|(id, _)| id).collect();
            assert_eq!(endpoint.watchers, watchers, "watchers of {id:?}");

            if let Some(receiver) = &endpoint.receiver {
                let node = self.tree.get(receiver.node);
                assert!(
                    node.is_some_and(|node| {
                        matches!(node.holder, Holder::Slot(who, _) if who == receiver.task)
                            && node.object == object
                            && node.powers.rights.contains(Rights::RECEIVE)
                    }),
                    "the receiver of {id:?} may not receive"
                );
                assert!(endpoint.parked.is_empty(), "connects wait for a receiver that is there");
                let policy = endpoint.policy;
                assert!(!policy.runs && !policy.over, "time runs for a receiver that is there");
            }
            let most = endpoint.policy.connects() as usize;
            assert!(endpoint.parked.len() <= most, "more connects wait than {id:?} holds");
            let limited = endpoint.policy.hold.limit_ms().is_some();
            let should = limited && endpoint.receiver.is_none() && !endpoint.policy.over;
            assert_eq!(endpoint.policy.runs, should, "whether an alarm is awaited for {id:?}");
            if endpoint.receivers.is_zero() {
                assert!(endpoint.parked.is_empty(), "connects wait for nobody");
            }
            for (number, parked) in &endpoint.parked {
                if let Some(task) = self.tasks.get(parked.client) {
                    let wait = task.waits.get(&parked.transaction);
                    assert_eq!(wait, Some(&Wait::Connect(*id, *number)));
                } else {
                    assert!(self.remains.contains_key(&parked.client), "nobody waits");
                }
                let node = self.tree.get(parked.node).map(|node| node.holder);
                assert_eq!(node, Some(Holder::Parked(*id, *number)));
            }
        }
    }

    fn check_regions(&self) {
        for (id, region) in &self.regions {
            let named = |node: &Object| *node == Object::Region(*id);
            let nodes = self.tree.iter().filter(|(_, it)| named(&it.object));
            let (most, found) = match region.kind {
                RegionKind::Shared => (WRITABLE, nodes),
                RegionKind::Sealed | RegionKind::Published => (READABLE, nodes),
            };
            let mut count: usize = 0;
            for (_, node) in found {
                assert!(most.contains(node.powers.rights), "{node:?} to a region");
                assert!(node.holder.is_capability(), "nothing is made with a region");
                count = count.saturating_add(1);
            }
            counted(region.capabilities, count, "capabilities to a region");
            assert!(!region.capabilities.is_zero(), "{id:?} lives without capabilities");
        }
        for (_, node) in self.tree.iter() {
            if let Object::Region(id) = node.object {
                assert!(self.regions.contains_key(&id), "{node:?} names no region");
            }
        }
    }

    fn check_connections(&self) {
        for (id, connection) in self.connections.iter() {
            let met = connection.sides().contains(&Side::Server);
            assert!(met || !connection.knows(Side::Server), "{id} has no server end");
            for &side in connection.sides() {
                let end = connection.end(side);
                let task = self.tasks.get(end.task);
                let buried = || self.remains.get(&end.task).map(|remains| &remains.connections);
                let known = task.map(|task| &task.connections).or_else(buried);
                let known = known.and_then(|known| known.get(&end.index));
                assert_eq!(known, Some(&(id, side)), "{id} is unknown at its {side:?} end");
                let node = self.tree.get(end.node).map(|node| node.holder);
                assert_eq!(node, Some(Holder::End(id, side)));
                let other = connection.end(side.other()).task;
                let found = task.is_none().then_some((id, side, other));
                let found = found.or_else(|| self.connection_at(end.task, end.index));
                assert_eq!(found, Some((id, side, other)));
            }
            let waits = match connection.phase {
                Phase::ClientMaps | Phase::Open => None,
                Phase::ClientSeals { client }
                | Phase::Stands { client }
                | Phase::ServerMaps { client }
                | Phase::Telling { client }
                | Phase::ServerSeals { client, .. } => Some(client),
            };
            if let Some(transaction) = waits
                && let Some(task) = self.tasks.get(connection.client.task)
            {
                let wait = task.waits.get(&transaction);
                assert_eq!(wait, Some(&Wait::Mapped(id)), "nobody waits for {id}");
            }
            assert!(connection.arenas.len() <= limit::ARENAS_MAX, "too many arenas");
            for (arena, of) in &connection.arenas {
                assert!((1..=connection.arenas_ever).contains(&arena.0), "{arena} of {id}");
                assert_eq!(connection.phase, Phase::Open, "arenas of what is not complete");
                if let Some(transaction) = of.waiting(Side::Client)
                    && let Some(task) = self.tasks.get(connection.client.task)
                {
                    let wait = task.waits.get(&transaction);
                    assert_eq!(wait, Some(&Wait::Arena(id, *arena)), "nobody waits for {arena}");
                }
            }
            for ticket in &connection.tickets {
                let escrow = self.escrow.get(ticket).map(|escrow| escrow.connection);
                assert_eq!(escrow, Some(id));
            }
        }
        for (id, task) in self.tasks.iter() {
            for (index, (connection, side)) in &task.connections {
                let end = self.connections.get(*connection).map(|it| it.end(*side));
                assert_eq!(end.map(|end| (end.task, end.index)), Some((id, *index)));
            }
        }
    }

    fn check_escrow(&self) {
        for (ticket, escrow) in &self.escrow {
            let connection = self.connections.get(escrow.connection);
            assert!(connection.is_some_and(|it| it.tickets.contains(ticket)));
            let offerer = &escrow.offerer;
            assert!(
                self.tasks.contains(*offerer) || self.remains.contains_key(offerer),
                "{ticket:?} was offered by nobody"
            );
            for item in &escrow.items {
                let holder = self.tree.get(item.node).map(|node| node.holder);
                assert_eq!(holder, Some(Holder::Ticket(*ticket)));
            }
        }
    }
}

fn counted(count: Count, found: usize, what: &str) {
    assert_eq!(count.get(), found as u64, "{what} were miscounted");
}
