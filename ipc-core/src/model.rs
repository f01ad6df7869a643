//! The loom platform, for models of Rendez's own protocol and of yours (feature `model`).
//!
//! ```
//! use rendez_ipc_core::model::{Sound, connection, explore};
//! use rendez_ipc_core::ring::Buffer;
//! use rendez_protocol::Status;
//!
//! explore(2, || {
//!     let (mut client, mut server, _kernel) = connection::<Sound>(1, 1);
//!     let serving = loom::thread::spawn(move || {
//!         let mut request = Buffer::new();
//!         let taken = server.receive_blocking(&mut request);
//!         server.port().reply(&taken, Status::OK, &[request[0] + 1]);
//!     });
//!     let sending = loom::thread::spawn(move || {
//!         let mut reply = Buffer::new();
//!         assert_eq!(client.send(1, &[41], 1, u64::MAX, &mut reply), Ok(Status::OK));
//!         assert_eq!(&reply[..], [42]);
//!     });
//!     serving.join().unwrap();
//!     sending.join().unwrap();
//! });
//! ```
//!
//! What to know before writing one: `docs/guide/models.md`.

pub use crate::platform::model::{
    Model, ModelBell, ModelHalf, ModelStatus, SharedHalf, Sound, Twin,
};

use crate::client::ClientEnd;
use crate::half::{Ours, Theirs};
use crate::platform::Platform;
use crate::ring::Buffer;
use crate::server::{Found, ServerEnd, Taken, sleep_fence};
use crate::wait::Wait;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The status words of a model's connection, as its kernel holds them.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The client's.
    pub client: ModelStatus,
    /// The server's.
    pub server: ModelStatus,
}

/// Both ends of a connection between threads of a model, `lines` lines and `area_lines` lines of
/// payload area in each direction.
#[must_use]
pub fn connection<T: Twin>(
    lines: usize,
    area_lines: usize,
) -> (ClientEnd<Model<T>>, ServerEnd<Model<T>>, Kernel) {
    let requests = SharedHalf::<T>::new(lines, area_lines);
    let replies = SharedHalf::<T>::new(lines, area_lines);
    let kernel = Kernel { client: ModelStatus::new(), server: ModelStatus::new() };
    let client = ClientEnd::new(
        Ours::new(requests.clone()),
        Theirs::new(replies.clone()),
        kernel.client.clone(),
        ModelBell,
        1,
        Wait::Block,
    );
    let server = ServerEnd::new(
        Ours::new(replies),
        Theirs::new(requests),
        kernel.server.clone(),
        ModelBell,
        u64::MAX,
    );
    (client, server, kernel)
}

impl<T: Twin> ServerEnd<Model<T>> {
    /// Waits for a message and takes it.
    ///
    /// # Panics
    /// If the connection ends or the client breaks the protocol: not in a sound model.
    pub fn receive_blocking(&mut self, out: &mut Buffer) -> Taken {
        loop {
            match self.receive(out).expect("an honest client") {
                Found::Message(taken) => return taken,
                Found::Ended(state) => panic!("the connection ended: {state:?}"),
                Found::Nothing | Found::NoRoom => self.sleep(),
            }
        }
    }

    /// Sleeps until there is something to do; may return without cause.
    pub fn sleep(&mut self) {
        let doorbell = self.words().0.load(Ordering::Relaxed);
        self.lie_down();
        sleep_fence::<Model<T>>();
        if !self.wakes_at_once() {
            let (word, status) = self.words();
            Model::<T>::wait(&[(word, doorbell), (status, 0)], None);
        }
        self.get_up();
    }
}

/// How many preemptions a model explores in one execution.
const PREEMPTIONS: usize = 2;

/// Explores every interleaving of `body` (up to two preemptions) and answers how many there were.
///
/// # Panics
/// If `body` fails in any of them, or if there were fewer than `minimum`: then the model did not
/// explore what it was meant to.
pub fn explore(minimum: usize, body: impl Fn() + Sync + Send + 'static) -> usize {
    let executions = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&executions);
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(move || {
        counter.fetch_add(1, Ordering::Relaxed);
        body();
    });
    let executions = executions.load(Ordering::Relaxed);
    assert!(
        executions >= minimum,
        "the model ran {executions} executions where at least {minimum} were expected"
    );
    executions
}

/// Set in the process in which a broken twin runs.
const TWIN_VARIABLE: &str = "RENDEZ_BROKEN_TWIN";

/// Runs the model of a broken twin and expects it to fail. `test` is the full name of the test that
/// this is called from.
///
/// The twin runs in a process of its own (this test binary again, with that one test), because a
/// failing loom model may abort: it unwinds through its own objects.
///
/// # Panics
/// If the twin passes: then the sound model would not have noticed the mistake either. Also if the
/// process cannot be started, or `test` is not the name of this test.
pub fn expect_failure(test: &str, body: impl Fn() + Sync + Send + 'static) {
    if std::env::var_os(TWIN_VARIABLE).is_some() {
        // The line proves that the twin got this far: a wrong test name would run nothing and pass.
        println!("twin {test} runs");
        explore(1, body);
        println!("twin {test} passed");
        return;
    }
    let output = std::env::current_exe()
        .and_then(|this| {
            std::process::Command::new(this)
                .args([test, "--exact", "--nocapture", "--test-threads=1"])
                .env(TWIN_VARIABLE, "1")
                .env("RUST_BACKTRACE", "0")
                .output()
        })
        .expect("a test binary can be run again");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains(&format!("twin {test} runs")), "no test is called {test:?}");
    assert!(
        !output.status.success() && !said.contains(&format!("twin {test} passed")),
        "the broken twin {test} was expected to fail, and passed"
    );
}
