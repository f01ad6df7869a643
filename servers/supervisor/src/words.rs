//! How times are said to people.

use std::time::Duration;

/// A length of time, as short as it can be said and be read again: `250ms`, `10s`, `5min`.
#[must_use]
pub fn time(length: Duration) -> String {
    let ms = length.as_millis();
    match ms {
        0 => "0s".into(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}min", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::time;
    use std::time::Duration;

    #[test]
    fn times() {
        for (ms, text) in [(0, "0s"), (250, "250ms"), (1_500, "1500ms"), (60_000, "1min")] {
            assert_eq!(time(Duration::from_millis(ms)), text);
        }
    }
}
