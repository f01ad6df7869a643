//! zbus, peer to peer over a Unix socket: no bus in between.

use std::io;
use std::os::fd::OwnedFd;

use serde_bytes::{ByteBuf, Bytes};
use tokio::runtime::Runtime;
use zbus::connection::Builder;
use zbus::{Connection, Guid, interface};

use super::{Background, Tally, only, other, runtime, sockets};
use crate::mechanism::{Client, Mechanism, Server, Setting, answer};
use crate::report::Class;
use crate::{Launcher, Recorder};

/// Where the object lies.
const PATH: &str = "/answer";
/// What it offers.
const INTERFACE: &str = "rendez.bench.Answer1";

/// zbus.
#[derive(Debug)]
pub(crate) struct Zbus;

impl Mechanism for Zbus {
    fn name(&self) -> &'static str {
        "zbus"
    }

    fn class(&self) -> Class {
        Class::Peer
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (mine, theirs) = sockets()?;
        launcher.start(&[theirs])?;
        let runtime = runtime()?;
        let connection = runtime.block_on(async { builder(mine).build().await.map_err(other) })?;
        Ok(Box::new(ZbusClient { runtime, connection }))
    }

    fn serve(&self, _: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let socket = only(descriptors)?;
        Background::start(move |tally| {
            runtime()?.block_on(async {
                let connection = builder(socket)
                    .server(Guid::generate())
                    .serve_at(PATH, Answer { tally })
                    .build()
                    .await
                    .map_err(other)?;
                // It serves for as long as it exists, and this process ends with its parent.
                std::future::pending::<()>().await;
                drop(connection);
                Ok(())
            })
        })
    }
}

fn builder(socket: OwnedFd) -> Builder<'static> {
    Builder::unix_stream(socket.into()).p2p()
}

struct ZbusClient {
    runtime: Runtime,
    connection: Connection,
}

impl Client for ZbusClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            let reply = self
                .runtime
                .block_on(self.connection.call_method(
                    None::<&str>,
                    PATH,
                    Some(INTERFACE),
                    "Answer",
                    &Bytes::new(payload),
                ))
                .map_err(other)?;
            let body = reply.body();
            let bytes: &Bytes = body.deserialize().map_err(other)?;
            payload.copy_from_slice(bytes);
            Ok(())
        })
    }
}

struct Answer {
    tally: Tally,
}

#[interface(name = "rendez.bench.Answer1")]
impl Answer {
    fn answer(&self, mut payload: ByteBuf) -> ByteBuf {
        answer(&mut payload);
        self.tally.one();
        payload
    }
}
