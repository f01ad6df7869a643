//! Tasks that lie, flood, hold on and die. Each harms itself; everybody else goes on.
//!
//! The *assistant* is this program, started again as a task. Told by a code it does one thing that
//! a hostile task can try, without the library: see [`table`], in which each code is a line, and a
//! test by itself. Each plays in a system of its own ([`stage`]) with a victim and with neighbours
//! that must not notice. `docs/security.md` shows the same table, and [`documentation`] holds
//! the two against each other. What needs many random tries is in [`random`].

#[path = "../common/mod.rs"]
mod common;
#[path = "../../kernel/tests/hold/mod.rs"]
mod hold;

mod attacker;
mod authority;
mod documentation;
mod door;
mod leases;
mod life;
mod memory;
mod posting;
mod quotas;
mod random;
mod requests;
mod ring;
mod serving;
mod stage;
mod table;
mod victim;
mod wake;

/// Not a test: what a task plays that a test has started.
#[test]
fn assistant() {
    let Some(role) = common::Role::of_this_process() else { return };
    if role.name == "victim" { victim::serve(&role) } else { attacker::perform(role) }
}
