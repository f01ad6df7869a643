//! tonic, that is gRPC over HTTP/2, over a Unix socket.
//!
//! The client and the server are written out by hand as `tonic-build` would generate them from
//! `service Answer { rpc Answer (Payload) returns (Payload); }`, so that building needs no protoc.

use std::convert::Infallible;
use std::io;
use std::os::fd::OwnedFd;
use std::task::{Context, Poll};

use hyper_util::rt::TokioIo;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;
use tonic::body::Body;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::codegen::http::{self, Uri};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::{NamedService, UnaryService};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

use super::{Background, Tally, only, other, runtime, sockets, stream};
use crate::mechanism::{Client, Mechanism, Server, Setting, answer};
use crate::report::Class;
use crate::{Launcher, Recorder};

/// The operation's path.
const PATH: &str = "/rendez.bench.Answer/Answer";

/// Room in a message beside the payload, in bytes.
const ENVELOPE: usize = 4096;

/// Payloads up to this many bytes fit into the windows that HTTP/2 connections have by default.
const SMALL: usize = 32 << 10;

/// Longest frame that HTTP/2 allows, in bytes.
const LONGEST_FRAME: u32 = (1 << 24) - 1;

/// Bytes that may be under way at once and bytes in one frame, for payloads that would otherwise
/// have to wait for permission to go on; `None` leaves a default.
fn windows(payload_bytes: usize) -> (Option<u32>, Option<u32>) {
    let window = u32::try_from(payload_bytes + ENVELOPE).ok().filter(|_| payload_bytes > SMALL);
    (window.map(|window| window.max(1 << 20)), window.map(|window| window.min(LONGEST_FRAME)))
}

/// Request and answer alike.
#[derive(Clone, PartialEq, prost::Message)]
struct Payload {
    #[prost(bytes = "vec", tag = "1")]
    bytes: Vec<u8>,
}

/// tonic.
#[derive(Debug)]
pub(crate) struct Tonic;

impl Mechanism for Tonic {
    fn name(&self) -> &'static str {
        "tonic"
    }

    fn class(&self) -> Class {
        Class::Peer
    }

    fn connect(&self, setting: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (mine, theirs) = sockets()?;
        launcher.start(&[theirs])?;
        let runtime = runtime()?;
        let (window, frame) = windows(setting.payload_bytes);
        let channel = runtime.block_on(async {
            let mut mine = Some(stream(mine)?);
            // The address is never used: the one connection is there already.
            Endpoint::from_static("http://peer")
                .initial_stream_window_size(window)
                .initial_connection_window_size(window)
                .max_frame_size(frame)
                .connect_with_connector(tower::service_fn(move |_: Uri| {
                    let connection = mine.take().map(TokioIo::new);
                    async { connection.ok_or(io::Error::from(io::ErrorKind::NotConnected)) }
                }))
                .await
                .map_err(other)
        })?;
        let client = tonic::client::Grpc::new(channel)
            .max_decoding_message_size(setting.payload_bytes + ENVELOPE);
        Ok(Box::new(TonicClient { runtime, client }))
    }

    fn serve(&self, setting: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let socket = only(descriptors)?;
        let limit = setting.payload_bytes + ENVELOPE;
        let (window, frame) = windows(setting.payload_bytes);
        Background::start(move |tally| {
            runtime()?.block_on(async {
                let connection = tokio_stream::once(stream(socket));
                tonic::transport::Server::builder()
                    .initial_stream_window_size(window)
                    .initial_connection_window_size(window)
                    .max_frame_size(frame)
                    .add_service(Answer { tally, limit })
                    .serve_with_incoming(connection.chain(tokio_stream::pending()))
                    .await
                    .map_err(other)
            })
        })
    }
}

struct TonicClient {
    runtime: Runtime,
    client: tonic::client::Grpc<Channel>,
}

impl Client for TonicClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            let request = Request::new(Payload { bytes: payload.to_vec() });
            let reply = self.runtime.block_on(async {
                self.client.ready().await.map_err(other)?;
                let path = PathAndQuery::from_static(PATH);
                self.client
                    .unary::<Payload, Payload, _>(request, path, ProstCodec::default())
                    .await
                    .map_err(other)
            })?;
            payload.copy_from_slice(&reply.into_inner().bytes);
            Ok(())
        })
    }
}

#[derive(Clone)]
struct Answer {
    tally: Tally,
    limit: usize,
}

impl UnaryService<Payload> for Answer {
    type Response = Payload;
    type Future = BoxFuture<Response<Payload>, Status>;

    fn call(&mut self, request: Request<Payload>) -> Self::Future {
        let tally = self.tally.clone();
        Box::pin(async move {
            let mut payload = request.into_inner();
            answer(&mut payload.bytes);
            tally.one();
            Ok(Response::new(payload))
        })
    }
}

impl NamedService for Answer {
    const NAME: &'static str = "rendez.bench.Answer";
}

impl Service<http::Request<Body>> for Answer {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            if request.uri().path() != PATH {
                return Ok(Status::unimplemented("no such operation").into_http());
            }
            let mut grpc = tonic::server::Grpc::new(ProstCodec::default())
                .max_decoding_message_size(service.limit);
            Ok(grpc.unary(service, request).await)
        })
    }
}
