//! Rendez: synchronous message passing between isolated Linux processes.
//!
//! A small broker process, the *kernel*, owns endpoints and capabilities. Everything else is a
//! *server* in a process of its own, reached by send, receive and reply over shared-memory rings;
//! the kernel is never on a message's path.
//!
//! - [`Task`]: this process as the kernel knows it: its capabilities, its requests.
//! - [`Client`]: sends to a server, reconnects when it was restarted. [`Connection`]: one
//!   connection, several transactions in flight, nothing sent twice.
//! - [`Pool`]: a client that many threads share, several transactions in flight on each connection.
//! - [`ConnectionSet`]: thousands of connections that one thread drives.
//! - [`Server`] runs a [`Service`]: a server's logic, which names no process.
//! - [`Notification`], [`NotificationSet`] and [`Poster`]: bits that coalesce; a [`Server`] receives
//!   them beside its messages.
//! - [`Registration`] and [`Task::look_up`]: the name space.
//! - [`lease`]: memory lent for a transaction; [`region`]: memory as a capability; [`mod@file`]:
//!   a file as one.
//! - [`runtime`]: where a system's front door is.
//!
//! A client in ten lines:
//!
//! ```no_run
//! use rendez::{Client, Task};
//!
//! let task = Task::current()?;
//! let echo = Client::look_up(&task, "/echo", None)?;
//! let reply = echo.send(1, b"hello", 64)?;
//! println!("{}", String::from_utf8_lossy(&reply));
//! # Ok::<(), rendez::Error>(())
//! ```
//!
//! A server in ten lines:
//!
//! ```no_run
//! use rendez::service::{Context, Message, Reply, Service};
//! use rendez::{Server, Task};
//!
//! struct Echo;
//! impl Service for Echo {
//!     fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, reply: Reply<'_>) {
//!         reply.ok(message.payload);
//!     }
//! }
//!
//! let task = Task::current()?;
//! let mut server = Server::new(&task)?;
//! let endpoint = task.create_endpoint()?;
//! server.serve(endpoint.slot, None)?;
//! let _name = task.register("/echo", endpoint.slot)?;
//! server.run(&mut Echo)?;
//! # Ok::<(), rendez::Error>(())
//! ```

#![forbid(unsafe_code)]

mod arenas;
mod circle;
mod client;
mod connection;
mod crew;
mod error;
pub mod file;
mod injection;
pub mod lease;
mod link;
mod names;
mod notification;
mod pool;
mod poster;
mod ready;
pub mod region;
pub mod runtime;
mod server;
pub mod service;
mod set;
mod spares;
mod stock;
mod task;

pub use client::{Client, Resend};
pub use connection::{Connection, Options, Reply};
pub use error::Error;
pub use lease::{Lease, LeaseError, LeaseMut, LeasedReply, ReplyLease, Room};
pub use names::Registration;
pub use notification::{Bits, Notification, NotificationSet};
pub use pool::Pool;
pub use poster::{Poster, Receiving};
pub use rendez_ipc_core::client::{ClientCounts, NEVER, SendError};
#[cfg(feature = "model")]
pub use rendez_ipc_core::model;
pub use rendez_ipc_core::platform;
pub use rendez_ipc_core::ring::Buffer;
pub use rendez_ipc_core::wait::{Wait, learned_wake_ns};
pub use rendez_protocol as protocol;
pub use rendez_protocol::{Rights, Slot, Status, Why};
pub use server::Server;
pub use service::Service;
pub use set::{Arrival, ConnectionSet, Member};
pub use task::{Revoked, Task, deadline_after};
