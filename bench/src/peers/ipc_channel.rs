//! ipc-channel: a channel of bytes in each direction.

use std::io::{self, Write};
use std::os::fd::OwnedFd;

use ipc_channel::ipc::{
    IpcBytesReceiver, IpcBytesSender, IpcOneShotServer, IpcSender, bytes_channel,
};

use super::{only, other, read_note};
use crate::mechanism::{Block, Client, Mechanism, Server, Setting, answer};
use crate::report::Class;
use crate::{Launcher, Recorder};

/// What the partner needs: where requests arrive, and where answers go.
type Ends = (IpcBytesReceiver, IpcBytesSender);

/// ipc-channel.
#[derive(Debug)]
pub(crate) struct IpcChannel;

impl Mechanism for IpcChannel {
    fn name(&self) -> &'static str {
        "ipc-channel"
    }

    fn class(&self) -> Class {
        Class::Peer
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        // The partner makes the one-shot server: if it ends, reading its name ends too, while
        // nothing ends the wait for somebody to connect.
        let (reading, writing) = io::pipe()?;
        launcher.start(&[writing.into()])?;
        let name = read_note(reading.into())?;
        let (requests, their_requests) = bytes_channel()?;
        let (their_answers, answers) = bytes_channel()?;
        IpcSender::<Ends>::connect(name)?.send((their_requests, their_answers)).map_err(other)?;
        Ok(Box::new(IpcChannelClient { requests, answers }))
    }

    fn serve(&self, _: Setting, descriptors: Vec<OwnedFd>) -> io::Result<Box<dyn Server>> {
        let (server, name) = IpcOneShotServer::<Ends>::new()?;
        std::fs::File::from(only(descriptors)?).write_all(name.as_bytes())?;
        let (_, (requests, answers)) = server.accept().map_err(other)?;
        Ok(Box::new(IpcChannelServer { requests, answers }))
    }
}

#[derive(Debug)]
struct IpcChannelClient {
    requests: IpcBytesSender,
    answers: IpcBytesReceiver,
}

impl Client for IpcChannelClient {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            self.requests.send(payload)?;
            payload.copy_from_slice(&self.answers.recv().map_err(other)?);
            Ok(())
        })
    }
}

#[derive(Debug)]
struct IpcChannelServer {
    requests: IpcBytesReceiver,
    answers: IpcBytesSender,
}

impl Server for IpcChannelServer {
    fn block(&mut self, block: Block) -> io::Result<()> {
        for _ in 0..block.exchanges {
            let mut payload = self.requests.recv().map_err(other)?;
            answer(&mut payload);
            self.answers.send(&payload)?;
        }
        Ok(())
    }
}
