//! tarpc over a Unix socket, with its own serde transport and bincode.

use std::io;
use std::os::fd::OwnedFd;

use futures::StreamExt;
use serde_bytes::ByteBuf;
use tarpc::context::{self, Context};
use tarpc::server::{BaseChannel, Channel};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, serde_transport};
use tokio::net::UnixStream;
use tokio::runtime::Runtime;
use tokio_util::codec::{Framed, LengthDelimitedCodec};

use super::{Background, Tally, only, other, runtime, sockets, stream};
use crate::mechanism::{Client, Mechanism, Server, Setting, answer};
use crate::report::Class;
use crate::{Launcher, Recorder};

/// Room in a frame beside the payload, in bytes.
const ENVELOPE: usize = 4096;

/// A service of one operation.
#[tarpc::service]
trait Answer {
    async fn answer(payload: ByteBuf) -> ByteBuf;
}

/// tarpc.
#[derive(Debug)]
pub(crate) struct Tarpc;

impl Mechanism for Tarpc {
    fn name(&self) -> &'static str {
        "tarpc"
    }

    fn class(&self) -> Class {
        Class::Peer
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (mine, theirs) = sockets()?;
        launcher.start(&[theirs])?;
        let runtime = runtime()?;
        let client = runtime.block_on(async {
            let transport = serde_transport::new(framed(mine, setting)?, Bincode::default());
            io::Result::Ok(AnswerClient::new(client::Config::default(), transport).spawn())
        })?;
        Ok(Box::new(TarpcClient { runtime, client }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let socket = only(descriptors)?;
        Background::start(move |tally| {
            runtime()?.block_on(async {
                let transport = serde_transport::new(framed(socket, setting)?, Bincode::default());
                BaseChannel::with_defaults(transport)
                    .execute(AnswerServer { tally }.serve())
                    .for_each(|response| async {
                        tokio::spawn(response);
                    })
                    .await;
                Ok(())
            })
        })
    }
}

/// The transport's framing, which has to be told of the largest frame.
fn framed(
    socket: OwnedFd,
    setting: Setting,
) -> io::Result<Framed<UnixStream, LengthDelimitedCodec>> {
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(setting.payload_bytes + ENVELOPE)
        .new_codec();
    Ok(Framed::new(stream(socket)?, codec))
}

struct TarpcClient {
    runtime: Runtime,
    client: AnswerClient,
}

impl Client for TarpcClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            let request = ByteBuf::from(payload.to_vec());
            let reply = self
                .runtime
                .block_on(self.client.answer(context::current(), request))
                .map_err(other)?;
            payload.copy_from_slice(&reply);
            Ok(())
        })
    }
}

#[derive(Clone)]
struct AnswerServer {
    tally: Tally,
}

impl Answer for AnswerServer {
    async fn answer(self, _: Context, mut payload: ByteBuf) -> ByteBuf {
        answer(&mut payload);
        self.tally.one();
        payload
    }
}
