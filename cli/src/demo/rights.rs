//! Accesses without a right, and what they are told.

use super::show::{Bar, Outcome};
use super::stage::Stage;
use super::talk::{Said, say};
use crate::failure::{FAILED, Failure};
use rendez::protocol::encode;
use rendez::protocol::file::{self, Open, OpenFlags, operation};
use rendez::{Connection, Error, Options, Revoked, Rights, Slot, Task};
use serde_json::json;

/// How many things are tried.
const TRIED: usize = 5;

/// Has a task try what it has no right to.
pub(super) fn show(stage: &Stage, _: &Bar) -> Result<Outcome, Failure> {
    let names = stage.task.given_as("name")?.slot;
    let lent = Rights::SEND | Rights::READ | Rights::MINT | Rights::GRANT;
    let lender = stage.task.mint(stage.file.slot, lent, None)?;
    let reader = Rights::SEND | Rights::READ | Rights::MINT;
    let give = [
        ("file", stage.file.slot, reader),
        ("name", names, Rights::SEND | Rights::READ | Rights::WRITE),
        ("loan", lender.slot, Rights::SEND | Rights::READ),
    ];
    let mut part = stage.part("trespass", &give, &[])?;
    let mut details = Vec::new();
    let mut allowed = Vec::new();
    let mut attempts = Vec::new();
    let mut try_next = |part: &mut super::stage::Part| {
        let (what, answer, refused) = part.expect(|said| match said {
            Said::Tried { what, answer, refused } => Some((what.clone(), answer.clone(), *refused)),
            _ => None,
        })?;
        details.push(format!("{what}: {answer}"));
        if !refused {
            allowed.push(what.clone());
        }
        attempts.push(json!({ "what": what, "answer": answer, "refused": refused }));
        Ok::<_, Failure>(())
    };
    for _ in 0..TRIED - 2 {
        try_next(&mut part)?;
    }
    part.ready()?;
    let Revoked { capabilities, connections, .. } = stage.task.revoke(lender.slot)?;
    part.go_on()?;
    for _ in 0..2 {
        try_next(&mut part)?;
    }
    let id = part.id;
    drop(part);
    stage.task.delete(lender.slot)?;
    if !allowed.is_empty() {
        return Err(Failure::new(FAILED, format!("allowed: {}", allowed.join("; "))));
    }
    if !details.iter().any(|line| line.contains("refused")) {
        return Err(Failure::new(FAILED, "nobody said that it was refused"));
    }
    Ok(Outcome {
        text: format!(
            "{TRIED} of {TRIED} accesses without a right were refused to {id}; \
             the revocation took {capabilities} capability and {connections} connection"
        ),
        details,
        figures: json!({ "attempts": attempts }),
    })
}

/// The process that tries.
pub(super) fn trespass_part(task: &Task) -> Result<(), Failure> {
    let files = task.given_as("file")?.slot;
    tried("write to a file, holding SEND, READ", write(task, files));
    tried(
        "mint WRITE from READ",
        task.mint(files, Rights::SEND | Rights::READ | Rights::WRITE, None).map(drop),
    );
    tried("register a name, without REGISTER", register(task));

    let loan = task.given_as("loan")?.slot;
    let mut connection = connect(task, loan)?;
    look(&mut connection)?;
    say(&Said::Ready);
    super::wait_to_go_on();
    tried("read over a connection whose capability was revoked", look(&mut connection));
    tried("connect by that capability again", connect(task, loan).map(drop));
    Ok(())
}

fn tried(what: &str, result: Result<(), Error>) {
    let refused = result.is_err();
    let answer = result.map_or_else(|error| error.to_string(), |()| "it was done".into());
    say(&Said::Tried { what: what.into(), answer, refused });
}

fn connect(task: &Task, slot: Slot) -> Result<Connection, Error> {
    Connection::open(task, slot, &Options::speaking(file::interface()))
}

fn write(task: &Task, slot: Slot) -> Result<(), Error> {
    let flags = OpenFlags::WRITE | OpenFlags::CREATE;
    let request = encode(&Open { path: "mine", flags, mode: 0o600 });
    connect(task, slot)?.send(operation::OPEN, &request, 256)?.ok().map(drop)
}

fn look(connection: &mut Connection) -> Result<(), Error> {
    connection.send(operation::STAT, &encode(&""), 256)?.ok().map(drop)
}

fn register(task: &Task) -> Result<(), Error> {
    let endpoint = task.create_endpoint()?;
    task.register("/demo/mine", endpoint.slot).map(drop)
}
