//! What a system is to consist of, read from a file and checked before anything starts. `up` passes
//! the text on to the supervisor, on its standard input, so that both have read the same.

use crate::arguments::{Composed, PolicyName, Served};
use crate::failure::{FAILED, Failure, USAGE};
use rendez_supervisor::manifest::{self, MANIFEST_BYTES_MAX, Plan, Problems};
use rendez_supervisor::policy::Policy;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// A manifest that makes sense.
#[derive(Debug)]
pub struct Manifest {
    text: String,
    /// What it is called.
    name: String,
    /// From where the files that it names are found.
    base: PathBuf,
    served: Served,
    /// The policy that takes the place of its own.
    named: Option<PolicyName>,
    /// What it says.
    pub plan: Plan,
    /// Whom the front door lets in.
    pub policy: Policy,
}

impl Manifest {
    /// The manifest in `file`, or the standard one; with this `policy`, if it is one, instead of its own.
    ///
    /// # Errors
    /// If it cannot be read; what is wrong with it; that what the file server is to serve is not
    /// there.
    pub fn read(
        file: Option<&Path>,
        served: &Served,
        policy: Option<&PolicyName>,
    ) -> Result<Self, Failure> {
        let (text, name, base) = match file {
            None => (String::new(), manifest::STANDARD_NAME.to_owned(), PathBuf::from("/")),
            Some(file) => (text_of(file)?, file.display().to_string(), base_of(file)?),
        };
        let served = Served { dir: served.dir.as_deref().map(directory).transpose()? };
        Self::new(text, name, base, served, policy.cloned())
    }

    /// The manifest that `text` is, called `name` in what is said of it.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn of_text(
        text: &str,
        name: &str,
        served: &Served,
        policy: Option<&PolicyName>,
    ) -> Result<Self, Failure> {
        let served = Served { dir: served.dir.as_deref().map(directory).transpose()? };
        Self::new(text.into(), name.into(), PathBuf::from("/"), served, policy.cloned())
    }

    fn new(
        text: String,
        name: String,
        base: PathBuf,
        served: Served,
        named: Option<PolicyName>,
    ) -> Result<Self, Failure> {
        let mut plan = plan_of(&text, &name, &base).map_err(|problems| {
            Failure::new(USAGE, format!("the manifest {name} cannot be used\n\n{problems}"))
        })?;
        if let Some(directory) = &served.dir {
            let path = directory.to_str().ok_or_else(|| {
                Failure::new(FAILED, format!("{} is not UTF-8", directory.display()))
            })?;
            plan.serve_directory(path)
                .map_err(|why| Failure::new(USAGE, format!("--dir {path}: {why}")))?;
        }
        let policy = match (&named, &plan.policy) {
            (Some(named), _) => crate::policy::load(named)?,
            (None, Some(own)) => own.clone(),
            (None, None) => Policy::little(),
        };
        Ok(Self { text, name, base, served, named, plan, policy })
    }

    /// Adds to a supervisor's command what [`Manifest::passed_on`] reads.
    pub fn pass_on(&self, command: &mut Command) {
        command.arg("--manifest").arg(&self.name).arg("--base").arg(&self.base);
        if let Some(directory) = &self.served.dir {
            command.arg("--dir").arg(directory);
        }
        if let Some(policy) = &self.named {
            command.arg("--policy").arg(policy.argument());
        }
    }

    /// Tells the text to a supervisor.
    ///
    /// # Errors
    /// What Linux says, if it does not listen.
    pub fn tell(&self, mut to: impl Write) -> io::Result<()> {
        to.write_all(self.text.as_bytes())
    }

    /// The manifest that `up` passes on to this process, the supervisor.
    ///
    /// # Errors
    /// As [`Manifest::read`].
    pub fn passed_on(composed: &Composed) -> Result<Self, Failure> {
        let mut text = String::new();
        io::stdin()
            .take(MANIFEST_BYTES_MAX as u64 + 1)
            .read_to_string(&mut text)
            .map_err(|error| Failure::system("hearing the manifest", error))?;
        let Composed { manifest, base, served, policy } = composed.clone();
        Self::new(text, manifest, base, served, policy)
    }
}

/// What the text of a manifest means.
///
/// # Errors
/// What is wrong with it.
pub fn plan_of(text: &str, name: &str, base: &Path) -> Result<Plan, Problems> {
    if text.is_empty() && name == manifest::STANDARD_NAME {
        manifest::standard()
    } else {
        manifest::read(text, name, base)
    }
}

/// The text of a manifest.
///
/// # Errors
/// What Linux says; that it is too long, or not UTF-8.
pub fn text_of(file: &Path) -> Result<String, Failure> {
    let failed = |error| Failure::system(format!("reading the manifest {}", file.display()), error);
    let mut text = String::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// From where the files that the manifest in `file` names are found: the directory in which it lies.
///
/// # Errors
/// If the current directory is gone.
pub fn base_of(file: &Path) -> Result<PathBuf, Failure> {
    let whole = std::path::absolute(file)
        .map_err(|error| Failure::system(format!("finding {}", file.display()), error))?;
    Ok(whole.parent().unwrap_or(Path::new("/")).to_owned())
}

/// The whole path of a directory that is to be served and is there.
fn directory(directory: &Path) -> Result<PathBuf, Failure> {
    let at = || format!("the directory {} cannot be served", directory.display());
    let found = std::fs::metadata(directory).map_err(|error| Failure::system(at(), error))?;
    if !found.is_dir() {
        return Err(Failure::new(FAILED, format!("{}: it is no directory", at())));
    }
    std::path::absolute(directory).map_err(|error| Failure::system(at(), error))
}
