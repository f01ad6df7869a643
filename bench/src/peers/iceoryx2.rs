//! iceoryx2's request-response in shared memory: polled, and with its events to sleep on.
//!
//! Everything that it names lies under names of one run, [`Home`]: a directory, and a prefix of its
//! files in `/dev/shm`. Whichever process lets go of it last removes them, and if both were killed,
//! the next run does.

mod home;
mod many;

pub(crate) use many::{Port, Yielding};

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use ::iceoryx2::node::Node;
use ::iceoryx2::port::client::Client as Requests;
use ::iceoryx2::port::listener::Listener;
use ::iceoryx2::port::notifier::Notifier;
use ::iceoryx2::port::server::Server as Answers;
use ::iceoryx2::prelude::ipc;

use self::home::{Home, name, node};
use super::{note, only, other, read_note};
use crate::mechanism::{Block, Client, Mechanism, Rescue, Server, Setting, Wait, answer};
use crate::report::Class;
use crate::{Launcher, Recorder};

/// The request-response service.
const SERVICE: &str = "answer";
/// The event that tells the server of a request.
const ASKED: &str = "asked";
/// The event that tells the client of an answer.
const ANSWERED: &str = "answered";

/// iceoryx2: polled if it is to spin, else with events.
#[derive(Debug)]
pub(crate) struct Iceoryx2(pub(crate) Wait);

impl Iceoryx2 {
    /// The events that one side waits for and raises, unless it polls.
    fn events(
        &self,
        node: &Node<ipc::Service>,
        mine: &str,
        theirs: &str,
    ) -> io::Result<Option<Events>> {
        if self.0 == Wait::Spin { Ok(None) } else { Events::new(node, mine, theirs).map(Some) }
    }
}

impl Mechanism for Iceoryx2 {
    fn name(&self) -> &'static str {
        "iceoryx2"
    }

    fn class(&self) -> Class {
        Class::Peer
    }

    fn wait(&self) -> Option<Wait> {
        Some(self.0)
    }

    fn runs_on(&self, cores: usize) -> bool {
        self.0 != Wait::Spin || cores >= 2
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let home = Home::new()?;
        let node = home.node::<ipc::Service>()?;
        let service = node
            .service_builder(&name(SERVICE)?)
            .request_response::<[u8], [u8]>()
            .max_clients(1)
            .max_servers(1)
            .max_active_requests_per_client(1)
            .max_loaned_requests(1)
            .max_response_buffer_size(1)
            .create()
            .map_err(other)?;
        let requests = service
            .client_builder()
            .initial_max_slice_len(setting.payload_bytes)
            .create()
            .map_err(other)?;
        let events = self.events(&node, ANSWERED, ASKED)?;
        launcher.start(&[note(&home.directory.to_string_lossy())?])?;
        Ok(Box::new(Iceoryx2Client { requests, events, abandoned: Arc::default(), home }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let home = Home::enter(read_note(only(descriptors)?)?.into())?;
        let node = home.node::<ipc::Service>()?;
        let service = node
            .service_builder(&name(SERVICE)?)
            .request_response::<[u8], [u8]>()
            .open()
            .map_err(other)?;
        let answers = service
            .server_builder()
            .initial_max_slice_len(setting.payload_bytes)
            .max_loaned_responses_per_request(1)
            .create()
            .map_err(other)?;
        let events = self.events(&node, ASKED, ANSWERED)?;
        Ok(Box::new(Iceoryx2Server { answers, events, _home: home }))
    }
}

struct Iceoryx2Client {
    requests: Requests<ipc::Service, [u8], (), [u8], ()>,
    events: Option<Events>,
    /// Set when the partner is gone, so that polling for it ends.
    abandoned: Arc<AtomicBool>,
    // Dropped last: it removes what the others are made of.
    home: Home,
}

impl Client for Iceoryx2Client {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            let request = self.requests.loan_slice_uninit(payload.len()).map_err(other)?;
            let pending = request.write_from_slice(payload).send().map_err(other)?;
            if let Some(events) = &self.events {
                events.raise()?;
                events.wait()?;
            }
            loop {
                if let Some(response) = pending.receive().map_err(other)? {
                    payload.copy_from_slice(response.payload());
                    return Ok(());
                }
                // ORDERING: Relaxed; nothing else is read that the watchdog would have written.
                if self.abandoned.load(Ordering::Relaxed) {
                    return Err(io::ErrorKind::BrokenPipe.into());
                }
                if let Some(events) = &self.events {
                    events.wait()?;
                }
            }
        })
    }

    fn rescue(&self) -> Option<Rescue> {
        let abandoned = Arc::clone(&self.abandoned);
        let sleeps = self.events.is_some();
        let directory = self.home.directory.clone();
        Some(Arc::new(move || {
            // ORDERING: Relaxed; only the flag itself counts.
            abandoned.store(true, Ordering::Relaxed);
            if sleeps {
                // What cannot be woken now is woken at the watchdog's next look.
                let _ = wake(&directory);
            }
        }))
    }
}

/// Wakes a client that sleeps, from any thread.
fn wake(directory: &Path) -> io::Result<()> {
    let node = node::<ipc::Service>(directory)?;
    let service = node.service_builder(&name(ANSWERED)?).event().open().map_err(other)?;
    service.notifier_builder().create().map_err(other)?.notify().map_err(other)?;
    Ok(())
}

struct Iceoryx2Server {
    answers: Answers<ipc::Service, [u8], (), [u8], ()>,
    events: Option<Events>,
    // Dropped last, as with the client.
    _home: Home,
}

impl Server for Iceoryx2Server {
    fn block(&mut self, block: Block) -> io::Result<()> {
        let mut left = block.exchanges;
        while left > 0 {
            if let Some(events) = &self.events {
                events.wait()?;
            }
            while let Some(request) = self.answers.receive().map_err(other)? {
                let payload = request.payload();
                let response = request.loan_slice_uninit(payload.len()).map_err(other)?;
                let mut response = response.write_from_slice(payload);
                answer(response.payload_mut());
                response.send().map_err(other)?;
                if let Some(events) = &self.events {
                    events.raise()?;
                }
                left -= 1;
                if left == 0 {
                    break;
                }
            }
        }
        Ok(())
    }
}

/// One side's two ends: of the event that it waits for, and of the one that it raises.
#[derive(Debug)]
struct Events {
    listener: Listener<ipc::Service>,
    notifier: Notifier<ipc::Service>,
}

impl Events {
    fn new(node: &Node<ipc::Service>, mine: &str, theirs: &str) -> io::Result<Self> {
        let [mine, theirs] = [mine, theirs].map(|wanted| {
            node.service_builder(&name(wanted)?).event().open_or_create().map_err(other)
        });
        Ok(Self {
            listener: mine?.listener_builder().create().map_err(other)?,
            notifier: theirs?.notifier_builder().create().map_err(other)?,
        })
    }

    fn raise(&self) -> io::Result<()> {
        self.notifier.notify().map(drop).map_err(other)
    }

    fn wait(&self) -> io::Result<()> {
        self.listener.blocking_wait(|_| {}).map(drop).map_err(other)
    }
}
