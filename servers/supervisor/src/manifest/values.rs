//! What stands for a value in a manifest: times, sizes, rights, where a capability comes from. Each
//! is a text that is read here, so that an error points at that text.

use rendez::Rights;
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use std::fmt;
use std::time::Duration;

/// Implements `Deserialize` for a type that is read from a text by `$parse`, saying `$expecting` of
/// what is none.
macro_rules! from_text {
    ($type:ty, $expecting:literal, $parse:expr) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Text;
                impl Visitor<'_> for Text {
                    type Value = $type;

                    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                        f.write_str($expecting)
                    }

                    fn visit_str<E: Error>(self, text: &str) -> Result<$type, E> {
                        $parse(text).map_err(E::custom)
                    }
                }
                deserializer.deserialize_str(Text)
            }
        }
    };
}

/// A length of time: `"250ms"`, `"10s"`, `"5min"`, `"1h"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Period(pub Duration);

from_text!(Period, "a time such as \"250ms\", \"10s\", \"5min\" or \"1h\"", period);

fn period(text: &str) -> Result<Period, String> {
    let wrong = || format!("{text:?} is no time: write \"250ms\", \"10s\", \"5min\" or \"1h\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let ms = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        _ => return Err(wrong()),
    };
    let most = 365 * 24 * 3_600_000_u64;
    match number.checked_mul(ms) {
        Some(ms) if ms <= most => Ok(Period(Duration::from_millis(ms))),
        _ => Err(format!("{text:?} is longer than a year")),
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&crate::words::time(self.0))
    }
}

/// A number of bytes: `"64KiB"`, `"256MiB"`, `"2GiB"`, `"0B"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

from_text!(Size, "a size such as \"64KiB\", \"256MiB\" or \"2GiB\"", size);

fn size(text: &str) -> Result<Size, String> {
    let wrong = || format!("{text:?} is no size: write \"64KiB\", \"256MiB\", \"2GiB\" or \"0B\"");
    let (number, unit) = split(text).ok_or_else(wrong)?;
    let shift = match unit {
        "B" => 0,
        "KiB" => 10,
        "MiB" => 20,
        "GiB" => 30,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << shift).map(Size).ok_or_else(|| format!("{text:?} is too large"))
}

/// A number and the unit behind it.
fn split(text: &str) -> Option<(u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    Some((number.parse().ok()?, unit.trim_start()))
}

/// Rights as letters: `"srw"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Letters(pub Rights);

from_text!(Letters, "rights as letters, such as \"srw\"", letters);

fn letters(text: &str) -> Result<Letters, String> {
    if text.is_empty() {
        return Err("no right is named: a capability without rights is of no use".into());
    }
    let rights = Rights::from_letters(text).map_err(|unknown| {
        format!("no right has the letter {unknown:?}; `rendez run --help` lists them")
    })?;
    // What a server grants is exercised by sending.
    let sends = rights.intersects(Rights::SERVER_MASK);
    Ok(Letters(if sends { rights | Rights::SEND } else { rights }))
}

/// Where a capability that a task gets comes from, as it is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// What is registered under this path.
    Path(String),
    /// The kernel's own task.
    Kernel,
    /// The supervisor itself.
    Supervisor,
    /// An endpoint of another task of the manifest: its only one, or that with this label.
    Task(String, Option<String>),
}

from_text!(
    Origin,
    "where the capability comes from: \"/path\", \"task\", \"task.label\", \"kernel\" or \"supervisor\"",
    origin
);

fn origin(text: &str) -> Result<Origin, String> {
    Ok(match text {
        "kernel" => Origin::Kernel,
        "supervisor" => Origin::Supervisor,
        "" => {
            return Err(
                "nothing is named: write \"/path\", \"task\", \"task.label\", \"kernel\" or \
                        \"supervisor\""
                    .into(),
            );
        }
        path if path.starts_with('/') => Origin::Path(path.into()),
        name => match name.split_once('.') {
            Some((task, label)) => Origin::Task(task.into(), Some(label.into())),
            None => Origin::Task(name.into(), None),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::{Letters, Origin, Period, Size, letters, origin, period, size};
    use rendez::Rights;
    use std::time::Duration;

    #[test]
    fn times() {
        for (text, ms) in [("0ms", 0), ("250ms", 250), ("10s", 10_000), ("5 min", 300_000)] {
            assert_eq!(period(text), Ok(Period(Duration::from_millis(ms))), "{text}");
        }
        for text in ["", "5", "s", "-1s", "1.5s", "5 days", "9000h", "99999999999999999999ms"] {
            assert!(period(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0B", 0), ("64KiB", 65_536), ("2GiB", 2 << 30)] {
            assert_eq!(size(text), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "5", "5MB", "-1B", "99999999999999GiB"] {
            assert!(size(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn rights() {
        assert_eq!(letters("r"), Ok(Letters(Rights::SEND | Rights::READ)));
        assert_eq!(letters("t"), Ok(Letters(Rights::WATCH)));
        assert!(letters("sq").unwrap_err().contains("'q'"));
        assert!(letters("").is_err());
    }

    #[test]
    fn origins() {
        assert_eq!(origin("kernel"), Ok(Origin::Kernel));
        assert_eq!(origin("/a/b"), Ok(Origin::Path("/a/b".into())));
        assert_eq!(origin("echo"), Ok(Origin::Task("echo".into(), None)));
        assert_eq!(origin("echo.main"), Ok(Origin::Task("echo".into(), Some("main".into()))));
        assert!(origin("").is_err());
    }
}
