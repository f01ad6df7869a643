//! iceoryx2 with many clients of one server: each client thread has a port of its own.
//!
//! Both sides poll, and yield their processor after a look that found nothing: there are more threads
//! than processors, and one that only polls would keep the others from running.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use ::iceoryx2::port::client::Client as Requests;
use ::iceoryx2::port::server::Server as Answers;
use ::iceoryx2::prelude::ipc_threadsafe;

use super::SERVICE;
use super::home::{Home, name};
use crate::baseline::unix_epoll::{MESSAGE, SERVE, STOP};
use crate::mechanism::answer;
use crate::peers::{note, only, other, read_note};
use crate::role::{Actor, Role, process_cpu_ns};

/// The server's process. It is handed a [`note`] of where the service is.
#[derive(Debug)]
pub(crate) struct Yielding;

impl Role for Yielding {
    fn name(&self) -> &'static str {
        "iceoryx2-yield"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let home = Home::enter(read_note(only(descriptors)?)?.into())?;
        let answers = home
            .node::<ipc_threadsafe::Service>()?
            .service_builder(&name(SERVICE)?)
            .request_response::<[u8], [u8]>()
            .open()
            .map_err(other)?
            .server_builder()
            .initial_max_slice_len(MESSAGE)
            .create()
            .map_err(other)?;
        Ok(Box::new(YieldingServer { answers, _home: home }))
    }
}

struct YieldingServer {
    answers: Answers<ipc_threadsafe::Service, [u8], (), [u8], ()>,
    // Dropped last: it removes what the port is made of.
    _home: Home,
}

impl Actor for YieldingServer {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        if order != [SERVE] {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let before = process_cpu_ns();
        let mut stopped = false;
        while !stopped {
            let Some(request) = self.answers.receive().map_err(other)? else {
                thread::yield_now();
                continue;
            };
            let payload = request.payload();
            stopped = payload.starts_with(&STOP.to_le_bytes());
            let response = request.loan_slice_uninit(payload.len()).map_err(other)?;
            let mut response = response.write_from_slice(payload);
            answer(response.payload_mut());
            response.send().map_err(other)?;
        }
        Ok(vec![process_cpu_ns() - before])
    }
}

/// One client's port.
pub(crate) struct Port {
    requests: Requests<ipc_threadsafe::Service, [u8], (), [u8], ()>,
    _home: Arc<Home>,
}

impl Port {
    /// As many ports to one service, and what its server finds it by. `start` is called in between,
    /// with that, to start the server.
    pub(crate) fn many<S, E: From<io::Error>>(
        clients: usize,
        start: impl FnOnce(OwnedFd) -> Result<S, E>,
    ) -> Result<(Vec<Self>, S), E> {
        let home = Arc::new(Home::new()?);
        let service = home
            .node::<ipc_threadsafe::Service>()?
            .service_builder(&name(SERVICE)?)
            .request_response::<[u8], [u8]>()
            .max_clients(clients)
            .max_servers(1)
            .max_active_requests_per_client(1)
            .max_loaned_requests(1)
            .max_response_buffer_size(1)
            .create()
            .map_err(other)?;
        let server = start(note(&home.directory.to_string_lossy())?)?;
        let port = |_| {
            let builder = service.client_builder().initial_max_slice_len(MESSAGE);
            let requests = builder.create().map_err(other)?;
            Ok(Self { requests, _home: Arc::clone(&home) })
        };
        let ports: io::Result<Vec<Self>> = (0..clients).map(port).collect();
        Ok((ports?, server))
    }

    /// One exchange.
    pub(crate) fn exchange(&self, number: u64) -> io::Result<u64> {
        let mut payload = [0; MESSAGE];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        let request = self.requests.loan_slice_uninit(MESSAGE).map_err(other)?;
        let pending = request.write_from_slice(&payload).send().map_err(other)?;
        loop {
            if let Some(response) = pending.receive().map_err(other)? {
                let first = response.payload().first_chunk();
                return Ok(first.map_or(0, |first| u64::from_le_bytes(*first)));
            }
            thread::yield_now();
        }
    }
}
