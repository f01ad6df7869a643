//! Reading a recording, frame by frame, however damaged it is.

use super::{End, FORMAT, FRAME_BYTES_MAX, FRAME_HEAD_BYTES, Frame, Header, MAGIC, checksum};
use crate::input::Input;
use rendez_protocol::decode;
use rendez_protocol::version::PROTOCOL;
use std::io::{self, Read};

/// Why a recording cannot be read, or not any further. Offsets are in bytes from its beginning.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// What Linux said.
    #[error("reading at byte {offset}: {error}")]
    Io {
        /// Where.
        offset: u64,
        /// What it said.
        error: io::Error,
    },
    /// It does not begin as one.
    #[error("this is no recording of a Rendez kernel: it does not begin with {MAGIC:?}")]
    Foreign,
    /// It has another layout.
    #[error(
        "the recording has format {found}, and this program reads format {FORMAT}: replay it with \
         the version that made it"
    )]
    Format {
        /// Which.
        found: u32,
    },
    /// It was made by a kernel of another version.
    #[error(
        "the recording was made by version {program}, which speaks protocol {protocol}; this is \
         version {} with protocol {PROTOCOL}: replay it with the version that made it",
        env!("CARGO_PKG_VERSION")
    )]
    Version {
        /// Of the program.
        program: String,
        /// Of the protocol.
        protocol: rendez_protocol::Version,
    },
    /// It ends within a frame.
    #[error("the recording is cut off: the frame at byte {offset} is not whole")]
    Cut {
        /// Where that frame begins.
        offset: u64,
    },
    /// A frame is not what was written.
    #[error("the recording is damaged: the frame at byte {offset} {what}")]
    Damaged {
        /// Where that frame begins.
        offset: u64,
        /// What is wrong with it.
        what: String,
    },
}

/// One input of a recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recorded {
    /// Where its frame begins, in bytes from the beginning.
    pub offset: u64,
    /// What the machine was told.
    pub input: Input,
    /// What it came to, unless the kernel ended over it.
    pub effects: Option<u64>,
}

/// A recording that is being read.
#[derive(Debug)]
pub struct Reader<R> {
    source: R,
    offset: u64,
    header: Header,
    end: Option<End>,
}

impl<R: Read> Reader<R> {
    /// Reads the beginning.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn new(source: R) -> Result<Self, Unreadable> {
        let mut reader = Self {
            source,
            offset: 0,
            header: Header {
                program: String::new(),
                protocol: PROTOCOL,
                quotas: crate::quota::Quotas::default(),
            },
            end: None,
        };
        let mut magic = [0; MAGIC.len()];
        if reader.fill(&mut magic)? < magic.len() || magic != MAGIC {
            return Err(Unreadable::Foreign);
        }
        let mut format = [0; 4];
        if reader.fill(&mut format)? < format.len() {
            return Err(Unreadable::Cut { offset: MAGIC.len() as u64 });
        }
        let found = u32::from_le_bytes(format);
        if found != FORMAT {
            return Err(Unreadable::Format { found });
        }
        let offset = reader.offset;
        match reader.frame()? {
            Some(Frame::Header(header)) => reader.header = header,
            Some(_) => {
                let what = "is no header, which must be the first".into();
                return Err(Unreadable::Damaged { offset, what });
            }
            None => return Err(Unreadable::Cut { offset }),
        }
        let Header { program, protocol, .. } = &reader.header;
        if program != env!("CARGO_PKG_VERSION") || *protocol != PROTOCOL {
            let (program, protocol) = (program.clone(), *protocol);
            return Err(Unreadable::Version { program, protocol });
        }
        Ok(reader)
    }

    /// Under what it was made.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// How it came to its end. `None` before that is read, and of a kernel that was killed.
    #[must_use]
    pub fn end(&self) -> Option<End> {
        self.end
    }

    /// How much has been read, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The next input; `None` after the last.
    ///
    /// # Errors
    /// [`Unreadable`].
    pub fn next_input(&mut self) -> Result<Option<Recorded>, Unreadable> {
        let offset = self.offset;
        let damaged = |what: &str| Unreadable::Damaged { offset, what: what.into() };
        match self.frame()? {
            None => Ok(None),
            Some(_) if self.end.is_some() => Err(damaged("comes after the end")),
            Some(Frame::Step { input, effects }) => Ok(Some(Recorded { offset, input, effects })),
            Some(Frame::Header(_)) => Err(damaged("is a second header")),
            Some(Frame::End(end)) => {
                self.end = Some(end);
                self.next_input()
            }
        }
    }

    fn frame(&mut self) -> Result<Option<Frame>, Unreadable> {
        let offset = self.offset;
        let damaged = |what: String| Unreadable::Damaged { offset, what };
        let mut head = [0; FRAME_HEAD_BYTES];
        match self.fill(&mut head)? {
            0 => return Ok(None),
            FRAME_HEAD_BYTES => {}
            _ => return Err(Unreadable::Cut { offset }),
        }
        let [a, b, c, d, e, f, g, h] = head;
        let length = u32::from_le_bytes([a, b, c, d]) as usize;
        if length > FRAME_BYTES_MAX {
            return Err(damaged(format!("claims {length} bytes; {FRAME_BYTES_MAX} is the most")));
        }
        let mut payload = vec![0; length];
        if self.fill(&mut payload)? < length {
            return Err(Unreadable::Cut { offset });
        }
        if checksum(&payload) != u32::from_le_bytes([e, f, g, h]) {
            return Err(damaged("does not agree with its checksum".into()));
        }
        decode(&payload).map(Some).map_err(|error| damaged(format!("says nothing known: {error}")))
    }

    /// Reads until `buffer` is full or the recording ends; how much that was.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, Unreadable> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.source.read(rest) {
                Ok(0) => break,
                Ok(count) => {
                    filled = filled.saturating_add(count);
                    self.offset = self.offset.saturating_add(count as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Unreadable::Io { offset: self.offset, error }),
            }
        }
        Ok(filled)
    }
}
