//! tarpc over a Unix socket, with its own serde transport and bincode.

mod many;

pub(crate) use many::{Caller, ManyTarpc};

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
        Ok(Box::new(TarpcClient::over(mine, setting)?))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let socket = only(descriptors)?;
        Background::start(move |tally| {
            runtime()?.block_on(async {
                let transport =
                    serde_transport::new(framed(stream(socket)?, setting), Bincode::default());
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
fn framed(stream: UnixStream, setting: Setting) -> Framed<UnixStream, LengthDelimitedCodec> {
    let codec = LengthDelimitedCodec::builder()
        .max_frame_length(setting.payload_bytes + ENVELOPE)
        .new_codec();
    Framed::new(stream, codec)
}

struct TarpcClient {
    runtime: Runtime,
    client: AnswerClient,
}

impl TarpcClient {
    fn over(socket: OwnedFd, setting: Setting) -> io::Result<Self> {
        let runtime = runtime()?;
        let client = runtime.block_on(async {
            let transport =
                serde_transport::new(framed(stream(socket)?, setting), Bincode::default());
            io::Result::Ok(AnswerClient::new(client::Config::default(), transport).spawn())
        })?;
        Ok(Self { runtime, client })
    }

    #[inline]
    fn exchange(&self, payload: &mut [u8]) -> io::Result<()> {
        let request = ByteBuf::from(payload.to_vec());
        let answering = self.client.answer(context::current(), request);
        let reply = self.runtime.block_on(answering).map_err(other)?;
        payload.copy_from_slice(&reply);
        Ok(())
    }
}

impl Client for TarpcClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| self.exchange(payload))
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
