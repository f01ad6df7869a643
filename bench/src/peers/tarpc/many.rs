//! tarpc with many clients of one server: each client thread has a connection and a runtime of its
//! own, the server serves all of them in one.

use std::io;
use std::os::fd::OwnedFd;

use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::context::Context;
use tarpc::serde_transport;
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tokio::net::UnixListener;

use super::{Answer, TarpcClient, framed};
use crate::baseline::unix_epoll::{MESSAGE, SERVE, STOP};
use crate::mechanism::{Server, Setting, answer};
use crate::peers::{Background, Tally, only, runtime};
use crate::role::{Actor, Role, process_cpu_ns};

/// What all are set up for.
const SETTING: Setting = Setting { payload_bytes: MESSAGE, cores: 2 };

/// The server's process. It is handed the listening socket.
#[derive(Debug)]
pub(crate) struct ManyTarpc;

impl Role for ManyTarpc {
    fn name(&self) -> &'static str {
        "tarpc"
    }

    fn enter(&self, _: &[u64], descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Actor>> {
        let listener = std::os::unix::net::UnixListener::from(only(descriptors)?);
        listener.set_nonblocking(true)?;
        let serving = Background::start(move |tally| {
            runtime()?.block_on(async {
                let listener = UnixListener::from_std(listener)?;
                loop {
                    let (stream, _) = listener.accept().await?;
                    let transport =
                        serde_transport::new(framed(stream, SETTING), Bincode::default());
                    let requests = BaseChannel::with_defaults(transport)
                        .execute(UntilStopped { tally: tally.clone() }.serve());
                    tokio::spawn(requests.for_each(|response| async {
                        tokio::spawn(response);
                    }));
                }
            })
        })?;
        Ok(Box::new(Stoppable { serving }))
    }
}

/// Counts what tells it to stop, and nothing else.
#[derive(Clone)]
struct UntilStopped {
    tally: Tally,
}

impl Answer for UntilStopped {
    async fn answer(self, _: Context, mut payload: ByteBuf) -> ByteBuf {
        if payload.starts_with(&STOP.to_le_bytes()) {
            self.tally.one();
        }
        answer(&mut payload);
        payload
    }
}

struct Stoppable {
    serving: Box<dyn Server>,
}

impl Actor for Stoppable {
    fn act(&mut self, order: &[u64]) -> io::Result<Vec<u64>> {
        if order != [SERVE] {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let before = process_cpu_ns();
        // One request to stop is all that is waited for.
        self.serving.block(crate::mechanism::Block { exchanges: 1, variant: 0 })?;
        Ok(vec![process_cpu_ns() - before])
    }
}

/// One client's connection.
pub(crate) struct Caller(TarpcClient);

impl Caller {
    /// Over a socket that is connected to the server.
    pub(crate) fn over(socket: OwnedFd) -> io::Result<Self> {
        TarpcClient::over(socket, SETTING).map(Self)
    }

    /// One exchange.
    pub(crate) fn exchange(&self, number: u64) -> io::Result<u64> {
        let mut payload = [0; MESSAGE];
        payload[..8].copy_from_slice(&number.to_le_bytes());
        self.0.exchange(&mut payload)?;
        Ok(payload.first_chunk().map_or(0, |first| u64::from_le_bytes(*first)))
    }
}
