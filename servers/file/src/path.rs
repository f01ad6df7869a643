//! Paths within the served tree: checked and normalised before any file system sees them.

use crate::Failure;
use rendez_protocol::file::status;
use rendez_protocol::limit::{COMPONENT_BYTES_MAX, PATH_BYTES_MAX};
use std::borrow::Cow;

/// A path relative to the root of the served tree: components with `/` between them, none of them
/// empty, `.` or `..`. The root itself has none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Path<'a>(Cow<'a, str>);

impl<'a> Path<'a> {
    /// `text` as a path. Empty components and `.` are left out.
    ///
    /// # Errors
    /// A [`Failure`] with the status OUTSIDE if it begins with `/`, has a component `..`, contains
    /// a NUL, or is too long.
    pub fn new(text: &'a str) -> Result<Self, Failure> {
        let outside = |reason| Err(Failure::new(status::OUTSIDE, reason));
        // Linux counts the NUL at the end.
        if text.len() >= PATH_BYTES_MAX {
            return outside("the path is too long");
        }
        if text.starts_with('/') {
            return outside("leaves the served tree: paths are relative to its root");
        }
        if text.contains('\0') {
            return outside("is not a path: it contains a NUL");
        }
        let mut plain = true;
        for component in text.split('/') {
            match component {
                ".." => return outside("may leave the served tree: `..` is not followed"),
                "" | "." => plain = text.is_empty(),
                _ if component.len() > COMPONENT_BYTES_MAX => {
                    return outside("a component of the path is too long");
                }
                _ => {}
            }
            if !plain {
                break;
            }
        }
        if plain {
            return Ok(Self(Cow::Borrowed(text)));
        }
        let kept: Vec<_> = text.split('/').filter(|c| !matches!(*c, "" | ".")).collect();
        // One more round, now without anything to leave out, for the components after the break.
        Path::new(&kept.join("/")).map(|path| Self(Cow::Owned(path.0.into_owned())))
    }

    /// The path as text, empty for the root.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The components from the root down.
    pub fn components(&self) -> impl Iterator<Item = &str> {
        self.0.split('/').skip(usize::from(self.0.is_empty()))
    }

    /// The path of the parent, and the last component.
    ///
    /// # Errors
    /// A [`Failure`] with the status OUTSIDE for the root.
    pub fn split(&self) -> Result<(Path<'_>, &str), Failure> {
        match self.0.rsplit_once('/') {
            Some((parent, name)) => Ok((Path(Cow::Borrowed(parent)), name)),
            None if self.0.is_empty() => Err(Failure::new(
                status::OUTSIDE,
                "the root of the served tree can only be looked at",
            )),
            None => Ok((Path(Cow::Borrowed("")), &self.0)),
        }
    }

    /// Whether `self` lies somewhere below `other`.
    #[must_use]
    pub fn is_below(&self, other: &Path<'_>) -> bool {
        match self.0.strip_prefix(&*other.0) {
            Some(rest) => rest.starts_with('/') || (other.0.is_empty() && !rest.is_empty()),
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Path;
    use rendez_protocol::file::status::OUTSIDE;

    #[test]
    fn paths_are_normalised_or_refused() {
        for (text, path) in [
            ("", ""),
            (".", ""),
            ("a", "a"),
            ("a/b", "a/b"),
            ("./a//b/./", "a/b"),
            ("...", "..."),
            ("a/..b", "a/..b"),
        ] {
            assert_eq!(Path::new(text).expect(text).as_str(), path);
        }
        let long = "x".repeat(256);
        let longer = "x/".repeat(2048);
        for text in ["/", "/a", "..", "a/..", "./..", "a//../b", "a\0", &long, &longer] {
            assert_eq!(Path::new(text).expect_err(text).status, OUTSIDE, "{text:?}");
        }
    }

    #[test]
    fn parents() {
        let path = Path::new("a/b/c").expect("a path");
        let (parent, name) = path.split().expect("not the root");
        assert_eq!((parent.as_str(), name), ("a/b", "c"));
        assert!(path.is_below(&parent) && !parent.is_below(&path) && !path.is_below(&path));
        assert!(!Path::new("ab").expect("a path").is_below(&Path::new("a").expect("a path")));
        assert!(path.is_below(&Path::new("").expect("the root")));
        assert_eq!(Path::new("").expect("the root").split().expect_err("root").status, OUTSIDE);
        assert_eq!(path.components().count(), 3);
        assert_eq!(Path::new("").expect("the root").components().count(), 0);
    }
}
