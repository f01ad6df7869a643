//! How a process becomes a task: at the front door, or by the socket that it inherited.
//!
//! Who it is comes from Linux alone. A process from the front door is known when it connects and
//! becomes a task when it greets; a created one is a task before it is a process, and its greeting
//! brings credentials.

use super::peer::{Origin, Peer};
use super::segments::system as refused;
use super::{LISTENER, PER_TURN, Shell, UNGREETED_MAX, close};
use crate::input::Input;
use crate::system::{self, Packet};
use rendez_protocol::TaskId;
use rendez_protocol::kernel::{Credentials, Hello, KernelError};
use rendez_protocol::limit::LABEL_BYTES_MAX;
use rustix::event::epoll::{self, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::SocketFlags;
use rustix::process::{Pid, PidfdFlags};
use std::io;
use std::os::fd::{AsFd, OwnedFd};

impl Shell {
    /// Takes processes in that are at the front door.
    pub(super) fn accept(&mut self) {
        for _ in 0..PER_TURN {
            match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC) {
                Ok(socket) => self.visitor(socket),
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    let watched = EventData::new_u64(LISTENER);
                    let nothing = EventFlags::empty();
                    let _ = epoll::modify(&self.epoll, &self.listener, watched, nothing);
                    self.door_paused = true;
                    return;
                }
                Err(_) => return,
            }
        }
    }

    /// A process has connected to the front door. It is nobody until it greets.
    fn visitor(&mut self, socket: OwnedFd) {
        let suspect = self.look_always || !system::refuses_rights(socket.as_fd());
        match self.meet(&socket) {
            Ok((credentials, pidfd)) => {
                if let Ok(id) = self.add(socket, Origin::FrontDoor(credentials))
                    && let Some(peer) = self.peers.get_mut(&id)
                {
                    peer.process = Some(credentials);
                    self.watch_process(id, pidfd);
                }
            }
            // Gone already.
            Err(_) => close(&self.closers, suspect, socket),
        }
    }

    /// Who is at the other end of a socket from the front door.
    fn meet(&mut self, socket: &OwnedFd) -> io::Result<(Credentials, OwnedFd)> {
        use nix::sys::socket::{getsockopt, sockopt};
        let who = getsockopt(socket, sockopt::PeerCredentials)?;
        let credentials =
            Credentials { pid: who.pid().cast_unsigned(), uid: who.uid(), gid: who.gid() };
        self.make_room_for(credentials.uid);
        let pidfd = match getsockopt(socket, sockopt::PeerPidfd) {
            // Linux before 6.5 does not say; then the process is found by its id.
            Err(nix::errno::Errno::ENOPROTOOPT) => open_process(credentials.pid)?,
            other => other?,
        };
        Ok((credentials, pidfd))
    }

    /// Shows out whoever of a uid has been at the front door for longest without greeting, if they
    /// are too many. To refuse the newest instead would let silent ones shut the door.
    fn make_room_for(&mut self, uid: u32) {
        let silent = |peer: &Peer| match peer.origin {
            Origin::FrontDoor(other) => peer.task.is_none() && other.uid == uid,
            Origin::Created => false,
        };
        let ungreeted = self.peers.iter().filter(|(_, peer)| silent(peer)).map(|(id, _)| *id);
        // Numbers rise in the order of arrival.
        let (count, oldest) = ungreeted
            .fold((0_usize, u64::MAX), |(n, oldest), id| (n.saturating_add(1), oldest.min(id)));
        if count >= UNGREETED_MAX {
            self.end(oldest);
        }
    }

    /// A process says who it is; Linux says whether it is true.
    pub(super) fn hello(
        &mut self,
        id: u64,
        transaction: u64,
        payload: &[u8],
        packet: Packet,
    ) -> Result<(), KernelError> {
        let Some(hello) = Hello::from_bytes(payload) else {
            return Err(KernelError::Malformed("this is no greeting".into()));
        };
        let Some(peer) = self.peers.get_mut(&id) else { return Ok(()) };
        let (task, credentials) = match (peer.origin, peer.task) {
            (Origin::Created, Some(task)) => {
                let Some((pid @ 1.., uid, gid)) = packet.credentials else {
                    return Err(KernelError::Denied(
                        "Linux did not say which process sent the greeting; is it in another \
                         process id namespace?"
                            .into(),
                    ));
                };
                let pidfd = match packet.pidfd {
                    Some(pidfd) => Ok(pidfd),
                    // Linux would have said: the process is gone, and its id may be another's.
                    None if peer.brings_pidfd() => Err(Errno::SRCH.into()),
                    None => open_process(pid),
                }
                .map_err(|error| refused("watching the task's process", error))?;
                let credentials = Credentials { pid, uid, gid };
                peer.process = Some(credentials);
                peer.known();
                self.watch_process(id, pidfd);
                (task, credentials)
            }
            (Origin::FrontDoor(credentials), None) => {
                (self.admit(id, payload, credentials)?, credentials)
            }
            _ => return Err(KernelError::Order("this socket has no task".into())),
        };
        let version = hello.version;
        self.apply(Input::Hello { who: task, transaction, version, credentials });
        Ok(())
    }

    /// Makes a process from the front door a task. Its greeting may be followed by a label.
    fn admit(
        &mut self,
        id: u64,
        payload: &[u8],
        credentials: Credentials,
    ) -> Result<TaskId, KernelError> {
        let name = label(payload.get(8..).unwrap_or_default())
            .unwrap_or_else(|| format!("pid {}", credentials.pid));
        let own_uid = credentials.uid == self.uid;
        let task = self.tell_machine(Input::Admit { name, credentials, own_uid }).task()?;
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.task = Some(task);
        }
        self.tasks.insert(task, id);
        Ok(task)
    }
}

fn open_process(pid: u32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid.cast_signed()).ok_or(Errno::SRCH)?;
    Ok(rustix::process::pidfd_open(pid, PidfdFlags::empty())?)
}

/// A label that a process gives itself, made fit to be shown to people.
fn label(bytes: &[u8]) -> Option<String> {
    let text = core::str::from_utf8(bytes).ok().filter(|text| text.len() <= LABEL_BYTES_MAX)?;
    let clean: String = text.chars().filter(|c| !c.is_control()).collect();
    let clean = clean.trim();
    (!clean.is_empty()).then(|| clean.into())
}

#[cfg(test)]
mod tests {
    use super::label;

    #[test]
    fn labels_are_fit_to_be_shown() {
        assert_eq!(label(b" ls\x1b[31m\n"), Some("ls[31m".into()));
        assert_eq!(label(b"\n \t"), None);
        assert_eq!(label(b"\xff"), None);
        assert_eq!(label(&[b'x'; 65]), None);
    }
}
