//! The IPC cost laboratory behind `rendez bench`.
//!
//! It measures round trips between **two processes**: a request of some bytes, and an answer of as
//! many. Absolute times mean little on a shared or virtual machine, where the same bare ping-pong
//! of a cache line may take 60 ns or 300 ns and switch by the second. What counts is the *ratio* to
//! that ping-pong, the **floor**, measured in the same moment.
//!
//! # How it measures
//!
//! - A **setting** is a payload size and a number of cores: with two, client and partner are pinned
//!   to a core each; with one, both to the same. In a setting every mechanism is set up first, then
//!   short **blocks** of all mechanisms go round robin, for many rounds. Outside its own blocks a
//!   partner sleeps, so that it disturbs nobody.
//! - Before and after each block the floor is measured for a moment. The **ratio** of a block is its
//!   median over the mean of the two floors beside it, and a mechanism's ratio is the median of its
//!   blocks' ratios, with their quartiles as the spread. The floor always takes two cores, in the
//!   one-core settings too: one cache line that two spinning processes pass on one core would take
//!   time slices.
//! - Reading the clock costs about as much as a quarter of the fastest round trip. So each block
//!   alternates, for all mechanisms alike, between **batches** of [`BATCH`] round trips timed
//!   together, whose mean is one sample of the median (`p50_ns` and all ratios), and round trips
//!   timed one by one, from which the measured cost of reading the clock is subtracted and which
//!   give the tail (`p99_ns`, `p999_ns`).
//! - The floor spins with and without the processor's `pause` hint, one after the other in each
//!   block, and the better one counts.
//! - A block is **disturbed** if another guest stole time from the cores in use, or if the two
//!   floors beside it differ by more than a quarter. It is repeated a few times, then dropped; the
//!   rows say how many were kept, repeated and dropped. Where hardly any was quiet, the
//!   disturbed ones count after all, and a note says so.
//!
//! # How it is made
//!
//! [`run`] is the client of all round trips. For each mechanism and setting it starts the executable
//! in [`Options::exe`] once more, with the hidden subcommand [`PARTNER`], which leads to [`partner`].
//! A mechanism is one file that implements [`Mechanism`], and a line in [`mechanism::all`].

mod awake;
mod baseline;
pub mod compare;
mod compare_table;
mod distribution;
mod error;
pub mod experiment;
mod glance;
mod html;
#[allow(unsafe_code)]
mod idle_priority;
mod interleave;
mod json;
mod laboratory;
mod launch;
mod limits;
mod machine;
pub mod mechanism;
mod notification;
mod options;
mod paint;
#[cfg(feature = "peers")]
mod peers;
mod recorder;
mod rendez;
pub mod report;
mod role;
mod schedule;
mod station;
mod statistics;
mod steps;
mod system;
mod table;
mod trial;
mod units;
mod watchdog;

pub use error::Error;
pub use glance::{Comparison, Row, quick_compare};
pub use laboratory::{Progress, run};
pub use launch::{Launcher, PARTNER, partner};
pub use machine::Machine;
pub use mechanism::{Mechanism, Wait};
pub use options::Options;
pub use recorder::{BATCH, Recorder};
pub use report::Report;
pub use trial::trial;
