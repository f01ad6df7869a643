//! What the file server needs of a file system.

use crate::Path;
use rendez::region::EmptyRegion;
use rendez::service::Refusal;
use rendez_protocol::Status;
use rendez_protocol::file::{Entry, OpenFlags, Stat, status};
use rustix::io::Errno;
use std::borrow::Cow;
use std::fmt::Debug;

/// Why a file system did not do what was asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The status that the client is answered.
    pub status: Status,
    /// The reason, to be read after the path and a colon.
    pub reason: Cow<'static, str>,
}

impl Failure {
    /// A failure of `status` because of `reason`.
    pub fn new(status: Status, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into() }
    }

    /// A directory cannot be its own ancestor.
    pub(crate) fn into_itself() -> Self {
        Self::new(status::IO, "a directory cannot be moved below itself")
    }

    /// The failure as a refusal that names the path which it is about.
    pub(crate) fn about(self, path: &str) -> Refusal {
        Refusal::new(self.status, format!("{path:?}: {}", self.reason))
    }
}

impl From<rendez::Error> for Failure {
    fn from(error: rendez::Error) -> Self {
        Self::new(status::IO, error.to_string())
    }
}

/// What Linux says, in the interface's words. A file system in memory says the same.
impl From<Errno> for Failure {
    fn from(error: Errno) -> Self {
        let (status, reason) = match error {
            Errno::NOENT => (status::NOT_FOUND, "there is no such file or directory"),
            Errno::EXIST => (status::EXISTS, "it exists already"),
            Errno::XDEV => (status::OUTSIDE, "leaves the served tree"),
            Errno::LOOP => {
                (status::OUTSIDE, "symbolic links go in a circle or are not to be followed")
            }
            Errno::NAMETOOLONG => (status::OUTSIDE, "the path is too long"),
            Errno::ISDIR => (status::IS_DIRECTORY, "it is a directory"),
            Errno::NOTDIR => (status::NOT_DIRECTORY, "it, or a part of its path, is no directory"),
            Errno::NOTEMPTY => (status::NOT_EMPTY, "the directory is not empty"),
            Errno::NOSPC => (status::NO_SPACE, "no space left: the disk is full"),
            Errno::DQUOT => (status::NO_SPACE, "no space left: the disk quota is exhausted"),
            Errno::FBIG => (status::IO, "the file would be longer than its file system allows"),
            Errno::ACCESS | Errno::PERM => (status::PERMISSION, "refused by Linux: no permission"),
            Errno::ROFS => (status::PERMISSION, "refused by Linux: the file system is read-only"),
            Errno::NXIO => {
                (status::PERMISSION, "refused: a FIFO, a device or a socket cannot be opened")
            }
            Errno::MFILE | Errno::NFILE => {
                (Status::QUOTA, "over quota: the file server has no descriptor left")
            }
            Errno::AGAIN => (status::IO, "it is being renamed all the time: try again"),
            other => return Self::new(status::IO, other.to_string()),
        };
        Self::new(status, reason)
    }
}

/// A file system. The server has checked rights, flags and handles before it asks.
pub trait Backend: Debug {
    /// An open file.
    type File: Debug;

    /// Opens a file. `flags` are consistent: READ or WRITE or both, EXCLUSIVE only with CREATE,
    /// TRUNCATE only with WRITE; `mode` is within 0o777.
    ///
    /// # Errors
    /// A [`Failure`]; also for whatever is no regular file.
    fn open(&mut self, path: &Path<'_>, flags: OpenFlags, mode: u32)
    -> Result<Self::File, Failure>;

    /// Closes a file.
    fn close(&mut self, file: Self::File);

    /// The bytes from `offset`, as many as `length`, fewer only at the end of the file. They lie in
    /// the file system itself or in `scratch`, whose content means nothing before and after.
    ///
    /// # Errors
    /// A [`Failure`].
    fn read<'a>(
        &'a mut self,
        file: &Self::File,
        offset: u64,
        length: usize,
        scratch: &'a mut Vec<u8>,
    ) -> Result<&'a [u8], Failure>;

    /// How many bytes an open file has.
    ///
    /// # Errors
    /// A [`Failure`].
    fn size(&mut self, file: &Self::File) -> Result<u64, Failure>;

    /// Copies an open file's content into a region, as much as fits; answers how many bytes.
    ///
    /// # Errors
    /// A [`Failure`].
    fn fill(&mut self, file: &Self::File, region: &mut EmptyRegion) -> Result<u64, Failure>;

    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// A [`Failure`]; part of them may have been written.
    fn write(&mut self, file: &Self::File, offset: u64, bytes: &[u8]) -> Result<(), Failure>;

    /// Sets the length of a file to `size` bytes.
    ///
    /// # Errors
    /// A [`Failure`].
    fn truncate(&mut self, file: &Self::File, size: u64) -> Result<(), Failure>;

    /// Returns when what was written is where it survives a power cut, if there is such a place.
    ///
    /// # Errors
    /// A [`Failure`].
    fn sync(&mut self, file: &Self::File) -> Result<(), Failure>;

    /// What is known of a file or directory.
    ///
    /// # Errors
    /// A [`Failure`].
    fn stat(&mut self, path: &Path<'_>) -> Result<Stat, Failure>;

    /// The first `most` entries after `after` in the order of their names, and whether there are more.
    ///
    /// # Errors
    /// A [`Failure`].
    fn list(
        &mut self,
        path: &Path<'_>,
        after: &str,
        most: usize,
    ) -> Result<(Vec<Entry>, bool), Failure>;

    /// Makes a directory.
    ///
    /// # Errors
    /// A [`Failure`].
    fn make_directory(&mut self, path: &Path<'_>) -> Result<(), Failure>;

    /// Removes an empty directory.
    ///
    /// # Errors
    /// A [`Failure`].
    fn remove_directory(&mut self, path: &Path<'_>) -> Result<(), Failure>;

    /// Removes what is no directory.
    ///
    /// # Errors
    /// A [`Failure`].
    fn remove(&mut self, path: &Path<'_>) -> Result<(), Failure>;

    /// Renames; what `to` named is replaced in one step, if it is of the same sort (and empty, if a
    /// directory).
    ///
    /// # Errors
    /// A [`Failure`].
    fn rename(&mut self, from: &Path<'_>, to: &Path<'_>) -> Result<(), Failure>;
}
