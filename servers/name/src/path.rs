//! Paths of the name space: checked once, then taken apart without copying.

use rendez::service::Refusal;
use rendez_protocol::limit::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX};
use rendez_protocol::name::status;

/// A path without its leading `/`; empty for the top.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Path<'a>(&'a str);

impl<'a> Path<'a> {
    /// `text` as a path.
    pub(crate) fn new(text: &'a str) -> Result<Self, Refusal> {
        let bad = |why: String| Err(Refusal::new(status::BAD_PATH, why));
        if text.len() > PATH_BYTES_MAX {
            return bad(format!("the path has {} bytes; {PATH_BYTES_MAX} is the most", text.len()));
        }
        let Some(below) = text.strip_prefix('/') else {
            return bad(format!("{text:?} is not a path: it must begin with /"));
        };
        let path = Self(below);
        for component in path.components() {
            if matches!(component, "" | "." | "..") {
                return bad(format!("{text:?} is not a path: it has a component {component:?}"));
            }
            if component.len() > COMPONENT_BYTES_MAX {
                return bad(format!(
                    "a component of the path has {} bytes; {COMPONENT_BYTES_MAX} is the most",
                    component.len()
                ));
            }
            if component.contains('\0') {
                return bad(format!("{text:?} is not a path: it contains a NUL"));
            }
        }
        Ok(path)
    }

    /// As [`Path::new`], for a path that is to be registered.
    pub(crate) fn to_register(text: &'a str) -> Result<Self, Refusal> {
        let path = Self::new(text)?;
        let depth = path.components().count();
        let why = if depth == 0 {
            "/ cannot be registered: choose a name below it".to_owned()
        } else if depth > crate::limit::DEPTH {
            format!("{text:?} has {depth} components; {} is the most", crate::limit::DEPTH)
        } else if text.chars().any(char::is_control) {
            format!("{text:?} cannot be registered: it contains a control character")
        } else {
            return Ok(path);
        };
        Err(Refusal::new(status::BAD_PATH, why))
    }

    /// The components from the top down.
    pub(crate) fn components(self) -> impl Iterator<Item = &'a str> {
        self.0.split('/').skip(usize::from(self.0.is_empty()))
    }

    /// The path up to `end` (counted without the leading `/`), and the rest below it.
    pub(crate) fn split(self, end: usize) -> (&'a str, &'a str) {
        let (name, rest) = self.0.split_at(end);
        (name, rest.strip_prefix('/').unwrap_or(rest))
    }
}
