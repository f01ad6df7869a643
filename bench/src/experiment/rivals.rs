//! The peers that can have many clients, for the experiment with many clients.

use std::io;

use super::Context;
use super::clients::Rival;
use super::crowd::{Caller, Crowd};
use crate::Error;
use crate::baseline::unix_epoll::{self, STOP};
use crate::interleave::Subject;
use crate::launch::{self, Partner};
use crate::mechanism::Wait;
use crate::peers::{self, ManyTarpc, Port, Yielding};
use crate::report::Class;

/// Beyond this, each takes longer to set up than everybody else to be measured.
const MOST_CLIENTS: usize = 256;

/// Those of them that are wanted, with so many clients and a server on that processor.
pub(super) fn set_up<'c>(
    context: &'c Context<'c>,
    cpu: Option<usize>,
    clients: usize,
) -> Result<Vec<Box<dyn Subject + 'c>>, Error> {
    let mut subjects: Vec<Box<dyn Subject + 'c>> = Vec::new();
    if clients > MOST_CLIENTS {
        context.note(format!("other frameworks take part up to {MOST_CLIENTS} clients"));
        return Ok(subjects);
    }
    if context.wants("iceoryx2-yield") {
        subjects.push(Box::new(iceoryx2(context, cpu, clients)?));
    }
    if context.wants("tarpc") {
        subjects.push(Box::new(tarpc(context, cpu, clients)?));
    }
    Ok(subjects)
}

fn iceoryx2<'c>(
    context: &'c Context<'c>,
    cpu: Option<usize>,
    clients: usize,
) -> Result<Rival<'c, Port>, Error> {
    let failed = |error| Error::io("setting an iceoryx2 server up", error);
    let exe = &context.options.exe;
    let start = |note| -> io::Result<Partner> {
        let server = launch::start_role(exe, &Yielding, &[], cpu, &[note])?;
        server.hello().map_err(io::Error::other)?;
        Ok(server)
    };
    let (ports, server) = Port::many(clients, start).map_err(failed)?;
    let crowd = Crowd::new(ports)?;
    let label = "iceoryx2-yield";
    Ok(Rival { context, label, wait: Wait::Spin, class: Class::Peer, crowd, server })
}

impl Caller for Port {
    #[inline]
    fn exchange(&mut self, number: u64) -> io::Result<u64> {
        Self::exchange(self, number)
    }

    fn stop(&mut self) -> io::Result<()> {
        Self::exchange(self, STOP).map(drop)
    }
}

fn tarpc<'c>(
    context: &'c Context<'c>,
    cpu: Option<usize>,
    clients: usize,
) -> Result<Rival<'c, peers::Caller>, Error> {
    let failed = |error| Error::io("setting a tarpc server up", error);
    let (listener, address) = unix_epoll::listener().map_err(failed)?;
    let server = launch::start_role(&context.options.exe, &ManyTarpc, &[], cpu, &[listener])
        .map_err(failed)?;
    server.hello()?;
    let connect = |_| peers::Caller::over(unix_epoll::open(&address)?);
    let connections: io::Result<Vec<_>> = (0..clients).map(connect).collect();
    let crowd = Crowd::new(connections.map_err(failed)?)?;
    Ok(Rival { context, label: "tarpc", wait: Wait::Block, class: Class::Peer, crowd, server })
}

impl Caller for peers::Caller {
    #[inline]
    fn exchange(&mut self, number: u64) -> io::Result<u64> {
        Self::exchange(self, number)
    }

    fn stop(&mut self) -> io::Result<()> {
        Self::exchange(self, STOP).map(drop)
    }
}
