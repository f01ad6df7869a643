//! Values in words: three digits and a unit that suits their size.

use crate::report::{BYTES, NS, NS_CPU, PER_SECOND};

/// A value with its unit: `310 ns`, `3.10 µs`, `4 KiB`, `2.90 M/s`.
pub(crate) fn value(unit: &str, value: f64) -> String {
    let (number, suffix) = scaled(unit, value);
    let whole = number.fract() == 0.0 && (number.abs() < 1000.0) && unit != PER_SECOND;
    let digits = if whole && (suffix == " ns" || unit == BYTES || unit.is_empty()) {
        format!("{number}")
    } else {
        short(number)
    };
    format!("{digits}{suffix}")
}

/// The same without needless digits, for an axis: `1 µs`.
pub(crate) fn tick(unit: &str, value: f64) -> String {
    let (number, suffix) = scaled(unit, value);
    let digits = format!("{number:.3}");
    let digits = digits.trim_end_matches('0').trim_end_matches('.');
    format!("{digits}{suffix}")
}

/// The number in a unit that suits its size, and that unit.
fn scaled(unit: &str, value: f64) -> (f64, String) {
    let size = value.abs();
    let by = |steps: &[(f64, &'static str)]| {
        let (factor, suffix) =
            steps.iter().copied().rev().find(|(factor, _)| size >= *factor).unwrap_or(steps[0]);
        (value / factor, suffix.to_owned())
    };
    match unit {
        NS | NS_CPU => {
            let (number, suffix) = by(&[(1.0, " ns"), (1e3, " µs"), (1e6, " ms"), (1e9, " s")]);
            // A tenth of a nanosecond is noise, except where less than ten are meant.
            if suffix == " ns" && size >= 10.0 {
                (number.round(), suffix)
            } else {
                (number, suffix)
            }
        }
        PER_SECOND => by(&[(1.0, "/s"), (1e3, " k/s"), (1e6, " M/s"), (1e9, " G/s")]),
        BYTES => {
            by(&[(1.0, " B"), (1024.0, " KiB"), (1_048_576.0, " MiB"), (1_073_741_824.0, " GiB")])
        }
        "" => (value, String::new()),
        other => (value, format!(" {other}")),
    }
}

/// A number with about three digits.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if size < 10.0 {
        format!("{value:.2}")
    } else if size < 100.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.0}")
    }
}

/// A number of things.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Text from a file, which somebody else may have written, with its control characters escaped: it
/// cannot move the cursor.
pub(crate) fn visible(text: &str) -> String {
    let escaped = |letter: char| {
        if letter.is_control() { letter.escape_default().to_string() } else { letter.to_string() }
    };
    text.chars().map(escaped).collect()
}

#[cfg(test)]
mod tests {
    use super::{short, tick, value, visible};

    #[test]
    fn values_have_three_digits() {
        for (unit, number, expected) in [
            ("ns", 310.4, "310 ns"),
            ("ns", 3_100.0, "3.10 µs"),
            ("ns", 59_040.0, "59.0 µs"),
            ("ns cpu", 8_000_000.0, "8.00 ms"),
            ("ns", 2_000_000_000.0, "2.00 s"),
            ("ns", 4.25, "4.25 ns"),
            ("per s", 2_900_000.0, "2.90 M/s"),
            ("bytes", 40.0, "40 B"),
            ("bytes", 4096.0, "4 KiB"),
            ("bytes", 4088.0, "3.99 KiB"),
            ("", 64.0, "64"),
            ("apples", 2.0, "2.00 apples"),
        ] {
            assert_eq!(value(unit, number), expected);
        }
        assert_eq!(short(190.4), "190");
    }

    #[test]
    fn text_of_others_cannot_drive_a_terminal() {
        assert_eq!(visible("é\u{1b}[2J\n"), "é\\u{1b}[2J\\n");
    }

    #[test]
    fn ticks_are_as_short_as_they_can_be() {
        assert_eq!(tick("ns", 1000.0), "1 µs");
        assert_eq!(tick("ns", 2_500_000.0), "2.5 ms");
        assert_eq!(tick("bytes", 16.0 * 1_048_576.0), "16 MiB");
        assert_eq!(tick("per s", 200_000.0), "200 k/s");
        assert_eq!(tick("", 1000.0), "1000");
    }
}
