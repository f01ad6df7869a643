//! Notifications of Rendez, there and back: each side posts a bit to one, and receives from another.
//!
//! A notification carries nothing, so nothing is passed here but that something happened. The library is
//! the one that ships: [`Poster`] and [`Notification`]; the kernel, a thread of the client's process,
//! sleeps while anything is measured.

use crate::Launcher;
use crate::Recorder;
use crate::mechanism::{self, Block, Client, Mechanism, Setting, answer};
use crate::rendez::{other, start_kernel, wait};
use crate::report::Class;
use rendez::{Notification, Poster, Rights, Task};
use rendez_protocol::kernel::{Give, Limits};
use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

/// The bit that goes there and back.
const BIT: u64 = 1;
/// A peer that has posted nothing for so long is gone.
const PATIENCE: Duration = Duration::from_secs(10);

/// Post, and wait for a post.
#[derive(Debug)]
pub(crate) struct Notifications(pub(crate) mechanism::Wait);

impl Mechanism for Notifications {
    fn name(&self) -> &'static str {
        "notification"
    }

    fn wait(&self) -> Option<mechanism::Wait> {
        Some(self.0)
    }

    fn class(&self) -> Class {
        Class::Rendez
    }

    fn connect(&self, _: Setting, launcher: &mut Launcher) -> io::Result<Box<dyn Client>> {
        let (lifeline, task) = start_kernel()?;
        let there = task.create_notification().map_err(other)?.slot;
        let back = task.create_notification().map_err(other)?.slot;
        let give = |name: &str, slot, rights| {
            let (badge, limits) = (None, Limits::SAME);
            Give { name: name.into(), slot, rights, badge, limits }
        };
        let given = vec![give("receive", there, Rights::RECEIVE), give("post", back, Rights::POST)];
        let (_, _, socket) = task.create_task("partner", given).map_err(other)?;
        launcher.start(&[socket])?;
        Ok(Box::new(Ends { _lifeline: Some(lifeline), ..Ends::new(&task, back, there, self.0)? }))
    }

    fn serve(
        &self,
        _: Setting,
        descriptors: Vec<OwnedFd>,
    ) -> io::Result<Box<dyn mechanism::Server>> {
        let [socket] = <[OwnedFd; 1]>::try_from(descriptors)
            .map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
        let task = Task::over(socket).map_err(other)?;
        let slot = |name| task.given_as(name).map(|given| given.slot).map_err(other);
        Ok(Box::new(Ends::new(&task, slot("receive")?, slot("post")?, self.0)?))
    }
}

/// What each side has.
struct Ends {
    notification: Notification,
    poster: Poster,
    _lifeline: Option<OwnedFd>,
}

impl Ends {
    fn new(
        task: &Task,
        receive: rendez::Slot,
        post: rendez::Slot,
        how: mechanism::Wait,
    ) -> io::Result<Self> {
        let mut notification = Notification::new(task, receive).map_err(other)?;
        notification.set_wait(wait(how));
        let poster = Poster::new(task, post).map_err(other)?;
        Ok(Self { notification, poster, _lifeline: None })
    }

    #[inline]
    fn post(&mut self) -> io::Result<()> {
        self.poster.post(BIT).map_err(other)
    }

    #[inline]
    fn wait(&mut self) -> io::Result<()> {
        match self.notification.wait(PATIENCE).map_err(other)? {
            Some(_) => Ok(()),
            None => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl Client for Ends {
    fn block(&mut self, recorder: &mut Recorder) -> io::Result<()> {
        recorder.run(|payload| {
            self.post()?;
            self.wait()?;
            // Nothing came but the bit: this is what the recorder looks for.
            answer(payload);
            Ok(())
        })
    }
}

impl mechanism::Server for Ends {
    fn block(&mut self, block: Block) -> io::Result<()> {
        for _ in 0..block.exchanges {
            self.wait()?;
            self.post()?;
        }
        Ok(())
    }
}
