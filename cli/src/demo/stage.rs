//! A system of the demonstration's own, in a temporary directory, and the processes it starts.

use super::guard::{self, Guard};
use super::talk::{Plan, Said};
use crate::arguments::{PolicyName, Served};
use crate::failure::{FAILED, Failure};
use crate::manifest::Manifest;
use crate::system::System;
use rendez::protocol::kernel::{Give, Limits, Received};
use rendez::protocol::name::{self, Found, LookUp};
use rendez::protocol::{Rights, Slot, TaskId, decode, encode, supervisor};
use rendez::runtime::Place;
use rendez::{Client, Connection, Error, Options, Task};
use rendez_supervisor::launch::spawn_task;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

/// The standard servers; but whether and when the file server comes back is for the demonstration to
/// say.
const MANIFEST: &str = r#"
[task.file]
built-in = "file"
restart.when = "never"
serves.serve = { path = "/file", rights = "srwnmgti" }
gets.name = { from = "name", rights = "srwn" }
"#;

/// The longest path of a Unix socket, in bytes, less the socket's own name.
const SOCKET_PATH_MAX: usize = 80;

/// Everything that the steps work with.
#[derive(Debug)]
pub(super) struct Stage {
    /// The temporary directory.
    pub(super) directory: PathBuf,
    /// The directory that the file server serves.
    pub(super) served: PathBuf,
    /// This executable.
    pub(super) executable: PathBuf,
    /// The demonstration as a task.
    pub(super) task: Task,
    /// The supervisor.
    supervisor: Client,
    /// The kernel's process, then the supervisor's.
    pub(super) pids: [u32; 2],
    /// The file server, with all that the name server gives.
    pub(super) file: Received,
    /// The signal server, likewise.
    pub(super) signal: Received,
}

impl Stage {
    /// A place for everything, which ends with the guard.
    pub(super) fn make_directory(guard: &Guard) -> Result<PathBuf, Failure> {
        let place = std::env::temp_dir();
        // A socket's path is short; where temporary files have a long one, there is /tmp.
        let place =
            if place.as_os_str().len() > SOCKET_PATH_MAX { PathBuf::from("/tmp") } else { place };
        let make = || tempfile::Builder::new().prefix(guard::PREFIX).tempdir_in(&place);
        guard.make_directory(make).map_err(|error| {
            Failure::system(format!("making a directory in {}", place.display()), error)
        })
    }

    /// Starts a system in `directory`, which ends with the guard.
    pub(super) fn boot(guard: &Guard, directory: &Path) -> Result<Self, Failure> {
        let served = directory.join("served");
        std::fs::create_dir(&served)
            .map_err(|error| Failure::system(format!("making {}", served.display()), error))?;
        let executable = std::env::current_exe()
            .map_err(|error| Failure::system("finding this executable", error))?;
        let place =
            Place { directory: directory.join("run"), instance: "demo".into(), owner: None };
        let serve = Served { dir: Some(served.clone()) };
        let manifest = Manifest::of_text(MANIFEST, "demo", &serve, Some(&PolicyName::Operator))?;
        let pids = guard.start_system(|| System::start(&place, &executable, &manifest))?;
        let task = Task::front_door(&place)?;
        let find = |path: &str| task.look_up(path, None, None).map(|(found, _, _)| found);
        let (file, signal) = (find("/file")?, find("/signal")?);
        let supervisor = Client::connect(
            &task,
            task.given_as("supervisor")?.slot,
            Options::speaking(supervisor::interface()),
        )?;
        let directory = directory.to_path_buf();
        Ok(Self { directory, served, executable, task, supervisor, pids, file, signal })
    }

    /// A capability to what is registered under `path`, with rights that are not had by merely
    /// looking it up: the name server gives them to those who may register.
    pub(super) fn look_up_with(&self, path: &str, rights: Rights) -> Result<Slot, Failure> {
        let slot = self.task.given_as("register")?.slot;
        let mut names = Connection::open(&self.task, slot, &Options::speaking(name::interface()))?;
        let request = encode(&LookUp { path, rights: Some(rights), wait: false });
        let reply = names.send(name::operation::LOOK_UP, &request, 4096).map_err(Error::from)?;
        let Found { ticket, .. } = decode(reply.ok()?).map_err(Error::from)?;
        match names.accept(ticket)?.as_slice() {
            [found] => Ok(found.slot),
            _ => Err(Failure::new(FAILED, format!("{path} is not one capability"))),
        }
    }

    /// The servers, as the supervisor knows them.
    pub(super) fn servers(&self) -> Result<Vec<supervisor::Server>, Failure> {
        let asked = encode(&supervisor::List { skip: 0 });
        let listed = self.supervisor.send(supervisor::operation::LIST, &asked, 4096)?;
        let listing: supervisor::Listing = decode(&listed).map_err(Error::from)?;
        Ok(listing.servers)
    }

    /// The server called `name`.
    pub(super) fn server(&self, name: &str) -> Result<supervisor::Server, Failure> {
        let found = self.servers()?.into_iter().find(|server| server.name == name);
        found.ok_or_else(|| Failure::new(FAILED, format!("the supervisor knows no {name} server")))
    }

    /// The process of the server called `name`.
    pub(super) fn pid(&self, name: &str) -> Result<i32, Failure> {
        let pid = self.server(name)?.pid.and_then(|pid| i32::try_from(pid).ok());
        pid.ok_or_else(|| Failure::new(FAILED, format!("the {name} server is not running")))
    }

    /// Has the supervisor start a server again; it serves when this answers.
    pub(super) fn restart(&self, name: &str) -> Result<(), Failure> {
        let name = encode(&name);
        Ok(self.supervisor.send(supervisor::operation::RESTART, &name, 256).map(drop)?)
    }

    /// Starts this executable as the task `name` of the demonstration, holding what it is given and
    /// nothing else.
    pub(super) fn part(
        &self,
        name: &str,
        give: &[(&str, Slot, Rights)],
        arguments: &[&str],
    ) -> Result<Part, Failure> {
        let give = give
            .iter()
            .map(|(name, slot, rights)| Give {
                name: (*name).into(),
                slot: *slot,
                rights: *rights,
                badge: None,
                limits: Limits::SAME,
            })
            .collect();
        let (capability, id, socket) = self.task.create_task(&format!("demo {name}"), give)?;
        let mut command = Command::new(&self.executable);
        command.args(["demo-part", name]).args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = spawn_task(command, socket, true)
            .map_err(|error| Failure::system(format!("starting the {name} process"), error))?;
        // Its process is all that the demonstration needs of it.
        self.task.delete(capability.slot)?;
        let said = child.stdout.take().map(BufReader::new);
        let told = child.stdin.take();
        Ok(Part { name: name.into(), id, child, said, told })
    }

    /// Starts the process that copies what `plan` says, holding the file server with `rights`.
    pub(super) fn copier(&self, plan: &Plan, rights: Rights) -> Result<Part, Failure> {
        let path = self.directory.join("plan");
        serde_json::to_vec(plan)
            .map_err(std::io::Error::from)
            .and_then(|text| std::fs::write(&path, text))
            .map_err(|error| Failure::system(format!("writing {}", path.display()), error))?;
        let give = [("file", self.file.slot, Rights::SEND | rights)];
        self.part("copy", &give, &[&path.to_string_lossy()])
    }
}

/// A process that the demonstration started. It ends when this is dropped.
#[derive(Debug)]
pub(super) struct Part {
    name: String,
    /// As which task.
    pub(super) id: TaskId,
    child: Child,
    said: Option<BufReader<ChildStdout>>,
    told: Option<ChildStdin>,
}

impl Part {
    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next that it says.
    ///
    /// # Errors
    /// If it says that it gives up, or ends.
    pub(super) fn next(&mut self) -> Result<Said, Failure> {
        let failed = |why: String| Failure::new(FAILED, format!("the {} process {why}", self.name));
        let mut line = String::new();
        let read = match &mut self.said {
            Some(said) => said.read_line(&mut line),
            None => Ok(0),
        };
        match read {
            Err(error) => Err(failed(format!("cannot be heard: {error}"))),
            Ok(0) => {
                let end = self.child.wait().map_or_else(|e| e.to_string(), |s| s.to_string());
                Err(failed(format!("ended unexpectedly ({end})")))
            }
            Ok(_) => match serde_json::from_str(&line) {
                Ok(Said::Failed { why }) => Err(failed(format!("failed: {why}"))),
                Ok(said) => Ok(said),
                Err(error) => Err(failed(format!("said {line:?}: {error}"))),
            },
        }
    }

    /// Waits for it to say a certain thing.
    pub(super) fn expect<T>(
        &mut self,
        wanted: impl FnOnce(&Said) -> Option<T>,
    ) -> Result<T, Failure> {
        let said = self.next()?;
        wanted(&said).ok_or_else(|| {
            Failure::new(FAILED, format!("the {} process said {said:?} out of turn", self.name))
        })
    }

    /// Waits for it to say that it is ready.
    pub(super) fn ready(&mut self) -> Result<(), Failure> {
        self.expect(|said| matches!(said, Said::Ready).then_some(()))
    }

    /// Tells it to go on.
    pub(super) fn go_on(&mut self) -> Result<(), Failure> {
        let written = self.told.as_mut().map_or(Ok(()), |told| told.write_all(b"\n"));
        written
            .map_err(|error| Failure::system(format!("telling the {} process", self.name), error))
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
