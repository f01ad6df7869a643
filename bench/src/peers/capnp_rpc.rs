//! Cap'n Proto's RPC between two parties over a Unix socket.

use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use capnp::message::ReaderOptions;
use capnp_rpc::RpcSystem;
use capnp_rpc::rpc_twoparty_capnp::Side;
use capnp_rpc::twoparty::VatNetwork;
use tokio::runtime::Runtime;
use tokio::task::LocalSet;
use tokio_util::compat::{TokioAsyncReadCompatExt, TokioAsyncWriteCompatExt};

use super::answer_capnp::answer;
use super::{Background, Tally, only, other, runtime, sockets, stream};
use crate::mechanism::{Client, Mechanism, Server, Setting};
use crate::report::Class;
use crate::{Launcher, Recorder, mechanism};

/// capnp-rpc.
#[derive(Debug)]
pub(crate) struct CapnpRpc;

impl Mechanism for CapnpRpc {
    fn name(&self) -> &'static str {
        "capnp-rpc"
    }

    fn class(&self) -> Class {
        Class::Peer
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (mine, theirs) = sockets()?;
        launcher.start(&[theirs])?;
        let runtime = runtime()?;
        let tasks = LocalSet::new();
        let client = tasks.block_on(&runtime, async {
            let mut system = RpcSystem::new(Box::new(network(mine, Side::Client)?), None);
            let client: answer::Client = system.bootstrap(Side::Server);
            tokio::task::spawn_local(system);
            io::Result::Ok(client)
        })?;
        Ok(Box::new(CapnpClient { client, tasks, runtime }))
    }

    fn serve(&self, _: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let socket = only(descriptors)?;
        Background::start(move |tally| {
            LocalSet::new().block_on(&runtime()?, async {
                let client: answer::Client = capnp_rpc::new_client(Answer { tally });
                let network = network(socket, Side::Server)?;
                RpcSystem::new(Box::new(network), Some(client.client)).await.map_err(other)
            })
        })
    }
}

/// One side of the connection. Reading is buffered, as in the library's examples.
fn network(
    socket: OwnedFd,
    side: Side,
) -> io::Result<VatNetwork<impl futures::AsyncRead + Unpin + 'static>> {
    let (read, write) = stream(socket)?.into_split();
    let read = futures::io::BufReader::new(read.compat());
    let write = futures::io::BufWriter::new(write.compat_write());
    Ok(VatNetwork::new(read, write, side, ReaderOptions::default()))
}

struct CapnpClient {
    client: answer::Client,
    tasks: LocalSet,
    runtime: Runtime,
}

impl Client for CapnpClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            let mut request = self.client.answer_request();
            request.get().set_payload(payload);
            let reply = self.tasks.block_on(&self.runtime, request.send().promise);
            let reply = reply.map_err(other)?;
            let bytes = reply.get().and_then(|reply| reply.get_payload()).map_err(other)?;
            payload.copy_from_slice(bytes);
            Ok(())
        })
    }
}

struct Answer {
    tally: Tally,
}

impl answer::Server for Answer {
    async fn answer(
        self: Rc<Self>,
        params: answer::AnswerParams,
        mut results: answer::AnswerResults,
    ) -> Result<(), capnp::Error> {
        let request = params.get()?.get_payload()?;
        let reply = results.get().init_payload(u32::try_from(request.len()).unwrap_or(u32::MAX));
        reply.copy_from_slice(request);
        mechanism::answer(reply);
        self.tally.one();
        Ok(())
    }
}
