//! The victim that serves: an honest server, with the library, that says who comes and goes.

use crate::common::{Role, raise_descriptor_limit};
use rendez::protocol::{Ticket, decode};
use rendez::region::Mapped;
use rendez::service::{Caller, Context, Message, Refusal, Reply, ReplyRight, Service};
use rendez::{Error, Server, Status, Task};

/// Anything → the same.
pub(crate) const ECHO: u16 = 1;
/// Nothing → nothing; says *mark*, by which what was said before is told from what comes after.
pub(crate) const MARK: u16 = 2;
/// Leases → nothing, once each byte of them was read, some times over.
pub(crate) const READ_LEASES: u16 = 3;
/// The length of what is to be lent, 64 bits → that, lent.
pub(crate) const LEND: u16 = 4;
/// A ticket → how many capabilities it stood for, 64 bits. They are let go of at once.
pub(crate) const ACCEPT: u16 = 5;
/// A ticket for a region → nothing, once it was read, again and again.
pub(crate) const READ_REGION: u16 = 6;
/// Anything → never an answer.
pub(crate) const KEEP: u16 = 7;

/// Plays the victim.
pub(crate) fn serve(role: &Role) {
    raise_descriptor_limit();
    let task = role.task();
    let mut server = Server::new(&task).unwrap();
    server.serve(task.given_as("serve").unwrap().slot, None).unwrap();
    server.bind(task.given_as("bell").unwrap().slot).unwrap();
    role.say("serves");
    match server.run(&mut Victim { role, task, kept: Vec::new() }) {
        Ok(()) | Err(Error::KernelGone) => {}
        Err(error) => panic!("{error}"),
    }
}

struct Victim<'a> {
    role: &'a Role,
    task: Task,
    kept: Vec<ReplyRight>,
}

fn refused(error: impl std::fmt::Display) -> Refusal {
    Refusal::new(Status::DENIED, error.to_string())
}

impl Victim<'_> {
    fn answer(
        &mut self,
        context: &mut dyn Context,
        message: Message<'_>,
    ) -> Result<Vec<u8>, Refusal> {
        let take = |context: &mut dyn Context| -> Result<_, Refusal> {
            let ticket: Ticket = decode(message.payload)?;
            context.accept(message.caller.connection, ticket).map_err(refused)
        };
        match message.operation {
            ECHO => return Ok(message.payload.to_vec()),
            MARK => self.role.say("mark"),
            READ_LEASES => {
                for _ in 0..100 {
                    message.leases.iter().for_each(|lease| drop(lease.to_vec()));
                }
            }
            ACCEPT => {
                let received = take(context)?;
                for one in &received {
                    context.delete(one.slot).map_err(refused)?;
                }
                return Ok((received.len() as u64).to_le_bytes().to_vec());
            }
            READ_REGION => {
                let received = take(context)?;
                let mapped = self.task.map_region(received[0].slot).map_err(refused)?;
                context.delete(received[0].slot).map_err(refused)?;
                let Mapped::Shared(region) = mapped else {
                    return Err(Refusal::new(Status::MALFORMED, "this is no shared region"));
                };
                let mut bytes = vec![0; region.len()];
                for _ in 0..200 {
                    region.copy_to(0, &mut bytes);
                }
            }
            other => {
                return Err(Refusal::new(Status::UNIMPLEMENTED, format!("operation {other}")));
            }
        }
        Ok(Vec::new())
    }
}

impl Service for Victim<'_> {
    fn receive(&mut self, context: &mut dyn Context, message: Message<'_>, mut reply: Reply<'_>) {
        match message.operation {
            KEEP => self.kept.push(reply.keep()),
            LEND => {
                let length =
                    message.payload.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                match reply.lease(length as usize) {
                    Ok(mut lease) => {
                        lease.fill(1);
                        reply.with_lease(lease).ok(&[]);
                    }
                    Err(error) => reply.refuse(&Refusal::new(Status::QUOTA, error.to_string())),
                }
            }
            _ => match self.answer(context, message) {
                Ok(bytes) => reply.ok(&bytes),
                Err(refusal) => reply.refuse(&refusal),
            },
        }
    }

    fn connected(&mut self, _: &mut dyn Context, caller: &Caller) -> Result<(), Refusal> {
        self.role.say(format!("comes {}", caller.task));
        Ok(())
    }

    fn disconnected(&mut self, _: &mut dyn Context, caller: &Caller) {
        self.role.say(format!("goes {}", caller.task));
    }

    fn notified(&mut self, _: &mut dyn Context, _: &Caller, bits: u64) {
        self.role.say(format!("notified {bits}"));
    }
}
