//! Bulk: memory lent for a transaction, in both directions, and messages longer than a ring.
//!
//! With a system running (`rendez up --policy operator`): `cargo run --release --example bulk`. Then
//! `… --example bulk -- measure` for what it costs beside a short send and beside plain copies, as
//! ratios of interleaved blocks.

use rendez::service::{Context, Message, Reply, Service};
use rendez::{Connection, Error, LeaseMut, Options, Room, Server, Task, Wait};
use std::hint::{black_box, spin_loop};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::Thread;
use std::time::Instant;

/// Leases → how many bytes they are; the bytes are not looked at.
const MEASURE: u16 = 1;
/// A lease → nothing; its bytes are copied out, once.
const TAKE: u16 = 2;
/// How many bytes (u32) → a lease of so many.
const LEND: u16 = 3;
/// Payload → the same.
const ECHO: u16 = 4;

#[derive(Default)]
struct Bulk {
    private: Vec<u8>,
}

impl Service for Bulk {
    fn receive(&mut self, _: &mut dyn Context, message: Message<'_>, mut reply: Reply<'_>) {
        match message.operation {
            MEASURE => {
                let bytes: usize = message.leases.iter().map(|lease| lease.len()).sum();
                reply.ok(&(bytes as u64).to_le_bytes());
            }
            TAKE => match message.lease(0) {
                Ok(lease) => {
                    // Where it is wanted: every access to a lease is a copy.
                    self.private.resize(lease.len(), 0);
                    lease.copy_to(0, &mut self.private);
                    reply.ok(&[]);
                }
                Err(refusal) => reply.refuse(&refusal),
            },
            LEND => {
                let bytes = message.payload.iter().rev().fold(0, |n, b| n << 8 | usize::from(*b));
                match reply.lease(bytes) {
                    Ok(mut lease) => {
                        lease.fill(7);
                        reply.with_lease(lease).ok(&[]);
                    }
                    Err(error) => eprintln!("{error}"),
                }
            }
            _ => reply.ok(message.payload),
        }
    }
}

const MIB: usize = 1 << 20;

fn main() -> Result<(), Error> {
    let task = Task::current()?;
    let endpoint = task.create_endpoint()?;
    let mut server = Server::new(&task)?;
    let measure = std::env::args().any(|argument| argument == "measure");
    // Adaptive, so that it sleeps while plain copies are measured: three threads that spin on two
    // processors measure each other.
    server.serve(endpoint.slot, None)?;
    std::thread::spawn(move || server.run(&mut Bulk::default()));
    let mut connection = Connection::open(&task, endpoint.slot, &Options::default())?;
    if measure {
        connection.set_wait(Wait::Spin);
        return measured(&mut connection);
    }

    // Written in place, read in place, ended by the reply.
    let mut picture = connection.lease(3 * MIB)?;
    picture.fill(0x80);
    let caption = connection.lease(100)?;
    let reply = connection.send_leased(MEASURE, b"", [picture, caption], 8)?;
    let (payload, _) = reply.ok()?;
    println!("the server was lent {payload:?} bytes");

    // The other way: the request says how much the reply may lend.
    let wanted = (MIB as u32).to_le_bytes();
    let reply = connection.send_leased(LEND, &wanted, [], Room::payload(0).lending(MIB))?;
    let (_, leases) = reply.ok()?;
    println!("we were lent {} bytes; the first is {:?}", leases[0].len(), &leases[0].to_vec()[..1]);
    drop(leases); // The server has its memory back.

    // A payload that is longer than the ring goes the same way by itself.
    let long = vec![1; 5 * MIB];
    let reply = connection.send(ECHO, &long, long.len())?;
    println!("{} bytes came back", reply.ok()?.len());
    println!("arenas attached (ours, the server's): {:?} bytes", connection.arena_bytes());
    connection.detach_arenas();
    Ok(())
}

/// Time of `count` calls, in ns for each.
fn timed(count: u32, mut body: impl FnMut() -> Result<(), Error>) -> Result<f64, Error> {
    let start = Instant::now();
    for _ in 0..count {
        body()?;
    }
    Ok(start.elapsed().as_nanos() as f64 / f64::from(count))
}

fn measured(connection: &mut Connection) -> Result<(), Error> {
    let source: Vec<u8> = (0..MIB).map(|at| at as u8).collect();
    let take = |connection: &mut Connection| -> Result<LeaseMut, Error> { connection.lease(MIB) };
    let bare = Bare::start();
    let (mut untouched, mut copied) = (Vec::new(), Vec::new());
    for _ in 0..100 {
        let short = timed(2000, || {
            connection.send(MEASURE, black_box(&source[..40]), 8)?.ok()?;
            Ok(())
        })?;
        let lent = timed(2000, || {
            let lease = take(connection)?;
            connection.send_leased(MEASURE, b"", [lease], 8)?.ok()?;
            Ok(())
        })?;
        untouched.push(lent / short);
        bare.wake();
        bare.exchange(&source);
        let memory = timed(20, || {
            bare.exchange(&source);
            Ok(())
        })?;
        bare.rest();
        let lent = timed(20, || {
            let mut lease = take(connection)?;
            lease.copy_from_slice(black_box(&source));
            connection.send_leased(TAKE, b"", [lease], 0)?.ok()?;
            Ok(())
        })?;
        copied.push(lent / memory);
    }
    println!("1 MiB lent and not touched / a 40 B send: {}", quartiles(untouched));
    println!(
        "1 MiB lent, written and read once / copied in and out of plain memory: {}",
        quartiles(copied)
    );
    Ok(())
}

fn quartiles(mut ratios: Vec<f64>) -> String {
    ratios.sort_by(f64::total_cmp);
    let at = |part: usize| ratios[ratios.len() * part / 4];
    format!("{:.2} [{:.2}-{:.2}]", at(2), at(1), at(3))
}

/// What two threads can do with plain memory: one copies in, the other copies out.
struct Bare {
    /// 0: the writer's; 1: the reader's; 2: nobody's, and the reader rests.
    turn: Arc<AtomicU32>,
    shared: Arc<Mutex<Vec<u8>>>,
    reader: Thread,
}

impl Bare {
    fn start() -> Self {
        let (turn, shared) = (Arc::new(AtomicU32::new(2)), Arc::new(Mutex::new(vec![0; MIB])));
        let (its_turn, its_shared) = (Arc::clone(&turn), Arc::clone(&shared));
        let reader = std::thread::spawn(move || {
            let mut private = vec![0; MIB];
            loop {
                match its_turn.load(Ordering::Acquire) {
                    0 => spin_loop(),
                    1 => {
                        private.copy_from_slice(&its_shared.lock().expect("nobody panics"));
                        black_box(&private);
                        its_turn.store(0, Ordering::Release);
                    }
                    // It must not be in the way of what is measured next.
                    _ => std::thread::park(),
                }
            }
        });
        Self { turn, shared, reader: reader.thread().clone() }
    }

    fn wake(&self) {
        self.turn.store(0, Ordering::Release);
        self.reader.unpark();
    }

    fn rest(&self) {
        self.turn.store(2, Ordering::Release);
    }

    fn exchange(&self, source: &[u8]) {
        self.shared.lock().expect("nobody panics").copy_from_slice(black_box(source));
        self.turn.store(1, Ordering::Release);
        while self.turn.load(Ordering::Acquire) != 0 {
            spin_loop();
        }
    }
}
